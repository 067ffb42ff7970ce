"""The four evaluations of a data set are one task with other queries and another database."""

import functools

import numpy as np
import pytest

from experiments import configs
from experiments.tasks import cifar10, clothing, fashion_mnist, omniglot
from quantjax import data
from quantjax.models import features

KEYS = ["seen_in_seen", "unseen_in_unseen", "unseen_in_both", "seen_in_both"]
ALPHABETS = ("Early_Aramaic", "Greek", "Japanese_katakana", "Korean", "Latin", "Tagalog")


@functools.cache
def source(shape, per_class=150, names=tuple("0123456789")):
    class_ids = np.repeat(np.arange(len(names)), per_class)
    return data.from_arrays(np.zeros((len(class_ids), *shape), np.uint8), class_ids, classes=names)


def drawn(images, *, seed):
    sizes = {"query_per_class": 3, "database_per_class": 5, "train_per_class": 9}
    return data.seen_unseen(images, validation_per_class=2, seed=seed, **sizes)


def parts(folder, names):
    del folder
    return source((8, 8, 3)), tuple(np.array_split(np.arange(1_500), len(names)))


REPLACED = {
    "fashion_mnist": lambda *_: source((28, 28, 1)),
    "cifar10": lambda *_: source((32, 32, 3)),
    "omniglot": lambda *_: source((28, 28, 1), 20, tuple(f"{a}-character01" for a in ALPHABETS)),
    "locate": lambda *_, **__: None,
    "image_folders": parts,
    "fashion_mnist_seen_unseen": drawn,
    "cifar10_seen_unseen": drawn,
}


@pytest.fixture(autouse=True)
def no_real_data(monkeypatch):
    for name, replacement in REPLACED.items():
        monkeypatch.setattr(data, name, replacement)
    monkeypatch.setattr(features, "efficientnet_lite0", lambda size: size)
    ones = np.eye(1_500, 6, dtype=np.float32)
    monkeypatch.setattr(features, "extract", lambda images, *_, **__: ones[: len(images)])
    yield
    for module in (cifar10, clothing, fashion_mnist, omniglot):
        for each in vars(module).values():
            if hasattr(each, "cache_clear"):
                each.cache_clear()


def evaluations(module, **changes):
    config = configs.create(module.EVALUATIONS, seed=0, final=False)
    config.update(changes)
    return module.evaluations(config)


@pytest.mark.parametrize("module", [cifar10, clothing, fashion_mnist, omniglot])
def test_one_training_serves_all_four(module):
    for final in (False, True):
        tasks = evaluations(module, final=final)
        assert list(tasks) == KEYS
        first, *others = tasks.values()
        assert bool(len(first.splits.validation)) is not final
        for other in others:
            # Equal but for the splits, and of these the source is the same object.
            assert other._replace(splits=first.splits) == first
            assert other.splits.source is first.splits.source
            np.testing.assert_array_equal(other.splits.train, first.splits.train)
            np.testing.assert_array_equal(other.splits.validation, first.splits.validation)
        assert len({each.splits.digest for each in tasks.values()}) == 4


@pytest.mark.parametrize("module", [cifar10, clothing, fashion_mnist])
def test_a_seed_draws_its_classes(module):
    one, other = (evaluations(module, seed=draw)["seen_in_both"].splits.digest for draw in (0, 1))
    assert one != other


def test_clothing_is_drawn_of_all_its_parts():
    splits = evaluations(clothing)["unseen_in_both"].splits
    assert splits.name == "clothing_unseen_in_both"
    assert [len(rows) for rows in splits[1:5]] == [5 * 55, 5 * 10 + 2 * 65, 3 * 25, 10 * 50]


def test_the_task_on_omniglot_searches_unseen_alphabets():
    config = configs.create(omniglot.IMAGES, final=False)
    splits = omniglot.images(config).splits
    assert splits.name == "omniglot_unseen_in_unseen"
    assert (len(splits.query), len(splits.database)) == (3 * 5, 3 * 15)
