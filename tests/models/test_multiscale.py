"""What the laws do not say of Multi-scale PixelRNN: what the joint consists of, and the errors."""

import pytest
import torch

from raypixel.config import dump_yaml, parse_yaml
from raypixel.errors import ConfigError
from raypixel.models import build_model, validate_model_config
from raypixel.models.multiscale import Multiscale
from raypixel.nn.likelihoods import Categorical, nll_nats
from tests.contract import random_model, tiny_options
from tests.receptive_fields import receptive_field


def tiny(**options):
    return validate_model_config({**tiny_options("multiscale"), **options})


@pytest.mark.parametrize("factor", [2, 3])
def test_likelihood_is_that_of_the_small_image_and_of_the_other_pixels_given_it(factor):
    model = random_model(tiny(factor=factor), image_shape=(3, 5, 4), num_levels=4)
    x = torch.randint(0, 4, (2, 3, 5, 4))
    small = x[:, :, ::factor, ::factor]
    total = nll_nats(model.likelihood, model(x), x)
    base = nll_nats(model.base.likelihood, model.base(small), small)
    scaled = small.double() * (2 / 3) - 1
    condition = model.upsample(scaled, height=5, width=4)
    nats = model.likelihood.nll_map(model.conditional(x, condition=condition), x)
    is_rest = torch.ones(5, 4, dtype=torch.bool)
    is_rest[::factor, ::factor] = False
    rest = nats[:, :, is_rest].sum((1, 2))
    assert torch.allclose(total, base + rest, rtol=0, atol=1e-9)


def test_small_image_comes_first_and_then_the_rest_in_raster_order():
    model = build_model(tiny(), image_shape=(1, 3, 3), num_levels=2)
    small, rest = [(0, 0), (0, 2), (2, 0), (2, 2)], [(0, 1), (1, 0), (1, 1), (1, 2), (2, 1)]
    assert model.generation_order() == small + rest


def test_order_of_a_base_that_is_multiscale_itself_is_kept():
    model = build_model(tiny(base=tiny_options("multiscale")), image_shape=(1, 4, 4), num_levels=2)
    assert model.generation_order()[:5] == [(0, 0), (0, 2), (2, 0), (2, 2), (0, 1)]
    assert model.base.generation_order() == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("kind", ["pixelcnn", "row_lstm", "diagonal_bilstm", "gated_pixelcnn"])
def test_every_layer_of_the_conditional_model_receives_the_maps(kind):
    model = random_model(tiny(conditional=tiny_options(kind)), image_shape=(1, 4, 4), num_levels=2)
    x = torch.randint(0, 2, (1, 1, 4, 4))
    model(x).square().sum().backward()
    added = [
        parameter for name, parameter in model.conditional.named_parameters() if "condition" in name
    ]
    assert len(added) == (3 if kind == "gated_pixelcnn" else 2)
    assert all(parameter.grad.abs().sum() > 0 for parameter in added)


def test_later_pixels_of_the_small_image_inform_earlier_ones_of_the_rest():
    conditional = {**tiny_options("pixelcnn"), "num_layers": 1}
    config = tiny(num_layers=1, conditional=conditional)
    model = build_model(config, image_shape=(1, 8, 8), num_levels=2)
    later = receptive_field(model, 1, 1)[2:]  # rows below: the small image within a cell of (1, 1)
    assert later.nonzero().tolist() == [[0, 0], [0, 2]]


def test_class_labels_reach_the_models_that_want_them():
    conditional = {**tiny_options("gated_pixelcnn"), "use_class_conditioning": True}
    config = tiny(conditional=conditional)
    assert config.is_class_conditional
    differs = torch.zeros(4, 4, dtype=torch.bool)
    for seed in range(6):
        model = random_model(config, image_shape=(1, 4, 4), num_levels=2, seed=seed)
        params = model(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]))[:, 0, 0]
        differs |= params[0] != params[1]
    is_small = torch.zeros(4, 4, dtype=torch.bool)
    is_small[::2, ::2] = True
    assert torch.equal(differs, ~is_small)


def test_config_survives_yaml():
    config = tiny(base=tiny_options("gated_pixelcnn"))
    assert validate_model_config(parse_yaml(dump_yaml(config), where="x")) == config


def test_class_labels_are_refused_when_neither_model_wants_them():
    model = build_model(tiny(), image_shape=(1, 3, 3), num_levels=2, num_classes=3)
    with pytest.raises(ValueError, match="class_labels must be None, multiscale is not class-cond"):
        model(torch.zeros(1, 1, 3, 3, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))


def test_conditional_kind_must_accept_the_maps():
    with pytest.raises(ValueError, match=r"conditional\.kind must be one of .*, got 'multiscale'"):
        tiny(conditional=tiny_options("multiscale"))


def test_problems_of_a_nested_model_name_their_key():
    with pytest.raises(ValueError, match=r"base\.num_layer is not a known key, did you mean"):
        tiny(base={**tiny_options("row_lstm"), "num_layer": 3})


def test_likelihoods_must_agree(monkeypatch):
    monkeypatch.setattr("raypixel.models.row_lstm.likelihood_for", Categorical)
    config = tiny(base=tiny_options("row_lstm"))
    with pytest.raises(ConfigError, match="same likelihood, got Categorical and Bernoulli"):
        build_model(config, image_shape=(1, 4, 4), num_levels=2)


def test_options_have_defaults():
    assert Multiscale.Config().base.kind == "diagonal_bilstm"
