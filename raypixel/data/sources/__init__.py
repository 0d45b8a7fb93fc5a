"""Where images come from: one file per kind of source, each giving a `RawSet`."""

from raypixel.data.sources.raw import RawSet, RawSplit
from raypixel.data.sources.readers import SourceReader, reader_of

__all__ = ["RawSet", "RawSplit", "SourceReader", "reader_of"]
