"""What a command is asked about: images, of files or of a prepared split; their observed pixels; untrained models to draw."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raypixel.checkpoint import Checkpoint
from raypixel.cli.progress import bar, say
from raypixel.config import ConfigProblems, apply_overrides, parse_overrides
from raypixel.data.batches import images_as_evaluated
from raypixel.data.levels import to_levels
from raypixel.data.shown import decode_shown, observed_part, observed_picture, shown_levels
from raypixel.data.sources.decoding import losses
from raypixel.data.sources.raw import read_bytes
from raypixel.errors import ConfigError, RaypixelError, did_you_mean
from raypixel.evaluation import open_split
from raypixel.grids import gray_values
from raypixel.models import ModelConfig, model_classes, validate_model_config
from raypixel.runs import find_checkpoint
from raypixel.storage import Location


@dataclass(frozen=True)
class Images:
    """Images at a model's levels.

    Attributes:
        names: What to call each.
        x: Levels, (N, C, H, W), uint8.
        class_labels: (N,) int64 where they are known.
        changes: For each image that a file could not give exactly, what was changed; "" for others.
    """

    names: list[str]
    x: Tensor
    class_labels: Tensor | None
    changes: tuple[str, ...] = ()


def asked_images(
    checkpoint: Checkpoint,
    paths: Sequence[Path],
    split_name: str | None,
    index: str | None,
    *,
    root: Location | None,
) -> Images:
    """Return the images that a command names; say which of the files could not be taken exactly.

    Raises:
        ConfigError: Files and a split are named, or neither; or see `select_images`.
        DataError: See `read_images` and `select_images`.
    """
    if bool(paths) == (split_name is not None):
        got = "both" if paths else "neither"
        raise ConfigError(f"images must be given as files or by --split, got {got}")
    if split_name is not None:
        return select_images(checkpoint, split_name, index, root=root)
    if index is not None:
        raise ConfigError("--index must be given with --split, got files")
    images = read_images(checkpoint, paths)
    changed = [f"{name} ({how})" for name, how in zip(paths, images.changes, strict=True) if how]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        say(f"changed on the way in: {', '.join(changed[:3])}{more}")
    return images


def read_images(checkpoint: Checkpoint, paths: Sequence[Path]) -> Images:
    """Read image files of the model's size, at its levels.

    Two levels are black below 128. More are spread over 0 to 255, or cut from them if the training cut its levels so.

    Raises:
        DataError: A file is no image, or its size or colors are not the model's.
    """
    info = checkpoint.info
    images, lost = [], []
    for path in paths:
        content, where = read_bytes(path), str(path)
        images.append(decode_shown(content, where=where, image_shape=info.image_shape))
        lost.append(losses(content, where=where))
    stacked, num_levels = torch.from_numpy(np.stack(images)), info.num_levels
    x = shown_levels(stacked, num_levels=num_levels, data=info.experiment["data"])
    is_drawn = (torch.from_numpy(gray_values(x, num_levels=num_levels)) == stacked).flatten(1)
    for changed, is_exact in zip(lost, is_drawn.all(1).tolist(), strict=True):
        if not is_exact:
            changed.append(f"values to the model's {num_levels} levels")
    return Images([str(path) for path in paths], x, None, tuple(", ".join(each) for each in lost))


def select_images(
    checkpoint: Checkpoint, split_name: str, index: str | None, *, root: Location | None
) -> Images:
    """Take images from a prepared split, at the levels of training.

    Args:
        checkpoint: Whose data set.
        split_name: "train", "val" or "test".
        index: "8", "0:8", or None for all.
        root: Folder of prepared data sets; None for the one used in training.

    Raises:
        ConfigError: The index is not of this form, or not in the split.
        DataError: The data set is not prepared.
    """
    split, data, manifest = open_split(checkpoint, split_name, root=root)
    chosen = _positions(index, len(split), split_name)
    x = split.images
    if data.binarization == "stochastic":  # all else was applied to the whole split
        x = to_levels(x, data, manifest, generator=torch.Generator().manual_seed(0))
    x = x[chosen]
    labels = None if split.class_labels is None else split.class_labels[chosen]
    return Images([f"{split_name}[{k}]" for k in chosen], x, labels)


def read_image(
    checkpoint: Checkpoint, split_name: str, index: int, *, root: Location | None
) -> tuple[Tensor, int | None, str]:
    """Read an image of the data that a checkpoint was trained on, at its levels.

    Args:
        checkpoint: What was trained.
        split_name: "train", "val" or "test".
        index: Of the image.
        root: Folder of prepared data sets; None for the one used in training.

    Returns:
        The image (C, H, W), its class where there are classes, and the name of the data set.

    Raises:
        DataError: The data set is not prepared.
        RaypixelError: Its images do not fit the model, or it has no such image.
    """
    split, data, manifest = open_split(checkpoint, split_name, root=root)
    if index >= len(split):
        raise RaypixelError(
            f"--index must be below {len(split):,}, the images of {data.name} {split_name}, got {index:,}"
        )
    x = images_as_evaluated(split, data, manifest)[index]  # as it is evaluated
    label = None if split.class_labels is None else int(split.class_labels[index])
    return x, label, data.name


def _positions(index: str | None, count: int, split_name: str) -> list[int]:
    if index is None:
        return list(range(count))
    start, colon, stop = index.partition(":")
    try:
        first = int(start or 0)
        last = (int(stop) if stop else count) if colon else first + 1
    except ValueError:
        raise ConfigError(f"--index must look like 3 or 0:8, got {index!r}") from None
    if not 0 <= first < last <= count:
        rule = f"must lie in 0:{count}, the images of the {split_name} split"
        raise ConfigError(f"--index {rule}, got {index!r}")
    return list(range(first, last))


def parse_observed(text: str, image_shape: tuple[int, int, int]) -> Tensor:
    """Return which sub-pixels are observed, (C, H, W), bool.

    Args:
        text: "top-half", "rows:N" (the first N rows), "columns:N", or the path of a picture whose bright pixels are observed.
        image_shape: (C, H, W).

    Raises:
        ConfigError: The text is none of these, or N does not fit.
        DataError: The picture is not readable, or of another size.
    """
    observed = observed_part(text, image_shape, where="--observed")
    if observed is not None:
        return observed
    if Path(text).suffix:
        return observed_picture(read_bytes(Path(text)), image_shape, where=text)
    rule = "must be top-half, rows:N, columns:N or a picture"
    raise ConfigError(f"--observed {rule}, got {text!r}")


@dataclass(frozen=True)
class Untrained:
    """Untrained models to draw.

    Attributes:
        kind: Name of an architecture, or None for all.
        assignments: Options of that kind, "model.KEY=VALUE".
        shape: Of the images, CxHxW.
    """

    kind: str | None
    assignments: tuple[str, ...]
    shape: str | None

    def or_checkpoint(self, path: Location | None) -> Checkpoint | None:
        """Read the checkpoint if one is named, and refuse options that belong to an untrained model."""
        if path is None:
            return None
        options = {"--model": self.kind, "--set": " ".join(self.assignments), "--shape": self.shape}
        for option, value in options.items():
            if value:
                raise RaypixelError(f"{option} must be left out with a checkpoint, got {value}")
        return find_checkpoint(path)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        if self.shape is None:
            return (1, 15, 15)
        match = re.fullmatch(r"([13])x([1-9]\d{0,2})x([1-9]\d{0,2})", self.shape.strip())
        if match is None:
            raise RaypixelError(
                f"--shape must be CHANNELSxHEIGHTxWIDTH with 1 or 3 channels, got {self.shape!r}"
            )
        channels, height, width = map(int, match.groups())
        return channels, height, width

    def configs(self) -> dict[str, ModelConfig]:
        """Return the config of one kind with its options, or the defaults of every kind.

        Raises:
            ConfigError: The kind or an option is unknown, or options are given without a kind.
        """
        kinds = list(model_classes())
        overrides = parse_overrides(self.assignments)
        if self.kind is None:
            if overrides:
                got = " ".join(self.assignments)
                raise ConfigError(f"--set must come with --model KIND, got {got}")
            return {name: _config(name, {}) for name in kinds}
        if self.kind not in kinds:
            raise ConfigError(
                f"--model must be one of {', '.join(kinds)}, "
                f"got {self.kind!r}{did_you_mean(self.kind, kinds)}"
            )
        return {self.kind: _config(self.kind, overrides)}

    def each(self, label: str) -> Iterator[tuple[str, ModelConfig]]:
        """Yield the configs by their kinds, and show how many are done."""
        configs = self.configs()
        with bar(label, unit="models") as progress:
            for done, named in enumerate(configs.items(), start=1):
                yield named
                progress(done, len(configs))


def _config(kind: str, overrides: Mapping[str, Any]) -> ModelConfig:
    problems = [
        f"--set must change an option of the model, model.KEY=VALUE, got {key!r}"
        for key in overrides
        if not key.startswith("model.") or key == "model.kind"
    ]
    if problems:
        raise ConfigError(problems)
    mapping = apply_overrides({"model": {"kind": kind}}, overrides)
    try:
        return validate_model_config(mapping["model"])
    except ConfigProblems as error:
        raise ConfigError(
            [f"{kind}: model.{'.'.join(where)} {text}" for where, text in error.items]
        ) from None


def parse_position(text: str | None, image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return the row and the column of "ROW,COL"; two thirds down in the middle if there is no text.

    Raises:
        RaypixelError: The text is not of this form, or the pixel is outside the image.
    """
    _, height, width = image_shape
    if text is None:
        return height * 2 // 3, width // 2
    match = re.fullmatch(r"\s*(\d{1,9})\s*,\s*(\d{1,9})\s*", text)
    if match is None:
        raise RaypixelError(f"--at must be ROW,COL counted from 0, got {text!r}")
    row, column = map(int, match.groups())
    if row >= height or column >= width:
        raise RaypixelError(
            f"--at must be inside the image, rows 0 to {height - 1} and columns 0 to {width - 1}, got {row},{column}"
        )
    return row, column
