"""Data sets: sources to parquet shards with a manifest, and back to uint8 tensors.

`prepare` turns a source (scikit-learn's digits, MNIST, the fixed binarization of MNIST, CIFAR-10, a folder of images, Hugging
Face parquet) into shards that any Arrow reader understands; everything after it reads only those. Binarization and fewer
levels are options of `DataConfig`, applied when the images are read.
"""

from raypixel.data.backend import choose_backend, describe_stream
from raypixel.data.catalog import CatalogEntry, catalog
from raypixel.data.config import DataConfig
from raypixel.data.levels import fix_levels, num_levels_of, to_levels
from raypixel.data.manifest import (
    Manifest,
    Origin,
    ShardInfo,
    SplitInfo,
    list_prepared,
    load_manifest,
)
from raypixel.data.prepare import ensure_prepared, parse_size, prepare
from raypixel.data.shards import Split, read_split, shard_paths
from raypixel.data.stream import StreamedSplit, open_stream
from raypixel.data.streamed import open_eval_batches, open_train_batches

__all__ = [
    "CatalogEntry",
    "DataConfig",
    "Manifest",
    "Origin",
    "ShardInfo",
    "Split",
    "SplitInfo",
    "StreamedSplit",
    "catalog",
    "choose_backend",
    "describe_stream",
    "ensure_prepared",
    "fix_levels",
    "list_prepared",
    "load_manifest",
    "num_levels_of",
    "open_eval_batches",
    "open_stream",
    "open_train_batches",
    "parse_size",
    "prepare",
    "read_split",
    "shard_paths",
    "to_levels",
]
