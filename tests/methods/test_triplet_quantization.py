"""The sum of the two losses against a loop, and what is not the paper's to choose."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import losses, methods
from quantjax.losses import selection
from quantjax.methods.base import Context
from quantjax.methods.triplet_quantization import on_rows, on_triplets
from quantjax.models.base import Network
from quantjax.quantizers import BinaryCodec

BITS = 6
CONTEXT = Context(
    key=jax.random.key(0),
    step=jnp.int32(0),
    epoch=jnp.int32(0),
    gather=lambda x: x,
    mean=lambda x: x,
)

# The image is the output before tanh, so that a test can say what the embedding is.
PLAIN = Network(
    init=lambda key, example: ({"shift": jnp.zeros(BITS)}, {}),
    apply=lambda params, state, x, *, train, key=None: (x + params["shift"], state),
)


def a_batch(rng, class_ids):
    return {
        "image": jnp.asarray(rng.normal(size=(len(class_ids), BITS)), jnp.float32),
        "label": jax.nn.one_hot(jnp.asarray(class_ids), 5),
        "index": jnp.arange(len(class_ids)),
    }


def loss_of(method, batch):
    params, state = method.init(jax.random.key(0), batch, 1024)

    def loss(params):
        return method.phases[0].loss(params, state, batch, CONTEXT)

    gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (_, metrics)), gradient = gradients(params)
    return float(value), metrics, gradient["net"]["shift"]


def chosen_in_a_loop(f, class_ids, margin):
    """Anchor, positive and the nearest negative beyond it, inside the margin, with the hinge."""
    unit = f / np.linalg.norm(f, axis=1, keepdims=True)
    distances = np.square(unit[:, None] - unit).sum(axis=-1)
    for a in range(len(f)):
        for p in range(len(f)):
            if a == p or class_ids[a] != class_ids[p]:
                continue
            inside = [
                n
                for n in range(len(f))
                if class_ids[n] != class_ids[a]
                and distances[a, p] < distances[a, n] < distances[a, p] + margin
            ]
            if inside:
                n = min(inside, key=lambda n: distances[a, n])
                yield a, p, n, margin + distances[a, p] - distances[a, n]


def signs(x):
    return np.where(x >= 0, 1.0, -1.0)


@pytest.mark.parametrize("margin", [0.4, 1.1])
@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_the_loss_is_that_of_a_loop(margin, weight, rng):
    class_ids = [0, 1, 0, 2, 1, 1, 2, 0, 3]
    batch = a_batch(rng, class_ids)
    method = methods.triplet_quantization(
        PLAIN, bits=BITS, margin=margin, quantization_weight=weight
    )
    f = np.tanh(np.float64(batch["image"]))
    b = signs(f)
    triplets = list(chosen_in_a_loop(f, class_ids, margin))
    of_codes = [
        max(0, margin / 4 + (np.sum(b[a] != b[p]) - np.sum(b[a] != b[n])) / BITS)
        for a, p, n, _ in triplets
    ]
    triplet = np.mean([hinge for *_, hinge in triplets])
    value, metrics, _ = loss_of(method, batch)
    assert 3 < len(triplets) < 20
    assert metrics["triplet_loss"] == pytest.approx(triplet, rel=1e-5)
    assert metrics["quantization_loss"] == pytest.approx(np.mean(of_codes), rel=1e-5)
    assert value == pytest.approx(triplet + weight * np.mean(of_codes), rel=1e-5)
    num_pairs = sum(class_ids.count(c) - 1 for c in class_ids)
    assert metrics["pairs_with_triplet"] == pytest.approx(len(triplets) / num_pairs)


@pytest.mark.parametrize(
    "loss",
    [
        functools.partial(losses.triplet_quantization, margin=0.3),
        functools.partial(losses.asymmetric_triplet_quantization, margin=0.3),
        losses.order_drop,
    ],
    ids=["straight_through", "asymmetric", "order_drop"],
)
def test_each_reading_is_the_mean_over_the_chosen_triplets(loss, rng):
    class_ids = [0, 1, 0, 2, 1, 1, 2, 0]
    batch = a_batch(rng, class_ids)
    method = methods.triplet_quantization(
        PLAIN, bits=BITS, margin=0.8, quantization=on_triplets(loss)
    )
    f = np.tanh(np.asarray(batch["image"]))
    a, p, n, _ = zip(*chosen_in_a_loop(f, class_ids, 0.8), strict=True)
    expected = float(np.mean(loss(f[list(a)], f[list(p)], f[list(n)])))
    value, metrics, gradient = loss_of(method, batch)
    assert metrics["quantization_loss"] == pytest.approx(expected, rel=1e-5)
    without = methods.triplet_quantization(PLAIN, bits=BITS, margin=0.8, quantization_weight=0.0)
    other_value, _, other_gradient = loss_of(without, batch)
    assert value != other_value
    assert np.max(np.abs(gradient - other_gradient)) > 1e-3


def test_a_loss_on_rows_counts_every_row(rng):
    batch = a_batch(rng, [0, 1, 0, 1])
    method = methods.triplet_quantization(PLAIN, bits=BITS, quantization=on_rows(losses.sign_error))
    f = np.tanh(np.asarray(batch["image"]))
    expected = np.mean(np.square(f - signs(f)).sum(axis=1))
    assert loss_of(method, batch)[1]["quantization_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("class_ids", [[1, 1, 1, 1], [0, 1, 2, 3]], ids=["one", "each"])
def test_without_negatives_or_positives_nothing_is_learned(class_ids, rng):
    method = methods.triplet_quantization(PLAIN, bits=BITS)
    value, metrics, gradient = loss_of(method, a_batch(rng, class_ids))
    assert value == 0
    assert metrics["pairs_with_triplet"] == 0
    np.testing.assert_array_equal(gradient, np.zeros(BITS))


def test_triplets_are_those_of_select(rng):
    seen = []

    def select(distances, positive, negative, *, margin):
        seen.append(margin)
        return selection.semi_hard(distances, positive, ~positive & ~negative, margin=margin)

    method = methods.triplet_quantization(PLAIN, bits=BITS, margin=0.7, select=select)
    _, metrics, _ = loss_of(method, a_batch(rng, [0, 0, 1, 1]))
    # Anchors as their own negatives are nearer than any positive.
    assert metrics["pairs_with_triplet"] == 0
    assert set(seen) == {0.7}


def test_the_codec_takes_signs_of_what_embed_returns(rng):
    method = methods.triplet_quantization(PLAIN, bits=BITS)
    batch = a_batch(rng, [0, 1, 2])
    params, state = method.init(jax.random.key(0), batch, 1024)
    codec = method.codec(params, state)
    assert isinstance(codec, BinaryCodec)
    assert codec.bits == BITS
    for side in (method.embed, method.embed_query):
        x = side(params, state, batch)
        np.testing.assert_allclose(x, np.tanh(batch["image"]), rtol=1e-6)
        np.testing.assert_array_equal(codec.decode(codec.encode(x)), signs(batch["image"]))


def test_the_activation_makes_the_embedding(rng):
    batch = a_batch(rng, [0, 1, 0, 1])
    wide, flat = (
        methods.triplet_quantization(PLAIN, bits=BITS, activation=activation)
        for activation in (lambda x: x, jnp.tanh)
    )
    params, state = wide.init(jax.random.key(0), batch, 1024)
    np.testing.assert_array_equal(wide.embed(params, state, batch), batch["image"])
    assert loss_of(wide, batch)[0] != loss_of(flat, batch)[0]


def test_what_does_not_fit_the_bits_is_refused(rng):
    with pytest.raises(ValueError, match="bits must be 1 or more, got 0"):
        methods.triplet_quantization(PLAIN, bits=0)
    method = methods.triplet_quantization(PLAIN, bits=BITS + 1)
    with pytest.raises(ValueError, match=r"must return \[B, 7\], got \(2, 6\)"):
        loss_of(method, a_batch(rng, [0, 1]))
