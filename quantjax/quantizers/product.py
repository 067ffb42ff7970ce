"""Product quantization: M codebooks of K codewords, one codebook per slice of the embedding.

Assignments [N, M] are codeword numbers. `quantjax.quantizers.codecs` packs assignments into
`codes`, the stored bytes.

Reference:
  Jegou, Douze, Schmid, Product Quantization for Nearest Neighbor Search, TPAMI 33(1), 2011.
"""

import functools

import jax
import jax.numpy as jnp

from quantjax.arrays import (
    check_finite,
    check_positive,
    check_shape,
    masked_rows,
    on_explicit_mesh,
    vary_alike,
)
from quantjax.errors import InputError
from quantjax.quantizers import kmeans, packing, precision

METRICS = ("l2", "ip", "cosine")
_GROUP = 8  # codebooks whose loop is unrolled, the most


def split(x: jax.Array, num_codebooks: int) -> jax.Array:
    """Splits embeddings into M contiguous slices, with the slice axis first.

    Args:
      x: Embeddings [N, D].
      num_codebooks: M; it must divide D.

    Returns:
      Slices [M, N, D / M].

    Raises:
      ValueError: if x is not [N, D] or M does not divide D.
    """
    check_shape("x", x, "N", "D")
    if num_codebooks < 1 or x.shape[1] % num_codebooks:
        raise InputError(
            f"num_codebooks must divide the embedding's width, got {num_codebooks} codebooks for "
            f"D = {x.shape[1]}; change one of the two"
        )
    width = x.shape[1] // num_codebooks
    return x.reshape(x.shape[0], num_codebooks, width).transpose(1, 0, 2)


def encode(codebooks: jax.Array, x: jax.Array) -> jax.Array:
    """Encodes each slice of the embeddings to the number of its nearest codeword.

    Args:
      codebooks: Codewords [M, K, d], K at most 256.
      x: Embeddings [N, M * d].

    Returns:
      Assignments [N, M] uint8; the lowest number wins a tie.

    Raises:
      ValueError: if the shapes do not agree or K is above 256.
    """
    check_codebooks(codebooks, x)
    return _encode(codebooks, x)


@jax.jit
def _encode(codebooks, x):
    codebooks = jnp.asarray(codebooks, jnp.float32)
    scale, shift = kmeans.frame(codebooks)
    numbers = functools.partial(_encode_rows, codebooks * scale - shift, scale, shift)
    return kmeans.over_tiles(numbers, x)


def _encode_rows(codebooks, scale, shift, x):
    def encode_group(group):
        # A loop of 2-D matmuls: the batched einsum over subspaces is 2 to 3 times slower on CPUs.
        numbers = [
            kmeans.nearest(kmeans.relative_distances_by_centroid(part * factor - offset, book))
            for part, book, factor, offset in zip(*group, strict=True)
        ]
        return jnp.stack(numbers).astype(jnp.uint8)

    num_codebooks = len(codebooks)
    operands = split(x, num_codebooks), codebooks, scale, shift
    size = max(n for n in range(1, _GROUP + 1) if num_codebooks % n == 0)
    if size == num_codebooks:
        return encode_group(operands).T
    # Groups share one program: unrolled over 64 codebooks, it would compile for a minute.
    groups = [part.reshape(-1, size, *part.shape[1:]) for part in operands]
    return jax.lax.map(encode_group, groups).reshape(num_codebooks, -1).T


@on_explicit_mesh(rows="assignments")
def decode(codebooks: jax.Array, assignments: jax.Array) -> jax.Array:
    """Decodes assignments to embeddings: the concatenation of each item's M codewords.

    Args:
      codebooks: Codewords [M, K, d].
      assignments: Codeword numbers [N, M].

    Returns:
      Reconstructed embeddings [N, M * d], copies in the codewords' dtype.

    Raises:
      ValueError: if the shapes do not agree.
    """
    check_codebooks(codebooks)
    check_shape("assignments", assignments, "N", codebooks.shape[0])
    return _decode(codebooks, assignments)


@jax.jit
def _decode(codebooks, assignments):
    # Widened for the gradient alone, which sums over the rows of a codeword.
    books = jnp.asarray(codebooks, jnp.promote_types(codebooks.dtype, jnp.float32))
    parts = [book[assignments[:, m]] for m, book in enumerate(books)]
    return jnp.concatenate(parts, axis=1).astype(codebooks.dtype)


def soft_assign(codebooks: jax.Array, x: jax.Array, *, temperature: float) -> jax.Array:
    """Returns soft assignments of each slice: a softmax of negative squared distances to codewords.

    Args:
      codebooks: Codewords [M, K, d].
      x: Embeddings [N, M * d].
      temperature: In units of squared distance; the assignment hardens as it falls to 0.

    Returns:
      Weights [M, N, K] that sum to 1 over K, float32.

    Raises:
      ValueError: if the shapes do not agree, or temperature is not above 0.
    """
    check_positive("temperature", temperature)
    return jax.nn.softmax(-distance_gaps(codebooks, x) / temperature, axis=-1)


def soft_quantize(codebooks: jax.Array, x: jax.Array, *, temperature: float) -> jax.Array:
    """Quantizes embeddings to mixtures of codewords, which are differentiable as they are.

    s_m = sum_k p_mk c_mk with p = `soft_assign`. Of codewords and slices of length 1 the softmax is
    that of inner products, softmax(2 <x_m, c_mk> / temperature).

    Args:
      codebooks: Codewords [M, K, d].
      x: Embeddings [N, M * d].
      temperature: In units of squared distance; at 0 it would be `decode(encode(x))`.

    Returns:
      Mixtures [N, M * d], in x's dtype; float32 where x holds integers.

    Raises:
      ValueError: if the shapes do not agree, or temperature is not above 0.

    Reference:
      Yu et al., Product Quantization Network for Fast Image Retrieval, ECCV 2018.
    """
    check_codebooks(codebooks, x)
    # Widened once, before either use: a codeword's gradient is the sum of both.
    books = jnp.asarray(codebooks, jnp.float32)
    weights = soft_assign(books, x, temperature=temperature)
    return mixtures(weights, books).astype(floating(x.dtype))


def mixtures(weights: jax.Array, books: jax.Array) -> jax.Array:
    """Returns the weighted sums of the codewords of each codebook, side by side.

    Args:
      weights: Weights [M, N, K] float32.
      books: Codewords [M, K, d] float32.

    Returns:
      Mixtures [N, M * d] float32.
    """
    # In float32 on accelerators too: a rounded codeword is another codeword.
    mixed = jnp.einsum("mnk,mkd->nmd", weights, books, precision=jax.lax.Precision.HIGHEST)
    return mixed.reshape(len(mixed), books.shape[0] * books.shape[2])


def distance_gaps(codebooks: jax.Array, x: jax.Array) -> jax.Array:
    """Returns how much farther each codeword is from a slice than the slice's nearest codeword.

    Args:
      codebooks: Codewords [M, K, d].
      x: Embeddings [N, M * d].

    Returns:
      ||x - c||^2 - min_k ||x - c_k||^2, [M, N, K] float32, the minimum without gradient; digits are
      kept far from the origin.

    Raises:
      ValueError: if the shapes do not agree.
    """
    check_codebooks(codebooks, x)
    return _gaps(codebooks, x)


@jax.jit
def _gaps(codebooks, x):
    # Shifted and not scaled: a softmax of these has a temperature in their units.
    shifts = kmeans.far_middle(jnp.asarray(codebooks, jnp.float32))
    parts = zip(split(x, codebooks.shape[0]), codebooks, shifts, strict=True)
    distances = jnp.stack(
        [kmeans.relative_distances(part - shift, book - shift) for part, book, shift in parts]
    )
    # Gaps and not distances: compiled, a softmax of logits from 1e9 on overflows, for it fuses
    # the division with the subtraction of a maximum that was rounded.
    return distances - jax.lax.stop_gradient(jnp.min(distances, axis=-1, keepdims=True))


@on_explicit_mesh(rows="x")
def quantize(codebooks: jax.Array, x: jax.Array, *, temperature: float) -> jax.Array:
    """Quantizes embeddings, with straight-through gradients to embeddings and codebooks.

    a C with a = soft + stop_gradient(one_hot - soft), soft = softmax(-||x - c||^2 / temperature),
    in every subspace. The value is decode(encode(x)). x gets the soft assignment's gradient. A
    codeword gets the gradient of the rows assigned to it plus the softmax's. A gradient through
    the soft assignment alone moves codewords the wrong way. The backward pass is written out,
    which halves the time, so only reverse mode of first order works. Second derivatives mean
    nothing, as for every straight-through function.

    Args:
      codebooks: Codewords [M, K, d].
      x: Embeddings [N, M * d].
      temperature: Temperature of the softmax, in units of squared distance.

    Returns:
      Quantized embeddings [N, M * d], in x's dtype; float32 where x holds integers.

    Raises:
      ValueError: if the shapes do not agree, K is above 256, or temperature is not above 0.
    """
    check_codebooks(codebooks, x)
    check_positive("temperature", temperature)
    softness = jnp.asarray(temperature, jnp.float32)
    books, slices = (jnp.asarray(a, jnp.float32) for a in (codebooks, x))
    books, slices, softness = vary_alike(books, slices, softness)
    pairs = zip(books, split(slices, len(codebooks)), strict=True)
    parts = [_quantize_slice(book, part, softness) for book, part in pairs]
    return jnp.concatenate(parts, axis=1).astype(floating(x.dtype))


@jax.custom_vjp
def _quantize_slice(codewords, x, temperature):
    return _quantize_forward(codewords, x, temperature)[0]


def _quantize_forward(codewords, x, temperature):
    # The backward pass takes differences of codewords alone, which the shift leaves as they are.
    scale, shift = kmeans.frame(codewords)
    framed = x * scale - shift, codewords * scale - shift
    distances = kmeans.relative_distances_by_centroid(*framed)
    nearest = kmeans.nearest(distances)
    # Divided twice: the square of the scale may leave float32.
    gaps = (jnp.min(distances, axis=0) - distances) / scale / scale
    weights = jnp.exp(gaps / temperature)
    x, centred = (each / scale for each in framed)
    return codewords[nearest], (centred, x, temperature, weights, nearest)


def _quantize_backward(residuals, gradient):
    codewords, x, temperature, weights, nearest = residuals
    soft = weights / jnp.sum(weights, axis=0)
    of_soft = codewords @ gradient.T
    # Through the softmax, with respect to the logits; the logits are -distances / T.
    of_logits = soft * (of_soft - jnp.sum(soft * of_soft, axis=0))
    of_distances = -of_logits / temperature
    # The small product is transposed, not the large factor, which takes five times as long on
    # CPUs; without the barrier the compiler would turn it back.
    of_x = -2 * jax.lax.optimization_barrier(codewords.T @ of_distances).T
    of_codewords = 2 * (codewords * jnp.sum(of_distances, axis=1)[:, None] - of_distances @ x)
    # log w = -gap / T, so d/dT of the logits is -log w / T; where w is 0, so is its gradient.
    logs = jnp.where(weights > 0, jnp.log(jnp.where(weights > 0, weights, 1)), 0)
    of_temperature = -jnp.sum(of_logits * logs) / temperature
    return of_codewords.at[nearest].add(gradient), of_x, of_temperature


_quantize_slice.defvjp(_quantize_forward, _quantize_backward)


def distances(
    codebooks: jax.Array, queries: jax.Array, assignments: jax.Array, *, metric: str = "l2"
) -> jax.Array:
    """Returns asymmetric distances (AQD) from real queries to coded items through lookup tables.

    d(q, n) = sum_m table_m[q, a_nm]. Items of equal code get bit-equal distances, hence exact ties.

    Args:
      codebooks: Codewords [M, K, d].
      queries: Embeddings [Q, M * d].
      assignments: Codeword numbers [N, M].
      metric: "l2" squared Euclid; "ip" the negative inner product; "cosine" 1 minus the cosine,
        the reconstruction normalised as a whole (a zero vector has cosine 0).

    Returns:
      Distances [Q, N] float32, smaller is nearer.

    Raises:
      ValueError: if the shapes do not agree, the metric is unknown, or float32 cannot hold the
        distances of a query; under `jit` they are NaN.
    """
    check_metric(metric)
    check_codebooks(codebooks, queries, "queries")
    check_shape("assignments", assignments, "N", codebooks.shape[0])
    books, queries = jnp.asarray(codebooks, jnp.float32), jnp.asarray(queries, jnp.float32)
    if metric != "cosine":
        return look_up(_tables(queries, books, metric), assignments)
    books_scale, scale = kmeans.power_of_two(books), kmeans.power_of_two(queries, axis=-1)
    books, queries = books * books_scale, queries * scale
    products = look_up(-_products(split(queries, books.shape[0]), books), assignments)
    norms = root(look_up(jnp.sum(jnp.square(books), axis=-1)[:, None], assignments))
    lengths = root(jnp.sum(jnp.square(queries), axis=-1, keepdims=True)) * norms
    return 1 + products / jnp.where(lengths > 0, lengths, 1)


@on_explicit_mesh()
def fit_codebooks(
    key: jax.Array,
    x: jax.Array,
    *,
    num_codebooks: int,
    num_codewords: int,
    num_iterations: int = 12,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Fits codebooks from scratch by k-means++ and `kmeans.fit`, separately in each subspace.

    Args:
      key: Random key, consumed.
      x: Embeddings [N, D].
      num_codebooks: M; it must divide D.
      num_codewords: K, at most 256 and at most N.
      num_iterations: Of k-means; they have momentum, and 12 of them the quality of 25 without.
      mask: Whether each row counts, [N] bool; all when None. At least K rows must count.

    Returns:
      Codebooks [M, K, D / M] float32.

    Raises:
      ValueError: if M does not divide D, K is above 256, or there are fewer rows than codewords.
    """
    split(x, num_codebooks)
    kmeans.check_num_rows(x, num_codewords)
    return _fit(key, *masked_rows(x, mask), num_codebooks, num_codewords, num_iterations)


# Compiled as a whole: an eager loop compiles anew at every call.
@functools.partial(jax.jit, static_argnums=(3, 4))
def _fit(key, x, mask, num_codebooks, num_codewords, num_iterations):
    start = functools.partial(kmeans.plus_plus, num_centroids=num_codewords, mask=mask)
    keys = jax.random.split(key, num_codebooks)
    x = split(x, num_codebooks)
    start = jax.vmap(start)(keys, x)
    # One subspace after another: the [N, K] distances of all at once would fill memory.
    fit = functools.partial(kmeans.fit, mask=mask, num_iterations=num_iterations)
    return jax.lax.map(lambda pair: fit(*pair), (start, x))


@on_explicit_mesh()
def refine_codebooks(
    codebooks: jax.Array, x: jax.Array, num_iterations: int, mask: jax.Array | None = None
) -> jax.Array:
    """Improves given codebooks by Lloyd iterations with momentum, separately in each subspace.

    Args:
      codebooks: Codewords to start from, [M, K, d].
      x: Embeddings [N, M * d].
      num_iterations: Lloyd iterations.
      mask: Whether each row counts, [N] bool; all when None.

    Returns:
      Codebooks [M, K, d] float32.

    Raises:
      ValueError: if the shapes do not agree.
    """
    check_shapes(codebooks, x)
    check_finite("codebooks", codebooks)
    return _refine(codebooks, *masked_rows(x, mask), num_iterations)


@jax.jit
def _refine(codebooks, x, mask, num_iterations):
    # One subspace after another: the [N, K] distances of all at once would fill memory.
    return jax.lax.map(
        lambda pair: kmeans.lloyd(
            *pair, mask=mask, num_iterations=num_iterations, momentum=kmeans.MOMENTUM
        ),
        (jnp.asarray(codebooks, jnp.float32), split(x, codebooks.shape[0])),
    )


@on_explicit_mesh(rows="x")
def quantize_identity(codebooks: jax.Array, x: jax.Array) -> jax.Array:
    """Quantizes embeddings; the gradient passes to the embeddings unchanged.

    A codeword gets the gradient of the rows assigned to it. In VQ-VAE codebooks get no gradient
    from the loss behind the quantizer: for VQ-VAE pass stop_gradient(codebooks) and train the
    codebooks by `losses.quantization_error`, or by `quantizers.ema`. Second derivatives mean
    nothing.

    Args:
      codebooks: Codewords [M, K, d].
      x: Embeddings [N, M * d].

    Returns:
      decode(codebooks, encode(codebooks, x)), [N, M * d], in x's dtype; float32 where x holds
      integers.

    Raises:
      ValueError: if the shapes do not agree or K is above 256.

    Reference:
      van den Oord, Vinyals, Kavukcuoglu, Neural Discrete Representation Learning, NeurIPS 2017.
    """
    x = jnp.asarray(x).astype(floating(x.dtype))
    assignments = encode(*jax.lax.stop_gradient((codebooks, x)))
    quantized = decode(codebooks, assignments).astype(x.dtype)
    # Not `straight_through`, which would keep the codewords' gradient from passing.
    return quantized + (x - jax.lax.stop_gradient(x))


def lookup_tables(codebooks: jax.Array, queries: jax.Array, *, metric: str = "l2") -> jax.Array:
    """Returns lookup tables: distances of each query's slices to all codewords.

    A search over codes sums table entries: distances[q, n] = sum_m tables[q, m, a_nm].

    Args:
      codebooks: Codewords [M, K, d].
      queries: Embeddings [Q, M * d].
      metric: "l2" squared Euclid, or "ip" the negative inner product. The cosine is no sum over
        subspaces: it takes the tables of "ip" and the lengths of query and reconstruction.

    Returns:
      Tables [Q, M, K] float32.

    Raises:
      ValueError: if the shapes do not agree, the metric is unknown, or float32 cannot hold the
        distances of a query; under `jit` they are NaN.
    """
    if metric not in ("l2", "ip"):
        raise InputError(f"metric of a lookup table must be one of l2, ip, got {metric!r}")
    check_codebooks(codebooks, queries, "queries")
    books, queries = jnp.asarray(codebooks, jnp.float32), jnp.asarray(queries, jnp.float32)
    return _tables(queries, books, metric).transpose(1, 0, 2)


@jax.jit
def look_up(tables: jax.Array, assignments: jax.Array) -> jax.Array:
    """Sums the table entries of each item's codewords: the step that a search repeats per query.

    Args:
      tables: One number for each codeword and query, [M, Q, K].
      assignments: Codeword numbers [N, M].

    Returns:
      sum_m tables[m, q, a_nm], [Q, N].
    """
    # Added in one order for every item, so that items of equal code get equal bits.
    return sum(table[:, assignments[:, m]] for m, table in enumerate(tables))


def floating(dtype: jnp.dtype) -> jnp.dtype:
    """Returns the dtype of quantized rows: the rows' own dtype, or float32 for integers.

    Args:
      dtype: Dtype of the rows.
    """
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.dtype(jnp.float32)


def check_metric(metric: str) -> None:
    """Raises ValueError if the metric is not "l2", "ip" or "cosine"."""
    if metric not in METRICS:
        raise InputError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")


def check_codebooks(codebooks: jax.Array, x: jax.Array | None = None, name: str = "x") -> None:
    """Raises ValueError if codebooks or embeddings have wrong shapes, or hold NaN or infinity."""
    check_shapes(codebooks, x, name)
    check_finite("codebooks", codebooks)
    if x is not None:
        check_finite(name, x)


def check_shapes(codebooks: jax.Array, x: jax.Array | None = None, name: str = "x") -> None:
    """Raises ValueError if codebooks are not [M, K, d], or embeddings are not [N, M * d]."""
    check_shape("codebooks", codebooks, "M", "K", "d")
    packing.check_num_codewords(codebooks.shape[1])
    if x is not None:
        width = codebooks.shape[0] * codebooks.shape[2]
        check_shape(name, x, "N", width, beside=f" for codebooks {codebooks.shape}")


@jax.jit
def root(squares: jax.Array) -> jax.Array:
    """Returns square roots whose derivative at zero is 0 instead of infinity.

    The length of a zero vector then has a finite gradient.

    Args:
      squares: Squared lengths of any shape, 0 or more.

    Returns:
      Roots in the same shape.
    """
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def _tables(queries, books, metric):
    if metric == "ip":
        queries = precision.in_range(queries, books, metric)
        return -_products(split(queries, len(books)), books)
    shifts = kmeans.far_middle(books)
    books, queries = books - shifts, queries - shifts.reshape(-1)
    slices = split(precision.in_range(queries, books, metric), len(books))
    # Summed differences, not the expanded square: near ties keep all their digits. Codewords lie
    # side by side, and fill a processor's registers: three times as fast as the sum of a last axis.
    slices, books = slices.swapaxes(1, 2)[..., None], books.swapaxes(1, 2)[:, :, None]
    return jnp.sum(jnp.square(slices - books), axis=1)


def _products(slices, books):
    return jnp.einsum("mqd,mkd->mqk", slices, books, precision=jax.lax.Precision.HIGHEST)
