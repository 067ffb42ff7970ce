import re

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from quantjax import models

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)


class Normed(nnx.Module):
    """Everything that a real network has: a list, batch statistics, dropout fed at call."""

    def __init__(self, *, rngs):
        self.layers = nnx.List([nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)])
        self.norm = nnx.BatchNorm(6, momentum=0.75, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x, *, train, rngs=None):
        x = self.norm(self.layers[0](x), use_running_average=not train)
        x = self.dropout(nnx.relu(x), deterministic=not train, rngs=rngs)
        return self.layers[1](x)


class Bare(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, momentum=0.75, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        return self.norm(self.linear(x), use_running_average=not train)


def paths(tree):
    return {"/".join(repr(key.key) for key in keys) for keys, _ in jax.tree.leaves_with_path(tree)}


def test_from_nnx_computes_what_the_module_does():
    for seed in (0, 1):
        network = models.from_nnx(Normed)
        params, state = network.init(jax.random.key(seed), X)
        module = Normed(rngs=nnx.Rngs(jax.random.key(seed)))
        y, _ = network.apply(params, state, X, train=False)
        np.testing.assert_allclose(y, module(X, train=False), rtol=1e-6)
        y, state = network.apply(params, state, X, train=True, key=jax.random.key(7))
        due = module(X, train=True, rngs=nnx.Rngs(dropout=jax.random.key(7)))
        np.testing.assert_allclose(y, due, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state["norm"]["mean"], module.norm.mean[...], rtol=1e-6)


def test_from_nnx_draws_other_parameters_for_another_key():
    network = models.from_nnx(Bare)
    one, other = (network.init(jax.random.key(seed), X)[0] for seed in (0, 1))
    assert not np.array_equal(one["linear"]["kernel"], other["linear"]["kernel"])


def test_dropout_is_a_function_of_the_key_and_off_outside_training():
    network = models.from_nnx(Normed)
    params, state = network.init(jax.random.key(0), X)
    one, again, other = (
        network.apply(params, state, X, train=True, key=jax.random.key(seed))[0]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    still, moved = (
        network.apply(params, state, X, train=False, key=key)[0]
        for key in (None, jax.random.key(1))
    )
    np.testing.assert_array_equal(still, moved)


def test_params_and_state_are_plain_dicts_with_string_keys():
    params, state = models.from_nnx(Normed).init(jax.random.key(0), X)
    assert paths(params) == {
        "'layers'/'0'/'bias'",
        "'layers'/'0'/'kernel'",
        "'layers'/'1'/'bias'",
        "'layers'/'1'/'kernel'",
        "'norm'/'bias'",
        "'norm'/'scale'",
    }
    assert paths(state) == {"'norm'/'mean'", "'norm'/'var'"}
    assert all(type(leaf) is type(X) for leaf in jax.tree.leaves((params, state)))


def test_a_list_of_more_than_ten_layers_keeps_its_order():
    class Deep(nnx.Module):
        def __init__(self, *, rngs):
            self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(12)])

        def __call__(self, x, *, train, rngs=None):
            for layer in self.layers:
                x = nnx.relu(layer(x)) + x
            return x

    network = models.from_nnx(Deep)
    params, state = network.init(jax.random.key(0), X)
    y, _ = network.apply(params, state, X, train=False)
    due = X
    for i in range(12):
        layer = params["layers"][str(i)]
        due = jax.nn.relu(due @ layer["kernel"] + layer["bias"]) + due
    np.testing.assert_allclose(y, due, rtol=1e-5, atol=1e-5)


def test_batch_statistics_are_returned_and_what_was_given_is_left_alone():
    network = models.from_nnx(Bare)
    params, state = network.init(jax.random.key(0), X)
    before = jax.tree.map(np.array, (params, state))

    def loss(params, x):
        y, new_state = network.apply(params, state, x, train=True)
        return jnp.sum(y**3), new_state

    step = jax.value_and_grad(loss, has_aux=True)
    for run in (step, jax.jit(step)):
        (_, new_state), gradient = run(params, X)
        hidden = X @ params["linear"]["kernel"] + params["linear"]["bias"]
        np.testing.assert_allclose(
            new_state["norm"]["mean"], 0.25 * jnp.mean(hidden, axis=0), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            new_state["norm"]["var"], 0.75 + 0.25 * jnp.var(hidden, axis=0), rtol=1e-5
        )
        assert float(jnp.max(jnp.abs(gradient["linear"]["kernel"]))) > 1e-3
    _, kept = network.apply(params, new_state, X, train=False)
    for tree, due in (((params, state), before), (kept, new_state)):
        jax.tree.map(np.testing.assert_array_equal, tree, due)


def test_running_statistics_are_those_that_were_given():
    network = models.from_nnx(Bare)
    params, state = network.init(jax.random.key(0), X)
    other = {"norm": {"mean": state["norm"]["mean"] + 2, "var": 4 * state["norm"]["var"]}}
    y, shifted = (network.apply(params, s, X, train=False)[0] for s in (state, other))
    np.testing.assert_allclose(shifted, (y - 2) / 2, rtol=1e-3, atol=1e-3)


class Dropped(nnx.Module):
    def __init__(self, *, rngs):
        self.layers = nnx.List([nnx.Linear(4, 3, rngs=rngs), nnx.Dropout(0.25, rngs=rngs)])


class DroppedInside(nnx.Module):
    def __init__(self, *, rngs):
        self.head = Dropped(rngs=rngs)


class Keeping(nnx.Module):
    def __init__(self, *, rngs):
        self.rngs = rngs


class Attentive(nnx.Module):
    def __init__(self, *, rngs):
        self.attend = nnx.MultiHeadAttention(
            num_heads=1, in_features=4, dropout_rate=0.1, decode=False, rngs=rngs
        )


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            Dropped,
            "Dropped.layers[1] (Dropout) keeps random state in 'rngs'; write nnx.Dropout(0.25) "
            "without rngs, and pass rngs at the call: "
            "self.layers[1](x, deterministic=not train, rngs=rngs) in a "
            "__call__(self, x, *, train, rngs=None)",
        ),
        (DroppedInside, "DroppedInside.head.layers[1] (Dropout) keeps random state in 'rngs'; "),
        (Keeping, "Keeping (Keeping) keeps random state in 'rngs'; build Keeping without "),
        (
            Attentive,
            "Attentive.attend (MultiHeadAttention) keeps random state in 'rngs'; build "
            "MultiHeadAttention without keeping rngs in self.rngs",
        ),
    ],
    ids=["dropout", "dropout inside", "streams", "attention"],
)
def test_random_state_is_refused_with_the_line_to_write(module, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        models.from_nnx(module)
    assert "\n" not in str(caught.value)


class Plain(nnx.Module):
    """As NNX's own examples: it is told that it evaluates by `module.eval()`."""

    def __init__(self, *, rngs):
        self.linear = nnx.Linear(4, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, momentum=0.75, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.linear(x))


class Fed(Plain):
    def __init__(self, *, rngs):
        super().__init__(rngs=rngs)
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x, rngs=None):
        return self.dropout(super().__call__(x), rngs=rngs)


class Deterministic(Normed):
    def __call__(self, x, deterministic, **options):
        return super().__call__(x, train=not deterministic, **options)


@pytest.mark.parametrize("constructor", [Plain, Fed, Deterministic])
def test_a_module_without_train_is_taken_as_it_is(constructor):
    network = models.from_nnx(constructor)
    params, state = network.init(jax.random.key(0), X)
    module = constructor(rngs=nnx.Rngs(jax.random.key(0)))
    options = {} if constructor is Plain else {"rngs": nnx.Rngs(dropout=jax.random.key(7))}
    due = module(X, **({"deterministic": False} if constructor is Deterministic else {}), **options)
    y, trained = network.apply(params, state, X, train=True, key=jax.random.key(7))
    np.testing.assert_allclose(y, due, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(trained["norm"]["mean"], module.norm.mean[...], rtol=1e-6)
    module.eval()
    due = module(X, **({"deterministic": True} if constructor is Deterministic else {}))
    y, kept = network.apply(params, trained, X, train=False)
    np.testing.assert_allclose(y, due, rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, kept, trained)


def test_a_module_that_wants_more_than_inputs_is_refused():
    class Greedy(nnx.Module):
        def __init__(self, *, rngs):
            self.linear = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x, lengths, *, train):
            return self.linear(x)

    network = models.from_nnx(Greedy)
    with pytest.raises(ValueError, match=r"Greedy does not take inputs of shape .*: .*'lengths'"):
        network.init(jax.random.key(0), X)


def by_hand():
    def init(key, example):
        return {"kernel": jax.random.normal(key, (example.shape[1], 2))}, {"calls": jnp.array(0)}

    def apply(params, net_state, x, *, train, key=None):
        return x @ params["kernel"], {"calls": net_state["calls"] + train}

    return models.Network(init, apply)


class LinenNormed(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x, *, train):
        x = flax.linen.BatchNorm(use_running_average=not train)(flax.linen.Dense(5)(x))
        x = flax.linen.Dropout(0.2, deterministic=not train)(x)
        return flax.linen.Dense(2)(flax.linen.relu(x))


NETWORKS = {
    "hand-written": by_hand,
    "linen": lambda: models.from_linen(LinenNormed()),
    "nnx": lambda: models.from_nnx(Normed),
    "mlp": lambda: models.mlp((4,), hidden=(5,), dim=2),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
def test_any_pair_of_functions_trains_as_a_network(make):
    network = make()
    params, state = network.init(jax.random.key(0), X)
    optimizer = optax.adam(0.05)

    def loss(params, state, key):
        y, state = network.apply(params, state, X, train=True, key=key)
        return jnp.mean((y[:, 0] - X[:, 0]) ** 2), state

    @jax.jit
    def step(params, state, opt, key):
        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(params, state, key)
        updates, opt = optimizer.update(gradient, opt)
        return optax.apply_updates(params, updates), state, opt, value

    structure, opt, values = jax.tree.structure((params, state)), optimizer.init(params), []
    for key in jax.random.split(jax.random.key(1), 40):
        params, state, opt, value = step(params, state, opt, key)
        values.append(float(value))
    assert jax.tree.structure((params, state)) == structure
    assert np.mean(values[-5:]) < 0.6 * np.mean(values[:2])
    y, unchanged = network.apply(params, state, X, train=False)
    assert y.shape[0] == len(X)
    jax.tree.map(np.testing.assert_array_equal, unchanged, state)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.mlp((4,), hidden=(3, 0), dim=2), r"hidden must be 1 or more, got \(3, 0\)"),
        (lambda: models.mlp((0,), hidden=(), dim=2), r"input_shape must be 1 or more, got \(0,\)"),
        (lambda: models.mlp((4,), hidden=(), dim=-1), "dim must be 1 or more, got -1"),
        (lambda: convnet(channels=(0,)), "channels must be 1 or more"),
        (lambda: convnet(kernel_sizes=(0,)), "kernel_sizes must be 1 or more"),
        (lambda: convnet(hidden=0), "hidden must be 1 or more, got 0"),
        (lambda: convnet(dim=0), "dim must be 1 or more, got 0"),
        (lambda: patch_resnet(channels=(-1,)), "channels must be 1 or more"),
        (lambda: patch_resnet(dim=0), "dim must be 1 or more, got 0"),
        (lambda: models.fine_tuned(convnet(), 4, dim=0), "dim must be 1 or more, got 0"),
    ],
)
def test_sizes_below_one_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def convnet(**changes):
    sizes = {"channels": (2,), "kernel_sizes": (3,), "hidden": 4, "dim": 4}
    return models.convnet((4, 4, 1), **{**sizes, **changes})


def patch_resnet(**changes):
    sizes = {"patch": 2, "channels": (2,), "num_blocks": (1,), "dim": 4}
    return models.patch_resnet((4, 4, 1), **{**sizes, **changes})
