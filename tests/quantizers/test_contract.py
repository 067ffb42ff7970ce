"""What every quantizer promises; a new one is tested by a row in its module's `*_cases.py`."""

import functools
import importlib
import inspect
import itertools
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import quantizers
from tests.quantizers import case as cases
from tests.quantizers.runs import (
    CASES,
    alone,
    assert_close,
    assert_equal_runs,
    axes_of,
    cast,
    compiled,
    compiled_side_by_side,
    due_dtypes,
    due_leaves,
    each_of,
    in_float64,
    named,
    unique,
    weights_of,
)

_NEURAL = {
    "neural_residual": ["check", "check_search", "decode", "encode", "search", "sums"],
    "neural_training": ["fit", "fit_epoch", "init", "networks_of"],
    "NeuralResidualCodec": ["assignments", "check", "decode", "distances", "encode"],
}
NO_ROWS = {
    "Codec": "a protocol: its implementations have rows",
    "product.root": "of any shape: every row of cosine distances, at zero vectors, too",
    "kmeans.power_of_two": "of any shape: test_far_from_origin.py",
    "kmeans.frame": "a change of coordinates: test_far_from_origin.py",
    "kmeans.far_middle": "a change of coordinates: test_far_from_origin.py",
    "precision.matmul": "a product in float32: all that multiplies runs through it",
    "precision.not_negative": "the last step of l2 distances, which are rows",
    "ProductCodec.rotate": "a step of ProductCodec.distances, which is a row",
    "precision.two_part_sum": "of pairs of numbers: test_far_from_origin.py",
    "precision.two_part_product": "of pairs of numbers: test_far_from_origin.py",
    "precision.in_range": "refuses and returns its argument: test_far_from_origin.py",
    "product.distance_gaps": "behind soft_assign and gumbel_assign, whose rows run through it",
    "product.mixtures": "every row of mixed codewords runs through it",
    "product.look_up": "every row of distances to codes runs through it",
    "product.floating": "of types, not arrays: test_edge_inputs.py",
    "packing.pack_bits": "every codec row's encoding runs through it",
    "packing.unpack_bits": "every codec row's decoding runs through it",
    "kmeans.over_tiles": "applies a function: the rows in tiles run through it",
    "product.check_metric": "refuses and returns nothing: test_product.py",
    "product.check_codebooks": "refuses and returns nothing: every product row's wrong shapes",
    "product.check_shapes": "refuses and returns nothing: every product row's wrong shapes",
    "kmeans.check_num_rows": "refuses and returns nothing: test_product_fit.py",
    "packing.check_num_codewords": "refuses and returns nothing: test_product.py",
    "additive.check_codebooks": "refuses and returns nothing: every additive row's wrong shapes",
    "packing.check_codes": "refuses and returns nothing: every codec row's wrong shapes",
    **{
        f"{codec}.check": "refuses and returns nothing: test_artefact.py"
        for codec in ("ProductCodec", "BinaryCodec", "ResidualCodec", "FloatCodec", "ClassCodec")
    },
    **{
        f"{owner}.{name}": "test_neural_residual.py"
        for owner, names in _NEURAL.items()
        for name in names
    },
    "packing.bits_per_codeword": "of whole numbers, not arrays: test_packing.py",
    "packing.num_codebooks": "of whole numbers, not arrays: test_packing.py",
    "scalar.codebooks": "of whole numbers, not arrays: test_scalar.py",
    "packing.num_codewords": "of whole numbers, not arrays: test_packing.py",
}

every_case = each_of(CASES)
# The oracle takes long over so many rows, and they are no more awkward than a few.
short_cases = [case for case in CASES if "R" not in "".join(axes_of(case))]
every_short_case = each_of(short_cases)
few_by_default = pytest.mark.by_default(
    "product.encode",
    "product.quantize",
    "kmeans.lloyd",
    "ema.ema_update (masked)",
    "binary.median_sign",
    "additive.encode",
    "rotation.itq",
    "ProductCodec.distances",
)
every_trained_case = each_of([case for case in CASES if case.trained])
# A straight-through function's gradient is not its own derivative: `surrogate` says whose it is.
every_smooth_case = each_of([case for case in CASES if case.trained and case.surrogate is None])
every_checked_case = each_of([case for case in CASES if case.refused != ()])


def public_names():
    for module in pkgutil.iter_modules(quantizers.__path__):
        members = vars(importlib.import_module(f"{quantizers.__name__}.{module.name}"))
        for name, member in members.items():
            own = getattr(member, "__module__", "").endswith(f"quantizers.{module.name}")
            if name.startswith("_") or not own:
                continue
            if callable(member) and not inspect.isclass(member):  # jitted ones, too
                yield f"{module.name}.{name}"
            elif inspect.isclass(member) and hasattr(member, "encode"):
                methods = inspect.getmembers(member, inspect.isfunction)
                yield from (f"{name}.{method}" for method, _ in methods if method[0] != "_")


def test_every_public_function_is_a_row_or_exempt():
    rows = {case.name.split()[0] for case in CASES}
    public = {name for name in public_names() if name.split(".")[0] not in NO_ROWS}
    assert rows == public - set(NO_ROWS)
    assert set(NO_ROWS) - {"Codec"} <= public
    assert len({case.name for case in CASES}) == len(CASES)


@every_case
def test_value_equals_the_float64_oracle(case):
    arguments = cases.draw(case, seed=0)
    for setting, options in enumerate(case.settings):
        _, got = alone(case.name, setting, seed=0)
        assert [leaf.shape for leaf in got] == [
            cases.shape_of(axes) for axes in case.result.split(",")
        ]
        assert [leaf.dtype for leaf in got] == due_dtypes(case, cast(case, arguments))
        due = due_leaves(case, arguments, options)
        assert_close(unique(case, got, arguments), due, rtol=2e-5, share=case.tolerance)


@every_case
def test_dtypes_are_the_same_under_x64_and_in_bfloat16(case):
    runs = [(True, jnp.float32, options) for options in case.settings]
    for x64, dtype, options in [*runs, (False, jnp.bfloat16, case.settings[-1])]:
        with jax.enable_x64(x64):
            given = cast(case, cases.draw(case, seed=0), dtype)
            function = functools.partial(case.function, **options)
            got = jax.tree.leaves(jax.eval_shape(function, *given))
            assert [leaf.dtype for leaf in got] == due_dtypes(case, given)


@every_case
def test_every_keyword_is_varied_and_counts(case):
    for parameter in inspect.signature(case.function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "mask":
            given = [options.get(parameter.name, parameter.default) for options in case.settings]
            assert len(set(given)) > 1, f"{parameter.name} takes one value only"
    arguments = cases.draw(case, seed=0)
    due = [due_leaves(case, arguments, options) for options in case.settings]
    if case.surrogate is not None:  # whose settings may count in the gradient alone
        moved = [1.1 * x if i in case.trained else x for i, x in enumerate(arguments)]
        due = [[case.surrogate(*moved, at=arguments, **options)] for options in case.settings]
    for one, other in itertools.combinations(due, 2):
        pairs = zip(one, other, strict=True)
        assert not all(np.allclose(*pair, rtol=1e-3) for pair in pairs), "settings alike"


@every_trained_case
def test_gradient_equals_the_difference_quotient_of_the_oracle(case):
    arguments, rng = cases.draw(case, seed=1), np.random.default_rng(2)
    (weights,) = weights_of(case)
    step = 1e-6
    for setting, options in enumerate(case.settings):
        differentiable = case.oracle
        if case.surrogate is not None:
            differentiable = functools.partial(case.surrogate, at=arguments)
        gradients, _ = alone(case.name, setting, seed=1)
        for position, got in zip(case.trained, gradients, strict=True):
            direction = rng.normal(size=got.shape)
            ends = []
            for sign in (1, -1):
                moved = list(arguments)
                moved[position] = arguments[position] + sign * step * direction
                ends.append(np.sum(np.asarray(differentiable(*moved, **options)) * weights))
            quotient = (ends[0] - ends[1]) / (2 * step)
            assert np.sum(got * direction) == pytest.approx(quotient, rel=2e-4, abs=1e-4)


@every_smooth_case
def test_forward_mode_equals_reverse_mode(case):
    """Reverse mode equals the oracle's difference quotient above, so forward mode does, too.

    The derivative along a direction is the gradient times the direction: one program a case, where
    `check_grads` compiles five.
    """
    arguments, rng = cast(case, cases.draw(case, seed=1)), np.random.default_rng(3)
    (weights,) = weights_of(case)
    trained = [arguments[position] for position in case.trained]
    directions = [np.float32(rng.normal(size=x.shape)) for x in trained]

    def of_trained(*trained):
        full = list(arguments)
        for position, x in zip(case.trained, trained, strict=True):
            full[position] = x
        return case.function(*full, **case.settings[-1])

    _, forward = jax.jit(lambda *pair: jax.jvp(of_trained, *pair))(trained, directions)
    gradients, _ = alone(case.name, len(case.settings) - 1, seed=1)
    reverse = sum(np.sum(g * d) for g, d in zip(gradients, directions, strict=True))
    assert np.sum(forward * weights) == pytest.approx(reverse, rel=2e-4, abs=1e-4)


def zero_row(x, axes):
    return np.concatenate((np.zeros_like(x[:1]), x[1:]))


def all_zero(x, axes):
    return np.zeros_like(x)


def equal_points(x, axes):
    return np.broadcast_to(np.arange(1, 1 + x.shape[-1]) / 4, x.shape)


def long(x, axes):
    return np.float64(np.float32(1e4 * x / np.linalg.norm(x, axis=-1, keepdims=True)))


def long_rows(x, axes):
    return long(x, axes) if axes[0] in cases.ROWS else x


def unmoved(x, axes):
    return x


def rounding_of(leaf):
    """Of one rounding to the nearest bfloat16: half of what its 8 bits tell apart."""
    return 1.001 * 2**-8 if leaf.dtype == jnp.bfloat16 else 0.0


POINTS = (zero_row, all_zero, equal_points, long, long_rows, unmoved)


def at_point(case, point, dtype):
    drawn = cases.draw(case, seed=4)
    return cast(
        case,
        [
            point(x, axes) if draw is cases.normal else x
            for x, (axes, draw) in zip(drawn, case.arguments, strict=True)
        ],
        dtype,
    )


@functools.cache
def side_by_side(name):
    """Gradients and results for the last setting at all points at once, in bfloat16, under vmap."""
    case = named(name)
    problems = [at_point(case, point, jnp.bfloat16) for point in POINTS]
    return dict(zip(POINTS, compiled_side_by_side(case, case.settings[-1])(*problems), strict=True))


def assert_right_at(case, point, given, options, gradients, got):
    share = case.far_tolerance if point in (long, long_rows) else case.tolerance
    assert [leaf.dtype for leaf in got] == due_dtypes(case, given)
    for gradient, position in zip(gradients, case.trained, strict=True):
        assert gradient.dtype == given[position].dtype
    for leaf in (*gradients, *got):
        assert np.all(np.isfinite(np.float32(leaf)))
    if not case.open_at_ties or point not in (zero_row, all_zero, equal_points):
        seen = [in_float64(x) for x in given]
        due = due_leaves(case, seen, options)
        assert_close(unique(case, got, seen), due, rtol=rounding_of(got[0]), share=share)


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.__name__)
@every_short_case
def test_value_is_right_and_gradient_finite_at_awkward_points(case, point):
    given = at_point(case, point, jnp.float32)
    for options in case.settings:
        assert_right_at(case, point, given, options, *compiled(case, options)(*given))


@few_by_default
@every_short_case
def test_bfloat16_values_at_awkward_points_are_those_of_the_very_numbers_that_it_holds(case):
    """Bfloat16 is widened before any setting counts: one setting is enough."""
    for point in POINTS:
        given = at_point(case, point, jnp.bfloat16)
        assert_right_at(case, point, given, case.settings[-1], *side_by_side(case.name)[point])


@few_by_default
@every_short_case
def test_vmap_in_bfloat16_equals_every_problem_alone_in_float32(case):
    """Catches problems that reach each other, and values or gradients summed in bfloat16."""
    for point in (unmoved, zero_row):
        given = at_point(case, point, jnp.bfloat16)
        seen = [in_float64(x) for x in given]
        wide = [jnp.float32(x) if x.dtype == jnp.bfloat16 else x for x in given]
        due_gradients, due = compiled(case, case.settings[-1])(*wide)
        gradients, got = side_by_side(case.name)[point]
        if point is unmoved or not case.open_at_ties:
            pair = (unique(case, leaves, seen) for leaves in (got, due))
            assert_close(*pair, rtol=rounding_of(got[0]), share=case.tolerance)
        for one, other in zip(gradients, due_gradients, strict=True):
            assert_close([one], [other], rtol=rounding_of(one), share=10 * case.tolerance)


@few_by_default
@every_short_case
def test_eager_equals_jit(case):
    arguments = cases.draw(case, seed=0)
    function = functools.partial(case.function, **case.settings[-1])
    eager = jax.tree.leaves(function(*map(np.asarray, cast(case, arguments))))
    _, due = alone(case.name, len(case.settings) - 1, seed=0)
    assert_equal_runs(case, ([], eager), ([], due), arguments)


@every_short_case
def test_arrays_of_numpy_may_be_closed_over(case):
    """Under a trace they meet tracers, which they can neither be indexed by nor hold."""
    arrays = [np.asarray(x) for x in cast(case, cases.draw(case, seed=0))]
    function = functools.partial(case.function, **case.settings[-1])
    traced = jax.eval_shape(lambda: jax.tree.leaves(function(*arrays)))
    _, due = alone(case.name, len(case.settings) - 1, seed=0)
    assert [(x.shape, x.dtype) for x in traced] == [(x.shape, x.dtype) for x in due]


@every_checked_case
def test_wrong_shape_is_refused_by_name(case):
    arguments = [np.asarray(x) for x in cast(case, cases.draw(case, seed=0))]
    names = list(inspect.signature(case.function).parameters)
    function = functools.partial(case.function, **case.settings[0])
    refused = range(len(arguments)) if case.refused is None else case.refused

    def refusal(position, x):
        wrong = [*map(jnp.asarray, (*arguments[:position], x, *arguments[position + 1 :]))]
        with pytest.raises(ValueError, match=r"^\w+ must .*got .*\(.*\)[^\n]*$") as caught:
            function(*wrong)
        return str(caught.value)

    for position in refused:
        x, axes = arguments[position], axes_of(case)[position]
        if not axes:
            continue
        assert names[position] in refusal(position, x[0])
        assert names[position] in refusal(position, x[None])
        for axis, letter in enumerate(axes):
            others = "".join(axes_of(case)[i] for i in refused if i != position)
            if letter in others or letter in case.fixed:
                message = refusal(position, np.take(x, np.arange(x.shape[axis] - 1), axis))
                # Of two sizes that differ either may be the wrong one.
                assert any(names[i] in message for i in refused)
