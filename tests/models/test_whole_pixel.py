"""PixelCNN++ and PixelSNAIL: sizes of the papers, options, and sampling under each of them."""

import pytest
import torch

from raypixel.config import ConfigProblems
from raypixel.errors import ConfigError
from raypixel.experiment import load_experiment
from raypixel.models import build_model, validate_model_config
from raypixel.nn.likelihoods import Bernoulli, Categorical
from raypixel.nn.mixtures import DiscretizedLogisticMixture
from raypixel.recipes import recipe_names
from tests.contract import random_model
from tests.sampling.test_cached import images_of, teacher_forced


@pytest.mark.parametrize(
    ("recipe", "millions"), [("cifar10_pixelcnn_pp", 53), ("cifar10_pixelsnail", 46)]
)
def test_the_papers_networks_have_the_papers_number_of_parameters(recipe, millions):
    assert recipe in recipe_names()
    config = load_experiment(recipe).model
    with torch.device("meta"):
        model = build_model(config, image_shape=(3, 32, 32), num_levels=256)
    assert sum(p.numel() for p in model.parameters()) // 10**6 == millions


@pytest.mark.parametrize("kind", ["pixelcnn_pp", "pixelsnail"])
@pytest.mark.parametrize(
    ("likelihood", "num_levels", "expected"),
    [
        ("auto", 2, Bernoulli),
        ("auto", 17, DiscretizedLogisticMixture),
        ("softmax", 17, Categorical),
        ("mixture", 2, DiscretizedLogisticMixture),
    ],
)
def test_the_likelihood_is_the_one_asked_for(kind, likelihood, num_levels, expected):
    config = validate_model_config({"kind": kind, "hidden_size": 4, "likelihood": likelihood})
    model = build_model(config, image_shape=(1, 4, 4), num_levels=num_levels)
    assert isinstance(model.likelihood, expected)


@pytest.mark.parametrize("image_shape", [(1, 9, 7), (3, 5, 6), (1, 1, 3)])
@pytest.mark.parametrize("num_downsamplings", [0, 1, 2])
@pytest.mark.parametrize("implementation", ["interpreter", "compiled", "cuda_graph"])
def test_any_number_of_resolutions_and_any_size_are_sampled_as_computed(
    num_downsamplings, image_shape, implementation
):
    options = {"hidden_size": 5, "num_layers": 1, "num_downsamplings": num_downsamplings}
    config = validate_model_config({"kind": "pixelcnn_pp", **options})
    check_sampling(config, image_shape, implementation)


@pytest.mark.parametrize("attention_rows", [None, 0, 1, 9])
@pytest.mark.parametrize("num_heads", [1, 3])
@pytest.mark.parametrize("implementation", ["interpreter", "compiled", "cuda_graph"])
def test_heads_and_rows_of_attention_are_sampled_as_computed(
    num_heads, attention_rows, implementation
):
    options = {"num_heads": num_heads, "key_size": 3, "value_size": 5}
    config = validate_model_config(
        {"kind": "pixelsnail", "hidden_size": 5, "attention_rows": attention_rows, **options}
    )
    check_sampling(config, (1, 5, 4), implementation)


def check_sampling(config, image_shape, implementation) -> None:
    model = random_model(config, image_shape=image_shape, num_levels=4)
    x = images_of(model, 2)
    with torch.no_grad():
        expected = model(x)
    assert (teacher_forced(model, x, implementation=implementation) - expected).abs().max() < 1e-9


def test_fewer_rows_of_attention_see_less_and_the_first_position_nothing():
    near, far = (
        random_model(
            validate_model_config(
                {"kind": "pixelsnail", "hidden_size": 5, "num_blocks": 1, "attention_rows": rows}
            ),
            image_shape=(1, 9, 4),
            num_levels=4,
        )
        for rows in (1, None)
    )
    far.load_state_dict(near.state_dict())
    x = images_of(near, 1)
    changed = x.clone()
    changed[..., 0, 3] = (x[..., 0, 3] + 1) % 4
    with torch.no_grad():
        assert torch.equal(near(x)[..., 8, 0], near(changed)[..., 8, 0])
        assert not torch.equal(far(x)[..., 8, 0], far(changed)[..., 8, 0])
        for model in (near, far):
            assert torch.equal(model(x)[..., 0, 0], model(3 - x)[..., 0, 0])


@pytest.mark.parametrize("kind", ["pixelcnn_pp", "pixelsnail", "gated_pixelcnn"])
def test_class_conditioning_needs_data_with_classes(kind):
    config = validate_model_config({"kind": kind, "use_class_conditioning": True})
    with pytest.raises(ConfigError, match="use_class_conditioning must be false for data without"):
        build_model(config, image_shape=(1, 4, 4), num_levels=2, num_classes=0)


@pytest.mark.parametrize("option", [{"num_downsamplings": 3}, {"num_mixtures": 0}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ConfigProblems, match="must be"):
        validate_model_config({"kind": "pixelcnn_pp", **option})
