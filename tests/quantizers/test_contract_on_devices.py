"""What every quantizer promises where eight devices share the rows; the rows are `*_cases.py`'s."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.quantizers import case as cases
from tests.quantizers import devices
from tests.quantizers.runs import (
    CASES,
    alone,
    assert_equal_runs,
    axes_of,
    cast,
    each_of,
    weights_of,
    with_gradients,
)

cases_of_rows = [case for case in CASES if set(cases.ROWS) & {*"".join(axes_of(case))}]
every_case_of_rows = each_of(cases_of_rows)
every_case_of_local_rows = each_of([case for case in cases_of_rows if case.local])
every_case_of_the_batch = each_of([case for case in cases_of_rows if not case.local])


# One of each kind: of tiles, tables, fits, noise, counts, medians, beams, rotations, bytes.
few_by_default = pytest.mark.by_default(
    "product.encode",
    "product.encode (in tiles)",
    "product.quantize",
    "product.distances",
    "product.fit_codebooks",
    "gumbel.gumbel_quantize",
    "kmeans.lloyd",
    "kmeans.spread_rows",
    "ema.ema_update (masked)",
    "binary.median_sign",
    "additive.encode",
    "additive.squared_norms",
    "rotation.itq",
    "ProductCodec.distances",
    "ResidualCodec.decode",
)


def axes_cut(case):
    """Of each argument, the axis that devices share; None where each has all of it."""
    shared = case.local or cases.ROWS
    return [
        next((i for i, letter in enumerate(axes) if letter in shared), None)
        for axes in axes_of(case)
    ]


def results_cut(case):
    return [
        axes.find(case.local) if case.local in axes else None for axes in case.result.split(",")
    ]


@few_by_default
@every_case_of_rows
def test_rows_sharded_over_eight_devices_stay_where_they_are(case):
    """Value and gradient equal one device's, no rows are gathered, results by row stay cut.

    The partitioner keeps values right whatever it is given. What this can catch are functions that
    leave the program (callbacks), kernels that cannot be cut along rows, and orders of work, such
    as tiles of neighbouring rows, for which every device must be sent all rows: those of
    `case.gathers` alone may be.
    """
    arguments = cases.draw(case, seed=0)
    given = cast(case, arguments)
    cut = [devices.cut(x, axis) for x, axis in zip(given, axes_cut(case), strict=True)]
    run = with_gradients(case, functools.partial(case.function, **case.settings[0]))
    program = jax.jit(run).lower(*cut).compile()
    gathers = re.findall(r" (\w+)\[[\d,]*\]\S* (?:all-gather|all-to-all)", program.as_text())
    # Row numbers are as wide as JAX's integers.
    assert {kind.replace("s64", "s32") for kind in gathers} <= set(case.gathers.split())
    got = program(*cut)
    if case.local:
        for leaf, axis in zip(got[1], results_cut(case), strict=True):
            assert axis is None or leaf.sharding.spec[axis] == "data"
    assert_equal_runs(case, jax.device_get(got), alone(case.name, 0, seed=0), arguments)


@few_by_default
@every_case_of_local_rows
def test_pmap_over_rows_equals_one_device(case):
    """Rows of `case.local` are worked on without the others': catches statistics of the batch."""
    arguments = cases.draw(case, seed=0)
    given = cast(case, arguments)
    run = with_gradients(case, functools.partial(case.function, **case.settings[0]))

    def on_each_device(arguments, weights):
        gradients, leaves = run(*arguments, weights=weights)
        return [
            jax.lax.psum(gradient, "data") if axes_cut(case)[position] is None else gradient
            for gradient, position in zip(gradients, case.trained, strict=True)
        ], leaves

    of_arguments, of_results = axes_cut(case), results_cut(case)
    of_gradients = [of_arguments[position] for position in case.trained]
    eight = jax.pmap(
        on_each_device,
        axis_name="data",
        in_axes=(of_arguments, of_results),
        out_axes=(of_gradients, of_results),
    )
    weights = [np.float32(w) for w in weights_of(case)]
    sides = ([np.asarray(x) for x in given], of_arguments), (weights, of_results)
    got = jax.device_get(eight(*([*map(devices.folded, *side)] for side in sides)))
    due = alone(case.name, 0, seed=0)
    got = jax.tree.map(lambda one, other: one.reshape(other.shape), got, due)
    assert_equal_runs(case, got, due, arguments)


@few_by_default
@every_case_of_the_batch
def test_pmap_with_gathered_rows_equals_one_device(case):
    """What needs all rows has the value and gradient of one device on each, once it has them."""
    arguments = cases.draw(case, seed=0)
    given, axes = cast(case, arguments), axes_cut(case)
    gather = functools.partial(jax.lax.all_gather, axis_name="data", tiled=True)

    def of_gathered(*parts):
        full = [
            part if axis is None else gather(part, axis=axis)
            for part, axis in zip(parts, axes, strict=True)
        ]
        return case.function(*full, **case.settings[0])

    def on_each_device(parts):
        gradients, leaves = with_gradients(case, of_gathered)(*parts)
        # Every device's loss is that of the batch, and their mean is what is to be differentiated:
        # a part of the rows has the gradients of all devices, what each has whole its own.
        return [
            jax.lax.pmean(gradient, "data") if axes[position] is None else gradient / devices.COUNT
            for gradient, position in zip(gradients, case.trained, strict=True)
        ], leaves

    eight = jax.pmap(
        on_each_device,
        axis_name="data",
        in_axes=(axes,),
        out_axes=([axes[position] for position in case.trained], 0),
    )
    parts = [devices.folded(np.asarray(x), axis) for x, axis in zip(given, axes, strict=True)]
    gradients, leaves = jax.device_get(eight(parts))
    due = alone(case.name, 0, seed=0)
    gradients = jax.tree.map(lambda one, other: one.reshape(other.shape), gradients, due[0])
    for device in range(devices.COUNT):
        got = gradients, [leaf[device] for leaf in leaves]
        assert_equal_runs(case, got, due, arguments)


fewer_by_default = pytest.mark.by_default(
    "*product.quantize", "*product.quantize_identity", "*product.fit_codebooks", "*binary.sign"
)


def specs(axes):
    return tuple(
        PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, "data") for axis in axes
    )


@fewer_by_default
@every_case_of_rows
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_with_the_gradient_outside_equals_one_device(case, check_vma):
    """Rows of `case.local` stay, a statistic of the batch gathers them and is averaged."""
    arguments = cases.draw(case, seed=0)
    axes = axes_cut(case)
    function = functools.partial(case.function, **case.settings[0])

    def of_gathered(*parts):
        parts = [
            part if axis is None else jax.lax.all_gather(part, "data", axis=axis, tiled=True)
            for part, axis in zip(parts, axes, strict=True)
        ]
        return [
            (jax.lax.pmean if jnp.issubdtype(leaf.dtype, jnp.floating) else jax.lax.pmax)(
                leaf, "data"
            )
            for leaf in jax.tree.leaves(function(*parts))
        ]

    def of_rows(*parts):
        return jax.tree.leaves(function(*parts))

    cut = results_cut(case) if case.local else [None] * len(case.result.split(","))
    mapped = jax.shard_map(
        of_rows if case.local else of_gathered,
        mesh=jax.make_mesh((devices.COUNT,), ("data",), axis_types=(AxisType.Auto,)),
        in_specs=specs(axes),
        out_specs=list(specs(cut)),
        check_vma=check_vma,
    )
    got = jax.device_get(jax.jit(with_gradients(case, mapped))(*cast(case, arguments)))
    assert_equal_runs(case, got, alone(case.name, 0, seed=0), arguments)


@fewer_by_default
@every_case_of_rows
def test_explicit_axes_equal_one_device(case):
    arguments = cases.draw(case, seed=0)
    mesh = jax.make_mesh((devices.COUNT,), ("data",))
    assert mesh.axis_types == (AxisType.Explicit,)
    cut = [
        jax.device_put(x, NamedSharding(mesh, spec))
        for x, spec in zip(cast(case, arguments), specs(axes_cut(case)), strict=True)
    ]
    run = with_gradients(case, functools.partial(case.function, **case.settings[0]))
    with jax.set_mesh(mesh):
        got = jax.device_get(jax.jit(run)(*cut))
    assert_equal_runs(case, got, alone(case.name, 0, seed=0), arguments)
