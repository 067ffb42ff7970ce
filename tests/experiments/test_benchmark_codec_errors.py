"""Descriptors of patches are histograms of gradient directions, as SIFT has them."""

import numpy as np

from experiments.benchmarks import codec_errors


def test_a_ramp_has_a_single_direction_in_every_cell():
    ramp = np.broadcast_to(np.linspace(0, 1, 16), (16, 16))
    for turn, direction in ((0, 0), (1, 6), (2, 4), (3, 2)):  # of 8, from the right downwards
        (row,) = codec_errors.histograms(np.rot90(ramp, turn)[None])
        due = np.zeros((4, 4, 8))
        due[..., direction] = 0.25
        np.testing.assert_allclose(row.reshape(4, 4, 8), due, atol=1e-6)


def test_descriptors_have_length_one_and_flat_patches_have_none():
    patches = np.random.default_rng(0).uniform(size=(5, 16, 16))
    patches[2] = 0.5
    rows = codec_errors.histograms(patches)
    assert (rows.shape, rows.dtype) == ((4, 128), np.float32)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    brighter = codec_errors.histograms(0.5 * patches + 0.3)
    np.testing.assert_allclose(rows, brighter, rtol=1e-4, atol=1e-6)
