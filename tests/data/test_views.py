"""Views of an image for `preprocess`: which pixels each holds, and that embeddings average them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.data import augment, embedding
from quantjax.run import parallel
from tests import toy

VIEWS = {"flips": augment.flips(), "ten_crop": augment.ten_crop((2, 3))}
every_view = pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS.keys())


def numbered(height, width, *, channels=1):
    """Two images; a pixel's value is its number, the second image's from 100 on."""
    image = np.arange(height * width, dtype=np.uint8).reshape(height, width, 1)
    image = np.concatenate([image + 50 * channel for channel in range(channels)], axis=-1)
    return np.stack([image, image + 100])


def test_flips_are_the_image_and_its_mirror():
    views = augment.flips()({"image": numbered(2, 3)})["image"]
    assert views.shape == (2, 2, 2, 3, 1)
    np.testing.assert_array_equal(views[0, 0, ..., 0], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(views[0, 1, ..., 0], [[2, 1, 0], [5, 4, 3]])
    np.testing.assert_array_equal(views[1], np.asarray(views[0]) + 100)


def test_ten_crop_is_four_corners_the_centre_and_their_mirrors():
    # 0  1  2  3  4
    # 5  6  7  8  9
    # 10 11 12 13 14
    # 15 16 17 18 19
    views = np.asarray(augment.ten_crop((2, 3))({"image": numbered(4, 5)})["image"])
    assert views.shape == (2, 10, 2, 3, 1)
    due = [
        [[0, 1, 2], [5, 6, 7]],
        [[2, 3, 4], [7, 8, 9]],
        [[10, 11, 12], [15, 16, 17]],
        [[12, 13, 14], [17, 18, 19]],
        [[6, 7, 8], [11, 12, 13]],
        [[2, 1, 0], [7, 6, 5]],
        [[4, 3, 2], [9, 8, 7]],
        [[12, 11, 10], [17, 16, 15]],
        [[14, 13, 12], [19, 18, 17]],
        [[8, 7, 6], [13, 12, 11]],
    ]
    np.testing.assert_array_equal(views[0, ..., 0], due)
    np.testing.assert_array_equal(views[1], views[0] + 100)


def test_an_odd_margin_is_smaller_above_and_on_the_left():
    views = augment.ten_crop((1, 1))({"image": numbered(2, 4)})["image"]
    np.testing.assert_array_equal(views[0, :, 0, 0, 0], [0, 3, 4, 7, 1, 0, 3, 4, 7, 1])


def test_crops_as_large_as_the_image_are_its_flips():
    image = numbered(3, 4, channels=2)
    views = augment.ten_crop((3, 4))({"image": image})["image"]
    flips = augment.flips()({"image": image})["image"]
    np.testing.assert_array_equal(views, np.repeat(flips, 5, axis=1))


@every_view
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_jit_equals_eager_and_other_columns_stay(views, dtype):
    batch = {"image": numbered(4, 5, channels=3).astype(dtype), "index": jnp.arange(2)}
    made = views(batch)
    compiled = jax.jit(views)(batch)
    assert made["image"].dtype == compiled["image"].dtype == dtype
    np.testing.assert_array_equal(compiled["image"], made["image"])
    assert made["index"] is batch["index"]
    assert batch["image"].shape == (2, 4, 5, 3)


@pytest.mark.parametrize("size", [(0, 3), (2, -1)])
def test_a_size_that_cannot_be_is_refused(size):
    with pytest.raises(ValueError, match="size must be a positive height and width, got"):
        augment.ten_crop(size)


@pytest.mark.parametrize("size", [(5, 3), (2, 6), (9, 9)])
def test_a_size_beyond_the_image_is_refused(size):
    with pytest.raises(ValueError, match=r"size must fit into images of 4 x 5 pixels, got \("):
        augment.ten_crop(size)({"image": numbered(4, 5)})


@every_view
@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 10, 4, 5, 3)])
def test_other_ranks_are_refused(views, shape):
    with pytest.raises(ValueError, match=r"must have shape \[B, H, W, C\], got \("):
        views({"image": np.zeros(shape, np.uint8)})


def bent(params, state, batch):
    """An embedding that is not linear, so that its mean is not that of the mean image."""
    del state
    return jnp.tanh(batch["image"].reshape(len(batch["image"]), -1) @ params)


@pytest.mark.parametrize(
    ("views", "num_views", "size"),
    [(augment.flips(), 2, (8, 8)), (augment.ten_crop((5, 6)), 10, (5, 6))],
    ids=["flips", "ten_crop"],
)
def test_embed_returns_the_mean_of_the_views_embeddings(views, num_views, size, rng):
    splits, mesh = toy.splits(), parallel.data_mesh(jax.devices()[:1])
    params = jnp.asarray(rng.normal(size=(size[0] * size[1], 4)) / 8, jnp.float32)

    def embed(preprocess):
        return embedding.embed(
            bent, params, None, splits.source, splits.query, preprocess=preprocess, mesh=mesh
        )

    def only(number):
        def preprocess(batch):
            made = views(toy.normalize(batch))
            return {**made, "image": made["image"][:, number]}

        return preprocess

    singles = np.stack([embed(only(number)) for number in range(num_views)])
    averaged = embed(lambda batch: views(toy.normalize(batch)))
    assert np.abs(singles - averaged).max() > 0.1
    np.testing.assert_allclose(averaged, singles.mean(axis=0), atol=1e-6)
