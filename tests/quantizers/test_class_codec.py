"""The class-id control: what it stores, and that code against code is equality of classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import evaluate, index
from quantjax.quantizers import ClassCodec
from quantjax.run import parallel
from tests.quantizers import oracles

SIZES = {2: (1, 1), 3: (2, 1), 5: (3, 1), 16: (4, 1), 17: (5, 1), 256: (8, 1), 257: (9, 2)}


def scores_of(num_rows, num_classes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(scale=3, size=(num_rows, num_classes)).astype(np.float32)


def surprise(scores):
    """-log p of every class, in float64."""
    p = np.exp(np.float64(scores) - np.float64(scores).max(axis=1, keepdims=True))
    return -np.log(p / p.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("num_classes", SIZES)
def test_the_largest_score_is_packed_lowest_bit_first(num_classes):
    codec, x = ClassCodec(num_classes), scores_of(40, num_classes)
    x[-1, -1] = 99
    assert (codec.bits, codec.num_bytes) == SIZES[num_classes]
    assert codec.metric == "class"
    codes, due = codec.encode(x), x.argmax(axis=1)
    assert (codes.dtype, codes.shape) == (jnp.uint8, (40, codec.num_bytes))
    np.testing.assert_array_equal(
        codes, [oracles.packed_as_text([number], codec.bits) for number in due]
    )
    np.testing.assert_array_equal(codec.class_ids(codes), due)
    np.testing.assert_array_equal(codec.decode(codes), 128 * np.eye(num_classes)[due])
    np.testing.assert_array_equal(codec.encode(codec.decode(codes)), codes)


def test_codes_and_distances_made_by_hand():
    # Probabilities 1/8, 3/8, 4/8.
    codec, x = ClassCodec(3), jnp.log(jnp.array([[1.0, 3.0, 4.0], [5.0, 1.0, 4.0]]))
    codes = codec.encode(x)
    np.testing.assert_array_equal(codes, [[2], [0]])
    np.testing.assert_array_equal(codec.class_ids(codes), [2, 0])
    np.testing.assert_array_equal(codec.decode(codes), [[0, 0, 128], [128, 0, 0]])
    np.testing.assert_allclose(codec.distances(x[:1], codes), np.log([[2, 8]]), rtol=1e-5)


def test_the_first_of_equal_scores_counts():
    np.testing.assert_array_equal(
        ClassCodec(3).encode(jnp.array([[1.0, 2, 2], [0, 0, 0]])), [[1], [0]]
    )


@pytest.mark.parametrize("num_classes", SIZES)
def test_distances_are_minus_log_of_the_probability_of_the_class(num_classes):
    codec, queries = ClassCodec(num_classes), scores_of(7, num_classes)
    codes = codec.encode(scores_of(40, num_classes, seed=1))
    got = codec.distances(queries, codes)
    assert got.dtype == jnp.float32
    due = surprise(queries)[:, np.asarray(codec.class_ids(codes))]
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_classes", SIZES)
@pytest.mark.parametrize("compile_", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_code_against_code_is_equality_of_classes_to_the_bit(num_classes, compile_):
    codec = ClassCodec(num_classes)

    @compile_
    def symmetric(x):
        codes = codec.encode(x)
        return codec.distances(codec.decode(codes), codes)

    x = scores_of(40, num_classes)
    ids = x.argmax(axis=1)
    np.testing.assert_array_equal(symmetric(x), np.where(ids[:, None] == ids, 0.0, 128.0))


def test_scores_may_be_long_and_may_be_moved():
    codec = ClassCodec(5)
    x = 1e4 * scores_of(6, 5)
    codes = codec.encode(x)
    assert np.isfinite(codec.distances(x, codes)).all()
    np.testing.assert_allclose(
        codec.distances(scores_of(6, 5) + 50, codes),
        codec.distances(scores_of(6, 5), codes),
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_number_that_is_no_class_is_far_from_all():
    codec, codes = ClassCodec(5), jnp.array([[4], [5], [7]], jnp.uint8)
    np.testing.assert_array_equal(codec.decode(codes)[1:], np.zeros((2, 5)))
    np.testing.assert_array_equal(
        np.isinf(codec.distances(scores_of(2, 5), codes)), [[False, True, True]] * 2
    )


def test_it_goes_through_jit_as_a_pytree():
    @jax.jit
    def run(codec, x):
        codes = codec.encode(x)
        return codec, codes, codec.decode(codes), codec.distances(x, codes)

    codec, x = ClassCodec(10), scores_of(20, 10)
    back, codes, decoded, distances = run(codec, x)
    assert back == codec
    np.testing.assert_array_equal(codes, codec.encode(x))
    np.testing.assert_array_equal(decoded, codec.decode(codes))
    np.testing.assert_allclose(distances, codec.distances(x, codes), rtol=1e-6, atol=1e-6)
    # Arrays of numpy may be closed over.
    stored = np.asarray(codes)
    np.testing.assert_array_equal(jax.jit(lambda: codec.decode(stored))(), decoded)


def test_scores_in_bfloat16_are_measured_in_float32():
    codec, low = ClassCodec(10), jnp.asarray(scores_of(20, 10), jnp.bfloat16)
    full = low.astype(jnp.float32)
    codes = codec.encode(low)
    np.testing.assert_array_equal(codes, codec.encode(full))
    np.testing.assert_array_equal(codec.distances(low, codes), codec.distances(full, codes))


def test_what_does_not_fit_is_refused():
    codec, x = ClassCodec(10), scores_of(4, 9)
    codes = jnp.zeros((4, 1), jnp.uint8)
    with pytest.raises(ValueError, match=r"x must have shape \[N, 10\], got \(4, 9\)"):
        codec.encode(x)
    with pytest.raises(ValueError, match=r"queries must have shape \[N, 10\], got \(4, 9\)"):
        codec.distances(x, codes)
    for call in (codec.decode, codec.class_ids):
        with pytest.raises(ValueError, match=r"codes must be uint8 of shape \[N, 1\], got uint8"):
            call(jnp.zeros((4, 2), jnp.uint8))
    with pytest.raises(ValueError, match="num_classes must be 2 or more, got 1"):
        ClassCodec(1).encode(jnp.zeros((4, 1)))


@pytest.mark.parametrize("num_devices", [1, 8])
def test_evaluation_ranks_by_class(num_devices):
    codec, rng = ClassCodec(5), np.random.default_rng(3)
    queries, stored = scores_of(30, 5), scores_of(80, 5, seed=1)
    asked, held = rng.integers(0, 5, 30), rng.integers(0, 5, 80)
    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    codes = evaluate.encode(codec, stored)

    def measured(distance):
        return evaluate.evaluate(
            codec, queries, codes, asked, held, name="toy", distance=distance, mesh=mesh
        )

    # As if codes were embeddings of one number each: equal or not.
    equal = queries.argmax(axis=1)[:, None] == stored.argmax(axis=1)
    relevant = asked[:, None] == held
    due = []
    for same, right in zip(equal, relevant, strict=True):
        levels = [np.sum(same & ~right), np.sum(same & right), np.sum(~same & ~right)]
        due.append(expected_average_precision(levels, np.sum(~same & right)))
    symmetric, asymmetric = measured("sqd"), measured("aqd")
    np.testing.assert_allclose(symmetric.per_query[symmetric.metric], due, atol=1e-6)
    assert symmetric.bits == asymmetric.bits == 3
    assert symmetric.distinct_codes == 5
    assert symmetric.value != asymmetric.value


def expected_average_precision(levels, last):
    """By definition: of two groups of ties, (wrong, right) near and (wrong, right) far."""
    wrong, right, wrong_far = levels
    total, before, seen = 0.0, 0, 0
    for misses, hits in ((wrong, right), (wrong_far, last)):
        size = misses + hits
        share = (hits - 1) / (size - 1) if size > 1 else 0.0
        for place in range(1, size + 1):
            total += hits / size * (before + 1 + (place - 1) * share) / (seen + place)
        before, seen = before + hits, seen + size
    return total / before


def test_codes_of_two_bytes_come_back_from_disk(tmp_path):
    codec = ClassCodec(300)
    codes = np.asarray(codec.encode(scores_of(50, 300)))
    index.save(tmp_path, codec, codes)
    artefact = index.load(tmp_path)
    assert artefact.codec == codec
    np.testing.assert_array_equal(artefact.codes, codes)
    assert (artefact.manifest["codec"], artefact.manifest["bits"]) == ("class", 9)
