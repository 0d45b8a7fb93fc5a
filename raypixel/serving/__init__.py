"""Serving: an engine that makes many requests' images together, an HTTP application over it, and a page."""
