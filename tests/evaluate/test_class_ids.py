"""A source of class ids is trained on, audited and measured as one of one-hot labels is."""

import jax
import numpy as np
import pytest

from quantjax import data, evaluate, train
from quantjax.run import parallel
from tests import toy
from tests.data.class_id_source import ClassIdSource


@pytest.fixture(scope="module")
def trained():
    """What two sources of the same images and classes lead to."""
    found = []
    mesh = parallel.data_mesh(jax.devices()[:1])
    for wrap in (lambda source: source, ClassIdSource):
        splits = toy.splits()._replace(source=wrap(toy.splits().source))
        experiment = toy.experiment(toy.dqn(), num_epochs=1, splits=splits)
        result = train.fit(experiment, mesh=mesh)
        retrieval = evaluate.evaluate_method(experiment, result.state, mesh=mesh, name="toy")
        found.append((result.state, retrieval))
    return found


def test_training_takes_the_same_steps(trained):
    one_hot, ids = (jax.tree.leaves(state.params) for state, _ in trained)
    for due, got in zip(one_hot, ids, strict=True):
        np.testing.assert_array_equal(got, due)


def test_every_number_and_the_audit_are_the_same(trained):
    (_, due), (_, got) = trained
    assert got.audit == due.audit
    for ours, theirs in zip(got.results, due.results, strict=True):
        # The shuffle itself is another one.
        (one,), (other,) = ours.numbers, theirs.numbers
        assert one._replace(shuffled=0) == other._replace(shuffled=0)
        np.testing.assert_array_equal(ours.per_query[ours.metric], theirs.per_query[theirs.metric])
    np.testing.assert_array_equal(got.codes, due.codes)


def test_a_split_by_class_is_measured(trained):
    source = ClassIdSource(toy.splits().source)
    splits = data.unseen_classes(source, seen_share=0.5, validation_share=0, query_per_class=8)
    state, _ = trained[1]
    experiment = toy.experiment(toy.dqn(), splits=splits)
    mesh = parallel.data_mesh(jax.devices()[:1])
    retrieval = evaluate.evaluate_method(experiment, state, mesh=mesh, name="toy")
    assert retrieval.audit.absent_classes["database"] == retrieval.audit.absent_classes["query"]
    assert len(retrieval.audit.absent_classes["train"]) == 2
    assert retrieval.results[0].numbers[0].chance == pytest.approx(0.5, abs=0.05)
