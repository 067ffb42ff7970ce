"""Writes an encoder: programs that run without the code of the network, weights and a manifest."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.extend.core import Var

from quantjax.errors import InputError
from quantjax.index import codecs
from quantjax.index.preparation import Preparation
from quantjax.quantizers import Codec
from quantjax.run import files, sealing
from quantjax.run.paths import user_path

FORMAT = "quantjax-encoder"
VERSION = 1
MANIFEST = "encoder.json"
WEIGHTS = "weights.safetensors"
PLATFORMS = ("cpu", "cuda", "tpu")

ROWS = (1, 16, 128)
"""Rows of a program. Programs of any number of rows cannot be made of every network: our
convolution for CPUs cuts a batch into parts that divide it."""

_Embed = Callable[[Any, jax.Array], jax.Array]


def save_encoder(
    folder: str | pathlib.Path,
    *,
    embed: _Embed,
    weights: Any,
    codec: Codec,
    example: jax.ShapeDtypeStruct,
    embed_query: _Embed | None = None,
    classes: Sequence[str] = (),
    photos: Preparation | None = None,
    licence: str | None = None,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> pathlib.Path:
    """Writes an encoder into a folder, for `load_encoder`.

    The programs are lowered for CPUs, CUDA GPUs and TPUs, on any of these. Weights are arguments of
    the programs, not constants; weights that `embed` and `embed_query` do not use are not written.

    Args:
      folder: Empty, or an encoder's, which is replaced as a whole; created if it does not exist.
      embed: `(weights, x) -> [B, D]`, pure: the database side. x are photos [B, H, W, C] uint8, or
        vectors [B, F] floating.
      weights: Pytree of arrays.
      codec: Codec of the embeddings, of a kind that `save` can write.
      example: Shape and dtype of one row: (H, W, C) uint8 or (F,) floating.
      embed_query: The same for queries; `embed` when None.
      classes: Names of the classes that the encoder was trained on.
      photos: How a photo file becomes a row; None if files cannot be encoded.
      licence: Text of the licence of weights from others, if there are any.
      about: Further entries of the manifest under "about", JSON.

    Returns:
      Path of the manifest.

    Raises:
      ValueError: if the folder holds other files, the example is no such row, `embed` returns
        another shape, or the codec is of an unknown kind. The folder is then as before.
    """
    folder = user_path(folder)
    _check_free(folder)
    _check_example(example, photos)
    sides = {"embed": embed} | ({} if embed_query is None else {"embed_query": embed_query})
    kept, rebuild = _used_weights(sides.values(), weights, example)
    kind, tensors, settings = codecs.parts(codec)
    programs = {
        program_file(side, rows): _export(
            side, lambda kept, x, of=of: of(rebuild(kept), x), (kept, tensors), codec, rows, example
        )
        for side, of in sides.items()
        for rows in ROWS
    }
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "input": "photos" if example.dtype == np.uint8 else "vectors",
        "row": {"shape": [*example.shape], "dtype": np.dtype(example.dtype).name},
        "photos": None if photos is None else photos._asdict(),
        "codec": kind,
        "settings": settings,
        "bits": codec.bits,
        "metric": codec.metric,
        "sides": [*sides],
        "classes": [*classes],
        "licence": licence,
        "about": dict(about),
        **_about_programs(programs),
    }
    content = {name: bytes(each.serialize()) for name, each in programs.items()}
    arrays = {name: np.asarray(leaf) for name, leaf in kept.items()} | tensors
    return _write(folder, manifest, content, arrays)


def program_file(side: str, rows: int) -> str:
    """Returns the name of the file of a program.

    Args:
      side: "embed" or "embed_query".
      rows: Rows that the program takes, of `ROWS`.
    """
    return f"{side}.{rows}.bin"


def _about_programs(programs):
    """Returns what the manifest says of the programs; raises ValueError if their widths differ."""
    widths = {each.out_avals[0].shape[1] for each in programs.values()}
    if len(widths) > 1:
        raise InputError(f"embed and embed_query must be of one width, got {sorted(widths)}")
    return {
        "dim": widths.pop(),
        "jax": jax.__version__,
        "platforms": [*PLATFORMS],
        "calling_convention_version": max(x.calling_convention_version for x in programs.values()),
    }


def _write(folder, manifest, programs, arrays):
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A new folder replaces the old one: programs of one save never stand beside weights of another.
    with files.replacing_folder(folder) as scratch:
        files.write_arrays(scratch / WEIGHTS, arrays)
        for name, content in programs.items():
            (scratch / name).write_bytes(content)
        digests = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(scratch.iterdir())
        }
        sealed = sealing.sealed({**manifest, "files": digests})
        files.write_text(scratch / MANIFEST, json.dumps(sealed, indent=2) + "\n")
    return folder / MANIFEST


def _check_free(folder):
    # Replaced as a whole: a folder of other things would be lost.
    if folder.exists() and not (folder / MANIFEST).exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no encoder; choose another folder")


def _check_example(example, photos):
    is_photo = len(example.shape) == 3 and example.dtype == np.uint8
    is_vector = len(example.shape) == 1 and jnp.issubdtype(example.dtype, jnp.floating)
    if not (is_photo or (is_vector and photos is None)):
        due = "a photo (H, W, C) uint8" if photos else "(H, W, C) uint8 or (F,) floating"
        raise InputError(f"example must be {due}, got {example.dtype} {example.shape}")


def _used_weights(functions, weights, example):
    """Finds the weights that any of the functions uses.

    A method's state may hold tables of the training set, which no embedding needs.

    Returns:
      The used leaves by path, and the function from them to all weights, with zeros for the others.
    """
    x = jax.ShapeDtypeStruct((1, *example.shape), example.dtype)
    leaves, structure = sealing.by_path(weights), jax.tree.structure(weights)
    if len(leaves) < structure.num_leaves:
        raise InputError("weights must have a name each, got two of one path; rename the entries")
    marks = [jax.tree.leaves(used_leaves(function, weights, x)) for function in functions]
    used = dict(zip(leaves, map(any, zip(*marks, strict=True)), strict=True))

    def rebuild(kept):
        whole = [kept[path] if path in kept else _zeros(leaf) for path, leaf in leaves.items()]
        return jax.tree.unflatten(structure, whole)

    return {path: leaf for path, leaf in leaves.items() if used[path]}, rebuild


def _zeros(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return leaf  # NumPy has no random keys
    # A view of one zero, so that a large table takes no memory.
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def used_leaves(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """Returns for each leaf of `tree` whether the results of `function(tree, *rest)` depend on it.

    A leaf that is passed to a loop or a branch counts as used.

    Args:
      function: A function that JAX can trace.
      tree: Pytree of arrays or their shapes.
      *rest: Further arguments, arrays or their shapes.

    Returns:
      Pytree of bool, of the structure of `tree`.
    """
    jaxpr = jax.make_jaxpr(function)(tree, *rest).jaxpr
    used = _used_inputs(jaxpr, [True] * len(jaxpr.outvars))
    structure = jax.tree.structure(tree)
    return jax.tree.unflatten(structure, used[: structure.num_leaves])


def _used_inputs(jaxpr, wanted):
    """Returns for each input of a jaxpr whether any of its wanted results depends on it."""
    pairs = zip(jaxpr.outvars, wanted, strict=True)
    needed = {atom for atom, is_wanted in pairs if is_wanted and isinstance(atom, Var)}
    for equation in reversed(jaxpr.eqns):
        results = [var in needed for var in equation.outvars]
        if not any(results):
            continue
        used = [True] * len(equation.invars)
        if equation.primitive.name == "jit":  # it takes whole batches, of which it may use a part
            used = _used_inputs(equation.params["jaxpr"].jaxpr, results)
        pairs = zip(equation.invars, used, strict=True)
        needed.update(atom for atom, is_used in pairs if is_used and isinstance(atom, Var))
    return [var in needed for var in jaxpr.invars]


def _export(side, embed, arrays, codec, rows, example):
    """Exports the program (weights, codec tensors, x) -> embedding, and codes on the database side.

    Arguments are dicts by name, so that a reader needs no class of ours.
    """

    def program(weights, tensors, x):
        embedding = embed(weights, x).astype(jnp.float32)
        if embedding.ndim != 2 or len(embedding) != rows:
            raise InputError(f"{side} must return [{rows}, D], got {embedding.shape}")
        if side == "embed_query":
            return (embedding,)
        fields = {name.removeprefix(codecs.PREFIX): array for name, array in tensors.items()}
        # The barrier keeps the compiler from encoding other digits than those that it returns.
        whole = jax.lax.optimization_barrier(embedding)
        return embedding, dataclasses.replace(codec, **fields).encode(whole)

    x = jax.ShapeDtypeStruct((rows, *example.shape), example.dtype)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arrays)
    with _without_places():
        return export.export(jax.jit(program), platforms=PLATFORMS)(*shapes, x)


@contextlib.contextmanager
def _without_places():
    """Keeps JAX from writing into programs where each operation's source code lies."""
    # Paths of a machine are nobody's business, and equal programs shall have equal bytes.
    name = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, limit)
