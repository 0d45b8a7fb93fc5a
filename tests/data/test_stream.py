import dataclasses
import time
import weakref

import numpy as np
import pytest
import torch

from raypixel.data import DataConfig
from raypixel.data.batches import EvalBatches, TrainBatches
from raypixel.data.levels import fix_levels
from raypixel.data.splits import Split, read_split
from raypixel.data.stream import open_stream, read_ahead
from raypixel.errors import ConfigError, DataError

from ..striped import write_striped
from .test_batches import assert_equal, whole

SHAPE = (1, 2, 3)
SHARDS = (40, 35, 25)
NUM_IMAGES = sum(SHARDS)
ROWS_OF_A_BLOCK = 7
ROWS_OF_A_WINDOW = 20
EVERY_WORLD = pytest.mark.parametrize("world_size", [1, 2, 3, 7])


@pytest.fixture(scope="module")
def striped(tmp_path_factory) -> tuple:
    """A prepared set of three shards of several blocks each; an image's label is its position."""
    root = tmp_path_factory.mktemp("prepared")
    manifest = write_striped(
        root,
        shards=dict.fromkeys(("train", "val", "test"), SHARDS),
        block_images=ROWS_OF_A_BLOCK,
        image_shape=SHAPE,
    )
    return root, manifest


def stream(striped, *, deliver=read_ahead, split_name="train", **options):
    root, manifest = striped
    config = DataConfig(name="striped", root=root, backend="stream", **options)
    opened = open_stream(config, manifest, split_name, deliver=deliver)
    return dataclasses.replace(opened, window_bytes=6 * ROWS_OF_A_WINDOW)


def batches_of(split, **options) -> TrainBatches:
    return TrainBatches(split, split.config, split.manifest, **options)


def epoch_of(striped, epoch, *, world_size=1, batch_size=8, seed=0, start_step=0, **options):
    """The global batches of an epoch, put together from the workers' shares."""
    workers = [
        batches_of(
            stream(striped, **options),
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    iterators = [worker.epoch(epoch, start_step=start_step) for worker in workers]
    batches = [whole(shares) for shares in zip(*iterators, strict=True)]
    for worker in workers:
        worker.close()
    return batches


def order_of(batches) -> list[int]:
    return torch.cat([labels for _, labels in batches]).tolist()


@EVERY_WORLD
@pytest.mark.parametrize("batch_size", [1, 8, 30, 300])
def test_every_image_comes_once_in_an_epoch_with_its_own_label(striped, world_size, batch_size):
    images = read_split(striped[0], "striped", "train").images
    batches = epoch_of(striped, 2, world_size=world_size, batch_size=batch_size)
    assert len(batches) == -(-NUM_IMAGES // batch_size)
    assert [len(x) for x, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert sorted(order_of(batches)) == list(range(NUM_IMAGES))
    for x, labels in batches:
        assert torch.equal(x, images[labels])


@pytest.mark.parametrize("binarization", ["none", "stochastic"])
@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_global_batches_do_not_depend_on_the_number_of_workers(striped, world_size, binarization):
    for epoch in (0, 1):
        found = epoch_of(striped, epoch, world_size=world_size, binarization=binarization)
        assert_equal(found, epoch_of(striped, epoch, binarization=binarization))


def test_order_differs_by_epoch_and_by_seed_and_is_repeated_by_both(striped):
    orders = {
        (seed, epoch): tuple(order_of(epoch_of(striped, epoch, seed=seed)))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == 9
    assert order_of(epoch_of(striped, 1, seed=2)) == list(orders[2, 1])


def test_a_batch_mixes_blocks_of_different_shards(striped):
    shards = np.repeat(range(len(SHARDS)), SHARDS)
    mixed = [len(set(shards[labels].tolist())) for _, labels in epoch_of(striped, 0, batch_size=20)]
    assert sum(mixed) / len(mixed) > 1.5


@pytest.mark.parametrize("binarization", ["none", "stochastic"])
@pytest.mark.parametrize("start_step", [0, 1, 4, 12, 13])
def test_resuming_at_any_step_gives_the_batches_that_were_left(striped, start_step, binarization):
    options = {"binarization": binarization, "augment": "shift"}
    expected = epoch_of(striped, 1, **options)[start_step:]
    found = epoch_of(striped, 1, start_step=start_step, **options)
    assert len(found) == 13 - start_step
    assert_equal(found, expected)


def test_epochs_in_a_row_equal_epochs_read_on_their_own(striped):
    batches = batches_of(stream(striped), batch_size=8, seed=0)
    for epoch in (0, 1, 2):
        found = [(batch.x, batch.class_labels) for batch in batches.epoch(epoch)]
        assert_equal(found, epoch_of(striped, epoch))
    next(batches.epoch(3))  # left in the middle
    found = [(batch.x, batch.class_labels) for batch in batches.epoch(3)]
    assert_equal(found, epoch_of(striped, 3))
    batches.close()


def test_resuming_reads_no_window_before_its_own(striped):
    numbers = []

    def deliver(read, windows, num_dims):
        for window in windows:
            assert num_dims == 6
            numbers.append(window.entropy[3])
            yield read(window)

    split = stream(striped, deliver=deliver)
    sizes = [window.num_images for window in split.shuffled(0, 0)]
    next(batches_of(split, batch_size=8, seed=0).epoch(0, start_step=11))
    assert numbers[0] == int(np.searchsorted(np.cumsum(sizes), 88, side="right")) > 2


def test_two_windows_are_in_memory_while_an_epoch_is_read(striped):
    alive: list[weakref.ref] = []
    most = largest = 0

    def num_alive():
        return sum(ref() is not None for ref in alive)

    def deliver(read, windows, num_dims):
        def counted(window):
            nonlocal most, largest
            split = read(window)
            array = split.images.numpy().copy()  # lives as long as any view of the tensor over it
            alive.append(weakref.ref(array))
            most = max(most, num_alive())
            largest = max(largest, array.size)
            return Split(torch.from_numpy(array), split.class_labels)

        return read_ahead(counted, windows, num_dims)

    batches = batches_of(stream(striped, deliver=deliver), batch_size=3, seed=0)
    for epoch in range(3):
        for _ in batches.epoch(epoch):
            time.sleep(0.002)  # the thread has the time to read as far ahead as it may
    batches.close()
    assert most == 2
    assert largest <= 6 * ROWS_OF_A_WINDOW
    assert num_alive() == 0


@EVERY_WORLD
@pytest.mark.parametrize("binarization", ["none", "threshold", "stochastic"])
def test_evaluation_counts_the_images_of_memory_once_at_any_world_size(
    striped, world_size, binarization
):
    root, manifest = striped
    split = stream(striped, split_name="val", binarization=binarization, max_eval_images=52)
    workers = [
        EvalBatches(split, split.config, manifest, batch_size=10, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    found = [whole(shares) for shares in zip(*workers, strict=True)]
    held = fix_levels(read_split(root, "striped", "val"), split.config, manifest, split_name="val")
    expected = EvalBatches(held, split.config, manifest, batch_size=10)
    assert len(workers[0]) == len(found) == 6
    assert_equal(found, [(batch.x, batch.class_labels) for batch in expected])


def test_only_the_first_images_are_used_when_they_are_limited(striped):
    batches = epoch_of(striped, 0, max_train_images=45, num_levels=4)
    assert sorted(order_of(batches)) == list(range(45))
    assert max(int(x.max()) for x, _ in batches) == 3


def test_a_damaged_block_is_told_by_name(striped, tmp_path):
    root, manifest = striped
    folder = tmp_path / "striped"
    folder.mkdir()
    for path in (root / "striped").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    path = folder / manifest.splits["train"].files[1].name
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path.name}: must be a parquet file, got .*--force"):
        epoch_of((tmp_path, manifest), 0)


def test_a_missing_shard_is_told_before_anything_is_read(striped, tmp_path):
    with pytest.raises(DataError, match=r"00000-of-00003.parquet: must have .*, got no file"):
        stream((tmp_path, striped[1]))


def test_a_binarization_of_the_whole_split_cannot_be_streamed(striped):
    rule = r"data.backend must be 'memory' with binarization 'fixed', .* got 'stream'"
    with pytest.raises(ConfigError, match=rule):
        stream(striped, binarization="fixed")
