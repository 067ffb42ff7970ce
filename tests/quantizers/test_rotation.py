import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.quantizers import product, rotation
from tests.quantizers import devices

D, M, K, ROWS = 8, 4, 8, 256
_rng = np.random.default_rng(1)
MIXING = np.linalg.qr(_rng.normal(size=(D, D)))[0]
SCALES = np.array([8, 5, 3, 2, 1, 0.5, 0.3, 0.2])
X = jnp.asarray(_rng.normal(size=(ROWS, D)) * SCALES @ MIXING + 1.0, jnp.float32)
PARAMETRIC = jax.jit(rotation.opq_parametric, static_argnames="num_codebooks")
OPQ = functools.partial(rotation.opq, num_codebooks=M, num_codewords=K)
# Always with a mask, so that runs with a mask and without share programs.
ALL = np.ones(ROWS, bool)
opq = functools.partial(jax.jit(OPQ), mask=ALL)
itq = jax.jit(rotation.itq, static_argnames="num_bits")


def assert_orthonormal(columns):
    product = np.float64(columns).T @ np.float64(columns)
    np.testing.assert_allclose(product, np.eye(columns.shape[1]), atol=2e-6)


def distortion(x, codebooks, turn):
    rotated = np.float64(x) @ np.float64(turn)
    assignments = product.encode(codebooks, jnp.asarray(rotated, jnp.float32))
    gaps = rotated - np.float64(product.decode(codebooks, assignments))
    return np.mean(np.sum(gaps**2, axis=1))


def test_random_rotations_are_orthogonal_and_spread_evenly():
    draw = jax.vmap(lambda key: rotation.random_rotation(key, 3))
    many = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))
    for each in many[:5]:
        assert_orthonormal(each)
    # Of a matrix drawn evenly every entry has mean 0 and variance 1 / D; QR alone has the signs.
    np.testing.assert_allclose(many.mean(axis=0), np.zeros((3, 3)), atol=0.05)
    np.testing.assert_allclose((many**2).mean(axis=0), np.full((3, 3), 1 / 3), atol=0.03)
    assert {*np.sign(np.linalg.det(many))} == {-1.0, 1.0}


def uncorrelated(variances):
    """Rows of the 16 sign patterns: their covariance is diagonal to the bit."""
    signs = np.array(list(itertools.product([-1, 1], repeat=4)))
    return signs * np.sqrt(variances)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_parametric_opq_deals_axes_out_by_the_product_of_their_variances(scale):
    # 8 to the first, 4 to the second, 2 to the second (4 < 8), 1 to the first: 8 and 8.
    x = jnp.asarray(uncorrelated([1.0, 4.0, 8.0, 2.0]) * np.sqrt(scale) + 3, jnp.float32)
    got = np.abs(PARAMETRIC(x, num_codebooks=2))
    due = np.zeros((4, 4))
    due[[2, 0, 1, 3], [0, 1, 2, 3]] = 1
    np.testing.assert_allclose(got, due, atol=1e-3)


def test_parametric_opq_leaves_axes_uncorrelated_and_subspaces_balanced():
    turn = PARAMETRIC(X, num_codebooks=M)
    assert turn.dtype == jnp.float32
    assert_orthonormal(turn)
    covariance = np.cov((np.float64(X) @ np.float64(turn)).T)
    variances = np.diagonal(covariance)
    assert np.max(np.abs(covariance - np.diag(variances))) < 1e-4 * np.max(variances)
    products = np.prod(variances.reshape(M, -1), axis=1)
    assert np.max(products) / np.min(products) < 4
    assert np.max(products[0]) / np.prod(np.sort(variances)[:2]) > 10  # where order would lead


def test_rows_of_no_variance_keep_the_rotation_finite():
    for x in (jnp.zeros((ROWS, D)), jnp.full((ROWS, D), 1e4), jnp.eye(ROWS, D) * 1e4):
        turn = PARAMETRIC(x, num_codebooks=M)
        assert_orthonormal(turn)
        bits = itq(jax.random.key(0), x, num_bits=3, num_iterations=2)
        assert_orthonormal(bits.projection)
        fit = opq(jax.random.key(0), x, num_iterations=2)
        assert_orthonormal(fit.rotation)
        assert jnp.all(jnp.isfinite(fit.codebooks))


@pytest.mark.parametrize("num_iterations", [0, 3])
def test_opq_made_by_hand(num_iterations):
    # +-2 of (1, 1) and +-1 of (1, -1), each times the root of 2 along its axis: two bits say all.
    x = jnp.array([[3.0, 1.0], [1.0, 3.0], [-1.0, -3.0], [-3.0, -1.0]])
    fit = rotation.opq(
        jax.random.key(0), x, num_codebooks=2, num_codewords=2, num_iterations=num_iterations
    )
    np.testing.assert_allclose(np.abs(fit.rotation), np.full((2, 2), 0.5**0.5), rtol=1e-5)
    np.testing.assert_array_equal(np.prod(np.sign(fit.rotation), axis=0), [1, -1])
    due = 2**0.5 * np.array([[-2, 2], [-1, 1]])
    np.testing.assert_allclose(np.sort(fit.codebooks[..., 0]), due, rtol=1e-5)


def test_no_turn_of_opq_raises_the_distortion():
    along = [distortion(X, *opq(jax.random.key(0), X, num_iterations=n)) for n in (0, 1, 2, 5, 20)]
    assert all(after < before * (1 + 1e-6) for before, after in itertools.pairwise(along))
    assert along[-1] < 0.98 * along[0]  # Gaussian rows: the start is near the best


def test_opq_starts_from_the_parametric_rotation():
    fit = opq(jax.random.key(3), X, num_iterations=0)
    turn = PARAMETRIC(X, num_codebooks=M)
    np.testing.assert_array_equal(fit.rotation, turn)
    due = product.fit_codebooks(jax.random.key(3), X @ turn, num_codebooks=M, num_codewords=K)
    np.testing.assert_allclose(fit.codebooks, due, rtol=1e-3, atol=1e-3)


def test_a_turn_of_opq_is_the_procrustes_rotation_and_a_lloyd_iteration():
    before, after = (opq(jax.random.key(0), X, num_iterations=n) for n in (3, 4))
    rotated = np.float64(X) @ np.float64(before.rotation)
    codes = product.encode(before.codebooks, jnp.asarray(rotated, jnp.float32))
    quantized = np.float64(product.decode(before.codebooks, codes))
    u, _, vt = np.linalg.svd(np.float64(X).T @ quantized)
    np.testing.assert_allclose(after.rotation, u @ vt, atol=1e-4)
    due = product.refine_codebooks(before.codebooks, X @ after.rotation, 1)
    np.testing.assert_allclose(after.codebooks, due, rtol=1e-4, atol=1e-4)


def test_opq_beats_product_quantization_on_correlated_rows():
    plain = product.fit_codebooks(jax.random.key(0), X, num_codebooks=M, num_codewords=K)
    fits = [opq(jax.random.key(0), X, num_iterations=n) for n in (0, 20)]
    for fit in fits:
        assert_orthonormal(fit.rotation)
        assert distortion(X, *fit) < 0.7 * distortion(X, plain, np.eye(D))


def itq_error(x, fit):
    projected = (np.float64(x) - np.float64(fit.mean)) @ np.float64(fit.projection)
    return np.mean(np.sum((projected - np.where(projected >= 0, 1, -1)) ** 2, axis=1))


def test_itq_made_by_hand():
    # The corners of a square, on end: an eighth of a turn makes them (+-1, +-1).
    x = 2**0.5 * jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]) + jnp.array([5, -1])
    fit = rotation.itq(jax.random.key(0), x, num_bits=2)
    np.testing.assert_allclose(fit.mean, [5, -1], rtol=1e-6)
    np.testing.assert_allclose(np.abs((x - fit.mean) @ fit.projection), np.ones((4, 2)), atol=1e-5)
    np.testing.assert_allclose(np.abs(fit.projection), np.full((2, 2), 0.5**0.5), atol=1e-5)
    # Variances 2 and 1/2: one bit follows the first axis.
    x = jnp.array([[7.0, -1.0], [3.0, -1.0], [5.0, 0.0], [5.0, -2.0]])
    fit = rotation.itq(jax.random.key(0), x, num_bits=1)
    np.testing.assert_allclose(np.abs(fit.projection), [[1], [0]], atol=1e-5)


@pytest.mark.parametrize("num_bits", [3, 8])
def test_no_turn_of_itq_raises_the_error(num_bits):
    x = X / 4
    fits = [
        itq(jax.random.key(0), x, num_bits=num_bits, num_iterations=n) for n in (0, 1, 2, 5, 50)
    ]
    along = [itq_error(x, fit) for fit in fits]
    assert all(after < before + 1e-5 for before, after in itertools.pairwise(along))
    assert along[-1] < 0.98 * along[0]
    for fit in fits:
        assert fit.projection.shape == (D, num_bits)
        assert_orthonormal(fit.projection)


def test_a_turn_of_itq_is_the_papers_svd():
    before, after = (itq(jax.random.key(0), X, num_bits=5, num_iterations=n) for n in (4, 5))
    projected = (np.float64(X) - np.float64(X).mean(axis=0)) @ np.float64(before.projection)
    signs = np.where(projected >= 0, 1, -1)
    u, _, wt = np.linalg.svd(signs.T @ projected)  # B^T V = U S W^T, R = W U^T
    due = np.float64(before.projection) @ (wt.T @ u.T)
    np.testing.assert_allclose(after.projection, due, atol=1e-4)
    wrong = np.float64(before.projection) @ (wt @ u.T)  # W for W^T, as in public code
    assert np.max(np.abs(after.projection - wrong)) > 0.1


def test_itq_spans_the_first_principal_axes():
    fit = itq(jax.random.key(0), X, num_bits=3)
    centred = np.float64(X) - np.float64(X).mean(axis=0)
    axes = np.linalg.svd(centred)[2][:3].T
    np.testing.assert_allclose(fit.mean, np.float64(X).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        np.float64(fit.projection) @ np.float64(fit.projection).T, axes @ axes.T, atol=1e-4
    )


def test_itq_finds_the_corners_of_a_turned_cube():
    rng = np.random.default_rng(2)
    corners = np.where(rng.normal(size=(ROWS, 4)) >= 0, 1.0, -1.0)
    turned = corners @ np.linalg.qr(rng.normal(size=(4, 4)))[0] + 0.05 * rng.normal(size=(ROWS, 4))
    errors = []
    for seed in range(4):
        fit = itq(jax.random.key(seed), jnp.asarray(turned, jnp.float32), num_bits=4)
        errors.append(itq_error(turned, fit))
    assert min(errors) < 0.05  # 4 * 0.05^2 and little more; from some starts it ends elsewhere


def test_itq_takes_50_turns_unless_told_otherwise_and_draws_its_start():
    due = itq(jax.random.key(0), X, num_bits=5, num_iterations=50)
    np.testing.assert_array_equal(itq(jax.random.key(0), X, num_bits=5).projection, due.projection)
    starts = [itq(jax.random.key(s), X, num_bits=5, num_iterations=0).projection for s in (0, 1)]
    assert np.max(np.abs(starts[0] - starts[1])) > 0.1


FITS = {
    "parametric": lambda x, mask: PARAMETRIC(x, num_codebooks=M, mask=mask),
    "opq": lambda x, mask: opq(jax.random.key(0), x, num_iterations=3, mask=mask),
    "itq": lambda x, mask: itq(jax.random.key(0), x, num_bits=5, num_iterations=5, mask=mask),
}
every_fit = pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
PADDED_MASK = np.arange(ROWS) % 4 != 0
PADDED = np.where(PADDED_MASK[:, None], X, np.float32(30))


def assert_fits_close(got, due):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(due), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


# All three have rows in test_contract.py, too, whose oracles see the rows that count alone.
@pytest.mark.by_default("itq")
@every_fit
def test_mask_drops_rows(fit):
    due = fit(np.asarray(X)[PADDED_MASK], ALL[: sum(PADDED_MASK)])
    assert_fits_close(fit(PADDED, PADDED_MASK), due)


@every_fit
def test_rows_over_eight_devices_are_fitted_as_on_one(fit):
    rows = devices.by_rows(PADDED, PADDED_MASK)
    assert_fits_close(fit(*rows), fit(PADDED, PADDED_MASK))


@pytest.mark.by_default("parametric", "itq")
@every_fit
def test_bfloat16_rows_are_worked_on_in_float32(fit):
    low = X.astype(jnp.bfloat16)
    leaves = [jax.tree.leaves(fit(x, ALL)) for x in (low, low.astype(jnp.float32))]
    for got, due in zip(*leaves, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, due, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: rotation.opq_parametric(X, num_codebooks=3),
            "num_codebooks must divide .* got 3 codebooks for D = 8",
        ),
        (
            lambda: rotation.opq_parametric(X, num_codebooks=2, mask=jnp.ones(3, bool)),
            r"mask must have shape \(256,\), got \(3,\)",
        ),
        (
            lambda: OPQ(jax.random.key(0), X, num_codewords=257, num_iterations=1),
            "num_codewords must be between 2 and 256, got 257",
        ),
        (
            lambda: OPQ(jax.random.key(0), X[:5], num_iterations=1),
            "at least as many rows as codewords, got 5 rows for K = 8",
        ),
        (
            lambda: rotation.itq(jax.random.key(0), X, num_bits=9),
            "num_bits must be between 1 and D = 8, got 9",
        ),
        (lambda: rotation.itq(jax.random.key(0), X[0], num_bits=2), r"x must have shape \[N, D\]"),
    ],
)
def test_bad_input_is_refused_with_one_clear_line(call, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        call()
