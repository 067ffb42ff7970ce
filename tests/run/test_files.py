"""A written file replaces the old file as a whole, and damage in a file is an error of one line."""

import ast
import os
import pathlib
import re
import stat

import numpy as np
import pytest

from quantjax.errors import FileError, InputError
from quantjax.run import files
from tests.models import weight_files


def write_arrays(path):
    files.write_arrays(path, {"a": np.arange(3)}, {"b": "c"})


def write_text(path):
    files.write_text(path, "é\n")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("write", [write_arrays, write_text])
def test_permissions_of_new_files_obey_the_umask(write, umask, tmp_path):
    before = os.umask(umask)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("when", ["before the content", "before the rename"])
def test_an_error_leaves_the_old_file_and_no_other(when, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace" if when == "before the rename" else "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(path, "new")
    with pytest.raises(TypeError):
        files.write_arrays(path, {"a": np.zeros(3)}, {"b": 1})  # ty: ignore[invalid-argument-type]
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_text_is_utf_8(tmp_path):
    write_text(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"\xc3\xa9\n"


def test_arrays_and_their_description_come_back(tmp_path):
    arrays = {"a": np.arange(6).reshape(2, 3).T, "b": np.zeros((0, 2), bool)}
    files.write_arrays(tmp_path / "file", arrays, {"name": "é\n"})
    found, about = files.read_arrays(tmp_path / "file")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert about == {"name": "é\n"}
    files.write_arrays(tmp_path / "file", {})
    assert files.read_arrays(tmp_path / "file") == ({}, {})


def test_bfloat16_is_read_and_an_unknown_type_is_named(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(weight_files.safetensors({"a": ("BF16", (2,), b"\x80\x3f\x00\x40")}))
    np.testing.assert_array_equal(files.read_arrays(path)[0]["a"].astype(np.float32), [1, 2])
    path.write_bytes(weight_files.safetensors({"a": ("F8_E4M3", (2,), bytes(2))}))
    with pytest.raises(InputError, match="tensors of F8_E4M3, which is not supported"):
        files.read_arrays(path)


def test_damage_becomes_an_error_of_one_short_line():
    for error in (ValueError("a\nb" * 999), KeyError("a"), RecursionError("deep")):
        with (
            pytest.raises(InputError, match=r"^cannot read x: .*; fetch it") as caught,
            files.reading("cannot read x", "fetch it"),
        ):
            raise error
        assert len(str(caught.value)) < 250
        assert "\n" not in str(caught.value)
    with (
        pytest.raises(FileError, match=r"cannot read x: .*denied"),
        files.reading("cannot read x", ""),
    ):
        raise PermissionError(13, "denied")
    with pytest.raises(MemoryError), files.reading("cannot read x", ""):
        raise MemoryError


def test_a_value_from_a_file_is_shown_in_one_short_line():
    assert files.one_line("a\n b" * 100) == " ".join(("a\n b" * 50).split())
    assert files.one_line([1] * 10**5) == "list"
    assert files.one_line(None) == "None"


def test_a_scratch_file_is_never_written_through_a_link(tmp_path):
    precious = tmp_path / "key"
    precious.write_text("secret")
    (tmp_path / f".a.json.{os.getpid()}.tmp").symlink_to(precious)
    files.write_text(tmp_path / "a.json", "{}")
    assert (precious.read_text(), (tmp_path / "a.json").read_text()) == ("secret", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "key"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "folder", "pipe"])
def test_only_plain_files_are_written_in_place(kind, tmp_path):
    path, other = tmp_path / "log", tmp_path / "other"
    if kind in ("link", "hard link"):
        other.write_text("before")
    if kind == "hard link":
        path.hardlink_to(other)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(other)
    message = f"{path} must be a plain file, got a link, folder or device; remove it"
    with pytest.raises(InputError, match=re.escape(message)), files.opened_plain(path, "a") as file:
        file.write("x")
    assert not other.exists() or other.read_text() == "before"


@pytest.mark.parametrize("kind", ["link", "dangling link", "file"])
def test_only_plain_folders_are_written_into(kind, tmp_path):
    path, other = tmp_path / "logs", tmp_path / "other"
    if kind == "link":
        other.mkdir()
    if kind == "file":
        path.write_text("")
    else:
        path.symlink_to(other)
    message = f"{path} must be a plain folder, got a link or file; remove it"
    with pytest.raises(InputError, match=re.escape(message)):
        files.make_plain_folder(path)
    assert other.exists() == (kind == "link")


def test_a_plain_folder_may_be_there_already(tmp_path):
    for _ in range(2):
        files.make_plain_folder(tmp_path / "logs")
    assert (tmp_path / "logs").is_dir()


PACKAGES = [pathlib.Path(__file__).parents[2] / name for name in ("quantjax", "experiments/ledger")]
WRITERS = {
    "write_text", "write_bytes", "tofile", "copyfile", "mkstemp", "NamedTemporaryFile",
    "TemporaryDirectory",
}  # fmt: skip
ELSEWHERE = {
    ("serve/app.py", "NamedTemporaryFile"),  # of a random name, created exclusively
    ("index/encoding.py", "TemporaryDirectory"),
    ("run/output.py", "open"),  # the null device
}


def writers(path):
    """Yields the name of each call of a module that writes a file, but for scratch files."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        words = ast.unparse(node.func)
        name = words.rpartition(".")[2]
        texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
        modes = [text for text in texts if re.fullmatch(r"[rwaxbt+]+", str(text))]
        opens = name == "open" and any(set(mode) & {*"wax+"} for mode in modes)
        # Such as files.write_text, scratch.open and (scratch / name).write_bytes.
        due = re.match(r"\W*(files|scratch)\b", words)
        if not due and (opens or words == "os.open" or name in WRITERS):
            yield name


def test_every_file_is_written_by_one_mechanism():
    found = {
        (path.relative_to(package).as_posix(), name)
        for package in PACKAGES
        for path in package.rglob("*.py")
        for name in writers(path)
    }
    assert {each for each in found if each[0] != "run/files.py"} == ELSEWHERE


def fill(folder, text):
    with files.replacing_folder(folder) as scratch:
        (scratch / text).write_text(text)


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for text in ("old", "new"):
        fill(tmp_path / "folder", text)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [
        "folder", "folder/new",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["write_text", "rename"])
def test_an_error_leaves_the_old_folder_and_no_other(name, tmp_path, monkeypatch):
    fill(tmp_path / "folder", "old")
    whole = getattr(pathlib.Path, name)

    def fail(path, *args):
        if path.name.endswith(".tmp") or args == ("new",):
            raise OSError(28, "No space left on device")
        return whole(path, *args)

    monkeypatch.setattr(pathlib.Path, name, fail)
    with pytest.raises(OSError, match="No space left"):
        fill(tmp_path / "folder", "new")
    assert (tmp_path / "folder" / "old").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_single_number_stays_one(tmp_path):
    files.write_arrays(tmp_path / "file", {"a": np.float32(2)})
    arrays, _ = files.read_arrays(tmp_path / "file")
    assert arrays["a"].shape == ()


def test_a_folder_is_never_written_through_a_link(tmp_path):
    away = tmp_path / "away"
    away.mkdir()
    (away / "thesis.tex").write_text("dear")
    for name in ("folder", f".folder.{os.getpid()}.tmp", f".folder.{os.getpid()}.old"):
        (tmp_path / name).symlink_to(away)
    (tmp_path / f".folder.{os.getpid()}.old").unlink()
    fill(tmp_path / "folder", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["away", "folder"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
    assert [path.name for path in away.iterdir()] == ["thesis.tex"]


def test_what_a_link_leads_to_is_not_removed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("link", "nothing"):
        files.remove(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    for name in ("folder/file", "folder"):
        files.remove(tmp_path / name)
    assert not any(tmp_path.iterdir())
