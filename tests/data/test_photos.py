"""Photos of class folders, and photos named one by one, are a source."""

import itertools
import os
import re
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest

from quantjax import data
from quantjax.data import audit, image_folder, image_folders, make_splits
from quantjax.data.decoding import UnreadablePhotoError
from tests.data.photo_files import plant, tiff, write_photo

Image = pytest.importorskip("PIL.Image")


def pattern(height: int, width: int) -> np.ndarray:
    """Red grows downwards, green to the right."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, height)[:, None]
    image[..., 1] = np.linspace(0, 255, width)
    return image


def save(path, height=4, width=4, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pattern(height, width)).convert(mode).save(path, **options)


@pytest.fixture
def photos(tmp_path):
    for name in ("cat/b.png", "cat/a.PNG", "ant/z.bmp"):
        save(tmp_path / name)
    return tmp_path


def test_classes_and_photos_are_sorted_by_name(photos):
    source = image_folder(photos)
    assert source.classes == ("ant", "cat")
    assert [path.name for path in source.paths] == ["z.bmp", "a.PNG", "b.png"]
    np.testing.assert_array_equal(source.labels, [[1, 0], [0, 1], [0, 1]])
    assert len(source) == 3


def test_rows_decode_to_rgb(photos):
    batch = image_folder(photos)[np.array([[2, 0]])]
    np.testing.assert_array_equal(batch["image"], [[pattern(4, 4)] * 2])
    np.testing.assert_array_equal(batch["label"], [[[0, 1], [1, 0]]])
    assert batch["image"].dtype == batch["label"].dtype == np.uint8


def test_a_photo_is_not_decoded_before_it_is_asked_for(photos):
    content = (photos / "cat" / "a.PNG").read_bytes()
    (photos / "cat" / "a.PNG").write_bytes(content[: len(content) // 2])
    source = image_folder(photos)
    assert source[np.array([0, 2])]["image"].shape == (2, 4, 4, 3)
    with pytest.raises(ValueError, match=r"cannot read photo .*a\.PNG: .*; replace it or take it"):
        source[np.array([1])]


def test_other_and_hidden_files_are_no_photos(photos):
    for name in (".DS_Store", "cat/notes.txt", "cat/._a.png", "ant/Thumbs.db", "readme.md"):
        (photos / name).write_bytes(b"x")
    (photos / ".git").mkdir()
    assert len(image_folder(photos)) == 3


def test_links_are_followed(photos, tmp_path):
    save(tmp_path / "elsewhere" / "c.png")
    os.symlink(tmp_path / "elsewhere" / "c.png", photos / "cat" / "c.png")
    os.symlink(tmp_path / "elsewhere", photos / "dog")
    assert [path.parent.name for path in image_folder(photos).paths].count("dog") == 1
    os.symlink(tmp_path / "nowhere.png", photos / "cat" / "d.png")
    with pytest.raises(ValueError, match=r"d\.png: it is a dangling link or no regular file"):
        image_folder(photos)


@pytest.mark.parametrize(("height", "width"), [(20, 40), (40, 20), (3, 9), (8, 8)])
def test_size_scales_the_shorter_side_and_crops_the_centre(tmp_path, height, width):
    save(tmp_path / "a" / "a.png", height, width)
    (image,) = image_folder(tmp_path, size=8)[np.array([0])]["image"]
    assert image.shape == (8, 8, 3)
    side = min(height, width)
    for axis, channel, length in ((0, 0, height), (1, 1, width)):
        # Centres of the 8 pixels in the original, and the linear ramp there.
        place = length / 2 + side * ((np.arange(8) + 0.5) / 8 - 0.5) - 0.5
        due = 255 * np.clip(place, 0, length - 1) / (length - 1)
        came = image[..., channel].mean(axis=1 - axis)
        np.testing.assert_allclose(came[1:-1], due[1:-1], atol=4)


def test_mixed_sizes_are_taken_with_a_size_and_refused_without(photos):
    save(photos / "cat" / "wide.png", 4, 6)
    assert image_folder(photos, size=5)[np.arange(4)]["image"].shape == (4, 5, 5, 3)
    with pytest.raises(
        ValueError,
        match=r"one size, got .*z\.bmp of 4 x 4 and .*wide\.png of 4 x 6 .*; "
        r"resize and crop by --size=PX \(in Python size=PX\)$",
    ):
        image_folder(photos)


def test_photos_that_change_their_size_later_are_refused(photos):
    source = image_folder(photos)
    save(photos / "cat" / "b.png", 5, 4)
    with pytest.raises(ValueError, match=r"z\.bmp of 4 x 4 and .*b\.png of 5 x 4"):
        source[np.array([0, 1, 2])]


def test_photos_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned clockwise by a quarter
    save(tmp_path / "a" / "a.png", 6, 4, exif=exif)
    save(tmp_path / "a" / "b.png", 4, 6)
    image = image_folder(tmp_path)[np.array([0, 1])]["image"]
    np.testing.assert_array_equal(image[0], np.rot90(pattern(6, 4), -1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_8_bit_mode_becomes_rgb(tmp_path, mode):
    save(tmp_path / "a" / "a.tif" if mode == "CMYK" else tmp_path / "a" / "a.png", 4, 5, mode=mode)
    image = image_folder(tmp_path)[np.array([0])]["image"]
    assert image.shape == (1, 4, 5, 3)
    assert image.std() > 20


def test_transparent_palettes_become_rgb_without_a_warning(tmp_path):
    save(tmp_path / "a" / "a.png", mode="P", transparency=b"\0\1\2")
    assert image_folder(tmp_path)[np.array([0])]["image"].shape == (1, 4, 4, 3)


def test_an_empty_class_folder_is_told_and_is_no_class(photos):
    (photos / "bee" / "nested").mkdir(parents=True)
    (photos / "bee" / "note.txt").touch()
    source = image_folder(photos)
    assert source.classes == ("ant", "cat")
    assert source.labels.shape == (3, 2)
    assert "class folders without a photo: bee" in source.notes


@pytest.mark.parametrize("names", ["a/", "a/b/ c/x.txt", "a/x.mov c/.x.jpg"])
def test_folders_without_any_photo_are_refused_with_what_they_hold(tmp_path, names):
    plant(tmp_path, names)
    with pytest.raises(ValueError, match="has no photo that can be read in its class f") as caught:
        image_folder(tmp_path)
    for kind in (".txt", ".mov", "hidden"):
        assert (f"1 {kind} (" in str(caught.value)) == (kind.replace("hidden", ".x.jpg") in names)


def test_no_class_is_refused(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="has no class; put photos into a folder for each class"):
        image_folder(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; name one that has a folder"):
        image_folder(tmp_path / "nowhere")


def test_a_size_below_one_is_refused(photos):
    with pytest.raises(ValueError, match="size must be 1 pixel or more, got 0"):
        image_folder(photos, size=0)


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot identify image file"),
        (b"no photo at all", "cannot identify image file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "cannot identify"),
    ],
)
def test_an_unreadable_photo_is_named(photos, size, content, message):
    (photos / "cat" / "bad.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read photo .*bad\.jpg: ") as caught:
        image_folder(photos, size=size)[np.arange(4)]
    assert caught.match(message)


@pytest.mark.parametrize(("mode", "suffix"), [("F", "tif"), ("I", "tif")])
def test_modes_of_other_depths_are_refused(tmp_path, mode, suffix):
    (tmp_path / "a").mkdir()
    Image.new(mode, (4, 4)).save(tmp_path / "a" / f"a.{suffix}")
    with pytest.raises(ValueError, match=rf"a\.{suffix}: pixels of mode {mode} are not 8 bits"):
        image_folder(tmp_path, size=4)[np.array([0])]


def png(height: int, width: int) -> bytes:
    """A PNG whose header says more than it holds."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(9))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(itertools.starmap(chunk, parts))


def rle_bmp(height: int, width: int) -> bytes:
    """A compressed BMP of one pixel in a line, whose rest is filled."""
    content = b"\1\0\0\0" * height + b"\0\1"
    sizes = struct.pack("<IHHI", 1078 + len(content), 0, 0, 1078)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(content), 0, 0, 256, 0)
    return b"BM" + sizes + header + bytes(1024) + content


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(60_000, 60_000), "3600000000 pixels"),
        (png(2**31 - 1, 2**31 - 1), "pixels"),
        (png(10_000, 10_000), "10000 x 10000 pixels are more than 89,478,485"),
        (rle_bmp(2049, 2048), "2048 x 2049 pixels are more than the 4,194,304 that a compressed"),
        (
            tiff(16, 16, [zlib.compress(bytes(100))], (10_000, 20_000), deflated=True),
            "a tile of 20000 x 10000 pixels has more than 89,478,485",
        ),
        (
            tiff(8, 8, [bytes(32), bytes([1]) * 32] * 9, (4, 8), deflated=False),
            "its pieces have more pixels than its 8 x 8",
        ),
    ],
    ids=["far beyond", "beyond all", "beyond", "compressed BMP", "tile", "strips"],
)
def test_a_small_file_of_many_pixels_is_refused_by_its_header(tmp_path, size, content, message):
    save(tmp_path / "a" / "a.png")
    (tmp_path / "a" / "bomb.png").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"cannot read photo .*bomb\.png: .*{message}"):
        image_folder(tmp_path, size=size)[np.array([1])]
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


@pytest.mark.parametrize(("reason", "shown"), [(MemoryError(), "MemoryError"), ("a\nb", "a b")])
def test_a_reason_is_one_line(reason, shown):
    assert str(UnreadablePhotoError("p", reason)).startswith(f"cannot read photo p: {shown}; ")


def test_a_small_compressed_bmp_is_read(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a.bmp").write_bytes(rle_bmp(6, 5))
    assert image_folder(tmp_path)[np.array([0])]["image"].shape == (1, 6, 5, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("limit", [3, 10, 15])
def test_a_decompression_bomb_is_refused(photos, monkeypatch, size, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=r"cannot read .*z\.bmp.* pixels are more than"):
        image_folder(photos, size=size)[np.array([0])]


def test_missing_pillow_names_the_extra(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'quantjax\[folder\]'"):
        image_folder(photos)


def test_damaged_photos_raise_nothing_but_value_errors(tmp_path, rng):
    messages = []
    for suffix in ("jpg", "png", "gif", "tif", "webp"):
        path = tmp_path / "a" / f"a.{suffix}"
        save(path, 32, 32)
        content = path.read_bytes()
        for _ in range(40):
            damaged = bytearray(content)
            for place in rng.integers(len(content), size=3):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                image_folder(tmp_path)[np.array([0])]
            except ValueError as error:
                messages.append(str(error))
        path.unlink()
    assert all(message.startswith("cannot read photo ") for message in messages)


@pytest.mark.data
def test_real_clothing_photos(data_dir):
    source = image_folder(data_dir / "clothing" / "test")
    assert len(source) == 372
    assert source.classes[0] == "dress"
    assert len(source.classes) == 10
    assert source[np.array([0, 371])]["image"].shape == (2, 128, 128, 3)


def test_parts_are_one_source(photos, tmp_path):
    save(tmp_path / "parts" / "test" / "ant" / "q.png")
    save(tmp_path / "parts" / "test" / "cat" / "p.png")
    for name in ("ant", "cat"):
        (photos / name).rename(tmp_path / "parts" / name)
        (tmp_path / "parts" / "train").mkdir(exist_ok=True)
        (tmp_path / "parts" / name).rename(tmp_path / "parts" / "train" / name)
    source, (train, test) = image_folders(tmp_path / "parts", ("train", "test"))
    assert [path.name for path in source.paths] == ["z.bmp", "a.PNG", "b.png", "q.png", "p.png"]
    assert (train.tolist(), test.tolist()) == ([0, 1, 2], [3, 4])
    np.testing.assert_array_equal(source.labels.argmax(axis=1), [0, 1, 1, 0, 1])
    assert source.summary == "5 photos of 2 classes"


def test_classes_are_those_of_all_parts_together(tmp_path):
    plant(tmp_path, "train/ant/1.png train/cat/2.png validation/ant/3.png validation/cat/")
    plant(tmp_path, "test/ant/4.png test/dog/5.png")
    parts = "train", "validation", "test"
    source, (train, validation, test) = image_folders(tmp_path, parts)
    assert source.classes == ("ant", "cat", "dog")
    assert source.labels[train].argmax(axis=1).tolist() == [0, 1]
    assert source.labels[validation].argmax(axis=1).tolist() == [0]
    assert source.labels[test].argmax(axis=1).tolist() == [0, 2]
    assert source.notes == (
        "train has no photo of dog",
        "validation has no photo of cat, dog (2 of 3 classes)",
        "test has no photo of cat",
    )


def test_an_unseen_class_splits_and_trains(tmp_path):
    plant(tmp_path, "train/a/1.png train/b/2.png test/b/33.png test/c/4.png test/c/55.png")
    source, (train, test) = image_folders(tmp_path, ("train", "test"))
    splits = make_splits(
        source, train=train, validation=test[:0], query=test[1:2], database=test[2:]
    )
    audited = audit(splits, max_equal_images=1)
    assert audited.absent_classes["train"] == ["c"]
    assert audited.zero_queries["query"] == 0


def test_a_part_without_a_photo_has_no_rows(tmp_path):
    plant(tmp_path, "train/ant/1.png validation/ test/ant/")
    source, rows = image_folders(tmp_path, ("train", "validation", "test"))
    assert [len(part) for part in rows] == [1, 0, 0]
    assert source.notes == ("validation has no photo", "test has no photo")


def test_what_lies_beside_the_parts_is_told(tmp_path):
    plant(tmp_path, "train/ant/1.png test/ant/2.png extra/ant/3.png list.txt train/notes.txt")
    source, _ = image_folders(tmp_path, ("train", "test"))
    assert source.notes == (
        "ignored: 2 beside the parts (extra, ...), 1 beside the class folders (train/notes.txt)",
    )


def test_a_missing_part_is_refused_with_those_that_are_there(tmp_path):
    plant(tmp_path, "train/ant/1.png test/ant/2.png .git/")
    with pytest.raises(FileNotFoundError, match=r"no folder .*/tests for .*; .* has test, train$"):
        image_folders(tmp_path, ("train", "tests"))


@pytest.mark.parametrize("parts", [(), ("train", ""), ("train", "train")])
def test_parts_must_be_names_that_differ(tmp_path, parts):
    plant(tmp_path, "train/ant/1.png")
    with pytest.raises(ValueError, match="parts must be names that differ, got"):
        image_folders(tmp_path, parts)


def test_all_unreadable_photos_are_refused_at_once_or_skipped(photos):
    for name in ("ant/bad.jpg", "cat/0.png"):
        (photos / name).write_bytes(b"no photo")
    os.symlink("nowhere.png", photos / "cat" / "d.png")
    with pytest.raises(ValueError, match=r"^cannot read 3 of 6 photos: ") as caught:
        image_folder(photos)
    assert str(caught.value).endswith(
        f"{photos}/ant/bad.jpg (cannot identify image file), {photos}/cat/0.png (cannot identify "
        f"image file), {photos}/cat/d.png (it is a dangling link or no regular file); replace them "
        "or take them away, or go on without by --skip_unreadable (in Python skip_unreadable=True)"
    )
    for size in (None, 3):
        source = image_folder(photos, size=size, skip_unreadable=True)
        assert [path.name for path in source.paths] == ["z.bmp", "a.PNG", "b.png"]
        assert source.notes[0].startswith(f"skipped 3 unreadable: {photos}/ant/bad.jpg (cannot")


def test_a_pipe_is_refused_without_waiting_for_it(photos):
    os.mkfifo(photos / "ant" / "pipe.jpg")
    with pytest.raises(ValueError, match=r"pipe\.jpg: it is a dangling link or no regular file"):
        image_folder(photos, size=3)[np.array([0])]


@pytest.fixture
def paths(tmp_path):
    found = [tmp_path / name for name in ("b/2.png", "b/c/1.png", "3.png")]
    for value, path in enumerate(found):
        write_photo(path, 50 * value)
    return found


def test_photos_come_in_the_order_of_their_paths(paths):
    source = data.from_photos(map(str, paths), [1, 0, 1], classes=["ant", "bee"])
    batch = source[np.array([2, 0])]
    np.testing.assert_array_equal(batch["image"][:, 0, 0], [[100] * 3, [0] * 3])
    np.testing.assert_array_equal(batch["label"], [[0, 1], [0, 1]])
    assert source.name_of(1) == paths[1]


@pytest.mark.parametrize("size", [None, 4])
def test_photos_without_labels_go_through_records(paths, size, tmp_path):
    pytest.importorskip("grain")
    source = data.from_photos(paths)
    assert (source.labels.shape, source.classes) == ((3, 0), ())
    data.to_records(source, tmp_path / "records", size=size, parts={"train": np.array([2])})
    records = data.from_records(tmp_path / "records")
    assert (records.labels.shape, records.classes) == ((3, 0), ())
    rows = np.array([2, 0])
    due = data.from_photos(paths, size=size)[rows]
    found = records[rows]
    assert found["label"].shape == (2, 0)
    np.testing.assert_array_equal(found["image"], due["image"])
    assert re.search(r"photos-00000-of-00001\.\w{8}\.array_record\[1\]$", records.name_of(1))
    splits = data.make_splits(
        records, train=records.parts["train"], validation=[], query=[0], database=[1, 2]
    )
    assert data.audit(splits).unlabelled["database"] == 2


def test_paths_and_labels_that_do_not_fit_are_refused(paths):
    with pytest.raises(ValueError, match="paths must name a photo at least, got none"):
        data.from_photos([])
    with pytest.raises(ValueError, match=r"label must have 3 rows, got \(2,\)"):
        data.from_photos(paths, [0, 1])
    write_photo(paths[0], side=9)
    with pytest.raises(ValueError, match="photos must have one size"):
        data.from_photos(paths)
