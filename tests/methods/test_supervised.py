"""The examples of the docstrings, the loss's arrays, and what is said of a loss that is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from quantjax import errors, evaluate, labels, losses, methods, models, quantizers, train
from quantjax.models.base import Network
from quantjax.quantizers import product
from quantjax.run import parallel
from tests import toy

BATCH = {
    "image": np.zeros((6, 8, 8, 1), np.float32),
    "label": np.eye(4, dtype=np.uint8)[[0, 1, 2, 3, 0, 1]],
    "index": np.array([5, 0, 3, 1, 4, 2], np.int32),
}
# The image is the output, so that a test can say what the loss is of.
PLAIN = Network(
    init=lambda key, example: ({"shift": jnp.zeros(3)}, {}),
    apply=lambda params, state, x, *, train, key=None: (x + params["shift"], state),
)


@pytest.fixture
def mesh():
    return parallel.data_mesh(jax.devices()[:1])


def measured(method, mesh, **changes):
    """Mean average precision after training, and the final state."""
    experiment = toy.experiment(method, **changes)
    state = train.fit(experiment, mesh=mesh).state
    found = evaluate.evaluate_method(experiment, state, mesh=mesh, name="toy")
    return found.results[0].value, state


def test_central_similarity_is_five_lines(mesh):
    centres = losses.hadamard_centres(4, 8)

    def loss(x, batch, context):
        targets = losses.class_centres(jax.random.key(0), batch["label"], centres)
        return jnp.mean(losses.central_similarity(x, targets)), {}

    method = methods.supervised(toy.network(), loss, quantizers.BinaryCodec(8))
    value, state = measured(method, mesh)
    assert value > 0.9
    assert state.params.keys() == {"net"}
    assert state.state.keys() == {"nets"}


def greedy_hash():
    def init_loss(key, batch, num_rows):
        return jax.random.normal(key, (batch["label"].shape[1], 8)), {}

    def loss(x, batch, context, weights, state):
        value = jnp.mean(losses.greedy_hash(x, batch["label"], weights))
        return value, (state, {})

    return init_loss, loss


def dpsh():
    def init_loss(key, batch, num_rows):
        return {}, {"x": jnp.zeros((num_rows, 8)), "label": jnp.zeros((num_rows, 4))}

    def loss(x, batch, context, params, table):
        rows = context.gather(batch["index"])
        new = {"x": jax.lax.stop_gradient(x), "label": batch["label"]}
        table = {name: table[name].at[rows].set(context.gather(new[name])) for name in new}
        similar = labels.share_label(batch["label"], table["label"])
        return jnp.mean(losses.pairwise_likelihood(x, table["x"], similar)), (table, {})

    return init_loss, loss


@pytest.mark.parametrize("make", [greedy_hash, dpsh])
def test_the_examples_of_losses_with_arrays_learn(make, mesh):
    codec = quantizers.BinaryCodec(8)
    method = methods.supervised_with_arrays(toy.network(), *make(), codec)
    value, state = measured(
        method, mesh, optimizers=dict.fromkeys(("net", "loss"), optax.adam(0.01))
    )
    assert value > 0.9
    assert state.params.keys() == {"net", "loss"}


def test_a_table_holds_every_rows_latest_output(mesh):
    method = methods.supervised_with_arrays(toy.network(), *dpsh(), quantizers.BinaryCodec(8))
    experiment = toy.experiment(method, num_epochs=1)
    table = train.fit(experiment, mesh=mesh).state.state["loss"]
    splits = experiment.splits
    due = splits.source[splits.train]["label"]
    np.testing.assert_array_equal(table["label"][: len(due)], due)
    assert np.all(np.any(np.asarray(table["x"][: len(due)]), axis=1))
    assert not np.any(table["x"][len(due) :])


def pair_loss(x, batch, context):
    similar = labels.share_label(batch["label"], context.gather(batch["label"]))
    return jnp.mean(losses.pairwise_cosine(x, context.gather(x), similar)), {}


def test_a_fitted_codec_may_rotate(mesh):
    def fit(key, x, mask):
        sizes = {"num_codebooks": 2, "num_codewords": 16, "num_iterations": 5}
        fitted = quantizers.rotation.opq(key, x, mask=mask, **sizes)
        return quantizers.ProductCodec(fitted.codebooks, rotation=fitted.rotation, metric="ip")

    value, state = measured(methods.supervised(toy.network(), pair_loss, fit, min_rows=16), mesh)
    assert value > 0.7
    assert state.state["codec"].rotation.shape == (8, 8)


def test_a_fitted_codec_is_the_fit_of_the_last_embeddings(mesh):
    def fit(key, x, mask):
        return quantizers.BinaryCodec(8, offset=quantizers.binary.median_thresholds(x, mask))

    method = methods.supervised(toy.network(), pair_loss, fit)
    assert [epoch for epoch in range(4) if method.refresh.due(epoch)] == [1, 2, 3]
    assert methods.supervised(toy.network(), pair_loss, fit, refit_every=3).refresh.due(3)
    value, state = measured(method, mesh)
    assert value > 0.7
    codec = method.codec(state.params, state.state)
    splits = toy.splits()
    x = method.embed(state.params, state.state, toy.normalize(splits.source[splits.train]))
    np.testing.assert_allclose(codec.offset, jnp.median(x, axis=0), rtol=1e-4, atol=1e-4)


def test_a_codec_that_was_not_fitted_is_refused(mesh):
    experiment = toy.experiment(toy.supervised_with_arrays())
    start = train.initialize(experiment, mesh)
    with pytest.raises(ValueError, match="do not exist before epoch 2 or the end of training;"):
        experiment.method.codec(start.params, start.state)


def test_too_few_rows_for_the_codec_are_refused(mesh):
    experiment = toy.experiment(toy.supervised_with_arrays(min_rows=300))
    with pytest.raises(ValueError, match="256 rows, at least 300 are due"):
        train.fit(experiment, mesh=mesh)


def test_the_loss_sees_the_output_as_it_is_and_all_columns():
    seen = {}

    def loss(x, batch, context):
        seen.update(x=x, columns={*batch})
        return jnp.sum(x), {"sum": jnp.sum(x)}

    def first_three(batch):
        return batch["image"][:, :3, 0, 0]

    method = methods.supervised(PLAIN, loss, quantizers.BinaryCodec(3), inputs=first_three)
    batch = {**BATCH, "image": np.arange(384, dtype=np.float32).reshape(6, 8, 8, 1)}
    params, state = method.init(jax.random.key(0), batch, 1024)
    context = methods.Context(jax.random.key(0), jnp.int32(0), jnp.int32(0), *methods.Collectives())
    value, (state, metrics) = method.phases[0].loss(params, state, batch, context)
    due = batch["image"][:, :3, 0, 0]
    np.testing.assert_array_equal(seen["x"], due)
    np.testing.assert_array_equal(method.embed(params, state, batch), due)
    assert seen["columns"] == {"image", "label", "index"}
    assert float(value) == float(metrics["sum"]) == due.sum()
    assert state == {"nets": {"net": {}}}


WRONG = {
    "a scalar alone": (
        lambda x: jnp.mean(x),
        "the loss must return (scalar, metrics), got float32[",
    ),
    "three values": (
        lambda x: (jnp.mean(x), {}, {}),
        "the loss must return (scalar, metrics), got a tuple of float32[], a dict, a dict",
    ),
    "a value for every row": (
        lambda x: (jnp.mean(x, axis=1), {}),
        "phase 'joint': the loss must be a floating scalar, got float32[6]; take the mean",
    ),
    "metrics in a list": (
        lambda x: (jnp.mean(x), [jnp.mean(x)]),
        "phase 'joint': metrics must be a dict of scalars by name, got a list of float32[]",
    ),
    "a metric for every row": (
        lambda x: (jnp.mean(x), {"rows": x[:, 0]}),
        "phase 'joint': metric 'rows' must be a scalar, got float32[6]",
    ),
    "a metric of the loop": (
        lambda x: (jnp.mean(x), {"loss": jnp.mean(x)}),
        "phase 'joint': a metric must have a name of its own",
    ),
}


@pytest.mark.parametrize(("value", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_loss_that_returns_something_else_is_told_in_a_line(value, message):
    method = methods.supervised(
        toy.network(), lambda x, batch, context: value(x), quantizers.BinaryCodec(8)
    )
    with pytest.raises(errors.InputError) as caught:
        methods.check(method, BATCH, 1024, 1)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loss_with_arrays_that_returns_no_state_is_told():
    init_loss, _ = greedy_hash()

    def loss(x, batch, context, params, state):
        return jnp.mean(x), {}

    codec = quantizers.BinaryCodec(8)
    method = methods.supervised_with_arrays(toy.network(), init_loss, loss, codec)
    with pytest.raises(ValueError, match=r"must return \(scalar, \(state, metrics\)\), got a dict"):
        methods.check(method, BATCH, 1024, 1)


def no_loss(x, batch, context):
    return jnp.mean(x), {}


def codebooks_alone(key, x, mask):
    return product.fit_codebooks(key, x, num_codebooks=2, num_codewords=16, mask=mask)


CODEC = quantizers.BinaryCodec(8)
UNFIT = {
    "a module": (lambda: methods.supervised(dict, no_loss, CODEC), "network must be a models.Net"),
    "a name": (
        lambda: methods.supervised(toy.network(), no_loss, "binary"),
        "codec must be a codec, such as quantizers.BinaryCodec(32), or a function (key, x, mask) "
        "-> codec, got 'binary'",
    ),
    "a class of codecs": (
        lambda: methods.supervised(toy.network(), no_loss, quantizers.BinaryCodec),
        "-> codec, got <class",
    ),
    "codebooks": (
        lambda: methods.supervised(toy.network(), no_loss, codebooks_alone),
        "the codec's function must return a codec, got float32[2,16,4]; write such as",
    ),
    "another width": (
        lambda: methods.supervised(toy.network(), no_loss, quantizers.BinaryCodec(12)),
        "the codec does not encode what embed returns, float32[6,8]:",
    ),
    "no epochs": (
        lambda: methods.supervised(toy.network(), no_loss, codebooks_alone, refit_every=0),
        "refit_every must be 1 or more, got 0",
    ),
    "an output of images": (
        lambda: methods.supervised(
            models.Network(PLAIN.init, lambda params, state, x, **options: (x, state)),
            no_loss,
            CODEC,
        ),
        "the network must return [B, D], got float32[6,8,8,1]",
    ),
}


@pytest.mark.parametrize(("make", "message"), UNFIT.values(), ids=UNFIT.keys())
def test_what_does_not_fit_is_refused_in_a_line(make, message):
    with pytest.raises(errors.InputError) as caught:
        methods.check(make(), BATCH, 1024, 1)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
