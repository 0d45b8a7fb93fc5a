import pytest
import torch

from raypixel.data import DataConfig, Manifest, Origin, num_levels_of
from raypixel.data.levels import draw_shifts, fix_levels, shifted, to_levels
from raypixel.data.splits import Split, read_split
from raypixel.errors import ConfigError


def manifest(num_levels: int) -> Manifest:
    return Manifest(
        name="set",
        format_version=1,
        image_shape=(1, 4, 4),
        num_levels=num_levels,
        num_classes=0,
        class_names=(),
        splits={},
        origin=Origin(source="test"),
    )


def config(**options) -> DataConfig:
    return DataConfig(name="set", **options)


def split(num_levels: int, count: int = 64) -> Split:
    generator = torch.Generator().manual_seed(1)
    shape = (count, 1, 4, 4)
    images = torch.randint(0, num_levels, shape, generator=generator, dtype=torch.uint8)
    return Split(images=images, class_labels=torch.arange(count))


@pytest.mark.parametrize(
    ("num_levels", "fewer"),
    [(k, n) for k in (2, 3, 17, 255, 256) for n in (2, 3, 5, 16, 17, 256) if n <= k],
)
def test_quantization_is_the_floor_of_the_share(num_levels, fewer):
    x = torch.arange(num_levels, dtype=torch.uint8)
    levels = to_levels(x, config(num_levels=fewer), manifest(num_levels))
    assert levels.dtype == torch.uint8
    assert levels.tolist() == [int(value * fewer / num_levels) for value in range(num_levels)]
    assert set(levels.tolist()) == set(range(fewer))


@pytest.mark.parametrize("num_levels", [3, 16, 17, 256])
def test_threshold_is_half_the_levels(num_levels):
    x = torch.arange(num_levels, dtype=torch.uint8)
    levels = to_levels(x, config(binarization="threshold"), manifest(num_levels))
    assert levels.tolist() == [int(value >= num_levels / 2) for value in range(num_levels)]


@pytest.mark.parametrize("num_levels", [3, 17, 256])
def test_stochastic_binarization_is_one_with_the_level_as_probability(num_levels):
    x = torch.arange(num_levels, dtype=torch.uint8).repeat(40_000 // 8, 1)
    draws = to_levels(
        x,
        config(binarization="stochastic"),
        manifest(num_levels),
        generator=torch.Generator().manual_seed(0),
    )
    expected = torch.arange(num_levels) / (num_levels - 1)
    error = 5 * (expected * (1 - expected) / len(x)).sqrt()
    mean = draws.double().mean(0)
    assert ((mean - expected).abs() <= error).all()
    assert mean[0] == 0.0
    assert mean[-1] == 1.0


def test_stochastic_binarization_follows_the_generator():
    x, options = split(256).images, config(binarization="stochastic")

    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return to_levels(x, options, manifest(256), generator=generator)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_fixed_binarization_is_a_draw_that_the_number_of_images_does_not_change():
    whole, options = split(256), config(binarization="fixed", binarization_seed=5)
    fixed = fix_levels(whole, options, manifest(256), split_name="train").images
    again = fix_levels(whole, options, manifest(256), split_name="train").images
    few = fix_levels(
        whole, options.model_copy(update={"max_train_images": 7}), manifest(256), split_name="train"
    )
    assert torch.equal(fixed, again)
    assert torch.equal(few.images, fixed[:7])
    assert set(fixed.unique().tolist()) == {0, 1}
    share = whole.images.double().mean() / 255
    assert abs(fixed.double().mean() - share) < 0.05


def test_fixed_binarization_differs_by_seed_and_by_split():
    whole = split(256)

    def draw(seed: int, split_name: str) -> torch.Tensor:
        options = config(binarization="fixed", binarization_seed=seed)
        return fix_levels(whole, options, manifest(256), split_name=split_name).images

    assert not torch.equal(draw(0, "train"), draw(1, "train"))
    assert not torch.equal(draw(0, "train"), draw(0, "val"))


def test_fixing_equals_mapping_for_what_is_not_drawn():
    whole = split(17)
    for options in (config(), config(binarization="threshold"), config(num_levels=5)):
        fixed = fix_levels(whole, options, manifest(17), split_name="val").images
        assert torch.equal(fixed, to_levels(whole.images, options, manifest(17)))


def test_stochastic_binarization_is_left_to_the_batches():
    whole = split(17)
    fixed = fix_levels(whole, config(binarization="stochastic"), manifest(17), split_name="val")
    assert torch.equal(fixed.images, whole.images)


@pytest.mark.parametrize(
    ("split_name", "count"), [("train", 3), ("val", 5), ("test", 5)], ids=["train", "val", "test"]
)
def test_limits_take_the_first_images_and_their_labels(split_name, count):
    whole, options = split(17), config(max_train_images=3, max_eval_images=5)
    fixed = fix_levels(whole, options, manifest(17), split_name=split_name)
    assert torch.equal(fixed.images, whole.images[:count])
    assert fixed.class_labels.tolist() == list(range(count))


def test_a_limit_above_the_split_takes_it_all():
    fixed = fix_levels(split(17), config(max_train_images=999), manifest(17), split_name="train")
    assert len(fixed) == 64


def test_number_of_levels_after_the_options():
    assert num_levels_of(config(), manifest(17)) == 17
    assert num_levels_of(config(num_levels=4), manifest(17)) == 4
    for binarization in ("threshold", "stochastic", "fixed"):
        assert num_levels_of(config(binarization=binarization), manifest(17)) == 2


def test_two_levels_are_left_as_they_are():
    whole = split(2)
    for options in (config(), config(binarization="fixed"), config(num_levels=2)):
        assert num_levels_of(options, manifest(2)) == 2
        fixed = fix_levels(whole, options, manifest(2), split_name="train").images
        assert torch.equal(fixed, whole.images)
        assert torch.equal(to_levels(whole.images, options, manifest(2)), whole.images)


def test_digits_fill_their_levels(digits_root):
    images = read_split(digits_root, "digits", "train").images
    assert images.min() == 0
    assert images.max() == 16


def test_impossible_options_are_refused():
    with pytest.raises(ConfigError, match=r"num_levels must be at most the 17 of 'set', got 18"):
        num_levels_of(config(num_levels=18), manifest(17))
    for binarization in ("threshold", "stochastic"):
        text = rf"binarization must be 'none' or 'fixed' for 'set'.*got '{binarization}'"
        with pytest.raises(ConfigError, match=text):
            num_levels_of(config(binarization=binarization), manifest(2))


def test_wrong_arguments_are_refused():
    x = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"x must be uint8, got torch.int64"):
        to_levels(x.long(), config(), manifest(17))
    with pytest.raises(ValueError, match=r"generator must be given for a stochastic"):
        to_levels(x, config(binarization="stochastic"), manifest(17))


def test_a_shift_moves_an_image_and_repeats_its_border():
    x = torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3).repeat(4, 2, 1, 1)
    x[:, 1] += 10  # both channels move alike
    found = shifted(x, torch.tensor([[0, 0], [1, 0], [0, -1], [-1, 1]]))
    expected = [
        [[0, 1, 2], [3, 4, 5]],
        [[0, 1, 2], [0, 1, 2]],
        [[1, 2, 2], [4, 5, 5]],
        [[3, 3, 4], [3, 3, 4]],
    ]
    assert found.dtype == torch.uint8
    assert found[:, 0].tolist() == expected
    assert torch.equal(found[:, 1], found[:, 0] + 10)


def test_each_of_the_nine_shifts_is_as_likely():
    drawn = draw_shifts(9_000, torch.Generator().manual_seed(0))
    counts = torch.bincount((3 * drawn[:, 0] + drawn[:, 1] + 4), minlength=9)
    assert counts.tolist() == pytest.approx([1_000] * 9, abs=120)  # four standard deviations
