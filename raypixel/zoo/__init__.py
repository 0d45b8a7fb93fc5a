"""The zoo: trained models that come with the package, each a checkpoint's folder and its card.

    NAME/model.safetensors, config.yaml, ...    a checkpoint (`raypixel.checkpoint`) without the state of its optimizer
    NAME/card.yaml                              what it was trained on, how, and how good it is (`Card`)

`zoo:NAME` is taken wherever a checkpoint is. RAYPIXEL_ZOO names another folder of this form. `benchmarks/zoo.py` puts
models in, and computes the numbers of all cards again.
"""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field

from raypixel.config import Frozen, load_yaml, parse
from raypixel.errors import CheckpointError, did_you_mean

PREFIX = "zoo:"
CARD = "card.yaml"
FEW_IMAGES = 500


class Card(Frozen):
    """What is told of a model of the zoo."""

    recipe: str
    """Recipe that it was trained with."""
    options: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Options that were changed, KEY=VALUE."""
    commit: str
    """Commit of raypixel that trained it."""
    hours: float
    """Training time."""
    machine: str
    """What it was trained on."""
    data: str
    """Data set."""
    levels: str
    """How its levels are read, and what else a likelihood depends on."""
    num_images: int
    """Images of the test split."""
    nll_nats: float
    """Mean nats of an image of the test split."""
    standard_error_nats: float
    """Its standard error."""
    bits_per_dim: float
    """The same in bits per dimension."""
    few_nll_nats: float
    """Mean nats of the first 500 of these images, for a quick check; a split may have the hard ones first."""
    published: str
    """What the paper of this architecture reports on this data, and where."""
    num_parameters: int
    """Trained numbers."""
    sampling_seconds: float
    """Time in which one image was drawn on one core of that machine."""
    license: str
    """License of the data that it was trained on."""


def zoo_folder() -> Path:
    """Return the folder of the models."""
    return Path(os.environ.get("RAYPIXEL_ZOO") or Path(__file__).parent)


def zoo_names() -> list[str]:
    """Return the names of the models, sorted."""
    return sorted(path.parent.name for path in zoo_folder().glob(f"*/{CARD}"))


def zoo_model(name: str) -> Path:
    """Return the folder of a model.

    Raises:
        CheckpointError: There is none of this name.
    """
    names = zoo_names()
    if name not in names:
        known = f"one of {', '.join(names)}" if names else "a model, and the zoo has none"
        text = f"{PREFIX}NAME must be {known}, got {name!r}{did_you_mean(name, names)}"
        raise CheckpointError(text)
    return zoo_folder() / name


def read_card(name: str) -> Card:
    """Return what is told of a model.

    Raises:
        CheckpointError: There is none of this name.
        ConfigError: Its card is damaged.
    """
    path = zoo_model(name) / CARD
    return parse(Card, load_yaml(path), where=str(path))
