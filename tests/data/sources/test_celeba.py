import itertools

import numpy as np
import pytest
from PIL import Image

from raypixel.data import prepare
from raypixel.data.splits import read_split
from raypixel.errors import DataError


@pytest.fixture
def source(tmp_path):
    """Faces of one gray each, 10 times their number, in a frame that the crop removes."""
    folder = tmp_path / "source"
    (folder / "img_align_celeba").mkdir(parents=True)
    for number in range(1, 21):
        face = np.full((218, 178, 3), 255, np.uint8)
        face[39:179, 19:159] = 10 * number
        # PNG inside: exact, and the name is what is looked at
        path = folder / "img_align_celeba" / f"{number:06d}.jpg"
        Image.fromarray(face).save(path, format="PNG")
    return folder


def grays(root, split_name):
    images = read_split(root, "celeba", split_name).images
    assert (images == images[:, :1, :1, :1]).all()
    return [int(image[0, 0, 0]) // 10 for image in images]


def test_official_splits_are_those_of_the_list(source, tmp_path):
    lines = [f"{n:06d}.jpg {0 if n <= 12 else 1 if n <= 16 else 2}" for n in range(1, 21)]
    (source / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    manifest = prepare("celeba", root=tmp_path, source=source)
    assert manifest.image_shape == (3, 64, 64)
    assert sorted(grays(tmp_path, "train")) == list(range(1, 13))
    assert sorted(grays(tmp_path, "val")) == list(range(13, 17))
    assert sorted(grays(tmp_path, "test")) == list(range(17, 21))
    assert prepare("celeba", root=tmp_path, source=source) == manifest


def test_without_the_list_a_tenth_is_val_and_a_tenth_test(source, tmp_path):
    manifest = prepare("celeba", root=tmp_path, source=source, size=(32, 32))
    assert manifest.image_shape == (3, 32, 32)
    assert manifest.num_classes == 0
    parts = [grays(tmp_path, name) for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [16, 2, 2]
    assert sorted(itertools.chain(*parts)) == list(range(1, 21))


def test_the_folder_of_the_pictures_itself_may_be_given(source, tmp_path):
    lines = [f"{n:06d}.jpg {min(n // 7, 2)}" for n in range(1, 21)]
    (source / "list_eval_partition.txt").write_text("\n".join(lines))
    prepare("celeba", root=tmp_path, source=source / "img_align_celeba", size=(8, 8))
    assert sorted(grays(tmp_path, "train")) == list(range(1, 7))


def test_another_size_is_another_set(source, tmp_path):
    prepare("celeba", root=tmp_path, source=source)
    with pytest.raises(DataError, match=r"is prepared with 64x64 images: --size must agree"):
        prepare("celeba", root=tmp_path, source=source, size=(32, 32))
    with pytest.raises(DataError, match=r"--channels must be used with your own images only"):
        prepare("celeba", root=tmp_path, source=source, channels=1)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("000001.jpg 3\n", r"line 1 must be a file name and 0, 1 or 2, got '000001.jpg 3'"),
        ("000001.jpg 0\n000021.jpg 0\n", r"line 2 must name a picture that is there, once"),
        ("000001.jpg 0\n000001.jpg 0\n", r"line 2 must name a picture .* got '000001.jpg'"),
        ("000001.jpg 0\n", r"must name every picture, got no line for 000002.jpg"),
        (
            "".join(f"{n:06d}.jpg 0\n" for n in range(1, 21)),
            r"must name pictures of the val split, got none",
        ),
    ],
)
def test_a_list_that_does_not_fit_is_refused(source, tmp_path, text, rule):
    (source / "list_eval_partition.txt").write_text(text)
    with pytest.raises(DataError, match=rf"list_eval_partition.txt: {rule}"):
        prepare("celeba", root=tmp_path, source=source)


def test_a_picture_that_is_damaged_is_named_and_nothing_is_left(source, tmp_path):
    (source / "img_align_celeba" / "000007.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"000007.jpg: must be a readable image"):
        prepare("celeba", root=tmp_path, source=source)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_no_pictures_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    rule = r"empty: must hold the folder img_align_celeba of .jpg files, got none"
    with pytest.raises(DataError, match=rule):
        prepare("celeba", root=tmp_path / "data", source=tmp_path / "empty")
