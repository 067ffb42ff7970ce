"""Small databases of each codec, and their neighbours by brute force in float64."""

import jax.numpy as jnp
import numpy as np

from quantjax.index import Index
from quantjax.quantizers import (
    BinaryCodec,
    FloatCodec,
    NeuralResidualCodec,
    ProductCodec,
    ResidualCodec,
)
from tests.quantizers import oracles

ROWS, D = 300, 12
CLASSES = ("ant", 'bee\'s \\ "nest"', "cat")


def orthogonal(rng, width=D):
    return jnp.asarray(np.linalg.qr(rng.normal(size=(width, width)))[0], jnp.float32)


def codec_of(kind, rng, *, metric="l2", num_codebooks=3, num_codewords=16):
    def books(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "product": lambda: ProductCodec(
            books(num_codebooks, num_codewords, D // num_codebooks), metric=metric
        ),
        "rotated": lambda: ProductCodec(
            books(num_codebooks, num_codewords, D // num_codebooks), orthogonal(rng), metric=metric
        ),
        "residual": lambda: ResidualCodec(books(3, num_codewords, D), metric, beam_width=2),
        "networks": lambda: NeuralResidualCodec(
            books(num_codebooks, num_codewords, D),
            0.3 * books(num_codebooks - 1, 2 * D, D),
            books(num_codebooks - 1, D),
            0.3 * books(num_codebooks - 1, 2, D, 20),
            0.3 * books(num_codebooks - 1, 2, 20, D),
            books(num_codebooks, num_codewords, D),
            metric,
            num_candidates=num_codewords,
        ),
        "float": lambda: FloatCodec(D, metric),
        "binary": lambda: BinaryCodec(
            20, offset=books(D)[:], projection=jnp.eye(D, 20) + 0.3 * books(D, 20)
        ),
        "signs": lambda: BinaryCodec(D),
    }[kind]()


def database(codec, rng, *, ids="numbers"):
    x = jnp.asarray(rng.normal(size=(ROWS, D)), jnp.float32)
    names = {
        "rows": lambda: np.arange(ROWS),
        "numbers": lambda: rng.permutation(10 * ROWS)[:ROWS] + 2**40,
        "names": lambda: np.array([f"é/it's {n}\\{n % 7}.jpg" for n in range(ROWS)], object),
    }[ids]()
    labels = rng.integers(-1, len(CLASSES), ROWS)
    manifest = {"classes": list(CLASSES)}
    return Index(codec, np.asarray(codec.encode(x)), names, manifest, labels=labels)


def queries(rng, count=5):
    return np.float32(rng.normal(size=(count, D)))


def due_distances(index, x, reconstructions=None):
    """Distances [Q, N] in float64 loops, from reconstructions or bits alone."""
    codec = index.codec
    if codec.metric == "hamming":
        return np.array(oracles.hamming(np.asarray(codec.encode(jnp.asarray(x))), index.codes))
    if reconstructions is None:
        reconstructions = np.asarray(codec.decode(jnp.asarray(index.codes)))
    return oracles.distances(x, reconstructions, codec.metric)


def check_answers(index, x, distances, ids, *, reconstructions=None, tolerance=1e-5):
    """Asserts that ids are nearest ones, at their distances, each once and in order."""
    due = due_distances(index, x, reconstructions)
    top_k = np.shape(ids)[1]
    row_of = {name: row for row, name in enumerate(index.ids.tolist())}
    rows = np.array([[row_of[name] for name in answer] for answer in np.asarray(ids).tolist()])
    assert all(len(set(answer)) == top_k for answer in rows.tolist())
    scale = tolerance * max(1, np.abs(due).max())
    nearest = np.sort(due, axis=1)[:, :top_k]
    np.testing.assert_allclose(distances, nearest, rtol=0, atol=scale)
    np.testing.assert_allclose(np.take_along_axis(due, rows, 1), nearest, rtol=0, atol=scale)
