"""Ray Data: parquet shards to the images that workers train on.

Ray Data reads the shards in parallel, wherever the cluster has room, and gathers each split as one pair of arrays in
the object store. Every worker and trial of a node maps the same memory: a split is read once per node, not once per trial,
and a worker's batches cost no more than indexing (docs/performance.md). Order and randomness then come from
`raypixel.data.loader`, which makes them exact at any number of workers: Ray's own split drops rows to make the
shares equal, and its shuffles are not resumable.
"""

from typing import Any

import numpy as np
import torch

from raypixel.data import (
    DataConfig,
    Manifest,
    Split,
    StreamedSplit,
    fix_levels,
    open_stream,
    read_split,
    shard_paths,
)
from raypixel.errors import DataError
from raypixel.jobs import streaming
from raypixel.storage import Remote


def stage(config: DataConfig, manifest: Manifest, splits: tuple[str, ...]) -> dict[str, Any]:
    """Read splits of a prepared set through Ray Data into the object store.

    Returns:
        For each split a reference to (images (N, C, H, W) uint8, labels (N,) int64 or None); None when it is streamed.

    Raises:
        DataError: A shard is missing or damaged, or the images do not fit into the object store.
    """
    import ray
    import ray.data

    if config.backend == "stream":
        return dict.fromkeys(splits)
    _check_store(config, manifest, splits)
    streaming.configure()
    if isinstance(config.root, Remote):  # its working copy is on this machine alone
        parts = {name: read_split(config.root, config.name, name) for name in splits}
        return {
            name: ray.put((split.images.numpy(), _array(split.class_labels)))
            for name, split in parts.items()
        }
    columns = ["index", "image", "path"] + (["label"] if manifest.num_classes else [])
    shards = {
        name: [str(path.resolve()) for path in shard_paths(config.root, config.name, name)]
        for name in splits
    }
    # one pass for all splits: each pass pays for its own start
    paths = [path for of_split in shards.values() for path in of_split]
    dataset = ray.data.read_parquet(paths, include_paths=True).select_columns(columns)
    blocks = list(dataset.iter_batches(batch_size=None, batch_format="numpy"))
    staged = {}
    for name, of_split in shards.items():
        split = _gather(blocks, of_split)
        assert len(split["image"]) == manifest.splits[name].num_images
        staged[name] = ray.put((split["image"], split.get("label")))
    return staged


def _gather(blocks: list[dict[str, np.ndarray]], paths: list[str]) -> dict[str, np.ndarray]:
    """Return the rows of some shards in their order; a block holds rows of one shard or of several."""
    parts = []
    for block in blocks:
        is_ours = np.isin(block["path"].astype(str), paths)
        if is_ours.any():
            parts.append({name: column[is_ours] for name, column in block.items()})
    order = np.argsort(np.concatenate([part["index"] for part in parts]))
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def open_staged(
    staged: dict[str, Any], config: DataConfig, manifest: Manifest
) -> dict[str, Split | StreamedSplit]:
    """Map staged splits into this process, or plan their streaming, with the data options applied."""
    import ray

    if None in staged.values():
        if isinstance(
            config.root, Remote
        ):  # its working copy is on this machine, Ray Data's tasks may not be
            return {name: open_stream(config, manifest, name) for name in staged}
        return {
            name: open_stream(config, manifest, name, deliver=streaming.deliver) for name in staged
        }
    return {
        name: fix_levels(
            Split(
                streaming.to_tensor(images), None if labels is None else streaming.to_tensor(labels)
            ),
            config,
            manifest,
            split_name=name,
        )
        for name, (images, labels) in zip(staged, ray.get(list(staged.values())), strict=True)
    }


def _check_store(config: DataConfig, manifest: Manifest, splits: tuple[str, ...]) -> None:
    import ray

    needed = sum(manifest.splits[name].num_images for name in splits) * manifest.num_dims
    stores = [node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes()]
    largest = int(max(stores, default=0.0))
    if needed > largest:
        raise DataError(
            f"data.backend must be 'stream' for {config.name}: its images take {needed / 2**30:.1f} GiB, "
            f"the cluster's object stores have {largest / 2**30:.1f} GiB, got 'memory'"
        )


def _array(labels: torch.Tensor | None) -> np.ndarray | None:
    return None if labels is None else labels.numpy()
