"""Training speed: images/s, share of the machine's matrix-multiply rate, and what Ray and our loop add.

    python benchmarks/training.py mnist_pixelcnn --steps 100 --rounds 3

Three loops over the same batches from memory take turns: a bare PyTorch loop written here, `raypixel.training.train` in
this process, and `raypixel train` with one Ray worker. Steady state: from the tenth step to the last.
"""

import shutil
import tempfile
import time
from pathlib import Path

import click
import torch
from common import data_root, matmul_rate, median, prepared
from torch.utils.flop_counter import FlopCounterMode

from raypixel.data import Manifest
from raypixel.experiment import ExperimentConfig, build_experiment_model, load_experiment
from raypixel.nn.likelihoods import nll_nats
from raypixel.optimization import make_optimizer
from raypixel.runs import Event, Run
from raypixel.train.ray_cluster import cluster
from raypixel.train.start import read_splits, train

WARM_UP = 10


def bare_images_per_second(config: ExperimentConfig, manifest: Manifest, steps: int) -> float:
    """Train in the plainest way: shuffled slices of a tensor, forward, backward, step."""
    splits = read_splits(config.data, manifest)
    torch.manual_seed(0)
    model = build_experiment_model(config, manifest).to(memory_format=torch.channels_last)
    model.train()
    optimizer = make_optimizer(config.training, model)
    images, size = splits["train"].images, config.training.batch_size
    order = torch.randperm(len(images))
    num_dims = images[0].numel()
    for step in range(steps):
        if step == WARM_UP:
            started = time.perf_counter()
        x = images[order[step * size : (step + 1) * size]]
        with torch.autocast("cpu", torch.bfloat16, enabled=config.training.precision == "bf16"):
            params = model(x)
        loss = nll_nats(model.likelihood, params, x).sum() / (size * num_dims)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return (steps - WARM_UP) * size / (time.perf_counter() - started)


def our_images_per_second(config: ExperimentConfig, manifest: Manifest) -> float:
    """Train through `raypixel.train.start`, and read the rate off the events of the training process."""
    seconds: dict[int, float] = {}

    def watch(event: Event) -> None:
        if event.kind == "step":
            seconds[event.step] = event.seconds

    folder = Path(tempfile.mkdtemp(prefix="raypixel-benchmark-"))
    try:
        run = Run.at(folder)
        train(run.begin(config, manifest, resume=False), manifest, run, on_event=watch)
    finally:
        shutil.rmtree(folder)
    first = min(step for step in seconds if step >= WARM_UP)
    last = max(seconds)
    images = (last - first) * config.training.batch_size
    return images / (seconds[last] - seconds[first])


def flops_per_image(config: ExperimentConfig, manifest: Manifest) -> float:
    """Count the multiplications and additions of a training step, forward and backward."""
    model = build_experiment_model(config, manifest)
    x = torch.zeros((2, *manifest.image_shape), dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        nll_nats(model.likelihood, model(x), x).sum().backward()
    return counter.get_total_flops() / len(x)


@click.command()
@click.argument("recipe", default="mnist_pixelcnn")
@click.option("--steps", default=100, show_default=True, help="Training steps of each loop.")
@click.option("--rounds", default=3, show_default=True, help="Turns of each loop.")
def main(recipe: str, steps: int, rounds: int) -> None:
    """Print images/s, step time, share of the matrix-multiply rate and overhead of a RECIPE."""
    overrides = {
        "data.root": str(data_root()),
        "training.max_steps": steps,
        "data.max_eval_images": 64,
    }
    config = load_experiment(recipe, {**overrides, "scaling.num_workers": 1})
    local = load_experiment(recipe, {**overrides, "scaling.num_workers": 0})
    manifest = prepared(config.data.name, data_root())
    dtype = torch.bfloat16 if config.training.precision == "bf16" else torch.float32
    rate = matmul_rate(dtype)
    bare, ours, on_ray = [], [], []
    with cluster():
        for _ in range(rounds):
            bare.append(bare_images_per_second(config, manifest, steps))
            ours.append(our_images_per_second(local, manifest))
            on_ray.append(our_images_per_second(config, manifest))
    flops = flops_per_image(config, manifest)
    size = config.training.batch_size
    print(f"{recipe}: batch {size}, {config.training.precision}, {torch.get_num_threads()} threads")
    print(f"matrix-multiply rate      {rate / 1e9:8.0f} GFLOP/s ({dtype}, 2048 x 2048)")
    print(f"operations per image      {flops / 1e6:8.1f} MFLOP, forward and backward")
    for name, values in (
        ("bare loop", bare),
        ("raypixel, this process", ours),
        ("raypixel, one Ray worker", on_ray),
    ):
        speed = median(values)
        ratio = median([value / base for value, base in zip(values, bare, strict=True)])
        print(
            f"{name:<25} {speed:8.1f} images/s, step {1000 * size / speed:6.1f} ms, "
            f"{100 * speed * flops / rate:4.1f}% of the rate, {ratio:.3f} of the bare loop"
        )


if __name__ == "__main__":
    main()
