"""Recall counts the true neighbours that a search finds, by either definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import evaluate, index
from quantjax.quantizers import FloatCodec, ProductCodec


def made(rng, codec, dim=8, num_items=500):
    x = rng.normal(size=(num_items, dim)).astype(np.float32)
    artefact = index.Index(codec, np.asarray(codec.encode(x)), np.arange(num_items))
    return artefact, x, rng.normal(size=(30, dim)).astype(np.float32)


def test_a_search_of_the_vectors_themselves_finds_all(rng):
    artefact, x, queries = made(rng, FloatCodec(8))
    truth = index.true_neighbours(x, queries, 20)
    found = evaluate.recall(artefact, queries, truth, at=(1, 10, 50))
    assert found == {"1-recall@1": 1, "1-recall@10": 1, "10-recall@10": 1, "1-recall@50": 1}


def test_recalls_equal_counts_by_hand(rng):
    codec = ProductCodec(jnp.asarray(rng.normal(size=(2, 16, 4)), jnp.float32))
    artefact, x, queries = made(rng, codec)
    truth = index.true_neighbours(x, queries, 20)
    found = index.search(artefact, queries, top_k=20).rows
    due = {}
    for k in (1, 5, 20):
        due[f"1-recall@{k}"] = sum(t[0] in f[:k] for t, f in zip(truth, found, strict=True)) / 30
        both = [len({*t[:k]} & {*f[:k]}) for t, f in zip(truth, found, strict=True)]
        due[f"{k}-recall@{k}"] = sum(both) / (30 * k)
    assert evaluate.recall(artefact, queries, truth, at=(1, 5, 20)) == pytest.approx(due)
    assert due["1-recall@20"] > due["1-recall@5"] > due["1-recall@1"] > 0
    kept = artefact._replace(vectors=x)
    assert evaluate.recall(kept, queries, truth, at=(20,), rerank=500)["20-recall@20"] == 1


def test_neighbours_of_other_queries_are_refused(rng):
    artefact, x, queries = made(rng, FloatCodec(8))
    truth = index.true_neighbours(x, queries, 2)
    with pytest.raises(
        ValueError, match=r"true_neighbours must have shape \[30, T\], got \(29, 2\)"
    ):
        evaluate.recall(artefact, queries, truth[:29])
    with pytest.raises(ValueError, match="recall needs queries, neighbours and k"):
        evaluate.recall(artefact, queries, truth, at=())
