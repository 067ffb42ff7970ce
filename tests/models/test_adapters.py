"""Modules of Linen, Equinox and Haiku work as networks, and raise errors for wrong inputs."""

import functools
import signal
import sys
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import errors, methods, models, train
from quantjax.run import parallel
from tests import toy

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
KEY = jax.random.key(3)


class LinenPlain(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        x = flax.linen.Dense(6)(x.reshape(len(x), -1))
        return flax.linen.Dense(8)(flax.linen.relu(x))


class LinenNormed(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x, *, train):
        x = flax.linen.Dense(6)(x.reshape(len(x), -1))
        x = flax.linen.BatchNorm(use_running_average=not train, momentum=0.75)(x)
        x = flax.linen.Dropout(0.25, deterministic=not train)(flax.linen.relu(x))
        return flax.linen.Dense(8)(x)


class EquinoxPlain(eqx.Module):
    layers: list[eqx.nn.Linear]
    scale: float

    def __init__(self, *, key, width=4):
        keys = jax.random.split(key)
        self.layers = [
            eqx.nn.Linear(width, 6, key=keys[0]),
            eqx.nn.Linear(6, 8, key=keys[1]),
        ]
        self.scale = 0.5

    def __call__(self, x):
        return self.layers[1](jax.nn.relu(self.layers[0](self.scale * x.reshape(-1))))


class EquinoxNormed(eqx.Module):
    inner: EquinoxPlain
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    order: jax.Array

    def __init__(self, *, key, width=4, axis_name="batch"):
        self.inner = EquinoxPlain(key=key, width=width)
        self.norm = eqx.nn.BatchNorm(8, axis_name, momentum=0.75, mode="ema")
        self.dropout = eqx.nn.Dropout(0.25)
        self.order = jax.random.permutation(key, 8)

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.inner(x), state)
        return self.dropout(x[self.order], key=key), state


def haiku_plain(x):
    return hk.nets.MLP((6, 8))(x.reshape(len(x), -1))


def haiku_normed(x, is_training):
    x = hk.Linear(6)(x.reshape(len(x), -1))
    x = jax.nn.relu(hk.BatchNorm(True, True, 0.75)(x, is_training))
    x = hk.dropout(hk.next_rng_key(), 0.25, x) if is_training else x
    return hk.Linear(8)(x)


def linen_directly(module, key):
    """The module's own answers: in training with a key and the state after, then in evaluation."""
    train, evaluate = ({}, {}) if module == LinenPlain() else ({"train": True}, {"train": False})
    variables = module.init(key, X, **evaluate)
    y, changed = module.apply(variables, X, rngs={"dropout": KEY}, mutable=["batch_stats"], **train)
    return y, changed.get("batch_stats", {}), module.apply({**variables, **changed}, X, **evaluate)


def equinox_directly(build, key):
    if build is EquinoxPlain:
        y = jax.vmap(build(key=key))(X)
        return y, {}, y
    module, state = eqx.nn.make_with_state(build)(key=key)
    run = functools.partial(jax.vmap, axis_name="batch", out_axes=(0, None))
    keys = jax.random.split(KEY, len(X))
    y, state = run(lambda x, key: module(x, state, key=key))(X, keys)
    inference = eqx.nn.inference_mode(module)
    return y, state.get(module.norm.ema_state_index), run(lambda x: inference(x, state))(X)[0]


def haiku_directly(function, key):
    transformed = hk.transform_with_state(function)
    train, evaluate = ((), ()) if function is haiku_plain else ((True,), (False,))
    params, state = transformed.init(key, X, *train)
    y, state = transformed.apply(params, state, KEY, X, *train)
    return y, state, transformed.apply(params, state, None, X, *evaluate)[0]


class Case(NamedTuple):
    network: models.Network
    directly: Any
    running: tuple[int, ...] | None  # shape of the running means, where it has any; and dropout


CASES = {
    "linen plain": Case(
        models.from_linen(LinenPlain()), functools.partial(linen_directly, LinenPlain()), None
    ),
    "linen": Case(
        models.from_linen(LinenNormed()), functools.partial(linen_directly, LinenNormed()), (6,)
    ),
    "equinox plain": Case(
        models.from_equinox(EquinoxPlain),
        functools.partial(equinox_directly, EquinoxPlain),
        None,
    ),
    "equinox": Case(
        models.from_equinox(eqx.nn.make_with_state(EquinoxNormed)),
        functools.partial(equinox_directly, EquinoxNormed),
        (8,),
    ),
    "haiku plain": Case(
        models.from_haiku(hk.without_apply_rng(hk.transform(haiku_plain))),
        functools.partial(haiku_directly, haiku_plain),
        None,
    ),
    "haiku": Case(
        models.from_haiku(hk.transform_with_state(haiku_normed)),
        functools.partial(haiku_directly, haiku_normed),
        (1, 6),
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def leaves_of(tree):
    return sorted(np.asarray(leaf, np.float64).ravel().tolist() for leaf in jax.tree.leaves(tree))


@every_case
def test_a_network_computes_what_the_module_does(case):
    for seed in (0, 1):
        params, state = case.network.init(jax.random.key(seed), X)
        y, changed, evaluated = case.directly(jax.random.key(seed))
        got, after = case.network.apply(params, state, X, train=True, key=KEY)
        assert got.shape == (8, 8)
        np.testing.assert_allclose(got, y, rtol=1e-5, atol=1e-6)
        averages = [leaf for leaf in jax.tree.leaves(after) if leaf.shape == case.running]
        due = [leaf for leaf in jax.tree.leaves(changed) if jnp.shape(leaf) == case.running]
        assert bool(due) == (case.running is not None)
        for each in due:
            assert any(np.allclose(leaf, each, rtol=1e-5, atol=1e-6) for leaf in averages)
        got, _ = case.network.apply(params, after, X, train=False)
        np.testing.assert_allclose(got, evaluated, rtol=1e-5, atol=1e-6)


@every_case
def test_state_changes_in_training_alone_and_dropout_follows_the_key(case):
    params, state = case.network.init(jax.random.key(0), X)
    assert bool(jax.tree.leaves(state)) == (case.running is not None)
    one, again, other = (
        case.network.apply(params, state, X, train=True, key=jax.random.key(seed))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one[0], again[0])
    assert np.array_equal(one[0], other[0]) == (not (case.running is not None))
    assert (leaves_of(one[1]) != leaves_of(state)) == (case.running is not None)
    assert jax.tree.structure(one[1]) == jax.tree.structure(state)
    still, moved = (
        case.network.apply(params, state, X, train=False, key=key)
        for key in (None, jax.random.key(1))
    )
    np.testing.assert_array_equal(still[0], moved[0])
    jax.tree.map(np.testing.assert_array_equal, still[1], state)


@every_case
def test_params_and_state_are_plain_dicts_and_every_param_has_a_gradient(case):
    params, state = case.network.init(jax.random.key(0), X)
    for path, _ in jax.tree.leaves_with_path((params, state)):
        assert all(isinstance(key.key, str) for key in path[1:])

    @jax.jit
    def gradient(params):
        def loss(params):
            y, _ = case.network.apply(params, state, X, train=True, key=KEY)
            return jnp.sum(jnp.sin(jnp.arange(64.0).reshape(8, 8) + y))

        return jax.grad(loss)(params)

    sizes = jax.tree.map(lambda g: float(jnp.max(jnp.abs(g))), gradient(params))
    biases_ahead_of_norm = 1 if (case.running is not None) else 0
    assert sum(size < 1e-5 for size in jax.tree.leaves(sizes)) <= biases_ahead_of_norm


@every_case
def test_another_key_draws_other_params(case):
    one, other = (case.network.init(jax.random.key(seed), X)[0] for seed in (0, 1))
    assert leaves_of(one) != leaves_of(other)


TRAINED = {
    "linen": lambda: models.from_linen(LinenNormed()),
    "equinox": lambda: models.from_equinox(
        functools.partial(eqx.nn.make_with_state(EquinoxNormed), width=64)
    ),
    "haiku": lambda: models.from_haiku(hk.transform_with_state(haiku_normed)),
}


@pytest.mark.by_default("equinox")
@pytest.mark.parametrize("make", TRAINED.values(), ids=TRAINED.keys())
def test_a_network_trains_and_resumes_in_fit(make, tmp_path):
    method = methods.dqn(make(), dim=8, num_codebooks=2, num_codewords=16)
    experiment = toy.experiment(method, num_epochs=2)
    mesh = parallel.data_mesh(jax.devices()[:1])
    whole = train.fit(experiment, mesh=mesh)
    assert whole.history[-1]["loss"] < whole.history[0]["loss"]

    def stop(record):
        if record["step"] == 3:
            signal.raise_signal(signal.SIGTERM)

    stopped = train.fit(experiment, workdir=tmp_path, mesh=mesh, callbacks=[stop], log_every=1)
    assert int(stopped.state.step) < 8
    resumed = train.fit(experiment, workdir=tmp_path, mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, resumed.state, whole.state)


def test_an_equinox_module_that_is_built_starts_with_its_arrays():
    pair = eqx.nn.make_with_state(EquinoxNormed)(key=jax.random.key(5))
    due = models.from_equinox(eqx.nn.make_with_state(EquinoxNormed)).init(jax.random.key(5), X)
    plain = EquinoxPlain(key=jax.random.key(5))
    for seed in (0, 1):
        found = models.from_equinox(pair).init(jax.random.key(seed), X)
        jax.tree.map(np.testing.assert_array_equal, found, due)
        params, _ = models.from_equinox(plain).init(jax.random.key(seed), X)
        np.testing.assert_array_equal(params["layers"]["0"]["weight"], plain.layers[0].weight)


def test_an_equinox_batch_axis_may_have_another_name():
    build = eqx.nn.make_with_state(EquinoxNormed)
    usual = models.from_equinox(build)
    other = models.from_equinox(functools.partial(build, axis_name="rows"), axis_name="rows")
    (params, state), due = other.init(KEY, X), usual.init(KEY, X)
    np.testing.assert_array_equal(
        other.apply(params, state, X, train=True, key=KEY)[0],
        usual.apply(*due, X, train=True, key=KEY)[0],
    )


class LinenOfTwo(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x, lengths):
        return flax.linen.Dense(8)(x)


WRONG = {
    "a class of Linen": (
        lambda: models.from_linen(LinenPlain),
        "from_linen takes a flax.linen.Module, got <class",
    ),
    "Linen of two inputs": (
        lambda: models.from_linen(LinenOfTwo()).init(KEY, X),
        "LinenOfTwo does not take inputs of shape (8, 4): ",
    ),
    "no module": (
        lambda: models.from_equinox(lambda *, key: jnp.zeros(3)),
        "from_equinox takes an equinox.Module with a __call__, a pair (module, state), or a "
        "function (*, key) -> module; got a ShapeDtypeStruct",
    ),
    "Equinox of another width": (
        lambda: models.from_equinox(EquinoxPlain).init(KEY, X[:, :3]),
        "EquinoxPlain does not take inputs of shape (8, 3): ",
    ),
    "a function of Haiku": (
        lambda: models.from_haiku(haiku_plain),
        "from_haiku takes a transformed function, got <function haiku_plain",
    ),
    "Haiku of two inputs": (
        lambda: models.from_haiku(hk.transform(lambda x, lengths: x)).init(KEY, X),
        "does not take inputs of shape (8, 4): ",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_refused_in_a_line(call, message):
    with pytest.raises(errors.InputError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("package", "make", "message"),
    [
        ("equinox", lambda: models.from_equinox(EquinoxPlain), "pip install equinox"),
        ("haiku", lambda: models.from_haiku(hk.transform(haiku_plain)), "pip install dm-haiku"),
    ],
)
def test_a_package_that_is_missing_is_named(package, make, message, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(errors.MissingPackageError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
