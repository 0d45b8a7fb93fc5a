"""`raypixel figure`: the models, and the image, that diagrams are made of."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from raypixel.checkpoint import Checkpoint
from raypixel.config import ConfigProblems, apply_overrides, parse_overrides
from raypixel.data.loader import EvalBatches
from raypixel.diagrams import Field, Growth, field_of_config, growth_of_config
from raypixel.errors import ConfigError, RaypixelError, did_you_mean
from raypixel.evaluation import open_split
from raypixel.models import ModelConfig, model_classes, validate_model_config
from raypixel.storage import Location


def untrained_configs(kind: str | None, assignments: tuple[str, ...]) -> dict[str, ModelConfig]:
    """Return the config of one kind with its options, or the defaults of every kind.

    Args:
        kind: Name of an architecture, or None for all.
        assignments: Options of that kind, "model.KEY=VALUE".

    Raises:
        ConfigError: The kind or an option is unknown, or options are given without a kind.
    """
    kinds = list(model_classes())
    overrides = parse_overrides(assignments)
    if kind is None:
        if overrides:
            raise ConfigError(f"--set must come with --model KIND, got {' '.join(assignments)}")
        return {name: _config(name, {}) for name in kinds}
    if kind not in kinds:
        raise ConfigError(
            f"--model must be one of {', '.join(kinds)}, got {kind!r}{did_you_mean(kind, kinds)}"
        )
    return {kind: _config(kind, overrides)}


def compute_fields(
    configs: Mapping[str, ModelConfig],
    image_shape: tuple[int, int, int],
    position: tuple[int, int],
    *,
    progress: Callable[[int, int], None],
) -> list[Field]:
    """Compute the receptive field of the pixel at (row, column) for each config; `progress` is told (done, total)."""
    row, column = position
    fields = []
    for title, config in configs.items():
        fields.append(field_of_config(config, image_shape, row=row, column=column, title=title))
        progress(len(fields), len(configs))
    return fields


def compute_growths(
    configs: Mapping[str, ModelConfig],
    image_shape: tuple[int, int, int],
    position: tuple[int, int],
    *,
    max_layers: int,
    progress: Callable[[int, int], None],
) -> list[Growth]:
    """Compute how the field of the pixel at (row, column) grows for each config; `progress` is told (done, total)."""
    row, column = position
    growths = []
    for title, config in configs.items():
        growths.append(
            growth_of_config(
                config, image_shape, row=row, column=column, max_layers=max_layers, title=title
            )
        )
        progress(len(growths), len(configs))
    return growths


def read_image(
    checkpoint: Checkpoint, split_name: str, index: int, *, root: Location | None
) -> tuple[Tensor, int | None, str]:
    """Read an image of the data that a checkpoint was trained on, at its levels.

    Args:
        checkpoint: What was trained.
        split_name: "train", "val" or "test".
        index: Of the image.
        root: Folder of prepared data sets; None for the one used in training.

    Returns:
        The image (C, H, W), its class where there are classes, and the name of the data set.

    Raises:
        DataError: The data set is not prepared.
        RaypixelError: Its images do not fit the model, or it has no such image.
    """
    split, data, manifest = open_split(checkpoint, split_name, root=root)
    if index >= len(split):
        raise RaypixelError(
            f"--index must be below {len(split):,}, the images of {data.name} {split_name}, got {index:,}"
        )
    x = EvalBatches(split, data, manifest, batch_size=1).images[index]  # as it is evaluated
    label = None if split.class_labels is None else int(split.class_labels[index])
    return x, label, data.name


def _config(kind: str, overrides: Mapping[str, Any]) -> ModelConfig:
    problems = [
        f"--set must change an option of the model, model.KEY=VALUE, got {key!r}"
        for key in overrides
        if not key.startswith("model.") or key == "model.kind"
    ]
    if problems:
        raise ConfigError(problems)
    mapping = apply_overrides({"model": {"kind": kind}}, overrides)
    try:
        return validate_model_config(mapping["model"])
    except ConfigProblems as error:
        raise ConfigError(
            [f"{kind}: model.{'.'.join(where)} {text}" for where, text in error.items]
        ) from None
