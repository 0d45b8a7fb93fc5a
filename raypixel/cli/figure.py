"""`raypixel figure`: diagrams of a model, computed from it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raypixel.cli.common_options import (
    CHECKPOINT_ARGUMENT,
    ROOT_OPTION,
    LocationType,
    out_option,
    split_option,
)
from raypixel.cli.progress import say
from raypixel.errors import RaypixelError
from raypixel.storage import Location

if TYPE_CHECKING:
    from raypixel.checkpoint import Checkpoint

_CHECKPOINT = click.argument("checkpoint", type=LocationType(must_be_folder=False), required=False)
_AT = click.option(
    "--at", metavar="ROW,COL", help="The pixel, from 0.  [default: two thirds down, in the middle]"
)


def _untrained_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of an untrained model, which `Untrained` takes."""
    for option in (
        click.option(
            "--shape", metavar="CxHxW", help="Images of an untrained model.  [default: 1x15x15]"
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="model.KEY=VALUE",
            help="Change an option of KIND; repeat for more.",
        ),
        click.option("--model", "kind", metavar="KIND", help="An untrained model of this kind."),
    ):
        command = option(command)
    return command


def _out(name: str) -> Any:
    """Return `--out` for a picture; another ending is refused before the work."""

    def check(*given: Any) -> Path:
        from raypixel.grids import check_picture_path

        path: Path = given[-1]
        check_picture_path(path)
        return path

    return out_option(name, "Picture to write.", callback=check)


def _save(drawn: Any, out: Path) -> None:
    from raypixel.figures.canvas import save_figure

    save_figure(drawn, out)
    click.echo(str(out))


@click.group()
def figure() -> None:
    """Draw what a model sees, its masks and its distributions.

    The pictures are computed from the model: by gradients, from its layers' buffers and from its outputs.
    """


@figure.command("receptive-field")
@_CHECKPOINT
@_untrained_options
@_AT
@_out("receptive-field.png")
def receptive_field(checkpoint: Location | None, at: str | None, out: Path, **options: Any) -> None:
    """Draw which pixels the output at one pixel depends on.

    Of a trained CHECKPOINT, of --model KIND, or of every architecture side by side. A trained model's picture shows how strongly,
    on a logarithmic scale. Blind spots are earlier pixels without any path.

    \b
    Examples:
      raypixel figure receptive-field
      raypixel figure receptive-field --model pixelcnn --set model.num_layers=2
      raypixel figure receptive-field runs/digits_pixelcnn --at 5,4
    """
    from raypixel.cli.asked import Untrained, parse_position
    from raypixel.figures.fields import draw_receptive_fields, field_of_config, field_of_model

    untrained = Untrained(**options)
    found = untrained.or_checkpoint(checkpoint)
    if found is not None:
        row, column = parse_position(at, found.info.image_shape)
        fields = [field_of_model(found.load_model(), row, column, title=_kind(found))]
    else:
        row, column = parse_position(at, untrained.image_shape)
        fields = [
            field_of_config(config, untrained.image_shape, row=row, column=column, title=name)
            for name, config in untrained.each("receptive fields")
        ]
    for field in fields:
        if field.leaks.any():
            say(f"{field.title}: LEAK, pixel {row},{column} depends on later pixels")
    _save(draw_receptive_fields(fields), out)


@figure.command()
@_CHECKPOINT
@_untrained_options
@_out("masks.png")
def masks(checkpoint: Location | None, out: Path, **options: Any) -> None:
    """Draw the masks of a model's masked convolutions, mask A and mask B.

    Of a CHECKPOINT or of --model KIND (default pixelcnn). For RGB images each mask is a grid of kernels, from
    colour group to colour group. Layers with the same mask are drawn once.

    \b
    Examples:
      raypixel figure masks
      raypixel figure masks --model pixelcnn --shape 3x8x8
    """
    from raypixel.cli.asked import Untrained
    from raypixel.figures.fields import build_diagram_model
    from raypixel.figures.masks import draw_masks, layer_masks

    untrained = Untrained(**options)
    found = untrained.or_checkpoint(checkpoint)
    if found is not None:
        name, image_shape = _kind(found), found.info.image_shape
        model = found.load_model()
    else:
        name, image_shape = untrained.kind or "pixelcnn", untrained.image_shape
        config = replace(untrained, kind=name).configs()[name]
        model = build_diagram_model(config, image_shape)
    found_masks = layer_masks(model)
    if not found_masks:
        raise RaypixelError(f"{name}: must have masked layers to draw, got none")
    colors = "RGB" if image_shape[0] == 3 else "gray"
    _save(draw_masks(found_masks, title=f"{name}, masks for {colors} images"), out)


@figure.command()
@_untrained_options
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
def transitions(at: str | None, max_layers: int, out: Path, **options: Any) -> None:
    """Draw how the receptive field of one pixel grows layer by layer.

    One row for each architecture, or that of --model KIND alone. Recurrent models also show what one layer connects:
    input-to-state, and state-to-state over all steps of the recurrence.

    \b
    Examples:
      raypixel figure transitions
      raypixel figure transitions --model pixelcnn --set model.first_kernel_size=3 --layers 5
    """
    from raypixel.cli.asked import Untrained, parse_position
    from raypixel.figures.transitions import draw_transitions, growth_of_config

    untrained = Untrained(**options)
    shape = untrained.image_shape
    row, column = parse_position(at, shape)
    growths = [
        growth_of_config(config, shape, row=row, column=column, max_layers=max_layers, title=name)
        for name, config in untrained.each("transitions")
    ]
    first = min(min(growth.fields) for growth in growths)
    _save(draw_transitions(growths, range(first, max_layers + 1)), out)


@figure.command()
@CHECKPOINT_ARGUMENT
@split_option("Split of the image.", default="test")
@click.option("--index", type=click.IntRange(min=0), default=0, show_default=True, help="Image.")
@click.option(
    "--at",
    "places",
    multiple=True,
    metavar="ROW,COL",
    help="A pixel, from 0; repeat for more.  [default: four, from surprising to expected]",
)
@ROOT_OPTION
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
    from raypixel.cli.asked import parse_position, read_image
    from raypixel.figures.distributions import (
        draw_distributions,
        level_probabilities,
        telling_positions,
    )
    from raypixel.runs import find_checkpoint

    found = find_checkpoint(checkpoint)
    positions = [parse_position(place, found.info.image_shape) for place in dict.fromkeys(places)]
    x, label, data_name = read_image(found, split, index, root=root)
    model = found.load_model()
    positions = positions or telling_positions(model, x, count=4, class_label=label)
    tables = {at: level_probabilities(model, x, at, class_label=label) for at in positions}
    title = f"{_kind(found)} on {data_name}, {split} image {index}"
    _save(draw_distributions(x, tables, num_levels=found.info.num_levels, title=title), out)


def _kind(found: "Checkpoint") -> str:
    return str(found.info.experiment["model"]["kind"])
