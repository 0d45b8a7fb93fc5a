"""Put models into the zoo, and compute the numbers of all its cards again.

    python benchmarks/zoo.py                    every number, on the whole test split (`make results`)
    python benchmarks/zoo.py add NAME RUN --commit C --machine TEXT --published TEXT --license TEXT [--set KEY=VALUE ...]

`add` takes a finished run: it copies its best checkpoint without the optimizer's state, looks at the test split once, times
sampling and writes the card. `--set` are the options that were changed when it was trained. The data is prepared from
RAYPIXEL_TEST_DATA, or downloaded.
"""

import argparse
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from common import data_root, prepared

import raypixel
from raypixel.checkpoint import Checkpoint, Snapshot, write_checkpoint
from raypixel.config import dump_yaml
from raypixel.data import describe_levels, num_levels_of
from raypixel.data.stream import open_split
from raypixel.evaluation import checkpoint_nats, likelihood_of, open_data
from raypixel.experiment import parse_experiment
from raypixel.runs import Run, find_checkpoint
from raypixel.zoo import CARD, FEW_IMAGES, PREFIX, Card, read_card, zoo_folder, zoo_names

TOLERANCE_NATS = 0.005
"""By how much a number may differ: machines add up float32 in other orders."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command")
    adding = commands.add_parser("add")
    adding.add_argument("name")
    adding.add_argument("run", type=Path)
    for option in ("commit", "machine", "published", "license"):
        adding.add_argument(f"--{option}", required=True)
    adding.add_argument("--set", action="append", default=[], dest="options")
    arguments = parser.parse_args()
    if arguments.command == "add":
        add(arguments)
    else:
        are_right = [is_right(name) for name in zoo_names()]
        sys.exit(not all(are_right))


def is_right(name: str) -> bool:
    """Print a model's nats beside its card's, and return whether they agree."""
    card, likelihood = read_card(name), likelihood_of(*test_nats(find_checkpoint(PREFIX + name)))
    nats, error = likelihood.nats_per_image, likelihood.standard_error_nats
    off = abs(nats - card.nll_nats)
    print(
        f"{name:<32} {nats:9.3f} nats, standard error {error:.3f}, {likelihood.num_images:,} images; "
        f"card {card.nll_nats:.3f}{'' if off <= TOLERANCE_NATS else ': DIFFERS'}"
    )
    return off <= TOLERANCE_NATS


def test_nats(checkpoint: Checkpoint) -> tuple[torch.Tensor, int]:
    """Return the nats of each image of the test split, and their dimensions."""
    config = parse_experiment(checkpoint.info.experiment, where=str(checkpoint.where))
    prepared(config.data.name, data_root())
    data, manifest = open_data(checkpoint, root=data_root())
    split = open_split(data.model_copy(update={"backend": "memory"}), manifest, "test")
    nats = checkpoint_nats(checkpoint, split, manifest, device=torch.device("cpu"))
    return nats, manifest.num_dims


def add(arguments: argparse.Namespace) -> None:
    """Copy a run's best checkpoint and write its card."""
    run = Run.at(arguments.run)
    checkpoint = run.best()
    config = parse_experiment(checkpoint.info.experiment, where=str(checkpoint.where))
    experiment = config.to_mapping()
    experiment["data"]["root"] = "data"  # where it lay in training is nobody's business
    folder = zoo_folder() / arguments.name
    shutil.rmtree(folder, ignore_errors=True)
    info = replace(checkpoint.info, experiment=experiment)
    write_checkpoint(folder, Snapshot(checkpoint.weights(), {}, checkpoint.state), info)

    nats, num_dims = test_nats(checkpoint)
    likelihood = likelihood_of(nats, num_dims)
    data, manifest = open_data(checkpoint, root=data_root())
    card = Card(
        recipe=config.name,
        options=tuple(arguments.options),
        commit=arguments.commit,
        hours=round(run.last().state["seconds"] / 3600, 2),
        machine=arguments.machine,
        data=data.name,
        levels=describe_levels(data, num_levels_of(data, manifest)),
        num_images=likelihood.num_images,
        nll_nats=round(likelihood.nats_per_image, 4),
        standard_error_nats=round(likelihood.standard_error_nats, 4),
        bits_per_dim=round(likelihood.bits_per_dim, 5),
        few_nll_nats=round(float(nats[:FEW_IMAGES].mean()), 4),
        published=arguments.published,
        num_parameters=sum(tensor.numel() for tensor in checkpoint.load_model().parameters()),
        sampling_seconds=round(sampling_seconds(folder), 4),
        license=arguments.license,
    )
    (folder / CARD).write_text(dump_yaml(card))
    print((folder / CARD).read_text(), end="")


def sampling_seconds(folder: Path) -> float:
    """Return the time in which one image is drawn, the fastest of three after the first."""
    model = raypixel.load(folder, device="cpu")
    seconds = []
    for seed in range(4):
        started = time.perf_counter()
        model.sample(1, seed=seed)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


if __name__ == "__main__":
    main()
