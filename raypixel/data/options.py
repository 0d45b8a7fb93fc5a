"""The options of a data set, and what follows from them and its manifest: how many levels, and the data residence.

The residence, memory or stream, is decided in one place, `decide_residence`, which writes it into the options
(`data.backend`); everything after reads it from there.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from raypixel.config import ConfigProblems, Frozen
from raypixel.data.manifest import Manifest
from raypixel.errors import ConfigError
from raypixel.storage import Location, location

MEMORY_SHARE = 8
"""`auto` streams a set of which this many copies would not fit into the machine's memory: reading it makes two copies for
a while, under Ray the object store has a fifth of the memory, and models and gradients need room too."""


def _root(value: Any) -> Location:
    try:
        return location(value)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("a location ")) from None


class DataConfig(Frozen):
    """Say which prepared data set is used, and how its levels are read."""

    name: str
    """Name of a prepared data set, a folder under `root`."""

    root: Annotated[
        Location, PlainValidator(_root), PlainSerializer(str, return_type=str, when_used="json")
    ] = Path("data")
    """Folder of the prepared data sets, or `s3://BUCKET/NAME`."""

    binarization: Literal["none", "threshold", "stochastic", "fixed"] = "none"
    """`threshold`: 1 where x >= K/2. `stochastic`: a fresh draw with probability x/(K-1) every epoch.
    `fixed`: one such draw per image from `binarization_seed`, the same in every epoch."""

    binarization_seed: int = 0
    """Seed of the `fixed` binarization."""

    num_levels: Annotated[int, Field(ge=2, le=256)] | None = None
    """Quantize to this many levels, floor(x * num_levels / K); `null` keeps the prepared ones."""

    augment: Literal["none", "shift"] = "none"
    """`shift`: move each train image by up to a pixel down or up and right or left, drawn anew every epoch; what is left free
    repeats the border."""

    max_train_images: Annotated[int, Field(ge=1)] | None = None
    """Use only the first images of the train split."""

    max_eval_images: Annotated[int, Field(ge=1)] | None = None
    """Use only the first images of the val and of the test split."""

    backend: Literal["auto", "memory", "stream"] = "auto"
    """The data residence. `memory`: the set is held in memory. `stream`: it is read as it is needed, in another order (the
    images of a window are shuffled among each other, the windows drawn from all over the set). `auto`: memory where it fits."""

    stream_memory_mib: Annotated[int, Field(ge=1)] = 512
    """MiB of images that one training process holds with `backend: stream`; a window is a sixth of it, or one block of a shard
    (4 MiB)."""

    @model_validator(mode="after")
    def _one_reduction(self) -> Self:
        if self.num_levels is not None and self.binarization != "none":
            rule = f"must be null with binarization {self.binarization!r}, got {self.num_levels}"
            raise ConfigProblems([(("num_levels",), rule)])
        return self


def num_levels_of(config: DataConfig, manifest: Manifest) -> int:
    """Return the number of levels after the options of a config.

    Raises:
        ConfigError: The options ask for more levels than were prepared, or binarize two levels.
    """
    prepared = manifest.num_levels
    if config.num_levels is not None:
        if config.num_levels > prepared:
            rule = f"must be at most the {prepared} of {manifest.name!r}"
            raise ConfigError(f"data.num_levels {rule}, got {config.num_levels}")
        return config.num_levels
    if config.binarization == "none":
        return prepared
    if prepared == 2 and config.binarization != "fixed":
        rule = f"must be 'none' or 'fixed' for {manifest.name!r}, which has 2 levels"
        raise ConfigError(f"data.binarization {rule}, got {config.binarization!r}")
    return 2


def describe_levels(config: DataConfig, num_levels: int) -> str:
    """Return, for a person, what a likelihood depends on beside the data set's name.

    Args:
        config: The options.
        num_levels: As `num_levels_of` returns it.
    """
    said = [f"{num_levels} levels"]
    if config.binarization != "none":
        said.append(f"{config.binarization} binarization")
    if config.augment == "shift":
        said.append("trained on shifted images")
    return ", ".join(said)


def decide_residence(
    config: DataConfig,
    manifest: Manifest,
    *,
    recorded: str | None = None,
    memory_bytes: int | None = None,
) -> DataConfig:
    """Return the options with the data residence decided: `backend` is `memory` or `stream`.

    The order of the images differs between the two, so what is resumed keeps the one that it began with, also on a machine
    with more memory.

    Args:
        config: The options; a residence that is set is kept.
        manifest: The prepared set.
        recorded: What an earlier part of the run or sweep wrote down, None without one; "auto" is of before there was a
            choice, and means memory.
        memory_bytes: Memory of the machine; by default it is asked.
    """
    if config.backend != "auto":
        return config
    if recorded is not None:
        return config.model_copy(update={"backend": "memory" if recorded == "auto" else recorded})
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
