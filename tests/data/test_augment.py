import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.data import augment

AFFINE = {"degrees": 0.0, "scale": 0.0, "shear": 0.0, "shift": 0.0}
TRANSFORMS = {
    "flip": augment.random_flip(),
    "crop": augment.random_crop(padding=2),
    "shift": augment.random_crop(padding=2, mode="constant"),
    "erase": augment.random_erase(size=3, fill=7),
    "affine": augment.random_affine(degrees=20, scale=0.2, shear=10, shift=2),
    "all": augment.compose(
        augment.random_crop(padding=1), augment.random_flip(), augment.random_erase(size=2)
    ),
}
COMPILED = {name: jax.jit(transform) for name, transform in TRANSFORMS.items()}
IDENTITIES = {
    "crop": augment.random_crop(padding=0),
    "erase": augment.random_erase(size=0, fill=7),
    "affine": augment.random_affine(**AFFINE),
    "nothing": augment.compose(),
}


@pytest.fixture
def images(rng) -> np.ndarray:
    # Even and odd sides, so that the centre falls between pixels and on one.
    return rng.integers(1, 256, (12, 6, 5, 3), dtype=np.uint8)


def keys(count):
    return jax.random.split(jax.random.key(3), count)


def moved(image, *, dy, dx):
    """The image shifted by whole pixels over black; a positive number moves it down, right."""
    height, width = image.shape[:2]
    ground = np.pad(image, ((height, height), (width, width), (0, 0)))
    return ground[height - dy : 2 * height - dy, width - dx : 2 * width - dx]


def bilinear(image, row, column):
    """One value between the pixels in float64, black outside, by the weight of every pixel."""
    down = np.maximum(0, 1 - np.abs(np.arange(image.shape[0]) - row))
    across = np.maximum(0, 1 - np.abs(np.arange(image.shape[1]) - column))
    return np.einsum("h,w,hwc->c", down, across, image.astype(np.float64))


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
def test_shape_and_dtype_stay(images, name, dtype):
    images = jnp.asarray(images).astype(dtype)
    changed = jax.eval_shape(TRANSFORMS[name], jax.random.key(0), images)
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_jit_equals_eager_and_the_key_decides(images, name):
    images = images.astype(np.float32)
    compiled = COMPILED[name]
    changed = compiled(jax.random.key(0), images)
    np.testing.assert_array_equal(compiled(jax.random.key(0), images), changed)
    np.testing.assert_allclose(TRANSFORMS[name](jax.random.key(0), images), changed, atol=1e-2)
    assert (np.asarray(compiled(jax.random.key(1), images)) != changed).any()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_an_image_does_not_depend_on_its_neighbours(images, name):
    # A copy: newer JAX reads NumPy arrays in place, and later than the call.
    changed = images.copy()
    changed[3] = 255 - changed[3]
    before, after = (COMPILED[name](jax.random.key(0), each) for each in (images, changed))
    others = np.arange(len(images)) != 3
    np.testing.assert_array_equal(after[others], before[others])
    assert (np.asarray(after[3]) != before[3]).any()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_equal_images_are_changed_each_in_its_own_way(images, name):
    images[:] = images[:1]
    changed = np.asarray(COMPILED[name](jax.random.key(0), images))
    assert len(np.unique(changed.reshape(len(images), -1), axis=0)) > 1


@pytest.mark.parametrize("name", IDENTITIES)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_identity_settings_leave_images_untouched(images, name, dtype):
    images = images.astype(dtype)
    np.testing.assert_array_equal(jax.jit(IDENTITIES[name])(jax.random.key(0), images), images)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("shape", [(6, 5, 3), (2, 2, 6, 5, 3)])
def test_other_ranks_are_refused(name, shape):
    with pytest.raises(ValueError, match=r"must have shape \[B, H, W, C\], got \("):
        TRANSFORMS[name](jax.random.key(0), np.zeros(shape, np.uint8))


def test_flip_mirrors_columns_of_about_half_the_images():
    images = np.tile(np.arange(3, dtype=np.uint8)[None, None, :, None], (400, 2, 1, 1))
    changed = np.asarray(augment.random_flip()(jax.random.key(0), images))
    mirrored = (changed == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (changed == images).all((1, 2, 3))).all()
    assert 160 < mirrored.sum() < 240


@pytest.mark.parametrize("padding", [1, 2])
def test_shift_moves_by_every_whole_number_up_to_the_padding(padding):
    image = np.arange(1, 13, dtype=np.uint8).reshape(4, 3, 1)
    shift = augment.random_crop(padding=padding, mode="constant")
    reach = range(-padding, padding + 1)
    due = {moved(image, dy=dy, dx=dx).tobytes() for dy in reach for dx in reach}
    changed = shift(jax.random.key(0), np.tile(image, (600, 1, 1, 1)))
    assert {np.asarray(each).tobytes() for each in changed} == due


@pytest.mark.parametrize(
    ("mode", "due"),
    [
        ("reflect", {(1, 0, 1), (0, 1, 2), (1, 2, 1)}),
        ("edge", {(0, 0, 1), (0, 1, 2), (1, 2, 2)}),
        ("wrap", {(2, 0, 1), (0, 1, 2), (1, 2, 0)}),
    ],
)
def test_crop_pads_as_its_mode_says(mode, due):
    images = np.tile(np.arange(3, dtype=np.uint8)[None, None, :, None], (60, 3, 1, 1))
    changed = augment.random_crop(padding=1, mode=mode)(jax.random.key(0), images)
    assert {tuple(row) for row in np.asarray(changed)[:, 0, :, 0].tolist()} == due


@pytest.mark.parametrize(("size", "fill"), [(1, 0), (2, 9), (3, 9), (4, 0)])
def test_erase_blots_a_square_about_any_pixel(size, fill):
    due = set()
    for row, column in np.ndindex(4, 5):
        image = np.ones((4, 5, 2), np.uint8)
        top, left = row - size // 2, column - size // 2
        image[max(top, 0) : top + size, max(left, 0) : left + size] = fill
        due.add(image.tobytes())
    erase = augment.random_erase(size=size, fill=fill)
    changed = erase(jax.random.key(0), np.ones((600, 4, 5, 2), np.uint8))
    assert {np.asarray(each).tobytes() for each in changed} == due


def test_resample_equals_a_float64_loop(rng, images):
    rows, columns = rng.uniform(-3, 9, (2, 12, 4, 7)).astype(np.float32)
    images = images.astype(np.float32)
    due = np.empty((12, 4, 7, 3))
    for at in np.ndindex(12, 4, 7):
        due[at] = bilinear(images[at[0]], rows[at], columns[at])
    np.testing.assert_allclose(augment.resample(images, rows, columns), due, atol=1e-3)


def test_resample_is_black_outside_and_rounds_uint8():
    images = np.array([[[10], [21]]], np.uint8)[None]
    rows = np.zeros((1, 1, 7), np.float32)
    columns = np.array([[[-1.5, -1.0, -0.5, 0.25, 1.0, 1.5, 1e9]]], np.float32)
    values = augment.resample(images, rows, columns)
    np.testing.assert_array_equal(values.ravel(), [0, 0, 5, 13, 21, 10, 0])


@pytest.fixture
def largest_draws(monkeypatch):
    """Every uniform number is the largest it may be."""

    def uniform(key, shape, dtype, minval, maxval):
        return jnp.full(shape, maxval, dtype)

    monkeypatch.setattr(jax.random, "uniform", uniform)


@pytest.mark.usefixtures("largest_draws")
def test_a_quarter_turn_equals_rot90(images):
    square = images[:1, :5].astype(np.float32)
    turned = augment.random_affine(**{**AFFINE, "degrees": 90.0})(jax.random.key(0), square)
    np.testing.assert_allclose(turned[0], np.rot90(square[0]), atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"shift": 1.5}, lambda y, x: (y + 1.5, x + 1.5)),
        ({"scale": 1.0}, lambda y, x: (y / 2, x / 2)),
        ({"shear": 45.0}, lambda y, x: (y, x + y)),
        ({"degrees": 30.0}, lambda y, x: (0.75**0.5 * y + x / 2, 0.75**0.5 * x - y / 2)),
    ],
)
@pytest.mark.usefixtures("largest_draws")
def test_affine_reads_each_pixel_where_its_formula_says(images, changes, place):
    images = images[:1].astype(np.float32)
    changed = augment.random_affine(**{**AFFINE, **changes})(jax.random.key(0), images)
    due = np.empty(images.shape[1:])
    for row, column in np.ndindex(6, 5):
        y, x = place(row - 2.5, column - 2.0)
        due[row, column] = bilinear(images[0], y + 2.5, x + 2.0)
    np.testing.assert_allclose(changed[0], due, atol=1e-3)


@pytest.mark.parametrize("name", AFFINE)
def test_affine_draws_evenly_on_both_sides(name):
    # One bright pixel off the centre tells which way an image went.
    images = np.zeros((400, 9, 9, 1), np.float32)
    images[:, 1, 2] = 1
    transform = augment.random_affine(**{**AFFINE, name: {"scale": 0.5}.get(name, 3.0)})
    changed = np.asarray(transform(jax.random.key(0), images))[..., 0]
    column = (changed * np.arange(9)).sum((1, 2)) / np.maximum(changed.sum((1, 2)), 1e-6)
    seen = changed.sum((1, 2)) > 1e-3
    share = (column[seen] > 2).mean()
    assert 0.4 < share < 0.6


def test_compose_applies_from_left_to_right_with_a_key_each(images):
    drawn = []

    def note(name):
        def transform(key, images):
            drawn.append((name, jax.random.key_data(key).tolist()))
            return images + 1 if name == "add" else images * 2

        return transform

    changed = augment.compose(note("add"), note("double"))(jax.random.key(0), images)
    np.testing.assert_array_equal(changed, (images + 1) * 2)
    assert [name for name, _ in drawn] == ["add", "double"]
    assert drawn[0][1] != drawn[1][1]


def test_on_images_replaces_the_images_only(images):
    batch = {"image": images, "label": np.eye(12), "index": np.arange(12)}
    flip = augment.random_flip()
    changed = augment.on_images(flip)(jax.random.key(0), batch)
    np.testing.assert_array_equal(changed.pop("image"), flip(jax.random.key(0), images))
    assert changed == {"label": batch["label"], "index": batch["index"]}
    assert batch["image"] is images


@pytest.mark.parametrize(("dtype", "white"), [("uint8", 255), ("float32", 1.0)])
def test_normalize_counts_in_units_of_white(dtype, white):
    image = np.array([0, 1, 1, 0], dtype).reshape(1, 2, 1, 2) * np.asarray(white, dtype)
    batch = {"image": image, "index": np.arange(1)}
    prepared = augment.normalize(mean=(0.5, 0.2), std=(0.25, 0.4))(batch)
    assert prepared["image"].dtype == np.float32
    np.testing.assert_allclose(prepared["image"].ravel(), [-2, 2, 2, -0.5], rtol=1e-6)
    assert prepared["index"] is batch["index"]
    assert batch["image"] is image


def test_normalize_keeps_the_axis_of_views(rng):
    views = rng.integers(0, 256, (2, 4, 3, 3, 1), dtype=np.uint8)
    prepared = augment.standardize(views, mean=(0.1,), std=(0.3,))
    np.testing.assert_allclose(prepared, (views / 255 - 0.1) / 0.3, rtol=1e-5, atol=1e-6)


def test_numbers_per_channel_are_due(images):
    with pytest.raises(ValueError, match=r"one number per channel, got 1 and 1 .*\(12, 6, 5, 3\)"):
        augment.normalize(mean=(0.5,), std=(0.5,))({"image": images})
    with pytest.raises(ValueError, match="equally long and std positive"):
        augment.normalize(mean=(0.5,), std=(0.5, 0.5))
    with pytest.raises(ValueError, match="equally long and std positive"):
        augment.normalize(mean=(0.5,), std=(0.0,))


@pytest.mark.parametrize(
    "change",
    [
        TRANSFORMS["affine"],
        lambda key, images: augment.standardize(images, mean=(0.5,) * 3, std=(0.5,) * 3),
    ],
)
def test_whole_numbers_wider_than_uint8_are_refused(images, change):
    with pytest.raises(TypeError, match="must be uint8 or floating, got int32"):
        change(jax.random.key(0), images.astype(np.int32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: augment.random_crop(padding=-1), "padding must be 0 or more"),
        (lambda: augment.random_erase(size=-1), "size must be 0 or more"),
        *(
            (lambda name=name: augment.random_affine(**{**AFFINE, name: -1.0}), f"{name} must be 0")
            for name in AFFINE
        ),
        (lambda: augment.random_affine(**{**AFFINE, "shear": 90.0}), "shear must be .* below 90"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_reflection_wider_than_the_image_is_refused(images):
    with pytest.raises(ValueError, match="padding must be below the 5 pixels, got 5"):
        augment.random_crop(padding=5)(jax.random.key(0), images)
