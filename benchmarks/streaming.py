"""Streaming a set that is made on the fly: images/s, memory against the bound, time to the first batch and to resume.

    python benchmarks/streaming.py --gib 2 --memory-mib 256

Makes that many GiB of 64x64 RGB images in a temporary folder (about as much disk, at most), reads a shuffled epoch in this
process (a thread reads ahead) and inside a Ray task (Ray Data reads ahead), and removes the folder.
"""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import psutil

from raypixel.data import DataConfig, Manifest, Origin
from raypixel.data.batches import TrainBatches
from raypixel.data.shards import write_split
from raypixel.data.sources.raw import RawSplit
from raypixel.data.stream import DeliverFn, open_stream, read_ahead
from raypixel.train import ray_cluster, staging

SHAPE = (3, 64, 64)
NUM_DIMS = 3 * 64 * 64
NAME = "synthetic"
BATCH = 128


class Peak:
    """Sample this process's memory: that of its own and that shared with the object store and the files' cache, MiB."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.base = self._own()
        self.own = self.shared = 0.0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Peak":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self.thread.join()

    def _own(self) -> float:
        memory = self.process.memory_info()
        return (memory.rss - memory.shared) / 2**20

    def _run(self) -> None:
        while not self.is_over.wait(0.02):
            self.own = max(self.own, self._own() - self.base)
            self.shared = max(self.shared, self.process.memory_info().shared / 2**20)


def make(root: Path, num_images: int) -> Manifest:
    """Write a set of noisy color blocks, which compress about as well as photographs of this size."""
    (root / NAME).mkdir(parents=True)
    generator = np.random.default_rng(0)

    def batches(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, count, 1024):
            length = min(1024, count - start)
            coarse = generator.integers(0, 224, (length, 3, 8, 8), dtype=np.uint8)
            noise = generator.integers(0, 32, (length, *SHAPE), dtype=np.uint8)
            yield coarse.repeat(8, 2).repeat(8, 3) + noise, np.arange(start, start + length) % 10

    splits = {
        name: write_split(
            root / NAME,
            name,
            split=RawSplit(count, lambda count=count: batches(count)),
            image_shape=SHAPE,
            has_labels=True,
            advance=lambda _: None,
        )
        for name, count in {"train": num_images, "val": 1000, "test": 1000}.items()
    }
    manifest = Manifest(
        name=NAME,
        format_version=1,
        image_shape=SHAPE,
        num_levels=256,
        num_classes=10,
        class_names=tuple("0123456789"),
        splits=splits,
        origin=Origin(source="benchmark"),
    )
    (root / NAME / "manifest.json").write_text(manifest.model_dump_json())
    return manifest


def consume(config: DataConfig, manifest: Manifest, deliver: DeliverFn) -> dict[str, float]:
    """Read the first images of an epoch, a whole epoch and the rest of one, and return what it took."""
    split = open_stream(config, manifest, "train", deliver=deliver)
    batches = TrainBatches(split, config, manifest, batch_size=BATCH, seed=0)
    with Peak() as peak:
        first = _seconds(lambda: next(batches.epoch(0)))
        started = time.perf_counter()
        count = sum(len(batch.x) for batch in batches.epoch(1))
        seconds = time.perf_counter() - started
        next_epoch = _seconds(lambda: next(batches.epoch(2)))
        resume = _seconds(lambda: next(batches.epoch(3, start_step=batches.num_steps // 2)))
    batches.close()
    return {
        "images": count,
        "images/s": count / seconds,
        "first batch s": first,
        "next epoch s": next_epoch,
        "resume in the middle s": resume,
        "own MiB": peak.own,
        "shared MiB": peak.shared,
    }


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


@click.command()
@click.option("--gib", default=2.0, show_default=True, help="Size of the images in memory.")
@click.option("--memory-mib", default=512, show_default=True, help="data.stream_memory_mib.")
def main(gib: float, memory_mib: int) -> None:
    """Print how a set of GIB is streamed in MEMORY_MIB."""
    num_images = int(gib * 2**30 / NUM_DIMS)
    root = Path(tempfile.mkdtemp(prefix="raypixel-streaming-"))
    if shutil.disk_usage(root).free < 1.2 * gib * 2**30:
        raise SystemExit(f"{root}: must have {1.2 * gib:.1f} GiB free")
    try:
        seconds = time.perf_counter()
        manifest = make(root, num_images)
        disk = sum(path.stat().st_size for path in (root / NAME).iterdir()) / 2**30
        print(
            f"{num_images:,} images, {gib:g} GiB, {disk:.2f} GiB on disk, "
            f"written in {time.perf_counter() - seconds:.0f} s; at most {memory_mib} MiB in memory"
        )
        config = DataConfig(name=NAME, root=root, backend="stream", stream_memory_mib=memory_mib)
        _print("this process, a thread reads ahead", consume(config, manifest, read_ahead))
        with ray_cluster.cluster():
            import ray

            task = ray.remote(consume)
            result = ray.get(task.remote(config, manifest, staging.deliver))
            _print("a Ray task, Ray Data reads ahead", result)
    finally:
        shutil.rmtree(root)


def _print(what: str, numbers: dict[str, float]) -> None:
    print(what)
    for name, value in numbers.items():
        print(f"  {name:<24} {value:12,.2f}", flush=True)


if __name__ == "__main__":
    main()
