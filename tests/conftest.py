"""Fixtures that several folders share: prepared digits, a tiny experiment, one private Ray cluster, one S3 endpoint."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from raypixel.data import Manifest, prepare
from raypixel.experiment import ExperimentConfig, load_experiment
from raypixel.storage import Remote


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that start Ray first: they are the long ones, and processes share the tests out by file in this order."""
    files = {item.path for item in items if item.get_closest_marker("ray") is not None}
    items.sort(key=lambda item: item.path not in files)
    for item in items:
        # dozens of processes on a machine that others use too, some of them killed: by bad luck one may miss a deadline of
        # Ray's. A law that is broken is broken twice. The summary counts what was tried again
        if item.get_closest_marker("ray") or item.get_closest_marker("serve"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets, where it is there."""
    path = Path(os.environ.get("RAYPIXEL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (path / "mnist").is_dir():
        pytest.skip(f"no real data at {path}: set RAYPIXEL_TEST_DATA")
    return path


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

    def make(recipe: str = "digits_pixelcnn", **changes) -> ExperimentConfig:
        overrides = {
            "model.hidden_size": 8,
            "model.num_layers": 1,
            "model.output_size": 8,
            "data.root": str(digits_root),
            "data.backend": "memory",
            "data.max_train_images": 100,
            "data.max_eval_images": 50,
            "training.num_epochs": 2,
            "scaling.num_workers": 0,
        }
        overrides |= {key.replace("__", "."): value for key, value in changes.items()}
        if recipe != "digits_pixelcnn":  # which alone has these layers
            del overrides["model.output_size"]
        return load_experiment(recipe, overrides)

    return make


@pytest.fixture(scope="session")
def ray_cluster():
    """Start the one private Ray cluster of the test session."""
    from raypixel.train import ray_cluster as cluster_of_ray

    os.environ.pop("RAY_ADDRESS", None)
    with cluster_of_ray.cluster():
        yield


@pytest.fixture
def private_mlflow(tmp_path, monkeypatch) -> str:
    """Point MLflow at a store of this test's own."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    return uri


@pytest.fixture(scope="session")
def s3_endpoint():
    """Run an S3 server of our own and return its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def bucket(s3_endpoint, tmp_path, monkeypatch) -> Remote:
    """Make an empty bucket, and an empty cache of working copies."""
    from pyarrow import fs

    variables = {
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": s3_endpoint,
        "RAYPIXEL_CACHE": str(tmp_path / "cache"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    name = f"test-{uuid.uuid4().hex}"
    host = s3_endpoint.removeprefix("http://")
    options = {"access_key": "someone", "secret_key": "secret", "scheme": "http"}
    files = fs.S3FileSystem(endpoint_override=host, allow_bucket_creation=True, **options)
    files.create_dir(name)
    return Remote(f"s3://{name}")
