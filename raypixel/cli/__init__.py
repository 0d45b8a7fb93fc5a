"""The command line: data goes to stdout, everything else to stderr; each command imports its job when it runs."""

from raypixel.cli.main import main

__all__ = ["main"]
