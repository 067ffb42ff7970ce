"""Photos of all allowed formats and modes become 8 bits of RGB as a person would see them."""

import importlib.util
import io
import sys
import types

import numpy as np
import pytest

from quantjax.data import decoding, file_lists, image_folder, records
from quantjax.data.decoding import decode, pixel_limit, reads_heic
from tests.data.photo_files import plant, write_list

Image = pytest.importorskip("PIL.Image")
from PIL import ImageFile  # noqa: E402

_START = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"


class _Heic(ImageFile.ImageFile):
    """A PNG behind the first bytes of a HEIC file stands for one."""

    format = "HEIF"

    def _open(self):
        self.fp.seek(len(_START))
        inner = Image.open(io.BytesIO(self.fp.read()))
        inner.load()
        self._size, self._mode, self.im, self.tile = inner.size, inner.mode, inner.im, []


def heic(colour):
    stream = io.BytesIO(_START)
    stream.seek(len(_START))
    Image.new("RGB", (4, 4), colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def pillow_heif(monkeypatch):
    """Stands for the package, which is optional."""
    Image.init()  # else Pillow would make its own formats known in what is undone
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))

    def register():
        Image.register_open("HEIF", _Heic, lambda start: start[4:12] == b"ftypheic")

    package = types.SimpleNamespace(register_heif_opener=register)
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    reads_heic.cache_clear()
    yield
    reads_heic.cache_clear()


@pytest.fixture
def no_pillow_heif(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    reads_heic.cache_clear()
    yield
    reads_heic.cache_clear()


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path, pillow_heif):
    plant(tmp_path, "cat/b.png dog/")
    (tmp_path / "cat" / "a.HEIC").write_bytes(heic("red"))
    (tmp_path / "dog" / "really.jpg").write_bytes(heic("blue"))
    source = image_folder(tmp_path, size=2)
    assert [path.name for path in source.paths] == ["a.HEIC", "b.png", "really.jpg"]
    image = source[np.array([0, 2])]["image"]
    assert image[:, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert source.notes == ()


def test_heic_is_named_with_its_package_where_it_is_missing(tmp_path, no_pillow_heif):
    plant(tmp_path, "cat/")
    (tmp_path / "cat" / "a.heic").write_bytes(heic("red"))
    with pytest.raises(
        ValueError, match=r"ignored: 1 \.heic \(cat/a\.heic; pip install \"quantjax"
    ):
        image_folder(tmp_path)
    (tmp_path / "cat" / "a.heic").rename(tmp_path / "cat" / "a.jpg")
    with pytest.raises(
        ValueError, match=r"a\.jpg: it is HEIC; pip install \"quantjax\[heic\]\" re"
    ):
        image_folder(tmp_path)
    with pytest.raises(ValueError, match=r"photo row 3: it is HEIC; pip install"):
        decode(io.BytesIO(heic("red")), "row 3", size=None)


def test_lists_may_name_heic(tmp_path, pillow_heif):
    for number in range(3):
        (tmp_path / f"{number}.heic").write_bytes(heic((number, 0, 0)))
    lists = {
        name: write_list(tmp_path / f"{name}.txt", [f"{number}.heic"], [[number % 2, 1]])
        for number, name in enumerate(("train", "query", "database"))
    }
    splits = file_lists(tmp_path, **lists)
    assert splits.source[splits.query]["image"][0, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="is not installed")
def test_real_heic_is_read(tmp_path):
    reads_heic.cache_clear()
    assert reads_heic()
    (tmp_path / "a").mkdir()
    Image.new("RGB", (32, 16), (200, 10, 10)).save(tmp_path / "a" / "a.heic", "HEIF")
    (image,) = image_folder(tmp_path)[np.array([0])]["image"]
    assert image.shape == (16, 32, 3)
    np.testing.assert_allclose(image[8, 8], [200, 10, 10], atol=8)


def test_no_message_shows_an_object_of_python():
    for content in (b"", b"no photo", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"II*\0"):
        with pytest.raises(ValueError, match=r"^cannot read photo row 3: ") as caught:
            decode(io.BytesIO(content), "row 3", size=None)
        assert "object at 0x" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [20, 60])
def test_the_limit_of_pixels_names_what_raises_it(tmp_path, limit):
    plant(tmp_path, "cat/a.png cat/b.png")
    advice = r"--max_pixels=N raises the limit \(in Python PIL\.Image\.MAX_IMAGE_PIXELS = N\)"
    with pixel_limit(limit):
        for size in (None, 4):
            with pytest.raises(
                ValueError, match=rf" pixels are more than {limit}.*; {advice}"
            ) as e:
                image_folder(tmp_path, size=size)[np.arange(2)]
            assert str(e.value).count("--max_pixels") == 1
        with pytest.raises(ValueError, match=rf"8 x 8 pixels in .* more than {limit}; {advice}"):
            records._size(tmp_path, types.SimpleNamespace(size=8), None)
    assert len(image_folder(tmp_path)) == 2


def test_a_limit_of_pixels_holds_until_the_context_ends():
    before = Image.MAX_IMAGE_PIXELS
    with pixel_limit(before * 9):
        assert before * 9 == Image.MAX_IMAGE_PIXELS
        with pixel_limit(None):
            assert before * 9 == Image.MAX_IMAGE_PIXELS
    assert before == Image.MAX_IMAGE_PIXELS
    with pytest.raises(ValueError, match="max_pixels must be 1 or more, got 0"), pixel_limit(0):
        pass


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
