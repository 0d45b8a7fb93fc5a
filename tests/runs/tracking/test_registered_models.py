"""MLflow's registry: what is registered comes back byte for byte, and only if it is a checkpoint of ours."""

import pytest

from raypixel.checkpoint import read_checkpoint
from raypixel.errors import CheckpointError
from raypixel.runs.tracking import TrackingError
from raypixel.runs.tracking.registered_models import fetch_model, register_model
from tests.serving.service import write_model


def test_a_registered_checkpoint_is_fetched_by_alias_and_version(tmp_path, private_mlflow):
    first = read_checkpoint(write_model(tmp_path / "first"))
    second = read_checkpoint(write_model(tmp_path / "second", hidden_size=6))
    made = register_model(first, "digits", alias="champion")
    assert (made.version, made.uri) == (1, "models:/digits@champion")
    assert register_model(second, "digits").uri == "models:/digits/2"

    downloads = tmp_path / "downloads"
    fetched = fetch_model("models:/digits@champion", downloads)
    for file in first.path.iterdir():
        assert (fetched / file.name).read_bytes() == file.read_bytes()
    assert fetch_model("models:/digits/1", downloads) == fetched
    register_model(second, "digits", alias="champion")
    moved = fetch_model("models:/digits@champion", downloads)
    assert read_checkpoint(moved).info.experiment == second.info.experiment
    assert len(list(downloads.iterdir())) == 2

    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="is damaged"):
        fetch_model("models:/digits@champion", downloads)
    with pytest.raises(TrackingError, match="models:/digits@challenger is not there"):
        fetch_model("models:/digits@challenger", downloads)
    with pytest.raises(TrackingError, match=r"must be models:/NAME@ALIAS or .* got 'models:/x'"):
        fetch_model("models:/x", downloads)


@pytest.mark.parametrize(
    ("name", "alias"), [("digits", "v1"), ("digits", "Latest"), ("digits", "a b"), ("a/b", None)]
)
def test_a_name_that_cannot_be_is_refused_before_anything_is_made(
    tmp_path, private_mlflow, name, alias
):
    checkpoint = read_checkpoint(write_model(tmp_path / "first"))
    with pytest.raises(TrackingError, match=f"must .* got '{alias or name}'"):
        register_model(checkpoint, name, alias=alias)
    with pytest.raises(TrackingError, match="models:/digits/1 is not there"):
        fetch_model("models:/digits/1", tmp_path / "downloads")
