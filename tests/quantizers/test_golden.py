"""Codes on disk that a later version must still read.

golden/<kind> holds three items, written once with `index.save(folder, codec, codec.encode(x),
ids=[7, 3, 11])`. Never write them anew: a test that fails here says that people's codes broke. A
change of the format adds folders and their numbers, and keeps these.
"""

import pathlib
from typing import NamedTuple

import jax
import numpy as np
import pytest

from quantjax import index
from quantjax.index import codecs
from quantjax.quantizers import (
    BinaryCodec,
    ClassCodec,
    FloatCodec,
    NeuralResidualCodec,
    ProductCodec,
    ResidualCodec,
)

FOLDER = pathlib.Path(__file__).parent / "golden"


class Golden(NamedTuple):
    """What a folder of codes means.

    Attributes:
      kind: The codec's class.
      metric: What it measures.
      sizes: Code length in bits, and bytes stored per item.
      x: Embeddings that were coded.
      codes: The bytes.
      decoded: Reconstructions.
      distances: From the queries (1, 2, ..., D) and (-1, -2, ..., -D).
    """

    kind: type
    metric: str
    sizes: tuple[int, int]
    x: list
    codes: list
    decoded: list
    distances: list


ARTEFACTS = {
    "product": Golden(  # 3 codebooks of 4 codewords behind a signed permutation
        ProductCodec,
        "l2",
        (6, 1),
        x=[[1, 1.5, 1.5, 0, 5.5, 0], [2.5, 0, 1, 5.5, -1.5, 2.5], [0.5, 3, 3.5, -0.5, 3, 3]],
        codes=[[8], [35], [9]],
        decoded=[[0, 0, 2, 0, 0, 0], [3, 0, 0, 0, -2, 3], [0, 0, 2, 0, 0, 1]],
        distances=[[83, 91, 72], [107, 135, 120]],
    ),
    "binary": Golden(  # 10 bits with offset and projection
        BinaryCodec,
        "hamming",
        (10, 2),
        x=[
            [3.5, 5.5, -1, -1.5, 4, 4, 1.5, -2, 4, 1.5],
            [-2, -2, 0.5, 3, 0.5, 4.5, -3, 0.5, 1.5, 5.5],
            [-1, 4, -2.5, 0, 3.5, 2, 5, 3.5, 5, 4],
        ],
        codes=[[178, 2], [234, 2], [186, 2]],
        decoded=[
            [1, 2, 1, 2, 3, 4, 5, 6, 7, 8],
            [-1, 0, 1, 4, 3, 4, 5, 6, 7, 8],
            [-1, 2, 1, 2, 3, 4, 5, 6, 7, 8],
        ],
        distances=[[8, 9, 9], [2, 1, 1]],
    ),
    "residual": Golden(  # 5 codebooks of 4 codewords, beam of 3
        ResidualCodec,
        "ip",
        (10, 2),
        x=[[3.37, -2.13], [-3.63, -1.63], [-0.63, 2.87]],
        codes=[[120, 1], [46, 0], [249, 3]],
        decoded=[[3.375, -1.5], [-3.5, -1], [-0.625, 2.875]],
        distances=[[-0.375, 5.5, -5.125], [0.375, -5.5, 5.125]],
    ),
    "neural_residual": Golden(  # 3 codebooks of 4 codewords, a network of 2 hidden units for each
        NeuralResidualCodec,
        "l2",
        (6, 1),
        x=[[1.5, -2, 3], [0, 4, -1.5], [-3, 0.5, 0.25]],
        codes=[[58], [41], [7]],
        decoded=[
            [2.5546875, -6.484375, -5.0546875],
            [4.15625, 2, -4.65625],
            [-1.9375, 8.125, -2.3125],
        ],
        distances=[[139.27966, 68.580078, 74.367188], [36.967163, 45.330078, 103.86719]],
    ),
    "float": Golden(
        FloatCodec,
        "cosine",
        (96, 12),
        x=[[1, 2, 2], [0, -3, 4], [0, 0, 0]],
        codes=[
            [0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 0, 64],
            [0, 0, 0, 0, 0, 0, 64, 192, 0, 0, 128, 64],
            [0] * 12,
        ],
        decoded=[[1, 2, 2], [0, -3, 4], [0, 0, 0]],
        distances=[[0.02004211, 0.67928654, 1], [1.97995789, 1.32071346, 1]],
    ),
    "class": Golden(  # 5 classes
        ClassCodec,
        "class",
        (3, 1),
        x=[[0.5, -1, 0, 2.25, 2], [7, 7, -7, 0, 7], [-3, -2, -2.5, -4, -1.5]],
        codes=[[3], [0], [4]],
        decoded=[[0, 0, 0, 128, 0], [128, 0, 0, 0, 0], [0, 0, 0, 0, 128]],
        distances=[[1.4519144, 4.4519144, 0.4519144], [3.4519144, 0.4519144, 4.4519144]],
    ),
}


def test_there_is_a_golden_file_of_every_kind():
    assert {path.name for path in FOLDER.iterdir()} == set(ARTEFACTS)
    assert set(ARTEFACTS) == set(codecs.KINDS)


@pytest.mark.parametrize("name", ARTEFACTS)
def test_codes_of_an_earlier_version_mean_what_they_meant(name):
    golden = ARTEFACTS[name]
    codec, codes, ids, manifest, *_ = index.load(FOLDER / name)
    assert type(codec) is golden.kind
    assert codec.metric == manifest["metric"] == golden.metric
    assert (codec.bits, codec.num_bytes) == (manifest["bits"], manifest["num_bytes"])
    assert (codec.bits, codec.num_bytes) == golden.sizes
    np.testing.assert_array_equal(ids, [7, 3, 11])
    np.testing.assert_array_equal(codes, golden.codes)
    np.testing.assert_array_equal(jax.jit(codec.decode)(codes), golden.decoded)
    query = np.arange(1.0, 1 + len(golden.x[0]), dtype=np.float32)
    distances = jax.jit(codec.distances)(np.stack([query, -query]), codes)
    np.testing.assert_allclose(distances, golden.distances, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(jax.jit(codec.encode)(np.array(golden.x, np.float32)), codes)


@pytest.mark.parametrize("name", ARTEFACTS)
def test_saving_again_writes_the_same_arrays(name, tmp_path):
    codec, codes, ids, manifest, *_ = index.load(FOLDER / name)
    index.save(tmp_path, codec, codes, ids=ids)
    again = index.load(tmp_path).manifest
    same = ("codec", "settings", "metric", "bits", "num_bytes", "count", "digests")
    assert {key: again[key] for key in same} == {key: manifest[key] for key in same}
