"""Layers and likelihoods, torch only."""
