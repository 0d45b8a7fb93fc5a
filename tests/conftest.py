"""Fixtures that several folders share: prepared digits, a tiny experiment, one private Ray cluster."""

import os
from pathlib import Path

import pytest

from raypixel.data import Manifest, prepare
from raypixel.experiment import ExperimentConfig, load_experiment


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that start Ray first: they are the long ones, and processes share the tests out by file in this order."""
    files = {item.path for item in items if item.get_closest_marker("ray") is not None}
    items.sort(key=lambda item: item.path not in files)


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    prepare("digits", root=root)
    return root


@pytest.fixture(scope="session")
def digits(digits_root) -> Manifest:
    from raypixel.data import load_manifest

    return load_manifest(digits_root, "digits")


@pytest.fixture
def tiny(digits_root):
    """Make a small experiment on digits with some options changed."""

    def make(**changes) -> ExperimentConfig:
        overrides = {
            "model.hidden_size": 8,
            "model.num_layers": 1,
            "model.output_size": 8,
            "data.root": str(digits_root),
            "data.max_train_images": 100,
            "data.max_eval_images": 50,
            "training.num_epochs": 2,
            "scaling.num_workers": 0,
        }
        overrides |= {key.replace("__", "."): value for key, value in changes.items()}
        return load_experiment("digits_pixelcnn", overrides)

    return make


@pytest.fixture(scope="session")
def ray_cluster():
    """Start the one private Ray cluster of the test session."""
    from raypixel.jobs import session

    os.environ.pop("RAY_ADDRESS", None)
    with session.cluster():
        yield


@pytest.fixture
def private_mlflow(tmp_path, monkeypatch) -> str:
    """Point MLflow at a store of this test's own."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    return uri
