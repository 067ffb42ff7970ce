"""Codes of features without a trained network."""

import numpy as np
from ml_collections import ConfigDict

from experiments import codes


def test_hashing_baseline_rotates_the_first_principal_axes(rng):
    x = np.float32(rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + 3)
    (codec, width), (other, _) = (
        codes.hashing_baseline(ConfigDict({"seed": seed, "bits": 6}), x) for seed in (0, 1)
    )
    assert width == 12
    np.testing.assert_allclose(codec.offset, x.mean(axis=0), atol=1e-5)
    projection = np.float64(codec.projection)
    np.testing.assert_allclose(projection.T @ projection, np.eye(6), atol=1e-5)
    _, _, axes = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    for each in (projection, np.float64(other.projection)):
        np.testing.assert_allclose(axes[:6].T @ (axes[:6] @ each), each, atol=1e-5)
    # Rotated at random: no column is an axis, and another seed gives another rotation.
    assert np.max(np.abs(axes[:6] @ projection)) < 0.99
    assert np.max(np.abs(projection - other.projection)) > 0.1
