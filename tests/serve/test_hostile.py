"""Hostile requests are answered with a short error, and nothing outside of the photos is read."""

import concurrent.futures
import os
import socket
import struct
import tempfile
import zlib

import numpy as np
import pytest

from quantjax.data.decoding import pixel_limit
from tests.serve import shops

LIMIT = 60_000  # bytes of an upload


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop whose first ids are tricks; a secret picture lies beside its photos."""
    folder = tmp_path_factory.mktemp("tricks")
    shop = shops.make(folder / "photos")
    secret = folder / "secret.png"
    secret.write_bytes(shops.png((1, 1, 1)))
    (folder / "photos-too").mkdir()
    (folder / "photos-too" / "a.png").write_bytes(shops.png((2, 2, 2)))
    (shop.root / "link.png").symlink_to(secret)
    (shop.root / "folder").symlink_to(folder)
    (shop.root / "circle").symlink_to(shop.root / "circle")
    (shop.root / "inside.png").symlink_to(shop.root / "red" / "0.png")
    (shop.root / "text.png").write_text("no picture")
    os.mkfifo(shop.root / "pipe.png")
    return shop


TRICKS = [
    "../secret.png", "{root}/../secret.png", "/etc/passwd", "link.png", "folder/secret.png",
    "circle", "..", "", ".", "red", "red/0.png/", "a\0b.png", "x" * 5000, "pipe.png",
    "..%2fsecret.png", "..\\secret.png", "../photos-too/a.png",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(shop, tmp_path_factory):
    tricks = [name.replace("{root}", str(shop.root)) for name in TRICKS]
    ids = np.array([*tricks, *shop.index.ids[len(tricks) :]], object)
    uploads = tmp_path_factory.mktemp("uploads")
    with pixel_limit(10_000), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(uploads))
        changed = shop._replace(index=shop.index._replace(ids=ids))
        with shops.serving(changed, max_upload_bytes=LIMIT, hosts=("shop.example",)) as server:
            yield server
            assert server.ask("/api/index").status == 200
    assert list(uploads.iterdir()) == []


@pytest.mark.parametrize("row", range(len(TRICKS)), ids=[repr(name[:30]) for name in TRICKS])
def test_an_id_leads_to_no_file_outside_of_the_root(server, row):
    reply = server.ask(f"/images/{row}")
    if TRICKS[row] == "red/0.png/":  # the same photo, with a slash too many
        assert reply.status in (200, 404)
    else:
        assert reply.status == 404
        assert reply.json == {"error": f"item {row} has no photo"}
    assert server.ask(f"/api/search?row={row}&count=3").json["query"]["source"] in (
        "vector",
        "photo",
    )


def test_a_link_within_the_root_is_followed(shop):
    ids = np.array(["inside.png", "text.png", *shop.index.ids[2:]], object)
    with shops.serving(shop._replace(index=shop.index._replace(ids=ids))) as server:
        assert server.ask("/images/0").status == 200
        assert server.ask("/images/1").status == 422
        assert server.ask("/api/search?row=1").json["query"]["source"] == "vector"


@pytest.mark.parametrize(
    "path",
    ["/images/../secret.png", "/images/..%2f..%2fetc%2fpasswd", "/images/%2e%2e/%2e%2e/etc/passwd",
     "/../../etc/passwd", "//etc/passwd", "/images/red/0.png", "/images/", "/page.py", "/app.py",
     "/page/page.js", "/page.js/", "/images/-1", "/images/24", "/images/1e1", "/images/1.0",
     "/images/%00", "/images/%D9%A3", "/images/" + "9" * 5000, "/images/0x1", "/images/%201",
     "/api/search?row=24", "/api/search?row=-1", "/api/search?row=", "/api/search", "/api",
     "/api/search?row=" + "1" * 4999],
    ids=lambda path: path[:40],
)  # fmt: skip
def test_paths_that_name_nothing_are_not_found(server, path):
    reply = server.ask(path)
    assert reply.status == 404
    assert "error" in reply.json


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("row=20&count=0", "count must be from 1 to 120"),
        ("row=20&count=121", "count must be from 1 to 120"),
        ("row=20&count=nan", "count must be from 1 to 120"),
        ("row=20&mode=euclid", "mode must be one of aqd, sqd, rerank"),
        ("row=20&class=__class__", "the index has no such class"),
    ],
)
def test_options_that_do_not_fit_are_named(server, options, message):
    reply = server.ask(f"/api/search?{options}")
    assert (reply.status, reply.json) == (400, {"error": message})


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/", "/api/search", "/images/20"])
def test_other_methods_are_not_allowed(server, method, path):
    assert server.ask(path, method=method).status == 405


def chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def bomb(width, height):
    """A PNG of a few bytes that claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


PHOTO = shops.png((200, 20, 20))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "cannot identify image file"),
        (b"no photo", "cannot identify image file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot identify image file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "cannot identify image file"),
        (PHOTO[:200], ""),
        (PHOTO[:16] + b"\xff" * 8 + PHOTO[24:], ""),
        (bomb(200, 200), " pixels are more than 10,000"),
        (bomb(1 << 30, 1 << 30), "pixels are more than 10,000"),
    ],
    ids=["empty", "text", "svg", "eps", "cut", "damaged", "large", "bomb"],
)
def test_broken_pictures_are_refused_with_the_reason(server, body, message):
    reply = server.send(body)
    assert reply.status == 422
    error = reply.json["error"]
    assert error.startswith("cannot read this image: ")
    assert message in error
    assert "\n" not in error
    assert "/" not in error  # no path of this machine
    assert server.send(PHOTO).status == 200


@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data; boundary=x",
                                  "application/x-www-form-urlencoded", "text/html"])  # fmt: skip
def test_what_a_form_could_send_is_refused(server, kind):
    assert server.send(PHOTO, kind=kind).status == 415
    assert server.send(PHOTO, kind="image/png").status == 200


def test_a_body_over_the_limit_is_refused_whatever_its_length_claims(server):
    message = {"error": "the image has more than 60,000 bytes"}
    reply = server.send(b"x" * (LIMIT + 1))
    assert (reply.status, reply.json) == (413, message)
    sent = 0

    def endless():
        nonlocal sent
        while sent < 50 * LIMIT:
            sent += 1000
            yield b"x" * 1000

    # Chunked, so without a length. The answer may come while the client still sends.
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = "POST /api/search HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n"
        connection.sendall(f"{head}content-type: application/octet-stream\r\n\r\n".encode())
        try:
            for block in endless():
                connection.sendall(b"%x\r\n%s\r\n" % (len(block), block))
        except (ConnectionResetError, BrokenPipeError):
            pass
        else:
            assert connection.recv(12) == b"HTTP/1.1 413"
    assert server.send(PHOTO + b"\0" * (LIMIT - len(PHOTO))).status == 200


def test_a_client_that_goes_away_leaves_nothing(server):
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = "POST /api/search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50000\r\n"
            connection.sendall(f"{head}content-type: image/png\r\n\r\nabc".encode())
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"\x16\x03\x01 no HTTP at all \r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 400"
    assert server.ask("/api/index").status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:1", 200), ("[::1]:8000", 200),
     ("192.168.1.7:8000", 200), ("shop.example", 200), ("evil.example", 403),
     ("localhost.evil.example", 403), ("127.0.0.1.evil.example", 403), ("", 403),
     ("evil.example:127.0.0.1", 403), ("localhost@evil.example", 403)],
)  # fmt: skip
def test_a_name_that_was_pointed_here_is_refused(server, host, status):
    for path in ("/", "/api/index", "/images/20", "/page.js"):
        assert server.ask(path, headers={"host": host}).status == status


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_may_link_to_the_page_but_not_ask(server, site):
    fetched = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
    for path in ("/images/20", "/api/index", "/api/search?row=20"):
        assert server.ask(path, headers=fetched).status == 403
    assert server.send(PHOTO, headers=fetched).status == 403
    clicked = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
    assert server.ask("/", headers=clicked).status == 200


@pytest.mark.parametrize("path", ["/", "/api/index", "/images/20", "/images/0", "/nothing"])
def test_every_answer_forbids_other_origins(server, path):
    headers = server.ask(path, headers={"origin": "http://evil.example"}).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert not any(name.lower().startswith("access-control") for name in headers)
    assert "server" not in headers


def test_two_hundred_at_once_are_all_answered(server, shop):
    due = [item["row"] for item in server.send(PHOTO).json["neighbours"]]

    def ask(number):
        if number % 4 == 0:
            return server.ask(f"/images/{20 + number % 4}").status == 200
        if number % 4 == 1:
            return server.ask("/api/search?row=20").status == 200
        return [item["row"] for item in server.send(PHOTO).json["neighbours"]] == due

    with concurrent.futures.ThreadPoolExecutor(200) as threads:
        assert all(threads.map(ask, range(200)))
