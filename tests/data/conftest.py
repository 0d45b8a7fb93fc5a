"""Fixtures of the data tests: small sources written by the tests themselves, and the real files when they are there."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raypixel.data import Manifest, prepare


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with prepared digits, not to be changed."""
    root = tmp_path_factory.mktemp("digits")
    prepare("digits", root=root)
    return root


@pytest.fixture
def own_digits(tmp_path: Path) -> tuple[Path, Manifest]:
    """A root with prepared digits that a test may damage."""
    root = tmp_path / "data"
    return root, prepare("digits", root=root)


def write_images(folder: Path, count: int, *, size=(4, 5), mode="RGB", seed=0) -> list[np.ndarray]:
    """Write PNG files 000.png, 001.png, ... of (height, width) and return their arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = size if mode == "L" else (*size, len(mode))
    arrays = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{number:03d}.png")
    return list(arrays)


@pytest.fixture(scope="session")
def real_sets(
    real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Manifest]]:
    """The three real data sets, prepared once."""
    root = tmp_path_factory.mktemp("real")
    names = ("mnist", "binarized_mnist", "cifar10")
    return root, {name: prepare(name, root=root, source=real_data / name) for name in names}
