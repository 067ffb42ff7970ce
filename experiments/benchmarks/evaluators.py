"""Evaluation loops of other projects, rewritten after their code, for benchmarks.

Each loop takes a few queries of the case and returns the average precision of queries with a hit.
The time includes the distances, as ours does.
"""

import importlib
import importlib.metadata
from collections.abc import Callable

import numpy as np

Loop = Callable[[], np.ndarray]


def describe() -> str:
    """Returns the versions of the compared packages."""
    packages = ("torch", "torchmetrics")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def deephash_pytorch(
    query_bits: np.ndarray, bits: np.ndarray, query_labels: np.ndarray, labels: np.ndarray
) -> Loop:
    """Returns DeepHash-pytorch's loop: relevance and distances by products, a sort per query.

    Args:
      query_bits: Codes of +1 and -1, [Q, bits] float32.
      bits: The database's, [N, bits].
      query_labels: One-hot labels [Q, L] float32.
      labels: The database's, [N, L].

    Returns:
      The loop.
    """

    def loop():
        values = []
        for code, label in zip(query_bits, query_labels, strict=True):
            relevant = (label @ labels.T > 0).astype(np.float32)
            distances = 0.5 * (bits.shape[1] - code @ bits.T)
            ranked = relevant[np.argsort(distances)]
            hits = int(ranked.sum())
            if hits:
                ranks = np.flatnonzero(ranked == 1) + 1.0
                values.append(np.mean(np.linspace(1, hits, hits) / ranks))
        return np.array(values)

    return loop


def thulab(
    query_bits: np.ndarray, bits: np.ndarray, query_labels: np.ndarray, labels: np.ndarray
) -> Loop:
    """Returns thulab/DeepHash's loop: a product for all queries, then a sort of every row.

    Args:
      query_bits: Codes of +1 and -1, [Q, bits] float32.
      bits: The database's, [N, bits].
      query_labels: One-hot labels [Q, L] float32.
      labels: The database's, [N, L].

    Returns:
      The loop.
    """

    def loop():
        order = np.argsort(-(query_bits @ bits.T), axis=1)
        values = []
        for ranks, label in zip(order, query_labels, strict=True):
            shared = np.where(label > 0, label, -1) == labels[ranks]
            hit = shared.sum(axis=1) > 0
            through = np.cumsum(hit)
            if through[-1]:
                precision = through / np.arange(1, len(hit) + 1)
                values.append(np.sum(precision * hit) / through[-1])
        return np.array(values)

    return loop


def torchmetrics(
    query_bits: np.ndarray, bits: np.ndarray, query_ids: np.ndarray, ids: np.ndarray
) -> Loop:
    """Returns a loop of torchmetrics' function over queries, on scores of at least 0.

    The function drops negative scores.

    Args:
      query_bits: Codes of +1 and -1, [Q, bits] float32.
      bits: The database's, [N, bits].
      query_ids: Class ids [Q].
      ids: The database's, [N].

    Returns:
      The loop.
    """
    torch = importlib.import_module("torch")
    retrieval = importlib.import_module("torchmetrics.functional.retrieval")
    asked, held = torch.from_numpy(query_bits), torch.from_numpy(bits)
    asked_ids, held_ids = torch.from_numpy(query_ids), torch.from_numpy(ids)

    def loop():
        values = []
        for code, label in zip(asked, asked_ids, strict=True):
            scores = 0.5 * (bits.shape[1] + held @ code)
            values.append(float(retrieval.retrieval_average_precision(scores, held_ids == label)))
        return np.array(values)

    return loop


def spq(
    codebooks: np.ndarray,
    queries: np.ndarray,
    assignments: np.ndarray,
    query_labels: np.ndarray,
    labels: np.ndarray,
    *,
    squared: bool,
) -> Loop:
    """Returns SPQ's loop: a norm per subspace and codeword, then a sort.

    Args:
      codebooks: [M, K, d].
      queries: Embeddings [Q, M d].
      assignments: Codeword numbers of the database [N, M].
      query_labels: One-hot labels [Q, L] float32.
      labels: The database's, [N, L].
      squared: False for SPQ's sum of norms, which is not a distance; True ranks as we do.

    Returns:
      The loop.
    """
    torch = importlib.import_module("torch")
    books, parts = torch.from_numpy(codebooks), torch.from_numpy(assignments.astype(np.int64))
    num_books, num_words, width = codebooks.shape
    asked = torch.from_numpy(queries).reshape(-1, num_books, width)
    asked_labels, held_labels = torch.from_numpy(query_labels), torch.from_numpy(labels)

    def loop():
        values = []
        for query, label in zip(asked, asked_labels, strict=True):
            table = torch.zeros(num_books, num_words)
            for m in range(num_books):
                for k in range(num_words):
                    table[m, k] = torch.norm(query[m] - books[m, k], 2)
            table = table.square() if squared else table
            distances = torch.stack([table[m][parts[:, m]] for m in range(num_books)]).sum(0)
            relevant = (label @ held_labels.T > 0).float()[torch.argsort(distances, stable=False)]
            hits = int(relevant.sum())
            if hits:
                ranks = torch.nonzero(relevant == 1).ravel() + 1.0
                values.append(float(torch.mean(torch.linspace(1, hits, hits) / ranks)))
        return np.array(values)

    return loop
