"""Checkpoints: a directory that rebuilds a model and continues its training, with nothing pickled.

    step-00000940/
        model.safetensors      weights for use (the EMA's where there is one)
        training.safetensors   optimizer state, and the raw weights where an EMA is used
        config.yaml            the experiment, image shape, levels and classes
        state.json             position in the training, history of the best
        checkpoint.json        format version, size and sha256 of the files above; written last

A directory is written under a temporary name and renamed, so one that is there is complete; `checkpoint.json` also
catches what happens to it afterwards (a truncated copy, a foreign file). Random state needs no bytes: every draw of
a training is a function of (seed, epoch, step), see `raypixel.training`.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from raypixel.config import dump_yaml, load_yaml, parse_json
from raypixel.errors import CheckpointError, ConfigError, RaypixelError
from raypixel.models import PixelModel, build_model, validate_model_config
from raypixel.models.size import num_parameters
from raypixel.storage import Location

FORMAT_VERSION = 2
_READ_VERSIONS = (1, 2)
INDEX = "checkpoint.json"
_MOST_DIMS = 1 << 24
"""Sub-pixels of an image: 2,000 by 2,000 in color and more. What claims to be larger is no image of anybody's."""
_RENAMED = (
    (r"blocks\.(\d+)\.narrow\.0\.", r"stack.layers.\1.norm."),
    (r"blocks\.(\d+)\.narrow\.2\.", r"stack.layers.\1.narrow."),
    (r"blocks\.(\d+)\.widen\.1\.", r"stack.layers.\1.widen."),
    (r"(?:blocks|layers)\.", "stack.layers."),
    (r"skips\.convolutions\.", "stack.skips."),
    (r"head\.layers\.1\.", "stack.head.first."),
    (r"head\.layers\.3\.", "stack.head.last."),
)
"""Beginnings of weights' names in version 1, and what they are now; the first that fits counts."""
_FILES = ("model.safetensors", "training.safetensors", "config.yaml", "state.json")


@dataclass(frozen=True)
class Snapshot:
    """What a training hands over to be saved; tensors are live and valid only during the call.

    Attributes:
        weights: The model's parameters and buffers for use, by name.
        tensors: What else continuing needs, by name.
        state: Plain numbers and texts that continuing needs.
    """

    weights: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


@dataclass(frozen=True)
class ModelInfo:
    """What `config.yaml` holds beside the weights.

    Attributes:
        experiment: The whole experiment as a mapping; `experiment["model"]` rebuilds the model.
        image_shape: (C, H, W).
        num_levels: Levels of a sub-pixel after the data options.
        num_classes: Classes of the data set, 0 where it has none.
    """

    experiment: Mapping[str, Any]
    image_shape: tuple[int, int, int]
    num_levels: int
    num_classes: int


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files were found complete.

    Attributes:
        path: Its directory.
        info: What its model is.
        state: Where its training stands.
        origin: What to call it, where that is not `path`: the place in storage of which it is a copy, or `zoo:NAME`.
        format_version: With which version it was written.
    """

    path: Path
    info: ModelInfo
    state: Mapping[str, Any]
    origin: Location | None = None
    format_version: int = FORMAT_VERSION

    @property
    def where(self) -> Location:
        """What to call it."""
        return self.origin or self.path

    def load_model(self, device: torch.device | None = None) -> PixelModel:
        """Rebuild the model with its weights, in evaluation mode.

        Raises:
            CheckpointError: The weights do not fit the config, or are not finite.
        """
        weights = self.weights()
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise CheckpointError(f"{self.path}: weights must be finite, got a NaN or an infinity")
        facts: dict[str, Any] = {
            "image_shape": self.info.image_shape,
            "num_levels": self.info.num_levels,
            "num_classes": self.info.num_classes,
        }
        try:
            config = validate_model_config(self.info.experiment["model"])
            # before memory is taken: a config may claim any size; of one near that of the weights torch says more
            most = 16 * sum(tensor.numel() for tensor in weights.values())
            num_parameters(config, **facts, most=most)
            model = build_model(config, **facts)
            model.load_state_dict(weights)
        except (RuntimeError, ValueError, KeyError, TypeError, ConfigError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{self.path}: weights do not fit config.yaml: {reason}"
            ) from None
        return model.to(device or torch.device("cpu")).eval()

    def training_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of `Snapshot.tensors`."""
        return self._tensors("training.safetensors")

    def weights(self) -> dict[str, Tensor]:
        """Return the tensors of `Snapshot.weights`."""
        return self._tensors("model.safetensors")

    def _tensors(self, name: str) -> dict[str, Tensor]:
        tensors = _load_tensors(self.path / name)
        if self.format_version == FORMAT_VERSION:
            return tensors
        return {_renamed(name): tensor for name, tensor in tensors.items()}


def write_checkpoint(path: Path, snapshot: Snapshot, info: ModelInfo) -> None:
    """Write a checkpoint directory; it appears complete or not at all.

    Raises:
        CheckpointError: The directory cannot be written, for example because the disk is full.
    """
    temporary = path.parent / f".{path.name}.tmp"
    replaced = path.parent / f".{path.name}.replaced.tmp"
    try:
        for leftover in path.parent.glob(".*.tmp"):  # of a killed process; there is one writer
            shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
        _save_tensors(temporary / "model.safetensors", snapshot.weights)
        _save_tensors(temporary / "training.safetensors", snapshot.tensors)
        config = {
            "image_shape": list(info.image_shape),
            "num_levels": info.num_levels,
            "num_classes": info.num_classes,
            "experiment": dict(info.experiment),
        }
        (temporary / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
        (temporary / "state.json").write_text(json.dumps(dict(snapshot.state), indent=1))
        files = {
            name: {"bytes": (temporary / name).stat().st_size, "sha256": _sha256(temporary / name)}
            for name in _FILES
        }
        index = {"format": "raypixel-checkpoint", "format_version": FORMAT_VERSION, "files": files}
        (temporary / INDEX).write_text(json.dumps(index, indent=1))
        for file in temporary.iterdir():
            _fsync(file)
        _fsync(temporary)
        if path.exists():  # the same step again, after resuming from an earlier one
            path.rename(replaced)
        temporary.rename(path)
        _fsync(path.parent)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise CheckpointError(f"{path}: cannot be written ({reason})") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Check a checkpoint directory and read its config and state.

    Raises:
        CheckpointError: It is missing, truncated, altered, of another program or of a newer version.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: must be a checkpoint directory, got {_kind(path)}")
    try:
        index = parse_json((path / INDEX).read_text())
        version, is_ours = index["format_version"], index["format"] == "raypixel-checkpoint"
        entries = index["files"] if is_ours and version in _READ_VERSIONS else {}
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in entries.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is not a raypixel checkpoint, {INDEX} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: is damaged, {INDEX} cannot be read") from None
    if not is_ours or version not in _READ_VERSIONS:
        raise CheckpointError(
            f"{path}: format_version must be at most {FORMAT_VERSION}, got {version!r} "
            "(written by another version of raypixel?)"
        )
    for name in _FILES:
        _check_file(path, name, files.get(name))
    try:
        config = load_yaml(path / "config.yaml")
        info = _info(config)
        state = parse_json((path / "state.json").read_text())
    except (KeyError, TypeError, ValueError, RaypixelError):
        raise CheckpointError(
            f"{path}: is damaged, config.yaml or state.json is not ours"
        ) from None
    return Checkpoint(path, info, state, format_version=version)


def _info(config: Mapping[str, Any]) -> ModelInfo:
    """Read config.yaml's content.

    Raises:
        KeyError, TypeError, ValueError: It is not ours.
    """
    experiment = dict(config["experiment"])
    channels, height, width = (_bounded(n, 1, 1 << 16) for n in config["image_shape"])
    _bounded(channels * height * width, 1, _MOST_DIMS)
    levels, classes = config["num_levels"], config["num_classes"]
    return ModelInfo(
        experiment,
        (channels, height, width),
        _bounded(levels, 2, 256),
        _bounded(classes, 0, 1 << 20),
    )


def _bounded(value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(value)
    return value


def _renamed(name: str) -> str:
    """Return today's name of a tensor of a checkpoint of version 1, also of a raw weight or of a part of `multiscale`."""
    inside = re.match(r"(raw\.|base\.|conditional\.)*", name)
    assert inside is not None
    prefix, name = name[: inside.end()], name[inside.end() :]
    for old, new in _RENAMED:
        if re.match(old, name):
            return prefix + re.sub(old, new, name, count=1)
    return prefix + name


class CheckpointStore:
    """The checkpoints of one training: the newest and the best, under the links `last` and `best`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def best(self) -> Path:
        """Link to the checkpoint with the lowest validation likelihood."""
        return self.directory / "best"

    @property
    def last(self) -> Path:
        """Link to the newest checkpoint."""
        return self.directory / "last"

    def save(self, snapshot: Snapshot, info: ModelInfo, *, step: int, is_best: bool) -> Path:
        """Write a checkpoint, move the links, and delete what no link names any more."""
        path = self.directory / f"step-{step:08d}"
        write_checkpoint(path, snapshot, info)
        if is_best or not self.best.exists():
            self.link(self.best, path)
        self.link(self.last, path)
        kept = {self.last.resolve(), self.best.resolve()}
        for old in self.directory.glob("step-*"):
            if old.resolve() not in kept:
                shutil.rmtree(old)
        return path

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest complete checkpoint, and a line for each damaged one passed over."""
        problems: list[str] = []
        for path in sorted(self.directory.glob("step-*"), reverse=True):
            try:
                checkpoint = read_checkpoint(path)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            step = checkpoint.state.get("step")
            if step is not None and step == checkpoint.state.get("best_step"):
                self.link(self.best, path)  # its process may have been killed before it did
            return checkpoint, problems
        return None, problems

    def link(self, link: Path, target: Path) -> None:
        """Point a link at a checkpoint, whatever it pointed at before."""
        temporary = link.with_name(f".{link.name}.link")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        temporary.replace(link)


def _check_file(path: Path, name: str, expected: tuple[int, str] | None) -> None:
    file = path / name
    if expected is None or not file.is_file():
        raise CheckpointError(f"{path}: is incomplete, {name} is missing")
    size, digest = expected
    if file.stat().st_size != size:
        raise CheckpointError(
            f"{file}: is truncated or altered, must have {size} bytes, got {file.stat().st_size}"
        )
    if _sha256(file) != digest:
        raise CheckpointError(f"{file}: is damaged, its sha256 is not that of {INDEX}")


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _kind(path: Path) -> str:
    return "a file" if path.is_file() else "nothing there"
