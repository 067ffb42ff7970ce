"""Rows are embedded where they stay."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import methods, train
from quantjax.data import embedding
from quantjax.run import parallel
from quantjax.train import step
from tests import toy

MOVED = re.compile(
    r"= (\(?\w+\[.*?) (?:all-gather|all-reduce|all-to-all|collective-permute)(?:-done)?\("
)
SHAPE = re.compile(r"\w+\[([0-9,]*)\]")


def largest_moved(text):
    """Entries of the largest array that a compiled program puts together of several devices'."""
    shapes = [shape for result in MOVED.findall(text) for shape in SHAPE.findall(result)]
    return max((math.prod(int(n) for n in shape.split(",") if n) for shape in shapes), default=0)


def gathered(x):
    return jax.lax.all_gather(x, parallel.AXIS, tiled=True)


def summed(x):
    """The same as a sum of what each device has, zeros elsewhere."""
    first = jax.lax.axis_index(parallel.AXIS) * len(x)
    whole = jnp.zeros((jax.device_count() * len(x), *x.shape[1:]), x.dtype)
    return jax.lax.psum(jax.lax.dynamic_update_slice_in_dim(whole, x, first, 0), parallel.AXIS)


@pytest.mark.parametrize("whole", [gathered, summed])
@pytest.mark.parametrize("others", [0, 1])
def test_a_program_that_puts_all_rows_together_is_seen_to(whole, others):
    program = jax.shard_map(
        lambda *parts: [whole(part) for part in parts],
        mesh=parallel.data_mesh(),
        in_specs=jax.sharding.PartitionSpec(parallel.AXIS),
        out_specs=jax.sharding.PartitionSpec(),
        check_vma=False,
    )
    parts = [jnp.zeros((4096, 8)), *[jnp.zeros(4096)] * others]
    assert largest_moved(jax.jit(program).lower(*parts).compile().as_text()) == 4096 * 8


@pytest.mark.parametrize(
    ("line", "due"),
    [
        ("%a = (f32[64,2]{1,0}, f32[256]{0}) all-gather(%b, %c), dimensions={0}", 256),
        ("%a = (f32[64,2]{1,0}, f32[]) all-reduce(%b, %c), to_apply=%add", 128),
        ("%a = f32[64,512]{1,0} all-gather-done(%b)", 32768),
        ("%a = f32[64,512]{1,0} add(%all-gather.1, %b)", 0),
    ],
)
def test_arrays_that_move_together_are_seen_to(line, due):
    assert largest_moved(line) == due


@pytest.mark.parametrize("num_rows", [1, 1000, 1024, 3000])
def test_every_row_is_embedded_in_its_place_on_any_mesh(num_rows, rng):
    rows = rng.integers(0, 384, num_rows)
    source = toy.splits().source

    def column(params, state, batch):
        return {"sum": batch["image"].sum((1, 2, 3)), "mask": batch["mask"]}

    due = source[rows]["image"].astype(np.float64).sum((1, 2, 3))
    for devices in (1, 3, 6, 7, 8):
        mesh = parallel.data_mesh(jax.devices()[:devices])
        length = embedding.table_length(num_rows, mesh)
        assert 0 <= length - embedding.padded_length(num_rows) < devices
        out = embedding.apply_to_rows(
            column,
            {},
            {},
            source,
            rows,
            preprocess=lambda batch: {**batch, "image": batch["image"].astype(jnp.float32)},
            mesh=mesh,
        )
        assert len(out["sum"]) == length
        np.testing.assert_array_equal(np.asarray(out["sum"])[:num_rows], due)
        np.testing.assert_array_equal(out["mask"], np.arange(length) < num_rows)
        assert out["sum"].sharding.is_equivalent_to(parallel.by_rows(mesh), 1)


@pytest.mark.parametrize("num_devices", [6, 8])
def test_rows_stay_on_the_device_that_embedded_them(num_devices):
    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    num_rows, dim = 4096, 8
    length = embedding.table_length(num_rows, mesh)
    width = -(-1024 // num_devices) * num_devices
    parts = [
        jax.ShapeDtypeStruct((width, dim), jnp.float32, sharding=parallel.by_rows(mesh))
        for _ in range(num_rows // 1024)
    ]
    joined = embedding._joiner(mesh, length // num_devices).lower(parts).compile()
    assert largest_moved(joined.as_text()) == 0
    # The refresh after it: codebooks of all rows, none of which is gathered but a draw of some.
    experiment = toy.experiment(toy.dqn())
    start = train.initialize(experiment, mesh)
    rows = jax.device_put(np.zeros((length, dim), np.float32), parallel.by_rows(mesh))
    mask = jax.device_put(np.ones(length, bool), parallel.by_rows(mesh))
    update = jax.jit(step._on_table(experiment.method.refresh.update, mesh, num_rows))
    fitted = update.lower(jax.random.key(0), start.params, start.state, rows, mask).compile()
    assert largest_moved(fitted.as_text()) <= length * dim / 4


def test_nothing_to_embed_is_refused():
    with pytest.raises(ValueError, match="no rows to embed"):
        embedding.embed(
            methods.images, {}, {}, toy.splits().source, np.array([], int),
            preprocess=toy.normalize, mesh=parallel.data_mesh(),
        )  # fmt: skip
