"""Residual quantization: each codebook encodes the residual of the codebooks before it.

Codebooks are additive, [M, K, D]: `quantizers.additive` decodes and measures them.

Reference:
  Chen, Guan, Wang, Approximate Nearest Neighbor Search by Residual Vector Quantization,
  Sensors 10(12), 2010.
"""

import jax
import jax.numpy as jnp

from quantjax.arrays import on_explicit_mesh, vary_alike
from quantjax.errors import InputError
from quantjax.quantizers import additive, kmeans, product, rows


@on_explicit_mesh()
def fit_codebooks(
    key: jax.Array,
    x: jax.Array,
    *,
    num_codebooks: int,
    num_codewords: int,
    num_iterations: int = 25,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Fits codebooks in turn, each by k-means on the residuals of the codebooks before it.

    Args:
      key: Random key, consumed.
      x: Embeddings [N, D].
      num_codebooks: M.
      num_codewords: K, at most 256 and at most N.
      num_iterations: Lloyd iterations for each codebook.
      mask: Whether each row counts, [N] bool; all when None. At least K rows must count.

    Returns:
      Codebooks [M, K, D] float32.

    Raises:
      ValueError: if x is not [N, D], M is below 1, K above 256, or there are fewer rows than K.
    """
    if x.ndim != 2:
        raise InputError(f"x must have shape [N, D], got {x.shape}")
    if num_codebooks < 1:
        raise InputError(f"num_codebooks must be at least 1, got {num_codebooks}")
    product.check_num_codewords(num_codewords)
    if x.shape[0] < num_codewords:
        raise InputError(
            f"k-means needs at least as many rows as codewords, got {x.shape[0]} rows for "
            f"K = {num_codewords}; lower K or add training images"
        )
    x, mask = rows.counted(x, mask)

    def step(residual, key):
        start = kmeans.plus_plus(key, residual, num_centroids=num_codewords, mask=mask)
        book = kmeans.lloyd(start, residual, mask=mask, num_iterations=num_iterations)
        return residual - book[kmeans.assign(residual, book)], book

    keys = jax.random.split(key, num_codebooks)
    start, keys, mask = vary_alike(x, keys, mask)
    return jax.lax.scan(step, start, keys)[1]


@on_explicit_mesh(rows="x")
def encode(codebooks: jax.Array, x: jax.Array, *, beam_width: int = 1) -> jax.Array:
    """Encodes embeddings codebook by codebook: the nearest codeword to each residual.

    With a beam the best `beam_width` partial sums are kept from codebook to codebook, and the best
    whole sum wins; memory is N * beam_width * K distances.

    Args:
      codebooks: Codewords [M, K, D], K at most 256.
      x: Embeddings [N, D].
      beam_width: Partial sums kept; 1 is greedy.

    Returns:
      Assignments [N, M] uint8; the lowest number wins a tie.

    Raises:
      ValueError: if the shapes do not agree or the beam is below 1.
    """
    additive.check_codebooks(codebooks, x)
    if beam_width < 1:
        raise InputError(f"beam_width must be at least 1, got {beam_width}")
    books = jnp.asarray(codebooks, jnp.float32)
    residuals = jnp.asarray(x, jnp.float32)[:, None]
    assignments = jnp.zeros((x.shape[0], 1, 0), jnp.uint8)
    for book in books:
        residuals, assignments = _extend(residuals, assignments, book, beam_width)
    return assignments[:, 0]


def _extend(residuals, assignments, book, beam_width):
    """Extends the beams [N, B, D] and [N, B, m] by one codeword and returns the best of them."""
    num_rows, num_beams, width = residuals.shape
    scale, shift = kmeans.frame(book)
    framed = residuals * scale - shift
    gaps = kmeans.squared_distances(
        framed.reshape(num_rows * num_beams, width), book * scale - shift
    )
    squares = jnp.sum(jnp.square(framed), axis=-1)
    # Rows of one beam all have the same square: left out, it costs greedy encoding no digits.
    squares = squares - jnp.min(squares, axis=-1, keepdims=True)
    errors = gaps.reshape(num_rows, num_beams, len(book)) + squares[..., None]
    _, best = jax.lax.top_k(
        -errors.reshape(num_rows, num_beams * len(book)), min(beam_width, num_beams * book.shape[0])
    )
    # The flat number of the best pairs holds both beam and codeword.
    beams, codewords = best // book.shape[0], best % book.shape[0]
    kept = jnp.take_along_axis(assignments, beams[..., None], axis=1)
    kept = jnp.concatenate([kept, codewords[..., None].astype(jnp.uint8)], axis=-1)
    left = jnp.take_along_axis(residuals, beams[..., None], axis=1) - book[codewords]
    return left, kept
