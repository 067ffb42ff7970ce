"""Parts have the same share of each class."""

import numpy as np
import pytest

from quantjax.data import stratified

SHARES = {"train": 80, "validation": 10, "test": 10}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("one_hot", [False, True])
def test_each_part_has_its_share_of_each_class(rng, seed, one_hot):
    ids = rng.permutation(np.repeat([0, 1, 3], [100, 37, 10]))
    labels = np.eye(4, dtype=np.uint8)[ids] if one_hot else ids
    parts = stratified(labels, SHARES, seed=seed)
    assert list(parts) == list(SHARES)
    np.testing.assert_array_equal(np.sort(np.concatenate([*parts.values()])), np.arange(147))
    for name, rows in parts.items():
        assert (np.diff(rows) > 0).all()
        for class_id, count in ((0, 100), (1, 37), (3, 10)):
            found = (ids[rows] == class_id).sum()
            assert abs(found - count * SHARES[name] / 100) < 1
        assert len(set(np.flatnonzero(ids == 0)) & set(rows)) == SHARES[name]


def test_shares_hold_over_many_small_classes():
    ids = np.arange(3000) // 3
    parts = stratified(ids, {"train": 50, "validation": 25, "test": 25}, seed=0)
    assert len(np.unique(ids[parts["train"]])) == 1000
    for name, due in (("train", 1500), ("validation", 750), ("test", 750)):
        assert abs(len(parts[name]) - due) < 60


def test_a_class_of_one_row_trains():
    parts = stratified(np.arange(50), {"train": 1, "test": 99}, seed=0)
    assert (len(parts["train"]), len(parts["test"])) == (50, 0)


def test_the_seed_alone_decides():
    ids = np.arange(60) % 3
    first, again, other = (stratified(ids, SHARES, seed=seed) for seed in (1, 1, 2))
    for name, rows in first.items():
        np.testing.assert_array_equal(rows, again[name])
    assert any(not np.array_equal(rows, other[name]) for name, rows in first.items())


@pytest.mark.parametrize(
    ("labels", "shares", "message"),
    [
        ([0, 1], {"train": 0, "test": 1}, "the first above 0, got"),
        ([0, 1], {"train": 2, "test": -1}, "shares must be 0 or more"),
        ([0, 1], {"train": float("nan"), "test": 1}, "shares must be 0 or more"),
        ([[1, 1], [0, 1]], SHARES, "rows must have one label each, got 2 in row 0"),
    ],
)
def test_what_cannot_be_cut_is_refused(labels, shares, message):
    with pytest.raises(ValueError, match=message):
        stratified(np.array(labels), shares, seed=0)
