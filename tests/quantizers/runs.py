"""Rows of the contract tests run: one compiled program for all that differs in numbers alone."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.quantizers import (
    additive_cases,
    binary_cases,
    class_codec_cases,
    codecs_cases,
    ema_cases,
    gumbel_cases,
    kmeans_cases,
    packing_cases,
    product_cases,
    residual_cases,
    rotation_cases,
    scalar_cases,
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
    *scalar_cases.CASES,
    *codecs_cases.CASES,
    *class_codec_cases.CASES,
)


def each_of(rows):
    return pytest.mark.parametrize("case", rows, ids=[row.name for row in rows])


def axes_of(case):
    return [axes for axes, _ in case.arguments]


def cast(case, arguments, dtype=jnp.float32):
    """What networks make or are trained with takes the dtype; counts and the like are float32."""
    narrow = (cases.normal, cases.orthonormal)
    kinds = [dtype if draw in narrow else jnp.float32 for _, draw in case.arguments]
    return [
        jnp.asarray(x, kind if x.dtype == np.float64 else None)
        for x, kind in zip(arguments, kinds, strict=True)
    ]


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
            return [], jax.tree.leaves(function(*arguments))
        gradients, leaves = jax.grad(loss, tuple(range(len(trained))), has_aux=True)(*trained)
        return list(gradients), leaves

    return run


def weights_of(case):
    """Numbers that bfloat16 holds, too: what it rounds in a gradient is not the weights."""
    rng, results = np.random.default_rng(11), case.result.split(",")
    drawn = [rng.normal(size=cases.shape_of(axes)) for axes in results]
    return [np.float64(weights.astype(jnp.bfloat16)) for weights in drawn]


def compiled(case, options):
    """Runs the function under jit, with gradients; numbers that shape no array come in traced."""
    traced, program = _program(case, options, _one)
    return lambda *arguments: jax.device_get(program(traced, *arguments))


def compiled_side_by_side(case, options):
    """The same for several problems at once, whose arguments are stacked; a list of results."""
    traced, program = _program(case, options, _many)

    def run(*problems):
        stacked = [jnp.asarray(np.stack(parts)) for parts in zip(*problems, strict=True)]
        together = jax.device_get(program(traced, *stacked))
        return [jax.tree.map(lambda leaf, i=i: leaf[i], together) for i in range(len(problems))]

    return run


@functools.cache
def alone(name, setting, seed):
    """The plain run on arguments of a seed, kept for all promises that compare with it."""
    case = named(name)
    given = cast(case, cases.draw(case, seed))
    return compiled(case, case.settings[setting])(*given)


def named(name):
    return next(case for case in CASES if case.name == name)


def _program(case, options, make):
    counted = ("num_iterations", "num_rounds")
    traced = {k: value for k, value in options.items() if isinstance(value, float) or k in counted}
    fixed = {name: value for name, value in options.items() if name not in traced}
    return traced, make(case.name, tuple(fixed.items()))


def _run(name, fixed):
    case = named(name)

    def run(traced, *arguments):
        function = functools.partial(case.function, **dict(fixed), **traced)
        return with_gradients(case, function)(*arguments)

    return case, run


@functools.cache
def _one(name, fixed):
    return jax.jit(_run(name, fixed)[1])


@functools.cache
def _many(name, fixed):
    case, run = _run(name, fixed)
    return jax.jit(jax.vmap(run, in_axes=(None, *(0 for _ in case.arguments))))


def due_leaves(case, arguments, options):
    result = case.oracle(*arguments, **options)
    return [np.asarray(leaf) for leaf in (result if isinstance(result, tuple) else (result,))]


def due_dtypes(case, arguments):
    names = list(inspect.signature(case.function).parameters)
    return [
        arguments[names.index(name)].dtype if name in names else jnp.dtype(name)
        for name in case.dtypes.split(",")
    ]


def in_float64(x):
    return np.float64(x) if jnp.issubdtype(x.dtype, jnp.floating) else np.asarray(x)


def unique(case, leaves, arguments):
    """What of a result is compared."""
    leaves = [in_float64(leaf) for leaf in leaves]
    return leaves if case.unique is None else case.unique(leaves, *arguments)


def assert_close(got, due, *, rtol=0.0, share=0.0):
    """Compares results; the error allowed is absolute, as a share of the largest value due."""
    for one, other in zip(got, due, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        if np.issubdtype(one.dtype, np.integer):
            np.testing.assert_array_equal(one, other)
        else:
            atol = share * np.max(np.abs(np.float64(other)), initial=1e-2)
            np.testing.assert_allclose(np.float64(one), np.float64(other), rtol=rtol, atol=atol)


def assert_equal_runs(case, got, due, arguments):
    share = max(1e-5, case.tolerance)
    (got_gradients, got), (due_gradients, due) = got, due
    assert [leaf.dtype for leaf in got] == [leaf.dtype for leaf in due]
    pair = (unique(case, leaves, arguments) for leaves in (got, due))
    assert_close(*pair, rtol=share, share=share)
    assert_close(got_gradients, due_gradients, rtol=10 * share, share=share)
