"""What a config of the triplet quantization experiment may say, and what it then means."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import triplet_quantization
from quantjax import losses
from quantjax.losses.selection import Triplets


def config_with(**changes):
    config = triplet_quantization.get_config("mnist")
    config.update(changes)
    return config


def test_batches_hold_images_of_each_class():
    config = config_with(batch_size=40, images_per_class=10)
    built = triplet_quantization.build(config, "mnist")
    rows = built.splits.train[built.sampler(0, 0)]
    class_ids = built.splits.source.labels[rows].argmax(axis=-1)
    assert rows.shape == (75, 40)
    for batch in class_ids:
        assert sorted(np.unique(batch, return_counts=True)[1]) == [10] * 4


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("straight_through", lambda *rows: losses.triplet_quantization(*rows, margin=0.2)),
        ("asymmetric", lambda *rows: losses.asymmetric_triplet_quantization(*rows, margin=0.2)),
        ("order_drop", losses.order_drop),
        ("sign_error", lambda *rows: losses.sign_error(rows[0])),
    ],
)
def test_a_word_is_a_loss(word, expected, rng):
    x = jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)
    places = jnp.arange(4)
    chosen = Triplets(places, (places + 1) % 4, (places + 2) % 4, places < 3)
    config = config_with(quantization=word, margin=0.8)
    values, mask = triplet_quantization.quantization(config)(x, x, chosen)
    rows = x, x[chosen.positives], x[chosen.negatives]
    np.testing.assert_allclose(values, expected(*rows), rtol=1e-6)
    assert mask.all() == (word == "sign_error")


def test_a_word_is_an_activation():
    x = jnp.array([-2.0, 3.0])
    np.testing.assert_array_equal(triplet_quantization.activation(config_with())(x), x)
    found = triplet_quantization.activation(config_with(activation="tanh"))(x)
    np.testing.assert_array_equal(found, jnp.tanh(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization": "triplets"}, "must be one of straight_through, .*, got 'triplets'"),
        ({"activation": "relu"}, "activation must be one of linear, tanh, got 'relu'"),
        ({"images_per_class": 7}, "a multiple of images_per_class, got 64 and 7"),
        ({"images_per_class": 64}, "would have no negatives"),
        ({"images_per_class": 4}, "at most the 10 classes of the training rows, got 16"),
        ({"batch_size": 1200, "images_per_class": 400}, "300 training images of class 0, got 400"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        triplet_quantization.build(config_with(**changes), "mnist")
