"""`raypixel evaluate`: use a trained model on a whole split."""

import json

import click

from raypixel.cli.location import CHECKPOINT, LOCATION
from raypixel.cli.progress import bar, counter
from raypixel.storage import Location

CHECKPOINT_ARGUMENT = click.argument("checkpoint", type=CHECKPOINT)
DEVICE_OPTION = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)


@click.command()
@CHECKPOINT_ARGUMENT
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Images to score.",
)
@click.option(
    "--root",
    type=LOCATION,
    help="Folder of prepared data sets, or s3://BUCKET/NAME; default the one used in training.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Images at a time; default as in training."
)
@DEVICE_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    checkpoint: Location,
    split: str,
    root: Location | None,
    device: str,
    batch_size: int | None,
    as_json: bool,
) -> None:
    """Compute the exact likelihood of a data set's split.

    CHECKPOINT is a checkpoint's folder, or a run's folder (its best checkpoint is used), also under s3://.
    """
    from raypixel.evaluation import evaluate_split
    from raypixel.runs import find_checkpoint

    found = find_checkpoint(checkpoint)
    with bar(f"evaluating {split}", unit="images") as progress:
        result = evaluate_split(
            found,
            split,
            root=root,
            device_name=device,
            batch_size=batch_size,
            progress=lambda total: counter(progress, total),
        )
    if as_json:
        click.echo(json.dumps(result.to_mapping()))
        return
    likelihood = result.likelihood
    click.echo(
        f"{result.data_name} ({result.levels}), {split} split, {likelihood.num_images:,} images\n"
        f"  {likelihood.bits_per_dim:.4f} bits/dim\n"
        f"  {likelihood.nats_per_image:.3f} nats, standard error "
        f"{likelihood.standard_error_nats:.3f}"
    )
