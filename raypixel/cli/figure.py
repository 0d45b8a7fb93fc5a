"""`raypixel figure`: diagrams of a model, computed from it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raypixel.cli.progress import bar, say
from raypixel.errors import ConfigError, RaypixelError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from raypixel.checkpoint import Checkpoint
    from raypixel.diagrams import Field, Growth
    from raypixel.models import ModelConfig

_DEFAULT_SHAPE = (1, 15, 15)
_CHECKPOINT = click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
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
    checkpoint: Path | None,
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
    from raypixel.diagrams import (
        draw_receptive_fields,
        field_of_config,
        field_of_model,
        save_figure,
    )
    from raypixel.figures import check_picture_path

    check_picture_path(out)
    found = _checkpoint(checkpoint, kind=kind, assignments=assignments, shape=shape)
    if found is not None:
        row, column = _position(at, found.info.image_shape)
        name = str(found.info.experiment["model"]["kind"])
        fields = [field_of_model(found.load_model(), row, column, title=name)]
    else:
        image_shape = _image_shape(shape)
        row, column = _position(at, image_shape)
        fields = []
        configs = _configs(kind, assignments)
        with bar("receptive fields", unit="models") as progress:
            for name, config in configs.items():
                fields.append(
                    field_of_config(config, image_shape, row=row, column=column, title=name)
                )
                progress(len(fields), len(configs))
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
    checkpoint: Path | None,
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
    from raypixel.diagrams import build_diagram_model, draw_masks, layer_masks, save_figure
    from raypixel.figures import check_picture_path

    check_picture_path(out)
    found = _checkpoint(checkpoint, kind=kind, assignments=assignments, shape=shape)
    if found is not None:
        model, name = found.load_model(), str(found.info.experiment["model"]["kind"])
        image_shape = found.info.image_shape
    else:
        name = kind or "pixelcnn"
        image_shape = _image_shape(shape)
        model = build_diagram_model(_configs(name, assignments)[name], image_shape)
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
    from raypixel.diagrams import draw_transitions, save_figure
    from raypixel.figures import check_picture_path

    check_picture_path(out)
    image_shape = _image_shape(shape)
    position = _position(at, image_shape)
    configs = _configs(kind, assignments)
    growths = []
    with bar("transitions", unit="models") as progress:
        for name, config in configs.items():
            growths.append(_growth(name, config, image_shape, position, max_layers=max_layers))
            progress(len(growths), len(configs))
    first = min(min(growth.fields) for growth in growths)
    save_figure(draw_transitions(growths, range(first, max_layers + 1)), out)
    click.echo(str(out))


@figure.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
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
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of prepared data sets; default the one used in training.",
)
@_out("distributions.png")
def distributions(
    checkpoint: Path,
    split: str,
    index: int,
    places: tuple[str, ...],
    root: Path | None,
    out: Path,
) -> None:
    """Draw the distributions that a model gives to sub-pixels of a real image, given all earlier ones.

    The true level is marked. For RGB images all three channels are drawn, each given those before it.

    \b
    Example:
      raypixel figure distributions runs/mnist_pixelcnn --index 3 --at 14,14 --at 20,9
    """
    from raypixel.diagrams import (
        draw_distributions,
        level_probabilities,
        save_figure,
        telling_positions,
    )
    from raypixel.figures import check_picture_path
    from raypixel.jobs.evaluate import resolve_checkpoint

    check_picture_path(out)
    found = resolve_checkpoint(checkpoint)
    shape = found.info.image_shape
    positions = [_position(place, shape) for place in dict.fromkeys(places)]
    x, label, data_name = _image(found, split, index, root=root)
    model = found.load_model()
    positions = positions or telling_positions(model, x, count=4, class_label=label)
    tables = {
        position: level_probabilities(model, x, position, class_label=label)
        for position in positions
    }
    name = found.info.experiment["model"]["kind"]
    title = f"{name} on {data_name}, {split} image {index}"
    save_figure(
        draw_distributions(x, tables, num_levels=found.info.num_levels, title=title),
        out,
    )
    click.echo(str(out))


def _checkpoint(
    path: Path | None, *, kind: str | None, assignments: tuple[str, ...], shape: str | None
) -> "Checkpoint | None":
    """Read the checkpoint if one is named, and refuse options that belong to an untrained model."""
    if path is None:
        return None
    for option, value in (("--model", kind), ("--set", assignments), ("--shape", shape)):
        if value:
            shown = " ".join(value) if isinstance(value, tuple) else value
            raise RaypixelError(f"{option} must be left out with a checkpoint, got {shown}")
    from raypixel.jobs.evaluate import resolve_checkpoint

    return resolve_checkpoint(path)


def _configs(kind: str | None, assignments: tuple[str, ...]) -> "dict[str, ModelConfig]":
    """Return the config of one kind with its options, or the defaults of every kind."""
    from raypixel.config import parse_overrides
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


def _growth(
    name: str,
    config: "ModelConfig",
    image_shape: tuple[int, int, int],
    position: tuple[int, int],
    *,
    max_layers: int,
) -> "Growth":
    from raypixel.config import ConfigProblems
    from raypixel.diagrams import (
        Growth,
        build_diagram_model,
        field_of_config,
        layer_connections,
        redraw,
    )
    from raypixel.models import validate_model_config

    row, column = position
    fields: dict[int, Field] = {}
    connections: dict[str, Tensor] = {}
    given = config.model_dump(exclude_unset=True) | {"kind": config.kind}
    for num_layers in range(max_layers + 1):
        try:
            changed = validate_model_config({**given, "num_layers": num_layers})
        except ConfigProblems:  # most kinds start at one layer
            continue
        fields[num_layers] = field_of_config(
            changed, image_shape, row=row, column=column, title=name
        )
        model = build_diagram_model(changed, image_shape)
        redraw(model, seed=0)
        connections = connections or layer_connections(model, row, column)
    return Growth(name, fields, connections)


def _image(
    found: "Checkpoint", split_name: str, index: int, *, root: Path | None
) -> "tuple[Tensor, int | None, str]":
    """Return an image of the data that a checkpoint was trained on at its levels, its class, and the data set's name."""
    import torch

    from raypixel.data import fix_levels, load_manifest, read_split, to_levels
    from raypixel.experiment import parse_experiment

    config = parse_experiment(found.info.experiment, where=str(found.path))
    data = config.data if root is None else config.data.model_copy(update={"root": root})
    manifest = load_manifest(data.root, data.name)
    if manifest.image_shape != found.info.image_shape:
        raise RaypixelError(
            f"{found.path}: images of {data.name} must be {found.info.image_shape} as in training, got {manifest.image_shape}"
        )
    split = read_split(data.root, data.name, split_name)
    split = fix_levels(split, data, manifest, split_name=split_name)
    if index >= len(split):
        raise RaypixelError(
            f"--index must be below {len(split):,}, the images of {data.name} {split_name}, got {index:,}"
        )
    x = split.images[index]
    if data.binarization == "stochastic":
        x = to_levels(x, data, manifest, generator=torch.Generator().manual_seed(index))
    label = None if split.class_labels is None else int(split.class_labels[index])
    return x, label, data.name
