"""The unseen-class experiment trains and retrieves on other classes, by the draw asked for."""

import numpy as np

from experiments import dqn
from quantjax.data import class_counts


def classes_of(splits, rows):
    return np.flatnonzero(class_counts.rows_per_class(splits.source.labels[rows], 10))


def test_digits_are_drawn_by_class():
    config = dqn.get_config("mnist_unseen")
    splits = dqn.build(config, "mnist_unseen").splits
    parts = [
        classes_of(splits, rows)
        for rows in (splits.train, splits.validation_database, splits.database)
    ]
    assert [len(part) for part in parts] == [5, 2, 3]
    assert len(np.unique(np.concatenate(parts))) == 10
    np.testing.assert_array_equal(classes_of(splits, splits.query), parts[2])
    assert [len(splits.train), len(splits.query), len(splits.database)] == [2500, 150, 1350]
    config.class_draw = 1
    other = dqn.build(config, "mnist_unseen").splits
    assert classes_of(other, other.database).tolist() != parts[2].tolist()
    config.class_draw, config.final = 0, True
    assert len(dqn.build(config, "mnist_unseen").splits.train) == 3500


def test_all_else_is_as_for_the_seen_classes():
    unseen = dqn.get_config("mnist_unseen").to_dict()
    unseen.pop("class_draw")
    assert unseen == dqn.get_config("mnist").to_dict()
