"""Implements `quantjax fit`: fits a codec to vectors, and leaves an encoder of vectors."""

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from quantjax import data, index, recipes
from quantjax.errors import InputError
from quantjax.run import compile_cache, console
from quantjax.run.paths import user_path

_SAMPLE = 65_536  # 256 rows for each of 256 codewords


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add = parser.add_argument
    text = "vectors [N, D]: .npy, .fvecs, .bvecs, .ivecs or .parquet"
    add("vectors", metavar="VECTORS", type=user_path, help=text)
    text = "folder of the encoder; `quantjax encode` takes it"
    add("-o", "--out", metavar="CODEC", type=user_path, required=True, help=text)
    add("--bits", metavar="N", type=int, default=64, help="code length; 64 where absent")
    text = "codewords of a codebook, but for itq; as many as go with the bits where absent"
    add("--num_codewords", metavar="K", type=int, help=text)
    text = "what is fitted; opq where absent"
    add("--codec", choices=[*recipes.CODECS], help=text)
    text = "what neighbours are near by: l2 (where absent), ip or cosine"
    add("--metric", choices=recipes.METRICS, help=text)
    text = "learn an embedding from class ids [N], or zeros and ones [N, L], in a .npy"
    add("--labels", metavar="LABELS", type=user_path, help=text)
    text = f"rows that are fitted to, drawn at random; {_SAMPLE:,} where absent"
    add("--sample", metavar="N", type=int, default=_SAMPLE, help=text)
    add("--seed", metavar="N", type=int, default=0, help="seed of all randomness; 0 where absent")
    add("--json", action="store_true", help="print one JSON object; lines go to standard error")


def run(arguments: argparse.Namespace) -> None:
    """Runs the command with its parsed arguments."""
    out = arguments.out
    # First of all: fitting may take minutes.
    check_replaceable(out)
    if arguments.sample < 2:
        raise InputError(f"--sample must be 2 or more, got {arguments.sample}")
    compile_cache.keep_programs()
    x = data.read_vectors(arguments.vectors)
    # Of a mapped file the sampled rows alone are read.
    rows = recipes.sample(x, arguments.sample, seed=arguments.seed)
    fit = _fit if arguments.labels is None else _learn
    embed, weights, codec, classes = fit(arguments, x, rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    index.save_encoder(
        out,
        embed=embed,
        weights=weights,
        codec=codec,
        example=jax.ShapeDtypeStruct(x.shape[1:], np.float32),
        classes=classes,
        about={"rows": len(rows)},
    )
    about = {"bits": codec.bits, "metric": codec.metric, "rows": len(rows), "of": len(x)}
    if arguments.json:
        print(json.dumps({"encoder": str(out), **about}))
        return
    console.say(
        f"{codec.bits} bits by {codec.metric}, fitted to {len(rows):,} of {len(x):,} vectors of "
        f"{x.shape[1]} numbers, are in {out}"
    )


def check_replaceable(folder: Path) -> None:
    """Raises ValueError if a folder that would be replaced holds something else than an encoder."""
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and not (folder / "encoder.json").is_file():
        raise InputError(f"{folder} is no encoder, and would be lost; name another folder")


def _fit(arguments, x, rows):
    """Fits a codec without labels."""
    metric = arguments.metric or "l2"
    name = arguments.codec or "opq"
    sizes: dict[str, Any] = {"bits": arguments.bits}
    if arguments.num_codewords is not None:
        if name == "itq":
            raise InputError("--num_codewords does not go with itq, whose codes are of signs")
        sizes["num_codewords"] = arguments.num_codewords
    x = np.asarray(x[rows], np.float32)
    fit = functools.partial(recipes.CODECS[name], x, metric=metric, seed=arguments.seed, **sizes)
    if name == "neural_rq":  # the only one that takes minutes
        with console.counter("epochs") as report:
            codec = fit(report=report)
    else:
        codec = fit()
    return recipes.vector_embedding(codec, metric), {}, codec, ()


def _learn(arguments, x, rows):
    """Learns an embedding and its codec from labels."""
    for name in ("codec", "metric", "num_codewords"):
        if getattr(arguments, name) is not None:
            raise InputError(f"--{name} does not go with --labels, whose recipe has its own")
    label = data.read_npy(arguments.labels)
    if label.ndim == 0 or len(label) != len(x):
        raise InputError(f"{arguments.labels} must have {len(x)} rows, got {label.shape}")
    source = data.from_features(x[rows], label[rows])
    every = np.arange(len(source))
    # Nothing is searched here, so that queries may be training rows.
    splits = data.make_splits(
        source,
        train=every,
        validation=every[:0],
        query=every,
        database=every,
        allow_query_overlap=True,
    )
    experiment = recipes.experiment(splits, bits=arguments.bits, seed=arguments.seed)
    with console.progress(experiment) as bar:
        state = recipes.trained(experiment, callbacks=[bar])
    weights = {"params": state.params, "state": state.state}
    embed = recipes.of_features(experiment.method)
    return embed, weights, experiment.method.codec(state.params, state.state), source.classes
