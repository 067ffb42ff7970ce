"""What is promised of GPUs, as far as a machine can tell: with a compiler for them, or with one."""

import collections
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments.benchmarks import absent_gpus, training
from quantjax import models, train
from quantjax.batch import Collectives
from quantjax.data import embedding
from quantjax.run import parallel
from tests import programs, toy

with_compiler = pytest.mark.skipif(
    not absent_gpus.can_compile(), reason="no compiler for CUDA (see experiments/benchmarks)"
)
on_a_gpu = pytest.mark.skipif(
    not pathlib.Path("/dev/nvidiactl").exists(), reason="no GPU on this machine"
)

EXPERIMENTS = {name: lambda make=make: toy.experiment(make()) for name, make in toy.METHODS.items()}
EXPERIMENTS |= {
    name: lambda case=case: training.experiment(case) for name, case in training.CASES.items()
}


@pytest.fixture(scope="module")
def gpus():
    """Eight that are not here; what is compiled for them cannot be read back from a cache."""
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield absent_gpus.mesh(8)
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()


def shapes(tree, sharding):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def lowered(experiment, mesh):
    """Yields name and program of all that `fit` runs for a whole run, lowered for a mesh."""
    whole, rows = parallel.replicated(mesh), parallel.by_rows(mesh)
    source, positions = experiment.splits.source, experiment.splits.train
    start = train.initialize(experiment, parallel.data_mesh(jax.devices()[:1]))
    state = shapes(start, whole)
    batch = source[positions[: experiment.batch_size]]
    batch = shapes({**batch, "index": np.zeros(experiment.batch_size, np.int32)}, rows)
    for phase in experiment.method.phases:
        step = train.make_step(experiment, phase)

        def augmented(state, batch, step=step):
            batch = train.make_prepare(experiment)(state, batch)
            return step(state, batch, collectives=Collectives())

        yield phase.name, jax.jit(augmented, out_shardings=whole).lower(state, batch)
    plan = experiment.method.refresh
    if plan is None:
        return
    many = {
        name: jax.ShapeDtypeStruct((embedding.ROWS, *x.shape[1:]), x.dtype, sharding=rows)
        for name, x in batch.items()
        if name != "index"
    }
    many["mask"] = jax.ShapeDtypeStruct((embedding.ROWS,), bool, sharding=rows)

    def collect(params, state, batch):
        return plan.collect(params, state, experiment.preprocess(batch))

    yield "collect", jax.jit(collect, out_shardings=rows).lower(state.params, state.state, many)
    found = shapes(jax.eval_shape(collect, start.params, start.state, many), rows)
    key = shapes(jax.random.key(0), whole)
    update = jax.jit(plan.update, out_shardings=whole)
    yield "update", update.lower(key, state.params, state.state, found, many["mask"])


def sums_in_any_order(program, *, deterministic):
    """Returns the lines of a compiled program whose addends meet as they come."""
    options = {"xla_gpu_deterministic_ops": deterministic}
    lines = program.compile(compiler_options=options).as_text().splitlines()
    assert len(lines) > 10
    return [
        line.strip()
        for line in lines
        if re.search(r" (scatter|select-and-scatter)\(", line) and "unique_indices=true" not in line
    ]


@pytest.mark.slow
@with_compiler
@pytest.mark.parametrize("make", EXPERIMENTS.values(), ids=EXPERIMENTS.keys())
def test_with_deterministic_operations_every_program_adds_in_one_order(make, gpus):
    """The compiler refuses what it cannot do deterministically; what it scatters it sorts first."""
    for name, program in lowered(make(), gpus):
        assert sums_in_any_order(program, deterministic=True) == [], name


@pytest.mark.slow
@with_compiler
def test_without_them_some_do_not(gpus):
    found = {
        name: sums_in_any_order(program, deterministic=False)
        for name, program in lowered(toy.experiment(toy.dqn_ste()), gpus)
    }
    assert found["joint"]
    assert found["update"]


def convolutions(name, precision, mesh):
    """Returns what the convolutions of a step give, forward and backward, by the type of it."""
    case = training.CASES[name]
    network = models.in_precision(case.ours(case.shape), precision)
    experiment = training.experiment(case._replace(ours=lambda shape: network))
    ((_, program),) = lowered(experiment, mesh)
    given = re.findall(
        r"= \(?(\w+)\[.* custom-call\(.*__cudnn\$conv(\w+)", program.compile().as_text()
    )
    return collections.Counter(given)


@pytest.mark.slow
@with_compiler
@pytest.mark.parametrize(("name", "count"), [("convnet", 8), ("cifar_resnet18", 59)])
def test_in_bfloat16_every_convolution_computes_in_it(gpus, name, count):
    for precision, due in (("bfloat16", "bf16"), ("float32", "f32")):
        found = convolutions(name, precision, gpus)
        assert {of for of, _ in found} == {due}
        assert found.total() == count


SCATTER = """
import jax, jax.numpy as jnp
jax.config.update("jax_platforms", "cpu")
from experiments.benchmarks import absent_gpus
from quantjax.run import parallel, processes
if {deterministic}:
    processes.repeat_bits()
whole = parallel.replicated(absent_gpus.mesh(1))
x = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=whole)
rows = jax.ShapeDtypeStruct((64,), jnp.int32, sharding=whole)
print(jax.jit(lambda x, rows: x.at[rows].add(1.0)).lower(x, rows).compile().as_text())
"""


@pytest.mark.slow
@with_compiler
@pytest.mark.parametrize("deterministic", [True, False])
def test_the_launchers_option_reaches_the_compiler(deterministic):
    # In a process of its own: the compiler reads its flags once.
    command = [sys.executable, "-c", SCATTER.format(deterministic=deterministic)]
    ran = subprocess.run(command, cwd=programs.ROOT, capture_output=True, text=True, check=True)
    (scatter,) = re.findall(r"^.* scatter\(.*$", ran.stdout, re.MULTILINE)
    assert ("unique_indices=true" in scatter) == deterministic


@pytest.mark.slow
@on_a_gpu
@pytest.mark.parametrize("method", toy.METHODS)
def test_on_a_gpu_a_run_that_was_killed_ends_with_the_same_bits(tmp_path, method):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    arguments = f"--config.method={method}", *programs.TO_BE_KILLED
    programs.kill_and_go_on(killed, *arguments, platform="cuda")
    programs.run(whole, *arguments, platform="cuda")
    states = [
        programs.final_state(folder, toy.METHODS[method], num_epochs=12)
        for folder in (killed, whole)
    ]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert programs.steps_of(killed) == programs.steps_of(whole)
