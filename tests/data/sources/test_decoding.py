import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from raypixel.data.sources.decoding import Look, agree, decode, decode_all, look, losses
from raypixel.errors import DataError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (4, 6), dtype=np.uint8)


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def levels(content: bytes, channels: int, size=None) -> np.ndarray:
    result = decode(content, where="x", channels=channels, size=size)
    assert result.dtype == np.uint8
    return result


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True})],
)
def test_lossless_formats_give_their_levels(file_format, options):
    content = encoded(Image.fromarray(RGB), file_format, **options)
    assert np.array_equal(levels(content, 3), RGB.transpose(2, 0, 1))


def test_gray_becomes_three_equal_channels_and_color_its_luma():
    assert np.array_equal(levels(encoded(Image.fromarray(GRAY)), 1), GRAY[None])
    assert np.array_equal(levels(encoded(Image.fromarray(GRAY)), 3), np.stack([GRAY] * 3))
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(levels(encoded(Image.fromarray(RGB)), 1)[0] - luma).max() <= 1


def test_one_bit_is_black_and_white():
    content = encoded(Image.fromarray(GRAY > 127))
    assert np.array_equal(levels(content, 1)[0], np.where(GRAY > 127, 255, 0))


def test_sixteen_bits_are_scaled_and_not_clipped():
    wide = np.array([[0, 1, 128, 129], [255, 32_768, 65_407, 65_535]], np.uint16)
    expected = np.round(wide / 65_535 * 255).astype(np.uint8)
    assert np.array_equal(levels(encoded(Image.fromarray(wide)), 1)[0], expected)
    assert np.array_equal(levels(encoded(Image.fromarray(wide), "TIFF"), 3)[1], expected)


def test_a_palette_gives_its_colors():
    palette = Image.fromarray(GRAY % 4).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    colors = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]])
    indexes = np.array(palette)
    assert np.array_equal(levels(encoded(palette), 3), colors[indexes].transpose(2, 0, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_are_laid_over_white(channels):
    alpha = np.where(GRAY > 127, 255, 0).astype(np.uint8)
    shown = np.where(alpha > 0, GRAY, 255)
    for image in (
        Image.fromarray(np.dstack([GRAY, GRAY, GRAY, alpha])),
        Image.fromarray(np.dstack([GRAY, alpha])),
    ):
        assert np.array_equal(levels(encoded(image), channels), np.stack([shown] * channels))


def test_a_transparent_palette_color_is_white():
    palette = Image.fromarray(GRAY % 2).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    content = encoded(palette, transparency=int(np.array(palette)[0, 0]))
    result = levels(content, 3)
    hidden = np.array(palette) == np.array(palette)[0, 0]
    assert (result[:, hidden] == 255).all()
    assert (result[:, ~hidden] < 100).all()


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF", "WEBP"])
def test_the_camera_is_held_upright(file_format):
    image = Image.fromarray(np.full((4, 6, 3), 99, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(image, file_format, exif=exif)
    assert look(content, where="x") == Look(height=6, width=4, is_gray=False)
    assert levels(content, 3).shape == (3, 6, 4)


def test_shrinking_by_a_whole_factor_averages():
    content = encoded(Image.fromarray(RGB))
    means = RGB.reshape(2, 2, 3, 2, 3).mean((1, 3))
    assert (
        np.abs(levels(content, 3, (2, 3)).transpose(1, 2, 0) - means).max() <= 1
    )  # Pillow rounds twice


def test_other_proportions_are_cropped_in_the_middle():
    content = encoded(Image.fromarray(GRAY))
    assert np.array_equal(levels(content, 1, (4, 4))[0], GRAY[:, 1:5])
    assert np.array_equal(levels(content, 1, (2, 6))[0], GRAY[1:3])


def test_growing_keeps_a_flat_image_flat():
    flat = Image.fromarray(np.full((4, 6, 3), 77, np.uint8))
    assert (levels(encoded(flat), 3, (9, 5)) == 77).all()


def test_the_header_tells_size_and_color():
    assert look(encoded(Image.fromarray(RGB)), where="x") == Look(height=4, width=6, is_gray=False)
    assert look(encoded(Image.fromarray(GRAY)), where="x").is_gray
    wide = Image.fromarray(GRAY.astype(np.uint16))
    assert look(encoded(wide), where="x").is_gray
    assert look(encoded(Image.fromarray(GRAY > 9)), where="x").is_gray


def test_a_batch_is_its_pictures_one_by_one():
    big = RNG.integers(0, 256, (90, 90, 3), dtype=np.uint8)  # large enough for the threads
    for array in (RGB, big):
        contents = [encoded(Image.fromarray(np.roll(array, shift, 0))) for shift in range(5)]
        pictures = [(str(number), content) for number, content in enumerate(contents)]
        batch = decode_all(pictures, image_shape=(3, *array.shape[:2]))
        slow = np.stack([levels(content, 3) for content in contents])
        assert np.array_equal(batch, slow)
        assert batch.flags.c_contiguous


def test_shapes_agree_or_are_asked_for():
    gray, color = Look(4, 6, is_gray=True), Look(4, 6, is_gray=False)
    other = Look(6, 4, is_gray=True)
    assert agree(iter([("a", gray), ("b", gray)]), size=None, channels=None) == (1, 4, 6)
    assert agree(iter([("a", gray), ("b", color)]), size=None, channels=None) == (3, 4, 6)
    assert agree(iter([("a", color)]), size=None, channels=1) == (1, 4, 6)
    assert agree(iter([("a", gray), ("b", other)]), size=(8, 9), channels=None) == (1, 8, 9)
    assert agree(iter([]), size=(8, 9), channels=3) == (3, 8, 9)
    with pytest.raises(DataError, match=r"b: must be 4x6 like a, unless --size is given, got 6x4"):
        agree(iter([("a", gray), ("b", other)]), size=None, channels=None)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "no known image format"),
        (b"hello", "no known image format"),
        (encoded(Image.fromarray(RGB))[:60], ""),
        (
            encoded(Image.fromarray(np.tile(RGB, (9, 9, 1))), "JPEG")[:-300],
            "image file is truncated",
        ),
    ],
)
def test_bytes_that_are_no_picture_are_refused(content, rule):
    with pytest.raises(DataError, match=rf"^x: must be a readable image, got {re.escape(rule)}"):
        decode(content, where="x", channels=3, size=None)


def test_a_picture_cut_anywhere_before_its_pixels_end_is_refused():
    content = encoded(Image.fromarray(RGB))
    for length in range(len(content) - 40):
        with pytest.raises(DataError, match=r"^x: must be a readable image, got"):
            decode(content[:length], where="x", channels=3, size=None)


def test_floating_point_and_wild_levels_are_refused():
    content = encoded(Image.fromarray(GRAY.astype(np.float32)), "TIFF")
    with pytest.raises(
        DataError, match=r"x: must have 8 or 16 bits per channel, got floating point"
    ):
        decode(content, where="x", channels=1, size=None)
    content = encoded(Image.fromarray(GRAY.astype(np.int32) * 70_000), "TIFF")
    with pytest.raises(DataError, match=r"x: must have levels in 0 to 65535, got"):
        decode(content, where="x", channels=1, size=None)


def test_what_decoding_cannot_keep_is_named():
    deep = GRAY.astype(np.uint16) * 256
    alpha = Image.fromarray(np.dstack([RGB, GRAY]))
    for image, expected in (
        (Image.fromarray(RGB), []),
        (Image.fromarray(GRAY), []),
        (Image.fromarray(GRAY.astype(np.uint16) * 257), []),
        (Image.fromarray(deep), ["16 bits to 8"]),
        (alpha, ["transparency over white"]),
        (Image.fromarray(np.dstack([GRAY, np.full_like(GRAY, 255)])), []),
    ):
        assert losses(encoded(image), where="x") == expected


def test_colors_of_sixteen_bits_are_named_though_pillow_cuts_them_itself():
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + crc

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">6H", 1, 2, 3, 4, 5, 6))
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    assert losses(b"\x89PNG\r\n\x1a\n" + b"".join(parts), where="x") == ["16 bits to 8"]
    with pytest.raises(DataError, match="x: must be a readable image"):
        losses(b"nothing", where="x")
