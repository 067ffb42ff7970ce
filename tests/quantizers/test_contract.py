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
from tests.quantizers import (
    additive_cases,
    binary_cases,
    codecs_cases,
    devices,
    ema_cases,
    gumbel_cases,
    kmeans_cases,
    packing_cases,
    product_cases,
    residual_cases,
    rotation_cases,
    usage_cases,
)
from tests.quantizers import case as cases

CASES = (
    *product_cases.CASES,
    *gumbel_cases.CASES,
    *kmeans_cases.CASES,
    *ema_cases.CASES,
    *usage_cases.CASES,
    *binary_cases.CASES,
    *packing_cases.CASES,
    *residual_cases.CASES,
    *additive_cases.CASES,
    *rotation_cases.CASES,
    *codecs_cases.CASES,
)

NO_ROWS = {
    "Codec": "a protocol: its four implementations have rows",
    "kmeans.over_tiles": "applies a function: the rows in tiles run through it",
    "product.check_metric": "refuses and returns nothing: test_product.py",
    "product.check_codebooks": "refuses and returns nothing: every product row's wrong shapes",
    "product.check_num_codewords": "refuses and returns nothing: test_product.py",
    "additive.check_codebooks": "refuses and returns nothing: every additive row's wrong shapes",
    "packing.check_codes": "refuses and returns nothing: every codec row's wrong shapes",
    "packing.bits_per_codeword": "of whole numbers, not arrays: test_packing.py",
    "packing.num_codebooks": "of whole numbers, not arrays: test_packing.py",
}

# Run with `pytest -m slow tests/quantizers`: in one process with all other tests, its hundreds of
# compiled programs pass the number of memory maps that Linux grants, and the compiler crashes.
pytestmark = pytest.mark.slow


def each_of(rows):
    return pytest.mark.parametrize("case", rows, ids=[row.name for row in rows])


def axes_of(case):
    return [axes for axes, _ in case.arguments]


every_case = each_of(CASES)
every_case_of_rows = each_of(
    [case for case in CASES if set(cases.ROWS) & {*"".join(axes_of(case))}]
)
# The oracle takes long over so many rows, and they are no more awkward than a few.
every_short_case = each_of([case for case in CASES if "R" not in "".join(axes_of(case))])
every_trained_case = each_of([case for case in CASES if case.trained])
every_checked_case = each_of([case for case in CASES if case.refused != ()])


def each_setting(case):
    return [(options, functools.partial(case.function, **options)) for options in case.settings]


def cast(case, arguments, dtype=jnp.float32):
    """What networks make or are trained with takes the dtype; counts and the like are float32."""
    narrow = (cases.normal, cases.orthonormal)
    kinds = [dtype if draw in narrow else jnp.float32 for _, draw in case.arguments]
    return [
        jnp.asarray(x, kind if x.dtype == np.float64 else None)
        for x, kind in zip(arguments, kinds, strict=True)
    ]


def leaves_of(result):
    return result if isinstance(result, tuple) else (result,)


def due_leaves(case, arguments, options):
    return [np.asarray(leaf) for leaf in leaves_of(case.oracle(*arguments, **options))]


def in_float64(x):
    return np.float64(x) if jnp.issubdtype(x.dtype, jnp.floating) else np.asarray(x)


def unique(case, leaves, arguments):
    """What of a result is compared."""
    leaves = [in_float64(leaf) for leaf in leaves]
    if case.unique is None:
        return leaves
    return case.unique(leaves, *arguments)


def due_dtypes(case, arguments):
    names = list(inspect.signature(case.function).parameters)
    return [
        arguments[names.index(name)].dtype if name in names else jnp.dtype(name)
        for name in case.dtypes.split(",")
    ]


def assert_close(got, due, *, rtol=0.0, share=0.0):
    """Compares results; the error allowed is absolute, as a share of the largest value due."""
    for one, other in zip(got, due, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        if np.issubdtype(one.dtype, np.integer):
            np.testing.assert_array_equal(one, other)
        else:
            atol = share * np.max(np.abs(np.float64(other)), initial=1e-2)
            np.testing.assert_allclose(np.float64(one), np.float64(other), rtol=rtol, atol=atol)


def weights_of(case):
    rng = np.random.default_rng(11)
    return [rng.normal(size=cases.shape_of(axes)) for axes in case.result.split(",")]


def with_gradients(case, function):
    """Makes `*arguments, weights -> gradients of the weighed sum of the results, results`."""

    def run(*arguments, weights=None):
        def loss(*trained):
            full = list(arguments)
            for position, x in zip(case.trained, trained, strict=True):
                full[position] = x
            leaves = jax.tree.leaves(function(*full))
            pairs = zip(leaves, weights_of(case) if weights is None else weights, strict=True)
            return sum(jnp.sum(leaf.astype(jnp.float32) * w) for leaf, w in pairs), leaves

        trained = [arguments[position] for position in case.trained]
        if not trained:
            return (), jax.tree.leaves(function(*arguments))
        return jax.grad(loss, argnums=tuple(range(len(trained))), has_aux=True)(*trained)

    return run


@functools.cache
def compiled(name, setting):
    case = next(case for case in CASES if case.name == name)
    return jax.jit(with_gradients(case, each_setting(case)[setting][1]))


def public_names():
    for module in pkgutil.iter_modules(quantizers.__path__):
        members = vars(importlib.import_module(f"{quantizers.__name__}.{module.name}"))
        for name, member in members.items():
            own = getattr(member, "__module__", "").endswith(f"quantizers.{module.name}")
            if name.startswith("_") or not own:
                continue
            if inspect.isfunction(member):
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
        given = cast(case, arguments)
        _, got = compiled(case.name, setting)(*given)
        assert [leaf.shape for leaf in got] == [
            cases.shape_of(axes) for axes in case.result.split(",")
        ]
        assert [leaf.dtype for leaf in got] == due_dtypes(case, given)
        due = due_leaves(case, arguments, options)
        assert_close(unique(case, got, arguments), due, rtol=2e-5, share=case.tolerance)


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
        gradients, _ = compiled(case.name, setting)(*cast(case, arguments))
        for position, got in zip(case.trained, gradients, strict=True):
            direction = rng.normal(size=got.shape)
            ends = []
            for sign in (1, -1):
                moved = list(arguments)
                moved[position] = arguments[position] + sign * step * direction
                ends.append(np.sum(np.asarray(differentiable(*moved, **options)) * weights))
            quotient = (ends[0] - ends[1]) / (2 * step)
            assert np.sum(got * direction) == pytest.approx(quotient, rel=2e-4, abs=1e-4)


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


@pytest.mark.parametrize(
    "point", [zero_row, all_zero, equal_points, long, long_rows, unmoved], ids=lambda p: p.__name__
)
@every_short_case
def test_value_is_right_and_gradient_finite_at_awkward_points(case, point):
    arguments = [
        point(x, axes) if draw is cases.normal else x
        for x, (axes, draw) in zip(cases.draw(case, seed=4), case.arguments, strict=True)
    ]
    share = case.far_tolerance if point in (long, long_rows) else case.tolerance
    open_here = case.open_at_ties and point in (zero_row, all_zero, equal_points)
    for dtype, (setting, options) in itertools.product(
        ("float32", "bfloat16"), enumerate(case.settings)
    ):
        given = cast(case, arguments, dtype)
        gradients, got = compiled(case.name, setting)(*given)
        assert [leaf.dtype for leaf in got] == due_dtypes(case, given)
        for gradient, position in zip(gradients, case.trained, strict=True):
            assert gradient.dtype == given[position].dtype
        for leaf in (*gradients, *got):
            assert np.all(np.isfinite(np.float32(leaf)))
        if not open_here:
            seen = [in_float64(x) for x in given]  # the very numbers that bfloat16 holds
            due = due_leaves(case, seen, options)
            # Once, to the nearest: half of what its 8 bits tell apart.
            rounding = 1.001 * 2**-9 if got[0].dtype == jnp.bfloat16 else 0.0
            assert_close(unique(case, got, seen), due, rtol=rounding, share=share)


def assert_equal_runs(case, got, due, arguments):
    share = max(1e-5, case.tolerance)
    (got_gradients, got), (due_gradients, due) = got, due
    assert [leaf.dtype for leaf in got] == [leaf.dtype for leaf in due]
    pair = (unique(case, leaves, arguments) for leaves in (got, due))
    assert_close(*pair, rtol=share, share=share)
    assert_close(got_gradients, due_gradients, rtol=10 * share, share=share)


@every_case
def test_jit_equals_eager_and_vmap_every_problem_alone(case):
    draws = [cases.draw(case, seed) for seed in (5, 6)]
    setting = len(case.settings) - 1
    _, function = each_setting(case)[setting]
    given = [cast(case, arguments) for arguments in draws]
    stacked = [jnp.stack(parts) for parts in zip(*given, strict=True)]
    together = jax.jit(jax.vmap(with_gradients(case, function)))(*stacked)
    alone = [compiled(case.name, setting)(*arguments) for arguments in given]
    for number, (due, arguments) in enumerate(zip(alone, draws, strict=True)):
        got = jax.tree.map(lambda leaf, number=number: leaf[number], together)
        assert_equal_runs(case, got, due, arguments)
    eager = (), jax.tree.leaves(function(*given[0]))
    assert_equal_runs(case, eager, ((), alone[0][1]), draws[0])


@every_case
def test_arrays_of_numpy_may_be_closed_over(case):
    arguments = cases.draw(case, seed=5)
    given = cast(case, arguments)
    arrays = [np.asarray(x) for x in given]
    _, function = each_setting(case)[0]
    got = jax.jit(lambda: jax.tree.leaves(function(*arrays)))()
    assert_equal_runs(case, ((), got), ((), compiled(case.name, 0)(*given)[1]), arguments)


def axis_of_rows(axes):
    return next((axis for axis, letter in enumerate(axes) if letter in cases.ROWS), None)


@every_case_of_rows
def test_rows_sharded_over_eight_devices_equal_one(case):
    arguments = cases.draw(case, seed=7)
    run = compiled(case.name, 0)
    given = cast(case, arguments)
    cut = [devices.cut(x, axis_of_rows(axes)) for x, axes in zip(given, axes_of(case), strict=True)]
    assert_equal_runs(case, run(*cut), run(*given), arguments)


@every_case_of_rows
def test_pmap_over_rows_equals_one_device(case):
    """Rows of `case.local` stay on their device, other rows are gathered, the rest is copied."""
    arguments = cases.draw(case, seed=8)
    given, axes_cut = cast(case, arguments), [axis_of_rows(axes) for axes in axes_of(case)]
    results = case.result.split(",")
    of_results = [axes.find(case.local) if case.local in axes else None for axes in results]
    of_results = of_results if case.local else [None] * len(results)
    _, function = each_setting(case)[0]

    def on_each_device(args, weights):
        def gathered(*args):
            return function(
                *(
                    x
                    if axis is None or axes[axis] == case.local
                    else jax.lax.all_gather(x, "data", axis=axis, tiled=True)
                    for x, axis, axes in zip(args, axes_cut, axes_of(case), strict=True)
                )
            )

        gradients, leaves = with_gradients(case, gathered)(*args, weights=weights)
        # What every device computes of all rows, every device adds to the gradient.
        shared = 1 if case.local else devices.COUNT
        gradients = [
            (jax.lax.psum(g, "data") if axes_cut[position] is None else g) / shared
            for g, position in zip(gradients, case.trained, strict=True)
        ]
        return gradients, leaves

    of_gradients = [axes_cut[position] for position in case.trained]
    eight = jax.pmap(
        on_each_device,
        axis_name="data",
        in_axes=(axes_cut, of_results),
        out_axes=(of_gradients, of_results),
    )
    weights = [jnp.asarray(w, jnp.float32) for w in weights_of(case)]
    got = eight(
        *([*map(devices.folded, a, axes)] for a, axes in ((given, axes_cut), (weights, of_results)))
    )
    due = compiled(case.name, 0)(*given)
    got = jax.tree.map(lambda one, other: one.reshape(other.shape), got, (list(due[0]), due[1]))
    assert_equal_runs(case, got, due, arguments)


@every_checked_case
def test_wrong_shape_is_refused_by_name(case):
    arguments = cast(case, cases.draw(case, seed=0))
    names = list(inspect.signature(case.function).parameters)
    _, function = each_setting(case)[0]
    refused = range(len(arguments)) if case.refused is None else case.refused

    def refusal(position, x):
        wrong = [x if i == position else argument for i, argument in enumerate(arguments)]
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
                message = refusal(position, jnp.take(x, jnp.arange(x.shape[axis] - 1), axis))
                # Of two sizes that differ either may be the wrong one.
                assert any(names[i] in message for i in refused)
