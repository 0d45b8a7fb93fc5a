import numpy as np
import pytest
import torch

from raypixel.data import DataConfig, Manifest, Origin, load_manifest
from raypixel.data.batches import EvalBatches, TrainBatches
from raypixel.data.levels import shifted, to_levels
from raypixel.data.splits import Split, read_split

NUM_IMAGES = 23
EVERY_WORLD = pytest.mark.parametrize("world_size", [1, 2, 3, 7])


def manifest() -> Manifest:
    return Manifest(
        name="set",
        format_version=1,
        image_shape=(1, 2, 3),
        num_levels=256,
        num_classes=NUM_IMAGES,
        class_names=tuple(map(str, range(NUM_IMAGES))),
        splits={},
        origin=Origin(source="test"),
    )


def split(count: int = NUM_IMAGES, *, has_labels: bool = True) -> Split:
    """Images that differ, with their position as the label."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(1, 255, (count, 1, 2, 3), generator=generator, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(count)
    return Split(images=images, class_labels=torch.arange(count) if has_labels else None)


def train_batches(*, batch_size=5, seed=0, rank=0, world_size=1, data=None, **options):
    return TrainBatches(
        split() if data is None else data,
        DataConfig(name="set", **options),
        manifest(),
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


def eval_batches(*, batch_size=5, rank=0, world_size=1, data=None, **options):
    config = DataConfig(name="set", **options)
    return EvalBatches(
        split() if data is None else data,
        config,
        manifest(),
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
    )


def whole(shares):
    """Put the workers' shares of one batch together: worker r has every world_size-th image from r on."""
    size = shares[0].global_size
    x = torch.empty((size, 1, 2, 3), dtype=torch.uint8)
    labels = torch.full((size,), -1)
    for rank, share in enumerate(shares):
        assert share.global_size == size
        x[rank :: len(shares)] = share.x
        labels[rank :: len(shares)] = share.class_labels
    return x, labels


def whole_epoch(epoch: int, world_size: int, *, start_step=0, **options):
    workers = [
        train_batches(rank=rank, world_size=world_size, **options).epoch(
            epoch, start_step=start_step
        )
        for rank in range(world_size)
    ]
    return [whole(shares) for shares in zip(*workers, strict=True)]


def assert_equal(found, expected):
    for (x, labels), (other_x, other_labels) in zip(found, expected, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(labels, other_labels)


@EVERY_WORLD
@pytest.mark.parametrize("batch_size", [1, 4, 5, 23, 100])
def test_every_image_comes_once_in_an_epoch_over_all_workers(world_size, batch_size):
    labels = []
    for rank in range(world_size):
        batches = train_batches(batch_size=batch_size, rank=rank, world_size=world_size)
        shares = list(batches.epoch(2))
        assert len(shares) == batches.num_steps == -(-NUM_IMAGES // batch_size)
        for share in shares:
            assert torch.equal(share.x, split().images[share.class_labels])
            labels += share.class_labels.tolist()
    assert sorted(labels) == list(range(NUM_IMAGES))


@pytest.mark.parametrize("augment", ["none", "shift"])
@pytest.mark.parametrize("binarization", ["none", "stochastic"])
@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_global_batches_do_not_depend_on_the_number_of_workers(world_size, binarization, augment):
    options = {"binarization": binarization, "augment": augment}
    for epoch in (0, 1):
        found = whole_epoch(epoch, world_size, **options)
        assert_equal(found, whole_epoch(epoch, 1, **options))


def test_shares_of_a_batch_differ_by_at_most_one_image_and_may_be_empty():
    workers = [list(train_batches(rank=rank, world_size=7).epoch(0)) for rank in range(7)]
    assert [[len(s.x) for s in shares] for shares in zip(*workers, strict=True)] == [
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
    ]
    assert {share.global_size for share in workers[6]} == {5, 3}


def test_order_is_one_permutation_drawn_from_seed_and_epoch():
    for seed, epoch in ((0, 0), (0, 1), (5, 0)):
        labels = torch.cat([b.class_labels for b in train_batches(seed=seed).epoch(epoch)])
        generator = np.random.default_rng(np.random.SeedSequence((seed, epoch)))
        assert labels.tolist() == generator.permutation(NUM_IMAGES).tolist()


def test_order_differs_by_epoch_and_by_seed():
    orders = {
        tuple(torch.cat([b.class_labels for b in train_batches(seed=seed).epoch(epoch)]).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


@pytest.mark.parametrize("augment", ["none", "shift"])
@pytest.mark.parametrize("binarization", ["none", "stochastic"])
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("start_step", range(6))
def test_resuming_at_any_step_gives_the_batches_that_were_left(
    start_step, world_size, binarization, augment
):
    options = {"binarization": binarization, "augment": augment, "seed": 4}
    expected = whole_epoch(1, world_size, **options)[start_step:]
    found = whole_epoch(1, world_size, start_step=start_step, **options)
    assert len(found) == 5 - start_step
    assert_equal(found, expected)


def draws(epoch: int, **options) -> torch.Tensor:
    """The binary images of an epoch, in the order of the split."""
    batches = list(train_batches(binarization="stochastic", **options).epoch(epoch))
    order = torch.cat([batch.class_labels for batch in batches]).argsort()
    return torch.cat([batch.x for batch in batches])[order]


def test_stochastic_binarization_is_drawn_anew_in_each_epoch_and_by_each_seed():
    found = [draws(epoch, seed=seed) for epoch, seed in ((0, 0), (1, 0), (0, 1))]
    for x in found:
        assert set(x.unique().tolist()) == {0, 1}
    for first, second in ((0, 1), (0, 2), (1, 2)):
        share = (found[first] != found[second]).double().mean().item()
        assert 0.15 < share < 0.5  # independent draws of the same probabilities differ by a third


def test_stochastic_binarization_is_one_with_the_level_as_probability():
    images = torch.tensor([0, 51, 128, 204, 255], dtype=torch.uint8).view(-1, 1, 1, 1)
    data = Split(images=images.expand(-1, 1, 2, 3).contiguous(), class_labels=torch.arange(5))
    mean = torch.stack([draws(epoch, data=data).double() for epoch in range(200)]).mean(
        (0, 2, 3, 4)
    )
    assert mean.tolist() == pytest.approx([0, 0.2, 128 / 255, 0.8, 1.0], abs=0.06)
    assert mean[0] == 0
    assert mean[4] == 1


def moved(epoch: int, **options) -> list[set[int]]:
    """For each image in the order of training: which of the nine shifts may have made what is trained on."""
    every = torch.tensor([[down, right] for down in (-1, 0, 1) for right in (-1, 0, 1)])
    found = []
    for batch in train_batches(augment="shift", **options).epoch(epoch):
        for x, label in zip(batch.x, batch.class_labels, strict=True):
            nine = shifted(split().images[label].expand(9, -1, -1, -1), every)
            found.append({n for n in range(9) if torch.equal(nine[n], x)})
    return found


def test_train_images_are_shifted_anew_in_each_epoch_and_by_each_seed():
    drawn = [moved(epoch, seed=seed) for epoch, seed in ((0, 0), (1, 0), (0, 1))]
    for shifts in drawn:
        assert all(shifts)  # each image is one of its nine shifts
    assert set().union(*(one for shifts in drawn for one in shifts if len(one) == 1)) == set(
        range(9)
    )
    for first, second in ((0, 1), (0, 2), (1, 2)):
        pairs = zip(drawn[first], drawn[second], strict=True)
        assert sum(not a & b for a, b in pairs) > NUM_IMAGES / 2


def test_shifts_leave_the_order_the_labels_and_the_evaluation_as_they_are():
    plain, shifts = (list(train_batches(augment=a).epoch(3)) for a in ("none", "shift"))
    for one, other in zip(plain, shifts, strict=True):
        assert torch.equal(one.class_labels, other.class_labels)
    for binarization in ("none", "stochastic"):
        one, other = (
            torch.cat([b.x for b in eval_batches(augment=a, binarization=binarization)])
            for a in ("none", "shift")
        )
        assert torch.equal(one, other)


def test_levels_are_drawn_after_the_shift():
    images = torch.zeros((1, 1, 2, 3), dtype=torch.uint8)
    images[..., 1] = 255  # certain either way
    data = Split(images=images, class_labels=torch.zeros(1, dtype=torch.int64))
    found = set()
    for epoch in range(30):
        options = {"data": data, "augment": "shift", "binarization": "stochastic"}
        (batch,) = train_batches(**options).epoch(epoch)
        found.add(tuple(batch.x[0, 0, 0].tolist()))
        assert torch.equal(batch.x[0, 0, 0], batch.x[0, 0, 1])
    assert found == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}


def test_batches_without_class_labels_have_none():
    data = split(has_labels=False)
    assert {batch.class_labels for batch in train_batches(data=data).epoch(0)} == {None}
    assert {batch.class_labels for batch in eval_batches(data=data)} == {None}


@EVERY_WORLD
@pytest.mark.parametrize("batch_size", [1, 4, 5, 23, 100])
def test_evaluation_counts_each_image_once_at_any_world_size(world_size, batch_size):
    workers = [
        eval_batches(batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    batches = [whole(shares) for shares in zip(*workers, strict=True)]
    assert len(batches) == len(workers[0]) == -(-NUM_IMAGES // batch_size)
    assert torch.equal(torch.cat([x for x, _ in batches]), split().images)
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(NUM_IMAGES))


def test_evaluation_may_be_repeated():
    for binarization in ("none", "stochastic"):
        batches = eval_batches(binarization=binarization)
        first, second = ([b.x for b in batches] for _ in range(2))
        assert all(map(torch.equal, first, second))
        assert len(first) == 5


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_draw_of_an_evaluation_does_not_depend_on_the_number_of_workers(world_size):
    def images(world_size):
        workers = [
            eval_batches(rank=rank, world_size=world_size, binarization="stochastic")
            for rank in range(world_size)
        ]
        return torch.cat([whole(shares)[0] for shares in zip(*workers, strict=True)])

    assert set(images(1).unique().tolist()) == {0, 1}
    assert torch.equal(images(world_size), images(1))


def test_the_draw_of_an_evaluation_follows_its_own_seed():
    def images(seed):
        options = {"binarization": "stochastic", "binarization_seed": seed}
        return torch.cat([b.x for b in eval_batches(**options)])

    assert not torch.equal(images(0), images(1))


def test_levels_that_are_not_drawn_are_left_as_they_are():
    config = DataConfig(name="set", num_levels=4)
    images = to_levels(split().images, config, manifest())
    data = Split(images=images, class_labels=split().class_labels)
    for batch in train_batches(data=data, num_levels=4).epoch(0):
        assert torch.equal(batch.x, images[batch.class_labels])
    assert torch.equal(torch.cat([b.x for b in eval_batches(data=data, num_levels=4)]), images)


def test_no_image_is_no_batch():
    assert list(train_batches(data=split(0)).epoch(0)) == []
    assert list(eval_batches(data=split(0))) == []


def test_stochastic_evaluation_images_do_not_depend_on_the_batch_size(digits_root):
    config = DataConfig(name="digits", root=digits_root, binarization="stochastic")
    manifest = load_manifest(digits_root, "digits")
    split = read_split(digits_root, "digits", "val")
    drawn = [
        torch.cat([batch.x for batch in EvalBatches(split, config, manifest, batch_size=size)])
        for size in (5, 23, 250)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
