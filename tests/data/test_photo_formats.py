"""Photos of all supported formats are read; other photos raise an error."""

import importlib.util
import io
import sys
import types

import numpy as np
import pytest

from quantjax.data import file_lists, image_folder, records
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
