"""Data sets: sources to parquet shards with a manifest, and back to uint8 tensors.

`prepare` turns a source (scikit-learn's digits, MNIST, the fixed binarization of MNIST, CIFAR-10, a folder of images, Hugging
Face parquet) into shards that any Arrow reader understands; everything after it reads only those. Binarization and fewer
levels are options of `DataConfig`, applied when the images are read.

What is imported here needs no torch, so that commands that only list and prepare start fast. Tensors begin with `splits` and
`levels`, batches are in `batches`.
"""

from raypixel.data.manifest import (
    Manifest,
    Origin,
    ShardInfo,
    SplitInfo,
    list_prepared,
    load_manifest,
)
from raypixel.data.options import (
    DataConfig,
    decide_residence,
    describe_levels,
    describe_stream,
    num_levels_of,
)
from raypixel.data.prepare import ensure_prepared, parse_size, prepare
from raypixel.data.sets import CatalogEntry, catalog

__all__ = [
    "CatalogEntry",
    "DataConfig",
    "Manifest",
    "Origin",
    "ShardInfo",
    "SplitInfo",
    "catalog",
    "decide_residence",
    "describe_levels",
    "describe_stream",
    "ensure_prepared",
    "list_prepared",
    "load_manifest",
    "num_levels_of",
    "parse_size",
    "prepare",
]
