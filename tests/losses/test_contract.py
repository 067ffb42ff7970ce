"""What losses, their selections and centres, and labels promise; a new one is tested by a row."""

import functools
import importlib
import inspect
import itertools
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from quantjax import losses
from tests.losses import case as cases
from tests.losses import (
    centres_cases,
    contrastive_cases,
    label_cases,
    many_positives_cases,
    memory_cases,
    pairwise_cases,
    proxy_cases,
    quantization_cases,
    ranking_cases,
    selection_cases,
    triplet_cases,
    usage_cases,
    wrappers_cases,
)

CASES = (
    *pairwise_cases.CASES,
    *quantization_cases.CASES,
    *usage_cases.CASES,
    *proxy_cases.CASES,
    *contrastive_cases.CASES,
    *many_positives_cases.CASES,
    *memory_cases.CASES,
    *ranking_cases.CASES,
    *triplet_cases.CASES,
    *wrappers_cases.CASES,
    *selection_cases.CASES,
    *centres_cases.CASES,
    *label_cases.CASES,
)
DEVICES = 8
# Modules and names that need no rows, and why.
NO_ROWS = {
    "losses.rows": "checks and arithmetic of the losses, whose rows they run in",
    "losses.memory.Memory": "what init and push return",
    "losses.wrappers.Coder": "a protocol",
    "losses.selection.Triplets": "what selections return",
    "labels.as_labels": "refuses and returns its argument: test_labels.py",
}


def name_of(case):
    return f"{(case.of or case.function).__name__} {case.remark}".strip()


def each_of(rows):
    return pytest.mark.parametrize("case", rows, ids=map(name_of, rows))


every_case = each_of(CASES)
every_case_of_rows = each_of([case for case in CASES if any(axes for axes, _ in case.arguments)])
every_trained_case = each_of([case for case in CASES if case.trained])
# A straight-through function's gradient is not its own derivative: `surrogate` says whose it is.
every_smooth_case = each_of([case for case in CASES if case.trained and case.surrogate is None])
# One of each kind: pairs, views, proxies, signs, ranks, triplets, selections, labels, wrappers.
FEW = (
    "pairwise_cosine",
    "nt_xent_of_views",
    "proxy_anchor",
    "sign_error",
    "soft_average_precision",
    "asymmetric_triplet_quantization",
    "triplet_quantization",
    "semi_hard",
    "share_label",
    "coded",
)
few_by_default = pytest.mark.by_default(*FEW)
few_on_devices = pytest.mark.by_default("*pairwise_cosine", "*triplet_quantization", "*share_label")
every_checked_case = each_of([case for case in CASES if case.refused != ()])


def axes_of(case):
    return [axes for axes, _ in case.arguments]


def each_setting(case):
    return [(options, functools.partial(case.function, **options)) for options in case.settings]


def cast(arguments, dtype=jnp.float32, marks=bool):
    """Real numbers take the dtype, and what is true or false the type of marks."""
    kinds = {np.dtype(bool): marks, np.dtype(np.float64): dtype}
    return [jnp.asarray(x, kinds.get(x.dtype)) for x in arguments]


def with_trained(case, arguments, change):
    return [change(x) if i in case.trained else x for i, x in enumerate(arguments)]


def due_leaves(case, arguments, options):
    due = case.oracle(*arguments, **options)
    return [np.asarray(leaf) for leaf in (due if isinstance(due, tuple) else (due,))]


def due_dtypes(case, given):
    known = dict(zip(inspect.signature(case.function).parameters, given, strict=False))
    known = {name: x.dtype for name, x in known.items()}
    known["real"] = "float64" if "float64" in known.values() else "float32"
    return [known.get(name, name) for name in case.dtypes.split(",")]


def assert_close(got, due, *, rtol=0.0, atol=0.0, share=0.0):
    """Compares results; `share` is an error allowed as a share of the largest value due."""
    for one, other in zip(got, due, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        if np.issubdtype(one.dtype, np.floating) or one.dtype == jnp.bfloat16:
            one, other = np.float64(one), np.float64(other)
            atol_here = atol + share * max(np.max(np.abs(other)), 1e-6)
            np.testing.assert_allclose(one, other, rtol=rtol, atol=atol_here)
        else:
            np.testing.assert_array_equal(one, other)


def traced_and_fixed(options):
    """Parts settings: floats come in traced, so that they share one compiled program."""
    traced = {name: value for name, value in options.items() if isinstance(value, float)}
    return traced, tuple((name, value) for name, value in options.items() if name not in traced)


@functools.cache
def compiled(case_number, fixed):
    """Compiles gradients of the weighed sum of the result, and results, once for all tests."""
    case = CASES[case_number]

    def value(weights, traced, *args):
        result = case.function(*args, **dict(fixed), **traced)
        return jnp.sum(result.astype(jnp.float32) * weights), [result]

    def results(_, traced, *args):
        return (), jax.tree.leaves(case.function(*args, **dict(fixed), **traced))

    if not case.trained:
        return jax.jit(results)
    return jax.jit(jax.grad(value, [2 + position for position in case.trained], has_aux=True))


def run(case, setting, arguments, weights=None):
    """Returns gradients and results on the host; the results are summed when weights are None."""
    traced, fixed = traced_and_fixed(case.settings[setting])
    if weights is None:
        weights = np.ones(cases.shape_of(case.result) if case.trained else ())
    program = compiled(CASES.index(case), fixed)
    return jax.device_get(program(np.float32(weights), traced, *arguments))


def public_names():
    modules = [f"losses.{module.name}" for module in pkgutil.iter_modules(losses.__path__)]
    for module in (*modules, "labels"):
        members = vars(importlib.import_module(f"quantjax.{module}"))
        for name, member in members.items():
            own = getattr(member, "__module__", "") == f"quantjax.{module}"
            if own and callable(member) and not name.startswith("_"):
                yield module, f"{module}.{name}"


def test_every_public_name_has_a_row_or_needs_none():
    tested = {case.of or case.function for case in CASES}
    rows = {f"{function.__module__}.{function.__name__}" for function in tested}
    public = {name for module, name in public_names() if not {module, name} & NO_ROWS.keys()}
    assert rows == {f"quantjax.{name}" for name in public}
    assert {getattr(losses, name) for name in losses.__all__} <= tested
    assert NO_ROWS.keys() <= {name for names in public_names() for name in names}
    assert len({name_of(case) for case in CASES}) == len(CASES)


@every_case
def test_value_equals_the_float64_oracle(case):
    arguments = cases.draw(case, seed=0)
    for setting, options in enumerate(case.settings):
        _, got = run(case, setting, cast(arguments))
        due_shapes = [cases.shape_of(axes) for axes in case.result.split(",")]
        assert [leaf.shape for leaf in got] == due_shapes
        assert_close(got, due_leaves(case, arguments, options), rtol=2e-5, atol=1e-6)


@every_case
def test_every_keyword_is_varied_and_counts(case):
    parameters = inspect.signature(case.function).parameters.values()
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY:
            given = [options.get(parameter.name, parameter.default) for options in case.settings]
            assert len(set(given)) > 1, f"{parameter.name} takes one value only"
    arguments = cases.draw(case, seed=0)
    due = [due_leaves(case, arguments, options) for options in case.settings]
    for one, other in itertools.combinations(due, 2):
        alike = [np.allclose(*pair, rtol=1e-3) for pair in zip(one, other, strict=True)]
        assert not all(alike), "two settings that give the same values"


@every_case
def test_real_results_have_float32_at_least_and_float64_stays(case):
    arguments = cases.draw(case, seed=0)
    with jax.enable_x64(True):
        for dtype in ("bfloat16", "float32", "float64"):
            given = cast(arguments, dtype)
            for _, function in each_setting(case):
                got = jax.tree.leaves(jax.eval_shape(function, *given))
                assert [leaf.dtype for leaf in got] == due_dtypes(case, given)


@every_trained_case
def test_gradient_equals_the_difference_quotient_of_the_oracle(case):
    arguments, rng = cases.draw(case, seed=1), np.random.default_rng(2)
    weights = rng.normal(size=cases.shape_of(case.result))
    step = 1e-6
    for setting, options in enumerate(case.settings):
        differentiable = case.oracle
        if case.surrogate is not None:
            differentiable = functools.partial(case.surrogate, at=arguments)
        gradients, _ = run(case, setting, cast(arguments), weights)
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
    arguments, rng = cast(cases.draw(case, seed=1)), np.random.default_rng(3)
    weights = np.float32(rng.normal(size=cases.shape_of(case.result)))
    trained = [arguments[position] for position in case.trained]
    directions = [np.float32(rng.normal(size=x.shape)) for x in trained]
    traced, fixed = traced_and_fixed(case.settings[-1])

    def of_trained(*trained):
        full = list(arguments)
        for position, x in zip(case.trained, trained, strict=True):
            full[position] = x
        return case.function(*full, **dict(fixed), **traced)

    _, forward = jax.jit(lambda *pair: jax.jvp(of_trained, *pair))(trained, directions)
    gradients, _ = run(case, len(case.settings) - 1, arguments, weights)
    reverse = sum(np.sum(g * d) for g, d in zip(gradients, directions, strict=True))
    assert np.sum(forward * weights) == pytest.approx(reverse, rel=2e-4, abs=1e-4)


def zero_row(x):
    return np.concatenate((np.zeros_like(x[:1]), x[1:]))


def all_zero(x):
    return np.zeros_like(x)


def equal_points(x):
    return np.broadcast_to(np.arange(1, 1 + x.shape[-1]) / 4, x.shape)


def long(x):
    return np.float64(np.float32(1e4 * x / np.linalg.norm(x, axis=-1, keepdims=True)))


def unmoved(x):
    return x


def moved_by(case, point):
    """Positions that go to a point: what is trained, or drawn from the normal distribution."""
    draws = [draw_one for _, draw_one in case.arguments]
    moved = {i for i, draw_one in enumerate(draws) if draw_one is cases.normal} | {*case.trained}
    return () if point is unmoved else moved


POINTS = (zero_row, all_zero, equal_points, long, unmoved)
AT_POINTS = [(c, p) for c in CASES for p in POINTS if p is unmoved or moved_by(c, p)]
AT_IDS = [f"{name_of(case)}-{point.__name__}" for case, point in AT_POINTS]


@pytest.mark.by_default(*(f"{name}-*" for name in FEW))
@pytest.mark.parametrize(("case", "point"), AT_POINTS, ids=AT_IDS)
def test_value_and_gradient_are_right_at_awkward_points_in_bfloat16_too(case, point):
    moved = moved_by(case, point)
    arguments = [point(x) if i in moved else x for i, x in enumerate(cases.draw(case, seed=4))]
    # Marks may be numbers as well, which is tested where a program is compiled anyway.
    given = cast(arguments, "bfloat16", marks="uint8")
    rounded = [np.float64(x) if x.dtype == jnp.bfloat16 else np.asarray(x) for x in given]
    rounded = [x.astype(y.dtype) for x, y in zip(rounded, arguments, strict=True)]
    for setting, options in enumerate(case.settings):
        for numbers, inexact in ((arguments, cast(arguments)), (rounded, given)):
            gradients, got = run(case, setting, inexact)
            assert [leaf.dtype for leaf in got] == due_dtypes(case, inexact)
            assert_close(got, due_leaves(case, numbers, options), share=case.tolerance)
            for position, gradient in zip(case.trained, gradients, strict=True):
                assert gradient.dtype == inexact[position].dtype
                assert np.all(np.isfinite(np.float32(gradient)))
        # The last gradients are bfloat16's: those of the same numbers in float32, rounded.
        assert_close(gradients, run(case, setting, cast(rounded))[0], atol=1e-6, share=2**-7)


@few_by_default
@every_case
def test_jit_and_vmap_and_numpy_arguments_equal_eager(case):
    draws = [cases.draw(case, seed) for seed in (5, 6)]
    setting = len(case.settings) - 1
    _, function = each_setting(case)[setting]
    eager = [jax.tree.leaves(function(*cast(arguments))) for arguments in draws]
    together = jax.jit(jax.vmap(function))(*map(np.stack, zip(*map(cast, draws), strict=True)))
    # Float64, unless JAX would take it as such.
    numpy_draws = (
        draws if not jax.config.jax_enable_x64 else [map(np.asarray, cast(draw)) for draw in draws]
    )
    for got in (
        [run(case, setting, cast(arguments))[1] for arguments in draws],
        [[leaf[i] for leaf in map(np.asarray, jax.tree.leaves(together))] for i in range(2)],
        [jax.tree.leaves(function(*arguments)) for arguments in numpy_draws],
    ):
        for one, other in zip(got, eager, strict=True):
            assert [leaf.dtype for leaf in one] == [leaf.dtype for leaf in other]
            assert_close(one, other, rtol=1e-5, atol=1e-5)


@few_by_default
@every_case
def test_pmap_with_gathered_columns_equals_one_device(case):
    arguments = cast(cases.draw(case, seed=7))
    local = case.result[:1] if case.local is None else case.local
    shared = [bool(axes) for axes in axes_of(case)]
    gathered = [bool(axes) and axes[0] != local for axes in axes_of(case)]
    matrix = jnp.asarray(np.random.default_rng(8).normal(size=(cases.SIZES["D"],) * 2), jnp.float32)
    _, function = each_setting(case)[0]

    def loss(matrix, args, gather=lambda x: x):
        # The shared matrix stands for the network that made the embeddings of both sides.
        args = with_trained(case, args, lambda x: x @ matrix)
        args = [gather(x) if g else x for g, x in zip(gathered, args, strict=True)]
        leaves = jax.tree.leaves(function(*args))
        return jnp.mean(leaves[0]), leaves

    def on_each_device(_, matrix, args):
        gather = functools.partial(jax.lax.all_gather, axis_name="data", tiled=True)
        (value, leaves), gradient = with_gradient(matrix, args, gather)
        return jax.lax.pmean((value, gradient), "data"), leaves

    with_gradient = jax.value_and_grad(loss, has_aux=True)
    (value, due), gradient = jax.jit(with_gradient)(matrix, arguments)
    cut = [
        np.reshape(x, (DEVICES, -1, *x.shape[1:])) if s else x
        for s, x in zip(shared, map(np.asarray, arguments), strict=True)
    ]
    eight = jax.pmap(
        on_each_device,
        axis_name="data",
        in_axes=(0, None, [0 if s else None for s in shared]),
        out_axes=(None, 0),
    )
    means, got = eight(jnp.arange(DEVICES), matrix, cut)
    assert_close(means, (value, gradient), rtol=1e-4, atol=1e-5)
    # What devices share out, row by row; what each has whole, of every device.
    due = [x if local else np.broadcast_to(x, (DEVICES, *x.shape)) for x in due]
    got = [np.reshape(x, y.shape) for x, y in zip(jax.device_get(got), due, strict=True)]
    assert_close(got, due, rtol=1e-4, atol=1e-5)


def of_mesh(case, axis_type):
    """Returns a mesh, the specs of the arguments, and those of the results."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(axis_type,))
    local = case.result[:1] if case.local is None else case.local
    rows, whole = PartitionSpec("data"), PartitionSpec()
    of_arguments = tuple(rows if axes else whole for axes in axes_of(case))
    return mesh, of_arguments, rows if local else whole


def mean_and_gradient(case, arguments, function):
    def loss(*trained):
        full = list(arguments)
        for position, x in zip(case.trained, trained, strict=True):
            full[position] = x
        leaves = jax.tree.leaves(function(*full))
        return jnp.mean(leaves[0]), leaves

    trained = [arguments[position] for position in case.trained]
    if not trained:
        return (), loss()[1]
    return jax.grad(loss, tuple(range(len(trained))), has_aux=True)(*trained)


@few_on_devices
@every_case_of_rows
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_with_the_gradient_outside_equals_one_device(case, check_vma):
    arguments = cast(cases.draw(case, seed=7))
    mesh, in_specs, out_spec = of_mesh(case, AxisType.Auto)
    local = case.result[:1] if case.local is None else case.local
    _, function = each_setting(case)[0]

    def of_gathered(*parts):
        gathered = [
            jax.lax.all_gather(part, "data", tiled=True) if axes and axes[0] != local else part
            for axes, part in zip(axes_of(case), parts, strict=True)
        ]
        leaves = jax.tree.leaves(function(*gathered))
        return leaves if local else jax.lax.pmean(leaves, "data")

    mapped = jax.shard_map(
        of_gathered, mesh=mesh, in_specs=in_specs, out_specs=out_spec, check_vma=check_vma
    )
    run = functools.partial(mean_and_gradient, case)
    due_gradients, due = jax.jit(lambda *args: run(args, function))(*arguments)
    gradients, got = jax.jit(lambda *args: run(args, mapped))(*arguments)
    assert_close(got, due, rtol=1e-4, atol=1e-5)
    assert_close(gradients, due_gradients, rtol=1e-4, atol=1e-5)


@few_on_devices
@every_case_of_rows
def test_explicit_axes_equal_one_device(case):
    if name_of(case) == "hadamard_centres":
        pytest.skip("its row looks up rows of its own")
    arguments = cast(cases.draw(case, seed=7))
    mesh, in_specs, _ = of_mesh(case, AxisType.Explicit)
    cut = [
        jax.device_put(x, NamedSharding(mesh, spec))
        for x, spec in zip(arguments, in_specs, strict=True)
    ]
    _, function = each_setting(case)[0]
    run = jax.jit(lambda *args: mean_and_gradient(case, args, function))
    with jax.set_mesh(mesh):
        gradients, got = jax.device_get(run(*cut))
    due_gradients, due = run(*arguments)
    assert_close(got, due, rtol=1e-4, atol=1e-5)
    assert_close(gradients, due_gradients, rtol=1e-4, atol=1e-5)


@every_checked_case
def test_shape_mismatch_is_refused_by_name(case):
    # Cut as NumPy's: a slice of a JAX array compiles anew for each shape.
    arguments = [np.asarray(x) for x in cast(cases.draw(case, seed=0))]
    names = list(inspect.signature(case.function).parameters)
    _, function = each_setting(case)[0]

    def refusal(position, x):
        wrong = [x if i == position else argument for i, argument in enumerate(arguments)]
        wrong = [*map(jnp.asarray, wrong)]
        with pytest.raises(ValueError, match=r"^[\w ]+ must (have|be) .*got .*\(.*\)") as caught:
            function(*wrong)
        return str(caught.value)

    for position, axes in enumerate(axes_of(case)):
        x = arguments[position]
        if not axes:
            continue
        assert names[position] in refusal(position, x[0])
        assert names[position] in refusal(position, x[None])
        for axis, letter in enumerate(axes):
            if sum(letter in other for other in axes_of(case)) > 1:
                message = refusal(position, np.take(x, np.arange(x.shape[axis] - 1), axis))
                # Of two sizes that differ either may be the wrong one; both must be shown.
                assert str(x.shape[axis] - 1) in message
                assert str(x.shape[axis]) in message


# Every argument that marks pairs or rows. Under vmap, one key for each anchor, no value is seen.
OF_PAIRS = ("similar", "positive", "negative", "positives", "ignored")
OF_LABELS = ("label", "labels")
MARKS = [
    (case, position)
    for case in CASES
    for position, (name, marks) in enumerate(
        zip(inspect.signature(case.function).parameters, cases.draw(case, seed=0), strict=False)
    )
    if name in (*OF_PAIRS, *OF_LABELS) and "each anchor" not in case.remark
    if marks.dtype == bool  # and not numbers of columns, or labels that are only kept
]
MARKS_IDS = [f"{name_of(case)}-{position}" for case, position in MARKS]


@pytest.mark.parametrize(("case", "position"), MARKS, ids=MARKS_IDS)
@pytest.mark.by_default(
    "pairwise_cosine-*",
    "triplet_likelihood-*",
    "proxy_anchor-*",
    "class_wise_margin-*",
    "supervised_contrastive-*",
    "share_label-*",
    "semi_hard-*",
)
def test_soft_marks_are_refused_and_binary_ones_are_not(case, position):
    arguments = cast(cases.draw(case, seed=0))
    name = list(inspect.signature(case.function).parameters)[position]
    marks = np.asarray(arguments[position])
    _, function = each_setting(case)[0]

    def result(given):
        return jax.tree.leaves(
            function(*[given if i == position else x for i, x in enumerate(arguments)])
        )

    due = result(marks)
    pair_marks = name in OF_PAIRS
    binary = [marks * 1.0, marks.astype(np.int8), jnp.asarray(marks, jnp.bfloat16)]
    for given in binary + [2.0 * marks - 1, 2 * marks.astype(int) - 1] * pair_marks:
        assert_close(result(given), due, rtol=1e-6)
    wrong = [marks * 0.25, marks * 2, marks - 0.5, jnp.asarray(marks) * 0.7]
    wrong.append(np.where(marks, 1, np.nan))
    mixed = np.where(marks, 1, -1)
    mixed[0, :2] = 0, -1
    for given in (*wrong, mixed, *([] if pair_marks else [2 * marks.astype(int) - 1])):
        with pytest.raises(ValueError, match=rf"^{name} must be .* got \w+ from .* to .*; [^\n]*$"):
            result(given)
