import pytest

from raypixel.data import DataConfig, Manifest, decide_residence, describe_stream
from raypixel.data.options import machine_memory, set_bytes


def manifest_of(num_images: int, *, num_levels: int = 256) -> Manifest:
    """A set of train, val and test images of 3 x 64 x 64 with no files."""
    counts = {"train": num_images, "val": 100, "test": 100}
    return Manifest.model_construct(
        name="big",
        image_shape=(3, 64, 64),
        num_levels=num_levels,
        splits={name: type("Count", (), {"num_images": count})() for name, count in counts.items()},
    )


def chosen(num_images: int, *, gib: float, num_levels: int = 256, **options) -> str:
    config = DataConfig(name="big", **options)
    manifest = manifest_of(num_images, num_levels=num_levels)
    return decide_residence(config, manifest, memory_bytes=int(gib * 2**30)).backend


def test_a_set_that_takes_an_eighth_of_the_memory_is_held_and_a_larger_one_streamed():
    gib = 8 * (50_000 + 200) * 3 * 64 * 64 / 2**30
    assert chosen(50_000, gib=gib) == "memory"
    assert chosen(50_001, gib=gib) == "stream"


def test_what_is_set_is_kept():
    assert chosen(50_000, gib=1, backend="memory") == "memory"
    assert chosen(10, gib=100, backend="stream") == "stream"


@pytest.mark.parametrize(
    ("recorded", "kept"), [("stream", "stream"), ("memory", "memory"), ("auto", "memory")]
)
def test_what_an_earlier_part_recorded_is_kept_where_nothing_is_set(recorded, kept):
    for count in (10, 10**9):
        config = DataConfig(name="big")
        found = decide_residence(config, manifest_of(count), recorded=recorded, memory_bytes=2**30)
        assert found.backend == kept
        asked = config.model_copy(update={"backend": "stream"})
        assert decide_residence(asked, manifest_of(count), recorded=recorded) == asked


def test_only_the_images_that_are_used_count():
    assert chosen(1_281_167, gib=24) == "stream"
    assert chosen(1_281_167, gib=24, max_train_images=10_000) == "memory"
    config = DataConfig(name="big", max_train_images=10, max_eval_images=3)
    assert set_bytes(config, manifest_of(50)) == (10 + 3 + 3) * 3 * 64 * 64


def test_a_binarization_of_the_whole_split_is_held_in_memory():
    assert chosen(1_281_167, gib=24, binarization="fixed") == "memory"


def test_the_memory_of_the_machine_is_asked():
    assert 2**28 < machine_memory() < 2**50
    config = DataConfig(name="big")
    assert decide_residence(config, manifest_of(10)).backend == "memory"
    assert decide_residence(config, manifest_of(10**12)).backend == "stream"


def test_a_person_is_told_how_much_is_streamed():
    line = describe_stream(DataConfig(name="big"), manifest_of(1_281_167))
    assert "big is streamed" in line
    assert "14.7 GiB" in line
    assert "512 MiB" in line


@pytest.mark.parametrize("mib", [-1, 0])
def test_too_little_memory_is_refused(mib):
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        DataConfig(name="big", stream_memory_mib=mib)
