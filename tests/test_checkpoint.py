import json
import math
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raypixel.checkpoint import (
    Checkpoint,
    ModelInfo,
    Snapshot,
    read_checkpoint,
    write_checkpoint,
)
from raypixel.errors import CheckpointError
from raypixel.models.pixelcnn import PixelCNN
from tests.contract import random_model

CONFIG = PixelCNN.Config(hidden_size=4, num_layers=1, output_size=6, use_skip=True)
INFO = ModelInfo({"name": "x", "model": CONFIG.model_dump()}, (1, 4, 5), 5, 10)
FILES = ["checkpoint.json", "config.yaml", "model.safetensors", "state.json"]
FILES.append("training.safetensors")
STATE = {"epoch": 2, "step": 7, "seconds": 1 / 3, "best": math.inf, "name": "é"}


def model_of(seed: int = 0) -> torch.nn.Module:
    return random_model(CONFIG, image_shape=(1, 4, 5), num_levels=5, seed=seed).float()


def snapshot_of(model=None, *, tensors=None, state=STATE) -> Snapshot:
    return Snapshot((model or model_of()).state_dict(), tensors or {}, state)


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.fixture
def path(tmp_path) -> Path:
    """A checkpoint that a test may damage."""
    write_checkpoint(tmp_path / "step-00000007", snapshot_of(), INFO)
    return tmp_path / "step-00000007"


def reseal(path: Path, **changes) -> None:
    """Make the index agree with the files again, as a careful forger would."""
    import hashlib

    index = json.loads((path / "checkpoint.json").read_text())
    for name in index["files"]:
        data = (path / name).read_bytes()
        index["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "checkpoint.json").write_text(json.dumps(index | changes))


# --- round trip


def test_every_tensor_comes_back_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "float32": torch.randn(3, 4),
        "float64": torch.randn(5, dtype=torch.float64),
        "bfloat16": torch.randn(7).bfloat16(),
        "count": torch.tensor(2**40),
        "bool": torch.tensor([True, False]),
        "empty": torch.empty(0, 3),
        "special": torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45]),
        "strided": torch.randn(4, 6)[:, ::2],
        "channels_last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "needs gradient": torch.randn(2, requires_grad=True),
    }
    write_checkpoint(tmp_path / "step-1", snapshot_of(tensors=tensors), INFO)
    found = read_checkpoint(tmp_path / "step-1").training_tensors()
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert bytes_of(found[name]) == bytes_of(tensor), name


def test_state_and_info_come_back_equal(path):
    checkpoint = read_checkpoint(path)
    assert checkpoint == Checkpoint(path, INFO, STATE)
    assert checkpoint.training_tensors() == {}


def test_the_model_comes_back_bit_for_bit_and_in_evaluation_mode(path):
    loaded = read_checkpoint(path).load_model()
    assert isinstance(loaded, PixelCNN)
    assert loaded.config == CONFIG
    assert not loaded.training
    assert (loaded.num_levels, loaded.image_shape) == (5, (1, 4, 5))
    for name, tensor in model_of().state_dict().items():
        assert bytes_of(loaded.state_dict()[name]) == bytes_of(tensor)
        assert bytes_of(read_checkpoint(path).weights()[name]) == bytes_of(tensor)
    x = torch.randint(0, 5, (3, 1, 4, 5))
    with torch.no_grad():
        assert torch.equal(loaded(x), model_of()(x))


def test_a_checkpoint_holds_its_files_and_no_pickle(path):
    assert sorted(file.name for file in path.iterdir()) == FILES
    assert list(path.parent.iterdir()) == [path]
    for file in path.iterdir():
        # neither a pickle with its frame nor what torch.save writes; a safetensors header of 1,152 bytes begins with 80 04 too
        assert not file.read_bytes().startswith((b"\x80\x04\x95", b"PK"))
    assert json.loads((path / "checkpoint.json").read_text())["format_version"] == 2


def test_a_copied_checkpoint_is_as_good(path, tmp_path):
    shutil.copytree(path, tmp_path / "copy")
    assert read_checkpoint(tmp_path / "copy").info == INFO


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("first.weight", "first.weight"),
        ("stack.layers.0.norm.weight", "blocks.0.narrow.0.weight"),
        ("stack.layers.11.narrow.bias", "blocks.11.narrow.2.bias"),
        ("stack.layers.0.look.weight", "blocks.0.look.weight"),
        ("stack.layers.0.widen.weight", "blocks.0.widen.1.weight"),
        ("stack.layers.3.recurrence.weight_up", "blocks.3.recurrence.weight_up"),
        ("stack.layers.3.input_to_state.bias", "blocks.3.input_to_state.bias"),
        ("stack.layers.2.vertical.convolution.weight", "layers.2.vertical.convolution.weight"),
        ("stack.skips.0.weight", "skips.convolutions.0.weight"),
        ("stack.head.first.weight", "head.layers.1.weight"),
        ("raw.stack.head.last.bias", "raw.head.layers.3.bias"),
        ("base.base.stack.layers.0.classes.weight", "base.base.layers.0.classes.weight"),
        ("raw.conditional.stack.skips.4.bias", "raw.conditional.skips.convolutions.4.bias"),
        ("upsample.layers.0.weight", "upsample.layers.0.weight"),
        ("optimizer.7.square_avg", "optimizer.7.square_avg"),
    ],
)
def test_tensors_of_version_1_are_read_under_their_present_names(path, name, old):
    save_file({old: torch.tensor([1.0, 2.0])}, path / "training.safetensors")
    reseal(path, format_version=1)
    assert list(read_checkpoint(path).training_tensors()) == [name]
    reseal(path, format_version=2)
    assert list(read_checkpoint(path).training_tensors()) == [old]


def test_a_model_of_version_1_is_the_same_model(path):
    old = {
        name.replace("stack.layers.0", "blocks.0")
        .replace("0.narrow", "0.narrow.2")
        .replace("0.widen", "0.widen.1")
        .replace("stack.skips", "skips.convolutions")
        .replace("stack.head.first", "head.layers.1")
        .replace("stack.head.last", "head.layers.3"): weight
        for name, weight in model_of().state_dict().items()
    }
    assert not any(name.startswith("stack.") for name in old)
    save_file(old, path / "model.safetensors")
    reseal(path, format_version=1)
    loaded, x = read_checkpoint(path).load_model(), torch.randint(0, 5, (2, 1, 4, 5))
    assert torch.equal(loaded(x), model_of()(x))


# --- damage


@pytest.mark.parametrize("name", FILES[1:])
def test_a_truncated_file_is_refused(path, name):
    data = (path / name).read_bytes()
    (path / name).write_bytes(data[:-1])
    sizes = f"must have {len(data)} bytes, got {len(data) - 1}"
    with pytest.raises(CheckpointError, match=rf"/{name}: is truncated or altered, {sizes}$"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", FILES[1:])
def test_one_flipped_bit_is_refused(path, name):
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    text = rf"/{name}: is damaged, its sha256 is not that of checkpoint.json$"
    with pytest.raises(CheckpointError, match=text):
        read_checkpoint(path)


@pytest.mark.parametrize("name", FILES[1:])
def test_a_missing_file_is_refused(path, name):
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"7: is incomplete, {name} is missing$"):
        read_checkpoint(path)


def test_a_file_that_the_index_does_not_know_is_refused(path):
    index = json.loads((path / "checkpoint.json").read_text())
    del index["files"]["state.json"]
    (path / "checkpoint.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"7: is incomplete, state.json is missing$"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"format": "raypixel-checkpoint"}', '{"files": 3}', "\x00"],
)
def test_an_index_that_cannot_be_read_is_refused(path, text):
    (path / "checkpoint.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"7: is damaged, checkpoint.json cannot be read$"):
        read_checkpoint(path)


def test_a_newer_version_is_refused(path):
    reseal(path, format_version=3)
    text = (
        r"7: format_version must be at most 2, got 3 \(written by another version of raypixel\?\)$"
    )
    with pytest.raises(CheckpointError, match=text):
        read_checkpoint(path)


def test_the_format_of_another_program_is_refused(path):
    reseal(path, format="other")
    with pytest.raises(CheckpointError, match=r"format_version must be at most 2"):
        read_checkpoint(path)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"must be a checkpoint directory, got nothing there"):
        read_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"not a raypixel checkpoint, checkpoint.json is mis"):
        read_checkpoint(tmp_path)
    (tmp_path / "last").symlink_to("gone")
    with pytest.raises(CheckpointError, match=r"must be a checkpoint directory, got nothing there"):
        read_checkpoint(tmp_path / "last")


def test_a_pickle_is_never_loaded(path, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    data = pickle.dumps(Bomb())
    (tmp_path / "model.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"must be a checkpoint directory, got a file"):
        read_checkpoint(tmp_path / "model.pt")
    for name in ("model.safetensors", "training.safetensors"):
        (path / name).write_bytes(data)
    reseal(path)
    checkpoint = read_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"model.safetensors: cannot be read \(.*header"):
        checkpoint.load_model()
    with pytest.raises(CheckpointError, match=r"training.safetensors: cannot be read \(.*header"):
        checkpoint.training_tensors()
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "a: 1"),
        ("config.yaml", "- 1"),
        ("config.yaml", "image_shape: [1, 2]\nnum_levels: 2\nnum_classes: 0\nexperiment: {}"),
        ("config.yaml", "experiment: !!python/object:os.system {}"),
        ("state.json", "{"),
    ],
)
def test_a_config_or_state_that_is_not_ours_is_refused(path, name, text):
    (path / name).write_text(text)
    reseal(path)
    with pytest.raises(
        CheckpointError, match=r"7: is damaged, config.yaml or state.json is not ours$"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("hidden_size: 4", "hidden_size: 5", "size mismatch for"),
        ("use_skip: true", "use_skip: false", "Unexpected key"),
        ("num_layers: 1", "num_layers: 2", "Missing key"),
        ("kind: pixelcnn", "kind: lstm", "kind must be one of"),
        ("hidden_size: 4", "hiden_size: 4", "hiden_size is not a known key"),
    ],
)
def test_weights_that_do_not_fit_their_config_are_refused(path, old, new, reason):
    text = (path / "config.yaml").read_text()
    assert old in text
    (path / "config.yaml").write_text(text.replace(old, new))
    reseal(path)
    rule = rf"7: weights do not fit config.yaml: .*{reason}"
    with pytest.raises(CheckpointError, match=rule) as caught:
        read_checkpoint(path).load_model()
    assert "\n" not in str(caught.value)


def test_an_experiment_named_like_a_number_keeps_its_name(tmp_path):
    info = ModelInfo({**INFO.experiment, "name": "1e5"}, (1, 4, 5), 5, 10)
    write_checkpoint(tmp_path / "step-1", snapshot_of(), info)
    assert read_checkpoint(tmp_path / "step-1").info.experiment["name"] == "1e5"
