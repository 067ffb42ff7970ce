"""The losses of the methods of binary codes against float64 loops, and the arrays they keep."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import errors, methods
from quantjax.methods import centres
from quantjax.methods.base import Context
from quantjax.methods.hashnet import square_root_schedule
from quantjax.models.base import Network

BITS = 4
# The image is the output, so that a test can say what the embedding is.
PLAIN = Network(
    init=lambda key, example: ({"shift": jnp.zeros(BITS)}, {}),
    apply=lambda params, state, x, *, train, key=None: (x + params["shift"], state),
)
LABELS = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]], np.uint8)
STEP = 450


def a_batch(rng, label=LABELS):
    image = np.float32(1.5 * rng.normal(size=(len(label), BITS)))
    return {"image": image, "label": label, "index": np.arange(len(label), dtype=np.int32)[::-1]}


def run(method, batch, params=None, state=None):
    """The loss at step 450, its state, metrics and gradient; and the initial state."""
    start = method.init(jax.random.key(3), batch, 8)
    params, state = start[0] if params is None else params, start[1] if state is None else state
    gather, mean = (lambda x: x), (lambda x: x)
    context = Context(
        key=jax.random.key(0), step=jnp.int32(STEP), epoch=jnp.int32(0), gather=gather, mean=mean
    )

    @jax.jit
    def gradient(params, state):
        loss = method.phases[0].loss
        return jax.value_and_grad(loss, has_aux=True)(params, state, batch, context)

    (value, (after, metrics)), grads = gradient(params, state)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))
    return float(value), after, metrics, params, state


def log1pexp(t):
    return math.log1p(math.exp(-abs(t))) + max(t, 0)


def cross_entropy(logits, label):
    """Of one row, its labels sharing the target evenly."""
    log_softmax = logits - np.log(np.sum(np.exp(logits)))
    return -np.sum(label / label.sum() * log_softmax)


def cosine(u, v):
    return u @ v / math.sqrt((u @ u) * (v @ v))


def pairs_of(batch):
    """All pairs of two images: numbers, and whether they share a label."""
    label = np.int64(batch["label"])
    many = range(len(label))
    return [(i, j, label[i] @ label[j] > 0) for i in many for j in many if i != j]


def weights_of(found):
    similar = np.mean([s for *_, s in found])
    return [1 / similar if s else 1 / (1 - similar) for *_, s in found]


def hashnet(x, batch, alpha, beta):
    u, found, label = np.tanh(beta * x), pairs_of(batch), np.int64(batch["label"])
    total = 0
    for (i, j, s), w in zip(found, weights_of(found), strict=True):
        t = alpha * u[i] @ u[j]
        both, either = np.sum(label[i] & label[j]), np.sum(label[i] | label[j])
        total += w * (both / either if s else 1) * (log1pexp(t) - s * t)
    return total / len(found)


def sign_error(x):
    return np.mean((np.abs(x) - 1) ** 2)


def dhn(x, batch, weight):
    x, found = np.tanh(x), pairs_of(batch)
    pair = np.mean([log1pexp(x[i] @ x[j] / 2) - s * (x[i] @ x[j]) / 2 for i, j, s in found])
    return pair + weight * np.mean(np.log(np.cosh(np.abs(x) - 1)))


def dsh(x, batch, margin, weight):
    distances = [(np.sum((x[i] - x[j]) ** 2), s) for i, j, s in pairs_of(batch)]
    pair = np.mean([d / 2 if s else max(0, margin - d) / 2 for d, s in distances])
    return pair + weight * np.mean(np.abs(np.abs(x) - 1))


def dch(x, batch, gamma, weight):
    found = pairs_of(batch)
    total = 0
    for (i, j, s), w in zip(found, weights_of(found), strict=True):
        d = BITS / 2 * (1 - cosine(x[i], x[j]))
        total += w * (s * math.log(d / gamma) + math.log(1 + gamma / d))
    far = [BITS / 2 * (1 - cosine(np.abs(row), np.ones(BITS))) for row in x]
    return total / len(found) + weight * np.mean([math.log(1 + d / gamma) for d in far])


def dtsh(x, batch, margin, weight):
    marks = {(i, j): s for i, j, s in pairs_of(batch)}
    many, of_anchors = range(len(x)), []
    for a in many:
        losses = [
            log1pexp(margin - x[a] @ x[p] + x[a] @ x[n])
            for p in many
            for n in many
            if a not in (p, n) and marks[a, p] and not marks[a, n]
        ]
        of_anchors += [np.mean(losses)] if losses else []
    return np.mean(of_anchors) + weight * sign_error(x)


def votes(label, of_classes):
    """The majority of the centres' bits; a tie takes the bit of the fixed random code."""
    tie = np.asarray(jax.random.rademacher(jax.random.key(centres.TIES), (BITS,), jnp.float32))
    sums = np.float64(label) @ of_classes
    return np.where(sums == 0, tie, np.sign(sums))


def csq(x, batch, of_classes, weight):
    ones = (np.tanh(x) + 1) / 2
    due = (votes(batch["label"], of_classes) + 1) / 2
    entropy = -np.mean(due * np.log(ones) + (1 - due) * np.log(1 - ones))
    return entropy + weight * sign_error(np.tanh(x))


def dpn(x, batch, of_classes, margin):
    hinge = np.maximum(0, margin - x * votes(batch["label"], of_classes))
    return np.mean(np.sum(hinge, axis=1))


def greedyhash(x, batch, classifier, weight):
    each = [
        cross_entropy(classifier @ np.where(row >= 0, 1, -1), label)
        for row, label in zip(x, np.float64(batch["label"]), strict=True)
    ]
    return np.mean(each) + weight * np.mean(np.abs(np.abs(x) - 1) ** 3)


def orthohash(x, batch, of_classes, g, h, scale, margin):
    v = g * (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) + h
    each = [
        cross_entropy(scale * (np.array([cosine(row, c) for c in of_classes]) - margin * y), y)
        for row, y in zip(v, np.float64(batch["label"]), strict=True)
    ]
    return np.mean(each)


ON_PAIRS = {
    "hashnet": (methods.hashnet, hashnet, {"alpha": 0.7}, {"alpha": 0.7, "beta": math.sqrt(3)}),
    "hashnet of defaults": (methods.hashnet, hashnet, {}, {"alpha": 2.5, "beta": math.sqrt(3)}),
    "dhn": (methods.dhn, dhn, {"quantization_weight": 0.6}, {"weight": 0.6}),
    "dsh": (
        methods.dsh,
        dsh,
        {"margin": 5.0, "quantization_weight": 0.6},
        {"margin": 5, "weight": 0.6},
    ),
    "dsh of defaults": (methods.dsh, dsh, {}, {"margin": 2 * BITS, "weight": 0.1}),
    "dch": (
        methods.dch,
        dch,
        {"gamma": 3.0, "quantization_weight": 0.6},
        {"gamma": 3, "weight": 0.6},
    ),
    "dtsh": (
        methods.dtsh,
        dtsh,
        {"margin": 1.5, "quantization_weight": 0.6},
        {"margin": 1.5, "weight": 0.6},
    ),
}


@pytest.mark.parametrize(
    ("build", "loop", "options", "numbers"), ON_PAIRS.values(), ids=ON_PAIRS.keys()
)
def test_a_loss_of_pairs_or_triplets_is_that_of_a_loop(build, loop, options, numbers, rng):
    batch = a_batch(rng)
    value, *_ = run(build(PLAIN, bits=BITS, **options), batch)
    assert value == pytest.approx(loop(np.float64(batch["image"]), batch, **numbers), rel=1e-5)


@pytest.mark.parametrize("class_ids", [[1, 1, 1, 1], [0, 1, 2, 3]], ids=["one class", "each"])
@pytest.mark.parametrize("build", [methods.hashnet, methods.dch, methods.dtsh, methods.dsh])
def test_pairs_of_one_kind_alone_give_a_finite_gradient(build, class_ids, rng):
    batch = a_batch(rng, np.eye(4, dtype=np.uint8)[class_ids])
    assert np.isfinite(run(build(PLAIN, bits=BITS), batch)[0])


def test_hashnet_sharpens_its_tanh_every_200_steps():
    betas = [float(square_root_schedule(jnp.int32(step))) for step in (0, 199, 200, 1000)]
    np.testing.assert_allclose(betas, [1, 1, math.sqrt(2), math.sqrt(6)], rtol=1e-6)


@pytest.mark.parametrize(("build", "weight"), [(methods.csq, 0.6), (methods.dpn, None)])
def test_a_loss_of_centres_is_that_of_a_loop(build, weight, rng):
    batch = a_batch(rng)
    options = {"margin": 0.7} if weight is None else {"quantization_weight": weight}
    value, after, *_ = run(build(PLAIN, bits=BITS, **options), batch)
    of_classes = np.float64(after["loss"])
    x = np.float64(batch["image"])
    due = csq(x, batch, of_classes, weight) if weight else dpn(x, batch, of_classes, 0.7)
    assert value == pytest.approx(due, rel=1e-5)


def test_greedyhash_is_that_of_a_loop(rng):
    batch = a_batch(rng)
    method = methods.greedyhash(PLAIN, bits=BITS, quantization_weight=0.6)
    value, _, _, params, _ = run(method, batch)
    classifier = np.float64(params["loss"])
    assert 0.3 < np.max(np.abs(classifier)) < BITS**-0.5
    due = greedyhash(np.float64(batch["image"]), batch, classifier, 0.6)
    assert value == pytest.approx(due, rel=1e-5)


def test_orthohash_is_that_of_a_loop_and_searches_by_running_statistics(rng):
    batch = a_batch(rng)
    method = methods.orthohash(PLAIN, bits=BITS, scale=5.0, margin=0.3)
    g, h = (np.float32(rng.normal(size=BITS)) for _ in range(2))
    params = {"net": {"shift": np.float32([1, -2, 0, 3])}, "loss": {"g": g, "h": h}}
    value, after, *_ = run(method, batch, params)
    x = np.float64(batch["image"]) + params["net"]["shift"]
    due = orthohash(x, batch, np.float64(after["loss"]["centres"]), g, h, 5, 0.3)
    assert value == pytest.approx(due, rel=1e-5)
    mean, variance = 0.1 * x.mean(0), 0.9 + 0.1 * x.var(0)
    found = after["loss"]["statistics"]
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["variance"], variance, rtol=1e-5)
    due = g * (x - mean) / np.sqrt(variance + 1e-5) + h
    for side in (method.embed, method.embed_query):
        np.testing.assert_allclose(side(params, after, batch), due, rtol=1e-4, atol=1e-5)


def test_dpsh_compares_with_the_latest_outputs_of_images_seen_so_far(rng):
    method = methods.dpsh(PLAIN, bits=BITS, quantization_weight=0.6)
    table_x, table_label, seen = np.zeros((8, BITS)), np.zeros((8, 3)), np.zeros(8, bool)
    state = None
    for rows in ([4, 0, 7], [1, 7, 5]):
        batch = {name: column[:3] for name, column in a_batch(rng).items()}
        batch["index"] = np.int32(rows)
        x = np.float64(batch["image"])
        table_x[rows], table_label[rows], seen[rows] = x, batch["label"], True
        value, state, *_ = run(method, batch, state=state)
        total = []
        for u, label in zip(x, np.float64(batch["label"]), strict=True):
            for v, other in zip(table_x[seen], table_label[seen], strict=True):
                total.append(log1pexp(u @ v / 2) - (label @ other > 0) * (u @ v) / 2)
        assert value == pytest.approx(np.mean(total) + 0.6 * sign_error(x), rel=1e-5)
    np.testing.assert_array_equal(state["loss"]["seen"], seen)
    np.testing.assert_array_equal(state["loss"]["label"], table_label)
    np.testing.assert_allclose(state["loss"]["x"], table_x, rtol=1e-6)


@pytest.mark.parametrize("make", [centres.make, centres.make_random])
@pytest.mark.parametrize(("num_classes", "bits"), [(4, 4), (16, 4), (5, 3), (10, 6), (12, 24)])
def test_centres_of_all_classes_differ(make, num_classes, bits):
    found = np.asarray(make(jax.random.key(0), num_classes, bits))
    assert found.shape == (num_classes, bits)
    assert set(found.flat) == {-1, 1}
    assert len({tuple(row) for row in found}) == num_classes


def test_centres_are_rows_of_a_hadamard_matrix_where_it_has_enough():
    found = np.asarray(centres.make(jax.random.key(0), 16, 8))
    np.testing.assert_array_equal(found[:8] @ found[:8].T, 8 * np.eye(8))
    np.testing.assert_array_equal(found[8:], -found[:8])


@pytest.mark.parametrize("build", [methods.csq, methods.dpn, methods.orthohash])
def test_more_classes_than_codes_are_told_in_a_line(build, rng):
    label = np.eye(17, dtype=np.uint8)[:6]
    with pytest.raises(errors.InputError) as told:
        methods.check(build(PLAIN, bits=BITS), a_batch(rng, label), 8, 1)
    due = "17 classes need 17 distinct codes, and 4 bits have 16; take 5 bits or more"
    assert str(told.value) == due


@pytest.mark.parametrize("build", [methods.hashnet, methods.dpsh, methods.csq])
def test_what_does_not_fit_the_bits_is_told_in_a_line(build, rng):
    with pytest.raises(ValueError, match=r"^bits must be 1 or more, got 0$"):
        build(PLAIN, bits=0)
    with pytest.raises(ValueError, match=r"^the network must return \[B, 5\], got \(6, 4\)"):
        methods.check(build(PLAIN, bits=5), a_batch(rng), 8, 1)
    with pytest.raises(ValueError, match=r"^network must be a models.Network, got a type;"):
        build(dict, bits=4)


def test_dhn_encodes_the_tanh_of_the_output(rng):
    batch = a_batch(rng)
    method = methods.dhn(PLAIN, bits=BITS)
    params, state = method.init(jax.random.key(0), batch, 8)
    np.testing.assert_allclose(
        method.embed(params, state, batch), np.tanh(batch["image"]), rtol=1e-6
    )


def test_methods_without_trained_centres_need_no_optimizer_for_them(rng):
    for build in (methods.csq, methods.dpn, methods.dpsh):
        method = build(PLAIN, bits=BITS)
        assert method.init(jax.random.key(0), a_batch(rng), 8)[0].keys() == {"net"}
        assert method.phases[0].trains == ("net",)


ALL = (
    methods.csq, methods.dch, methods.dhn, methods.dpn, methods.dpsh, methods.dsh, methods.dtsh,
    methods.greedyhash, methods.hashnet, methods.orthohash,
)  # fmt: skip


@pytest.mark.parametrize("build", ALL)
def test_features_take_the_place_of_images(build, rng):
    batch = a_batch(rng)
    batch["feature"] = batch.pop("image")
    methods.check(build(PLAIN, bits=BITS, inputs=methods.features), batch, 8, 1)
    with pytest.raises(errors.InputError, match="the batch has no image"):
        methods.check(build(PLAIN, bits=BITS), batch, 8, 1)
