"""Small models, and one service of them without Ray, for all tests of the HTTP contract."""

import pytest

from tests.serving.service import serving, write_model


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Return checkpoints of three small models: gray, class-conditional, and RGB of two levels."""
    root = tmp_path_factory.mktemp("models")
    classes = {"kind": "gated_pixelcnn", "use_class_conditioning": True}
    return {
        "gray": str(write_model(root / "gray")),
        "classes": str(
            write_model(root / "classes", num_classes=3, image_shape=(1, 4, 4), **classes)
        ),
        "color": str(write_model(root / "color", image_shape=(3, 4, 5), num_levels=2)),
    }


@pytest.fixture(scope="session")
def service(models):
    with serving(models=models) as running:
        yield running


@pytest.fixture
def client(service):
    with service.client() as opened:
        yield opened
