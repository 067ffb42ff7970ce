"""Omniglot is read from both published layouts, and an incomplete folder is named."""

import numpy as np
import pytest
from PIL import Image

from quantjax.data import omniglot
from quantjax.errors import InputError, MissingFileError

SMALL = "{alphabet}-character{character:02}/{drawer:02}.png"
PUBLISHED = "images_background/{alphabet}/character{character:02}/{number:04}_{drawer:02}.png"
CHARACTERS = {"Greek": 2, "Anglo-Saxon_Futhorc": 1, "Japanese_(katakana)": 1}
CLASSES = (
    "Anglo-Saxon_Futhorc-character01",
    "Greek-character01",
    "Greek-character02",
    "Japanese_katakana-character01",
)


def drawing(alphabet, character, drawer):
    """White, with 15 columns of ink for each character of the alphabet, and rows by the drawer."""
    ink = np.full((105, 105), 255, np.uint8)
    ink[: 5 * drawer, : 15 * (character + len(alphabet) % 3)] = 0
    return ink


def write(folder, layout, characters=CHARACTERS):
    number = 0
    for alphabet, last in characters.items():
        for character in range(1, last + 1):
            number += 1
            for drawer in range(1, 21):
                path = folder / layout.format(
                    alphabet=alphabet, character=character, drawer=drawer, number=number
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                # One bit a pixel, as published.
                Image.fromarray(drawing(alphabet, character, drawer)).convert("1").save(path)


@pytest.fixture(scope="module", params=[SMALL, PUBLISHED], ids=["small", "published"])
def parent(request, tmp_path_factory):
    parent = tmp_path_factory.mktemp("data")
    write(parent / "omniglot", request.param)
    return parent


def test_rows_follow_class_and_drawer_in_every_layout(parent):
    source = omniglot(parent, size=105)
    assert source.classes == CLASSES
    np.testing.assert_array_equal(source.labels.argmax(axis=1), np.repeat(np.arange(4), 20))
    image = source[np.array([20 * 2 + 7 - 1])]["image"]
    np.testing.assert_array_equal(image[0, ..., 0], 255 - drawing("Greek", 2, 7))
    assert str(source.name_of(46)).endswith("07.png")


def test_thin_lines_are_averaged_and_not_lost(tmp_path):
    write(tmp_path, SMALL, {"Greek": 1})
    line = np.full((105, 105), 255, np.uint8)
    line[:, 50] = 0
    Image.fromarray(line).save(tmp_path / "Greek-character01" / "01.png")
    large, small, usual = (
        omniglot(tmp_path, size=size)[np.arange(1)]["image"].astype(float) for size in (105, 21, 28)
    )
    assert small.shape == (1, 21, 21, 1)
    assert usual.shape == omniglot(tmp_path)[np.arange(1)]["image"].shape == (1, 28, 28, 1)
    # Bright ink of a pixel in five is grey, where sampling gives black or white.
    assert large.max() == 255
    assert 20 < small.max() < 110
    assert abs(small.mean() - large.mean()) < 0.5


def test_the_folder_itself_may_be_named_and_found(parent, monkeypatch):
    assert len(omniglot(parent / "omniglot", size=1)) == 80
    renamed = (parent / "omniglot").rename(parent / "renamed")
    try:
        assert len(omniglot(renamed, size=1)) == 80
    finally:
        renamed.rename(parent / "omniglot")
    monkeypatch.setenv("QUANTJAX_DATA", str(parent))
    assert len(omniglot(size=1)) == 80


def test_a_drawing_of_several_archives_is_read_once(tmp_path):
    for archive in ("images_background", "images_background_small1"):
        write(tmp_path, PUBLISHED.replace("images_background", archive), {"Greek": 1})
    write(tmp_path, PUBLISHED.replace("background", "evaluation"), {"Tengwar": 1})
    source = omniglot(tmp_path, size=1)
    assert source.classes == ("Greek-character01", "Tengwar-character01")
    assert len(source) == 40


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (["Greek-character01/07.png"], "it lacks Greek-character01/07.png; unpack the whole"),
        (
            [f"Greek-character01/{drawer:02}.png" for drawer in range(1, 21)],
            "Greek-character01/01.png, Greek-character01/02.png, Greek-character01/03.png, "
            "and 17 more; unpack the whole archives from https://github.com/brendenlake/omniglot",
        ),
    ],
)
def test_missing_drawings_are_named(tmp_path, gone, message):
    write(tmp_path / "omniglot", SMALL, {"Greek": 2})
    for name in gone:
        (tmp_path / "omniglot" / name).unlink()
    with pytest.raises(MissingFileError, match="omniglot is half there") as caught:
        omniglot(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_drawings_is_named(tmp_path):
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "readme.png").touch()
    with pytest.raises(MissingFileError, match="it lacks all ALPHABET/characterNN/NNNN_"):
        omniglot(tmp_path)
    with pytest.raises(MissingFileError, match="data folder omniglot not found, looked in: "):
        omniglot(tmp_path / "elsewhere")


def test_a_damaged_drawing_is_named(tmp_path):
    write(tmp_path, SMALL, {"Greek": 1})
    (tmp_path / "Greek-character01" / "03.png").write_bytes(b"no drawing")
    with pytest.raises(ValueError, match=r"cannot read photo .*Greek-character01/03.png: "):
        omniglot(tmp_path)


@pytest.mark.parametrize("size", [0, 106])
def test_another_size_is_refused(size):
    with pytest.raises(InputError, match=f"size must be 1 to 105 pixels, got {size}"):
        omniglot("nowhere", size=size)


@pytest.mark.data
def test_real_omniglot(data_dir):
    source = omniglot(data_dir)
    assert (len(source), len(source.classes)) == (4_840, 242)
    alphabets = {name.rpartition("-")[0] for name in source.classes}
    assert {"Early_Aramaic", "Japanese_katakana", "Tagalog", "Korean"} <= alphabets
    image = source[np.arange(0, 4_840, 10)]["image"]
    # Thin bright ink on black.
    assert 0.05 < image.mean() / 255 < 0.12
    assert (image.max(axis=(1, 2, 3)) > 127).all()
