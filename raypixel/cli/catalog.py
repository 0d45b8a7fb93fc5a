"""`raypixel data`, `recipes`, `models`, `zoo`: what there is, and getting data ready."""

from pathlib import Path
from typing import Any

import click

from raypixel.cli.common_options import DATA_ROOT_OPTION, PATH
from raypixel.cli.progress import bar, table
from raypixel.storage import Location


@click.group()
def data() -> None:
    """List and prepare data sets."""


@data.command("list")
@DATA_ROOT_OPTION
def list_data(root: Location) -> None:
    """List the data sets known by name, and what is prepared."""
    from raypixel.data import catalog, list_prepared

    def row(of: Any, manifest: Any, images: dict[str, int], text: str) -> list[str]:
        if manifest and manifest.splits:
            images = {name: split.num_images for name, split in manifest.splits.items()}
        shape, counts = (
            "x".join(map(str, of.image_shape)),
            [f"{n} {k:,}" for n, k in images.items()],
        )
        is_prepared = "yes" if manifest else "no"
        return [of.name, is_prepared, shape, str(of.num_levels), " ".join(counts), text]

    prepared = {manifest.name: manifest for manifest in list_prepared(root)}
    rows = [row(e, prepared.pop(e.name, None), e.splits, e.description) for e in catalog()]
    for manifest in prepared.values():
        rows.append(row(manifest, manifest, {}, f"your images, from {manifest.origin.source}"))
    table(["name", "prepared", "shape", "levels", "images", "description"], rows)


@data.command()
@click.argument("name")
@click.option(
    "--source",
    type=PATH,
    help="Files to read instead of downloading: a folder, an .amat file or parquet files.",
)
@DATA_ROOT_OPTION
@click.option("--size", help="HEIGHTxWIDTH (or one number) to resize your own images to.")
@click.option(
    "--channels", type=click.IntRange(1, 3), help="1 (gray) or 3 (RGB) for your own images."
)
@click.option("--force", is_flag=True, help="Replace a set of this name made from something else.")
def prepare(name: str, source: Path | None, root: Location, size: str | None, **how: Any) -> None:
    """Turn a data set into parquet shards under ROOT/NAME.

    NAME is one of `raypixel data list`, or any new name for your own images together with --source: a folder of
    image files (class labels from sub-folders, splits from train/ val/ test/) or Hugging Face-style parquet files.

    \b
    Examples:
      raypixel data prepare mnist
      raypixel data prepare binarized_mnist --source binarized_mnist/
      raypixel data prepare faces --source photos/ --size 32x32 --channels 3
    """
    from raypixel.data import parse_size
    from raypixel.data import prepare as prepare_data

    with bar(f"preparing {name}", unit="images") as progress:
        resized = None if size is None else parse_size(size)
        manifest = prepare_data(
            name, root=root, source=source, size=resized, progress=progress, **how
        )
    shape = "x".join(map(str, manifest.image_shape))
    click.echo(f"{root / name}: images {shape}, {manifest.num_levels} levels")
    for split_name, split in manifest.splits.items():
        click.echo(f"  {split_name:<5} {split.num_images:>9,} images in {len(split.files)} files")


@click.group(invoke_without_command=True)
@click.pass_context
def recipes(ctx: click.Context) -> None:
    """List the packaged experiments; `recipes show NAME` prints one."""
    if ctx.invoked_subcommand is None:
        from raypixel.recipes import recipe_names, recipe_summary

        rows = [recipe_summary(name) for name in recipe_names()]
        table(["recipe", "model", "data", "description"], rows)


@recipes.command("show")
@click.argument("name")
def show_recipe(name: str) -> None:
    """Print a recipe's YAML: a file to copy and change, then `raypixel train FILE`."""
    from raypixel.recipes import recipe_text

    click.echo(recipe_text(name), nl=False)


@click.command()
@click.argument("kind", required=False)
def models(kind: str | None) -> None:
    """List the architectures and their options (of one KIND, or all)."""
    from raypixel.cli.model_options import kinds_of_models
    from raypixel.errors import ConfigError, did_you_mean

    kinds = kinds_of_models()
    if kind is not None and kind not in kinds:
        raise ConfigError(
            f"kind must be one of {', '.join(kinds)}, got {kind!r}{did_you_mean(kind, kinds)}"
        )
    for name, described in kinds.items():
        if kind in (None, name):
            click.echo(f"{name}: {described.summary}")
            rows = [[f"  {option}", *more] for option, *more in described.options]
            table(["  option", "values", "default", "meaning"], rows)
            click.echo()


@click.group(invoke_without_command=True)
@click.pass_context
def zoo(ctx: click.Context) -> None:
    """List the trained models that come with raypixel; `zoo show NAME` prints the card of one.

    zoo:NAME is taken wherever a checkpoint is: `raypixel sample zoo:NAME`. `raypixel serve` serves all of them.
    """
    if ctx.invoked_subcommand is None:
        from raypixel.zoo import read_card, zoo_model, zoo_names

        rows = []
        for name in zoo_names():
            card = read_card(name)
            size = sum(file.stat().st_size for file in zoo_model(name).iterdir())
            nats = f"{card.nll_nats:.2f} +- {card.standard_error_nats:.2f}"
            time = f"{1000 * card.sampling_seconds:.0f} ms"
            told = [f"{card.data} ({card.levels})", nats, card.published]
            rows.append(
                [f"zoo:{name}", *told, f"{card.num_parameters:,}", f"{size >> 10} kB", time]
            )
        columns = ["model", "data", "test nats", "published", "parameters", "size", "an image"]
        table(columns, rows)


@zoo.command("show")
@click.argument("name")
def show_card(name: str) -> None:
    """Print a model's card: recipe, commit, hours, numbers, license of the data."""
    from raypixel.zoo import CARD, PREFIX, zoo_model

    click.echo((zoo_model(name.removeprefix(PREFIX)) / CARD).read_text("utf-8"), nl=False)
