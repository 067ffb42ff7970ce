"""What every loss promises; a new loss is tested by adding a row to its file of cases."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from quantjax import losses
from tests.losses import case as cases
from tests.losses import (
    contrastive_cases,
    pairwise_cases,
    proxy_cases,
    quantization_cases,
    ranking_cases,
    triplet_cases,
)

CASES = (
    *pairwise_cases.CASES,
    *quantization_cases.CASES,
    *proxy_cases.CASES,
    *contrastive_cases.CASES,
    *ranking_cases.CASES,
    *triplet_cases.CASES,
)
DEVICES = 8


def each_of(rows):
    return pytest.mark.parametrize("case", rows, ids=[row.function.__name__ for row in rows])


every_case = each_of(CASES)
# A straight-through function's gradient is not its own derivative: `surrogate` says whose it is.
every_smooth_case = each_of([case for case in CASES if case.surrogate is None])


def each_setting(case):
    return [(options, functools.partial(case.function, **options)) for options in case.settings]


def cast(case, arguments, dtype=jnp.float32):
    return [jnp.asarray(x, dtype if i in case.trained else None) for i, x in enumerate(arguments)]


def with_trained(case, arguments, change):
    return [change(x) if i in case.trained else x for i, x in enumerate(arguments)]


def test_every_loss_is_a_row():
    assert {case.function.__name__ for case in CASES} == set(losses.__all__) - {"pair_weights"}


@every_case
def test_value_equals_the_float64_oracle(case):
    arguments = cases.draw(case, seed=0)
    for options, function in each_setting(case):
        got = jax.jit(function)(*cast(case, arguments))
        assert got.shape == cases.shape_of(case.result)
        np.testing.assert_allclose(got, case.oracle(*arguments, **options), rtol=2e-5, atol=1e-6)


@every_case
def test_every_keyword_is_varied_and_counts(case):
    parameters = inspect.signature(case.function).parameters.values()
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY:
            given = [options.get(parameter.name, parameter.default) for options in case.settings]
            assert len(set(given)) > 1, f"{parameter.name} takes one value only"
    arguments = cases.draw(case, seed=0)
    due = [case.oracle(*arguments, **options) for options in case.settings]
    for one, other in itertools.combinations(due, 2):
        assert not np.allclose(one, other, rtol=1e-3), "two settings that give the same values"


@every_case
def test_gradient_equals_the_difference_quotient_of_the_oracle(case):
    arguments, rng = cases.draw(case, seed=1), np.random.default_rng(2)
    weights = rng.normal(size=cases.shape_of(case.result))
    step = 1e-6
    for options, function in each_setting(case):
        differentiable = case.oracle
        if case.surrogate is not None:
            differentiable = functools.partial(case.surrogate, at=arguments)
        gradient = jax.jit(
            jax.grad(lambda *args, f=function: jnp.sum(f(*args) * weights), argnums=case.trained)
        )
        for position, got in zip(case.trained, gradient(*cast(case, arguments)), strict=True):
            direction = rng.normal(size=got.shape)
            ends = []
            for sign in (1, -1):
                moved = list(arguments)
                moved[position] = arguments[position] + sign * step * direction
                ends.append(np.sum(np.asarray(differentiable(*moved, **options)) * weights))
            quotient = (ends[0] - ends[1]) / (2 * step)
            assert np.sum(got * direction) == pytest.approx(quotient, rel=2e-4, abs=1e-4)


@every_smooth_case
def test_gradient_passes_check_grads(case):
    arguments = cast(case, cases.draw(case, seed=3))
    for _, function in each_setting(case):

        def of_trained(*trained, f=function):
            full = list(arguments)
            for position, x in zip(case.trained, trained, strict=True):
                full[position] = x
            return f(*full)

        trained = [arguments[position] for position in case.trained]
        check_grads(jax.jit(of_trained), trained, order=1, atol=2e-2, rtol=2e-2)


def zero_row(x):
    return np.concatenate((np.zeros_like(x[:1]), x[1:]))


def all_zero(x):
    return np.zeros_like(x)


def equal_points(x):
    return np.broadcast_to(np.arange(1, 1 + x.shape[-1]) / 4, x.shape)


def long(x):
    return np.float64(np.float32(1e4 * x / np.linalg.norm(x, axis=-1, keepdims=True)))


@functools.cache
def value_and_gradient(case_number, setting):
    case = CASES[case_number]
    _, function = each_setting(case)[setting]

    def value(*args):
        result = function(*args)
        return jnp.sum(result.astype(jnp.float32)), result

    return jax.jit(jax.grad(value, argnums=case.trained, has_aux=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
@pytest.mark.parametrize("point", [zero_row, all_zero, equal_points, long, lambda x: x])
@every_case
def test_value_is_right_and_gradient_finite_at_awkward_points(case, point, dtype, tolerance):
    arguments = cast(case, with_trained(case, cases.draw(case, seed=4), point), dtype)
    tolerance = max(tolerance, case.tolerance)
    seen = [np.asarray(x, bool if x.dtype == bool else np.float64) for x in arguments]
    for setting, options in enumerate(case.settings):
        gradients, got = value_and_gradient(CASES.index(case), setting)(*arguments)
        due = np.asarray(case.oracle(*seen, **options))
        np.testing.assert_allclose(
            np.float64(got), due, rtol=0, atol=tolerance * max(np.max(np.abs(due)), 1e-6)
        )
        for position, gradient in zip(case.trained, gradients, strict=True):
            assert gradient.dtype == arguments[position].dtype
            assert jnp.all(jnp.isfinite(gradient))


@every_case
def test_jit_and_vmap_and_numpy_arguments_equal_eager(case):
    draws = [cases.draw(case, seed) for seed in (5, 6)]
    for _, function in each_setting(case):
        eager = [function(*cast(case, arguments)) for arguments in draws]
        stacked = [jnp.stack(parts) for parts in zip(*(cast(case, d) for d in draws), strict=True)]
        for got in (
            [jax.jit(function)(*cast(case, arguments)) for arguments in draws],
            jax.jit(jax.vmap(function))(*stacked),
            [function(*arguments) for arguments in draws],  # float64 numpy
        ):
            for one, other in zip(got, eager, strict=True):
                assert one.dtype == other.dtype == jnp.float32
                np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@every_case
def test_pmap_with_gathered_columns_equals_one_device(case):
    arguments = cast(case, cases.draw(case, seed=7))
    local = case.result[:1] if case.local is None else case.local
    gathered = [axes[0] != local for axes, _ in case.arguments]
    matrix = jnp.asarray(np.random.default_rng(8).normal(size=(cases.SIZES["D"],) * 2), jnp.float32)

    for _, function in each_setting(case):

        def loss(matrix, args, *, gather, f=function):
            # The shared matrix stands for the network that made the embeddings of both sides.
            args = with_trained(case, args, lambda x: x @ matrix)
            args = [gather(x) if g else x for g, x in zip(gathered, args, strict=True)]
            return jnp.mean(f(*args))

        def on_each_device(matrix, args, loss=loss):
            gather = functools.partial(jax.lax.all_gather, axis_name="data", tiled=True)
            local_result = jax.value_and_grad(loss)(matrix, args, gather=gather)
            return jax.lax.pmean(local_result, "data")

        one = jax.jit(functools.partial(jax.value_and_grad(loss), gather=lambda x: x))
        cut = [x.reshape(DEVICES, -1, *x.shape[1:]) for x in arguments]
        eight = jax.pmap(on_each_device, axis_name="data", in_axes=(None, 0), out_axes=None)
        for got, due in zip(eight(matrix, cut), one(matrix, arguments), strict=True):
            np.testing.assert_allclose(got, due, rtol=1e-4, atol=1e-5)


@every_case
def test_shape_mismatch_is_refused_by_name(case):
    arguments = cast(case, cases.draw(case, seed=0))
    names = list(inspect.signature(case.function).parameters)
    all_axes = [axes for axes, _ in case.arguments]
    _, function = each_setting(case)[0]

    def refusal(position, x):
        wrong = [x if i == position else argument for i, argument in enumerate(arguments)]
        with pytest.raises(ValueError, match=r"^\w+ must have .*got \(.*\)$") as caught:
            function(*wrong)
        return str(caught.value)

    for position, axes in enumerate(all_axes):
        x = arguments[position]
        assert names[position] in refusal(position, x[0])
        assert names[position] in refusal(position, x[None])
        for axis, letter in enumerate(axes):
            if sum(letter in other for other in all_axes) > 1:
                message = refusal(position, jnp.take(x, jnp.arange(x.shape[axis] - 1), axis))
                # Of two sizes that differ either may be the wrong one; both must be shown.
                assert str(x.shape[axis] - 1) in message
                assert str(x.shape[axis]) in message
