"""Rows of the contract test for `quantjax.quantizers.rotation`.

Columns are open up to their sign, fits up to the optimum that they end in.
"""

import jax
import numpy as np

from quantjax.quantizers import rotation
from tests.quantizers import oracles
from tests.quantizers.case import NEEDS_KEY, ROW_MASK, SIZES, WIDTH, Case, K, M, X


def _covariance(x, mask):
    rows = x[mask] - np.mean(x[mask], axis=0)
    return rows.T @ rows / len(rows)


def _pointing_up(results, *_):
    (turn,) = results
    largest = np.take_along_axis(turn, np.argmax(np.abs(turn), axis=0)[None], axis=0)
    return (turn * np.sign(largest),)


def _opq_parametric(x, mask):
    variances, axes = np.linalg.eigh(_covariance(x, mask))
    order, places = np.argsort(-variances), [[] for _ in range(M)]
    for axis in order:
        products = [
            np.prod(variances[taken] / min(variances)) if len(taken) < WIDTH else np.inf
            for taken in places
        ]
        places[int(np.argmin(products))].append(axis)
    return _pointing_up([axes[:, np.concatenate(places)]])[0]


def _nearest_orthogonal(matrix):
    u, _, vt = np.linalg.svd(matrix)
    return u @ vt


def _opq_at_rest(results, seed, x, mask):
    """R^T R; R^T times the best R for the reconstructions; 1 where codewords are means."""
    codebooks, turn = results
    rotated = x[mask] @ turn
    numbers = oracles.encode(codebooks, rotated)
    quantized = oracles.decode(codebooks, numbers)
    return (
        turn.T @ turn,
        turn.T @ _nearest_orthogonal(x[mask].T @ quantized),
        1
        - np.linalg.norm(oracles.lloyd_step(codebooks, rotated, numbers) - codebooks)
        / np.linalg.norm(codebooks),
    )


def _itq_at_rest(results, seed, x, mask):
    """Mean; P^T P; the space that P spans; the turn that would lower the error further."""
    mean, projection = results
    projected = (x - mean)[mask] @ projection
    return (
        mean,
        projection.T @ projection,
        projection @ projection.T,
        _nearest_orthogonal(projected.T @ oracles.signs(projected)),
    )


def _itq_due(seed, x, mask):
    axes = np.linalg.eigh(_covariance(x, mask))[1][:, -SIZES["B"] :]
    return np.mean(x[mask], axis=0), np.eye(SIZES["B"]), axes @ axes.T, np.eye(SIZES["B"])


CASES = (
    Case(
        "rotation.random_rotation",
        lambda seed: rotation.random_rotation(jax.random.key(seed), M * WIDTH),
        oracle=lambda seed: np.eye(M * WIDTH),
        arguments=(NEEDS_KEY,),
        result="DD",
        unique=lambda results, seed: (results[0].T @ results[0],),
    ),
    Case(
        "rotation.opq_parametric",
        lambda x, mask: rotation.opq_parametric(x, num_codebooks=M, mask=mask),
        oracle=_opq_parametric,
        arguments=(X, ROW_MASK),
        result="DD",
        unique=_pointing_up,
        open_at_ties=True,
        tolerance=1e-4,
        far_tolerance=1e-4,
    ),
    Case(
        "rotation.opq",
        lambda seed, x, mask: rotation.opq(
            jax.random.key(seed), x, num_codebooks=M, num_codewords=K, num_iterations=60, mask=mask
        ),
        oracle=lambda seed, x, mask: (np.eye(M * WIDTH), np.eye(M * WIDTH), 1.0),
        arguments=(NEEDS_KEY, X, ROW_MASK),
        gathers="f32",
        result="MKd,DD",
        dtypes="float32,float32",
        unique=_opq_at_rest,
        open_at_ties=True,
        tolerance=1e-3,
        far_tolerance=1e-3,
    ),
    Case(
        "rotation.itq",
        lambda seed, x, mask: rotation.itq(
            jax.random.key(seed), x, num_bits=SIZES["B"], num_iterations=50, mask=mask
        ),
        oracle=_itq_due,
        arguments=(NEEDS_KEY, X, ROW_MASK),
        result="D,DB",
        dtypes="float32,float32",
        unique=_itq_at_rest,
        open_at_ties=True,
        tolerance=1e-4,
        far_tolerance=1e-4,
    ),
)
