"""Rows of the contract test: every public function of the quantizers beside its oracle."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from quantjax.quantizers import (
    BinaryCodec,
    FloatCodec,
    ProductCodec,
    ResidualCodec,
    additive,
    binary,
    ema,
    gumbel,
    kmeans,
    packing,
    product,
    residual,
    rotation,
    straight_through,
    usage,
)
from tests.quantizers import (
    oracles,
    test_additive,
    test_binary,
    test_ema,
    test_residual,
    test_usage,
)

M, K, WIDTH = 2, 4, 3
SIZES = {"N": 16, "Q": 8, "R": 2056, "M": M, "K": K, "d": WIDTH, "D": M * WIDTH}
SIZES |= {"T": 13, "C": 2, "B": 5, "P": 1, "F": 4 * M * WIDTH}
"""What the letters of axes stand for. N, Q and R are rows, which eight devices can share; R is
enough of them to be worked on in tiles. T bits make C bytes; B bits, or M numbers of at most 4
bits, make P; F bytes are D floats."""
ROWS = "NQR"

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


class Case(NamedTuple):
    """One public function, or a method of a codec.

    Attributes:
      name: Where it is found, `module.function` or `Class.method`; a remark may follow in brackets.
      function: What is tested: the function itself, or one that draws its key from a seed and makes
        its codec or state from arrays. Arrays first, hyper-parameters keyword-only.
      oracle: The same in float64 numpy from the definition, a tuple for more than one result; it
        shares no code with `function`. Random draws alone are the same.
      arguments: One `(axes, draw)` per array; equal letters are equal sizes.
      result: Axes of the result; of several, with commas between.
      dtypes: Of each result: a name of numpy's, or of the argument whose dtype it takes. What is
        named a dtype keeps it, and its digits, where embeddings come in bfloat16.
      settings: Keyword settings; every keyword-only parameter takes two values at least.
      trained: Positions of the arguments that get gradients.
      surrogate: Of a straight-through function, the float64 `(*arguments, at, **settings)` whose
        derivative at `arguments == at` is due; `at` makes the hard decisions.
      local: The letter of rows that devices work on alone, other rows being gathered; "" where the
        function is a statistic of the batch and every device needs all rows.
      refused: Positions whose wrong shape is refused by name; all when None.
      fixed: Letters whose size follows from the other arguments although none of them has it.
      unique: `(results, *arguments)` to what of them is due, where a decomposition leaves signs or
        a turn open.
      open_at_ties: Whether equal or zero vectors leave the result open; it is finite all the same.
      tolerance: Error allowed, as a share of the largest value.
      far_tolerance: The same where vectors are 1e4 long.
    """

    name: str
    function: Callable[..., Any]
    oracle: Callable[..., Any]
    arguments: tuple[tuple[str, Draw], ...]
    result: str
    dtypes: str = "float32"
    settings: tuple[dict[str, Any], ...] = ({},)
    trained: tuple[int, ...] = ()
    surrogate: Callable[..., Any] | None = None
    local: str = ""
    refused: tuple[int, ...] | None = None
    fixed: str = ""
    unique: Callable[..., Any] | None = None
    open_at_ties: bool = False
    tolerance: float = 1e-5
    far_tolerance: float = 1e-5


def shape_of(axes: str) -> tuple[int, ...]:
    return tuple(SIZES[letter] for letter in axes)


def draw(case: Case, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [draw_one(rng, shape_of(axes)) for axes, draw_one in case.arguments]


def normal(rng, shape):
    # Rounded to float32, so that the oracle sees the very numbers that the function sees.
    return np.float64(np.float32(rng.normal(size=shape)))


def _kept(rng, shape):
    """What is float32 also where embeddings are not."""
    return normal(rng, shape)


def _orthonormal(rng, shape):
    return np.float64(np.float32(np.linalg.qr(rng.normal(size=(shape[0],) * 2))[0][:, : shape[1]]))


def _positive(rng, shape):
    return np.float64(np.float32(rng.uniform(0, 3, size=shape) * (rng.uniform(size=shape) < 0.8)))


def _share(rng, shape):
    return np.float64(np.float32(rng.uniform(size=shape)))


def _mask(rng, shape):
    mask = rng.uniform(size=shape) < 0.7
    mask[-K:] = True
    return mask


def _seed(rng, shape):
    return np.uint32(rng.integers(2**31, size=shape))


def _below(end):
    return lambda rng, shape: np.uint8(rng.integers(end, size=shape))


def _counts(rng, shape):
    return np.int32(rng.integers(9, size=shape) * (rng.uniform(size=shape) < 0.7))


def _float_bytes(rng, shape):
    return np.float32(rng.normal(size=(shape[0], shape[1] // 4))).view(np.uint8)


_number = _below(K)
_NEEDS_KEY = ("", _seed)
_BOOKS, _X = ("MKd", normal), ("ND", normal)
_QUERIES, _NUMBERS = ("QD", normal), ("NM", _number)
_WIDE, _ROW_MASK = ("MKD", normal), ("N", _mask)
_METRICS = tuple({"metric": metric} for metric in product.METRICS)
_TEMPERATURES = ({"temperature": 0.5}, {"temperature": 3.0})
# Vectors 1e4 long make logits of some 1e10 here, from which a compiled softmax overflows.
_COLD = ({"temperature": 0.01},)


# Product quantization.


def _split(x):
    return np.stack(np.split(x, M, axis=1))


def _tables(codebooks, queries, metric):
    pairs = zip(_split(queries), codebooks, strict=True)
    return np.stack([oracles.distances(*pair, metric) for pair in pairs], axis=1)


def _distances(codebooks, queries, assignments, metric):
    return oracles.distances(queries, oracles.decode(codebooks, assignments), metric)


def _quantized(codebooks, x, temperature=None):
    return oracles.decode(codebooks, oracles.encode(codebooks, x))


def _moved_weights(codebooks, x, at, one_hot, temperature, noise=0.0):
    """a C with a = soft + constant, the constant making a the one-hot where it stands."""
    soft, before = (oracles.soft_assign(*pair, temperature, noise) for pair in ((codebooks, x), at))
    return oracles.mix(one_hot + soft - before, codebooks)


def _quantize_surrogate(codebooks, x, at, temperature):
    one_hot = np.eye(K)[oracles.encode(*at).T]
    return _moved_weights(codebooks, x, at, one_hot, temperature)


def _identity_surrogate(codebooks, x, at):
    return oracles.decode(codebooks, oracles.encode(*at)) + x - at[1]


def _gumbel_noise(seed):
    return np.float64(jax.random.gumbel(jax.random.key(seed), (M, SIZES["N"], K)))


def _gumbel_assign(seed, codebooks, x, temperature):
    return oracles.soft_assign(codebooks, x, temperature, _gumbel_noise(seed))


def _gumbel_quantize(seed, codebooks, x, temperature):
    drawn = np.argmax(_gumbel_assign(seed, codebooks, x, temperature), axis=-1)
    return oracles.decode(codebooks, drawn.T)


def _gumbel_surrogate(seed, codebooks, x, at, temperature):
    noise = _gumbel_noise(seed)
    one_hot = np.eye(K)[np.argmax(_gumbel_assign(*at, temperature), axis=-1)]
    return _moved_weights(codebooks, x, at[1:], one_hot, temperature, noise)


def _keyed(function):
    """Takes a seed for the key, which float64 oracles can be handed, too."""

    def call(seed, codebooks, x, *, temperature):
        return function(jax.random.key(seed), codebooks, x, temperature=temperature)

    return call


def _fit_product(seed, x, mask, *, num_iterations):
    return product.fit_codebooks(
        jax.random.key(seed),
        x,
        num_codebooks=M,
        num_codewords=K,
        num_iterations=num_iterations,
        mask=mask,
    )


def _fit_product_oracle(seed, x, mask, num_iterations):
    keys = jax.random.split(jax.random.key(seed), M)
    starts = [_plus_plus_oracle(key, x, mask) for key, x in zip(keys, _split(x), strict=True)]
    return _refine_oracle(starts, x, mask, num_iterations)


def _refine(codebooks, x, mask, *, num_iterations):
    return product.refine_codebooks(codebooks, x, num_iterations, mask)


def _refine_oracle(codebooks, x, mask, num_iterations):
    pairs = zip(codebooks, _split(x), strict=True)
    return np.stack([oracles.lloyd(*pair, mask, num_iterations) for pair in pairs])


_rows_of_product = functools.partial(Case, local="N", fixed="MdD")
_PRODUCT = (
    Case(
        "product.split",
        lambda x: product.split(x, M),
        oracle=_split,
        arguments=(_X,),
        result="MNd",
        dtypes="x",
        trained=(0,),
        local="N",
    ),
    _rows_of_product(
        "product.encode", product.encode, oracles.encode, (_BOOKS, _X), "NM", dtypes="uint8"
    ),
    _rows_of_product(
        "product.encode (in tiles)",
        product.encode,
        oracles.encode,
        (_BOOKS, ("RD", normal)),
        "RM",
        dtypes="uint8",
        local="R",
    ),
    Case(
        "product.decode",
        product.decode,
        oracle=oracles.decode,
        arguments=(_BOOKS, _NUMBERS),
        result="ND",
        dtypes="codebooks",
        trained=(0,),
        local="N",
    ),
    _rows_of_product(
        "product.soft_assign",
        product.soft_assign,
        oracle=oracles.soft_assign,
        arguments=(_BOOKS, _X),
        result="MNK",
        settings=_COLD + _TEMPERATURES,
        trained=(0, 1),
        far_tolerance=1e-2,
    ),
    _rows_of_product(
        "product.quantize",
        product.quantize,
        oracle=_quantized,
        arguments=(_BOOKS, _X),
        result="ND",
        dtypes="x",
        settings=_TEMPERATURES,
        trained=(0, 1),
        surrogate=_quantize_surrogate,
    ),
    _rows_of_product(
        "product.quantize_identity",
        product.quantize_identity,
        oracle=_quantized,
        arguments=(_BOOKS, _X),
        result="ND",
        dtypes="x",
        trained=(0, 1),
        surrogate=_identity_surrogate,
    ),
    _rows_of_product(
        "product.distances",
        product.distances,
        oracle=_distances,
        arguments=(_BOOKS, _QUERIES, _NUMBERS),
        result="QN",
        settings=_METRICS,
        trained=(0, 1),
        local="Q",
        fixed="dD",
    ),
    _rows_of_product(
        "product.lookup_tables",
        product.lookup_tables,
        oracle=_tables,
        arguments=(_BOOKS, _QUERIES),
        result="QMK",
        settings=_METRICS[:2],
        trained=(0, 1),
        local="Q",
    ),
    Case(
        "product.fit_codebooks",
        _fit_product,
        oracle=_fit_product_oracle,
        arguments=(_NEEDS_KEY, _X, _ROW_MASK),
        result="MKd",
        settings=({"num_iterations": 0}, {"num_iterations": 3}),
        open_at_ties=True,
    ),
    Case(
        "product.refine_codebooks",
        _refine,
        oracle=_refine_oracle,
        arguments=(_BOOKS, _X, _ROW_MASK),
        result="MKd",
        settings=({"num_iterations": 1}, {"num_iterations": 3}),
        open_at_ties=True,
        fixed="MdD",
    ),
    _rows_of_product(
        "gumbel.gumbel_assign",
        _keyed(gumbel.gumbel_assign),
        oracle=_gumbel_assign,
        arguments=(_NEEDS_KEY, _BOOKS, _X),
        result="MNK",
        settings=_TEMPERATURES,
        trained=(1, 2),
        local="",  # devices that share a key would draw alike
        far_tolerance=1e-2,
    ),
    _rows_of_product(
        "gumbel.gumbel_quantize",
        _keyed(gumbel.gumbel_quantize),
        oracle=_gumbel_quantize,
        arguments=(_NEEDS_KEY, _BOOKS, _X),
        result="ND",
        dtypes="x",
        settings=_TEMPERATURES,
        trained=(1, 2),
        surrogate=_gumbel_surrogate,
        local="",
    ),
    Case(
        "straight_through.straight_through",
        straight_through,
        oracle=lambda hard, soft: hard,
        arguments=(_X, _X),
        result="ND",
        dtypes="hard",
        trained=(0, 1),
        surrogate=lambda hard, soft, at: at[0] + soft - at[1],
        local="N",
    ),
)


# k-means, moving averages, usage.


def _plus_plus_oracle(key, x, mask):
    return oracles.plus_plus(np.float64(jax.random.uniform(key, (K,))), x, mask)


def _squared_distances(x, centroids):
    return [[c @ c - 2 * row @ c for c in centroids] for row in x]


def _ema_init(codebooks, assignments, mask):
    rows = np.eye(K)[assignments] * mask[:, None, None]
    return codebooks, rows.sum(axis=0)


def _revive(seed, codebooks, counts, x, threshold):
    codebooks, counts = codebooks.copy(), counts.copy()
    draws = np.asarray(jax.random.uniform(jax.random.key(seed), (M, len(x))))
    for m, part in enumerate(_split(x)):
        dead = np.flatnonzero(counts[m] < threshold)
        fresh = max(np.mean(counts[m]), 2 * threshold)
        codebooks[m, dead] = part[np.argsort(draws[m])[: len(dead)]]
        counts[m, dead] = fresh
    return codebooks, counts


def _update(codebooks, counts, x, assignments, mask=None, *, decay):
    return ema.ema_update(ema.EmaState(codebooks, counts), x, assignments, decay=decay, mask=mask)


def _update_oracle(codebooks, counts, x, assignments, mask=None, *, decay):
    return test_ema.running_sums(codebooks, counts, x, assignments, decay, mask)


_update_case = functools.partial(
    Case,
    function=_update,
    oracle=_update_oracle,
    result="MKd,MK",
    dtypes="float32,float32",
    settings=({"decay": 0.5}, {"decay": 0.99}),
    fixed="dD",
    refused=(0, 2, 3),
)
_state = (("MKd", _kept), ("MK", _positive))
_usage_case = functools.partial(
    Case, function=usage.usage, result="M,M,M,MK", dtypes="float32,int32,float32,int32", fixed="MdD"
)
_POINTS, _CENTROIDS = ("Nd", normal), ("Kd", normal)

# k-means is called by checked functions and checks nothing itself.
_unchecked = functools.partial(Case, refused=())
_STATISTICS = (
    _unchecked(
        "kmeans.squared_distances",
        kmeans.squared_distances,
        oracle=_squared_distances,
        arguments=(_POINTS, _CENTROIDS),
        result="NK",
        trained=(0, 1),
        local="N",
    ),
    _unchecked(
        "kmeans.distances_by_centroid",
        kmeans.distances_by_centroid,
        oracle=lambda x, centroids: np.transpose(_squared_distances(x, centroids)),
        arguments=(_POINTS, _CENTROIDS),
        result="KN",
        trained=(0, 1),
        local="N",
    ),
    _unchecked(
        "kmeans.nearest",
        kmeans.nearest,
        oracle=lambda distances: np.argmin(distances, axis=0),
        arguments=(("KN", normal),),
        result="N",
        dtypes="int32",
        local="N",
    ),
    *(
        _unchecked(
            name,
            kmeans.assign,
            oracle=lambda x, centroids: oracles.encode(centroids[None], x)[:, 0],
            arguments=((letter + "d", normal), _CENTROIDS),
            result=letter,
            dtypes="int32",
            local=letter,
        )
        for name, letter in (("kmeans.assign", "N"), ("kmeans.assign (in tiles)", "R"))
    ),
    _unchecked(
        "kmeans.plus_plus",
        lambda seed, x, mask: kmeans.plus_plus(jax.random.key(seed), x, num_centroids=K, mask=mask),
        oracle=lambda seed, x, mask: _plus_plus_oracle(jax.random.key(seed), x, mask),
        arguments=(_NEEDS_KEY, _POINTS, _ROW_MASK),
        result="Kd",
    ),
    _unchecked(
        "kmeans.draw_row",
        kmeans.draw_row,
        oracle=oracles.draw_row,
        arguments=(("N", _positive), ("", _share)),
        result="",
        dtypes="int32",
    ),
    _unchecked(
        "kmeans.lloyd",
        lambda centroids, x, mask, *, num_iterations: kmeans.lloyd(
            centroids, x, mask=mask, num_iterations=num_iterations
        ),
        oracle=oracles.lloyd,
        arguments=(_CENTROIDS, _POINTS, _ROW_MASK),
        result="Kd",
        settings=({"num_iterations": 1}, {"num_iterations": 3}),
        open_at_ties=True,
    ),
    _unchecked(
        "kmeans.repair_empty",
        kmeans.repair_empty,
        oracle=oracles.repair_empty,
        arguments=(_CENTROIDS, ("K", _counts)),
        result="Kd",
        dtypes="centroids",
    ),
    Case(
        "ema.ema_init",
        lambda codebooks, assignments, mask: ema.ema_init(codebooks, assignments, mask),
        oracle=_ema_init,
        arguments=(_BOOKS, _NUMBERS, _ROW_MASK),
        result="MKd,MK",
        dtypes="float32,float32",
    ),
    _update_case("ema.ema_update", arguments=(*_state, _X, _NUMBERS)),
    _update_case(
        "ema.ema_update (masked)",
        arguments=(*_state, _X, _NUMBERS, _ROW_MASK),
        refused=(0, 2, 3, 4),
    ),
    Case(
        "ema.revive",
        lambda seed, codebooks, counts, x, *, threshold: ema.revive(
            jax.random.key(seed), ema.EmaState(codebooks, counts), x, threshold=threshold
        ),
        oracle=_revive,
        arguments=(_NEEDS_KEY, *_state, _X),
        result="MKd,MK",
        dtypes="float32,float32",
        settings=({"threshold": 0.4}, {"threshold": 1.5}),
        refused=(1, 3),
        fixed="dD",
    ),
    _usage_case("usage.usage", oracle=test_usage.oracle, arguments=(_BOOKS, _X)),
    _usage_case(
        "usage.usage (masked)",
        oracle=lambda codebooks, x, mask: test_usage.oracle(codebooks, x[mask]),
        arguments=(_BOOKS, _X, _ROW_MASK),
    ),
    _unchecked(
        "usage.perplexity",
        usage.perplexity,
        oracle=lambda counts: [
            np.prod([(sum(row) / n) ** (n / sum(row)) for n in row if n]) for row in counts
        ],
        arguments=(("MK", _counts),),
        result="M",
    ),
)


# Binary codes and packed numbers.


def _signs(x):
    return np.where(x >= 0, 1, -1)


def _clipped_surrogate(x, at):
    return _signs(at) + np.clip(x, -1, 1) - np.clip(at, -1, 1)


def _identity_of(hard):
    return lambda x, at: hard(at[0]) + x - at[0]


def _packed(numbers, width):
    return [oracles.packed_as_text(row, width) for row in numbers]


def _unpacked(codes, width, count):
    """Number m is bits m * width and up of the code read as one long number."""
    longs = [int.from_bytes(bytes(row), "little") for row in codes]
    return np.array([[n >> (m * width) & (2**width - 1) for m in range(count)] for n in longs])


def _hamming(queries, database):
    return [
        [sum((int(a) ^ int(b)).bit_count() for a, b in zip(q, d, strict=True)) for d in database]
        for q in queries
    ]


_BITS = ("NT", normal)
_signs_case = functools.partial(
    Case, arguments=(_BITS,), result="NT", dtypes="x", trained=(0,), local="N"
)
_BINARY = (
    _signs_case(
        "binary.sign", binary.sign, oracle=_signs, surrogate=_identity_of(_signs), refused=()
    ),
    _signs_case(
        "binary.clipped_sign",
        binary.clipped_sign,
        oracle=_signs,
        surrogate=lambda x, at: _clipped_surrogate(x, at[0]),
        refused=(),
    ),
    _signs_case(
        "binary.median_sign",
        binary.median_sign,
        oracle=test_binary.halves_oracle,
        surrogate=_identity_of(test_binary.halves_oracle),
        local="",
    ),
    Case(
        "binary.median_thresholds",
        binary.median_thresholds,
        oracle=lambda x: np.median(x, axis=0),
        arguments=(_BITS,),
        result="T",
    ),
    Case(
        "binary.median_thresholds (masked)",
        binary.median_thresholds,
        oracle=lambda x, mask: np.median(x[mask], axis=0),
        arguments=(_BITS, _ROW_MASK),
        result="T",
    ),
    Case(
        "binary.pack",
        binary.pack,
        oracle=lambda signs: _packed(np.uint8(signs >= 0), 1),
        arguments=(("NT", normal),),
        result="NC",
        dtypes="uint8",
        local="N",
    ),
    Case(
        "binary.unpack",
        lambda packed: binary.unpack(packed, SIZES["T"]),
        oracle=lambda packed: 2 * _unpacked(packed, 1, SIZES["T"]) - 1,
        arguments=(("NC", _below(256)),),
        result="NT",
        local="N",
        fixed="C",
    ),
    Case(
        "binary.hamming_distances",
        binary.hamming_distances,
        oracle=_hamming,
        arguments=(("QC", _below(256)), ("NC", _below(256))),
        result="QN",
        dtypes="int32",
        local="Q",
    ),
    Case(
        "packing.pack",
        lambda assignments, *, width: packing.pack(assignments, width),
        oracle=_packed,
        arguments=(_NUMBERS,),
        result="NP",
        dtypes="uint8",
        settings=({"width": 2}, {"width": 3}),
        local="N",
        refused=(),
    ),
    Case(
        "packing.unpack",
        lambda codes, *, width: packing.unpack(codes, width, M),
        oracle=lambda codes, width: _unpacked(codes, width, M),
        arguments=(("NP", _below(256)),),
        result="NM",
        dtypes="uint8",
        settings=({"width": 2}, {"width": 3}),
        local="N",
        fixed="P",
    ),
)


# Residual and additive codebooks.


def _beam(codebooks, x, beam_width=1):
    return np.array([test_residual.beam_oracle(codebooks, row, beam_width) for row in x])


def _fit_residual(seed, x, mask, *, num_iterations):
    return residual.fit_codebooks(
        jax.random.key(seed),
        x,
        num_codebooks=M,
        num_codewords=K,
        num_iterations=num_iterations,
        mask=mask,
    )


def _fit_residual_oracle(seed, x, mask, num_iterations):
    books = []
    for key in jax.random.split(jax.random.key(seed), M):
        start = _plus_plus_oracle(key, x, mask)
        books.append(oracles.lloyd(start, x, mask, num_iterations))
        x = x - books[-1][oracles.encode(books[-1][None], x)[:, 0]]
    return np.stack(books)


def _block_diagonal(codebooks):
    wide = np.zeros((M, K, M * WIDTH))
    for m, book in enumerate(codebooks):
        wide[m, :, m * WIDTH : (m + 1) * WIDTH] = book
    return wide


def _icm(seed, codebooks, x, assignments, *, num_sweeps):
    key = jax.random.key(seed)
    return additive.icm_encode(key, codebooks, x, assignments, num_sweeps=num_sweeps)


def _icm_oracle(seed, codebooks, x, assignments, num_sweeps):
    numbers = assignments.copy()
    for key in jax.random.split(jax.random.key(seed), num_sweeps):
        for m in np.asarray(jax.random.permutation(key, M)):
            for row, target in zip(numbers, x, strict=True):
                others = sum(codebooks[o][row[o]] for o in range(M) if o != m)
                row[m] = oracles.encode(codebooks[m : m + 1], [target - others])[0, 0]
    return numbers


_ADDITIVE = (
    Case(
        "residual.encode",
        residual.encode,
        oracle=_beam,
        arguments=(_WIDE, _X),
        result="NM",
        dtypes="uint8",
        settings=({"beam_width": 1}, {"beam_width": 3}),
        local="N",
    ),
    Case(
        "residual.fit_codebooks",
        _fit_residual,
        oracle=_fit_residual_oracle,
        arguments=(_NEEDS_KEY, _X, _ROW_MASK),
        result="MKD",
        settings=({"num_iterations": 0}, {"num_iterations": 3}),
        open_at_ties=True,
    ),
    Case(
        "additive.block_diagonal",
        additive.block_diagonal,
        oracle=_block_diagonal,
        arguments=(_BOOKS,),
        result="MKD",
        dtypes="codebooks",
        trained=(0,),
    ),
    Case(
        "additive.decode",
        additive.decode,
        oracle=test_additive.decode,
        arguments=(_WIDE, _NUMBERS),
        result="ND",
        dtypes="codebooks",
        trained=(0,),
        local="N",
    ),
    Case(
        "additive.squared_norms",
        additive.squared_norms,
        oracle=lambda *both: np.sum(test_additive.decode(*both) ** 2, axis=1),
        arguments=(_WIDE, _NUMBERS),
        result="N",
        trained=(0,),
        local="N",
    ),
    Case(
        "additive.distances",
        additive.distances,
        oracle=lambda books, queries, numbers, metric: oracles.distances(
            queries, test_additive.decode(books, numbers), metric
        ),
        arguments=(_WIDE, _QUERIES, _NUMBERS),
        result="QN",
        settings=_METRICS,
        trained=(0, 1),
        local="Q",
    ),
    Case(
        "additive.icm_encode",
        _icm,
        oracle=_icm_oracle,
        arguments=(_NEEDS_KEY, _WIDE, _X, _NUMBERS),
        result="NM",
        dtypes="uint8",
        settings=({"num_sweeps": 1}, {"num_sweeps": 3}),
        local="N",
    ),
    Case(
        "additive.ridge_update",
        additive.ridge_update,
        oracle=test_additive.ridge_oracle,
        arguments=(_WIDE, _X, _NUMBERS),
        result="MKD",
        settings=({"ridge": 0.1}, {"ridge": 10.0}),
        tolerance=1e-4,
        far_tolerance=1e-4,
    ),
)


# Rotations: columns are open up to their sign, fits up to the optimum that they end in.


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
        _nearest_orthogonal(projected.T @ _signs(projected)),
    )


def _itq_due(seed, x, mask):
    axes = np.linalg.eigh(_covariance(x, mask))[1][:, -SIZES["B"] :]
    return np.mean(x[mask], axis=0), np.eye(SIZES["B"]), axes @ axes.T, np.eye(SIZES["B"])


_ROTATIONS = (
    Case(
        "rotation.random_rotation",
        lambda seed: rotation.random_rotation(jax.random.key(seed), M * WIDTH),
        oracle=lambda seed: np.eye(M * WIDTH),
        arguments=(_NEEDS_KEY,),
        result="DD",
        unique=lambda results, seed: (results[0].T @ results[0],),
    ),
    Case(
        "rotation.opq_parametric",
        lambda x, mask: rotation.opq_parametric(x, num_codebooks=M, mask=mask),
        oracle=_opq_parametric,
        arguments=(_X, _ROW_MASK),
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
        arguments=(_NEEDS_KEY, _X, _ROW_MASK),
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
        arguments=(_NEEDS_KEY, _X, _ROW_MASK),
        result="D,DB",
        dtypes="float32,float32",
        unique=_itq_at_rest,
        open_at_ties=True,
        tolerance=1e-4,
        far_tolerance=1e-4,
    ),
)


# Codecs: their fields are the first arguments.


def _due_bits(offset, projection, x):
    return np.uint8((x - offset) @ projection >= 0)


def _measured(queries, decoded, metric):
    return oracles.distances(queries, decoded, metric)


def _product_decoded(codebooks, turn, codes):
    return oracles.decode(codebooks, _unpacked(codes, 2, M)) @ turn.T


def _residual_decoded(codebooks, codes):
    return test_additive.decode(codebooks, _unpacked(codes, 2, M))


def _floats(codes):
    return np.float64(np.ascontiguousarray(codes).view("<f4"))


_TURN, _PROJECTION, _OFFSET = ("DD", _orthonormal), ("DB", _orthonormal), ("D", normal)
_CODES, _BIT_CODES = ("NP", _below(K**M)), ("NP", _below(2 ** SIZES["B"]))
_FLOATS = ("NF", _float_bytes)
_codec = functools.partial(Case, local="N", fixed="DPF")
_measure = functools.partial(_codec, result="QN", local="Q", settings=_METRICS)
_CODECS = (
    _codec(
        "ProductCodec.encode",
        lambda codebooks, turn, x: ProductCodec(codebooks, turn).encode(x),
        oracle=lambda codebooks, turn, x: _packed(oracles.encode(codebooks, x @ turn), 2),
        arguments=(_BOOKS, _TURN, _X),
        result="NP",
        dtypes="uint8",
        refused=(2,),
    ),
    _codec(
        "ProductCodec.decode",
        lambda codebooks, turn, codes: ProductCodec(codebooks, turn).decode(codes),
        oracle=_product_decoded,
        arguments=(_BOOKS, _TURN, _CODES),
        result="ND",
        refused=(2,),
    ),
    _measure(
        "ProductCodec.distances",
        lambda codebooks, turn, queries, codes, *, metric: ProductCodec(
            codebooks, turn, metric
        ).distances(queries, codes),
        oracle=lambda codebooks, turn, queries, codes, metric: _measured(
            queries, _product_decoded(codebooks, turn, codes), metric
        ),
        arguments=(_BOOKS, _TURN, _QUERIES, _CODES),
        refused=(2, 3),
    ),
    _codec(
        "ProductCodec.assignments",
        lambda codebooks, codes: ProductCodec(codebooks).assignments(codes),
        oracle=lambda codebooks, codes: _unpacked(codes, 2, M),
        arguments=(_BOOKS, _CODES),
        result="NM",
        dtypes="uint8",
        refused=(1,),
    ),
    _codec(
        "BinaryCodec.encode",
        lambda offset, projection, x: BinaryCodec(SIZES["B"], offset, projection).encode(x),
        oracle=lambda offset, projection, x: _packed(_due_bits(offset, projection, x), 1),
        arguments=(_OFFSET, _PROJECTION, _X),
        result="NP",
        dtypes="uint8",
        refused=(2,),
    ),
    _codec(
        "BinaryCodec.decode",
        lambda offset, projection, packed: BinaryCodec(SIZES["B"], offset, projection).decode(
            packed
        ),
        oracle=lambda offset, projection, packed: (
            offset + (2 * _unpacked(packed, 1, SIZES["B"]) - 1) @ projection.T
        ),
        arguments=(_OFFSET, _PROJECTION, _BIT_CODES),
        result="ND",
        refused=(2,),
    ),
    _codec(
        "BinaryCodec.distances",
        lambda offset, projection, queries, codes: BinaryCodec(
            SIZES["B"], offset, projection
        ).distances(queries, codes),
        oracle=lambda offset, projection, queries, codes: _hamming(
            _packed(_due_bits(offset, projection, queries), 1), codes
        ),
        arguments=(_OFFSET, _PROJECTION, _QUERIES, _BIT_CODES),
        result="QN",
        dtypes="int32",
        local="Q",
        refused=(2, 3),
    ),
    _codec(
        "ResidualCodec.encode",
        lambda codebooks, x, *, beam_width: ResidualCodec(codebooks, beam_width=beam_width).encode(
            x
        ),
        oracle=lambda codebooks, x, beam_width: _packed(_beam(codebooks, x, beam_width), 2),
        arguments=(_WIDE, _X),
        result="NP",
        dtypes="uint8",
        settings=({"beam_width": 1}, {"beam_width": 3}),
        refused=(1,),
    ),
    _codec(
        "ResidualCodec.decode",
        lambda codebooks, codes: ResidualCodec(codebooks).decode(codes),
        oracle=_residual_decoded,
        arguments=(_WIDE, _CODES),
        result="ND",
        refused=(1,),
    ),
    _measure(
        "ResidualCodec.distances",
        lambda codebooks, queries, codes, *, metric: ResidualCodec(codebooks, metric).distances(
            queries, codes
        ),
        oracle=lambda codebooks, queries, codes, metric: _measured(
            queries, _residual_decoded(codebooks, codes), metric
        ),
        arguments=(_WIDE, _QUERIES, _CODES),
        refused=(1, 2),
    ),
    _codec(
        "ResidualCodec.assignments",
        lambda codebooks, codes: ResidualCodec(codebooks).assignments(codes),
        oracle=lambda codebooks, codes: _unpacked(codes, 2, M),
        arguments=(_WIDE, _CODES),
        result="NM",
        dtypes="uint8",
        refused=(1,),
    ),
    _codec(
        "FloatCodec.encode",
        lambda x: FloatCodec(SIZES["D"]).encode(x),
        oracle=lambda x: np.ascontiguousarray(x.astype("<f4")).view(np.uint8),
        arguments=(_X,),
        result="NF",
        dtypes="uint8",
    ),
    _codec(
        "FloatCodec.decode",
        lambda codes: FloatCodec(SIZES["D"]).decode(codes),
        oracle=_floats,
        arguments=(_FLOATS,),
        result="ND",
    ),
    _measure(
        "FloatCodec.distances",
        lambda queries, codes, *, metric: FloatCodec(SIZES["D"], metric).distances(queries, codes),
        oracle=lambda queries, codes, metric: _measured(queries, _floats(codes), metric),
        arguments=(_QUERIES, _FLOATS),
    ),
)

CASES = (*_PRODUCT, *_STATISTICS, *_BINARY, *_ADDITIVE, *_ROTATIONS, *_CODECS)
