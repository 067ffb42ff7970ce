"""A method that does not keep to its contract is told so in a line, before anything compiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import errors, methods, models, train
from quantjax.methods import Method, Phase, Refresh
from quantjax.quantizers import BinaryCodec
from quantjax.run import parallel
from tests import toy

BATCH = {
    "image": np.zeros((6, 8, 8, 1), np.float32),
    "label": np.zeros((6, 4), np.uint8),
    "index": np.zeros(6, np.int32),
}


def initial(key, batch, num_rows):
    params = {"net": {"kernel": jnp.zeros((64, 8))}, "head": {"bias": jnp.zeros(8)}}
    state = {"nets": {"net": {}}, "mean": jnp.zeros(8), "table": jnp.zeros((num_rows, 2))}
    return params, {**state, "count": jnp.int32(0)}


def embedded(params, state, batch):
    return batch["image"].reshape(-1, 64) @ params["net"]["kernel"] + params["head"]["bias"]


def pair_loss(params, state, batch, context):
    x = embedded(params, state, batch)
    value = jnp.mean((x @ context.gather(x).T) ** 2)
    return value, ({**state, "mean": context.mean(x.mean(0))}, {"length": value, "fixed": 0.5})


def loss_with(change):
    """The loss, its (value, state, metrics) changed."""

    def loss(params, state, batch, context):
        value, (state, metrics) = pair_loss(params, state, batch, context)
        value, state, metrics = change(value, state, metrics)
        return value, (state, metrics)

    return {"phases": (phase(loss=loss),)}


def phase(**changes):
    return Phase(**{"name": "joint", "loss": pair_loss, "trains": ("net",), **changes})


def refresh(**changes):
    plan = {
        "collect": lambda params, state, batch: {"x": embedded(params, state, batch)},
        "update": lambda key, params, state, rows, mask: (params, {**state, "mean": rows["x"][0]}),
        "every": 1,
        "start": 0,
        "at_end": True,
    }
    return {"refresh": Refresh(**{**plan, **changes})}


def sound(**changes):
    parts = {
        "init": initial,
        "phases": (phase(), phase(name="other", trains=("net", "head"))),
        "phase_at": lambda epoch: epoch % 2,
        "embed": embedded,
        "codec": lambda params, state: BinaryCodec(8),
        "after_step": lambda params, state: (params, state),
        **refresh(),
    }
    changes = {"phase_at": lambda epoch: 0, **changes} if "phases" in changes else changes
    return Method(**{**parts, **changes})


def without(tree, name):
    return {key: value for key, value in tree.items() if key != name}


def not_fitted(params, state):
    raise errors.InputError("codebooks do not exist before epoch 1")


def no_such_key(params, state):
    return BinaryCodec(state["bits"])


def narrow(*args):
    return embedded(*args)[:, :6]


def network_without_train():
    def apply(params, net_state, x):
        return x.reshape(len(x), -1)[:, :8], net_state

    return models.Network(lambda key, example: ({}, {}), apply)


BROKEN = {
    "a phase alone": ({"phases": phase()}, "got the phase 'joint' alone; write (phase,)"),
    "a list of phases": (
        {"phases": [phase()]},
        "phases must be a tuple of one Phase or more, got [",
    ),
    "no phase": ({"phases": ()}, "phases must be a tuple of one Phase or more, got ()"),
    "a name for a phase": ({"phases": ("joint",)}, "phases must be a tuple of Phase, got 'joint'"),
    "two of a name": ({"phases": (phase(), phase())}, "names of their own, got joint, joint"),
    "trains a text": (
        {"phases": (phase(trains="net"),)},
        "phase 'joint': trains must be a tuple of entries of params, got 'net'; write ('net',)",
    ),
    "trains nothing known": (
        {"phases": (phase(trains=("net", "nett")),)},
        "phase 'joint': trains names 'nett', which is no entry of params; there are head, net",
    ),
    "trains integers": (
        {"init": lambda *args: ({"net": {"n": jnp.int32(0)}}, {}), "phases": (phase(),)},
        "phase 'joint': trains net/n, which is int32[] and has no gradient; keep it in state",
    ),
    "an epoch of no phase": (
        {"phase_at": lambda epoch: epoch},
        "phase_at(2) must be the index of a phase, 0 to 1, got 2",
    ),
    "an epoch before the first phase": (
        {"phase_at": lambda epoch: epoch - 3},
        "phase_at(0) must be the index of a phase, 0 to 1, got -3",
    ),
    "a phase by name": ({"phase_at": lambda epoch: "joint"}, "0 to 1, got 'joint'"),
    "init of params alone": (
        {"init": lambda *args: initial(*args)[0]},
        "init must return (params, state), got a dict",
    ),
    "init of arrays": (
        {"init": lambda *args: (jnp.zeros(3), {})},
        "init must return params as a dict of entries by name, got",
    ),
    "a loss alone": (
        {"phases": (phase(loss=lambda *args: pair_loss(*args)[0]),)},
        "phase 'joint': the loss must return (scalar, (state, metrics)), got float32[]",
    ),
    "a loss without metrics": (
        {"phases": (phase(loss=lambda *args: (pair_loss(*args)[0], args[1])),)},
        "phase 'joint': the loss must return (scalar, (state, metrics)), got a dict",
    ),
    "a loss for every row": (
        loss_with(lambda value, state, metrics: (value * jnp.ones(6), state, metrics)),
        "phase 'joint': the loss must be a floating scalar, got float32[6]; take the mean",
    ),
    "a lost state": (
        loss_with(lambda value, state, metrics: (value, without(state, "table"), metrics)),
        "phase 'joint': the loss returned a state without table; return every entry",
    ),
    "a lost net": (
        loss_with(lambda value, state, metrics: (value, {**state, "nets": {}}, metrics)),
        "phase 'joint': the loss returned a state without nets/net;",
    ),
    "a new state": (
        loss_with(lambda value, state, metrics: (value, {**state, "sum": value}, metrics)),
        "phase 'joint': the loss returned a state with sum, which init does not make",
    ),
    "a state of another shape": (
        loss_with(lambda value, state, metrics: (value, {**state, "mean": value}, metrics)),
        "phase 'joint': the loss returned state mean as float32[], due is float32[8]",
    ),
    "a state of another type": (
        loss_with(lambda value, state, metrics: (value, {**state, "count": 0.5}, metrics)),
        "phase 'joint': the loss returned state count as float32[], due is int32[]",
    ),
    "metrics in a list": (
        loss_with(lambda value, state, metrics: (value, state, [value])),
        "phase 'joint': metrics must be a dict of scalars by name, got a list of float32[]",
    ),
    "a metric for every row": (
        loss_with(lambda value, state, metrics: (value, state, {"hits": jnp.zeros(6)})),
        "phase 'joint': metric 'hits' must be a scalar, got float32[6]",
    ),
    "a metric of the loop": (
        loss_with(lambda value, state, metrics: (value, state, {"step": value})),
        "phase 'joint': a metric must have a name of its own, a text other than step, epoch,",
    ),
    "a step that forgets": (
        {"after_step": lambda params, state: (without(params, "head"), state)},
        "after_step returned a params without head/bias;",
    ),
    "a step that returns params": (
        {"after_step": lambda params, state: params},
        "after_step must return (params, state), got a dict",
    ),
    "an embedding of no rows": (
        {"embed": lambda *args: embedded(*args).mean(0)},
        "embed must return [6, D] floating, got float32[8]",
    ),
    "an embedding of integers": (
        {"embed": lambda *args: embedded(*args).astype(int)},
        "embed must return [6, D] floating, got int32[6,8]",
    ),
    "queries of another width": (
        {"embed_query": narrow},
        "embed and embed_query must be of one width, got 8 and 6",
    ),
    "a codec that breaks": (
        {"codec": no_such_key},
        "codec raised KeyError: 'bits'; it must return a codec, or raise ValueError before",
    ),
    "a codec that is none": (
        {"codec": lambda params, state: state["mean"]},
        "codec must return a quantizers.Codec, got float32[8] without metric, bits, num_bytes,",
    ),
    "a codec of another width": (
        {"codec": lambda params, state: BinaryCodec(12)},
        "the codec does not encode what embed returns, float32[6,8]:",
    ),
    "what is collected has no rows": (
        refresh(collect=lambda *args: {"x": embedded(*args).sum()}),
        "refresh.collect must return arrays [6, ...], a row for each of the batch, got x of float",
    ),
    "an update of the state alone": (
        refresh(update=lambda key, params, state, rows, mask: state),
        "refresh.update must return (params, state), got a dict",
    ),
    "an update that keeps rows": (
        refresh(update=lambda key, params, state, rows, mask: (params, {**state, "mean": mask})),
        "refresh.update returned state mean as bool[1024], due is float32[8]",
    ),
    "rewrites nothing known": (
        refresh(rewrites=("codebooks",)),
        "refresh.rewrites must be a tuple of entries of params, got ('codebooks',); there are head",
    ),
    "no function": ({"embed": None}, "the method's embed must be a function, got None"),
}


@pytest.mark.parametrize(("changes", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_what_breaks_the_contract_is_said_in_a_line(changes, message):
    with pytest.raises(errors.InputError) as caught:
        methods.check(sound(**changes), BATCH, 1024, 4)
    said = str(caught.value)
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"refresh": None, "after_step": None},
        {"codec": not_fitted},
        {"phase_at": lambda epoch: epoch >= 2},
        {"phase_at": lambda epoch: np.int64(1)},
    ],
)
def test_what_keeps_to_it_passes(changes):
    methods.check(sound(**changes), BATCH, 1024, 4)


@pytest.mark.parametrize("make", toy.METHODS.values(), ids=toy.METHODS.keys())
def test_every_method_keeps_to_it_and_fills_no_table(make):
    columns = toy.splits().source[np.arange(6)]
    # Shapes alone are looked at: no array is made of the table of a million rows.
    methods.check(make(), toy.normalize(columns), 1_048_576, 6)


def test_views_are_folded_where_a_method_never_sees_them():
    def loss(params, state, batch, context):
        assert batch["image"].shape == (6, 3, 8, 8, 1)
        flat = {**batch, "image": batch["image"][:, 0]}
        return pair_loss(params, state, flat, context)

    views = {**BATCH, "image": np.zeros((6, 3, 8, 8, 1), np.float32)}
    method = sound(phases=(phase(loss=loss),))
    methods.check(method, views, 1024, 1)
    methods.check(method, BATCH, 1024, 1, training_batch=views)


def test_a_network_without_train_is_told_with_the_function_that_calls_it():
    network = network_without_train()
    method = methods.dqn(network, dim=8, num_codebooks=2, num_codewords=16)
    with pytest.raises(errors.InputError, match=r"the loss of phase 'joint': a network's apply m"):
        methods.check(method, BATCH, 1024, 1)


def test_an_error_of_the_users_own_keeps_its_traceback_and_gets_a_note():
    def loss(params, state, batch, context):
        return state["codebook"], None

    with pytest.raises(KeyError, match="codebook") as caught:
        methods.check(sound(phases=(phase(loss=loss),)), BATCH, 1024, 1)
    assert any("raised in the loss of phase 'joint'" in note for note in caught.value.__notes__)
    assert "loss" in [entry.name for entry in caught.traceback]


@pytest.mark.parametrize("call", [train.fit, train.left_out], ids=["fit", "left_out"])
def test_it_is_said_before_anything_compiles(call):
    found = []

    def note(event, seconds, **about):
        if event.endswith("backend_compile_duration"):
            found.append(seconds)

    experiment = toy.experiment(sound(phases=(phase(loss=lambda *args: 1.0),)))
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        with pytest.raises(ValueError, match="phase 'joint': the loss must return"):
            call(experiment)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert found == []


def test_fit_checks_the_same_parts_once():
    traced = []

    def loss(params, state, batch, context):
        traced.append(batch["image"].dtype)
        return pair_loss(params, state, batch, context)

    trained = phase(loss=loss, trains=("net", "head"))
    experiment = toy.experiment(sound(phases=(trained,)), num_epochs=1)
    train.left_out(experiment)
    assert traced == [jnp.float32]  # as `preprocess` makes it, the images being bytes
    options = {"mesh": parallel.data_mesh(jax.devices()[:1])}
    train.fit(experiment, **options)
    after = len(traced)
    train.fit(experiment, **options)
    assert len(traced) == after == 2


def test_a_sampler_of_views_is_checked_with_its_views():
    shapes = []

    def loss(params, state, batch, context):
        shapes.append({name: batch[name].shape for name in ("image", "label", "index")})
        flat = {**batch, "image": batch["image"][:, 0]}
        return pair_loss(params, state, flat, context)

    sampler = functools.partial(np.zeros, (2, 6, 3), np.int64)
    experiment = toy.experiment(
        sound(phases=(phase(loss=loss),)), sampler=lambda seed, epoch: sampler(), batch_size=6
    )
    train.left_out(experiment)
    due = {"image": (6, 3, 8, 8, 1), "label": (6, 3, 4), "index": (6, 3)}
    assert shapes == [due]
