import numpy as np
import pytest

from quantjax.data.list_files import read_lists
from tests.data.photo_files import write_list


def lists(folder, **texts):
    files = {}
    for name, text in texts.items():
        files[name] = folder / f"{name}.txt"
        files[name].write_bytes(text.encode() if isinstance(text, str) else text)
    return files


def test_a_photo_is_one_row_whatever_list_it_stands_in(tmp_path):
    files = lists(
        tmp_path,
        train="b/2.jpg 0 1 0\na/1.jpg 1 0 0\n",
        database="c.png 0 1 1\nb/2.jpg 0 1 0\n",
    )
    listing = read_lists(files)
    assert listing.paths == ("a/1.jpg", "b/2.jpg", "c.png")
    np.testing.assert_array_equal(listing.labels, [[1, 0, 0], [0, 1, 0], [0, 1, 1]])
    assert listing.labels.dtype == np.uint8
    assert {name: rows.tolist() for name, rows in listing.rows.items()} == {
        "train": [0, 1],
        "database": [1, 2],
    }


def test_class_ids_stay_ids(tmp_path):
    listing = read_lists(lists(tmp_path, train="b.jpg 7\na.jpg 0\n", query="c.jpg 999999"))
    np.testing.assert_array_equal(listing.labels, [0, 7, 999_999])
    assert listing.labels.dtype == np.int64


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg 0 1\nb.jpg 1 0",
        "\n\na.jpg 0 1\n   \nb.jpg 1 0\n\n\n",
        "\ufeffa.jpg 0 1\r\nb.jpg 1 0\r\n",
        "  a.jpg\t0  1 \n./b.jpg 1 0\n",
        ".//a.jpg 0 1\nx/../b.jpg 01 00\n",
        ".\\a.jpg 0 1\nx\\..\\b.jpg 1 0",
    ],
)
def test_one_content_has_many_forms(tmp_path, text):
    listing = read_lists(lists(tmp_path, train=text))
    assert listing.paths == ("a.jpg", "b.jpg")
    np.testing.assert_array_equal(listing.labels, [[0, 1], [1, 0]])


def test_order_of_lines_does_not_matter(tmp_path):
    listing = read_lists(lists(tmp_path, train="b.jpg 1\na.jpg 0\n", query="d.jpg 1\nc.jpg 0\n"))
    turned = read_lists(lists(tmp_path, query="c.jpg 0\nd.jpg 1\n", train="a.jpg 0\nb.jpg 1\n"))
    assert listing.paths == turned.paths
    np.testing.assert_array_equal(listing.labels, turned.labels)
    np.testing.assert_array_equal(listing.rows["train"], turned.rows["train"])


def test_paths_may_hold_spaces_numbers_and_foreign_letters(tmp_path):
    names = ["Acura Type R 2001/00128.jpg", "a 1 0.JPEG 3.png", "Größe/a.jpg"]
    text = "\n".join(f"{name} 0 1" for name in names)
    assert read_lists(lists(tmp_path, train=text)).paths == tuple(sorted(names))
    listing = read_lists(lists(tmp_path, train=b"\xff.jpg 0 1"))
    assert listing.paths[0].encode(errors="surrogateescape") == b"\xff.jpg"


def test_place_maps_paths_before_they_are_compared(tmp_path):
    files = lists(tmp_path, train="/elsewhere/a.jpg 1\n", query="/elsewhere/b.jpg 0\n")
    listing = read_lists(files, place=lambda path: path.removeprefix("/elsewhere/"))
    assert listing.paths == ("a.jpg", "b.jpg")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a.jpg", "must be a path that ends in .jpg or another photo suffix, then labels"),
        ("a.txt 0 1", "must be a path that ends in"),
        ("0 1", "must be a path that ends in"),
        ("a.jpg 0 x", "must be a path that ends in"),
        ("a.jpg 0 -1", "must be a path that ends in"),
        ("a.jpg 0.0 1.0", "must be a path that ends in"),
        ("a.jpg 1000000", "class id below 1,000,000, with spaces between; got 'a.jpg 1000000'"),
        ("a.jpg 0 2", "labels of several columns must be 0 or 1, got 2"),
        ("a.jpg 0 1 0", "3 labels, but 2 in .*train.txt line 1"),
        ("a.jpg 1", "1 labels, but 2 in .*train.txt line 1"),
        ("first.jpg 0 1", "photo first.jpg stands in line 1 already"),
        ("./first.jpg 1 1", "photo first.jpg stands in line 1 already"),
        ("/etc/a.jpg 0 1", r"path '/etc/a.jpg' is absolute, .* place= .* data.by_name\(root\)"),
        ("C:/a.jpg 0 1", "path 'C:/a.jpg' is absolute"),
        (r"\\host\a.jpg 0 1", "is absolute"),
        (r"d:a.jpg 0 1", "is absolute"),
        ("x/../C:a.jpg 0 1", "path 'x/../C:a.jpg' leaves the root"),
        ("../a.jpg 0 1", "path '../a.jpg' leaves the root; name photos below it"),
        ("b/../../a.jpg 0 1", "leaves the root"),
        ("x/" * 999 + "../" * 1000 + "a.jpg 0 1", "path 'x/x/.{196}' leaves the root"),
        (r"..\a.jpg 0 1", "leaves the root"),
        ("b/..//..//a.jpg 0 1", "leaves the root"),
        ("a\0b.jpg 0 1", "leaves the root"),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, reason):
    files = lists(tmp_path, train=f"first.jpg 0 1\n\n{line}\n")
    with pytest.raises(ValueError, match=rf"train\.txt line 3: .*{reason}"):
        read_lists(files)


def test_a_long_line_is_shown_in_part(tmp_path):
    with pytest.raises(ValueError, match=r"got 'a.jpg 0 0 .* \.\.\. .* x'") as caught:
        read_lists(lists(tmp_path, train="a.jpg" + " 0" * 500 + " x"))
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_lists_must_agree(tmp_path):
    files = lists(tmp_path, train="a.jpg 0 1\n", query="b.jpg 1 0\na.jpg 1 1\n")
    with pytest.raises(
        ValueError, match=r"query.txt line 2: photo a.jpg has other labels in .*train.txt line 1"
    ):
        read_lists(files)
    files = lists(tmp_path, train="a.jpg 0 1\n", query="b.jpg 1\n")
    with pytest.raises(ValueError, match=r"query.txt line 1: 1 labels, but 2 in .*train.txt line"):
        read_lists(files)


@pytest.mark.parametrize("place", ["..", "a/../..", "/", "../a.jpg"])
def test_a_place_that_is_not_below_the_root_is_refused(tmp_path, place):
    with pytest.raises(
        ValueError, match=r"train.txt line 1: path .* (leaves the root|is absolute)"
    ):
        read_lists(lists(tmp_path, train="a.jpg 0 1"), place=lambda path: place)


def test_empty_and_missing_lists_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"train.txt lists no photo"):
        read_lists(lists(tmp_path, train="\n \n"))
    with pytest.raises(FileNotFoundError, match=r"no list file .*nowhere.txt"):
        read_lists({"train": tmp_path / "nowhere.txt"})


@pytest.mark.slow
def test_lists_of_the_size_of_nus_wide_are_read(tmp_path, rng):
    tables = rng.integers(2, size=(1_000, 21)).tolist()
    photos = [f"images/{number}_{number * 7}_m.jpg" for number in range(195_834)]
    labels = [tables[number % 1_000] for number in range(195_834)]
    files = {
        "query": write_list(tmp_path / "test.txt", photos[:2_100], labels[:2_100]),
        "train": write_list(tmp_path / "train.txt", photos[-10_500:], labels[-10_500:]),
        "database": write_list(tmp_path / "database.txt", photos[2_100:], labels[2_100:]),
    }
    listing = read_lists(files)
    assert listing.labels.shape == (195_834, 21)
    assert {name: len(rows) for name, rows in listing.rows.items()} == {
        "query": 2_100,
        "train": 10_500,
        "database": 193_734,
    }
    row = listing.paths.index(photos[5_000])
    np.testing.assert_array_equal(listing.labels[row], labels[5_000])
