"""The options of a data set: where it lies, how its levels are reduced, how many images are used."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from raypixel.config import ConfigProblems, Frozen
from raypixel.errors import ConfigError
from raypixel.storage import Location, location


def _root(value: object) -> Location:
    if not isinstance(value, str | PurePosixPath):
        raise ValueError(f"must be a path or s3://BUCKET/NAME, got {value!r}")
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

    max_train_images: Annotated[int, Field(ge=1)] | None = None
    """Use only the first images of the train split."""

    max_eval_images: Annotated[int, Field(ge=1)] | None = None
    """Use only the first images of the val and of the test split."""

    backend: Literal["auto", "memory", "stream"] = "auto"
    """`memory`: the set is held in memory. `stream`: it is read as it is needed, in another order (the images of a window are
    shuffled among each other, the windows drawn from all over the set). `auto`: memory where the set fits."""

    stream_memory_mib: Annotated[int, Field(ge=1)] = 512
    """MiB of images that one training process holds with `backend: stream`; a window is a sixth of it, or one block of a shard
    (4 MiB)."""

    @model_validator(mode="after")
    def _one_reduction(self) -> Self:
        if self.num_levels is not None and self.binarization != "none":
            rule = f"must be null with binarization {self.binarization!r}, got {self.num_levels}"
            raise ConfigProblems([(("num_levels",), rule)])
        return self
