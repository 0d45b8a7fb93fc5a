import itertools
import math

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from raypixel.checkpoint import ModelInfo, Snapshot, write_checkpoint
from raypixel.cli import main
from raypixel.figures import canvas, distributions, fields
from raypixel.figures.masks import draw_masks, layer_masks
from raypixel.models import PixelModel, build_model, model_classes
from raypixel.models.pixelcnn import PixelCNN
from raypixel.nn.likelihoods import nll_nats
from tests.contract import VARIANTS, labels_for, random_model
from tests.receptive_fields import receptive_field

SMALL = {"hidden_size": 6, "output_size": 8}
DPI = canvas.DOTS_PER_INCH


def invoke(*arguments: str):
    return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)


def inches(path) -> tuple[float, float]:
    with Image.open(path) as picture:
        return picture.size[0] / DPI, picture.size[1] / DPI


@pytest.fixture
def checkpoint(tiny, tmp_path, monkeypatch):
    """Write a checkpoint of a random model on digits."""
    monkeypatch.chdir(tmp_path)
    config = tiny()
    model = random_model(config.model, image_shape=(1, 8, 8), num_levels=17).float()
    info = ModelInfo(config.to_mapping(), (1, 8, 8), 17, 0)
    write_checkpoint(tmp_path / "trained", Snapshot(model.state_dict(), {}, {"step": 0}), info)
    return tmp_path / "trained"


# --- receptive fields ---


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_computed_field_is_the_one_the_model_promises(config):
    shape, row, column = (3, 6, 7), 4, 5
    model = fields.build_diagram_model(config, shape)
    field = fields.field_of_config(config, shape, row=row, column=column, title="x")
    assert torch.equal(field.seen, receptive_field(model, row, column))
    assert not field.leaks.any()
    assert torch.equal(field.blind, field.earlier & ~field.seen)


@pytest.mark.parametrize("num_layers", [0, 1, 4])
@pytest.mark.parametrize("position", [(0, 0), (7, 0), (5, 10), (7, 5)])
def test_computed_field_of_pixelcnn_is_its_wedge(num_layers, position):
    config = PixelCNN.Config(**SMALL, num_layers=num_layers, first_kernel_size=3)
    row, column = position
    gradient = fields.random_mean_gradient(config, (1, 8, 11), row=row, column=column)
    model = build_model(config, image_shape=(1, 8, 11), num_levels=4)
    assert torch.equal(gradient != 0, receptive_field(model, row, column))


@torch.no_grad()
def test_mean_gradient_is_that_of_finite_differences():
    config = PixelCNN.Config(**SMALL, num_layers=0, first_kernel_size=3)
    model = random_model(config, image_shape=(1, 4, 5), num_levels=4)
    with torch.enable_grad():
        gradient = fields.mean_gradient(model, 2, 3, num_inputs=1, seed=5)
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(0, 4, (1, 1, 4, 5), generator=generator).double()
    output = model(x)[:, :, :, 2, 3]
    weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    for i, j in itertools.product(range(4), range(5)):
        change = torch.zeros_like(x)
        change[0, 0, i, j] = 1e-6
        ends = [(model(x + sign * change)[:, :, :, 2, 3] * weights).sum() for sign in (1, -1)]
        slope = float(ends[0] - ends[1]) / 2e-6
        assert abs(slope) == pytest.approx(float(gradient[i, j]), abs=1e-6)


class _Leaky(PixelModel):
    """Let the parameters of a pixel read the pixel to its right."""

    image_shape, num_levels, num_classes = (1, 4, 4), 4, 0

    def forward(self, x, class_labels=None):
        return torch.roll(x, -1, dims=3)[:, None].expand(-1, 4, -1, -1, -1)

    def stages(self):
        raise NotImplementedError


def test_a_leak_is_found():
    field = fields.field_of_model(_Leaky(), 1, 1, title="leaky")
    assert field.leaks.nonzero().tolist() == [[1, 2]]
    labels = [text.get_text() for text in fields.draw_receptive_fields([field]).legends[0].texts]
    assert "LEAK: future pixel seen" in labels


def test_an_order_of_the_models_own_decides_what_is_earlier():
    model = _Leaky()
    model.generation_order = lambda: sorted(
        itertools.product(range(4), range(4)), key=lambda ij: (-ij[0], ij[1])
    )
    earlier = fields.earlier_pixels(model, 2, 1)
    assert earlier.int().tolist() == [[0] * 4, [0] * 4, [1, 0, 0, 0], [1] * 4]


def test_widths_that_were_asked_for_are_kept():
    config = PixelCNN.Config(hidden_size=20, num_layers=1)
    model = fields.build_diagram_model(config, (1, 4, 4))
    assert (model.config.hidden_size, model.config.output_size) == (20, 12)


# --- masks ---


@pytest.mark.parametrize("channels", [1, 3])
def test_masks_are_the_modules_own(channels):
    config = PixelCNN.Config(**SMALL, num_layers=2, use_skip=True)
    model = build_model(config, image_shape=(channels, 5, 5), num_levels=4)
    modules = dict(model.named_modules())
    masks = layer_masks(model)
    assert [(each.mask_type, each.kernel_size) for each in masks] == [
        ("A", (7, 7)),
        ("B", (1, 1)),
        ("B", (3, 3)),
    ]
    named = {name for each in masks for name in each.layers}
    assert named == {name for name, module in modules.items() if hasattr(module, "mask")}
    for each in masks:
        assert each.mask.shape[:2] == (channels, channels)
        for name in each.layers:
            whole = modules[name].mask
            outputs = torch.arange(whole.shape[0]) * channels // whole.shape[0]
            inputs = torch.arange(whole.shape[1]) * channels // whole.shape[1]
            assert torch.equal(each.mask[outputs][:, inputs], whole)


@pytest.mark.parametrize("channels", [1, 3])
def test_drawn_cells_have_the_color_of_their_mask(channels):
    config = PixelCNN.Config(**SMALL, num_layers=1)
    model = build_model(config, image_shape=(channels, 5, 5), num_levels=4)
    masks = layer_masks(model)
    figure = draw_masks(masks, title="x")
    colors = {1: canvas.SEEN, 0: canvas.BLIND, None: canvas.FUTURE}
    for ax, each in zip(figure.axes, masks, strict=True):
        rows, columns = each.kernel_size
        drawn = {
            patch.get_xy(): tuple(patch.get_facecolor()[:3])
            for patch in ax.patches
            if patch.get_fill()
        }
        assert len(drawn) == channels**2 * rows * columns
        for o, i in itertools.product(range(channels), repeat=2):
            for r, c in itertools.product(range(rows), range(columns)):
                stored = r < each.mask.shape[2]
                value = int(each.mask[o, i, r, c]) if stored else None
                corner = (i * (columns + 1) + c, o * (rows + 1) + r)
                assert drawn[corner] == canvas.rgb(colors[value])


# --- distributions ---


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
@pytest.mark.parametrize(("channels", "num_levels"), [(1, 2), (3, 5)])
def test_distributions_sum_to_one_and_multiply_to_the_likelihood(config, channels, num_levels):
    shape = (channels, 2, 3)
    model = random_model(config, image_shape=shape, num_levels=num_levels)
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(0, num_levels, shape, generator=generator, dtype=torch.uint8)
    labels = labels_for(model, 1)
    nats = 0.0
    for i, j in itertools.product(range(2), range(3)):
        table = distributions.level_probabilities(model, x, (i, j), class_label=0)
        assert table.shape == (channels, num_levels)
        assert table.sum(1).tolist() == pytest.approx([1.0] * channels, abs=1e-12)
        nats -= sum(math.log(table[c, int(x[c, i, j])]) for c in range(channels))
    with torch.no_grad():
        expected = nll_nats(model.likelihood, model(x[None], labels), x[None])
    assert nats == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize(("channels", "num_levels"), [(1, 2), (3, 256)])
def test_the_true_level_is_marked_in_every_panel(channels, num_levels):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, num_levels, (channels, 6, 6), generator=generator, dtype=torch.uint8)
    tables = {
        place: torch.rand(channels, num_levels, generator=generator) for place in [(0, 5), (3, 2)]
    }
    figure = distributions.draw_distributions(x, tables, num_levels=num_levels, title="x")
    _image, *panels = figure.axes
    places = list(itertools.product(tables, range(channels)))
    assert len(panels) == len(places)
    for ax, ((row, column), channel) in zip(panels, places, strict=True):
        level = int(x[channel, row, column])
        marker, line = ax.lines
        assert marker.get_xdata() == [level]
        assert list(line.get_xdata()) == [level, level]
        assert (
            f"level {level}, p = {float(tables[row, column][channel, level]):.3g}"
            in ax.get_title("left")
        )
        if num_levels == 2:
            heights = [bar.get_height() for bar in ax.patches]
            assert heights == pytest.approx(tables[row, column][channel].tolist())


def test_telling_positions_go_from_surprising_to_expected():
    config = PixelCNN.Config(**SMALL, num_layers=1)
    model = random_model(config, image_shape=(3, 6, 5), num_levels=4)
    x = torch.randint(0, 4, (3, 6, 5), generator=torch.Generator().manual_seed(0))
    chosen = distributions.telling_positions(model, x, count=4)
    assert len(set(chosen)) == 4
    with torch.no_grad():
        nats = model.likelihood.nll_map(model(x[None]), x[None]).sum(1)[0]
    ranks = sorted(int((nats > nats[place]).sum()) for place in chosen)
    assert ranks == [0, 3, 7, 12]


# --- the command ---


def test_pictures_have_the_promised_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    num_models = len(model_classes())
    assert invoke("figure", "receptive-field", "--shape", "1x6x6").stdout == "receptive-field.png\n"
    rows = math.ceil(num_models / 6)
    promised = (2.6 * min(6, num_models), 2.9 * rows + 0.5) if num_models > 1 else (4.4, 4.9)
    assert inches("receptive-field.png") == pytest.approx(promised, abs=0.01)
    invoke("figure", "masks", "--set", "model.num_layers=1")
    assert inches("masks.png") == pytest.approx((3 * 3.2, 3.2 + 1.1), abs=0.01)
    invoke("figure", "masks", "--shape", "3x4x4", "--out", "new/rgb.webp")
    assert inches("new/rgb.webp") == pytest.approx((3 * 4.2, 4.2 + 1.1), abs=0.01)
    options = ["--model", "pixelcnn", "--shape", "1x6x6", "--layers", "2"]
    assert invoke("figure", "transitions", *options).stdout == "transitions.png\n"
    assert inches("transitions.png") == pytest.approx((3 * 2.1 + 0.4, 2.1 + 1.0), abs=0.01)


def test_a_checkpoint_is_drawn_with_its_data(checkpoint):
    assert invoke("figure", "receptive-field", checkpoint, "--at", "5,4").exit_code == 0
    assert inches("receptive-field.png") == pytest.approx((4.4, 4.9), abs=0.01)
    assert invoke("figure", "masks", checkpoint).exit_code == 0
    result = invoke("figure", "distributions", checkpoint, "--index", "3")
    assert result.stdout == "distributions.png\n"
    assert inches("distributions.png") == pytest.approx((8.0, 4 * 1.5 + 0.8), abs=0.01)
    invoke("figure", "distributions", checkpoint, "--at", "0,0", "--at", "7, 7", "--at", "0,0")
    assert inches("distributions.png") == pytest.approx((8.0, 4.5), abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("receptive-field --at 15,0", "--at must be inside the image, rows 0 to 14 and columns 0"),
        ("receptive-field --at 3", "--at must be ROW,COL counted from 0, got '3'"),
        ("transitions --at=-1,2", "--at must be ROW,COL counted from 0, got '-1,2'"),
        ("receptive-field --model pixelcn", "got 'pixelcn', did you mean 'pixelcnn'?"),
        ("masks --model pixelcn", "--model must be one of"),
        ("masks --shape 2x8x8", "--shape must be CHANNELSxHEIGHTxWIDTH with 1 or 3 channels"),
        ("masks --shape 8x8", "got '8x8'"),
        ("receptive-field --set model.num_layers=1", "--set must come with --model KIND"),
        (
            "masks --model pixelcnn --set kernel_size=5",
            "--set must change an option of the model, model.KEY=VALUE, got 'kernel_size'",
        ),
        (
            "masks --model pixelcnn --set model.kernel_size=4",
            "pixelcnn: model.kernel_size must be odd, got 4",
        ),
        (
            "masks --model pixelcnn --set model.kernel_sise=3",
            "pixelcnn: model.kernel_sise is not a known key, did you mean 'kernel_size'?",
        ),
        (
            "masks --model pixelcnn --set model.hidden_size=2 --shape 3x8x8",
            "at least one for each of 3 colors",
        ),
        ("masks --out x.gif", "picture must end in .png, .jpg, .webp, got 'x.gif'"),
        ("transitions --out x", "picture must end in"),
        ("distributions nowhere --out x.txt", "picture must end in"),
        ("distributions nowhere", "nowhere: must be a checkpoint directory, got nothing there"),
        ("masks nowhere --model pixelcnn", "--model must be left out with a checkpoint"),
        ("receptive-field nowhere --shape 1x8x8", "--shape must be left out with a checkpoint"),
        ("receptive-field {} --at 8,0", "rows 0 to 7 and columns 0 to 7, got 8,0"),
        ("distributions {} --at 0,8", "rows 0 to 7 and columns 0 to 7, got 0,8"),
        ("distributions {} --index 50", "--index must be below 50, the images of digits test"),
        ("distributions {} --root nowhere", "raypixel data prepare digits"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(checkpoint, tmp_path, arguments, text):
    before = sorted(tmp_path.iterdir())
    result = invoke("figure", *arguments.format(checkpoint).split())
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert text in line
    assert sorted(tmp_path.iterdir()) == before
