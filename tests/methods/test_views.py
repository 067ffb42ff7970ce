"""Two views of each row: whom they follow, and the losses of the methods that compare them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import errors, methods
from quantjax.methods import views
from tests import field
from tests.methods import oracles

BATCH = oracles.batch(num_rows=6, width=4)


def pair(batch, view=field.noisy):
    """Both views as the losses get them."""
    network = views.of_two_views(oracles.PLAIN, view, methods.features)
    params, state = network.init(jax.random.key(0), batch)
    x, _ = network.apply(params, state, batch, train=True, key=oracles.CONTEXT.key)
    return views.split(x, batch, oracles.CONTEXT)


def test_a_row_has_two_views_and_none_in_evaluation():
    first, second, all_first, all_second, own, ignored = pair(BATCH)
    assert len({*np.round(np.ravel([first, second, BATCH["feature"]]), 4)}) == 3 * 6 * 4
    np.testing.assert_array_equal(all_first, first)
    np.testing.assert_array_equal(all_second, second)
    np.testing.assert_array_equal(own, np.arange(6))
    np.testing.assert_array_equal(ignored, np.eye(6, dtype=bool))
    network = views.of_two_views(oracles.PLAIN, field.noisy, methods.features)
    params, state = network.init(jax.random.key(0), BATCH)
    same, _ = network.apply(params, state, BATCH, train=False)
    np.testing.assert_array_equal(same, BATCH["feature"])


def test_views_follow_the_image_and_not_its_place():
    order = np.array([4, 2, 0, 5, 1, 3])
    moved = pair({name: column[order] for name, column in BATCH.items()})
    for one, other in zip(pair(BATCH)[:2], moved[:2], strict=True):
        np.testing.assert_array_equal(one[order], other)


def test_a_view_sees_one_row_with_all_its_columns():
    seen = []

    def view(key, batch):
        seen.append({name: column.shape for name, column in batch.items()})
        return batch

    pair(BATCH, view)
    assert seen[0] == {"feature": (1, 4), "label": (1, 3), "index": (1,)}


def test_rows_find_themselves_among_those_of_all_devices():
    gathered = BATCH["index"]
    here = {name: column[4:] for name, column in BATCH.items()}
    context = oracles.CONTEXT._replace(gather=lambda x: gathered if x.ndim == 1 else x)
    *_, own, ignored = views.split(jnp.zeros((2, 8)), here, context)
    np.testing.assert_array_equal(own, [4, 5])
    np.testing.assert_array_equal(ignored, np.eye(6, dtype=bool)[4:])


def test_an_image_that_stands_twice_is_no_negative_of_itself():
    method = methods.cibhash(oracles.PLAIN, bits=4, view=field.noisy, inputs=methods.features)
    params, state = oracles.started(method, BATCH)
    twice = {name: np.concatenate([column, column[:1]]) for name, column in BATCH.items()}
    other = {**twice, "index": np.append(BATCH["index"], 6).astype(np.int32)}
    x = [np.where(side >= 0, 1.0, -1.0) for side in pair(twice)[:2]]
    np.testing.assert_array_equal(x[0][0], x[0][6])
    same, apart = (oracles.loss(method, params, state, each)[0] for each in (twice, other))
    assert same < apart


def test_the_loss_of_cibhash_is_its_equation():
    x = [np.float64(side) for side in pair(BATCH)[:2]]
    p, q = (1 / (1 + np.exp(-side)) for side in x)
    signs = [np.where(side >= 0, 1.0, -1.0) for side in x]
    divergence = np.sum(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)), axis=1)
    divergence += np.sum(q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)), axis=1)
    for temperature, weight in ((0.3, 0.001), (0.5, 0.7)):
        method = methods.cibhash(
            oracles.PLAIN, bits=4, view=field.noisy, inputs=methods.features,
            temperature=temperature, divergence_weight=weight,
        )  # fmt: skip
        value, _ = oracles.loss(method, *oracles.started(method, BATCH), BATCH)
        due = oracles.nt_xent(*signs, temperature) + weight * np.mean(divergence) / 2
        np.testing.assert_allclose(value, due, rtol=1e-5)


def test_the_loss_of_spq_is_its_equation():
    first, second = (np.float64(side) for side in pair(BATCH)[:2])
    for sharpness, temperature in ((5.0, 0.5), (1.0, 0.2)):
        method = methods.spq(
            oracles.PLAIN, dim=4, num_codebooks=2, num_codewords=4, view=field.noisy,
            inputs=methods.features, sharpness=sharpness, temperature=temperature,
        )  # fmt: skip
        params, state = oracles.started(method, BATCH)
        params = {**params, "loss": 9 * params["loss"]}
        value, gradient = oracles.loss(method, params, state, BATCH)
        codebooks = np.float64(params["loss"])
        z_first, z_second = (
            oracles.soft_quantize(codebooks, side, sharpness) for side in (first, second)
        )
        due = oracles.nt_xent(first, z_second, temperature)
        due += oracles.nt_xent(second, z_first, temperature)
        np.testing.assert_allclose(value, due, rtol=1e-5)
        assert np.all(np.any(gradient["loss"], axis=(1, 2)))
        np.testing.assert_array_equal(method.codec(params, state).codebooks, params["loss"])


def wrong(build, **options):
    return lambda: build(oracles.PLAIN, **{"view": field.noisy, **options})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (wrong(methods.cibhash, bits=0), "bits must be 1 or more, got 0"),
        (wrong(methods.cibhash, bits=8, view="crop"), r"view must be a function \(key, batch\)"),
        (wrong(methods.spq, dim=8, num_codebooks=3), "dim must be a multiple of num_codebooks"),
        (wrong(methods.spq, dim=8, sharpness=0.0), "sharpness must be above 0"),
        (wrong(methods.spq, dim=8, temperature=-1.0), "temperature must be above 0"),
    ],
)
def test_arguments_that_cannot_be_are_told_in_a_line(build, message):
    with pytest.raises(errors.InputError, match=message) as told:
        build()
    assert "\n" not in str(told.value)


def test_a_network_of_another_width_is_told_before_training():
    method = methods.cibhash(oracles.PLAIN, bits=8, view=field.noisy, inputs=methods.features)
    with pytest.raises(errors.InputError, match=r"must return \[B, 8\], got \(6, 4\)"):
        methods.check(method, BATCH, 1024, 1)
