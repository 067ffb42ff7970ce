"""Additive codebooks: an item is the sum of M codewords, each as wide as the embedding.

Codebooks are [M, K, D]. Product quantization is the block-diagonal case. Residual quantization is
the greedy case: `fit_codebooks` and `encode` take one codebook after another. Items are stored as
assignments alone: ||x||^2 of a reconstruction, which "l2" and "cosine" need and for which others
store 1 or 4 more bytes per item, is computed from them, at the cost of one decoding per call of
`distances`.

References:
  Babenko and Lempitsky, Additive Quantization for Extreme Vector Compression, CVPR 2014.
  Zhang, Du, Wang, Composite Quantization for Approximate Nearest Neighbor Search, ICML 2014.
  Chen, Guan, Wang, Approximate Nearest Neighbor Search by Residual Vector Quantization,
  Sensors 10(12), 2010 (`fit_codebooks` and `encode`).
"""

import functools

import jax
import jax.numpy as jnp

from quantjax.arrays import check_finite, check_shape, masked_rows, on_explicit_mesh, vary_alike
from quantjax.errors import InputError
from quantjax.quantizers import kmeans, packing, precision, product
from quantjax.quantizers.product import root

_GROUP = 16  # distances that share a minimum
_STEPS = 10  # numbers of principal axes, from 1 to D in equal ratios
_LOOPS = 3  # of these numbers, the largest, with a loop of their own size
_ROWS = 256  # partial sums for each codeword that k-means takes, unless there are more rows


def block_diagonal(codebooks: jax.Array) -> jax.Array:
    """Converts product codebooks to additive codebooks by zeros outside each codebook's slice.

    Args:
      codebooks: Codewords [M, K, d] of a product quantizer.

    Returns:
      Codewords [M, K, M * d] whose sums are `product.decode`'s concatenations.

    Raises:
      ValueError: if codebooks are not [M, K, d].
    """
    check_codebooks(codebooks)
    own = jnp.eye(codebooks.shape[0], dtype=codebooks.dtype)
    return jnp.einsum("mkd,ml->mkld", codebooks, own).reshape(*codebooks.shape[:2], -1)


@on_explicit_mesh()
def fit_codebooks(
    key: jax.Array,
    x: jax.Array,
    *,
    num_codebooks: int,
    num_codewords: int,
    num_iterations: int = 10,
    beam_width: int = 1,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Fits codebooks in turn, each by k-means on the residuals of the codebooks before it.

    k-means goes through ten numbers of principal axes, from 1 to D. With a beam each row has the
    residuals of its best `beam_width` partial sums, as `encode` keeps them, and k-means takes all
    of these rows: at most 256 K of them, evenly spread, or N if that is more. Memory is
    N * beam_width * D.

    Args:
      key: Random key, consumed.
      x: Embeddings [N, D].
      num_codebooks: M.
      num_codewords: K, at most 256 and at most N.
      num_iterations: Lloyd iterations for each codebook and number of axes.
      beam_width: Partial sums kept of each row; 1 is greedy. A beam of 5 fits better than none also
        for greedy encoding. At most K / 32 is best: a wider one holds poor sums, to which codebooks
        should not be fitted.
      mask: Whether each row counts, [N] bool; all when None. At least K rows must count.

    Returns:
      Codebooks [M, K, D] float32.

    Raises:
      ValueError: if x is not [N, D], M or the beam is below 1, K above 256, or there are fewer rows
        than K.
    """
    check_shape("x", x, "N", "D")
    if num_codebooks < 1:
        raise InputError(f"num_codebooks must be at least 1, got {num_codebooks}")
    _check_beam_width(beam_width)
    kmeans.check_num_rows(x, num_codewords)
    sizes = num_codebooks, num_codewords, beam_width
    return _fit(key, *masked_rows(x, mask), num_iterations, *sizes)


# Compiled as a whole: an eager loop compiles anew at every call.
@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _fit(key, x, mask, num_iterations, num_codebooks, num_codewords, beam_width):
    def step(residuals, key):
        rows = residuals.reshape(-1, x.shape[1])
        counts = jnp.repeat(mask, residuals.shape[1])
        most = max(len(x), _ROWS * num_codewords)
        if len(rows) > most:
            key, spread = jax.random.split(key)
            sample = kmeans.spread_rows(spread, counts, num_rows=most)
            rows, counts = rows[sample], counts[sample]
        book = _means_by_axes(key, rows, counts, num_codewords, num_iterations)
        # Assigned anew: the last Lloyd iteration moved the means after it assigned the rows.
        extend = functools.partial(_extend, book=book, beam_width=beam_width)
        return kmeans.over_tiles(lambda tile: extend(tile)[0], residuals), book

    start, keys, mask = vary_alike(x[:, None], jax.random.split(key, num_codebooks), mask)
    return _over_codebooks(step, start, keys, beam_width)[1]


@on_explicit_mesh(rows="x")
def encode(codebooks: jax.Array, x: jax.Array, *, beam_width: int = 1) -> jax.Array:
    """Encodes embeddings codebook by codebook: the nearest codeword to each residual.

    With a beam the best `beam_width` partial sums are kept from codebook to codebook, and the best
    whole sum wins.

    Args:
      codebooks: Codewords [M, K, D], K at most 256.
      x: Embeddings [N, D].
      beam_width: Partial sums kept; 1 is greedy.

    Returns:
      Assignments [N, M] uint8; the lowest number wins a tie.

    Raises:
      ValueError: if the shapes do not agree or the beam is below 1.
    """
    check_codebooks(codebooks, x)
    _check_beam_width(beam_width)
    return _encode(codebooks, x, beam_width)


@functools.partial(jax.jit, static_argnums=2)
def _encode(codebooks, x, beam_width):
    books = jnp.asarray(codebooks, jnp.float32)

    def step(carry, book):
        residuals, beams, codewords = _extend(carry[0], book, beam_width)
        kept = jnp.take_along_axis(carry[1], beams[..., None], axis=1)
        # Numbers move up by one place, so that after M codebooks each is in its own.
        codewords = codewords[..., None].astype(jnp.uint8)
        return (residuals, jnp.concatenate([kept[..., 1:], codewords], axis=-1)), None

    def encode_tile(x):
        start = x[:, None], jnp.zeros((x.shape[0], 1, books.shape[0]), jnp.uint8)
        (_, assignments), _ = _over_codebooks(step, *vary_alike(start, books), beam_width)
        return assignments[:, 0]

    return kmeans.over_tiles(encode_tile, jnp.asarray(x, jnp.float32))


@on_explicit_mesh(rows="assignments")
def decode(codebooks: jax.Array, assignments: jax.Array) -> jax.Array:
    """Decodes assignments to embeddings: the sum of each item's M codewords.

    Args:
      codebooks: Codewords [M, K, D].
      assignments: Codeword numbers [N, M].

    Returns:
      Reconstructed embeddings [N, D] float32.

    Raises:
      ValueError: if the shapes do not agree.
    """
    check_codebooks(codebooks)
    _check_assignments(codebooks, assignments)
    return _decode(codebooks, assignments)


@jax.jit
def _decode(codebooks, assignments):
    books, (high, low) = _near_origin(codebooks)
    return sum(book[assignments[:, m]] for m, book in enumerate(books)) + low + high


def distances(
    codebooks: jax.Array, queries: jax.Array, assignments: jax.Array, *, metric: str = "l2"
) -> jax.Array:
    """Returns distances from real queries to coded items, computed through lookup tables.

    <q, x_n> = sum_m <q, c_m(a_nm)>; "l2" is ||q||^2 - 2 <q, x> + ||x||^2, taken about the middle of
    the codebooks, where it loses the fewest digits.

    Args:
      codebooks: Codewords [M, K, D].
      queries: Embeddings [Q, D].
      assignments: Codeword numbers [N, M].
      metric: "l2" squared Euclid, at least 0; "ip" the negative inner product; "cosine" 1 minus
        the cosine (a zero vector has cosine 0).

    Returns:
      Distances [Q, N] float32, smaller is nearer; items of equal code get equal bits.

    Raises:
      ValueError: if the shapes do not agree, the metric is unknown, or float32 cannot hold the
        distances of a query; under `jit` they are NaN.
    """
    product.check_metric(metric)
    check_codebooks(codebooks, queries, "queries")
    _check_assignments(codebooks, assignments)
    books, queries = jnp.asarray(codebooks, jnp.float32), jnp.asarray(queries, jnp.float32)
    if metric == "ip":
        queries = precision.in_range(queries, books, metric)
        return -_inner_products(books, queries, assignments)
    if metric == "l2":
        # The middles' sum moves queries and items alike, and their distances stay.
        books, (high, low) = _near_origin(books)
        queries = precision.in_range(queries - high - low, books, metric)
        middles = jnp.mean(books, axis=1, keepdims=True)
        books, queries = books - middles, queries - jnp.sum(middles, axis=(0, 1))
        squares = jnp.sum(jnp.square(queries), axis=-1, keepdims=True)
        squares = squares + squared_norms(books, assignments)
        return precision.not_negative(squares - 2 * _inner_products(books, queries, assignments))
    books = books * kmeans.power_of_two(books)
    queries = queries * kmeans.power_of_two(queries, axis=-1)
    lengths = root(squared_norms(books, assignments))
    lengths = root(jnp.sum(jnp.square(queries), axis=-1, keepdims=True)) * lengths
    products = _inner_products(books, queries, assignments)
    return 1 - products / jnp.where(lengths > 0, lengths, 1)


@on_explicit_mesh(rows="assignments")
def squared_norms(codebooks: jax.Array, assignments: jax.Array) -> jax.Array:
    """Returns the squared Euclidean length of each decoded item.

    Args:
      codebooks: Codewords [M, K, D].
      assignments: Codeword numbers [N, M].

    Returns:
      ||sum_m c_m(a_nm)||^2, [N] float32.

    Raises:
      ValueError: if the shapes do not agree.
    """
    return jnp.sum(jnp.square(decode(codebooks, assignments)), axis=-1)


@on_explicit_mesh(rows="x")
def icm_encode(
    key: jax.Array, codebooks: jax.Array, x: jax.Array, assignments: jax.Array, *, num_sweeps: int
) -> jax.Array:
    """Improves assignments one codebook at a time, with the other codebooks' assignments fixed.

    The method is called iterated conditional modes.

    A sweep visits every codebook once, in an order drawn anew for each sweep and shared by all
    rows; ||x - sum_m c_m||^2 of a row never rises. With block-diagonal codebooks one sweep finds
    `product.encode`'s optimum.

    Args:
      key: Random key, consumed.
      codebooks: Codewords [M, K, D], K at most 256.
      x: Embeddings [N, D].
      assignments: Where to start, [N, M] codeword numbers.
      num_sweeps: How often each codebook is visited; DVSQ and DTQ take 3.

    Returns:
      Assignments [N, M] uint8.

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Besag, On the Statistical Analysis of Dirty Pictures, JRSS B 48(3), 1986.
    """
    check_codebooks(codebooks, x)
    _check_assignments(codebooks, assignments, len(x))
    return _icm(key, codebooks, x, assignments, num_sweeps)


@functools.partial(jax.jit, static_argnums=4)
def _icm(key, codebooks, x, assignments, num_sweeps):
    books, (high, low) = _near_origin(codebooks)
    x = jnp.asarray(x, jnp.float32) - high - low
    numbers = jnp.arange(books.shape[0], dtype=jnp.int32)

    def visit(assignments, m):
        # Summed anew at every visit: a residual carried along would gather rounding errors.
        others = jnp.where(numbers[:, None, None] == m, 0, books)
        nearest = kmeans.assign(x - decode(others, assignments), books[m])
        return assignments.at[:, m].set(nearest.astype(jnp.uint8)), None

    order = jax.vmap(lambda k: jax.random.permutation(k, numbers))
    order = order(jax.random.split(key, num_sweeps)).reshape(-1)
    start, *_ = vary_alike(jnp.asarray(assignments, jnp.uint8), books, x, order)
    return jax.lax.scan(visit, start, order)[0]


@on_explicit_mesh()
def ridge_update(
    codebooks: jax.Array,
    x: jax.Array,
    assignments: jax.Array,
    *,
    ridge: float,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Fits all codewords to given assignments at once, by regularised least squares.

    C = (H^T H + ridge I)^-1 H^T X with H the one-hot assignments [N, M * K]. A codeword without
    rows keeps its value: the papers' code tells it by ||c||^2 < 1e-8 afterwards, which also hits
    codewords that belong at the origin; we count rows instead.

    Args:
      codebooks: Codewords [M, K, D]; read only where a codeword has no rows.
      x: Embeddings [N, D].
      assignments: Codeword numbers [N, M].
      ridge: At least 0, in rows; DVSQ and DTQ take 1e-3. Something relative to the rows that share
        a codeword, 1e-6 of them, is added, or float32 would find no factor of the matrix.
      mask: Whether each row counts, [N] bool; all when None.

    Returns:
      Codebooks [M, K, D] float32.

    Raises:
      ValueError: if the shapes do not agree.

    Reference:
      Cao et al., Deep Visual-Semantic Quantization for Efficient Image Retrieval, CVPR 2017.
    """
    x, mask = masked_rows(x, mask)
    check_codebooks(codebooks, x)
    _check_assignments(codebooks, assignments, len(x))
    return _ridge(codebooks, x, mask, assignments, ridge)


@jax.jit
def _ridge(codebooks, x, mask, assignments, ridge):
    _, (high, low) = _near_origin(codebooks)
    # Padding may be NaN, which no weight of 0 removes.
    x = jnp.where(mask[:, None], jnp.asarray(x, jnp.float32) - high - low, 0)
    num_codebooks, num_codewords, _ = codebooks.shape
    columns = assignments.astype(jnp.int32) + num_codewords * jnp.arange(num_codebooks)
    total = num_codebooks * num_codewords
    # H itself, [N, M * K], would fill the memory: its products are sums over each row's M ones.
    gram = jnp.zeros((total, total), jnp.float32)
    gram = gram.at[columns[:, :, None], columns[:, None, :]].add(jnp.float32(mask)[:, None, None])
    moments = jnp.zeros((total, x.shape[1]), jnp.float32)
    moments = moments.at[columns].add(x[:, None])
    used = (jnp.diagonal(gram) > 0).reshape(num_codebooks, num_codewords, 1)
    # The ridge pulls to the origin: codebooks share the shift as it would have them share it.
    shares = 1 / jnp.maximum(jnp.sum(used, axis=1, keepdims=True, dtype=jnp.float32), 1)
    share = high * shares / jnp.sum(shares) * jnp.ones_like(used, jnp.float32)
    moments = moments - ridge * share.reshape(total, -1)
    solved = _solve(gram, moments, ridge, num_codebooks).reshape(codebooks.shape)
    return jnp.where(used, solved + share, codebooks.astype(jnp.float32))


@on_explicit_mesh()
def refine_codebooks(
    codebooks: jax.Array,
    x: jax.Array,
    *,
    num_rounds: int,
    beam_width: int = 5,
    ridge: float = 1e-2,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Improves codebooks in rounds: encodes by beam, then fits all codewords to the codes at once.

    `fit_codebooks` never returns to a codebook; this does, and needs many rows: with few the
    codewords fit them and not others, whose error rises.

    Args:
      codebooks: Codewords [M, K, D], as of `fit_codebooks`.
      x: Embeddings [N, D], best 200 K of them or more.
      num_rounds: Rounds; most of the gain comes with the first six.
      beam_width: Partial sums kept in encoding.
      ridge: See `ridge_update`.
      mask: Whether each row counts, [N] bool; all when None.

    Returns:
      Codebooks [M, K, D] float32.

    Raises:
      ValueError: if the shapes do not agree or the beam is below 1.

    Reference:
      Babenko and Lempitsky, Additive Quantization for Extreme Vector Compression, CVPR 2014
      (alternation by beam search and least squares).
    """
    x, mask = masked_rows(x, mask)
    check_codebooks(codebooks, x)
    _check_beam_width(beam_width)
    start = jnp.asarray(codebooks, jnp.float32)
    return _refine(start, x, mask, num_rounds, ridge, beam_width)


@functools.partial(jax.jit, static_argnums=5)
def _refine(codebooks, x, mask, num_rounds, ridge, beam_width):
    def turn(_, books):
        return _ridge(books, x, mask, _encode(books, x, beam_width), ridge)

    start, x, mask = vary_alike(codebooks, x, mask)
    return jax.lax.fori_loop(0, num_rounds, turn, start)


@jax.jit
def _near_origin(codebooks):
    """Subtracts from each codebook that lies far from the origin a middle of its codewords.

    Returns:
      Codebooks [M, K, D] float32, and the middles' sum [D] in two parts: float32 alone would move
      all rows by its rounding error. Other middles are 0.
    """
    books = jnp.asarray(codebooks, jnp.float32)
    middles = kmeans.far_middle(books)
    return books - middles, precision.two_part_sum(middles[:, 0])


def _means_by_axes(key, rows, mask, num_codewords, num_iterations):
    """Runs k-means in the first principal axis, then in more axes from the means in fewer of them.

    The means fit other rows better than those of k-means in all dimensions from the start.
    """
    scale, shift = kmeans.frame(jnp.where(mask[:, None], rows, 0), mask)
    rows = jnp.where(mask[:, None], rows * scale - shift, 0)
    mean = jnp.sum(rows, axis=0) / jnp.maximum(jnp.sum(mask), 1)
    rows = jnp.where(mask[:, None], rows - mean, 0)
    # eigh returns rising variances; the largest must come first.
    axes = jnp.linalg.eigh(precision.matmul(rows.T, rows))[1][:, ::-1]
    parts, dim = precision.matmul(rows, axes), rows.shape[1]
    widths = sorted({round(dim ** (step / _STEPS)) for step in range(1, _STEPS + 1)})
    means = kmeans.plus_plus(key, parts[:, :1], num_centroids=num_codewords, mask=mask)
    lloyd = functools.partial(
        kmeans.lloyd, mask=mask, num_iterations=num_iterations, momentum=kmeans.MOMENTUM
    )

    def step(means, width):
        # Axes that do not count yet are zeros: widths of their own would each compile a loop.
        counts = jnp.arange(means.shape[1]) < width
        return lloyd(means, jnp.where(counts, parts[:, : means.shape[1]], 0)), None

    few, many = widths[:-_LOOPS], widths[-_LOOPS:]
    if few:
        means = jax.lax.scan(step, _pad(means, few[-1]), jnp.asarray(few))[0]
    for width in many:
        means = lloyd(_pad(means, width), parts[:, :width])
    return (precision.matmul(means, axes.T) + mean + shift) / scale


def _pad(means, width):
    return jnp.pad(means, ((0, 0), (0, width - means.shape[1])))


def _over_codebooks(step, start, books, beam_width):
    """Scans over codebooks; `start` is residuals [N, 1, D], alone or first of a tuple.

    A loop carries arrays of one shape, so that the first steps, in which the number of beams grows,
    run before it.
    """
    carry, results = start, []
    while len(results) < len(books) and jax.tree.leaves(carry)[0].shape[1] < beam_width:
        carry, result = step(carry, books[len(results)])
        results.append(jax.tree.map(lambda x: x[None], result))
    if len(results) < len(books):
        carry, result = jax.lax.scan(step, carry, books[len(results) :])
        results.append(result)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *results)


def _extend(residuals, book, beam_width):
    """Extends the beams of each row by one codeword and keeps the best of them.

    Args:
      residuals: What each partial sum leaves, [N, B, D].
      book: Codewords [K, D].
      beam_width: Number of sums that are kept, if there are as many.

    Returns:
      Residuals [N, B', D], the beam that each comes from [N, B'], and its new codeword [N, B'].
    """
    num_rows, num_beams, width = residuals.shape
    rows = residuals.reshape(num_rows * num_beams, width)
    if beam_width == 1:
        codewords = kmeans.assign(rows, book)[:, None]
        return residuals - book[codewords], jnp.zeros_like(codewords), codewords
    scale, shift = kmeans.frame(book)
    rows = rows * scale - shift
    gaps = kmeans.relative_distances(rows, book * scale - shift)
    squares = jnp.sum(jnp.square(rows), axis=-1).reshape(num_rows, num_beams)
    # Rows of one beam all have the same square: left out, it costs the first codebook no digits.
    squares = squares - jnp.min(squares, axis=-1, keepdims=True)
    errors = gaps.reshape(num_rows, num_beams, len(book)) + squares[..., None]
    best = _smallest(errors.reshape(num_rows, num_beams * len(book)), beam_width)
    # The flat number of the best pairs holds both beam and codeword.
    beams, codewords = best // len(book), best % len(book)
    left = jnp.take_along_axis(residuals, beams[..., None], axis=1) - book[codewords]
    return left, beams, codewords


def _smallest(errors, count):
    """Returns where the smallest `count` of each row are, [N, count]; the first of equals wins.

    They lie in the groups of the smallest minima. On a CPU a partial sort of the minima and of
    these groups takes a third of the time of one over whole rows.
    """
    num_rows, total = errors.shape
    if total % _GROUP or total < 2 * _GROUP * count:
        return jax.lax.top_k(-errors, min(count, total))[1]
    groups = errors.reshape(num_rows, total // _GROUP, _GROUP)
    _, nearest = jax.lax.top_k(-jnp.min(groups, axis=-1), count)
    # In the order of the rows, or a later one of equals could win.
    nearest = jnp.sort(nearest, axis=-1)
    candidates = jnp.take_along_axis(groups, nearest[..., None], axis=1)
    _, best = jax.lax.top_k(-candidates.reshape(num_rows, count * _GROUP), count)
    return jnp.take_along_axis(nearest, best // _GROUP, axis=1) * _GROUP + best % _GROUP


def _solve(gram, moments, ridge, num_codebooks):
    counts = jnp.diagonal(gram)
    # A constant may move from one codebook to another without changing the sums. H^T X has no
    # part in those directions, so they solve to 0; without an added weight they would multiply
    # the rounding of H^T X by 1 / ridge.
    size = len(counts) // num_codebooks
    of_book = jnp.kron(jnp.eye(num_codebooks, dtype=gram.dtype), jnp.ones(size, gram.dtype))
    used = of_book * (counts > 0)
    used = used - jnp.mean(used, axis=0)
    largest = jnp.maximum(jnp.max(counts), 1)
    shared = used.T @ used * (largest / len(counts))
    diagonal = ridge + 1e-6 * counts + (counts == 0)
    factor = jax.scipy.linalg.cho_factor(gram + shared + jnp.diag(diagonal))
    return jax.scipy.linalg.cho_solve(factor, moments)


def check_codebooks(codebooks: jax.Array, x: jax.Array | None = None, name: str = "x") -> None:
    """Raises ValueError if codebooks are not additive, [M, K, D], or embeddings do not fit them."""
    check_shape("codebooks", codebooks, "M", "K", "D")
    packing.check_num_codewords(codebooks.shape[1])
    check_finite("codebooks", codebooks)
    if x is not None:
        check_shape(name, x, "N", codebooks.shape[2], beside=f" for codebooks {codebooks.shape}")
        check_finite(name, x)


def _check_beam_width(beam_width):
    if beam_width < 1:
        raise InputError(f"beam_width must be at least 1, got {beam_width}")


def _check_assignments(codebooks, assignments, num_rows="N"):
    check_shape("assignments", assignments, num_rows, codebooks.shape[0])


@jax.jit
def _inner_products(books, queries, assignments):
    tables = jnp.einsum("qd,mkd->mqk", queries, books, precision=jax.lax.Precision.HIGHEST)
    return product.look_up(tables, assignments)
