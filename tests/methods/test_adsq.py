"""What ADSQ alone promises: closed-form codes, three phases, exact tables, its ablations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import evaluate, losses, train
from quantjax.data import embedding
from quantjax.methods.adsq import adsq, both, closed_form_codes, first, second
from quantjax.run import parallel
from tests import toy


@pytest.fixture(scope="module")
def mesh():
    return parallel.data_mesh(jax.devices()[:1])


def embedded(experiment, state, function, mesh):
    return embedding.embed(
        function,
        state.params,
        state.state,
        experiment.splits.source,
        experiment.splits.train,
        preprocess=experiment.preprocess,
        mesh=mesh,
    )


def equal(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("label_weight", [0.0, 0.4, 3.0])
def test_closed_form_codes_are_the_nearest_of_all(label_weight, rng):
    f, u, v = np.tanh(rng.normal(size=(3, 20, 4)))
    codes = closed_form_codes(*(jnp.asarray(x) for x in (f, u, v)), label_weight=label_weight)
    candidates = np.array(list(itertools.product([-1.0, 1.0], repeat=4)))

    def gaps(x):
        return np.sum((x[:, None] - candidates) ** 2, axis=-1)

    best = np.argmin(label_weight * gaps(f) + gaps(u) + gaps(v), axis=1)
    np.testing.assert_array_equal(codes, candidates[best])


def test_codes_change_with_the_weight_of_labels():
    f, u, v = jnp.array([[-1.0, 0.0]]), jnp.array([[0.4, 0.0]]), jnp.array([[0.3, 0.0]])
    np.testing.assert_array_equal(closed_form_codes(f, u, v, label_weight=1.0), [[-1, 1]])
    np.testing.assert_array_equal(closed_form_codes(f, u, v, label_weight=0.5), [[1, 1]])


def test_labels_come_first_and_the_image_networks_take_turns():
    method = toy.adsq(label_epochs=2)
    names = [method.phases[method.phase_at(epoch)].name for epoch in range(6)]
    assert names == ["labels", "labels", "first", "second", "first", "second"]
    assert [phase.trains for phase in method.phases] == [("label_net",), ("first",), ("second",)]
    assert [epoch for epoch in range(5) if method.refresh.due(epoch)] == [2, 3, 4]
    assert toy.adsq(label_epochs=0).phase_at(0) == 1


def test_a_phase_moves_its_own_network_alone(mesh):
    ends = [
        train.fit(toy.experiment(toy.adsq(), num_epochs=epochs), mesh=mesh).state.params
        for epochs in (2, 3, 4)
    ]
    moved = [
        {name for name in after if not equal(before[name], after[name])}
        for before, after in itertools.pairwise(ends)
    ]
    assert moved == [{"first"}, {"second"}]


def test_the_image_networks_begin_with_different_weights(mesh):
    params = train.initialize(toy.experiment(toy.adsq()), mesh).params
    assert not equal(params["first"], params["second"])


def test_tables_hold_what_the_networks_say_of_each_training_row(mesh):
    method = toy.adsq(query=first, database=second)
    experiment = toy.experiment(method, num_epochs=3)
    state = train.fit(experiment, mesh=mesh).state
    tables, num = state.state, len(experiment.splits.train)
    assert int(tables["present"].sum()) == num
    for name, side in (("first", method.embed_query), ("second", method.embed)):
        x = embedded(experiment, state, side, mesh)
        np.testing.assert_allclose(tables["embeddings"][name][:num], x, atol=1e-6)
    labels = experiment.splits.source.labels[experiment.splits.train]
    np.testing.assert_array_equal(tables["label"][:num], labels)
    parts = (tables["embeddings"][name][:num] for name in ("label_net", "first", "second"))
    np.testing.assert_array_equal(tables["codes"][:num], np.where(sum(parts) >= 0, 1, -1))


def test_an_image_phase_is_its_formula(rng):
    """One network against the tables, in float64, padded rows left out."""
    identity = toy.models.Network(
        init=lambda key, example: ({"scale": jnp.float32(1)}, {}),
        apply=lambda params, state, x, *, train, key=None: (params["scale"] * x, state),
    )
    weights = {
        "likelihood_weight": 0.7,
        "difference_weight": 1.3,
        "quantization_weight": 0.2,
        "balance_weight": 0.9,
    }
    method = adsq(identity, identity, bits=3, label_epochs=1, label_code_weight=1.0, **weights)
    x, label = rng.normal(size=(4, 3)), np.eye(3)[[0, 1, 1, 2]]
    f, v, b = rng.uniform(-1, 1, (6, 3)), rng.uniform(-1, 1, (6, 3)), rng.choice([-1, 1], (6, 3))
    table_label = np.eye(3)[[0, 1, 2, 2, 1, 0]]
    index = np.array([4, 0, 3, 1])
    params = {name: {"scale": jnp.float32(1)} for name in ("label_net", "first", "second")}
    state = {
        "nets": {"label_net": {}, "first": {}, "second": {}},
        "embeddings": {"label_net": f, "first": np.full((6, 3), np.nan), "second": v},
        "codes": b,
        "label": table_label,
        "present": np.arange(6) < 5,
    }
    state = jax.tree.map(jnp.asarray, state)
    batch = {"image": jnp.asarray(x), "label": jnp.asarray(label), "index": jnp.asarray(index)}
    context = toy.methods.Context(
        key=jax.random.key(0), step=0, epoch=0, gather=lambda x: x, mean=lambda x: x
    )
    total, (_, metrics) = method.phases[1].loss(params, state, batch, context)

    u, total_due = np.tanh(np.float64(x)), 0.0
    for i, j in itertools.product(range(4), range(5)):
        similar = float(label[i] @ table_label[j] > 0)
        theta = u[i] @ f[j] / 2
        likelihood = np.log1p(np.exp(theta)) - similar * theta
        difference = (2 * similar - 1 - u[i] @ v[j] / 3) ** 2
        total_due += (0.7 * likelihood + 1.3 * difference) / 20
    total_due += 0.2 * np.mean(np.sum((u - b[index]) ** 2, axis=1))
    total_due += 0.9 * np.sum(np.mean(u, axis=0) ** 2)
    assert float(total) == pytest.approx(total_due, rel=1e-5)
    assert metrics.keys() == {"likelihood", "difference", "quantization_error", "imbalance"}


def passing(params, state, x, *, train, key=None):
    return params["scale"] * x, state


def test_semantic_features_add_their_likelihood(rng):
    """Both phases against the formula in float64: two semantic features ahead of three bits."""
    identity = toy.models.Network(lambda key, example: ({"scale": jnp.float32(1)}, {}), passing)
    numbers = {"bits": 3, "label_epochs": 1, "label_code_weight": 1.0, "semantic_dim": 2}
    zero = dict.fromkeys(
        ("likelihood_weight", "difference_weight", "quantization_weight", "balance_weight"), 0.0
    )
    method = adsq(identity, identity, **numbers, **zero, semantic_weight=0.3)
    # Labels are what LabelNet sees: its semantic features are tanh of the first two.
    label = np.eye(5)[[0, 1, 1, 2]]
    x, table = rng.normal(size=(4, 5)), rng.normal(size=(6, 2))
    table_label = np.eye(5)[[0, 1, 2, 2, 1, 0]]
    state = {
        "nets": {"label_net": {}, "first": {}, "second": {}},
        "embeddings": dict.fromkeys(("label_net", "first", "second"), np.zeros((6, 3))),
        "codes": np.ones((6, 3)),
        "label": table_label,
        "present": np.arange(6) < 5,
        "semantic": table,
    }
    state = jax.tree.map(jnp.asarray, state)
    params = {name: {"scale": jnp.float32(1)} for name in ("label_net", "first", "second")}
    batch = {"image": jnp.asarray(x), "label": jnp.asarray(label), "index": jnp.arange(4)}
    context = toy.methods.Context(
        key=jax.random.key(0), step=0, epoch=0, gather=lambda x: x, mean=lambda x: x
    )

    def likelihood(a, b, similar):
        theta = a @ b.T / 2
        return np.log1p(np.exp(theta)) - similar * theta

    g, p = np.tanh(label[:, :2]), np.tanh(np.float64(x[:, :2]))
    due = {
        "labels": likelihood(g, g, label @ label.T > 0),
        "first": likelihood(p, table[:5], label @ table_label[:5].T > 0),
    }
    for phase in method.phases[:2]:
        total, (_, metrics) = phase.loss(params, state, batch, context)
        assert float(metrics["semantic_likelihood"]) == pytest.approx(due[phase.name].mean(), 1e-5)
        assert float(total) == pytest.approx(0.3 * due[phase.name].mean(), 1e-5)


def test_a_semantic_layer_trains_and_its_table_is_what_labelnet_says(mesh):
    method = toy.adsq_semantic()
    experiment = toy.experiment(method, num_epochs=10)
    start = jax.tree.map(np.asarray, train.initialize(experiment, mesh).params)
    result = train.fit(experiment, mesh=mesh, log_every=4)
    for name in ("label_net", "first", "second"):
        for part in ("semantic", "code"):
            assert not equal(start[name][part], result.state.params[name][part])
    tables, num = result.state.state, len(experiment.splits.train)
    assert tables["semantic"].shape == (1024, 6)
    label = experiment.splits.source.labels[experiment.splits.train]
    of_label_net = result.state.params["label_net"]["semantic"]
    below = toy.models.mlp((toy.CLASSES,), hidden=(32,), dim=6)
    output, _ = below.apply(
        of_label_net,
        tables["nets"]["label_net"]["semantic"],
        jnp.asarray(label, jnp.float32),
        train=False,
    )
    np.testing.assert_allclose(tables["semantic"][:num], np.tanh(output), atol=1e-5)
    for phase in method.phases:
        of_phase = [each for each in result.history if each.get("phase") == phase.name]
        first_value, *_, last_value = (each["semantic_likelihood"] for each in of_phase)
        assert last_value < first_value - 0.02


def test_without_a_semantic_layer_nothing_is_left_of_it(mesh):
    ends = [
        train.fit(toy.experiment(toy.adsq(**options), num_epochs=4), mesh=mesh)
        for options in ({}, {"semantic_weight": 7.0})
    ]
    assert equal(ends[0].state, ends[1].state)
    assert "semantic" not in ends[0].state.state
    assert "semantic_likelihood" not in ends[0].history[-1]


def test_a_network_without_room_for_semantic_features_is_refused(mesh):
    with pytest.raises(ValueError, match=r"must return \[B, 12\], semantic_dim \+ bits, got"):
        train.fit(toy.experiment(toy.adsq(semantic_dim=4), num_epochs=1), mesh=mesh)


def test_shared_weights_are_one_network(mesh):
    method = toy.adsq(streams=("first", "first"))
    experiment = toy.experiment(method, num_epochs=4)
    state = train.fit(experiment, mesh=mesh).state
    assert state.params.keys() == {"label_net", "first"}
    one, summed = (
        embedded(experiment, state, toy.adsq(streams=("first", "first"), database=side).embed, mesh)
        for side in (first, both)
    )
    np.testing.assert_allclose(2 * one, summed, atol=1e-6)


def test_without_labelnet_its_network_does_not_matter(mesh):
    options = {"label_epochs": 0, "label_code_weight": 0.0, "guide": second}
    experiment = toy.experiment(toy.adsq(**options), num_epochs=2)
    start = train.initialize(experiment, mesh).params["label_net"]
    start = jax.tree.map(np.asarray, start)
    without = train.fit(experiment, mesh=mesh).state
    assert equal(start, without.params["label_net"])
    with_guide = toy.experiment(toy.adsq(**{**options, "guide": first}), num_epochs=2)
    assert not equal(
        without.params["first"], train.fit(with_guide, mesh=mesh).state.params["first"]
    )


def test_either_network_answers_queries(mesh):
    experiment = toy.experiment(toy.adsq())
    state = train.fit(experiment, mesh=mesh).state
    values = {}
    for query in (first, second, both):
        asked = experiment._replace(method=toy.adsq(query=query))
        found = evaluate.evaluate_method(asked, state, mesh=mesh, name="toy")
        assert found.results[0].distance == "hamming"
        values[query.__name__] = found.results[0].value
    assert min(values.values()) > 0.8


def test_balance_lowers_the_imbalance_of_bits(mesh):
    means = []
    for weight in (0.0, 1.0):
        experiment = toy.experiment(toy.adsq(balance_weight=weight))
        state = train.fit(experiment, mesh=mesh).state
        x = embedded(experiment, state, experiment.method.embed, mesh)
        means.append(float(jnp.sum(losses.bit_balance(jnp.sign(x)))))
    assert means[1] < means[0] or means[0] == means[1] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "bits must be 1 or more"),
        ({"label_epochs": -1}, "label_epochs 0 or more, and .* got 8, -1 and 0"),
        ({"semantic_dim": -1}, "got 8, 2 and -1"),
        ({"streams": ("label_net", "second")}, "names other than label_net"),
    ],
)
def test_numbers_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        toy.adsq(**options)
