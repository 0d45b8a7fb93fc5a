"""`raypixel data`, `recipes`, `models`: what there is, and getting data ready."""

from pathlib import Path

import click

from raypixel.cli.location import LOCATION
from raypixel.cli.progress import bar, table
from raypixel.storage import Location

ROOT_OPTION = click.option(
    "--root",
    type=LOCATION,
    default=Path("data"),
    show_default=True,
    help="Folder of prepared data sets, or s3://BUCKET/NAME.",
)


@click.group()
def data() -> None:
    """List and prepare data sets."""


@data.command("list")
@ROOT_OPTION
def list_data(root: Location) -> None:
    """List the data sets known by name, and what is prepared."""
    from raypixel.data import catalog, list_prepared

    prepared = {manifest.name: manifest for manifest in list_prepared(root)}
    rows = []
    for entry in catalog():
        manifest = prepared.pop(entry.name, None)
        splits = manifest.splits if manifest else None
        images = {n: s.num_images for n, s in splits.items()} if splits else entry.splits
        rows.append(
            [
                entry.name,
                "yes" if manifest else "no",
                "x".join(map(str, entry.image_shape)),
                str(entry.num_levels),
                " ".join(f"{name} {count:,}" for name, count in images.items()),
                entry.description,
            ]
        )
    rows += [
        [
            manifest.name,
            "yes",
            "x".join(map(str, manifest.image_shape)),
            str(manifest.num_levels),
            " ".join(f"{name} {split.num_images:,}" for name, split in manifest.splits.items()),
            f"your images, from {manifest.origin.source}",
        ]
        for manifest in prepared.values()
    ]
    table(["name", "prepared", "shape", "levels", "images", "description"], rows)


@data.command()
@click.argument("name")
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="Files to read instead of downloading: a folder, an .amat file or parquet files.",
)
@ROOT_OPTION
@click.option("--size", help="HEIGHTxWIDTH (or one number) to resize your own images to.")
@click.option(
    "--channels", type=click.IntRange(1, 3), help="1 (gray) or 3 (RGB) for your own images."
)
@click.option("--force", is_flag=True, help="Replace a set of this name made from something else.")
def prepare(
    name: str,
    source: Path | None,
    root: Location,
    size: str | None,
    channels: int | None,
    force: bool,
) -> None:
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
        manifest = prepare_data(
            name,
            root=root,
            source=source,
            size=None if size is None else parse_size(size),
            channels=channels,
            force=force,
            progress=progress,
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
