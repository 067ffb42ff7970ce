"""Pickles that would run something, by every operation that can, run nothing in any reader."""

import contextlib
import io
import pickle
import sys

import numpy as np
import pytest

from quantjax.data import cifar10
from quantjax.models import weights
from quantjax.run import pickles
from tests.models import weight_files
from tests.models.weight_files import text

_MARK = b"MARK"  # stands for the path of a folder that what runs would make

# Operations that leave one value, having called `os.mkdir` or imported a module if they may.
RUNS = {
    "GLOBAL, REDUCE": b"cos\nmkdir\n" + _MARK + b"\x85R",
    "GLOBAL by its own module": b"cposix\nmkdir\n" + _MARK + b"\x85R",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x05mkdir\x93" + _MARK + b"\x85R",
    "STACK_GLOBAL of recalled text": b"\x8c\x02osq\x000\x8c\x05mkdirq\x010h\x00h\x01\x93"
    + _MARK
    + b"\x85R",
    "INST": b"(" + _MARK + b"ios\nmkdir\n",
    "OBJ": b"(cos\nmkdir\n" + _MARK + b"o",
    "eval": b"cbuiltins\neval\n" + text("__import__('hostile_module')") + b"\x85R",
    "exec": b"cbuiltins\nexec\n" + text("import hostile_module") + b"\x85R",
    "import by a global": b"chostile_module\nanything\n",
    "import by a class": b"(ihostile_module\nanything\n",
    "getattr": b"cbuiltins\ngetattr\ncos\nopen\n"
    + text("__self__")
    + b"\x86R0cos\nmkdir\n"
    + _MARK
    + b"\x85R",
    "BUILD": b"cos\nmkdir\n" + _MARK + b"\x85R}" + text("a") + b"K\x01sb",
    "REDUCE in a persistent id": b"(" + text("storage") + b"cos\nmkdir\n" + _MARK + b"\x85Rt",
    "copyreg": b"ccopyreg\n_reconstructor\ncos\nmkdir\n" + _MARK + b"\x86R",
    "NEWOBJ": b"cos\nmkdir\n" + _MARK + b"\x85\x81",
    "NEWOBJ_EX": b"cos\nmkdir\n" + _MARK + b"\x85}\x92",
}
# What only our reader could get wrong: globals that it allows, called or set up otherwise.
OTHERS = {
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "PERSID": b"Pos\n",
    "BINPERSID": text("os.mkdir") + b"Q",
    "BINPERSID of a call": b"(" + text("storage") + b"cos\nmkdir\nt" + b"Q",
    "an array's class called": b"cnumpy\nndarray\n)R",
    "an array's class made": b"cnumpy\nndarray\n)\x81",
    "an array's class set up": b"cnumpy\nndarray\n}" + text("__new__") + b"Nsb",
    "an attribute of an array's class": b"cnumpy\nndarray.__class__\n)R",
    "object pointers": b"cnumpy\ndtype\n" + text("O8") + b"\x85R",
    "no text for a type": b"cnumpy\ndtype\n]\x85R",
    "no type at all": b"cnumpy\ndtype\n)R",
    "a type from a dict": b"cnumpy\ndtype\n}\x85R",
    "an array of another class": b"cnumpy.core.multiarray\n_reconstruct\ncos\nmkdir\n\x85R",
    "an array of text": b"cnumpy.core.multiarray\n_reconstruct\n" + text("os") + b"\x85R",
    "another encoding": b"c_codecs\nencode\n" + text("a") + text("zip") + b"\x86R",
    "a decoder": b"c_codecs\ndecode\n" + text("a") + text("zip") + b"\x86R",
    "bytes of a size": b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R",
    "an ordered dict of a call": b"ccollections\nOrderedDict\ncos\nmkdir\n\x85R",
    "a tensor of nothing": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "a tensor of a dict": b"ctorch._utils\n_rebuild_tensor_v2\n(}K\x00))\x89}tR",
    "a storage called": b"ctorch\nFloatStorage\nK\x01\x85R",
    "a module's loader": b"ctorch.storage\n_load_from_bytes\n" + text("a") + b"\x85R",
    "the next buffer": b"\x97",
    "a read-only buffer": b"N\x98",
    "a set": b"\x8f(K\x01\x90",
}


def _batch(program: bytes, path) -> None:
    folder = path.parent / "cifar-10-batches-py"
    folder.mkdir()
    empty = pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [0]})
    for name in (*(f"data_batch_{number}" for number in range(2, 6)), "test_batch"):
        (folder / name).write_bytes(empty)
    (folder / "data_batch_1").write_bytes(program)
    cifar10(folder)


def _pickle(program: bytes, path) -> None:
    pickles.load(io.BytesIO(program), name=str(path))


def _weights(write):
    def read(program: bytes, path) -> None:
        path.write_bytes(write(weight_files.entries({"x": program[2:-1]}), {}))
        weights.read(path)

    return read


READERS = {
    "pickle": _pickle,
    "CIFAR": _batch,
    "pth zip": _weights(weight_files.zipped),
    "pth legacy": _weights(weight_files.legacy),
}


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Whether something ran: it would have made a folder, or imported a module."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "hostile_module.py").write_text("anything = object\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "hostile_module", raising=False)
    yield lambda: (tmp_path / "ran").exists() or "hostile_module" in sys.modules
    sys.modules.pop("hostile_module", None)


def program(operations: bytes, tmp_path) -> bytes:
    return weight_files.program(operations.replace(_MARK, text(str(tmp_path / "ran"))))


@pytest.mark.parametrize("name", [name for name in RUNS if not name.startswith(("copyreg", "NEW"))])
def test_they_do_run_where_nothing_is_refused(name, tmp_path, ran):
    assert not ran()
    with contextlib.suppress(AttributeError, TypeError):  # of what follows the call
        pickle.loads(program(RUNS[name], tmp_path))
    assert ran()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", RUNS | OTHERS)
def test_they_run_in_no_reader(name, reader, tmp_path, ran):
    content = program((RUNS | OTHERS)[name], tmp_path)
    with pytest.raises(ValueError, match=r"^cannot read .*: .*; ") as caught:
        READERS[reader](content, tmp_path / "file")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not ran()
