"""Steps on a mesh; that they are the steps of one device is in `test_methods`."""

import functools

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from quantjax import losses, models, train
from quantjax.errors import InputError
from quantjax.quantizers import product
from quantjax.run import parallel
from tests import toy


@pytest.fixture(scope="module")
def experiment():
    return toy.experiment(toy.dqn())


@pytest.mark.parametrize("num_devices", [1, 8])
@pytest.mark.by_default("8")
def test_a_step_takes_the_memory_of_the_state_before(experiment, num_devices):
    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    state = train.initialize(experiment, mesh)
    rows = experiment.splits.train[:64]
    batch = {**experiment.splits.source[rows], "index": np.arange(64, dtype=np.int32)}
    step = parallel.sharded_step(
        train.make_step(experiment, experiment.method.phases[0]),
        mesh,
        lambda state, batch: toy.normalize(batch),
    )
    after, metrics = step(state, parallel.put_rows(mesh, batch))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt)))
    for before, leaf in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert leaf.sharding == before.sharding
    assert np.isfinite(metrics["loss"])


def test_rows_are_cut_as_devices_stand(rng):
    mesh = parallel.data_mesh()
    x = rng.normal(size=(16, 3)).astype(np.float32)
    whole = parallel.put_rows(mesh, {"x": x})["x"]
    for place, device in enumerate(mesh.devices.flat):
        (part,) = (shard for shard in whole.addressable_shards if shard.device == device)
        np.testing.assert_array_equal(part.data, x[2 * place : 2 * place + 2])


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(ValueError, match="a multiple of the 8 devices, got 12; the nearest are 8"):
        parallel.put_rows(parallel.data_mesh(), {"x": np.zeros((12, 3))})


@pytest.mark.parametrize(
    ("devices", "batch_size", "due"),
    [
        (3, 64, "a multiple of the 3 devices, got 64; the nearest are 63 and 66"),
        (6, 5, "a multiple of the 6 devices, got 5; the nearest is 6"),
        (6, 66, None),
        (1, 0, "^batch_size must be 1 or more, got 0"),
    ],
)
def test_the_nearest_batches_that_devices_can_share_are_named(devices, batch_size, due):
    mesh = parallel.data_mesh(jax.devices()[:devices])
    if due is None:
        parallel.check_divisible(mesh, batch_size)
    else:
        with pytest.raises(InputError, match=f"{due}$"):
            parallel.check_divisible(mesh, batch_size)


def test_what_is_shared_is_built_once_of_the_same_parts():
    built = []

    @parallel.shared
    def build(*parts, **options):
        built.append((parts, options))
        return object()

    assert build(1, b=2) is build(1, b=2)
    assert build(1, b=3) is not build(1, b=2)
    assert build([1]) is not build([1])
    assert built == [((1,), {"b": 2}), ((1,), {"b": 3}), (([1],), {}), (([1],), {})]


def test_one_step_serves_states_of_several_structures():
    def step(state, batch, *, collectives):
        return jax.tree.map(lambda x: x + batch["x"].sum(), state), {"loss": batch["x"].sum()}

    mesh = parallel.data_mesh()
    batch = parallel.put_rows(mesh, {"x": np.ones(8, np.float32)})
    for state in ({"a": np.zeros(2)}, {"a": np.zeros(2), "b": np.zeros(3)}, {"a": np.zeros(2)}):
        stepped = parallel.sharded_step(step, mesh)
        after, _ = stepped(parallel.put(mesh, state), batch)
        assert {name: leaf.tolist() for name, leaf in after.items()} == {
            name: [8.0] * len(leaf) for name, leaf in state.items()
        }
        assert all(leaf.sharding == parallel.replicated(mesh) for leaf in after.values())


class Noisy(nnx.Module):
    """One dense layer with batch statistics and dropout, each where it is asked for."""

    def __init__(self, statistics, dropout, *, rngs):
        self.dense = nnx.Linear(64, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        self.statistics = statistics

    def __call__(self, x, *, train, rngs=None):
        x = self.dense(x.reshape(len(x), -1))
        x = self.norm(x, use_running_average=not (train and self.statistics))
        return self.dropout(x, deterministic=not train, rngs=rngs)


@functools.cache
def noisy(*, statistics=False, dropout=0.0):
    return models.from_nnx(functools.partial(Noisy, statistics, dropout))


@pytest.mark.parametrize("skip_non_finite", [False, True])
@pytest.mark.parametrize(
    ("network", "message"),
    [
        (noisy(statistics=True), "state/nets/net/norm/mean follows each device's own rows"),
        (noisy(dropout=0.5), r"draws no random numbers for its rows \(dropout\?\)"),
        (models.microbatched(noisy(dropout=0.5), 4), "draws no random numbers for its rows"),
        (noisy(), None),
    ],
    ids=["batch statistics", "dropout", "dropout in turns", "neither"],
)
@pytest.mark.by_default("batch statistics-*", "dropout-False", "neither-False")
def test_pmap_refuses_what_would_differ_between_devices(network, message, skip_non_finite):
    experiment = toy.experiment(toy.dqn(network), num_epochs=1)
    run = functools.partial(
        train.fit,
        experiment,
        mesh=parallel.data_mesh(jax.devices()[:2]),
        parallelize=parallel.pmapped_step,
        skip_non_finite=skip_non_finite,
    )
    if message is None:
        assert int(run().state.step) == 4
    else:
        with pytest.raises(InputError, match=message) as caught:
            run()
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_pmap_on_one_device_takes_any_network():
    experiment = toy.experiment(toy.dqn(noisy(statistics=True, dropout=0.5)), num_epochs=1)
    mesh = parallel.data_mesh(jax.devices()[:1])
    one, other = (
        train.fit(experiment, mesh=mesh, parallelize=parallelize).state.params
        for parallelize in (parallel.sharded_step, parallel.pmapped_step)
    )
    for pair in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-6)


def written(state, batch, gather):
    return state["table"].at[gather(batch["index"])].set(gather(batch["x"]))


def drawn(state, key, shape, change=lambda key: key):
    return state["table"] + jnp.sum(jax.random.normal(change(key), shape))


OF_THIS_DEVICE = {
    "a table written with all devices' rows": (
        lambda state, batch, c: written(state, batch, c.gather),
        None,
    ),
    "a table written with its own rows": (
        lambda state, batch, c: written(state, batch, lambda x: x),
        "table follows each device's own rows",
    ),
    "a loop over its own rows": (
        lambda state, batch, c: jax.lax.fori_loop(0, 2, lambda i, t: t + batch["x"][i], 0.0),
        "table follows each device's own rows",
    ),
    "a sum over devices in a compiled function": (
        lambda state, batch, c: state["table"] + jax.jit(c.mean)(batch["x"].sum()),
        None,
    ),
    "the device's number": (
        lambda state, batch, c: state["table"] + jax.lax.axis_index("data"),
        "table follows each device's own rows",
    ),
    "random numbers for no row": (
        lambda state, batch, c: drawn(state, jax.random.key(0), (3,)),
        None,
    ),
    "random numbers for its rows": (
        lambda state, batch, c: c.mean(drawn(state, jax.random.key(0), batch["x"].shape)),
        "draws no random numbers",
    ),
    "random numbers for its rows in a branch": (
        lambda state, batch, c: jax.lax.cond(
            state["table"][0] > 0,
            lambda: c.mean(drawn(state, jax.random.key(0), batch["x"].shape)),
            lambda: state["table"],
        ),
        "draws no random numbers",
    ),
    "random numbers of the device's own for its rows": (
        lambda state, batch, c: c.mean(
            drawn(
                state,
                jax.random.key(0),
                batch["x"].shape,
                lambda key: jax.random.fold_in(key, jax.lax.axis_index("data")),
            )
        ),
        None,
    ),
}


@pytest.mark.parametrize(("table", "message"), OF_THIS_DEVICE.values(), ids=OF_THIS_DEVICE.keys())
def test_pmap_follows_what_each_device_has_of_its_own(table, message):
    def step(state, batch, *, collectives):
        new = {"table": table(state, batch, collectives)}
        return new, {"loss": collectives.mean(batch["x"].sum())}

    mesh = parallel.data_mesh(jax.devices()[:2])
    batch = {"x": np.arange(8, dtype=np.float32), "index": np.arange(8)[::-1].copy()}
    state = parallel.put(mesh, {"table": np.zeros(8, np.float32)})
    run = functools.partial(parallel.pmapped_step(step, mesh), state)
    if message is None:
        assert run(parallel.put_rows(mesh, batch))[1]["loss"] == 14
    else:
        with pytest.raises(InputError, match=message):
            run(parallel.put_rows(mesh, batch))


def test_pmap_refuses_metrics_of_one_device():
    step = lambda state, batch, *, collectives: (state, {"loss": batch["x"].sum()})  # noqa: E731
    mesh = parallel.data_mesh(jax.devices()[:2])
    with pytest.raises(InputError, match="but loss follows"):
        parallel.pmapped_step(step, mesh)(
            {"a": np.zeros(2)}, parallel.put_rows(mesh, {"x": np.ones(8, np.float32)})
        )


def test_pmap_cuts_rows_whatever_prepares_them():
    """The partitioner leaves some of what it makes of rows whole on every device."""

    def step(state, batch, *, collectives):
        return state, {"loss": collectives.mean(batch["x"].sum())}

    mesh = parallel.data_mesh()
    batch = parallel.put_rows(mesh, {"x": np.arange(16, dtype=np.float32)})
    whole = jax.jit(lambda x: x[::-1] + 0, out_shardings=parallel.replicated(mesh))
    mixed = parallel.pmapped_step(step, mesh, lambda state, batch: {"x": whole(batch["x"])})
    assert mixed({"a": np.zeros(2)}, batch)[1]["loss"] == 15


def loss_of_pairs(weights, codebooks, images, similar, gather=lambda x: x):
    x = images @ weights
    quantized = product.quantize(codebooks, x, temperature=1.0)
    return losses.pairwise_cosine(x, gather(quantized), similar).mean()


def outside(loss, mapped):
    return jax.value_and_grad(mapped(lambda *args: jax.lax.pmean(loss(*args), "data")), (0, 1))


def inside_of_the_mean(loss, mapped):
    return mapped(jax.value_and_grad(lambda *args: jax.lax.pmean(loss(*args), "data"), (0, 1)))


def inside_then_the_mean(loss, mapped):
    return mapped(lambda *args: jax.lax.pmean(jax.value_and_grad(loss, (0, 1))(*args), "data"))


@pytest.mark.parametrize(
    ("way", "check_vma", "gradient_is"),
    [
        (outside, True, "right"),
        (outside, False, "right"),
        (inside_of_the_mean, True, "right"),
        (inside_of_the_mean, False, "each device's own"),
        (inside_then_the_mean, True, "eight times too large"),
        (inside_then_the_mean, False, "right"),
    ],
)
@pytest.mark.by_default("outside-True-right", "inside_of_the_mean-True-right")
def test_loss_and_gradient_in_shard_map_are_as_the_readme_says(rng, way, check_vma, gradient_is):
    shapes = (6, 4), (2, 8, 2), (16, 6)
    weights, codebooks, images = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
    similar = jnp.asarray(rng.uniform(size=(16, 16)) < 0.3)
    arguments = weights, codebooks, images, similar
    rows, whole = PartitionSpec("data"), PartitionSpec()
    local = way is not outside and gradient_is == "each device's own"
    mapped = functools.partial(
        jax.shard_map,
        mesh=jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)),
        in_specs=(whole, whole, rows, rows),
        out_specs=(whole, rows) if local else whole,
        check_vma=check_vma,
    )
    gather = functools.partial(jax.lax.all_gather, axis_name="data", tiled=True)
    run = way(functools.partial(loss_of_pairs, gather=gather), mapped)
    value, gradient = jax.jit(run)(*arguments)
    due, due_gradient = jax.jit(jax.value_and_grad(loss_of_pairs, (0, 1)))(*arguments)
    np.testing.assert_allclose(value, due, rtol=1e-5)
    for got, right in zip(gradient, due_gradient, strict=True):
        if local:
            # Each device has its own, and no two are the same.
            each = got.reshape(8, *right.shape)
            assert not np.allclose(each[0], right, rtol=0.1)
            assert not np.allclose(each[0], each[1], rtol=0.1)
        else:
            factor = 1 if gradient_is == "right" else 8
            np.testing.assert_allclose(got, factor * right, rtol=1e-4, atol=1e-5)
