"""Autoregressive image models, trained, swept, evaluated and sampled on Ray."""

__version__ = "0.1.0"
