import numpy as np
import pytest

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
