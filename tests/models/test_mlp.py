import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import models

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2, 3)), jnp.float32)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
@pytest.mark.parametrize("dim", [2, 7])
def test_mlp_is_dense_layers_with_relu_between(hidden, dim):
    network = models.mlp((2, 3), hidden=hidden, dim=dim)
    params, state = network.init(jax.random.key(0), X)
    due = np.float64(X).reshape(8, 6)
    for i, width in enumerate(hidden):
        layer = params["layers"][str(i)]
        assert layer["kernel"].shape[1] == width
        due = np.maximum(due @ np.float64(layer["kernel"]) + np.float64(layer["bias"]), 0)
    last = params["bottleneck"]
    due = due @ np.float64(last["kernel"]) + np.float64(last["bias"])
    y, new_state = network.apply(params, state, X, train=True)
    assert y.shape == (8, dim)
    np.testing.assert_allclose(y, due, rtol=1e-4, atol=1e-5)
    assert not jax.tree.leaves(new_state)


def test_another_input_shape_is_refused_in_one_line():
    network = models.mlp((2, 3), hidden=(5,), dim=2)
    with pytest.raises(ValueError, match=r"^Mlp does not take inputs of shape \(8, 2, 4\).*$") as e:
        network.init(jax.random.key(0), jnp.zeros((8, 2, 4)))
    assert "\n" not in str(e.value)
