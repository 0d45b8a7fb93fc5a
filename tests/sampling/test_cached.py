"""The cached sampler against the full pass and the oracle, for every registered model and option."""

import copy
from typing import get_args

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raypixel.models import build_model, validate_model_config
from raypixel.sampling import CachedSampler, Image, cached, image_seeds, sample
from raypixel.sampling.cached import Implementation
from raypixel.sampling.planes import Planes
from tests.contract import VARIANTS, labels_for, random_model

every_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
every_implementation = pytest.mark.parametrize("implementation", get_args(Implementation))
NUM_LEVELS = 4


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny tensors are not worth sharing, least of all on a busy machine."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def images_of(model, count: int, *, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *model.image_shape)
    return torch.randint(0, NUM_LEVELS, shape, generator=generator, dtype=torch.uint8)


def requests(seeds, labels, *, x=None, observed=None) -> list[Image]:
    return [
        Image(
            seed,
            None if labels is None else int(labels[k]),
            0.8,
            None if x is None else x[k],
            None if observed is None else observed[k],
        )
        for k, seed in enumerate(seeds)
    ]


def teacher_forced(model, x, class_labels=None, *, implementation=None) -> torch.Tensor:
    """The parameters of every sub-pixel of x, (N, P, C, H, W), position by position, as sampling computes them."""
    sampler = CachedSampler(model, len(x), implementation=implementation, keeps_params=True)
    observed = torch.ones_like(x[0], dtype=torch.bool)
    labels = [None] * len(x) if class_labels is None else class_labels.tolist()
    images = [Image(0, label, 1.0, each, observed) for each, label in zip(x, labels, strict=True)]
    sampler.admit(range(len(x)), images)
    while len(sampler.finished()) < len(x):
        sampler.advance()
    return sampler.params


@pytest.mark.parametrize("image_shape", [(1, 4, 5), (1, 3, 7), (3, 4, 3), (3, 2, 5)])
@every_implementation
@every_variant
def test_parameters_equal_the_full_pass(config, implementation, image_shape):
    model = random_model(config, image_shape=image_shape, num_levels=NUM_LEVELS)
    x, labels = images_of(model, 3), labels_for(model, 3)
    with torch.no_grad():
        expected = model(x, labels)
    found = teacher_forced(model, x, labels, implementation=implementation)
    assert (found - expected).abs().max() < 1e-9


@every_implementation
@every_variant
def test_parameters_in_float32_equal_the_full_pass_to_rounding(config, implementation):
    model = random_model(config, image_shape=(3, 4, 5), num_levels=NUM_LEVELS)
    x, labels = images_of(model, 2), labels_for(model, 2)
    with torch.no_grad():
        expected = model(x, labels)
    found = teacher_forced(copy.deepcopy(model).float(), x, labels, implementation=implementation)
    assert (found - expected).abs().max() < 2e-4 * expected.abs().max()


@pytest.mark.parametrize(("image_shape", "num_levels"), [((1, 4, 5), 2), ((3, 4, 3), NUM_LEVELS)])
@every_implementation
@every_variant
def test_samples_and_completions_equal_the_oracle(config, implementation, image_shape, num_levels):
    model = random_model(config, image_shape=image_shape, num_levels=num_levels)
    seeds, labels = image_seeds(0, 3), labels_for(model, 3)
    generator = torch.Generator().manual_seed(3)
    x = images_of(model, 3) % num_levels
    observed = torch.rand(x.shape, generator=generator) < 0.3
    observed[0, :, :2] = True  # rows from the top, and then some
    observed[1:, :, :1] = True
    for given in ({}, {"x": x, "observed": observed}):
        expected = sample(
            model, seeds, class_labels=labels, temperature=0.8, sampler="oracle", **given
        )
        found = cached.draw(model, requests(seeds, labels, **given), implementation=implementation)
        assert torch.equal(found, expected)
    assert torch.equal(found[observed], x[observed])


@pytest.mark.parametrize("num_rows", [1, 4])
@every_variant
def test_parameters_below_rows_consumed_in_one_pass_equal_the_full_pass(
    config, num_rows, monkeypatch
):
    monkeypatch.setattr("raypixel.sampling.stages.BLOCK_BYTES", 1)  # one image after another
    model = random_model(config, image_shape=(3, 6, 3), num_levels=NUM_LEVELS)
    x, labels = images_of(model, 2), labels_for(model, 2)
    with torch.no_grad():
        expected = model(x, labels)
    slots = CachedSampler(model, 2, implementation="interpreter", keeps_params=True)
    top = torch.zeros(3, 6, 3, dtype=torch.bool)
    top[:, :num_rows] = True
    given = [None if labels is None else int(labels[k]) for k in range(2)]
    slots.admit([0, 1], [Image(0, given[k], 1.0, x[k], torch.ones_like(top)) for k in range(2)])
    for number in range(len(slots.stages)):
        slots._slots.observed[:] = top  # so that the block ends there
        slots.prefill([0, 1])
        slots._slots.observed[:] = True
        while slots.stage[0] == number:
            slots.advance(3)
    below = slots.params.abs().flatten(0, -3).amax(dim=(0, 2)) > 0
    assert below.tolist() == [i >= num_rows for i in range(6)]
    assert (slots.params - expected)[..., num_rows:, :].abs().max() < 1e-9


@every_variant
def test_before_the_first_observed_dimension_a_completion_is_the_unconditioned_sample(config):
    model = random_model(config, image_shape=(3, 4, 3), num_levels=NUM_LEVELS)
    seeds, labels = image_seeds(0, 2), labels_for(model, 2)
    free = sample(model, seeds, class_labels=labels)
    numbers = torch.empty(4, 3, dtype=torch.int64)
    for number, (i, j) in enumerate(model.generation_order()):
        numbers[i, j] = number
    dimensions = (
        numbers * 3 + torch.arange(3)[:, None, None]
    )  # (C, H, W), in the order of generation
    observed = ((dimensions >= 17) & (dimensions % 2 == 1)).expand(2, -1, -1, -1)
    x = (free + 1) % NUM_LEVELS  # other levels than those drawn
    found = sample(model, seeds, class_labels=labels, x=x, observed=observed)
    assert torch.equal(found[:, dimensions < 17], free[:, dimensions < 17])
    assert not torch.equal(found[:, dimensions > 17], free[:, dimensions > 17])


@every_implementation
@every_variant
def test_an_image_does_not_depend_on_its_batch_or_on_when_it_joined(config, implementation):
    """Five images through two slots: each joins as soon as another is done, steps are of uneven length."""
    model = random_model(config, image_shape=(1, 4, 5), num_levels=NUM_LEVELS)
    seeds, labels = image_seeds(2, 5), labels_for(model, 5)
    x = images_of(model, 5)
    observed = torch.zeros_like(x, dtype=torch.bool)
    observed[3, :, :2] = True
    expected = sample(
        model, seeds, class_labels=labels, x=x, observed=observed, sampler="oracle", batch_size=1
    )
    slots = CachedSampler(model, 2, implementation=implementation)
    waiting, places, found = list(range(5)), {}, {}
    for step in range(200):
        for slot in slots.finished():
            found[places.pop(slot)] = slots.x[slot].clone()
            slots.release(slot)
        for slot in {0, 1} - set(places):
            if waiting and step >= 3 * slot:
                k = places[slot] = waiting.pop(0)
                label = None if labels is None else int(labels[k])
                slots.admit([slot], [Image(seeds[k], label, 1.0, x[k], observed[k])])
        slots.advance(1 + step % 3)
    assert torch.equal(torch.stack([found[k] for k in range(5)]), expected)


@every_variant
def test_memory_grows_with_the_width_not_the_area(config):
    def numbers(height: int, width: int) -> list[int]:
        model = random_model(config, image_shape=(1, height, width), num_levels=2)
        stages = model.stages()
        planes = [
            Planes(each.plan, 1, dtype=torch.float32, device=torch.device("cpu")) for each in stages
        ]
        return [each.flat.shape[1] for each in planes]

    if config.kind == "multiscale" and config.base.kind == "pixelsnail":
        pytest.skip("the base attends to all of its rows")
    if config.kind == "pixelsnail":
        # attention keeps the keys and values of all rows
        kept = config.num_blocks * config.num_heads * (config.key_size + config.value_size)
        assert [b - a for a, b in zip(numbers(8, 8), numbers(32, 8), strict=True)] == [
            24 * 8 * kept
        ]
        config = config.model_copy(update={"attention_rows": 5})
    assert numbers(8, 8) == numbers(32, 8)
    assert all(b < 2.5 * a for a, b in zip(numbers(8, 8), numbers(8, 16), strict=True))


class NoReading(TorchDispatchMode):
    """Fail when a number is read back from the device."""

    num_operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
        ), f"{func} waits for the device"
        self.num_operations += 1
        return func(*args, **(kwargs or {}))


@every_variant
def test_a_step_of_a_batch_at_one_position_reads_nothing_back(config):
    model = random_model(config, image_shape=(3, 4, 5), num_levels=NUM_LEVELS)
    labels = labels_for(model, 2)
    slots = CachedSampler(model, 2, implementation="interpreter")
    slots.admit([0, 1], [Image(k, None if labels is None else int(labels[k])) for k in range(2)])
    with NoReading() as watched:
        slots.advance(7)
    assert watched.num_operations > 7 * len(slots.stages[0].plan.steps)


def test_changed_weights_are_noticed():
    config = validate_model_config({"kind": "pixelcnn", "hidden_size": 6, "num_layers": 1})
    model = random_model(config, image_shape=(1, 4, 4), num_levels=2)
    x = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    before = teacher_forced(model, x)
    with torch.no_grad():
        model.first.bias.add_(1.0)
        expected = model(x)
    after = teacher_forced(model, x)
    assert (after - expected).abs().max() < 1e-9
    assert (after - before).abs().max() > 1e-3


def test_a_class_label_must_fit_the_model():
    plain = build_model(
        validate_model_config({"kind": "pixelcnn"}), image_shape=(1, 4, 4), num_levels=2
    )
    with pytest.raises(ValueError, match="class_label must be None"):
        CachedSampler(plain, 1).admit([0], [Image(0, class_label=1)])
    config = validate_model_config({"kind": "gated_pixelcnn", "use_class_conditioning": True})
    conditional = build_model(config, image_shape=(1, 4, 4), num_levels=2, num_classes=3)
    with pytest.raises(ValueError, match="class_label must be one of 3, got None"):
        CachedSampler(conditional, 1).admit([0], [Image(0)])


def test_observed_rows_at_the_top_are_consumed_before_the_first_step():
    config = validate_model_config({"kind": "pixelcnn", "hidden_size": 6, "num_layers": 1})
    model = random_model(config, image_shape=(1, 6, 4), num_levels=2)
    observed = torch.zeros(1, 6, 4, dtype=torch.bool)
    observed[:, :4] = True
    observed[:, 5] = True  # below an unobserved row: not consumed yet
    slots = CachedSampler(model, 1, implementation="interpreter")
    slots.admit([0], [Image(0, None, 1.0, torch.ones(1, 6, 4, dtype=torch.uint8), observed)])
    slots.prefill([0])
    assert slots.row[0] == 4
    slots.advance(4)
    assert slots.row[0] == 5
