"""Ray Data as the reader of a stream: the windows that a plan names, in its order, read ahead by tasks of the cluster.

The plan decides order and shuffling (`raypixel.data.stream`), Ray Data only executes it: one read task makes one window,
`preserve_order` keeps them in line, and one dataset spans many epochs, so that its start is paid once and not for each epoch.
Ray's own iterators cannot be used for more: `streaming_split` gives each worker other images, drops rows to make the shares
equal, and no iterator of Ray's can be resumed.
"""

import itertools
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from raypixel.data import Split
from raypixel.data.stream import ReadFn, Window

WINDOWS_OF_A_DATASET = 512
"""After so many windows (64 GiB with the default options) another dataset is begun."""
TASKS_AT_ONCE = 1
WINDOWS_AHEAD = 2
"""How many Ray Data may have read before they are asked for."""


def deliver(read: ReadFn, windows: Iterator[Window], num_dims: int) -> Iterator[Split]:
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

    def table_of(window: Window) -> Iterator[Any]:
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
