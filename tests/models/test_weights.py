import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from quantjax import models
from quantjax.models import weights
from tests.models import weight_files

RNG = np.random.default_rng(0)
KINDS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
# A torch network of a convolution, batch normalisation and two dense layers, as its state dict.
TENSORS = {
    "conv.weight": RNG.normal(size=(4, 3, 2, 5)).astype(np.float32),
    "conv.bias": RNG.normal(size=4).astype(np.float64),
    "norm.weight": RNG.normal(size=4).astype(np.float16),
    "norm.bias": RNG.normal(size=4).astype(np.float32),
    "norm.running_mean": RNG.normal(size=4).astype(np.float32),
    "norm.running_var": RNG.uniform(1, 2, size=4).astype(np.float32),
    "norm.num_batches_tracked": np.asarray(7),
    "fc.weight": RNG.normal(size=(6, 16)).astype(np.float32),
    "fc.bias": RNG.normal(size=6).astype(np.float32),
}
NAMES = {
    "convolution/kernel": "conv.weight",
    "convolution/bias": "conv.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
    "norm/mean": "norm.running_mean",
    "norm/var": "norm.running_var",
    "dense/kernel": weights.Source("fc.weight", weights.after_flattening(2, 2)),
    "dense/bias": "fc.bias",
    "bottleneck/kernel": None,
    "bottleneck/bias": None,
}
UNUSED = ("*.num_batches_tracked",)


class Net(nnx.Module):
    def __init__(self, *, rngs):
        self.convolution = nnx.Conv(3, 4, (2, 5), padding="VALID", rngs=rngs)
        self.norm = nnx.BatchNorm(4, epsilon=1e-5, rngs=rngs)
        self.dense = nnx.Linear(16, 6, rngs=rngs)
        self.bottleneck = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x, *, train, rngs=None):
        x = self.norm(self.convolution(x), use_running_average=not train)
        return self.dense(x.reshape(len(x), -1))


NETWORK = models.from_nnx(Net)
X = jnp.asarray(RNG.normal(size=(2, 3, 6, 3)), jnp.float32)


@pytest.fixture(scope="module")
def parts():
    return NETWORK.init(jax.random.key(0), X)


def by_hand(x):
    """The torch network on [B, C, H, W] in float64 loops."""
    t = {key: np.float64(value) for key, value in TENSORS.items()}
    y = np.zeros((len(x), 4, 2, 2))
    for i, j in np.ndindex(2, 2):
        y[:, :, i, j] = np.einsum("bcij,ocij->bo", x[:, :, i : i + 2, j : j + 5], t["conv.weight"])
    y = (y + t["conv.bias"][:, None, None]).transpose(0, 2, 3, 1)
    y = (y - t["norm.running_mean"]) / np.sqrt(t["norm.running_var"] + 1e-5)
    y = (y * t["norm.weight"] + t["norm.bias"]).transpose(0, 3, 1, 2)
    return y.reshape(len(x), -1) @ t["fc.weight"].T + t["fc.bias"]


@pytest.mark.parametrize("names", [NAMES, NAMES.get], ids=["dict", "function"])
def test_loaded_network_computes_what_the_source_does(parts, names):
    loaded = weights.load(*parts, TENSORS, names, unused=UNUSED)
    y, _ = NETWORK.apply(*loaded, X, train=False)
    due = by_hand(np.float64(X).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(y, due, rtol=1e-5, atol=1e-5)
    assert jax.tree.structure(loaded) == jax.tree.structure(parts)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(
        loaded[0]["bottleneck"]["kernel"], parts[0]["bottleneck"]["kernel"]
    )


def test_the_layout_of_a_source_is_kept_as_given(parts):
    names = dict.fromkeys(NAMES) | {"bottleneck/kernel": weights.Source("ours", lambda x: x)}
    ours = {"ours": RNG.normal(size=(6, 2)).astype(np.float32)}
    params, _ = weights.load(*parts, ours, names)
    np.testing.assert_array_equal(params["bottleneck"]["kernel"], ours["ours"])


def test_what_does_not_fit_is_listed_by_name(parts):
    tensors = {key: value for key, value in TENSORS.items() if not key.startswith("norm.")}
    tensors |= {"conv.weight": tensors["conv.weight"][:2], "fc.bias": np.zeros(6, np.int64)}
    tensors |= {f"features.{i}": np.zeros(1) for i in range(5)}
    with pytest.raises(ValueError, match="not of this network") as caught:
        weights.load(*parts, tensors, NAMES)
    message = str(caught.value)
    assert "4 missing: norm/bias (from 'norm.bias'), norm/scale" in message
    assert message.count("norm/") == 3
    assert "2 of another shape or kind: convolution/kernel (from 'conv.weight')" in message
    assert "has shape (2, 5, 3, 2), due is (2, 5, 3, 4)" in message
    assert "has type int64, due is float32" in message
    assert "5 unexpected: 'features.0', 'features.1', 'features.2', ..." in message
    assert "\n" not in message


def test_tensors_left_over_must_be_named_as_unused(parts):
    with pytest.raises(ValueError, match=r"network; 1 unexpected: 'norm.num_batches_tracked'$"):
        weights.load(*parts, TENSORS, NAMES)


def test_names_must_be_those_of_the_targets(parts):
    names = {path: source for path, source in NAMES.items() if path != "convolution/bias"}
    with pytest.raises(ValueError, match="names has no entry for 'convolution/bias'"):
        weights.load(*parts, TENSORS, names)
    with pytest.raises(ValueError, match="names has 'head/kernel', which is no target"):
        weights.load(*parts, TENSORS, NAMES | {"head/kernel": None})


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_of_every_type_come_back(tmp_path, kind):
    due = np.asarray([[1, 0, 1], [0, 1, 1]], KINDS[kind])
    tensors = {"b.x": (kind, (2, 3), due.tobytes()), "a": (kind, (), due[:1, :1].tobytes())}
    (tmp_path / "weights.bin").write_bytes(weight_files.safetensors(tensors))
    read = weights.read(tmp_path / "weights.bin")
    assert sorted(read) == ["a", "b.x"]
    assert read["b.x"].dtype == due.dtype
    np.testing.assert_array_equal(read["b.x"], due)
    np.testing.assert_array_equal(read["a"], due[0, 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a safetensors file nor"),
        (b"\x89PNG\r\n\x1a\n" * 9, "neither a safetensors file nor"),
        (b"\x80\x04]." * 9, "neither a safetensors file nor"),
        (weight_files.safetensors({"a": ("F32", (2,), bytes(4))}), "truncated or damaged"),
        (weight_files.safetensors({"a": ("F32", (2**60,), bytes(4))}), "truncated or damaged"),
        (weight_files.safetensors({"a": ("F32", (2,), bytes(8))})[:-1], "truncated or damaged"),
        (weight_files.safetensors({"a": ("F7", (2,), bytes(8))}), "truncated or damaged"),
        (weight_files.safetensors({"a": ("F\n7", (2,), bytes(8))}), "unknown variant `F 7`"),
        (weight_files.safetensors({"a": ("F32", (0, 2**63), b"")}), "cannot read .* damaged"),
        (weight_files.safetensors({"a": ("F32", (0, 2**64 - 1), b"")}), "cannot read .* damaged"),
        (weight_files.safetensors({"a": ("F32", (1,) * 99, bytes(4))}), "cannot read .* damaged"),
        (struct.pack("<Q", 2**40) + b"{}", "header too large; the file is truncated or damaged"),
        (
            weight_files.safetensors({"a": ("F32" * 9**5, (2,), b"")}),
            "file: .{,240} damaged, fetch it anew",
        ),
        (weight_files.safetensors({"a": ("F8_E4M3", (2,), bytes(2))}), "holds tensors of F8_E4M3"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        weights.read(tmp_path / "file")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "file") in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        weights.read(tmp_path / "none.pth")
