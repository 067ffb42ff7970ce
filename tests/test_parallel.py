"""Steps on a mesh; that they are the steps of one device is in `test_methods`."""

import jax
import numpy as np
import pytest

from quantjax import parallel, train
from tests import toy


@pytest.fixture(scope="module")
def experiment():
    return toy.experiment(toy.dqn())


@pytest.mark.parametrize("num_devices", [1, 8])
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
    with pytest.raises(ValueError, match="a multiple of the 8 devices, got 12"):
        parallel.put_rows(parallel.data_mesh(), {"x": np.zeros((12, 3))})


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
