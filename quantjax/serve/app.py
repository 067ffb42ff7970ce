"""Defines the pages and answers of the server, as a Starlette application."""

import asyncio
import contextlib
import functools
import os
import secrets
import tempfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from quantjax.data.decoding import UnreadablePhotoError
from quantjax.serve.collection import (
    MOST,
    Answer,
    Collection,
    class_counts,
    class_of,
    modes,
    random_rows,
    search_item,
    search_photo,
)
from quantjax.serve.guard import guard
from quantjax.serve.pictures import photo_path, thumbnail

_PAGE = Path(__file__).parent / "page"
_UPLOAD_SECONDS = 60


class _Site(NamedTuple):
    """Holds what all requests share.

    Attributes:
      collection: Index, encoder and folder of photos.
      classes: Number of items of each class.
      max_upload_bytes: Largest size of an uploaded photo.
      version: Part of the addresses of pictures, so that no browser shows those of another index.
      searches: Limit of searches at a time; more would only share the same cores.
      thumbnails: Limit of thumbnails made at a time, apart, so that no search waits for a picture.
    """

    collection: Collection
    classes: dict[str, int]
    max_upload_bytes: int
    version: str
    searches: anyio.CapacityLimiter
    thumbnails: anyio.CapacityLimiter


def make_app(
    collection: Collection, *, hosts: Sequence[str] = (), max_upload_bytes: int = 20_000_000
) -> Starlette:
    """Returns an application that searches a collection; any ASGI server can run it.

    Args:
      collection: Index, encoder and folder of photos.
      hosts: Names of this machine that a browser may ask for, beside localhost and IP addresses.
      max_upload_bytes: Largest size of an uploaded photo.
    """
    app = Starlette(
        routes=[
            # Named one by one: no path of a request is ever joined to a folder.
            *(Route(f"/{name}", _file) for name in ("", "page.css", "page.js", "icon.svg")),
            Route("/api/index", _describe),
            Route("/api/random", _random_items),
            Route("/api/search", _search_item),
            Route("/api/search", _search_photo, methods=["POST"]),
            Route("/images/{row}", _picture),
        ],
        middleware=[Middleware(guard, hosts=hosts)],
        exception_handlers={
            HTTPException: _answer_error,
            UnreadablePhotoError: _answer_unreadable,
            ClientDisconnect: _answer_nobody,
        },
    )
    # A redirect would name the host that the request claims.
    app.router.redirect_slashes = False
    cores = os.cpu_count() or 1
    app.state.site = _Site(
        collection,
        class_counts(collection),
        max_upload_bytes,
        secrets.token_hex(4),
        *(anyio.CapacityLimiter(cores) for _ in range(2)),
    )
    return app


async def _file(request: Request) -> Response:
    path = _PAGE / (request.url.path.lstrip("/") or "index.html")
    # Asked for anew each time: a browser must not run the script of an older version.
    return FileResponse(path, headers={"cache-control": "no-cache"})


async def _describe(request: Request) -> Response:
    site = _site(request)
    index = site.collection.index
    vectors = index.vectors
    return JSONResponse(
        {
            "name": site.collection.name,
            "count": len(index.codes),
            "bits": index.codec.bits,
            "num_bytes": index.codec.num_bytes,
            "vector_bytes": 0 if vectors is None else vectors.itemsize * vectors.shape[1],
            "metric": index.codec.metric,
            "modes": list(modes(site.collection)),
            "classes": [{"name": name, "count": n} for name, n in site.classes.items() if n],
            "encoder": site.collection.encoder is not None,
            "pictures": site.collection.root is not None,
            "max_count": MOST,
            "max_upload_bytes": site.max_upload_bytes,
            "version": site.version,
        }
    )


async def _random_items(request: Request) -> Response:
    collection = _site(request).collection
    rows = random_rows(collection, _count(request), _class(request))
    return JSONResponse({"items": [_item(collection, row) for row in rows.tolist()]})


async def _search_item(request: Request) -> Response:
    # In a thread, like all that computes: this loop must go on taking requests.
    site, row = _site(request), _row(request, request.query_params.get("row", ""))
    find = functools.partial(search_item, site.collection, row, **_options(request))
    answer = await anyio.to_thread.run_sync(find, limiter=site.searches)
    return _answer(site.collection, answer, _item(site.collection, row))


async def _search_photo(request: Request) -> Response:
    site, options = _site(request), _options(request)
    if site.collection.encoder is None:
        raise HTTPException(409, "this index has no encoder; search by one of its items")
    # A form of another site can send text or a form, but not these without asking first.
    kind = request.headers.get("content-type", "")
    if kind != "application/octet-stream" and not kind.startswith("image/"):
        raise HTTPException(415, "send the bytes of an image, as application/octet-stream")
    async with _received(request, site.max_upload_bytes) as path:
        find = functools.partial(search_photo, site.collection, path, **options)
        answer = await anyio.to_thread.run_sync(find, limiter=site.searches)
    return _answer(site.collection, answer, {"id": "upload"})


@contextlib.asynccontextmanager
async def _received(request: Request, limit: int) -> AsyncGenerator[Path]:
    """Yields the path of a file that holds a request's body until the context ends."""
    too_large = HTTPException(413, f"the image has more than {limit:,} bytes")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    # On disk, so that many uploads at once do not fill the memory; a length may lie or be absent.
    with tempfile.NamedTemporaryFile(prefix="quantjax-") as file:
        try:
            async with asyncio.timeout(_UPLOAD_SECONDS):
                async for chunk in request.stream():
                    if file.tell() + len(chunk) > limit:
                        raise too_large
                    file.write(chunk)
        except TimeoutError:
            raise HTTPException(408, f"no image within {_UPLOAD_SECONDS} seconds") from None
        file.flush()
        yield Path(file.name)


async def _picture(request: Request) -> Response:
    site, row = _site(request), _row(request, request.path_params["row"])
    path = photo_path(site.collection.root, site.collection.index.ids[row])
    if path is None:
        raise HTTPException(404, f"item {row} has no photo")
    picture = await anyio.to_thread.run_sync(thumbnail, path, limiter=site.thumbnails)
    cached = {"cache-control": "private, max-age=86400, immutable"}
    return Response(picture, media_type="image/jpeg", headers=cached)


def _site(request: Request) -> _Site:
    return request.app.state.site


def _options(request: Request) -> dict[str, Any]:
    allowed = list(modes(_site(request).collection))
    mode = request.query_params.get("mode", allowed[0])
    if mode not in allowed:
        raise HTTPException(400, f"mode must be one of {', '.join(allowed)}")
    return {"mode": mode, "count": _count(request), "among": _class(request)}


def _count(request: Request) -> int:
    return _number("count", request.query_params.get("count", "24"), 1, MOST)


def _row(request: Request, text: str) -> int:
    return _number("row", text, 0, len(_site(request).collection.index.codes) - 1)


def _number(name: str, text: str, least: int, most: int) -> int:
    # Python takes minutes over the digits of a long number, and reads those of other scripts.
    if len(text) <= 18 and text.isascii() and text.isdecimal() and least <= int(text) <= most:
        return int(text)
    raise HTTPException(404 if name == "row" else 400, f"{name} must be from {least} to {most}")


def _class(request: Request) -> str | None:
    name = request.query_params.get("class") or None
    if name is not None and name not in _site(request).classes:
        raise HTTPException(400, "the index has no such class")
    return name


def _item(collection: Collection, row: int) -> dict[str, Any]:
    # Names of files need not be UTF-8, answers must be.
    name = str(collection.index.ids[row]).encode("utf-8", "replace").decode()
    return {"row": row, "id": name, "class": class_of(collection, row)}


def _answer(collection: Collection, answer: Answer, query: dict[str, Any]) -> Response:
    pairs = zip(answer.rows.tolist(), answer.distances.tolist(), strict=True)
    return JSONResponse(
        {
            "query": {**query, "source": answer.source},
            "neighbours": [{**_item(collection, row), "distance": d} for row, d in pairs],
            "encode_ms": answer.encode_ms,
            "search_ms": answer.search_ms,
        }
    )


async def _answer_error(request: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _answer_unreadable(request: Request, error: Any) -> Response:
    # Without the file's name, which the visitor has never seen.
    reason = "; ".join(filter(None, (error.reason, error.advice)))
    return JSONResponse({"error": f"cannot read this image: {reason}"}, 422)


async def _answer_nobody(request: Request, error: Any) -> Response:
    # The client went away: no fault of the program that would be worth a traceback.
    return Response(status_code=400)
