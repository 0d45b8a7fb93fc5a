"""Staging with Ray Data: prepared shards, wherever they lie, to the images that workers train on.

A set that is held in memory is read by Ray Data in parallel, wherever the cluster has room, and each split is gathered as one
pair of arrays in the object store. Every worker and trial of a node maps the same memory: a split is read once per node, not
once per trial, and a worker's batches cost no more than indexing (docs/performance.md). Order and randomness then come from
`raypixel.data.batches`, which makes them exact at any number of workers: Ray's own split drops rows to make the shares
equal, and its shuffles are not resumable.

For a set that is streamed, the plan decides order and shuffling (`raypixel.data.stream`), Ray Data only executes it: one read
task makes one window, `preserve_order` keeps them in line, and one dataset spans many epochs, so that its start is paid once
and not for each epoch. Of shards in storage each machine that reads has a working copy, made as its tasks need them.
"""

import itertools
import logging
import warnings
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch

from raypixel import storage
from raypixel.data import DataConfig, Manifest
from raypixel.data.batches import ImageSource
from raypixel.data.levels import fix_levels
from raypixel.data.splits import Split, shard_places
from raypixel.data.stream import ReadFn, Window, open_stream
from raypixel.errors import DataError

WINDOWS_OF_A_DATASET = 512
"""After so many windows (64 GiB with the default options) another dataset is begun."""
TASKS_AT_ONCE = 1
WINDOWS_AHEAD = 2
"""How many Ray Data may have read before they are asked for."""


def stage(config: DataConfig, manifest: Manifest, splits: tuple[str, ...]) -> dict[str, Any]:
    """Read splits of a prepared set through Ray Data into the object store.

    Returns:
        For each split a reference to (images (N, C, H, W) uint8, labels (N,) int64 or None); None when it is streamed.

    Raises:
        DataError: A shard is missing or damaged, or the images do not fit into the object store.
    """
    import pyarrow as pa
    import ray

    if config.backend == "stream":
        return dict.fromkeys(splits)
    _check_store(config, manifest, splits)
    configure()
    columns = ["index", "image", "path"] + (["label"] if manifest.num_classes else [])
    places = {name: shard_places(config.root, config.name, name) for name in splits}
    # one pass for all splits: each pass pays for its own start
    paths, filesystem = storage.arrow_files([p for of_split in places.values() for p in of_split])
    try:
        blocks = _read(paths, filesystem, columns)
    except (
        pa.ArrowException,
        OSError,
    ) as error:  # what failed in a task of Ray Data, with its traceback
        text = getattr(error, "cause", error)
        where = config.root / config.name
        raise DataError(
            f"{where}: shards must be readable, got {' '.join(str(text).split())}"
        ) from None
    staged = {}
    for name, of_split in places.items():
        split = _gather(blocks, storage.arrow_files(of_split)[0])
        assert len(split["image"]) == manifest.splits[name].num_images
        staged[name] = ray.put((split["image"], split.get("label")))
    return staged


def _read(paths: list[str], filesystem: Any, columns: list[str]) -> list[dict[str, np.ndarray]]:
    import pyarrow.dataset as ds
    import ray.data

    dataset = ray.data.read_parquet(
        paths,
        filesystem=filesystem,
        include_paths=True,
        fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True),
    ).select_columns(columns)
    return list(dataset.iter_batches(batch_size=None, batch_format="numpy"))


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
) -> dict[str, ImageSource]:
    """Map staged splits into this process, or plan their streaming, with the data options applied."""
    import ray

    if config.backend == "stream":
        return {name: open_stream(config, manifest, name, deliver=deliver) for name in staged}
    return {
        name: fix_levels(
            Split(to_tensor(images), None if labels is None else to_tensor(labels)),
            config,
            manifest,
            split_name=name,
        )
        for name, (images, labels) in zip(staged, ray.get(list(staged.values())), strict=True)
    }


def deliver(read: ReadFn, windows: Iterator[Window], num_dims: int) -> Generator[Split, None, None]:
    """Read windows through Ray Data; see `raypixel.data.stream.DeliverFn`."""
    while planned := list(itertools.islice(windows, WINDOWS_OF_A_DATASET)):
        yield from _executed(read, planned, num_dims)


def configure() -> None:
    """Have Ray Data keep order and be quiet in this process."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # importing it has set its own level
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """Share an array of the object store's read-only memory with torch."""
    with warnings.catch_warnings():
        # shared memory of the object store is read-only; the loader only ever indexes it
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _executed(read: ReadFn, windows: list[Window], num_dims: int) -> Iterator[Split]:
    import ray.data

    configure()
    dataset = ray.data.read_datasource(
        _source(read, windows),
        override_num_blocks=len(windows),
        concurrency=TASKS_AT_ONCE,
        num_cpus=0,  # the workers have the CPUs: reading must not wait for what they never give back
    )
    room = WINDOWS_AHEAD * max(window.num_images for window in windows) * num_dims
    dataset.context.execution_options.resource_limits = ray.data.ExecutionResources(
        object_store_memory=room
    )
    batches = iter(
        dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    )
    for window in windows:
        # held by nothing here while it is in use: the next is only read when this one is let go of
        yield _split_of(next(batches), window)


def _source(read: ReadFn, windows: list[Window]) -> Any:
    """Return a Ray Data source of planned windows; a function, because Ray is imported only when it is used."""
    import pyarrow as pa
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    settings = storage.access()

    def table_of(window: Window) -> Iterator[Any]:
        settings.use()
        split = read(window)
        flat = pa.array(split.images.numpy().reshape(-1))
        num_dims = split.images[0].numel()
        columns = {"image": pa.FixedSizeListArray.from_arrays(flat, num_dims)}
        if split.class_labels is not None:
            columns["label"] = pa.array(split.class_labels.numpy())
        shape = ",".join(map(str, split.images.shape[1:]))
        yield pa.table(columns).replace_schema_metadata({"shape": shape})

    class Windows(Datasource):
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            del parallelism  # one task for each window
            return [
                ReadTask(
                    lambda window=window: table_of(window),
                    BlockMetadata(window.num_images, None, None),
                )
                for window in windows
            ]

    return Windows()


def _split_of(table: Any, window: Window) -> Split:
    assert table.num_rows == window.num_images, "one block is one window"
    column = table.column("image").combine_chunks()
    shape = tuple(map(int, table.schema.metadata[b"shape"].split(b",")))
    images = column.values.to_numpy().reshape(len(column), *shape)
    labels = table.column("label").to_numpy() if "label" in table.schema.names else None
    return Split(to_tensor(images), None if labels is None else to_tensor(labels))


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
