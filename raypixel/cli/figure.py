"""`raypixel figure`: diagrams of a model, computed from it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raypixel.cli.location import CHECKPOINT, LOCATION
from raypixel.cli.progress import bar, say
from raypixel.errors import RaypixelError
from raypixel.storage import Location

if TYPE_CHECKING:
    from raypixel.checkpoint import Checkpoint
    from raypixel.models import ModelConfig

_DEFAULT_SHAPE = (1, 15, 15)
_CHECKPOINT = click.argument("checkpoint", type=CHECKPOINT, required=False)
_MODEL = click.option("--model", "kind", metavar="KIND", help="An untrained model of this kind.")
_SET = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="model.KEY=VALUE",
    help="Change an option of KIND; repeat for more.",
)
_SHAPE = click.option(
    "--shape", metavar="CxHxW", help="Images of an untrained model.  [default: 1x15x15]"
)
_AT = click.option(
    "--at", metavar="ROW,COL", help="The pixel, from 0.  [default: two thirds down, in the middle]"
)


def _out(name: str) -> Any:
    return click.option(
        "--out",
        type=click.Path(path_type=Path, dir_okay=False),
        default=Path(name),
        show_default=True,
        help="Picture to write.",
    )


@click.group()
def figure() -> None:
    """Draw what a model sees, its masks and its distributions.

    The pictures are computed from the model: by gradients, from its layers' buffers and from its outputs.
    """


@figure.command("receptive-field")
@_CHECKPOINT
@_MODEL
@_SET
@_SHAPE
@_AT
@_out("receptive-field.png")
def receptive_field(
    checkpoint: Location | None,
    kind: str | None,
    assignments: tuple[str, ...],
    shape: str | None,
    at: str | None,
    out: Path,
) -> None:
    """Draw which pixels the output at one pixel depends on.

    Of a trained CHECKPOINT, of --model KIND, or of every architecture side by side. A trained model's picture shows how strongly,
    on a logarithmic scale. Blind spots are earlier pixels without any path.

    \b
    Examples:
      raypixel figure receptive-field
      raypixel figure receptive-field --model pixelcnn --set model.num_layers=2
      raypixel figure receptive-field runs/digits_pixelcnn --at 5,4
    """
    from raypixel.figures.canvas import save_figure
    from raypixel.figures.fields import draw_receptive_fields, field_of_config, field_of_model
    from raypixel.grids import check_picture_path

    check_picture_path(out)
    found = _checkpoint(checkpoint, kind=kind, assignments=assignments, shape=shape)
    if found is not None:
        row, column = _position(at, found.info.image_shape)
        fields = [field_of_model(found.load_model(), row, column, title=_kind(found))]
    else:
        image_shape = _image_shape(shape)
        row, column = _position(at, image_shape)
        fields = [
            field_of_config(config, image_shape, row=row, column=column, title=name)
            for name, config in _untrained("receptive fields", kind, assignments)
        ]
    for field in fields:
        if field.leaks.any():
            say(f"{field.title}: LEAK, pixel {row},{column} depends on later pixels")
    save_figure(draw_receptive_fields(fields), out)
    click.echo(str(out))


@figure.command()
@_CHECKPOINT
@_MODEL
@_SET
@_SHAPE
@_out("masks.png")
def masks(
    checkpoint: Location | None,
    kind: str | None,
    assignments: tuple[str, ...],
    shape: str | None,
    out: Path,
) -> None:
    """Draw the masks of a model's masked convolutions, mask A and mask B.

    Of a CHECKPOINT or of --model KIND (default pixelcnn). For RGB images each mask is a grid of kernels, from
    colour group to colour group. Layers with the same mask are drawn once.

    \b
    Examples:
      raypixel figure masks
      raypixel figure masks --model pixelcnn --shape 3x8x8
    """
    from raypixel.figures.canvas import save_figure
    from raypixel.figures.fields import build_diagram_model
    from raypixel.figures.masks import draw_masks, layer_masks
    from raypixel.grids import check_picture_path

    check_picture_path(out)
    found = _checkpoint(checkpoint, kind=kind, assignments=assignments, shape=shape)
    if found is not None:
        name, image_shape = _kind(found), found.info.image_shape
        model = found.load_model()
    else:
        name, image_shape = kind or "pixelcnn", _image_shape(shape)
        model = build_diagram_model(_untrained_configs(name, assignments)[name], image_shape)
    found_masks = layer_masks(model)
    if not found_masks:
        raise RaypixelError(f"{name}: must have masked layers to draw, got none")
    colors = "RGB" if image_shape[0] == 3 else "gray"
    save_figure(draw_masks(found_masks, title=f"{name}, masks for {colors} images"), out)
    click.echo(str(out))


@figure.command()
@_MODEL
@_SET
@_SHAPE
@_AT
@click.option(
    "--layers",
    "max_layers",
    type=click.IntRange(1, 12),
    default=3,
    show_default=True,
    help="Draw up to this many layers.",
)
@_out("transitions.png")
def transitions(
    kind: str | None,
    assignments: tuple[str, ...],
    shape: str | None,
    at: str | None,
    max_layers: int,
    out: Path,
) -> None:
    """Draw how the receptive field of one pixel grows layer by layer.

    One row for each architecture, or that of --model KIND alone. Recurrent models also show what one layer connects:
    input-to-state, and state-to-state over all steps of the recurrence.

    \b
    Examples:
      raypixel figure transitions
      raypixel figure transitions --model pixelcnn --set model.first_kernel_size=3 --layers 5
    """
    from raypixel.figures.canvas import save_figure
    from raypixel.figures.transitions import draw_transitions, growth_of_config
    from raypixel.grids import check_picture_path

    check_picture_path(out)
    image_shape = _image_shape(shape)
    row, column = _position(at, image_shape)
    growths = [
        growth_of_config(
            config, image_shape, row=row, column=column, max_layers=max_layers, title=name
        )
        for name, config in _untrained("transitions", kind, assignments)
    ]
    first = min(min(growth.fields) for growth in growths)
    save_figure(draw_transitions(growths, range(first, max_layers + 1)), out)
    click.echo(str(out))


@figure.command()
@click.argument("checkpoint", type=CHECKPOINT)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Split of the image.",
)
@click.option("--index", type=click.IntRange(min=0), default=0, show_default=True, help="Image.")
@click.option(
    "--at",
    "places",
    multiple=True,
    metavar="ROW,COL",
    help="A pixel, from 0; repeat for more.  [default: four, from surprising to expected]",
)
@click.option(
    "--root",
    type=LOCATION,
    help="Folder of prepared data sets, or s3://BUCKET/NAME; default the one used in training.",
)
@_out("distributions.png")
def distributions(
    checkpoint: Location,
    split: str,
    index: int,
    places: tuple[str, ...],
    root: Location | None,
    out: Path,
) -> None:
    """Draw the distributions that a model gives to sub-pixels of a real image, given all earlier ones.

    The true level is marked. For RGB images all three channels are drawn, each given those before it.

    \b
    Example:
      raypixel figure distributions runs/mnist_pixelcnn --index 3 --at 14,14 --at 20,9
    """
    from raypixel.cli.asked import read_image
    from raypixel.figures.canvas import save_figure
    from raypixel.figures.distributions import (
        draw_distributions,
        level_probabilities,
        telling_positions,
    )
    from raypixel.grids import check_picture_path
    from raypixel.runs import find_checkpoint

    check_picture_path(out)
    found = find_checkpoint(checkpoint)
    shape = found.info.image_shape
    positions = [_position(place, shape) for place in dict.fromkeys(places)]
    x, label, data_name = read_image(found, split, index, root=root)
    model = found.load_model()
    positions = positions or telling_positions(model, x, count=4, class_label=label)
    tables = {
        position: level_probabilities(model, x, position, class_label=label)
        for position in positions
    }
    title = f"{_kind(found)} on {data_name}, {split} image {index}"
    num_levels = found.info.num_levels
    save_figure(draw_distributions(x, tables, num_levels=num_levels, title=title), out)
    click.echo(str(out))


def _checkpoint(
    path: Location | None, *, kind: str | None, assignments: tuple[str, ...], shape: str | None
) -> "Checkpoint | None":
    """Read the checkpoint if one is named, and refuse options that belong to an untrained model."""
    if path is None:
        return None
    for option, value in (("--model", kind), ("--set", assignments), ("--shape", shape)):
        if value:
            shown = " ".join(value) if isinstance(value, tuple) else value
            raise RaypixelError(f"{option} must be left out with a checkpoint, got {shown}")
    from raypixel.runs import find_checkpoint

    return find_checkpoint(path)


def _untrained(
    label: str, kind: str | None, assignments: tuple[str, ...]
) -> "Iterator[tuple[str, ModelConfig]]":
    """Yield the models that `_untrained_configs` returns, and show how many are done."""
    configs = _untrained_configs(kind, assignments)
    with bar(label, unit="models") as progress:
        for done, named in enumerate(configs.items(), start=1):
            yield named
            progress(done, len(configs))


def _untrained_configs(kind: str | None, assignments: tuple[str, ...]) -> "dict[str, ModelConfig]":
    """Return the config of one kind with its options, or the defaults of every kind.

    Args:
        kind: Name of an architecture, or None for all.
        assignments: Options of that kind, "model.KEY=VALUE".

    Raises:
        ConfigError: The kind or an option is unknown, or options are given without a kind.
    """
    from raypixel.config import parse_overrides
    from raypixel.errors import ConfigError, did_you_mean
    from raypixel.models import model_classes

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


def _config(kind: str, overrides: Mapping[str, Any]) -> "ModelConfig":
    from raypixel.config import ConfigProblems, apply_overrides
    from raypixel.errors import ConfigError
    from raypixel.models import validate_model_config

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


def _kind(found: "Checkpoint") -> str:
    return str(found.info.experiment["model"]["kind"])


def _image_shape(text: str | None) -> tuple[int, int, int]:
    if text is None:
        return _DEFAULT_SHAPE
    match = re.fullmatch(r"([13])x([1-9]\d{0,2})x([1-9]\d{0,2})", text.strip())
    if match is None:
        raise RaypixelError(
            f"--shape must be CHANNELSxHEIGHTxWIDTH with 1 or 3 channels, got {text!r}"
        )
    channels, height, width = map(int, match.groups())
    return channels, height, width


def _position(text: str | None, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    _, height, width = image_shape
    if text is None:
        return height * 2 // 3, width // 2
    match = re.fullmatch(r"\s*(\d{1,9})\s*,\s*(\d{1,9})\s*", text)
    if match is None:
        raise RaypixelError(f"--at must be ROW,COL counted from 0, got {text!r}")
    row, column = map(int, match.groups())
    if row >= height or column >= width:
        raise RaypixelError(
            f"--at must be inside the image, rows 0 to {height - 1} and columns 0 to {width - 1}, got {row},{column}"
        )
    return row, column
