import numpy as np
import pytest

from quantjax.data import class_balanced, padded, shuffled


def test_an_epoch_visits_rows_once_and_drops_the_remainder():
    rows = shuffled(11, 3)(0, 0)
    assert rows.shape == (3, 3)
    assert rows.dtype == np.int64
    assert len(np.unique(rows)) == 9
    assert set(rows.ravel()) <= set(range(11))


def test_rows_are_a_function_of_seed_and_epoch_alone():
    sampler = shuffled(100, 10)
    np.testing.assert_array_equal(sampler(3, 5), shuffled(100, 10)(3, 5))
    for other in ((3, 6), (4, 5), (5, 3)):
        assert (sampler(3, 5) != sampler(*other)).any()


def test_order_does_not_depend_on_the_batch_size():
    np.testing.assert_array_equal(shuffled(12, 3)(1, 2).ravel(), shuffled(12, 4)(1, 2).ravel())


def test_the_first_rows_are_pinned():
    np.testing.assert_array_equal(shuffled(10, 5)(0, 0), [[4, 6, 2, 7, 3], [5, 9, 0, 8, 1]])


def test_dropped_rows_change_with_the_epoch():
    sampler = shuffled(11, 10)
    assert len({(set(range(11)) - set(sampler(0, epoch).ravel())).pop() for epoch in range(8)}) > 1


def test_one_batch_may_hold_all_rows():
    assert shuffled(4, 4)(0, 0).shape == (1, 4)


def test_too_large_a_batch_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at most the 4 training rows, got 5"):
        shuffled(4, 5)


@pytest.mark.parametrize("make", [shuffled, padded])
@pytest.mark.parametrize("sizes", [(0, 1), (4, 0), (4, -1)])
def test_sizes_below_one_are_refused(make, sizes):
    with pytest.raises(ValueError, match=f"1 or more, got {sizes[0]} and {sizes[1]}"):
        make(*sizes)


@pytest.mark.parametrize(("num_rows", "batch_size"), [(5, 2), (6, 2), (1, 4), (7, 7)])
def test_padded_batches_hold_every_row_once_in_order(num_rows, batch_size):
    rows, mask = padded(num_rows, batch_size)
    assert rows.shape == mask.shape == (-(-num_rows // batch_size), batch_size)
    assert (rows.dtype, mask.dtype) == (np.int64, bool)
    np.testing.assert_array_equal(rows[mask], np.arange(num_rows))
    assert not rows[~mask].any()


def labels_of(*counts):
    """Class ids of so many images of each class, in no order; classes 1, 3, 5, ..."""
    ids = np.repeat(1 + 2 * np.arange(len(counts)), counts)
    return np.random.default_rng(1).permutation(ids)


@pytest.mark.parametrize(
    ("counts", "num_classes", "num_images"),
    [((9, 9, 9, 9), 3, 2), ((4, 31, 6, 9, 13), 3, 4), ((5, 100, 7), 2, 2), ((6, 6), 2, 6)],
)
def test_every_batch_has_its_classes_and_images_of_each(counts, num_classes, num_images):
    labels = labels_of(*counts)
    sampler = class_balanced(labels, classes_per_batch=num_classes, images_per_class=num_images)
    rows = sampler(0, 0)
    assert rows.dtype == np.int64
    assert rows.shape[1] == num_classes * num_images
    of_class = labels[rows].reshape(len(rows), num_classes, num_images)
    assert (of_class == of_class[:, :, :1]).all()
    assert all(len(np.unique(batch)) == num_classes for batch in of_class[:, :, 0])
    assert len(np.unique(rows)) == rows.size
    # As many batches as any order could make of these groups.
    groups = np.array(counts) // num_images
    most = max(t for t in range(101) if np.minimum(groups, t).sum() >= num_classes * t)
    assert len(rows) == len(sampler(4, 9)) == most


def test_balanced_batches_are_a_function_of_seed_and_epoch_alone():
    labels = labels_of(12, 15, 12)
    make = {"classes_per_batch": 2, "images_per_class": 3}
    sampler = class_balanced(labels, **make)
    sampler(0, 0)
    np.testing.assert_array_equal(sampler(3, 5), class_balanced(labels, **make)(3, 5))
    one_hot = (labels[:, None] == np.arange(6)).astype(np.uint8)
    np.testing.assert_array_equal(sampler(3, 5), class_balanced(one_hot, **make)(3, 5))
    for other in ((3, 6), (4, 5), (5, 3)):
        assert (sampler(3, 5) != sampler(*other)).any()


def test_every_image_is_in_about_as_many_balanced_batches():
    labels = labels_of(10, 11, 12, 12)
    sampler = class_balanced(labels, classes_per_batch=3, images_per_class=4)
    rows = np.concatenate([sampler(0, epoch).ravel() for epoch in range(300)])
    seen = np.bincount(rows, minlength=len(labels)) / 300
    # 10 groups make 3 batches of 3: at least 8 of 12 images an epoch.
    assert 0.5 < seen.min() <= seen.max() < 1
    for of_class in np.unique(labels):
        assert np.ptp(seen[labels == of_class]) < 0.15


def test_classes_meet_in_every_combination():
    labels = labels_of(8, 8, 8, 8)
    sampler = class_balanced(labels, classes_per_batch=2, images_per_class=2)
    pairs = {frozenset(labels[batch].tolist()) for epoch in range(9) for batch in sampler(0, epoch)}
    assert len(pairs) == 6


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((1, 4), "classes_per_batch must be 2 or more, got 1: a batch would have no negatives"),
        ((2, 1), "images_per_class must be 2 or more, got 1: a batch would have no positives"),
        ((4, 2), "at most the 3 classes of the training rows, got 4"),
        ((3, 6), "at most the 5 training images of class 3, got 6"),
    ],
)
def test_batches_that_classes_cannot_fill_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        class_balanced(labels_of(9, 5, 7), classes_per_batch=sizes[0], images_per_class=sizes[1])


def test_balance_is_of_one_label_each():
    labels = np.eye(3, dtype=np.uint8)[[0, 0, 1, 1, 2, 2]]
    labels[3, 0] = 1
    with pytest.raises(ValueError, match="one label each, got 2 in row 3"):
        class_balanced(labels, classes_per_batch=2, images_per_class=2)
