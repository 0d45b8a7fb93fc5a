"""The report of a sweep, as Markdown and as one HTML file: what `raypixel report` writes."""

from raypixel.reporting.write import write_report

__all__ = ["write_report"]
