"""The eight simulated devices: rows cut over them, under jit or under pmap."""

import functools

import jax

COUNT = 8


def by_rows(*arrays):
    """Puts arrays on all devices, cut by rows."""
    mesh = jax.make_mesh((COUNT,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    return [jax.device_put(x, sharding) for x in arrays]


def pmap_gathered(function, replicated, rows):
    """Runs function(replicated, *gathered rows) on every device, and returns one device's result.

    out_axes=None takes any device's: the devices' results are compared on the way.
    """
    gather = functools.partial(jax.lax.all_gather, axis_name="data", tiled=True)

    def on_each_device(replicated, rows):
        return jax.tree.map(
            lambda x: jax.lax.all_gather(x, "data"), function(replicated, *map(gather, rows))
        )

    cut = [x.reshape(COUNT, -1, *x.shape[1:]) for x in rows]
    results = jax.pmap(on_each_device, axis_name="data", in_axes=(None, 0), out_axes=None)(
        replicated, cut
    )
    for leaf in jax.tree.leaves(results):
        assert all((leaf[0] == other).all() for other in leaf[1:])
    return jax.tree.map(lambda x: x[0], results)


def cut(x, axis):
    """Puts an array on all devices, cut along one axis; a copy for each where that is None."""
    mesh = jax.make_mesh((COUNT,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    names = () if axis is None else (*(None,) * axis, "data")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*names))
    return jax.device_put(x, sharding)


def folded(x, axis):
    """Gives an axis that devices share one more axis before it, of the devices, for pmap."""
    if axis is None:
        return x
    return x.reshape(*x.shape[:axis], COUNT, -1, *x.shape[axis + 1 :])
