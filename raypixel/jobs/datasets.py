"""Ray Data: parquet shards to the images that workers train on.

Ray Data reads the shards in parallel, wherever the cluster has room, and gathers each split as one pair of arrays in
the object store. Every worker and trial of a node maps the same memory: a split is read once per node, not once per trial,
and a worker's batches cost no more than indexing (docs/performance.md). Order and randomness then come from
`raypixel.data.loader`, which makes them exact at any number of workers: Ray's own split drops rows to make the
shares equal, and its shuffles are not resumable.
"""

import logging
import warnings
from typing import Any

import numpy as np
import torch

from raypixel.data import DataConfig, Manifest, Split, fix_levels, shard_paths


def stage(config: DataConfig, manifest: Manifest, splits: tuple[str, ...]) -> dict[str, Any]:
    """Read splits of a prepared set through Ray Data into the object store.

    Returns:
        For each split a reference to (images (N, C, H, W) uint8, labels (N,) int64 or None).

    Raises:
        DataError: A shard is missing or damaged.
    """
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # importing it has set its own level
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    columns = ["index", "image"] + (["label"] if manifest.num_classes else [])
    staged = {}
    for name in splits:
        paths = [str(path.resolve()) for path in shard_paths(config.root, config.name, name)]
        dataset = ray.data.read_parquet(paths).select_columns(columns)
        blocks = list(dataset.iter_batches(batch_size=None, batch_format="numpy"))
        order = np.argsort(np.concatenate([block["index"] for block in blocks]))
        images = np.concatenate([block["image"] for block in blocks])[order]
        labels = None
        if manifest.num_classes:
            labels = np.concatenate([block["label"] for block in blocks])[order]
        assert len(images) == manifest.splits[name].num_images
        staged[name] = ray.put((images, labels))
    return staged


def open_staged(staged: dict[str, Any], config: DataConfig, manifest: Manifest) -> dict[str, Split]:
    """Map staged splits into this process and apply the data options that are the same in every epoch."""
    import ray

    return {
        name: fix_levels(
            Split(_tensor(images), None if labels is None else _tensor(labels)),
            config,
            manifest,
            split_name=name,
        )
        for name, (images, labels) in zip(staged, ray.get(list(staged.values())), strict=True)
    }


def _tensor(array: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        # shared memory of the object store is read-only; the loader only ever indexes it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
