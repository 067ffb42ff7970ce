"""Damaged files are read, or refused in one line that names the file; nothing else happens."""

import contextlib
import pathlib
import resource
import sys
import time
import warnings

import jax
import pytest

from quantjax.data import cifar
from tests.fuzz.array_readers import READERS as ARRAY_READERS
from tests.fuzz.mutator import mutated
from tests.fuzz.photo_readers import READERS as PHOTO_READERS
from tests.fuzz.photo_readers import Image
from tests.fuzz.run_readers import READERS as RUN_READERS

READERS = ARRAY_READERS | PHOTO_READERS | RUN_READERS
SECONDS = 5
MEMORY = 512 << 20
CALLS = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect")
CALLS += ("pickle.find_class",)


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(cifar, "_ROWS_PER_FILE", 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 20)


@pytest.fixture(scope="module")
def calls():
    """Names of what was called that no file may call; hooks cannot be taken away again."""
    found, watching = [], [True]
    sys.addaudithook(
        lambda event, _: found.append(event) if watching[0] and event in CALLS else None
    )
    yield found
    watching[0] = False


@contextlib.contextmanager
def limited_memory():
    """Lets no more than `MEMORY` be taken beside what is there; more is a MemoryError."""
    statm = pathlib.Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def damaged(reader, valid, seed: int) -> bytes:
    if reader.restructured is None or seed % 4 < 2:
        return reader.wrap(mutated(seed, valid, reader.tokens))
    return reader.wrap(reader.restructured(seed, valid[seed // 4 % len(valid)]))


def complaint(error: BaseException, path: pathlib.Path, *, names_file: bool) -> str:
    """Returns what is wrong with a documented error, or nothing."""
    text = str(error)
    if "\n" in text or len(text) > 1200 + 4 * len(str(path)):
        return f"not one short line: {text[:300]!r}"
    if names_file and str(path.parent) not in text:
        return f"does not name the file: {text!r}"
    cause: BaseException | None = error
    while cause is not None:
        # Pillow's decoders tell of memory by a number.
        if isinstance(cause, MemoryError) or "decoder error -9" in str(cause):
            return f"takes more memory than {MEMORY:,} bytes: {text!r}"
        cause = cause.__cause__ or cause.__context__
    return ""


def outcome(reader, path) -> tuple[bool, str]:
    """Returns whether the file was read, and what went wrong, or nothing."""
    began = time.perf_counter()
    was_read, wrong = False, ""
    try:
        reader.read(path)
        was_read = True
    except reader.errors as error:
        wrong = complaint(error, path, names_file=reader.names_file)
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - began
    return was_read, wrong or (f"took {seconds:.1f} s" if seconds > SECONDS else "")


@pytest.mark.parametrize("name", READERS)
def test_files_without_damage_are_read(name, tmp_path):
    reader = READERS[name]
    path = tmp_path / reader.name
    reader.prepare(path)
    for content in reader.valid():
        path.write_bytes(reader.wrap(content))
        reader.read(path)


@pytest.mark.parametrize(
    "count", [100, pytest.param(10_000, marks=pytest.mark.slow)], ids=["some", "many"]
)
@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_as_documented(name, count, tmp_path, calls):
    reader = READERS[name]
    path = tmp_path / reader.name
    reader.prepare(path)
    valid, refused = reader.valid(), 0
    path.write_bytes(reader.wrap(valid[0]))
    reader.read(path)  # what is made at the first call is not counted
    for seed in range(count):
        path.write_bytes(damaged(reader, valid, seed))
        if seed % 1000 == 999:
            jax.clear_caches()  # a program for each shape of a codec's arrays
        with warnings.catch_warnings(), limited_memory():
            warnings.simplefilter("error" if seed % 2 else "ignore")
            # A damaged number may still be a class id, of which the user is told.
            warnings.filterwarnings("ignore", "class ids reach .* they are renumbered")
            # Of a bad line among good ones, too.
            warnings.filterwarnings("ignore", ".* lines could not be read and were moved")
            was_read, wrong = outcome(reader, path)
        assert not wrong, f"{name}, seed {seed}: {wrong}"
        assert not calls, f"{name}, seed {seed}: {calls}"
        refused += not was_read
    # Records of a run are never refused: what is damaged, and all after it, is dropped.
    least = 0 if name == "records of a run" else count / 10
    assert least <= refused < count, "all are read, or none is"
