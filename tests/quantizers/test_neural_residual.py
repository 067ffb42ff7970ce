"""Networks decode and encode as float64 loops do, and training beats residual quantization."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.errors import InputError
from quantjax.quantizers import NeuralResidualCodec, additive, neural_residual, neural_training
from tests.quantizers import oracles

M, K, D, L, H, ROWS = 3, 8, 5, 2, 6, 40
RNG = np.random.default_rng(0)
X = np.float32(RNG.normal(size=(ROWS, D)))
NUMBERS = np.uint8(RNG.integers(K, size=(ROWS, M)))
SIZES = {"num_codebooks": M, "num_codewords": K, "hidden_width": 16, "num_blocks": 1}
SEARCH = {"beam_width": 2, "num_candidates": 6}


def networks(rng=RNG):
    shapes = {
        "codebooks": (M, K, D),
        "mixing": (M - 1, 2 * D, D),
        "offsets": (M - 1, D),
        "expansions": (M - 1, L, D, H),
        "contractions": (M - 1, L, H, D),
        "lookup": (M, K, D),
    }
    arrays = (jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32) for shape in shapes.values())
    return neural_residual.Networks(*arrays)


NETWORKS = networks()
PLAIN = NETWORKS._replace(
    mixing=jnp.zeros_like(NETWORKS.mixing),
    offsets=jnp.zeros_like(NETWORKS.offsets),
    contractions=jnp.zeros_like(NETWORKS.contractions),
    lookup=NETWORKS.codebooks,
)


def term(nets, m, k, before):
    """f_m of one codeword and one sum, in float64, by the published equations."""
    codeword = np.float64(nets.codebooks[m][k])
    if m == 0:
        return codeword
    both = np.concatenate([codeword, before])
    z = codeword + np.float64(nets.mixing[m - 1]).T @ both + np.float64(nets.offsets[m - 1])
    for each in range(L):
        hidden = np.maximum(0, np.float64(nets.expansions[m - 1, each]).T @ z)
        z = z + np.float64(nets.contractions[m - 1, each]).T @ hidden
    return z


def decoded(nets, numbers):
    total = np.zeros(D)
    for m, k in enumerate(numbers):
        total = total + term(nets, m, k, total)
    return total


def searched(nets, x, beam_width, num_candidates):
    """The best of a beam, in float64; each step looks at the nearest of all pairs."""
    beams = [((), np.zeros(D))]
    for m in range(M):
        pairs = [(beam, k) for beam in beams for k in range(K)]
        if m and num_candidates is not None:
            look = np.float64(nets.lookup[m])
            pairs.sort(key=lambda pair: np.sum((x - pair[0][1] - look[pair[1]]) ** 2))
            pairs = pairs[:num_candidates]
        found = [((*a, k), total + term(nets, m, k, total)) for (a, total), k in pairs]
        beams = sorted(found, key=lambda beam: np.sum((x - beam[1]) ** 2))[:beam_width]
    return beams[0][0]


def mean_error(nets, x, **search):
    numbers = neural_residual.encode(nets, x, **search)
    return float(np.mean(np.sum(np.square(x - neural_residual.decode(nets, numbers)), axis=1)))


def test_decode_equals_float64_loops():
    got = neural_residual.decode(NETWORKS, NUMBERS)
    assert (got.dtype, got.shape) == (jnp.float32, (ROWS, D))
    due = [decoded(NETWORKS, row) for row in NUMBERS]
    np.testing.assert_allclose(got, due, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beam_width", [1, 3, K])
def test_encode_equals_a_search_of_all_codewords_in_float64(beam_width):
    got = neural_residual.encode(NETWORKS, X, beam_width=beam_width)
    assert (got.dtype, got.shape) == (jnp.uint8, (ROWS, M))
    due = [searched(NETWORKS, x, beam_width, None) for x in X[:8]]
    np.testing.assert_array_equal(got[:8], due)


@pytest.mark.by_default("1-5", "3-7")
@pytest.mark.parametrize(("beam_width", "num_candidates"), [(1, 1), (1, 5), (3, 3), (3, 7)])
def test_encode_runs_networks_on_the_nearest_candidates_alone(beam_width, num_candidates):
    search = {"beam_width": beam_width, "num_candidates": num_candidates}
    got = neural_residual.encode(NETWORKS, X, **search)
    np.testing.assert_array_equal(got[:8], [searched(NETWORKS, x, **search) for x in X[:8]])


def test_a_row_is_encoded_alike_among_few_and_many():
    many = jnp.asarray(np.random.default_rng(1).normal(size=(2100, D)), jnp.float32)
    got = neural_residual.encode(NETWORKS, many, **SEARCH)
    np.testing.assert_array_equal(got[:50], neural_residual.encode(NETWORKS, many[:50], **SEARCH))


def test_a_wide_beam_finds_better_codes_and_no_code_is_better_than_the_best():
    errors = [mean_error(NETWORKS, X, beam_width=width) for width in (1, K)]
    assert errors[1] < errors[0]
    everything = np.array(list(itertools.product(range(K), repeat=M)))
    gaps = X[:, None] - np.asarray(neural_residual.decode(NETWORKS, everything))
    assert errors[1] >= np.mean(np.min(np.sum(np.square(gaps), axis=-1), axis=1)) - 1e-5


@pytest.mark.parametrize("beam_width", [1, 4])
def test_networks_of_zeros_are_residual_quantization(beam_width):
    np.testing.assert_array_equal(
        neural_residual.encode(PLAIN, X, beam_width=beam_width),
        additive.encode(PLAIN.codebooks, X, beam_width=beam_width),
    )
    np.testing.assert_allclose(
        neural_residual.decode(PLAIN, NUMBERS),
        additive.decode(PLAIN.codebooks, NUMBERS),
        rtol=1e-5,
        atol=1e-6,
    )


@functools.cache
def trained():
    rng = np.random.default_rng(3)
    # A product of factors: the spread of a residual depends on where the row lies.
    x = rng.normal(size=(3000, 2)) @ rng.normal(size=(2, 6))
    x = jnp.asarray(10 + 3 * np.tanh(x) * (1 + np.abs(x[:, :1])), jnp.float32)
    errors = []
    fitted = neural_training.fit(
        jax.random.key(0), x[:2000], **SIZES, **SEARCH,
        num_epochs=30, batch_size=100, on_epoch=lambda epoch, error: errors.append((epoch, error)),
    )  # fmt: skip
    return x, fitted, errors


def test_training_beats_residual_quantization_on_other_rows():
    x, fitted, errors = trained()
    books = additive.fit_codebooks(jax.random.key(0), x[:2000], num_codebooks=M, num_codewords=K)
    numbers = additive.encode(books, x[2000:], beam_width=4)
    plain = np.mean(np.sum(np.square(x[2000:] - additive.decode(books, numbers)), axis=1))
    assert mean_error(fitted, x[2000:], **SEARCH) < 0.95 * plain
    assert [epoch for epoch, _ in errors] == list(range(1, 31))
    assert errors[-1][1] < 0.95 * errors[0][1]
    # The error of the last epoch is that of its own rows, in their own units.
    assert errors[-1][1] == pytest.approx(mean_error(fitted, x[:2000], **SEARCH), rel=0.05)


OPTIONS = {"num_epochs": 2, "batch_size": 20, "learning_rate": 0.01, **SEARCH}


@functools.cache
def fitted_shortly(seed):
    return neural_training.fit(jax.random.key(seed), X, **SIZES, **OPTIONS)


def test_epochs_in_pieces_are_the_fit():
    state = neural_training.init(jax.random.key(5), X, **SIZES)
    for _ in range(2):
        state, _ = neural_training.fit_epoch(state, X, **OPTIONS)
        state = jax.tree.map(jnp.array, state)
    for one, other in zip(neural_training.networks_of(state), fitted_shortly(5), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(fitted_shortly(6).expansions, fitted_shortly(5).expansions)


def test_float64_arrays_give_the_same_networks_in_float32():
    with jax.enable_x64(True):
        got = neural_training.fit(jax.random.key(5), np.float64(X), **SIZES, **OPTIONS)
    for one, other in zip(got, fitted_shortly(5), strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_networks_of_a_state_have_the_units_of_the_rows():
    state = neural_training.init(jax.random.key(0), X, **SIZES)
    state = state._replace(networks=NETWORKS, mean=jnp.arange(5.0), scale=jnp.float32(3))
    due = 3 * neural_residual.decode(NETWORKS, NUMBERS) + jnp.arange(5.0)
    got = neural_residual.decode(neural_training.networks_of(state), NUMBERS)
    np.testing.assert_allclose(got, due, rtol=1e-4, atol=1e-4)


def test_the_lookup_holds_the_moving_mean_residual_of_each_codeword():
    state = neural_training.init(jax.random.key(0), X, **SIZES)
    rows = (X - state.mean) / state.scale
    options = {"num_epochs": 1, "batch_size": ROWS, "learning_rate": 0.0, "beam_width": 1}
    after, _ = neural_training.fit_epoch(state, X, **options, num_candidates=K)
    books = state.networks.codebooks
    numbers = np.asarray(neural_residual.encode(state.networks, rows))
    for m, k in itertools.product(range(M), range(K)):
        mine = numbers[:, m] == k
        before = sum((np.float64(books[j])[numbers[mine, j]] for j in range(m)), np.zeros(D))
        old = 0.99 * 0.01 * ROWS / K
        total = np.sum(np.float64(rows[mine]) - before, axis=0) + old * np.float64(books[m, k])
        due = total / (np.sum(mine) + old)
        np.testing.assert_allclose(after.networks.lookup[m, k], due, rtol=1e-4, atol=1e-4)


def test_the_gradient_goes_through_the_chosen_codewords_alone():
    state = neural_training.init(jax.random.key(0), X, **SIZES)
    options = {"num_epochs": 1, "batch_size": 1, "learning_rate": 0.01, **SEARCH}
    after, _ = neural_training.fit_epoch(state, X[:1], **options)
    moved = np.any(np.asarray(after.networks.codebooks != state.networks.codebooks), axis=-1)
    np.testing.assert_array_equal(moved.sum(axis=1), [1] * M)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_the_codec_measures_to_what_it_decodes(metric):
    codec = NeuralResidualCodec(*NETWORKS, metric=metric, **SEARCH)
    codec.check()
    assert (codec.bits, codec.num_bytes) == (9, 2)
    codes = codec.encode(X)
    np.testing.assert_array_equal(
        codec.assignments(codes), neural_residual.encode(NETWORKS, X, **SEARCH)
    )
    due = oracles.distances(X[:4], np.asarray(codec.decode(codes)), metric)
    np.testing.assert_allclose(codec.distances(X[:4], codes), due, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"beam_width": 0}, "beam_width must be from 1 to 8, got 0"),
        ({"beam_width": 9}, "beam_width must be from 1 to 8, got 9"),
        ({"num_candidates": 0}, "num_candidates must be from 1 to 8, got 0"),
        ({"beam_width": 2, "num_candidates": 1}, "num_candidates must be from 2 to 16, got 1"),
        ({"beam_width": 2, "num_candidates": 17}, "num_candidates must be from 2 to 16, got 17"),
    ],
)
def test_a_search_out_of_range_is_refused(search, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        neural_residual.encode(NETWORKS, X, **search)
    if len(search) == 2:
        with pytest.raises(InputError, match=f"^{message}$"):
            NeuralResidualCodec(*NETWORKS, **search).check()


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("mixing", r"mixing must have shape \(2, 10, 5\), got \(1, 10, 5\)"),
        ("offsets", r"offsets must have shape \(2, 5\), got \(1, 5\)"),
        ("expansions", r"expansions must have shape \[2, L, 5, H\], got \(1, 2, 5, 6\)"),
        ("contractions", r"contractions must have shape \(2, 2, 6, 5\), got \(1, 2, 6, 5\)"),
        ("lookup", r"lookup must have shape \(3, 8, 5\), got \(2, 8, 5\)"),
    ],
)
def test_networks_that_do_not_fit_are_refused(field, message):
    wrong = NETWORKS._replace(**{field: getattr(NETWORKS, field)[1:]})
    with pytest.raises(InputError, match=f"^{message}$"):
        neural_residual.decode(wrong, NUMBERS)
    with pytest.raises(InputError, match=f"^{message}$"):
        NeuralResidualCodec(*wrong).check()


def test_networks_without_a_block_are_refused():
    wrong = NETWORKS._replace(
        expansions=NETWORKS.expansions[:, :0], contractions=NETWORKS.contractions[:, :0]
    )
    with pytest.raises(InputError, match=r"^networks must have a block at least, got none$"):
        neural_residual.decode(wrong, NUMBERS)


def test_a_single_codebook_has_no_network():
    nets = neural_residual.Networks(
        NETWORKS.codebooks[:1], *(each[:0] for each in NETWORKS[1:5]), NETWORKS.lookup[:1]
    )
    numbers = neural_residual.encode(nets, X, **SEARCH)
    np.testing.assert_array_equal(numbers, additive.encode(nets.codebooks, X))
    np.testing.assert_array_equal(
        neural_residual.decode(nets, numbers), nets.codebooks[0][numbers[:, 0]]
    )


def test_wrong_rows_and_numbers_are_refused():
    with pytest.raises(InputError, match=r"^x must have shape \[N, 5\] for codebooks \(3, 8, 5\)"):
        neural_residual.encode(NETWORKS, X[:, :4])
    with pytest.raises(InputError, match=r"^x must be numbers, got NaN in row 1"):
        neural_residual.encode(NETWORKS, np.where(np.arange(ROWS)[:, None] == 1, np.nan, X))
    with pytest.raises(InputError, match=r"^assignments must have shape \[N, 3\], got \(40, 2\)$"):
        neural_residual.decode(NETWORKS, NUMBERS[:, :2])
    fit = functools.partial(neural_training.fit, jax.random.key(0), X, **{**SIZES, **SEARCH})
    with pytest.raises(InputError, match=r"^batch_size must be from 1 to 40, the rows, got 41$"):
        fit(batch_size=41)
    with pytest.raises(InputError, match=r"^hidden_width must be at least 1, got 0$"):
        fit(hidden_width=0, batch_size=4)
    with pytest.raises(InputError, match=r"^num_blocks must be at least 1, got 0$"):
        fit(num_blocks=0, batch_size=4)
