"""Staging with Ray Data, and images for the command line; on their way to rooms of their own."""
