"""`sample`, `complete`, `score` and the Python API on a small untrained checkpoint, as a person uses them."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import raypixel
from raypixel.checkpoint import ModelInfo, Snapshot, write_checkpoint
from raypixel.cli import main
from raypixel.errors import ConfigError
from raypixel.experiment import load_experiment
from raypixel.grids import image_grid
from raypixel.models import validate_model_config
from raypixel.sampling import image_seeds, sample
from tests.contract import random_model


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def refused(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


def checkpoint_of(
    folder: Path, root: Path, *, recipe: str = "digits_pixelcnn", num_levels: int = 17, **options
) -> Path:
    """Write a checkpoint with random weights of a digits recipe made small."""
    small = {"model.hidden_size": 6, "model.num_layers": 1, "data.root": str(root)}
    config = load_experiment(recipe, small | {k.replace("__", "."): v for k, v in options.items()})
    experiment = config.model_dump(mode="json")
    network = random_model(
        validate_model_config(experiment["model"]),
        image_shape=(1, 8, 8),
        num_levels=num_levels,
        num_classes=10,
    ).float()
    info = ModelInfo(experiment, (1, 8, 8), num_levels, 10)
    write_checkpoint(folder, Snapshot(network.state_dict(), {}, {}), info)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, digits_root) -> Path:
    return checkpoint_of(tmp_path_factory.mktemp("checkpoints") / "step-1", digits_root)


@pytest.fixture
def conditional(tmp_path, digits_root) -> Path:
    path = tmp_path / "step-1"
    recipe = "digits_gated_pixelcnn"
    return checkpoint_of(path, digits_root, recipe=recipe, model__use_class_conditioning=True)


@pytest.fixture
def picture(tmp_path) -> Path:
    levels = (np.arange(64).reshape(8, 8) % 17 * 255 + 8) // 16
    Image.fromarray(levels.astype(np.uint8)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_samples_go_where_out_says_and_are_the_same_everywhere(checkpoint, tmp_path):
    grid, folder, arrays = tmp_path / "grid.png", tmp_path / "all", tmp_path / "x.npz"
    for out in (grid, folder, arrays):
        result = invoke("sample", checkpoint, "-n", 5, "--seed", 3, "--batch-size", 2, "--out", out)
        assert result.stdout == f"{out}\n"
    x = torch.from_numpy(arrays_of(arrays)["images"])
    model = raypixel.load(checkpoint)
    assert torch.equal(x, model.sample(5, seed=3))
    assert torch.equal(x[:2], model.sample(2, seed=3, sampler="oracle"))
    with Image.open(grid) as image:
        assert image.tobytes() == image_grid(x, num_levels=17).tobytes()
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"{k}.png" for k in range(5)]
    with Image.open(files[1]) as image:
        assert np.array_equal(np.array(image), (x[1, 0].numpy() * 255.0 / 16).round())


def test_a_gif_shows_the_rows_as_they_are_written(checkpoint, tmp_path):
    gif = tmp_path / "writing.gif"
    out = tmp_path / "x.png"
    result = invoke("sample", checkpoint, "-n", 3, "--out", out, "--gif", gif, "--batch-size", 2)
    assert result.stdout == f"{out}\n{gif}\n"
    with Image.open(gif) as image, Image.open(out) as final:
        assert 8 < image.n_frames <= 16  # rows of two batches; equal frames are merged
        image.seek(image.n_frames - 1)
        last = np.array(image.convert("L")).astype(int)
        assert np.abs(last - np.array(final.convert("L"))).max() <= 2
    assert "must end in .gif" in refused("sample", checkpoint, "--gif", "x.png")


def test_a_folder_of_samples_holds_those_of_one_run(checkpoint, tmp_path):
    folder = tmp_path / "name.d"
    for out in (f"{folder}/", folder):  # a slash, or a folder that exists
        result = invoke("sample", checkpoint, "-n", 12, "--out", out, "--overwrite")
        assert result.stdout == f"{out}\n", result.output
    first = (folder / "00.png").read_bytes()
    (folder / "notes.png").write_text("mine")
    again = ["sample", checkpoint, "-n", 3, "--seed", 1, "--out", folder]
    assert "must be empty, unless --overwrite is given, got 13 files in it" in refused(*again)
    assert (folder / "00.png").read_bytes() == first
    assert invoke(*again, "--overwrite").exit_code == 0
    assert sorted(file.name for file in folder.iterdir()) == [
        "0.png",
        "1.png",
        "2.png",
        "notes.png",
    ]


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0"])
def test_a_temperature_must_be_a_positive_finite_number(checkpoint, value):
    for command in (["sample", checkpoint], ["complete", checkpoint, "--split", "test"]):
        result = invoke(*command, "--temperature", value)
        assert result.exit_code == 2
        assert "Invalid value for '--temperature'" in result.stderr


def test_a_file_that_cannot_be_taken_exactly_is_named(checkpoint, picture, tmp_path):
    shown = np.array(Image.open(picture))
    rows = {
        "exact16.png": (shown.astype(np.uint16) * 257, ""),
        "deep.png": (shown.astype(np.uint16) * 257 + 1, "16 bits to 8"),
        "clear.png": (np.dstack([shown, np.full_like(shown, 255)]), ""),
        "alpha.png": (np.dstack([shown, shown]), "transparency over white"),
        "gray.png": (shown // 2 + 3, "values to the model's 17 levels"),
    }
    for name, (pixels, how) in rows.items():
        Image.fromarray(pixels).save(tmp_path / name)
        for command in ("score", "complete"):
            out = ["--out", tmp_path / "x.npz"] if command == "complete" else []
            result = invoke(command, checkpoint, picture, tmp_path / name, *out)
            assert result.exit_code == 0, result.output
            assert ("changed on the way in" in result.stderr) is bool(how)
            assert not how or f"in: {tmp_path / name} ({how}" in result.stderr
            assert str(picture) not in result.stderr
    result = invoke("score", checkpoint, *[tmp_path / "gray.png"] * 5)
    assert result.stderr.endswith("gray.png (values to the model's 17 levels) and 2 more\n")
    assert result.stderr.count("\n") == 1


def test_both_samplers_draw_the_same_images(checkpoint, tmp_path):
    drawn = []
    for name in ("cached", "oracle"):
        out = tmp_path / f"{name}.npz"
        arguments = ["-n", 3, "--seed", 1, "--temperature", 0.7, "--sampler", name, "--out", out]
        assert invoke("sample", checkpoint, *arguments).exit_code == 0
        drawn.append(arrays_of(out)["images"])
    assert np.array_equal(*drawn)


def test_completions_keep_what_is_observed(checkpoint, picture, tmp_path):
    out = tmp_path / "x.npz"
    result = invoke("complete", checkpoint, picture, picture, "--observed", "rows:3", "--out", out)
    assert result.exit_code == 0, result.output
    found = arrays_of(out)
    images, completions = found["images"], found["completions"]
    assert completions.shape == (2, 4, 1, 8, 8)
    assert np.array_equal(images[0, 0], np.arange(64).reshape(8, 8) % 17)
    assert (completions[:, :, :, :3] == images[:, None, :, :3]).all()
    assert len(np.unique(completions[0].reshape(4, -1), axis=0)) == 4
    # the same whatever else is completed
    assert np.array_equal(completions[0], completions[1])
    x = torch.from_numpy(images[:1]).repeat(4, 1, 1, 1)
    observed = torch.zeros_like(x, dtype=torch.bool)
    observed[:, :, :3] = True
    network = raypixel.load(checkpoint).network
    expected = sample(network, image_seeds(0, 4), x=x, observed=observed, sampler="oracle")
    assert np.array_equal(completions[0], expected.numpy())


def test_a_picture_of_completions_shows_original_occluded_and_completed(checkpoint, tmp_path):
    out = tmp_path / "x.png"
    arguments = ["--split", "test", "--index", "2:5", "--observed", "columns:5", "-n", 2]
    assert invoke("complete", checkpoint, *arguments, "--out", out).exit_code == 0
    with Image.open(out) as image:
        assert image.size == (4 * 66 + 2, 3 * 66 + 2)
        pixels = np.array(image).astype(int)
    is_colored = pixels.max(axis=2) > pixels.min(axis=2)
    assert not is_colored[:, : 68 + 5 * 8].any()  # the original, and what was observed
    assert is_colored[2:66, 68 + 5 * 8 : 68 + 64].all()
    assert not is_colored[:, 68 + 66 :].any()


def test_any_mask_may_be_given_as_a_picture(checkpoint, picture, tmp_path):
    mask = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "x.npz"
    arguments = ["--observed", tmp_path / "mask.png", "--out", out]
    assert invoke("complete", checkpoint, picture, *arguments).exit_code == 0
    found = arrays_of(out)
    kept = np.broadcast_to(mask > 0, found["completions"].shape)
    images = np.broadcast_to(found["images"][:, None], kept.shape)
    assert (found["completions"][kept] == images[kept]).all()


def test_scores_are_exact_and_name_their_images(checkpoint, picture, tmp_path):
    out = tmp_path / "map.png"
    result = invoke("score", checkpoint, "--split", "test", "--index", "1:4", "--per-pixel", out)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["image"] for line in lines] == ["test[1]", "test[2]", "test[3]"]
    for line in lines:
        bits = line["nll_nats"] / math.log(2) / 64
        assert line["bits_per_dim"] == pytest.approx(bits, rel=1e-12)
    with Image.open(out) as image:
        assert len(image.convert("L").getcolors(10_000)) > 20
    everything = invoke("score", checkpoint, "--split", "test", "--batch-size", 100).stdout
    mean = np.mean([json.loads(line)["nll_nats"] for line in everything.splitlines()])
    evaluated = json.loads(invoke("evaluate", checkpoint, "--json").stdout)
    assert mean == pytest.approx(evaluated["nll_nats"], rel=1e-6)

    model = raypixel.load(checkpoint)
    one = json.loads(invoke("score", checkpoint, picture).stdout)
    x = torch.arange(64).view(1, 8, 8) % 17
    assert model.nll_nats(x).tolist() == pytest.approx([one["nll_nats"]], rel=1e-6)
    likeliest = 0.0
    with torch.no_grad():
        log_p = model.network(x[None]).log_softmax(1)[0, :, 0]
    for i, j in itertools.product(range(8), range(8)):
        likeliest -= float(log_p[int(x[0, i, j]), i, j])
    assert likeliest == pytest.approx(one["nll_nats"], rel=1e-5)


@pytest.mark.parametrize("binarization", ["threshold", "fixed", "stochastic"])
def test_images_of_a_split_have_the_levels_of_training(tmp_path, digits_root, binarization):
    options = {"data__binarization": binarization, "num_levels": 2}
    path = checkpoint_of(tmp_path / "step-1", digits_root, **options)
    out = tmp_path / "x.npz"
    arguments = ["--split", "test", "--index", "0:9", "-n", 1, "--out", out]
    assert invoke("complete", path, *arguments).exit_code == 0
    images = torch.from_numpy(arrays_of(out)["images"])
    assert 0.2 < images.float().mean() < 0.5
    assert images.max() == 1
    if binarization == "threshold":
        from raypixel.data.splits import read_split

        raw = read_split(digits_root, "digits", "test").images[:9]
        assert torch.equal(images, (raw >= 9).to(torch.uint8))


def test_a_class_conditional_model_is_asked_with_a_class(conditional, picture, tmp_path):
    out = tmp_path / "x.npz"
    assert "a class must be given" in refused("score", conditional, picture)
    assert "a class must be given" in refused("complete", conditional, picture)
    for label in (3, 4):
        assert invoke("score", conditional, picture, "--class", label).exit_code == 0
    split = ["--split", "test", "--index", 0]
    by_label = json.loads(invoke("score", conditional, *split).stdout)["nll_nats"]
    model = raypixel.load(conditional)
    scores = []
    from raypixel.cli.asked import select_images

    x = select_images(model.checkpoint, "test", "0", root=None)
    for label in range(10):
        scores += model.nll_nats(x.x, class_label=label).tolist()
    assert by_label == pytest.approx(scores[int(x.class_labels[0])], rel=1e-6)
    assert invoke("sample", conditional, "-n", 2, "--class", 7, "--out", out).exit_code == 0
    assert torch.equal(torch.from_numpy(arrays_of(out)["images"]), model.sample(2, class_label=7))
    completed = model.complete(x.x, torch.zeros(8, 8), n=2, class_label=7)
    assert torch.equal(completed[0], model.sample(2, class_label=7))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["complete", "{c}"], "images must be given as files or by --split, got neither"),
        (["score", "{c}", "{p}", "--split", "test"], "got both"),
        (["score", "{c}", "{p}", "--index", "1"], "--index must be given with --split"),
        (["score", "{c}", "--split", "test", "--index", "240:260"], "must lie in 0:250"),
        (["score", "{c}", "--split", "test", "--index", "x"], "must look like 3 or 0:8"),
        (["score", "{c}", "nowhere.png"], "nowhere.png: must be a readable file"),
        (["score", "{c}", "{t}/text.png"], "text.png: must be a readable image"),
        (["score", "{c}", "{t}/half.png"], "half.png: must be a readable image"),
        (["score", "{c}", "{t}/large.png"], "must be 8x8 as in training, got 9x8"),
        (["score", "{c}", "{t}/red.png"], "must be gray as in training, got colors"),
        (["complete", "{c}", "{p}", "--observed", "rows:9"], "N in 0 to 8, got 'rows:9'"),
        (["complete", "{c}", "{p}", "--observed", "columns:9"], "N in 0 to 8, got 'columns:9'"),
        (["complete", "{c}", "{p}", "--observed", "columns:-1"], "N in 0 to 8, got 'columns:-1'"),
        (["complete", "{c}", "{p}", "--observed", "{t}/none.png"], "none.png: must be a readable"),
        (["complete", "{c}", "{p}", "--observed", "{t}/half.png"], "half.png: must be a readable"),
        (["complete", "{c}", "{p}", "--observed", "half"], "must be top-half, rows:N"),
        (["complete", "{c}", "{p}", "--observed", "{t}/large.png"], "must be 8x8 as the images"),
        (["complete", "{c}", "{p}", "--class", "1"], "the model has no classes, got 1"),
        (["complete", "{c}", "{p}", "--out", "x.txt"], "picture must end in"),
        (["sample", "{c}", "--out", "{t}/x.txt"], "picture must end in"),
        (["sample", "{c}", "--out", "{p}/"], "picture.png: must be a folder, got a file"),
        (["sample", "nowhere"], "nowhere: must be a checkpoint directory, got nothing there"),
    ],
)
def test_bad_input_gets_one_clear_line(checkpoint, picture, tmp_path, arguments, expected):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "half.png").write_bytes(picture.read_bytes()[:-40])
    Image.new("L", (8, 9)).save(tmp_path / "large.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    names = {"{c}": str(checkpoint), "{p}": str(picture), "{t}": str(tmp_path)}
    for placeholder, value in names.items():
        arguments = [each.replace(placeholder, value) for each in arguments]
    assert expected in refused(*arguments)


def test_the_python_api_says_what_does_not_fit(checkpoint):
    model = raypixel.load(checkpoint)
    assert (model.image_shape, model.num_levels, model.num_classes) == ((1, 8, 8), 17, 0)
    with pytest.raises(ConfigError, match=r"shape \(1, 8, 8\), got \(1, 1, 8, 9\)"):
        model.nll_nats(torch.zeros(1, 8, 9, dtype=torch.uint8))
    with pytest.raises(ConfigError, match=r"integers in \[0, 16\], got torch.uint8 in \[17, 17\]"):
        model.nll_nats(torch.full((1, 8, 8), 17, dtype=torch.uint8))
    with pytest.raises(ConfigError, match=r"observed must broadcast to \(1, 1, 8, 8\)"):
        model.complete(torch.zeros(1, 8, 8, dtype=torch.uint8), torch.zeros(3, 8))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        raypixel.lod  # noqa: B018
