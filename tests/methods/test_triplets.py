"""Random negatives of a batch, and the losses of the methods that take them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import errors, methods
from quantjax.methods import triplets
from quantjax.quantizers import additive
from tests.methods import oracles

BATCH = oracles.batch(num_rows=9, width=4)
X, CLASS = np.float64(BATCH["feature"]), np.argmax(BATCH["label"], axis=1)


@jax.jit
def _drawn(x, batch, margin):
    return triplets.random_negatives(x, batch, oracles.CONTEXT, margin=margin)


def drawn(x, batch, margin):
    """Triplets as numbers of rows."""
    chosen = _drawn(np.float32(x), batch, margin)
    rows = np.stack(chosen[:3], axis=1)[np.asarray(chosen.mask)]
    return [tuple(int(number) for number in row) for row in rows]


def test_every_anchor_and_positive_get_a_negative():
    found = drawn(X, BATCH, math.inf)
    due = {(a, p) for a in range(9) for p in range(9) if a != p and CLASS[a] == CLASS[p]}
    assert {(a, p) for a, p, _ in found} == due
    assert len(found) == len(due)
    assert all(CLASS[a] != CLASS[n] for a, _, n in found)


def test_only_negatives_that_violate_the_margin_are_drawn():
    def far(a, n):
        return np.sum((X[a] - X[n]) ** 2)

    for margin in (0.0, 2.0):
        found = {(a, p): n for a, p, n in drawn(X, BATCH, margin)}
        for a, p, _ in drawn(X, BATCH, math.inf):
            others = [
                n for n in range(9) if CLASS[n] != CLASS[a] and far(a, n) < far(a, p) + margin
            ]
            assert found.get((a, p)) in (others or [None])


def test_a_device_draws_for_its_rows_what_one_device_draws():
    whole = {4: BATCH["feature"], 3: BATCH["label"], 1: BATCH["index"]}
    context = oracles.CONTEXT._replace(gather=lambda x: whole[x.size // len(x)])
    here = {name: column[5:] for name, column in BATCH.items()}
    chosen = triplets.random_negatives(here["feature"], here, context, margin=math.inf)
    rows = np.stack(chosen[:3], axis=1)[np.asarray(chosen.mask)] + [5, 0, 0]
    due = [triplet for triplet in drawn(X, BATCH, math.inf) if triplet[0] >= 5]
    np.testing.assert_array_equal(rows, due)


@pytest.mark.parametrize("sharpness", [5.0, 1.0])
def test_the_loss_of_pqnet_is_its_equation(sharpness):
    method = methods.pqnet(
        oracles.PLAIN, dim=4, num_codebooks=2, num_codewords=4, sharpness=sharpness,
        inputs=methods.features,
    )  # fmt: skip
    params, state = oracles.started(method, BATCH)
    params = {**params, "loss": 3 * params["loss"]}
    value, gradient = oracles.loss(method, params, state, BATCH)
    x = oracles.unit(X.reshape(9, 2, 2)).reshape(9, 4)
    codebooks = oracles.unit(np.float64(params["loss"]))
    soft = []
    for book, part in zip(codebooks, np.split(x, 2, axis=1), strict=True):
        powers = np.exp(2 * sharpness * part @ book.T)
        soft.append(powers / powers.sum(axis=1, keepdims=True) @ book)
    s = np.concatenate(soft, axis=1)
    each = [1 / (1 + np.exp(x[a] @ s[p] - x[a] @ s[n])) for a, p, n in drawn(x, BATCH, math.inf)]
    np.testing.assert_allclose(value, np.mean(each), rtol=1e-5)
    assert np.all(np.any(gradient["loss"], axis=2))
    np.testing.assert_allclose(method.embed(params, state, BATCH), x, atol=1e-6)
    codec = method.codec(params, state)
    np.testing.assert_allclose(codec.codebooks, codebooks, atol=1e-6)
    nearest = [
        np.argmax(part @ book.T, axis=1)
        for book, part in zip(codebooks, np.split(x, 2, 1), strict=True)
    ]
    np.testing.assert_array_equal(
        codec.assignments(codec.encode(jnp.float32(x))), np.stack(nearest, 1)
    )


def dtq(**options):
    sizes = {"dim": 4, "num_codebooks": 2, "num_codewords": 4, "inputs": methods.features}
    return methods.dtq(oracles.PLAIN, **{**sizes, **options})


def refitted(method, params, state):
    """State after a refresh by the rows of the batch and 3 rows of padding."""
    z = np.zeros((12, 4), np.float32)
    z[BATCH["index"]] = np.tanh(BATCH["feature"])
    z[9:] = np.nan
    mask = jnp.arange(12) < 9
    update = jax.jit(method.refresh.update)
    return update(jax.random.key(1), params, state, z, mask)[1], z[:9]


def mean_error(state, z):
    gap = z - np.float64(additive.decode(state["loss"]["codebooks"], state["loss"]["codes"][:9]))
    return np.mean(np.sum(gap**2, axis=1))


@pytest.mark.parametrize(("margin", "weight"), [(1.0, 0.1), (3.0, 0.0)])
def test_the_loss_of_dtq_is_its_equation(margin, weight):
    method = dtq(margin=margin, quantization_weight=weight)
    params, state = oracles.started(method, BATCH, num_rows=12)
    state, _ = refitted(method, params, state)
    value, _ = oracles.loss(method, params, state, BATCH)
    z = np.tanh(X)
    each = [
        margin + np.sum((z[a] - z[p]) ** 2) - np.sum((z[a] - z[n]) ** 2)
        for a, p, n in drawn(z, BATCH, margin)
    ]
    codes = np.asarray(state["loss"]["codes"])[BATCH["index"]]
    books = np.float64(state["loss"]["codebooks"])
    error = z - books[0][codes[:, 0]] - books[1][codes[:, 1]]
    due = np.mean(each) + weight * np.mean(np.sum(error**2, axis=1))
    np.testing.assert_allclose(value, due, rtol=1e-5)


def test_refits_of_dtq_lower_the_error_from_where_they_stand():
    method = dtq(quantization_weight=0.1)
    params, state = oracles.started(method, BATCH, num_rows=12)
    with pytest.raises(errors.InputError, match="do not exist before epoch 0 or the end"):
        method.codec(params, state)
    first, z = refitted(method, params, state)
    again, _ = refitted(method, params, first)
    assert mean_error(again, z) <= mean_error(first, z) < np.mean(np.sum(z**2, axis=1))
    codec = method.codec(params, again)
    np.testing.assert_array_equal(
        codec.assignments(codec.encode(jnp.asarray(z))), again["loss"]["codes"][:9]
    )
    assert [epoch for epoch in range(3) if method.refresh.due(epoch)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: dtq(dim=5), "dim must be a multiple of num_codebooks"),
        (lambda: dtq(metric="hamming"), "metric must be one of l2, ip, cosine"),
        (
            lambda: methods.pqnet(oracles.PLAIN, dim=4, num_codebooks=2, num_codewords=3),
            "power of two",
        ),
        (
            lambda: methods.pqnet(oracles.PLAIN, dim=4, num_codebooks=2, sharpness=-1.0),
            "sharpness must be above 0",
        ),
    ],
)
def test_arguments_that_cannot_be_are_told_in_a_line(build, message):
    with pytest.raises(errors.InputError, match=message) as told:
        build()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("build", [methods.pqnet, methods.dtq])
def test_a_network_of_another_width_is_told_before_training(build):
    method = build(oracles.PLAIN, dim=8, num_codebooks=2, num_codewords=4, inputs=methods.features)
    with pytest.raises(errors.InputError, match=r"must return \[B, 8\], got \(9, 4\)"):
        methods.check(method, BATCH, 1024, 1)
