import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.data import from_arrays, from_features, image_folder, with_columns
from quantjax.data.sources import check_rows
from tests.data.photo_files import write_photo

IMAGES = np.arange(4 * 2 * 3 * 3, dtype=np.uint8).reshape(4, 2, 3, 3)
IDS = np.array([2, 0, 2, 1])
ONE_HOT = np.array([[0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0]], np.uint8)


@pytest.mark.parametrize(
    "label",
    [IDS, IDS.astype(np.uint8), IDS.tolist(), ONE_HOT, ONE_HOT.astype(bool), ONE_HOT.astype(float)],
)
def test_every_form_of_label_becomes_multi_hot(label):
    source = from_arrays(IMAGES, label)
    np.testing.assert_array_equal(source.labels, ONE_HOT)
    assert source.labels.dtype == np.uint8
    assert source.classes == ("0", "1", "2")


def test_multi_hot_rows_may_have_no_or_several_labels():
    label = np.array([[1, 1], [0, 0], [0, 1], [1, 0]])
    np.testing.assert_array_equal(from_arrays(IMAGES, label).labels, label)


def test_named_classes_widen_class_ids():
    source = from_arrays(IMAGES, IDS, classes=["a", "b", "c", "d"])
    assert source.labels.shape == (4, 4)
    assert source.classes == ("a", "b", "c", "d")


def test_rows_return_every_column_in_the_order_asked():
    source = from_arrays(IMAGES, IDS, feature=np.arange(8.0).reshape(4, 2))
    batch = source[np.array([3, 1, 3])]
    assert set(batch) == {"image", "label", "feature"}
    np.testing.assert_array_equal(batch["image"], IMAGES[[3, 1, 3]])
    np.testing.assert_array_equal(batch["label"], ONE_HOT[[3, 1, 3]])
    np.testing.assert_array_equal(batch["feature"], [[6, 7], [2, 3], [6, 7]])
    assert len(source) == 4


def test_rows_of_views_keep_their_axes():
    batch = from_arrays(IMAGES, IDS)[np.array([[0, 1], [2, 3], [1, 1]])]
    assert batch["image"].shape == (3, 2, 2, 3, 3)
    assert batch["label"].shape == (3, 2, 3)


def test_grey_images_get_a_channel():
    assert from_arrays(IMAGES[..., 0], IDS)[np.array([0])]["image"].shape == (1, 2, 3, 1)


def test_arrays_are_shared_and_cannot_be_written_through_the_source():
    images, label = IMAGES.copy(), ONE_HOT.copy()
    source = from_arrays(images, label)
    assert np.shares_memory(source.columns["image"], images)
    assert np.shares_memory(source.labels, label)
    with pytest.raises(ValueError, match="read-only"):
        source.labels[0] = 1
    images[0], label[0] = 1, 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (IMAGES.astype(np.float32), r"uint8 .*, got float32 \(4, 2, 3, 3\)"),
        (IMAGES[0, 0], r"got uint8 \(3, 3\)"),
        (IMAGES[:0], r"not empty, got uint8 \(0, 2, 3, 3\)"),
    ],
)
def test_other_images_are_refused(image, message):
    with pytest.raises(
        ValueError, match=f"image must be {message}" if "uint8 ." in message else message
    ):
        from_arrays(image, IDS[: len(image)])


@pytest.mark.parametrize(
    ("label", "classes", "message"),
    [
        (IDS[:3], None, r"label must have 4 rows, got \(3,\)"),
        (IDS.astype(float), None, r"got float64 \(4,\)"),
        (ONE_HOT[:3], None, r"label must have 4 rows, got \(3, 3\)"),
        (ONE_HOT * 2, None, r"got other values in shape \(4, 3\)"),
        (ONE_HOT[None], None, r"got uint8 \(1, 4, 3\)"),
        (np.array(list("abcd")), None, r"got <U1 \(4,\)"),
        (
            IDS[:, None],
            None,
            r"label of shape \(4, 1\) may be class ids or one label: pass label\[:, 0\]",
        ),
        (-IDS, None, r"label must be class ids from 0 to 2\^63 - 1, got -2"),
        (IDS, ["a", "b"], "class id 2 has no name, classes holds 2"),
        (ONE_HOT, ["a", "b"], r"a column for each of 2 classes, got shape \(4, 3\)"),
    ],
)
def test_other_labels_are_refused(label, classes, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(IMAGES, label, classes=classes)


def test_columns_of_another_length_or_a_taken_name_are_refused():
    with pytest.raises(ValueError, match=r"column feature must have 4 rows, got \(3, 2\)"):
        from_arrays(IMAGES, IDS, feature=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="column mask would hide the batch's own mask"):
        from_arrays(IMAGES, IDS, mask=np.zeros(4))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 4], "rows must lie in 0 to 3, got 0 to 4"),
        ([-1, 2], "rows must lie in 0 to 3, got -1 to 2"),
        ([True, False, True, False], r"got bool \(4,\); turn a mask into rows with np.flatnonzero"),
        ([0.0], r"integers, got float64 \(1,\)"),
        (2, r"integers, got int64 \(\)"),
        (slice(2), r"integers, got object \(\)"),
    ],
)
def test_rows_that_are_none_are_refused(rows, message):
    source = from_arrays(IMAGES, IDS)
    with pytest.raises(IndexError, match=message):
        source[rows]


def test_no_rows_give_an_empty_batch():
    assert from_arrays(IMAGES, IDS)[np.array([], int)]["image"].shape == (0, 2, 3, 3)
    assert check_rows(np.zeros((0, 2), int), 4).shape == (0, 2)


FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_features_are_a_source_without_images():
    source = from_features(FEATURES, IDS, classes=["a", "b", "c"], place=np.arange(4))
    batch = source[np.array([3, 1])]
    assert set(batch) == {"feature", "label", "place"}
    np.testing.assert_array_equal(batch["feature"], FEATURES[[3, 1]])
    np.testing.assert_array_equal(batch["label"], ONE_HOT[[3, 1]])
    assert (len(source), source.classes) == (4, ("a", "b", "c"))
    assert np.shares_memory(source.columns["feature"], FEATURES)


def test_arrays_of_features_alone_are_a_source_of_features():
    source = from_arrays(label=IDS, feature=FEATURES)
    assert source.columns.keys() == from_features(FEATURES, IDS).columns.keys()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.uint8, jnp.bfloat16])
def test_features_of_any_real_type_become_float32(dtype):
    column = from_features(FEATURES.astype(dtype)).columns["feature"]
    assert column.dtype == np.float32
    np.testing.assert_array_equal(column, FEATURES)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (FEATURES[0], r"real numbers \[N, F\] and not empty, got float32 \(3,\)"),
        (FEATURES[None], r"got float32 \(1, 4, 3\)"),
        (FEATURES[:0], r"got float32 \(0, 3\)"),
        (FEATURES.astype(str), r"got <U"),
        (FEATURES.astype(complex), r"got complex"),
        (np.where(FEATURES == 7, np.nan, FEATURES), r"infinity in row 2 \(1 of 4 rows\)"),
        (np.where(FEATURES > 7, np.inf, FEATURES), r"infinity in row 2 \(2 of 4 rows\)"),
        (np.where(FEATURES == 0, -1e39, np.float64(FEATURES)), r"in row 0 \(1 of 4 rows\)"),
    ],
)
def test_other_features_are_refused(x, message):
    with pytest.raises(ValueError, match=f"feature must be .*{message}"):
        from_features(x)


def test_a_source_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"needs image=IMAGES or feature=FEATURES, got neither"):
        from_arrays(label=IDS)


@pytest.mark.parametrize("classes", [None, ["a", "b"]])
def test_no_label_gives_rows_without_any(classes):
    source = from_arrays(IMAGES, classes=classes)
    assert source.classes == tuple(classes or ())
    assert source.labels.shape == (4, len(source.classes))
    assert not source.labels.any()
    assert source[np.array([1, 2])]["label"].shape == (2, len(source.classes))


@pytest.mark.parametrize(
    ("label", "due", "classes"),
    [
        ([7, 999_999, 7, 0], [1, 2, 1, 0], ("0", "7", "999999")),
        ([2**40, 5, 5, 2**62], [1, 0, 0, 2], ("5", str(2**40), str(2**62))),
    ],
)
def test_class_ids_with_wide_gaps_are_renumbered_and_that_is_said(label, due, classes):
    with pytest.warns(UserWarning, match=rf"reach {max(label)}, but only 3 .* renumbered 0 to 2"):
        source = from_arrays(IMAGES, np.array(label))
    np.testing.assert_array_equal(source.labels, np.eye(3)[due])
    assert source.classes == classes


def test_the_warning_names_the_line_that_made_the_source():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_arrays(IMAGES, np.array([1, 2, 3, 5_000]))
    assert [each.filename for each in caught] == [__file__]


def test_class_ids_with_narrow_gaps_stay_as_they_are():
    assert from_arrays(IMAGES, np.array([0, 3, 1_023, 3])).labels.shape == (4, 1_024)
    dense = np.arange(0, 2_100, 2) + 1  # 1,050 of 2,100 ids occur
    assert from_features(np.zeros((len(dense), 1)), dense).labels.shape == (1_050, 2_100)


def test_named_classes_are_never_renumbered():
    source = from_arrays(IMAGES, IDS, classes=list(map(str, range(2_000))))
    assert source.labels.shape == (4, 2_000)


def test_rows_have_the_names_that_they_were_given():
    source = from_arrays(IMAGES, IDS, names=["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    assert source.name_of(2) == "c.jpg"
    assert from_arrays(IMAGES, IDS).name_of(2) == 2
    with pytest.raises(ValueError, match="names must be of the 4 rows, got 1"):
        from_arrays(IMAGES, IDS, names=["a.jpg"])


def test_columns_of_photos_in_memory_keep_their_names(tmp_path):
    for name in ("ant/a.png", "bee/b.png"):
        write_photo(tmp_path / name)
    photos = image_folder(tmp_path)
    source = with_columns(photos, feature=FEATURES[:2])
    assert source.classes == ("ant", "bee")
    assert source.name_of(1) == tmp_path / "bee/b.png"
    due, found = (each[np.array([1, 0])] for each in (photos, source))
    np.testing.assert_array_equal(found.pop("feature"), FEATURES[[1, 0]])
    assert due.keys() == found.keys()
    for name in due:
        np.testing.assert_array_equal(found[name], due[name])


@pytest.mark.parametrize("label", [None, IDS])
def test_columns_are_added_to_features_and_replaced(label):
    source = from_features(FEATURES, label)
    found = with_columns(source, feature=2 * FEATURES, place=np.arange(4))
    assert set(found.columns) == {"feature", "label", "place"}
    np.testing.assert_array_equal(found.columns["feature"], 2 * FEATURES)
    np.testing.assert_array_equal(found.labels, source.labels)
    assert found.classes == source.classes


@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (2, 1, 28, 28), (5, 4, 32, 32)])
def test_channels_that_come_first_are_refused(shape):
    image = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match=r"channels come first; pass image.transpose\(0, 2, 3, 1"):
        from_arrays(image, np.arange(len(image)))
    assert len(from_arrays(image.transpose(0, 2, 3, 1), np.arange(len(image)))) == len(image)


@pytest.mark.parametrize("shape", [(2, 3, 8, 3), (2, 1, 28, 1), (2, 1, 1, 512), (2, 8, 9, 5)])
def test_channels_that_come_last_are_taken(shape):
    assert (
        from_arrays(np.zeros(shape, np.uint8), np.arange(2))[np.arange(2)]["image"].shape == shape
    )


@pytest.mark.parametrize("label", [None, np.zeros((4, 0), np.uint8)])
def test_rows_may_all_be_without_a_label(label):
    source = from_arrays(np.zeros((4, 8, 8, 1), np.uint8), label)
    assert source.labels.shape == (4, 0)
    assert source.classes == ()
