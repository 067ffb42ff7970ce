"""The controls beside a method: a classifier that is at its minimum, and codes of its answers."""

import jax
import numpy as np
import pytest

import experiments.baselines
from experiments.baselines import baselines, class_id_code
from experiments.classifier import fit_classifier
from quantjax import data, train
from quantjax.run import parallel
from tests import toy
from tests.data.class_id_source import ClassIdSource


def gradient(classifier, x, class_ids, penalty):
    """Of the loss, in float64, with respect to the weights of x at a mean square of 1."""
    length = np.sqrt(np.mean(np.float64(x) ** 2))
    x, weights = np.float64(x) / length, np.float64(classifier.weights) * length
    p = np.exp(x @ weights + np.float64(classifier.bias))
    p /= p.sum(axis=1, keepdims=True)
    residual = (p - np.eye(p.shape[1])[class_ids]) / len(x)
    return x.T @ residual + penalty * weights, residual.sum(axis=0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("penalty", [1e-2, 1e-4])
@pytest.mark.parametrize("apart", [0.3, 5.0])
def test_the_classifier_is_where_the_loss_is_flat(apart, penalty, scale, rng):
    class_ids = rng.integers(0, 3, 200)
    x = apart * rng.normal(size=(3, 4))[class_ids] + rng.normal(size=(200, 4))
    x = np.float32(scale * x)
    classifier = fit_classifier(x, class_ids, num_classes=3, penalty=penalty)
    for part in gradient(classifier, x, class_ids, penalty):
        assert np.linalg.norm(part) < 3e-5
    for other in (10 * penalty, penalty / 10):
        assert np.linalg.norm(gradient(classifier, x, class_ids, other)[0]) > 1e-4


def test_a_classifier_of_what_does_not_fit_is_refused():
    x, class_ids = np.zeros((4, 2), np.float32), np.array([0, 1, 2, 0])
    with pytest.raises(ValueError, match=r"got \(4, 2\) and \(3,\)"):
        fit_classifier(x, class_ids[:3], num_classes=3)
    with pytest.raises(ValueError, match="class_ids must lie in 0 to 1, got 0 to 2"):
        fit_classifier(x, class_ids, num_classes=2)


@pytest.fixture(scope="module")
def trained():
    """Experiments on two of four classes, and where training them ended."""
    mesh = parallel.data_mesh(jax.devices()[:1])
    source = ClassIdSource(toy.splits().source)
    unseen = data.unseen_classes(source, seen_share=0.5, validation_share=0, query_per_class=8)
    apart = np.setdiff1d(np.arange(len(source)), np.concatenate([unseen.query, unseen.database]))
    seen = unseen._replace(train=apart[::2], query=apart[1::8], database=apart[3::4])
    state = None
    found = {}
    for name, splits in (("seen", seen), ("unseen", unseen._replace(train=apart[::2]))):
        experiment = toy.experiment(
            toy.dqn(),
            splits=splits,
            sampler=data.shuffled(len(splits.train), 32),
            batch_size=32,
        )
        state = train.fit(experiment, mesh=mesh).state if state is None else state
        found[name] = class_id_code(experiment, mesh, state)
    return found


def test_the_class_id_code_has_the_bits_of_the_classes_that_train(trained):
    assert {found.bits for found in trained.values()} == {1}
    assert all(found.distinct_codes <= 2 for found in trained.values())


def test_the_class_id_code_knows_the_seen_classes_alone(trained):
    assert trained["seen"].value > 0.95
    assert trained["unseen"].value < 0.8
    assert trained["unseen"].value > trained["unseen"].numbers[0].chance - 0.05


def test_pixels_that_would_take_too_much_memory_are_left_out(capsys, monkeypatch):
    mesh = parallel.data_mesh(jax.devices()[:1])
    experiment = toy.experiment(toy.triplet_quantization(), num_epochs=0)
    splits, trained = experiment.splits, train.initialize(experiment, mesh)
    rows = len(splits.train) + len(splits.query) + len(splits.database)
    names = []
    for spare in (0, -1):
        monkeypatch.setattr(experiments.baselines, "_MOST_BYTES", 4 * 64 * rows + spare)
        names.append(list(baselines(experiment, mesh, trained)))
    assert names[0] == ["pq on pixels", *names[1]]
    assert names[1] == ["untrained network", "class-id code"]
    assert "pq on pixels: left out, they are 0.0 GiB, more than" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "bits", "distance"),
    [(toy.dqn, 8, "aqd"), (toy.triplet_quantization, 8, "hamming")],
    ids=["codebooks", "signs"],
)
def test_the_untrained_network_gets_the_codes_of_its_method(make, bits, distance):
    mesh = parallel.data_mesh(jax.devices()[:1])
    experiment = toy.experiment(make(), num_epochs=0)
    trained = train.fit(experiment, mesh=mesh).state
    found = {name: measure() for name, measure in baselines(experiment, mesh, trained).items()}
    assert [each.name for each in found.values()] == list(found)
    assert list(found) == ["pq on pixels", "untrained network", "class-id code"]
    untrained = found["untrained network"]
    assert (untrained.bits, untrained.distance) == (bits, distance)
    assert untrained.numbers[0].chance < untrained.value < 0.7
    assert found["pq on pixels"].bits == bits
