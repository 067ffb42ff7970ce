"""Rows of the contract test for residual quantization, in `quantjax.quantizers.additive`."""

import jax
import numpy as np

from quantjax.quantizers import additive
from tests.quantizers import oracles
from tests.quantizers.case import NEEDS_KEY, ROW_MASK, WIDE, Case, K, M, X


def _fit_residual(seed, x, mask, *, num_iterations, beam_width):
    return additive.fit_codebooks(
        jax.random.key(seed),
        x,
        num_codebooks=M,
        num_codewords=K,
        num_iterations=num_iterations,
        beam_width=beam_width,
        mask=mask,
    )


def _fit_residual_oracle(seed, x, mask, num_iterations, beam_width):
    books, beams = [], [[row] for row in x]
    for key in jax.random.split(jax.random.key(seed), M):
        rows, counts = np.concatenate(beams), np.repeat(mask, len(beams[0]))
        books.append(_means_by_axes(key, rows, counts, num_iterations))
        beams = [_extended(residuals, books[-1], beam_width) for residuals in beams]
    return np.stack(books)


def _means_by_axes(key, rows, mask, num_iterations):
    """k-means in 1, 2, ..., 6 principal axes, the ten numbers being 6 ** 0.1, 6 ** 0.2, ..."""
    mean = rows[mask].mean(axis=0)
    axes = np.linalg.svd(rows[mask] - mean)[2].T
    parts = (rows - mean) @ axes
    means = oracles.plus_plus_of_key(key, parts[:, :1], mask, K)
    for width in range(1, 7):
        means = np.pad(means, ((0, 0), (0, width - means.shape[1])))
        means = oracles.lloyd(means, parts[:, :width], mask, num_iterations, 0.7)
    return means @ axes.T + mean


def _extended(residuals, book, beam_width):
    """The shortest of all residuals minus a codeword each."""
    left = [residual - word for residual in residuals for word in book]
    return np.stack(sorted(left, key=lambda each: sum(each**2))[:beam_width])


def _refined(codebooks, x, num_rounds, beam_width, ridge):
    for _ in range(num_rounds):
        numbers = oracles.beam_encode(codebooks, x, beam_width)
        codebooks = oracles.ridge(codebooks, x, numbers, ridge)
    return codebooks


CASES = (
    Case(
        "additive.encode",
        additive.encode,
        oracle=oracles.beam_encode,
        arguments=(WIDE, X),
        gathers="f32",
        result="NM",
        dtypes="uint8",
        settings=({"beam_width": 1}, {"beam_width": 3}),
        local="N",
    ),
    Case(
        "additive.fit_codebooks",
        _fit_residual,
        oracle=_fit_residual_oracle,
        arguments=(NEEDS_KEY, X, ROW_MASK),
        gathers="f32",
        result="MKD",
        settings=(
            {"num_iterations": 0, "beam_width": 1},
            {"num_iterations": 3, "beam_width": 1},
            {"num_iterations": 3, "beam_width": 3},
        ),
        open_at_ties=True,
    ),
    Case(
        "additive.refine_codebooks",
        additive.refine_codebooks,
        oracle=_refined,
        arguments=(WIDE, X),
        gathers="f32",
        result="MKD",
        settings=(
            {"num_rounds": 1, "beam_width": 1, "ridge": 0.1},
            {"num_rounds": 1, "beam_width": 3, "ridge": 10.0},
            {"num_rounds": 2, "beam_width": 3, "ridge": 0.1},
        ),
        open_at_ties=True,
        tolerance=1e-4,
        far_tolerance=1e-4,
    ),
)
