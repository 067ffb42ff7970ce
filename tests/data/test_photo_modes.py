"""Pixels of any mode become 8 bits of RGB as a person would see them, or are refused."""

import io

import numpy as np
import pytest

from quantjax.data import decoding
from quantjax.data.decoding import decode

Image = pytest.importorskip("PIL.Image")


def decoded(image, kind="PNG", **options):
    """Returns the pixels of an image that was saved as a kind of file, and the changes told."""
    stream, changes = io.BytesIO(), []
    image.save(stream, kind, **options)
    return decode(stream, "photo", size=None, noted=changes.append), changes


def on_white(colour, alpha):
    return 255 - (255 - np.asarray(colour, float)) * alpha / 255


@pytest.mark.parametrize("alpha", [0, 1, 100, 254])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_composed_on_white(kind, alpha):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    image = Image.new("RGBA", (3, 2), (10, 200, 90, alpha))
    image.putpixel((1, 0), (10, 200, 90, 255))
    pixels, changes = decoded(image, kind, **options)
    assert changes == [decoding.TRANSPARENT]
    np.testing.assert_array_equal(pixels[0, 1], [10, 200, 90])
    np.testing.assert_allclose(pixels[1, 2], on_white([10, 200, 90], alpha), atol=1)


@pytest.mark.parametrize(
    ("mode", "colour", "due"),
    [
        ("LA", (40, 0), 255),
        ("LA", (40, 128), on_white(40, 128)),
    ],
)
def test_transparent_grey_is_composed_on_white(mode, colour, due):
    pixels, changes = decoded(Image.new(mode, (2, 2), colour))
    assert changes == [decoding.TRANSPARENT]
    np.testing.assert_allclose(pixels, np.full((2, 2, 3), due), atol=1)


def test_a_transparent_palette_colour_is_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        pixels, changes = decoded(image, kind, transparency=0)
        assert changes == [decoding.TRANSPARENT]
        assert pixels.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_an_alpha_channel_without_transparency_changes_nothing(rng):
    pixels = rng.integers(0, 256, (5, 4, 4), np.uint8)
    pixels[..., 3] = 255
    found, changes = decoded(Image.fromarray(pixels))
    assert changes == []
    np.testing.assert_array_equal(found, pixels[..., :3])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_the_upper_8_of_16_bits_of_grey_are_taken(kind, rng):
    values = rng.integers(0, 65536, (5, 4)).astype(np.uint16)
    values[0] = 0, 255, 256, 65535
    pixels, changes = decoded(Image.fromarray(values), kind)
    assert changes == [decoding.DEEP]
    np.testing.assert_array_equal(pixels, np.repeat((values // 256)[..., None], 3, axis=-1))
    assert pixels[0, :, 0].tolist() == [0, 0, 1, 255]


def test_big_endian_grey_of_16_bits_is_taken_too():
    pixels, _ = decoded(Image.frombytes("I;16B", (2, 1), b"\x12\x34\xff\x00"), "TIFF")
    assert pixels[0, :, 0].tolist() == [0x12, 0xFF]


def test_the_transparent_value_of_16_bits_is_white():
    image = Image.fromarray(np.array([[700, 701, 5000]], np.uint16))
    pixels, changes = decoded(image, "PNG", transparency=701)
    assert changes == [decoding.DEEP, decoding.TRANSPARENT]
    assert pixels[0, :, 0].tolist() == [2, 255, 19]


def test_deep_photos_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) << 8
    pixels, _ = decoded(Image.fromarray(values), "PNG", exif=exif)
    np.testing.assert_array_equal(pixels[..., 0], np.rot90(values >> 8, -1))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_pictures_the_first_is_taken_and_that_is_told(kind):
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    pixels, changes = decoded(first, kind, save_all=True, append_images=[second])
    assert changes == [decoding.ANIMATED]
    assert (pixels[..., 0] > 240).all()
    assert (pixels[..., 2] < 15).all()
    assert decoded(first, kind)[1] == []


def test_pixels_are_the_same_whether_changes_are_asked_for_or_not(rng):
    pixels = rng.integers(0, 256, (5, 4, 4), np.uint8)
    stream = io.BytesIO()
    frames = [Image.fromarray(pixels[::-1].copy())]
    Image.fromarray(pixels).save(stream, "PNG", save_all=True, append_images=frames)
    asked, not_asked = (decode(stream, "p", size=3, noted=noted) for noted in ([].append, None))
    np.testing.assert_array_equal(asked, not_asked)
