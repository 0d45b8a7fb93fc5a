"""`raypixel evaluate` and `raypixel sample`: use a trained model."""

import json
from pathlib import Path

import click

from raypixel.cli.progress import bar, counter, say

CHECKPOINT_ARGUMENT = click.argument("checkpoint", type=click.Path(path_type=Path))
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
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of prepared data sets; default the one used in training.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Images at a time; default as in training."
)
@DEVICE_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    checkpoint: Path,
    split: str,
    root: Path | None,
    device: str,
    batch_size: int | None,
    as_json: bool,
) -> None:
    """Compute the exact likelihood of a data set's split.

    CHECKPOINT is a checkpoint's folder, or a run's folder (its best checkpoint is used).
    """
    from raypixel.jobs.evaluate import evaluate as run_evaluation
    from raypixel.jobs.evaluate import resolve_checkpoint

    found = resolve_checkpoint(checkpoint)
    with bar(f"evaluating {split}", unit="images") as progress:
        result = run_evaluation(
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


@click.command()
@CHECKPOINT_ARGUMENT
@click.option("-n", "num_images", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Divides the logits: less than 1 sharpens the distribution.",
)
@click.option("--class", "class_label", type=int, help="Class, for a class-conditional model.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("samples.png"),
    show_default=True,
    help="Picture to write.",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@DEVICE_OPTION
def sample(
    checkpoint: Path,
    num_images: int,
    seed: int,
    temperature: float,
    class_label: int | None,
    out: Path,
    batch_size: int,
    device: str,
) -> None:
    """Draw images from a model and lay them out in one picture.

    Image k depends on the seed and k alone: the same whatever -n and --batch-size are, but for float32 rounding, which can
    turn a near-tie. CHECKPOINT is a checkpoint's or a run's folder.
    """
    import math

    from raypixel.figures import check_picture_path, image_grid, save_image
    from raypixel.jobs.evaluate import resolve_checkpoint
    from raypixel.jobs.sample import draw
    from raypixel.jobs.worker import choose_device

    check_picture_path(out)
    found = resolve_checkpoint(checkpoint)
    model = found.load_model(choose_device(device))
    total = math.prod(found.info.image_shape) * math.ceil(num_images / batch_size)
    with bar("sampling", unit="sub-pixels") as progress:
        x = draw(
            model,
            num_images,
            seed=seed,
            temperature=temperature,
            class_label=class_label,
            batch_size=batch_size,
            progress=counter(progress, total),
        )
    save_image(image_grid(x, num_levels=found.info.num_levels), out)
    say(f"{num_images} samples of {found.path}, seed {seed}")
    click.echo(str(out))
