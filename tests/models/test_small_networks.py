import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import models

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 5, 2)), jnp.float32)


def convolve(x, kernel, bias):
    """Stride 2, "SAME": ceil(size / 2) places, zeros shared out with the odd one behind."""
    size = kernel.shape[0]
    height, width = (-(-n // 2) for n in x.shape[1:3])
    lack = [
        max(2 * (places - 1) + size - n, 0)
        for places, n in zip((height, width), x.shape[1:3], strict=True)
    ]
    x = np.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in lack), (0, 0)))
    y = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            patch = x[:, 2 * i : 2 * i + size, 2 * j : 2 * j + size]
            y[:, i, j] = np.tensordot(patch, kernel, axes=3) + bias
    return y


@pytest.mark.parametrize(
    ("channels", "kernel_sizes", "hidden", "dim"), [((3,), (3,), 7, 4), ((3, 5), (5, 3), 6, 2)]
)
def test_convnet_is_convolutions_and_two_dense_layers(channels, kernel_sizes, hidden, dim):
    network = models.convnet(
        (6, 5, 2), channels=channels, kernel_sizes=kernel_sizes, hidden=hidden, dim=dim
    )
    params, state = network.init(jax.random.key(0), X)
    params = jax.tree.map(np.float64, params)
    due = np.float64(X)
    for i, (depth, size) in enumerate(zip(channels, kernel_sizes, strict=True)):
        layer = params["convolutions"][str(i)]
        assert layer["kernel"].shape == (size, size, due.shape[-1], depth)
        due = np.maximum(convolve(due, layer["kernel"], layer["bias"]), 0)
    dense, last = params["dense"], params["bottleneck"]
    assert dense["kernel"].shape[1] == hidden
    due = np.maximum(due.reshape(3, -1) @ dense["kernel"] + dense["bias"], 0)
    due = due @ last["kernel"] + last["bias"]
    y, new_state = network.apply(jax.tree.map(jnp.float32, params), state, X, train=True)
    assert y.shape == (3, dim)
    np.testing.assert_allclose(y, due, rtol=1e-4, atol=1e-5)
    assert not jax.tree.leaves(new_state)


def test_a_kernel_size_for_every_convolution_is_due():
    with pytest.raises(ValueError, match=r"one entry for each of 2 channels, got \(3,\)"):
        models.convnet((6, 5, 2), channels=(3, 5), kernel_sizes=(3,), hidden=7, dim=4)


@pytest.mark.parametrize("shape", [(3, 6, 9, 2), (3, 9, 5, 2), (3, 6, 5, 3), (3, 6, 5)])
def test_another_input_shape_is_refused_in_one_line(shape):
    network = models.convnet((6, 5, 2), channels=(3,), kernel_sizes=(3,), hidden=7, dim=4)
    with pytest.raises(ValueError, match=r"^ConvNet does not take inputs of shape \(3, ") as e:
        network.init(jax.random.key(0), jnp.zeros(shape))
    assert str(shape) in str(e.value)
    assert "\n" not in str(e.value)


ROWS = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2, 3)), jnp.float32)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
@pytest.mark.parametrize("dim", [2, 7])
def test_mlp_is_dense_layers_with_relu_between(hidden, dim):
    network = models.mlp((2, 3), hidden=hidden, dim=dim)
    params, state = network.init(jax.random.key(0), ROWS)
    due = np.float64(ROWS).reshape(8, 6)
    for i, width in enumerate(hidden):
        layer = params["layers"][str(i)]
        assert layer["kernel"].shape[1] == width
        due = np.maximum(due @ np.float64(layer["kernel"]) + np.float64(layer["bias"]), 0)
    last = params["bottleneck"]
    due = due @ np.float64(last["kernel"]) + np.float64(last["bias"])
    y, new_state = network.apply(params, state, ROWS, train=True)
    assert y.shape == (8, dim)
    np.testing.assert_allclose(y, due, rtol=1e-4, atol=1e-5)
    assert not jax.tree.leaves(new_state)


def test_another_input_shape_of_mlp_is_refused_in_one_line():
    network = models.mlp((2, 3), hidden=(5,), dim=2)
    with pytest.raises(ValueError, match=r"^Mlp does not take inputs of shape \(8, 2, 4\).*$") as e:
        network.init(jax.random.key(0), jnp.zeros((8, 2, 4)))
    assert "\n" not in str(e.value)
