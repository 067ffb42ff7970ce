"""The same computations in torch and faiss, in their fastest form (extra `bench`)."""

import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from quantjax.errors import MissingPackageError

Case = Callable[[], Any]


def describe() -> str:
    """Returns names, versions and threads of the compared libraries."""
    torch, faiss = _torch(), _faiss()
    return (
        f"torch {torch.__version__} on {torch.get_num_threads()} threads, "
        f"faiss {faiss.__version__} on {faiss.omp_get_max_threads()} threads"
    )


def quantization_layers(books: np.ndarray, x: np.ndarray, weight: np.ndarray) -> dict[str, Case]:
    """Returns torch forms of straight-through product quantization, forward and backward.

    The scalar to differentiate is sum(weight * quantized).

    Args:
      books: Codewords [M, K, d].
      x: Embeddings [B, M * d].
      weight: [B, M * d].

    Returns:
      Forms by name: einsum and batched matmul, eager and compiled.
    """
    torch = _torch()
    num_codebooks, _, width = books.shape

    def assigned(distances):
        soft = torch.softmax(-distances, dim=-1)
        nearest = distances.argmin(-1, keepdim=True)
        hard = torch.zeros_like(soft).scatter_(-1, nearest, 1.0)
        return soft + (hard - soft).detach()

    def einsum(books, x):
        slices = x.view(-1, num_codebooks, width)
        squares = books.square().sum(-1)
        weights = assigned(squares - 2 * torch.einsum("bmd,mkd->bmk", slices, books))
        return torch.einsum("bmk,mkd->bmd", weights, books).reshape(x.shape)

    def batched(books, x):
        slices = x.view(-1, num_codebooks, width).transpose(0, 1)
        squares = books.square().sum(-1)[:, None]
        weights = assigned(squares - 2 * torch.bmm(slices, books.transpose(1, 2)))
        return torch.bmm(weights, books).transpose(0, 1).reshape(x.shape)

    leaves = [torch.tensor(a, requires_grad=True) for a in (books, x)]
    factor = torch.tensor(weight)
    forms = {"einsum": einsum, "bmm": batched}
    forms |= {f"{name} compiled": _compiled(form) for name, form in forms.items()}
    return {
        f"torch {name}": _backward(lambda b, y, f=form: (f(b, y) * factor).sum(), leaves)
        for name, form in forms.items()
    }


def pair_losses(
    name: str, x: np.ndarray, similar: np.ndarray, *, margin: float = 0.0, gamma: float = 0.0
) -> dict[str, Case]:
    """Returns torch forms of a pairwise loss of a batch with itself, forward and backward.

    Args:
      name: Ours, such as "pairwise_cosine".
      x: Embeddings [B, D].
      similar: [B, B] bool.
      margin: Margin of the contrastive loss.
      gamma: Gamma of the Cauchy loss.

    Returns:
      Eager and compiled.
    """
    torch = _torch()
    nn = torch.nn.functional
    target = torch.tensor(similar).float()
    bits = x.shape[1]

    def cosine(x):
        unit = nn.normalize(x, dim=1)
        return (2 * target - 1 - unit @ unit.T).square().mean()

    def inner_product(x):
        return (2 * target - 1 - x @ x.T / bits).square().mean()

    def likelihood(x):
        theta = x @ x.T / 2
        return (nn.softplus(theta) - target * theta).mean()

    def contrastive(x):
        squares = x.square().sum(1)
        distances = (squares[:, None] + squares - 2 * x @ x.T).clamp(min=0)
        hinge = (margin - distances).clamp(min=0)
        return (target * distances + (1 - target) * hinge).mean() / 2

    def cauchy(x):
        unit = nn.normalize(x, dim=1)
        distances = bits / 2 * (1 - unit @ unit.T).clamp(min=1e-6)
        return (target * torch.log(distances / gamma) + torch.log1p(gamma / distances)).mean()

    forms = {
        "pairwise_cosine": cosine,
        "pairwise_inner_product": inner_product,
        "pairwise_likelihood": likelihood,
        "pairwise_contrastive": contrastive,
        "pairwise_cauchy": cauchy,
    }
    leaves = [torch.tensor(x, requires_grad=True)]
    return {
        "torch eager": _backward(forms[name], leaves),
        "torch compiled": _backward(_compiled(forms[name]), leaves),
    }


def encoder(books: np.ndarray, x: np.ndarray) -> Case:
    """Returns a function that encodes rows by faiss.

    Args:
      books: Codewords [M, 256, d].
      x: Embeddings [N, M * d].

    Returns:
      A call that computes codes [N, M].
    """
    faiss = _faiss()
    quantizer = faiss.ProductQuantizer(x.shape[1], len(books), 8)
    faiss.copy_array_to_vector(np.ascontiguousarray(books).ravel(), quantizer.centroids)
    return lambda: quantizer.compute_codes(x)


def clustering(x: np.ndarray, num_centroids: int, most: int | None = None) -> Case:
    """Returns a function that runs 20 iterations of k-means by faiss.

    Args:
      x: Rows [N, d].
      num_centroids: K.
      most: Rows for each centroid that faiss draws, if there are more; None for all rows.

    Returns:
      A call that computes centroids [K, d].
    """
    faiss = _faiss()

    def fit():
        means = faiss.Kmeans(
            x.shape[1],
            num_centroids,
            niter=20,
            max_points_per_centroid=most or len(x),
            seed=1,
            verbose=False,
        )
        means.train(x)
        return means.centroids

    return fit


def _backward(function, leaves):
    def run():
        for leaf in leaves:
            leaf.grad = None
        function(*leaves).backward()

    return run


def _compiled(function):
    return _torch().compile(function, dynamic=False)


def _torch():
    torch = _import("torch")
    torch.set_num_threads(os.cpu_count() or 1)
    return torch


def _faiss():
    return _import("faiss")


def _import(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        message = f'the peers need {name}: pip install "quantjax[bench]"'
        raise MissingPackageError(message) from None
