import math

import pytest
import torch

from raypixel.config import parse
from raypixel.errors import ConfigError
from raypixel.models import build_model, model_classes, validate_model_config
from raypixel.optimization import TrainingConfig, learning_rate_at, make_optimizer


def rates(total_steps=20, **options) -> list[float]:
    config = TrainingConfig(learning_rate=0.5, **options)
    return [learning_rate_at(config, step, total_steps) for step in range(total_steps)]


def test_constant_stays():
    assert rates(schedule="constant") == [0.5] * 20


def test_linear_falls_by_the_same_amount_and_ends_one_step_above_zero():
    assert rates(schedule="linear") == pytest.approx([0.5 * (20 - k) / 20 for k in range(20)])


def test_cosine_is_half_a_wave():
    found = rates(schedule="cosine")
    assert found == pytest.approx([0.5 * math.cos(math.pi * k / 40) ** 2 for k in range(20)])
    assert found[10] == pytest.approx(0.25)


def test_exponential_multiplies_by_the_same_factor():
    found = rates(schedule="exponential", decay_rate=0.9)
    assert found == pytest.approx([0.5 * 0.9**k for k in range(20)])
    paper = TrainingConfig(learning_rate=1e-3, schedule="exponential", decay_rate=0.999995)
    assert learning_rate_at(paper, 138_629, 10**6) == pytest.approx(5e-4, rel=1e-5)


def test_wsd_stays_and_falls_by_the_same_amount_over_its_last_share():
    found = rates(schedule="wsd", decay_share=0.25)
    assert found[:16] == [0.5] * 16
    assert found[16:] == pytest.approx([0.5 * (20 - k) / 5 for k in range(16, 20)])
    assert rates(schedule="wsd", decay_share=1.0) == pytest.approx(rates(schedule="linear"))
    after_warmup = rates(schedule="wsd", decay_share=0.25, warmup_steps=4)[4:]
    assert after_warmup == pytest.approx([0.5] * 13 + [0.5 * (16 - k) / 4 for k in range(13, 16)])


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "exponential", "wsd"])
def test_warmup_rises_linearly_and_the_schedule_starts_after_it(schedule):
    options = {"schedule": schedule, "decay_rate": 0.9}
    found = rates(warmup_steps=5, **options)
    assert found[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert found[5:] == pytest.approx(rates(total_steps=15, **options))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "exponential", "wsd"])
@pytest.mark.parametrize(("total_steps", "warmup_steps"), [(1, 0), (1, 1), (3, 3), (3, 10), (2, 1)])
def test_short_trainings_have_rates_above_zero(schedule, total_steps, warmup_steps):
    for rate in rates(total_steps, schedule=schedule, warmup_steps=warmup_steps):
        assert 0 < rate <= 0.5


STEPS = 5
GRADIENTS = torch.randn(
    STEPS, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
)
START = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)


def stepped(optimizer_of) -> list[torch.Tensor]:
    """The weights after each step with given gradients, the learning rate changing as in training."""
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(START.clone())
    optimizer = optimizer_of(module)
    path = []
    for step, gradient in enumerate(GRADIENTS):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (step + 1)
        module.weight.grad = gradient.clone()
        optimizer.step()
        path.append(module.weight.detach().clone())
    return path


def by_config(**options):
    config = TrainingConfig(**options)
    return stepped(lambda module: make_optimizer(config, module))


def rmsprop(*, alpha=0.99, momentum=0.0, decay=0.0):
    weight, square, velocity, path = START.clone(), 0.0, 0.0, []
    for step, gradient in enumerate(GRADIENTS):
        g = gradient + decay * weight
        square = alpha * square + (1 - alpha) * g**2
        velocity = momentum * velocity + g / (square.sqrt() + 1e-8)
        weight = weight - 0.1 / (step + 1) * velocity
        path.append(weight)
    return path


def adam(*, beta1=0.9, beta2=0.999, decay=0.0, decoupled=False):
    weight, mean, square, path = START.clone(), 0.0, 0.0, []
    for step, gradient in enumerate(GRADIENTS):
        rate = 0.1 / (step + 1)
        g = gradient if decoupled else gradient + decay * weight
        weight = weight * (1 - rate * decay) if decoupled else weight
        mean, square = beta1 * mean + (1 - beta1) * g, beta2 * square + (1 - beta2) * g**2
        unbiased = mean / (1 - beta1 ** (step + 1)), square / (1 - beta2 ** (step + 1))
        weight = weight - rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        path.append(weight)
    return path


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"optimizer": "rmsprop"}, rmsprop()),
        (
            {
                "optimizer": "rmsprop",
                "rmsprop_decay": 0.8,
                "momentum": 0.6,
                "weight_decay": 0.3,
            },
            rmsprop(alpha=0.8, momentum=0.6, decay=0.3),
        ),
        ({"optimizer": "adam"}, adam()),
        (
            {"optimizer": "adam", "adam_beta1": 0.95, "adam_beta2": 0.9995, "weight_decay": 0.3},
            adam(beta1=0.95, beta2=0.9995, decay=0.3),
        ),
        ({"optimizer": "adamw"}, adam(decoupled=True)),
        (
            {"optimizer": "adamw", "adam_beta1": 0.5, "adam_beta2": 0.9, "weight_decay": 0.3},
            adam(beta1=0.5, beta2=0.9, decay=0.3, decoupled=True),
        ),
    ],
)
def test_steps_are_those_of_the_formula(options, expected):
    torch.testing.assert_close(by_config(**options), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "optimizer_class", "arguments"),
    [
        (
            {"optimizer": "rmsprop", "rmsprop_decay": 0.8, "momentum": 0.6, "weight_decay": 0.3},
            torch.optim.RMSprop,
            {"alpha": 0.8, "momentum": 0.6, "weight_decay": 0.3},
        ),
        (
            {"optimizer": "adam", "adam_beta1": 0.95, "weight_decay": 0.3},
            torch.optim.Adam,
            {"betas": (0.95, 0.999), "weight_decay": 0.3},
        ),
        ({"optimizer": "adamw"}, torch.optim.AdamW, {"weight_decay": 0.0}),
    ],
)
def test_steps_are_those_of_torch(options, optimizer_class, arguments):
    expected = stepped(lambda module: optimizer_class(module.parameters(), **arguments))
    for found, other in zip(by_config(**options), expected, strict=True):
        assert torch.equal(found, other)


def test_the_optimizer_holds_every_parameter_at_the_rate_of_the_config():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    for name in ("rmsprop", "adam", "adamw"):
        optimizer = make_optimizer(TrainingConfig(optimizer=name, learning_rate=0.25), model)
        assert {group["lr"] for group in optimizer.param_groups} == {0.25}
        held = [id(each) for group in optimizer.param_groups for each in group["params"]]
        assert sorted(held) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("kind", model_classes())
@pytest.mark.parametrize("optimizer", ["rmsprop", "adam", "adamw"])
def test_weights_decay_but_not_biases_norms_and_initial_states(kind, optimizer):
    """With gradients of zero a step changes what decays, and nothing else."""
    options = {"hidden_size": 6, "num_layers": 1}
    if "norm" in model_classes()[kind].Config.model_fields:
        options["norm"] = "layer"
    config = validate_model_config({"kind": kind, **options})
    torch.manual_seed(0)
    model = build_model(config, image_shape=(1, 4, 4), num_levels=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
            parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    make_optimizer(TrainingConfig(optimizer=optimizer, weight_decay=0.1), model).step()
    for name, parameter in model.named_parameters():
        is_weight = "weight" in name or name.endswith(".direction")
        is_weight = is_weight and ".norm." not in name and "_norm." not in name
        assert torch.equal(parameter, before[name]) is not is_weight, name


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"learning_rate": 0}, "learning_rate must be greater than 0, got 0"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number, got nan"),
        ({"batch_size": 0}, "batch_size must be greater than or equal to 1, got 0"),
        ({"decay_rate": 1.1}, "decay_rate must be less than or equal to 1, got 1.1"),
        ({"momentum": 1.0}, "momentum must be less than 1, got 1.0"),
        ({"ema_decay": 1.0}, "ema_decay must be less than 1, got 1.0"),
        ({"adam_beta2": -0.1}, "adam_beta2 must be greater than or equal to 0, got -0.1"),
        ({"gradient_clip_norm": 0.0}, "gradient_clip_norm must be greater than 0, got 0.0"),
        ({"max_steps": 0}, "max_steps must be greater than or equal to 1, got 0"),
        ({"optimizer": "sgd"}, "optimizer must be 'rmsprop', 'adam' or 'adamw', got 'sgd'"),
        ({"precision": "fp16"}, "precision must be 'float32' or 'bf16', got 'fp16'"),
        ({"seed": -1}, "seed must be greater than or equal to 0, got -1"),
    ],
)
def test_options_out_of_range_are_refused(options, problem):
    with pytest.raises(ConfigError, match=f"^x: {problem}$"):
        parse(TrainingConfig, options, where="x")
