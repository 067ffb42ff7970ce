"""An encoder of the shape that `index.load_encoder` gives, without programs: signs of means."""

import hashlib
import json
import pathlib
import types

import numpy as np

from quantjax.quantizers import BinaryCodec


class Encoder:
    """Codes photos by the signs of their means of rows, and vectors by their own signs."""

    def __init__(self, about, kind="vectors", width=16):
        self.codec, self.classes, self.licence = BinaryCodec(width), (), None
        self.input, self.row_shape = kind, (width, width, 3) if kind == "photos" else (width,)
        self.digest = hashlib.sha256(f"{about} {kind} {width}".encode()).hexdigest()

    def embed(self, x):
        x = np.asarray(x, np.float32)
        return x.mean(axis=(2, 3)) - 127.5 if self.input == "photos" else x

    embed_query = embed

    def __call__(self, x):
        return np.asarray(self.codec.encode(self.embed(x)))


def save(folder, about="", *, kind="vectors", width=16):
    """Writes an encoder for `module().load_encoder`; `about` enters its digest."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    content = {"about": about, "kind": kind, "width": width}
    (folder / "fake.json").write_text(json.dumps(content))
    return folder


def load_encoder(folder):
    folder = pathlib.Path(folder)
    folder = folder / "encoder" if (folder / "encoder").is_dir() else folder
    return Encoder(**json.loads((folder / "fake.json").read_text()))


def module():
    """Stands for `quantjax.index.encoder`."""
    return types.SimpleNamespace(load_encoder=load_encoder)
