from pathlib import Path
from typing import Literal

import pytest
import torch

import raypixel.models
from raypixel.config import ConfigProblems
from raypixel.errors import ConfigError
from raypixel.models import (
    ModelConfig,
    PixelModel,
    build_model,
    model_classes,
    register,
    registry,
    validate_model_config,
)
from tests.contract import random_model


@pytest.fixture
def own_registry(monkeypatch):
    """A copy that a test may enter models into."""
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))


class Labeled(PixelModel):
    class Config(ModelConfig):
        kind: Literal["labeled"] = "labeled"
        hidden_size: int = 4
        num_layers: int = 1
        is_conditional: bool = True

        @property
        def is_class_conditional(self) -> bool:
            return self.is_conditional

    def __init__(self, config, *, image_shape, num_levels, num_classes=0):
        super().__init__()
        if config.num_layers == 0:
            raise ValueError("num_layers must be positive, got 0")
        self.made_with = (config, image_shape, num_levels, num_classes)

    def forward(self, x, class_labels=None):
        raise NotImplementedError

    def stages(self):
        raise NotImplementedError


def test_every_file_of_the_package_registers_a_model():
    files = {path.stem for path in Path(raypixel.models.__file__).parent.glob("*.py")}
    modules = {model.__module__.rpartition(".")[2] for model in model_classes().values()}
    assert modules == files - {"__init__", "base", "registry", "size"}


def test_models_are_sorted_by_the_name_of_their_config():
    assert list(model_classes()) == sorted(model_classes())
    for kind, model_class in model_classes().items():
        assert model_class.Config.model_fields["kind"].default == kind


def test_the_kind_chooses_the_config():
    for kind, model_class in model_classes().items():
        made = validate_model_config({"kind": kind, "hidden_size": 5})
        assert made == model_class.Config(hidden_size=5)
        assert type(made) is model_class.Config
        assert validate_model_config(made) is made


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        (
            {"kind": "pixlcnn"},
            r"kind must be one of .*pixelcnn.*'pixlcnn', did you mean 'pixelcnn'",
        ),
        ({}, "kind must be one of .*, got None"),
        ({"kind": 3}, "kind must be one of .*, got 3"),
        ({"kind": ["pixelcnn"]}, r"kind must be one of .*, got \['pixelcnn'\]"),
        (None, "must be a mapping with a `kind`, got None"),
        ("pixelcnn", "must be a mapping with a `kind`, got 'pixelcnn'"),
    ],
)
def test_what_names_no_model_is_refused(mapping, text):
    with pytest.raises(ValueError, match=text):
        validate_model_config(mapping)


def test_wrong_options_of_a_kind_come_at_once():
    with pytest.raises(ConfigProblems) as caught:
        validate_model_config({"kind": "pixelcnn", "kernel_size": 4, "hiden_size": 3})
    assert sorted(caught.value.items) == [
        (("hiden_size",), "is not a known key, did you mean 'hidden_size'?"),
        (("kernel_size",), "must be odd, got 4"),
    ]


@pytest.mark.parametrize("is_conditional", [True, False])
def test_only_a_class_conditional_model_is_told_the_classes(own_registry, is_conditional):
    register("labeled")(Labeled)
    config = validate_model_config({"kind": "labeled", "is_conditional": is_conditional})
    model = build_model(config, image_shape=(3, 4, 5), num_levels=7, num_classes=10)
    assert model.made_with == (config, (3, 4, 5), 7, 10 if is_conditional else 0)


def test_options_that_do_not_fit_the_images_are_a_config_error(own_registry):
    register("labeled")(Labeled)
    with pytest.raises(ConfigError, match=r"^model: num_layers must be positive, got 0$"):
        build_model(Labeled.Config(num_layers=0), image_shape=(1, 2, 2), num_levels=2)


def test_a_name_is_given_once_and_is_that_of_the_config(own_registry):
    assert register("labeled")(Labeled) is Labeled
    with pytest.raises(AssertionError, match="two models are registered as 'labeled'"):
        register("labeled")(Labeled)
    with pytest.raises(AssertionError):
        register("other")(Labeled)
    assert "other" not in model_classes()


@pytest.mark.parametrize("kind", model_classes())
def test_the_seed_of_torch_decides_the_weights(kind):
    config = validate_model_config({"kind": kind, "hidden_size": 6, "num_layers": 1})

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = build_model(config, image_shape=(1, 4, 4), num_levels=3)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize("kind", model_classes())
def test_dropout_is_of_training_only_and_a_function_of_the_seed(kind):
    shape = {"image_shape": (3, 4, 5), "num_levels": 4}
    plain = {"kind": kind, "hidden_size": 6, "num_layers": 2}
    parts = ("base", "conditional") if kind == "multiscale" else ()
    inside = {part: {"kind": "row_lstm", "hidden_size": 6} for part in parts}
    dropping = {part: {**options, "dropout": 0.5} for part, options in inside.items()}
    without = random_model(validate_model_config({**plain, **inside}), **shape)
    model = random_model(validate_model_config({**plain, **dropping, "dropout": 0.5}), **shape)
    assert model.state_dict().keys() == without.state_dict().keys()
    x = torch.randint(0, 4, (2, 3, 4, 5), generator=torch.Generator().manual_seed(0))

    def params(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(x)

    assert torch.equal(params(0), without(x))
    model.train()
    assert torch.equal(params(0), params(0))
    assert not torch.allclose(params(0), params(1))
    assert torch.equal(without.train()(x), without.eval()(x))


@pytest.mark.parametrize("kind", ["pixelcnn", "row_lstm", "diagonal_bilstm", "gated_pixelcnn"])
def test_dropout_is_before_the_last_1x1_of_each_layer(kind):
    config = {"kind": kind, "hidden_size": 6, "num_layers": 2, "dropout": 0.5}
    model = random_model(validate_model_config(config), image_shape=(1, 4, 5), num_levels=4)
    dropped: list[torch.Tensor] = []
    read: list[torch.Tensor] = []
    last = {"pixelcnn": "widen", "gated_pixelcnn": "output"}.get(kind, "state_to_output")
    for layer in model.stack.layers:
        layer.dropout.register_forward_hook(lambda _, inputs, output: dropped.append(output))
        getattr(layer, last).register_forward_hook(lambda _, inputs, output: read.append(inputs[0]))
    model.train()(torch.zeros((2, 1, 4, 5), dtype=torch.int64))
    assert len(dropped) == 2
    for output, given in zip(dropped, read, strict=True):
        assert output is given
        assert output.shape == (2, 6, 4, 5)
        assert 0.2 < (output == 0).double().mean() < 0.9


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 2.0])
def test_dropout_is_a_probability_below_one(dropout):
    with pytest.raises(ConfigProblems, match=r"dropout must be (less than 1|greater than or)"):
        validate_model_config({"kind": "pixelcnn", "dropout": dropout})
