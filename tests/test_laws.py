"""The laws that every registered model must pass (docs/laws.md), over each of its options."""

import itertools
import math

import pytest
import torch

from raypixel.models import build_model
from raypixel.nn.likelihoods import nll_nats
from raypixel.nn.mixtures import DiscretizedLogisticMixture
from raypixel.sampling import image_seeds, sample
from tests.contract import VARIANTS, labels_for, random_model
from tests.receptive_fields import receptive_field

every_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny tensors are not worth sharing: more threads only wait for each other, minutes on a busy machine."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def every_image(image_shape: tuple[int, int, int], num_levels: int) -> torch.Tensor:
    levels = itertools.product(range(num_levels), repeat=math.prod(image_shape))
    return torch.tensor(list(levels), dtype=torch.uint8).view(-1, *image_shape)


@pytest.mark.parametrize(
    ("image_shape", "num_levels"),
    [((1, 3, 3), 2), ((3, 2, 2), 2), ((1, 2, 4), 2), ((1, 2, 2), 5), ((3, 1, 2), 3)],
)
@every_variant
def test_probabilities_of_all_images_sum_to_one(config, image_shape, num_levels):
    model = random_model(config, image_shape=image_shape, num_levels=num_levels)
    x = every_image(image_shape, num_levels)
    labels = None if model.num_classes == 0 else torch.ones(len(x), dtype=torch.int64)
    with torch.no_grad():
        nats = nll_nats(model.likelihood, model(x, labels), x)
    assert nats.std() > 0.01  # not a uniform model, which would pass unseen
    assert torch.exp(-nats).sum().item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("image_shape", [(1, 5, 4), (1, 3, 6), (3, 3, 4), (3, 4, 3)])
@every_variant
def test_parameters_of_a_dimension_ignore_it_and_all_later_ones(config, image_shape):
    num_levels = 4
    model = random_model(config, image_shape=image_shape, num_levels=num_levels)
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, num_levels, (1, *image_shape), generator=generator)
    order = [(i, j, c) for i, j in model.generation_order() for c in range(image_shape[0])]
    with torch.no_grad():
        before = model(x, labels_for(model, 1))
        for position, (i, j, c) in enumerate(order):
            changed = x.clone()
            changed[0, c, i, j] = (
                changed[0, c, i, j] + 1 + position % (num_levels - 1)
            ) % num_levels
            after = model(changed, labels_for(model, 1))
            for k, m, d in order[: position + 1]:
                assert torch.equal(params_at(before, k, m, d), params_at(after, k, m, d)), (
                    f"parameters of {(k, m, d)} change with input {(i, j, c)}"
                )


def params_at(params: torch.Tensor, row: int, column: int, channel: int) -> torch.Tensor:
    """What decides a dimension: its own parameters, or those of its whole pixel."""
    return params[..., row, column] if params.dim() == 4 else params[:, :, channel, row, column]


@pytest.mark.parametrize("image_shape", [(1, 9, 8), (1, 5, 11), (3, 6, 5)])
@every_variant
def test_receptive_field_is_exactly_what_the_model_promises(config, image_shape):
    num_levels = 4
    _, height, width = image_shape
    for row, column in {
        (height - 1, width // 2),
        (height - 2, 0),
        (height // 2, width - 1),
        (0, 1),
    }:
        promised = None
        seen = torch.zeros(height, width, dtype=torch.bool)
        for seed in range(6):  # a dead unit hides a path in one model, not in six
            model = random_model(config, image_shape=image_shape, num_levels=num_levels, seed=seed)
            promised = receptive_field(model, row, column)
            seen |= pixels_seen(model, row, column, seed=seed)
        order = model.generation_order()
        assert sorted(order) == list(itertools.product(range(height), range(width)))
        earlier = torch.zeros(height, width, dtype=torch.bool)
        for i, j in order[: order.index((row, column))]:
            earlier[i, j] = True
        assert not (promised & ~earlier).any(), "a promise must not reach the pixel itself or later"
        assert torch.equal(seen, promised), f"at {(row, column)}:\n{seen.int()}\n{promised.int()}"


def pixels_seen(model, row: int, column: int, *, seed: int) -> torch.Tensor:
    """Return which other pixels the parameters at a pixel change with, by changing each to every level."""
    _, height, width = model.image_shape
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, model.num_levels, (1, *model.image_shape), generator=generator)
    changed = x.repeat(height * width, 1, 1, 1)
    for pixel in range(height * width):
        i, j = divmod(pixel, width)
        changed[pixel, :, i, j] = (changed[pixel, :, i, j] + 1 + seed % 3) % model.num_levels
    with torch.no_grad():
        before = model(x, labels_for(model, 1))[..., row, column]
        labels = None if model.num_classes == 0 else labels_for(model, 1).expand(len(changed))
        after = model(changed, labels)[..., row, column]
    # rounding differs between batch sizes at about 1e-15: a path is what changes more
    differs = ((before - after).abs() > 1e-12).flatten(1).any(1).view(height, width)
    differs[row, column] = False
    return differs


@pytest.mark.parametrize(("image_shape", "num_levels"), [((1, 4, 3), 2), ((3, 2, 3), 5)])
@every_variant
def test_image_of_a_seed_is_the_same_alone_and_in_any_batch(config, image_shape, num_levels):
    model = random_model(config, image_shape=image_shape, num_levels=num_levels)
    seeds = image_seeds(7, 5)
    labels = labels_for(model, 5)
    together = sample(model, seeds, class_labels=labels)
    for k in (0, 3):
        alone = sample(
            model, [seeds[k]], class_labels=None if labels is None else labels[k : k + 1]
        )
        assert torch.equal(alone[0], together[k])
    in_batches = sample(model, seeds, class_labels=labels, batch_size=2)
    assert torch.equal(in_batches, together)
    assert len(together.flatten(1).unique(dim=0)) > 1


@pytest.mark.parametrize("num_levels", [2, 17, 256])
@every_variant
def test_untrained_model_gives_exactly_log2_of_the_levels(config, num_levels):
    torch.manual_seed(0)
    model = build_model(config, image_shape=(1, 4, 5), num_levels=num_levels, num_classes=3)
    x = torch.randint(0, num_levels, (3, 1, 4, 5))
    if isinstance(model.likelihood, DiscretizedLogisticMixture):
        pytest.skip("no parameters of a mixture give all levels the same probability")
    nats = nll_nats(model.likelihood, model(x, labels_for(model, 3)), x)
    bits = nats / (20 * math.log(2))
    assert bits.tolist() == pytest.approx([math.log2(num_levels)] * 3, rel=1e-6)


@every_variant
def test_samples_follow_the_model_exactly_enumerated(config):
    """Frequencies of all 16 images of 2x2 binary pixels, 2,000 samples, against exp(-nll): chi-square."""
    model = random_model(config, image_shape=(1, 2, 2), num_levels=2)
    x = every_image((1, 2, 2), 2)
    labels = None if model.num_classes == 0 else torch.ones(16, dtype=torch.int64)
    with torch.no_grad():
        expected = 2000 * torch.exp(-nll_nats(model.likelihood, model(x, labels), x))
    labels = None if model.num_classes == 0 else torch.ones(2000, dtype=torch.int64)
    drawn = sample(model, image_seeds(0, 2000), class_labels=labels, batch_size=2000)
    codes = (drawn.flatten(1).long() * torch.tensor([8, 4, 2, 1])).sum(1)
    counts = torch.bincount(codes, minlength=16).double()
    chi_square = ((counts - expected).square() / expected.clamp(min=1.0)).sum().item()
    assert chi_square < 45  # 15 degrees of freedom: above this with probability 1e-4


def test_models_that_share_the_registry_have_the_common_options():
    kinds = {"pixelcnn", "row_lstm", "diagonal_bilstm", "multiscale", "gated_pixelcnn"}
    kinds |= {"pixelcnn_pp", "pixelsnail"}
    assert {config.kind for config in VARIANTS.values()} >= kinds
    for config in VARIANTS.values():
        assert config.hidden_size == 6
        assert config.num_layers == 2
