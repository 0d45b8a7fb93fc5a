"""What a service is told: its models, limits and keys. On a cluster these are the `args` of the application."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from raypixel.config import ConfigProblems, Frozen


class Limits(Frozen):
    """Bounds on what is asked for; beyond them a request is refused, with a sentence."""

    max_n: Annotated[int, Field(ge=1)] = 256
    """Images of a request for samples, and completions of each picture."""

    max_images: Annotated[int, Field(ge=1)] = 64
    """Pictures of a request."""

    max_image_bytes: Annotated[int, Field(ge=64)] = 1 << 20
    """Size of an encoded picture."""

    max_body_bytes: Annotated[int, Field(ge=256)] = 1 << 23
    """Size of a request's body."""

    max_queued_images: Annotated[int, Field(ge=1)] = 2048
    """Images that may wait for a slot, for each model and replica."""

    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """A request that takes longer is cancelled."""


class Settings(Frozen):
    """Say what is served, and how."""

    models: Annotated[dict[str, str], Field(min_length=1)]
    """Name to checkpoint: the path of a checkpoint or a run, or `models:/NAME@ALIAS` of MLflow's registry.
    The first answers where a request names none."""

    limits: Limits = Limits()
    """Bounds on what is asked for."""

    num_slots: Annotated[int, Field(ge=1, le=4096)] = 64
    """Images that a replica makes at a time, for each model."""

    max_loaded_models: Annotated[int, Field(ge=1)] = 4
    """Models that a replica keeps in memory; the longest unused one makes room."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""

    num_threads: Annotated[int, Field(ge=1)] | None = None
    """Threads of a replica; `null` lets PyTorch choose."""

    api_keys_file: Annotated[Path, Field(strict=False)] | None = None
    """File of API keys, one a line; more may stand in RAYPIXEL_API_KEYS."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.models:
            if not name or len(name) > 64 or not set(name) <= _NAME_CHARACTERS:
                rule = "must be a name of letters, digits, '-', '_' and '.', at most 64"
                raise ConfigProblems([(("models",), f"{rule}, got {name!r}")])
        return self


_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
