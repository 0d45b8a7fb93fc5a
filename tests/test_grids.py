from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from raypixel.errors import RaypixelError
from raypixel.grids import check_picture_path, image_grid, save_image


def images_of(count, shape, num_levels=256, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, num_levels, (count, *shape), generator=generator, dtype=torch.uint8)


def cells(sheet: np.ndarray, columns: int, height: int, width: int, count: int):
    """Cut the images out of a sheet and check that everything else is gray."""
    rest = np.ones(sheet.shape[:2], dtype=bool)
    for index in range(count):
        row, column = divmod(index, columns)
        top, left = 2 + row * (height + 2), 2 + column * (width + 2)
        rest[top : top + height, left : left + width] = False
        yield sheet[top : top + height, left : left + width]
    assert (sheet[rest] == 128).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("count", "num_columns", "columns", "rows"),
    [(1, None, 1, 1), (5, None, 3, 2), (9, None, 3, 3), (7, 3, 3, 3), (3, 8, 8, 1), (4, 1, 1, 4)],
)
def test_pixels_of_large_images_are_those_of_the_images(
    channels, count, num_columns, columns, rows
):
    x = images_of(count, (channels, 64, 70))
    picture = image_grid(x, num_levels=256, num_columns=num_columns)
    assert picture.mode == ("L" if channels == 1 else "RGB")
    assert picture.size == (columns * 72 + 2, rows * 66 + 2)
    for image, cell in zip(x, cells(np.array(picture), columns, 64, 70, count), strict=True):
        expected = image[0] if channels == 1 else image.permute(1, 2, 0)
        assert np.array_equal(cell, expected.numpy())


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(8, 8, 8), (28, 28, 3), (5, 32, 2), (63, 1, 2), (64, 3, 1), (1, 1, 64)],
)
def test_small_images_are_enlarged_without_smoothing(height, width, scale):
    x = images_of(3, (3, height, width))
    sheet = np.array(image_grid(x, num_levels=256))
    shown = cells(sheet, 2, height * scale, width * scale, 3)
    for image, cell in zip(x.numpy(), shown, strict=True):
        for i in range(height):
            for j in range(width):
                block = cell[i * scale : (i + 1) * scale, j * scale : (j + 1) * scale]
                assert (block == image[:, i, j]).all()


@pytest.mark.parametrize("num_levels", [2, 3, 4, 16, 17, 100, 255, 256])
def test_levels_are_rounded_to_the_nearest_gray(num_levels):
    x = torch.arange(num_levels, dtype=torch.uint8).view(1, 1, 1, -1).expand(-1, -1, 64, -1)
    shown = np.array(image_grid(x, num_levels=num_levels))[2, 2:-2]
    scale = len(shown) // num_levels
    for level, gray in enumerate(shown[::scale].tolist()):
        exact = Fraction(level * 255, num_levels - 1)
        assert abs(gray - exact) <= Fraction(1, 2)
    assert shown[0] == 0
    assert shown[-1] == 255


def test_any_integer_type_is_drawn_alike():
    x = images_of(2, (1, 8, 8), 17)
    expected = image_grid(x, num_levels=17).tobytes()
    assert image_grid(x.long(), num_levels=17).tobytes() == expected


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (2, 2, 8, 8), (2, 4, 8, 8)])
def test_what_is_no_picture_is_refused(shape):
    text = rf"x must hold images of 1 or 3 channels, got shape \({shape[0]}, {shape[1]}, 8, 8\)"
    with pytest.raises(ValueError, match=text):
        image_grid(torch.zeros(shape, dtype=torch.uint8), num_levels=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_reads_back_exactly_and_its_folder_is_made(tmp_path, channels):
    picture = image_grid(images_of(3, (channels, 8, 8), 17), num_levels=17)
    path = tmp_path / "new" / "deep" / "x.png"
    save_image(picture, path)
    with Image.open(path) as read:
        assert (read.format, read.mode, read.size) == ("PNG", picture.mode, picture.size)
        assert read.tobytes() == picture.tobytes()


@pytest.mark.parametrize(("ending", "name"), [(".jpg", "JPEG"), (".webp", "WEBP")])
def test_the_ending_chooses_the_format(tmp_path, ending, name):
    picture = image_grid(images_of(3, (3, 8, 8)), num_levels=256)
    save_image(picture, tmp_path / f"x{ending}")
    with Image.open(tmp_path / f"x{ending}") as read:
        assert (read.format, read.size) == (name, picture.size)


@pytest.mark.parametrize("name", ["x.xyz", "x", "x.png.txt", "x.gif"])
def test_an_unknown_ending_is_refused_before_anything_is_written(tmp_path, name):
    picture = image_grid(images_of(1, (1, 8, 8)), num_levels=256)
    text = rf"^picture must end in .png, .jpg, .webp, got '{name}'$"
    with pytest.raises(RaypixelError, match=text):
        check_picture_path(tmp_path / "new" / name)
    with pytest.raises(RaypixelError, match=text):
        save_image(picture, tmp_path / "new" / name)
    assert list(tmp_path.iterdir()) == []


def test_a_known_ending_is_accepted_before_there_is_a_picture(tmp_path):
    for name in ("x.png", "x.JPG", "a.b.webp"):
        check_picture_path(tmp_path / name)
        save_image(image_grid(images_of(1, (1, 8, 8)), num_levels=256), tmp_path / name)
        assert (tmp_path / name).is_file()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    picture = image_grid(images_of(1, (1, 8, 8)), num_levels=256)
    (tmp_path / "x.png").mkdir()
    with pytest.raises(RaypixelError, match=r"x.png: cannot be written \(Is a directory\)$"):
        save_image(picture, tmp_path / "x.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(RaypixelError, match=r"y.png: cannot be written \((File exists|Not a dir)"):
        save_image(picture, tmp_path / "file" / "y.png")
