"""Loads an encoder and runs it: photos or vectors become embeddings and codes."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from quantjax.errors import InputError, MissingFileError
from quantjax.index import codecs, exporting
from quantjax.index.preparation import Preparation
from quantjax.quantizers import Codec
from quantjax.run import files, sealing
from quantjax.run.paths import user_path

Inputs = np.ndarray | Sequence[str] | Sequence[pathlib.Path]

_AGAIN = "`quantjax export-encoder RUN` writes it anew from a run"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Encoder:
    """Embeds and encodes photos or vectors; made by `load_encoder`.

    It needs neither the experiment nor its data. Inputs are an array, [N, *row_shape], or a list of
    photo files. They run in blocks of 128 rows; a call for up to 64 rows takes blocks of 16, and
    for up to 4 rows blocks of 1.

    Attributes:
      codec: Codec of the codes.
      classes: Names of the classes that it was trained on.
      digest: SHA-256, in hex, of the manifest, and so of all files.
      input: "photos" for uint8 pixels, or "vectors" for real numbers.
      row_shape: Shape of one row, (H, W, C) or (F,).
      licence: Text of the licence of weights from others, or None.
      photos: How photo files become rows; None if files cannot be encoded.
      manifest: All that encoder.json says.
      arguments: Weights and the codec's tensors, the first arguments of all programs.
      programs: Compiled functions by the name of their file.
    """

    codec: Codec
    classes: tuple[str, ...]
    digest: str
    input: str
    row_shape: tuple[int, ...]
    licence: str | None
    photos: Preparation | None
    manifest: Mapping[str, Any]
    arguments: Any
    programs: Mapping[str, Callable[..., Any]]

    def __repr__(self) -> str:
        return f"<Encoder of {self.input} {self.row_shape} to {self.codec!r}, {self.digest[:8]}>"

    def __call__(self, x: Inputs) -> np.ndarray:
        """Encodes inputs to codes [N, num_bytes] uint8, as `embed` and then the codec do.

        Raises:
          ValueError: if inputs are of another shape or type, or a photo is unreadable (named).
        """
        return self._run("embed", x, 1)[0]

    def embed(self, x: Inputs) -> np.ndarray:
        """Embeds inputs as items of a database, [N, D] float32; raises ValueError as the call."""
        return self._run("embed", x, 0)[0]

    def embed_and_encode(self, x: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """Returns what `embed` and the call return, and runs the network once for both."""
        embeddings, codes = self._run("embed", x, 0, 1)
        return embeddings, codes

    def embed_query(self, x: Inputs) -> np.ndarray:
        """Embeds inputs as queries, [Q, D] float32; raises ValueError as the call."""
        side = self.manifest["sides"][-1]  # a symmetric method has one side
        return self._run(side, x, 0)[0]

    def read(self, path: str | pathlib.Path) -> np.ndarray:
        """Reads a photo file as one row, pixels [H, W, C] uint8, as the training data was read.

        Raises:
          ModuleNotFoundError: if Pillow is not installed.
          ValueError: if the photo is unreadable (named), or the encoder takes no files.
        """
        if self.photos is None:
            raise InputError(
                f"this encoder takes arrays of {self.input} {self.row_shape}, no files"
            )
        row = self.photos.read(path)
        if row.shape != self.row_shape:
            raise InputError(f"photo {path} must be of {self.row_shape}, got {row.shape}")
        return row

    def _run(self, side, x, *outputs):
        """Returns outputs of a side's program for all rows: 0 for embeddings, 1 for codes."""
        x = x if _are_paths(x) else self._checked(x)
        rows = next((rows for rows in exporting.ROWS if len(x) <= 4 * rows), exporting.ROWS[-1])
        # The outputs of no rows come first: their types and widths hold where x has none.
        none = (
            np.zeros((0, self.manifest["dim"]), np.float32),
            np.zeros((0, self.codec.num_bytes), np.uint8),
        )
        results = [[none[number] for number in outputs]]
        program = self.programs[exporting.program_file(side, rows)]
        for block in self._blocks(x, rows):
            # Padded with its first row: zeros may be unlike any row.
            padded = np.concatenate([block, np.repeat(block[:1], rows - len(block), axis=0)])
            found = program(*self.arguments, padded)
            results.append([found[number][: len(block)] for number in outputs])
            # Fetched only now, so that the device computes while the next block is read.
            results[-2] = [np.asarray(each) for each in results[-2]]
        return [np.concatenate(each) for each in zip(*results, strict=True)]

    def _blocks(self, x, rows) -> Iterator[np.ndarray]:
        """Yields the rows of each block; reads photo files, or converts and checks vectors."""
        starts = range(0, len(x), rows)
        if isinstance(x, np.ndarray):
            due = jnp.dtype(self.manifest["row"]["dtype"])
            for start in starts:
                block = np.asarray(x[start : start + rows], due)
                # Block by block: the vectors may be a file that is larger than memory.
                if self.input == "vectors" and not np.isfinite(block).all():
                    row = start + np.flatnonzero(~np.isfinite(block).all(axis=1))[0]
                    raise InputError(f"vectors must be finite, got NaN or infinity in row {row}")
                yield block
            return
        with futures.ThreadPoolExecutor() as pool:
            for start in starts:
                yield np.stack([*pool.map(self.read, x[start : start + rows])])

    def _checked(self, x):
        """Returns inputs as an array, after checking their shape and type."""
        x = np.asarray(x)
        due = self.manifest["row"]["dtype"]
        is_kind = x.dtype == due if self.input == "photos" else x.dtype.kind in "fiu"
        if x.ndim == 0 or x.shape[1:] != self.row_shape or not is_kind:
            shape = ", ".join(map(str, ("N", *self.row_shape)))
            raise InputError(f"{self.input} must be {due} [{shape}], got {x.dtype} {x.shape}")
        return x


def load_encoder(folder: str | pathlib.Path) -> Encoder:
    """Loads an encoder, which needs jax and numpy alone, and Pillow for photo files.

    Args:
      folder: Folder of an encoder, or a folder that has one: a run's workdir or an index.

    Returns:
      The encoder. Its programs are compiled when they are first used.

    Raises:
      FileNotFoundError: if there is no encoder.
      ValueError: if a file is cut or altered, or of a newer version, or if this version of jax
        cannot run the programs.
    """
    folder = _find(user_path(folder))
    path = folder / exporting.MANIFEST
    with files.reading(f"cannot read the encoder in {folder}", _AGAIN):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        _check_version(manifest)
        # The manifest's own digest first: it vouches for all others.
        sealing.unsealed(manifest)
        for name, digest in manifest["files"].items():
            _check_digest(folder / name, digest)
        return _encoder(folder, manifest)


def _encoder(folder, manifest):
    tensors, _ = files.read_arrays(folder / exporting.WEIGHTS)
    of_codec = {name: x for name, x in tensors.items() if name.startswith(codecs.PREFIX)}
    weights = {name: x for name, x in tensors.items() if name not in of_codec}
    names = [
        exporting.program_file(side, rows) for side in manifest["sides"] for rows in exporting.ROWS
    ]
    programs = {name: export.deserialize(bytearray((folder / name).read_bytes())) for name in names}
    photos = manifest["photos"]
    return Encoder(
        codec=codecs.read(manifest, tensors),
        classes=tuple(manifest["classes"]),
        digest=manifest["digest"],
        input=manifest["input"],
        row_shape=tuple(manifest["row"]["shape"]),
        licence=manifest["licence"],
        photos=None if photos is None else Preparation(**photos),
        manifest=manifest,
        # On the device once, and not at every call.
        arguments=jax.device_put((weights, of_codec)),
        programs={name: jax.jit(program.call) for name, program in programs.items()},
    )


def _find(folder):
    for place in (folder, folder / "encoder"):
        if (place / exporting.MANIFEST).is_file():
            return place
    raise MissingFileError(f"{folder} has no encoder; {_AGAIN}")


def _check_version(manifest):
    found = manifest.get("format"), manifest.get("version")
    if found != (exporting.FORMAT, exporting.VERSION):
        raise InputError(
            f"it must be {exporting.FORMAT} version {exporting.VERSION}, got "
            f"{files.one_line(found[0])} version {files.one_line(found[1])}"
        )
    # jax reads programs of the last half year or more.
    least, most = (
        export.minimum_supported_calling_convention_version,
        export.maximum_supported_calling_convention_version,
    )
    if not least <= (convention := manifest["calling_convention_version"]) <= most:
        raise InputError(
            f"jax {jax.__version__} runs programs of calling conventions {least} to {most}, got "
            f"{convention}"
        )


def _check_digest(path, digest):
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise InputError(f"{path.name} is cut or altered")


def _are_paths(x):
    return isinstance(x, list | tuple) and all(isinstance(each, str | pathlib.Path) for each in x)
