"""Compares residual codes of 8 bytes: FAISS's, ours, and ours with networks.

    python -m experiments.benchmarks.learned_codecs --workdir=FOLDER

All are fitted to the 60,000 training images of Fashion-MNIST, 784 pixels from 0 to 1 reduced to
their 64 principal components, and measured on the 10,000 others. Seconds of a fit are of one run,
with compilation, on whatever else the machine did; rates are the best of three. What is fitted is
kept in the folder: a run that was stopped goes on, and a finished run is only measured again.
"""

import argparse
import functools
import importlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from quantjax import data, index
from quantjax.quantizers import NeuralResidualCodec, additive, neural_residual, neural_training

_SIZES = {"num_codebooks": 8, "num_codewords": 256}
_NETWORKS = {"hidden_width": 256, "num_blocks": 1}
_SEARCH = {"beam_width": 4, "num_candidates": 8}
_TRAINING: dict[str, Any] = {"batch_size": 256, "learning_rate": 1e-3, **_SEARCH}
_WIDE = {"beam_width": 16, "num_candidates": 32}
_BEAM = 5
_BLOCK = 2000  # rows that are encoded at once


def main() -> None:
    """Fits what the folder lacks, measures all and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="keeps what is fitted")
    parser.add_argument("--num_epochs", type=int, default=30, help="of the networks")
    text = "stop the networks' training after this time; the same command goes on"
    parser.add_argument("--seconds", type=float, default=float("inf"), help=text)
    arguments = parser.parse_args()
    folder = arguments.workdir
    folder.mkdir(parents=True, exist_ok=True)
    train, other = principal_components()
    fits = {
        "faiss RQ": lambda: _fit_faiss(train),
        "RQ": lambda: additive.fit_codebooks(jax.random.key(0), train, beam_width=_BEAM, **_SIZES),
    }
    books, seconds = {}, {}
    for name, fit in fits.items():
        books[name], seconds[name] = _kept(folder / f"{name.replace(' ', '_')}.npz", fit)
    fitted = fit_networks(folder / "networks.npz", train, arguments.num_epochs, arguments.seconds)
    if fitted is None:
        return
    networks, seconds["networks"] = fitted
    faiss = _faiss_quantizer(books["faiss RQ"])
    cases = {
        f"faiss RQ, beam {_BEAM}": ("faiss RQ", faiss.compute_codes, faiss.decode),
        f"RQ, beam {_BEAM}": ("RQ", *_ours(additive, books["RQ"], beam_width=_BEAM)),
        _named(_SEARCH): ("networks", *_ours(neural_residual, networks, **_SEARCH)),
        _named(_WIDE): ("networks", *_ours(neural_residual, networks, **_WIDE)),
    }
    print(f"{jax.devices()[0]}, jax {jax.__version__}, {len(train)} rows, {len(other)} held out")
    for name, (fit, encode, decode) in cases.items():
        print(f"{name:<36} {seconds[fit]:7.1f} s   {_measured(encode, decode, other)}", flush=True)
    print(in_faiss(networks, other))


def principal_components() -> tuple[np.ndarray, np.ndarray]:
    """Returns training rows [60000, 64] and held-out rows [10000, 64]."""
    source = data.fashion_mnist()
    pixels = source[np.arange(len(source))]["image"].reshape(len(source), -1) / np.float32(255)
    train, other = pixels[:60_000], pixels[60_000:]
    mean = train.mean(0)
    _, axes = np.linalg.eigh(np.cov((train - mean).T.astype(np.float64)))
    axes = axes[:, ::-1][:, :64].astype(np.float32)
    return (train - mean) @ axes, (other - mean) @ axes


def fit_networks(
    path: pathlib.Path, x: np.ndarray, num_epochs: int, seconds: float
) -> tuple[neural_residual.Networks, float] | None:
    """Trains networks and codebooks, from where the file ends.

    Args:
      path: File of the state, written after each epoch.
      x: Training rows.
      num_epochs: Epochs in all.
      seconds: Time after which to stop.

    Returns:
      Networks and the seconds of all epochs; None if there was no time for all of them.
    """
    start, rows = time.perf_counter(), jnp.asarray(x)
    init = functools.partial(neural_training.init, **_SIZES, **_NETWORKS)
    if path.exists():
        state, spent = _loaded(path, jax.eval_shape(init, jax.random.key(0), rows))
    else:
        state, spent = init(jax.random.key(0), rows), 0.0
    while int(state.epoch) < num_epochs:
        if time.perf_counter() - start > seconds:
            return None
        state, error = neural_training.fit_epoch(state, rows, num_epochs=num_epochs, **_TRAINING)
        error = float(error)
        taken = spent + time.perf_counter() - start
        _save(path, state, taken)
        print(f"epoch {int(state.epoch)}: {error:.3f} after {taken:.0f} s", flush=True)
    return neural_training.networks_of(state), _loaded(path, state)[1]


def in_faiss(networks: neural_residual.Networks, x: np.ndarray) -> str:
    """Compares the networks with FAISS's IndexQINCo of them: codes, decoding, search, and times.

    Args:
      networks: Codebooks and networks.
      x: Rows to encode.
    """
    codec = NeuralResidualCodec(*networks, metric="l2", **_SEARCH)
    codes, queries = np.asarray(codec.encode(jnp.asarray(x[:_BLOCK]))), x[_BLOCK : _BLOCK + 16]
    found = index.Index(codec, codes, np.arange(len(codes)))
    theirs = index.to_faiss(found)
    decoded = np.abs(theirs.sa_decode(codes) - codec.decode(jnp.asarray(codes))).max()
    distances, _ = theirs.search(queries, 10)
    own = index.search(found, queries, top_k=10).distances
    start = time.perf_counter()
    theirs.sa_encode(x[:64])
    rate = 64 / (time.perf_counter() - start)
    return (
        f"IndexQINCo decodes {len(codes)} codes within {decoded:.1g} of ours, of numbers up to "
        f"{np.abs(x).max():.1f}, finds {queries.shape[0]} x 10 distances within "
        f"{np.abs(distances - own).max():.1g}, of up to {own.max():.1f}, and encodes {rate:.0f} "
        "rows/s, greedily with all codewords"
    )


def _save(path, state, seconds):
    plain = state._replace(key=jax.random.key_data(state.key))
    leaves = {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(plain))}
    np.savez(path, seconds=seconds, **leaves)


def _loaded(path, like):
    """Returns the state and the seconds of a file; `like` gives the structure."""
    with np.load(path) as file:
        leaves = [jnp.asarray(file[str(number)]) for number in range(len(file.files) - 1)]
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        return state._replace(key=jax.random.wrap_key_data(state.key)), float(file["seconds"])


def _kept(path, fit):
    """Returns the codebooks of a file and the seconds of their fit, which comes first if due."""
    if not path.exists():
        start = time.perf_counter()
        books = np.asarray(fit())
        np.savez(path, books=books, seconds=time.perf_counter() - start)
    with np.load(path) as file:
        return file["books"], float(file["seconds"])


def _fit_faiss(x):
    faiss = importlib.import_module("faiss")
    quantizer = faiss.ResidualQuantizer(x.shape[1], 8, 8)
    quantizer.max_beam_size = _BEAM
    quantizer.train(x)
    return faiss.vector_to_array(quantizer.codebooks).reshape(8, 256, x.shape[1])


def _faiss_quantizer(books):
    faiss = importlib.import_module("faiss")
    quantizer = faiss.ResidualQuantizer(books.shape[2], 8, 8)
    faiss.copy_array_to_vector(books.ravel(), quantizer.codebooks)
    quantizer.max_beam_size, quantizer.is_trained = _BEAM, True
    return quantizer


def _ours(module, fitted, **search) -> tuple[Callable[..., Any], Callable[..., Any]]:
    fitted = jax.tree.map(jnp.asarray, fitted)
    return (
        lambda x: np.asarray(module.encode(fitted, x, **search)),
        lambda codes: np.asarray(module.decode(fitted, codes)),
    )


def _named(search):
    return f"networks, beam {search['beam_width']}, {search['num_candidates']} candidates"


def _measured(encode, decode, x):
    """Returns the mean squared error and the rates of a quantizer as text."""
    rates = []
    for function, given in ((encode, x), (decode, encode(x[:_BLOCK]))):
        given = np.ascontiguousarray(given[:_BLOCK])
        times = []
        for _ in range(3):
            start = time.perf_counter()
            function(given)
            times.append(time.perf_counter() - start)
        rates.append(len(given) / min(times))
    blocks = (np.ascontiguousarray(x[i : i + _BLOCK]) for i in range(0, len(x), _BLOCK))
    errors = [np.square(block - decode(encode(block))).sum(1) for block in blocks]
    return (
        f"error {np.mean(np.concatenate(errors)):.3f}   encodes {rates[0]:8,.0f} rows/s   "
        f"decodes {rates[1]:10,.0f} rows/s"
    )


if __name__ == "__main__":
    main()
