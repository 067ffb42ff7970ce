import numpy as np
import pytest

from quantjax.data import padded, shuffled


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
