"""The choice between holding a set in memory and streaming it."""

import os
from pathlib import Path

from raypixel.data.config import DataConfig
from raypixel.data.manifest import Manifest

MEMORY_SHARE = 8
"""`auto` streams a set of which this many copies would not fit into the machine's memory: reading it makes two copies for
a while, under Ray the object store has a fifth of the memory, and models and gradients need room too."""


def choose_backend(
    config: DataConfig, manifest: Manifest, *, memory_bytes: int | None = None
) -> DataConfig:
    """Return the options with `backend` as `memory` or `stream`.

    Args:
        config: The options; a backend that is set is kept.
        manifest: The prepared set.
        memory_bytes: Memory of the machine; by default it is asked.
    """
    if config.backend != "auto":
        return config
    if memory_bytes is None:
        memory_bytes = machine_memory()
    is_small = set_bytes(config, manifest) * MEMORY_SHARE <= memory_bytes
    needs_whole = config.binarization == "fixed" and manifest.num_levels > 2
    return config.model_copy(update={"backend": "memory" if is_small or needs_whole else "stream"})


def describe_stream(config: DataConfig, manifest: Manifest) -> str:
    """Return a line for a person that says that, and why, a set is streamed."""
    size = set_bytes(config, manifest) / 2**30
    return (
        f"{config.name} is streamed: its images take {size:.1f} GiB, in memory are at most "
        f"{config.stream_memory_mib} MiB of them (data.backend, data.stream_memory_mib)"
    )


def set_bytes(config: DataConfig, manifest: Manifest) -> int:
    """Return the bytes that the images take in memory, all splits, as many as the options use."""
    limits = {"train": config.max_train_images}
    counts = [
        min(split.num_images, limits.get(name, config.max_eval_images) or split.num_images)
        for name, split in manifest.splits.items()
    ]
    return sum(counts) * manifest.num_dims


def machine_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or its container's limit."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            sizes.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return min(sizes)
