"""`quantjax serve` as a process: its first line, its page and its end."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from quantjax import cli
from tests.serve import shops


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return shops.save(tmp_path_factory.mktemp("shop"))


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "quantjax.cli", "serve", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_says_where_it_listens_answers_and_ends_cleanly_on_ctrl_c(shop):
    server = start(shop, "--port=0", "--json")
    try:
        url = json.loads(server.stdout.readline())["url"]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{url}api/index") as reply:
            about = json.load(reply)
        assert (about["count"], about["encoder"], about["pictures"]) == (24, True, True)
        upload = urllib.request.Request(
            f"{url}api/search?count=3", shops.png(shops.COLOURS["green"]),
            {"content-type": "image/png"},
        )  # fmt: skip
        with urllib.request.urlopen(upload) as reply:
            assert [item["class"] for item in json.load(reply)["neighbours"]] == ["green"] * 3
    finally:
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=30)
    assert (server.returncode, out, err) == (0, "", "")


def test_missing_parts_are_said_beside_the_address(tmp_path):
    folder = shops.save(tmp_path / "shop", encoder=False)
    (folder / "photos").rename(tmp_path / "moved")
    server = start(folder, "--port=0")
    try:
        line = server.stdout.readline()
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)
    address, no_encoder, no_pictures = line.strip().split("; ", 2)
    assert address.endswith("/ (Ctrl-C ends)")
    assert no_encoder == "the index has no encoder of photos, so that searches start from its items"
    assert no_pictures == f"no pictures, as {folder}/photos is no folder here; name it by --images"


def test_what_does_not_fit_is_one_line(shop, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, message in (
            ([shop, "--port", port], f"cannot listen on 127.0.0.1 port {port}: "),
            ([shop, "--port=70000"], "port must be from 0 to 65535, got 70000"),
            ([shop, "--host=198.51.100.7"], "cannot listen on 198.51.100.7 port 8000: "),
            ([shop, "--images", tmp_path / "none"], f"no folder {tmp_path}/none; name the one"),
            ([shop, "--max_pixels=0"], "max_pixels must be 1 or more, got 0"),
            ([tmp_path / "none"], f"{tmp_path}/none has no codes.json"),
        ):
            with pytest.raises(SystemExit) as caught:
                cli.main(["serve", *map(str, arguments)])
            text = capsys.readouterr().err
            assert (caught.value.code, text.count("\n")) == (1, 1)
            assert text.startswith(f"error: {message}")
