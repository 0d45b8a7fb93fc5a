"""Reading speed: images/s into one consumer, from memory and through Ray Data.

    python benchmarks/data.py mnist --batch-size 64 --rounds 3

Four ways to deliver one shuffled epoch of the train split: a bare tensor indexed by a permutation (the floor),
`raypixel.data.batches.TrainBatches` over memory, the same over the object store after `train.staging.stage` (Ray Data, what
training uses), and Ray Data's own `iter_torch_batches`.
"""

import time
from collections.abc import Iterable

import click
import torch
from common import data_root, median, prepared

from raypixel.data import DataConfig
from raypixel.data.batches import TrainBatches
from raypixel.data.splits import read_split, shard_paths
from raypixel.train import ray_cluster, staging


def images_per_second(batches: Iterable[int]) -> float:
    """Exhaust an iterable of batch sizes and return the rate."""
    started = time.perf_counter()
    count = sum(batches)
    return count / (time.perf_counter() - started)


@click.command()
@click.argument("name", default="mnist")
@click.option("--batch-size", default=64, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(name: str, batch_size: int, rounds: int) -> None:
    """Print images/s of each way to read the train split of NAME."""
    manifest = prepared(name, data_root())
    config = DataConfig(name=name, root=data_root(), backend="memory")
    split = read_split(data_root(), name, "train")
    rates: dict[str, list[float]] = {}

    def measure(what: str, batches: Iterable[int]) -> None:
        rates.setdefault(what, []).append(images_per_second(batches))

    with ray_cluster.cluster():
        import ray.data

        started = time.perf_counter()
        staged = staging.stage(config, manifest, ("train",))
        seconds_staging = time.perf_counter() - started
        mapped = staging.open_staged(staged, config, manifest)["train"]
        paths = [str(path) for path in shard_paths(data_root(), name, "train")]
        for epoch in range(rounds):
            order = torch.randperm(len(split)).split(batch_size)
            measure("bare tensor", (len(split.images[chosen]) for chosen in order))
            for what, source in (
                ("our loader, memory", split),
                ("our loader, Ray object store", mapped),
            ):
                loader = TrainBatches(source, config, manifest, batch_size=batch_size, seed=0)
                measure(what, (len(batch.x) for batch in loader.epoch(epoch)))
            stream = (
                ray.data.read_parquet(paths)
                .select_columns(["image"])
                .iter_torch_batches(
                    batch_size=batch_size, local_shuffle_buffer_size=4096, local_shuffle_seed=epoch
                )
            )
            measure("Ray Data iter_torch_batches", (len(batch["image"]) for batch in stream))
    print(f"{name}: {len(split):,} images {manifest.image_shape}, batches of {batch_size}")
    print(f"staging through Ray Data, once a training: {seconds_staging:.1f} s")
    base = rates["bare tensor"]
    for what, values in rates.items():
        ratio = median([value / other for value, other in zip(values, base, strict=True)])
        print(f"{what:<30} {median(values):12,.0f} images/s, {ratio:.4f} of the bare tensor")


if __name__ == "__main__":
    main()
