"""Draws equal their documented loops, and parts have the same share of each class."""

import numpy as np
import pytest

from quantjax.data import stratified
from quantjax.data.draws import at_random, classwise

CLASSES = ("a", "b", "c")


def drawn(labels, seed=0, query=2, train=3):
    return classwise(
        labels, classes=CLASSES, query_per_class=query, train_per_class=train, seed=seed
    )


def loop(labels, query, train, seed):
    """The documented draw, a photo at a time."""
    rng = np.random.default_rng(seed)
    taken, part = set(), {"query": set(), "train": set()}
    order = sorted(range(labels.shape[1]), key=lambda column: (labels[:, column].sum(), column))
    for column in order:
        free = [row for row in range(len(labels)) if labels[row, column] and row not in taken]
        turn = rng.permutation(free).tolist()
        part["query"] |= set(turn[:query])
        part["train"] |= set(turn[query : query + train])
        taken |= set(turn[: query + train])
    part["database"] = set(range(len(labels))) - part["query"]
    return {name: sorted(rows) for name, rows in part.items()}


@pytest.mark.parametrize(("seed", "query", "train"), [(0, 2, 3), (1, 2, 3), (0, 1, 5), (0, 4, 0)])
def test_classwise_draw_equals_the_documented_loop(rng, seed, query, train):
    labels = (rng.random((60, 3)) < [0.3, 0.9, 0.4]).astype(np.uint8)
    rows = drawn(labels, seed, query, train)
    due = loop(labels, query, train, seed)
    assert {name: each.tolist() for name, each in rows.items()} == due
    assert len(rows["query"]) == 3 * query
    assert len(rows["train"]) == 3 * train


def test_classwise_draw_lets_the_rarest_class_go_first():
    labels = np.zeros((15, 3), np.uint8)
    labels[:, 0] = 1
    labels[5:15, 1] = 1
    labels[10:15, 2] = 1
    rows = drawn(labels)
    parts = np.concatenate([rows["query"], rows["train"]])
    assert sorted(parts) == list(range(15))
    assert (rows["query"] >= 10).sum() == 2


def test_classwise_draw_names_a_class_that_is_used_up():
    labels = np.ones((12, 3), np.uint8)
    with pytest.raises(ValueError, match=r"class c must have 5 photos that no rarer .* got 2"):
        drawn(labels)


def test_random_draw_parts_a_permutation():
    rows = at_random(20, num_query=3, num_train=5, seed=4)
    order = np.random.default_rng(4).permutation(20)
    assert rows["query"].tolist() == sorted(order[:3])
    assert rows["train"].tolist() == sorted(order[3:8])
    assert rows["database"].tolist() == sorted(order[3:])
    assert at_random(20, num_query=3, num_train=5, seed=5)["query"].tolist() != sorted(order[:3])


def test_random_draw_needs_photos():
    with pytest.raises(ValueError, match="3 queries and 5 training photos need more photos than 8"):
        at_random(8, num_query=3, num_train=5, seed=0)


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
