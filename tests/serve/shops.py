"""A small index of photos with a stand-in for an encoder, and a server of it on a free port."""

import contextlib
import http.client
import io
import json
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from quantjax import index, serve
from quantjax.data import decoding
from quantjax.index import Index
from quantjax.quantizers import BinaryCodec, ProductCodec
from quantjax.serve.server import make_server

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (210, 50, 40)}
EACH = 8  # photos of a class


class Encoder(NamedTuple):
    """Embeds photos by their mean colours in 2 x 2 fields; has what the server asks of encoders."""

    def embed_query(self, paths):
        pixels = [decoding.decode(path, path, size=2).reshape(12) for path in paths]
        return np.float32(pixels) / 255 - 0.5


def png(colour, *, size=(48, 36), noise=0):
    """Bytes of a PNG of a colour, a little noisy."""
    shifts = np.random.default_rng(noise).integers(-30, 30, (size[1], size[0], 3))
    out = io.BytesIO()
    Image.fromarray(np.clip(np.array(colour) + shifts, 0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def make(folder, *, binary=False, encoder=True, vectors=True):
    """A collection of 24 photos in three class folders below a folder."""
    ids = [f"{name}/{number}.png" for name in COLOURS for number in range(EACH)]
    for number, name in enumerate(ids):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(COLOURS[path.parent.name], noise=number))
    x = Encoder().embed_query([folder / name for name in ids])
    # Every third item is a codeword, so that codes differ and errors are small.
    books = np.stack([x[:: len(ids) // 8, 3 * m : 3 * m + 3] for m in range(4)])
    codec = BinaryCodec(12) if binary else ProductCodec(jnp.asarray(books))
    codes = Index(
        codec,
        np.asarray(codec.encode(jnp.asarray(x))),
        np.array(ids, object),
        {"classes": list(COLOURS), "root": str(folder)},
        vectors=np.float16(x) if vectors else None,
        labels=np.repeat(np.arange(3), EACH),
    )
    return serve.Collection("shop", codes, Encoder() if encoder else None, folder.resolve())


def save(folder, *, encoder=True):
    """Writes an index with its encoder into a folder, and its photos below; returns the folder."""
    shop = make(folder / "photos")
    encoders = folder / "of-photos"
    index.save_encoder(
        encoders,
        embed=lambda weights, x: (x.reshape(-1, 12) / 255 - weights).astype(jnp.float32),
        weights=np.full(12, 0.5, np.float32),
        codec=shop.index.codec,
        example=jax.ShapeDtypeStruct((2, 2, 3), jnp.uint8),
        photos=index.Preparation(size=2),
    )
    index.save(
        folder,
        shop.index.codec,
        shop.index.codes,
        ids=shop.index.ids,
        vectors=shop.index.vectors,
        labels=shop.index.labels,
        classes=list(COLOURS),
        root=folder / "photos",
        encoder=encoders if encoder else None,
    )
    return folder


class Reply(NamedTuple):
    status: int
    headers: Any
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Server(NamedTuple):
    port: int

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def ask(self, path, *, method="GET", body=None, headers=()):
        """Sends a path as it is: no client tidies it up on the way."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=dict(headers))
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())

    def send(self, body, path="/api/search", kind="application/octet-stream", headers=()):
        headers = {"content-type": kind, **dict(headers)}
        return self.ask(path, method="POST", body=body, headers=headers)


@contextlib.contextmanager
def serving(collection, **options):
    """Runs the real server in a thread, on a free port of the loopback."""
    app = serve.make_app(collection, **options)
    listener = serve.listen("127.0.0.1", 0)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield Server(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
