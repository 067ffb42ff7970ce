import io
import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from quantjax.run.pickles import load

# {"data": uint8 [[0, 1, 2], [128, 255, 97]], "labels": [1, 2]} as Python 2 and old numpy wrote it.
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04"
    b"K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07"
    b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x02\x80\xffatb"
    b"U\x06labelsq\x09]q\x0a(K\x01K\x02eu."
)
CONTENT = {
    "data": np.arange(24, dtype=np.uint8).reshape(4, 6),
    b"labels": [1, 2, 3],
    "numbers": (1.5, None, True, -70_000, 2**80),
    "fortran": np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3)),
    "empty": np.zeros((0, 3), bool),
    "text": "é\n\\x",
    "nested": [{"a": ()}, [[]], b""],
}


class Runs:
    """Unpickling this runs a command."""

    def __reduce__(self):
        return os.system, ("echo it ran",)


class Subclass(np.ndarray):
    pass


def read(content: bytes, **keywords):
    return load(io.BytesIO(content), name="file.pkl", **keywords)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_come_back_from_every_protocol(protocol):
    loaded = read(pickle.dumps(CONTENT, protocol))
    assert list(loaded) == list(CONTENT)
    for key, value in CONTENT.items():
        np.testing.assert_equal(loaded[key], value)
        assert type(loaded[key]) is type(value)
        assert getattr(loaded[key], "shape", None) == getattr(value, "shape", None)


def test_python_2_pickle_comes_back():
    loaded = read(PYTHON_2)
    np.testing.assert_array_equal(loaded["data"], [[0, 1, 2], [128, 255, 97]])
    assert loaded["data"].dtype == np.uint8
    assert loaded["labels"] == [1, 2]


def test_one_array_named_twice_is_one_array():
    array = np.arange(3)
    first, second = read(pickle.dumps([array, array]))
    assert first is second


def test_stream_is_left_behind_the_pickle():
    stream = io.BytesIO(pickle.dumps([1], 2) + pickle.dumps("two", 2) + b"rest")
    assert load(stream, name="x") == [1]
    assert load(stream, name="x") == "two"
    assert stream.read() == b"rest"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_call_is_refused_by_name_and_does_not_run(protocol, capfd):
    with pytest.raises(ValueError, match=r"file\.pkl: refused global '(posix|nt) system'.*anew"):
        read(pickle.dumps(Runs(), protocol))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            pickle.dumps(np.array([None, 1], object)),
            "refused dtype 'O8', only booleans and numbers",
        ),
        (pickle.dumps([1], 0), "refused an operation"),
        (pickle.dumps(np.zeros(2, "i4,f4")), "refused dtype 'V8'"),
        (pickle.dumps(np.zeros(2, "M8[s]")), "refused dtype 'M8'"),
        (pickle.dumps(np.zeros(2).view(Subclass), 2), "refused global .*Subclass"),
        (pickle.dumps({1, 2}), "refused an operation"),
        (pickle.dumps(np.float32(1)), "refused global 'numpy.* scalar'"),
        (pickle.dumps(b"x", 2).replace(b"latin1", b"utf-16"), "encoded, and only as 'latin1'"),
        (b"\x80\x02cnumpy\ndtype\n}U\x01aK\x01sb.", "refused to set attributes of function"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "refused a call"),
        (b"\x80\x02U\x01aU\x01b\x86)R.", "refused a call"),
        (b"\x80\x02}(U\x01a\x85K\x01u.", "a key of a dict must be text or a number"),
        (b"\x80\x02}\x8a\x08" + b"\0" * 7 + b"\x10K\x01s.", "a number of at most 60 bits"),
        (b"\x80\x02}\x8a\x08" + b"\0" * 7 + b"\xf0K\x01s.", "a number of at most 60 bits"),
        (b"\x80\x02]p1152921504606846976\n.", "refused an operation"),
        (b"\x80\x02}K\x01a.", "'dict' object has no attribute 'append'"),
        (b"\x80\x02]K\x01K\x02s.", "items are set in list, not in a dict"),
        (b"\x80\x02K\x01Q.", "refused a persistent id"),
        (b"\x80\x02h\x07.", "Memo value not found at index 7"),
        (b"\x80\x02\x86.", "list index out of range"),
        (b"", "EOFError"),
        (b"\xff", "refused an operation"),
        (PYTHON_2[:-40], "unpack requires a buffer"),
        (
            PYTHON_2.replace(b"K\x02K\x03\x86", b"K\x09K\x03\x86"),
            r"\[9, 3\] of uint8 takes 27 bytes",
        ),
        (
            PYTHON_2.replace(b"K\x02K\x03\x86", b"K\x02G?\xf0" + b"\0" * 6 + b"\x86"),
            "whole numbers",
        ),
        (
            PYTHON_2.replace(b"K\x02K\x03\x86", b"K\x02\x8a\x80" + b"\1" * 128 + b"\x86"),
            "whole numbers",
        ),
        (PYTHON_2.replace(b"U\x06\x00\x01\x02\x80\xffa", b"N"), "must be bytes, got NoneType"),
        (PYTHON_2.replace(b"U\x01|NNN", b"U\x01|K\x01NN"), "refused a structured dtype"),
        *(
            (
                PYTHON_2.replace(b"U\x01|NNN", b"U" + bytes([len(order)]) + order + b"NNN"),
                "byte order of a dtype must be",
            )
            for order in (b"O,|", b"(6,)", b"", b"|O8,")
        ),
        (PYTHON_2.replace(b"U\x01|NNN", b"]NNN"), "byte order of a dtype must be"),
    ],
)
def test_what_is_not_arrays_and_containers_is_refused(content, message):
    with pytest.raises(ValueError, match=r"^cannot read file\.pkl: ") as caught:
        read(content)
    assert caught.match(message)
    assert caught.match("fetch it anew from its source$")


def test_an_array_without_content_is_refused():
    head = PYTHON_2[: PYTHON_2.index(b"q\x05(K\x01K\x02K\x03")]
    with pytest.raises(ValueError, match="an array has no content"):
        read(head + b"u.")


def test_a_false_length_claims_no_memory():
    with pytest.raises(ValueError, match="cannot read"):
        read(b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.")
    with pytest.raises(ValueError, match="cannot read"):
        read(b"\x80\x02]r" + struct.pack("<I", 2**32 - 1) + b"h\x00.")


@pytest.mark.slow
def test_a_file_that_fills_the_memory_ends_in_one_line():
    pytest.importorskip("resource")
    # A text of 1 MB that is encoded a million times: each call makes bytes of their own.
    program = """
import io, resource, struct
from quantjax.run.pickles import load

def text(value):
    return b"X" + struct.pack("<I", len(value)) + value

head = b"\\x80\\x02](" + text(b"a" * 10**6) + b"q\\x00" + text(b"latin1") + b"q\\x01"
head += b"c_codecs\\nencode\\nq\\x02"
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    load(io.BytesIO(head + b"h\\x02h\\x00h\\x01\\x86R" * 10**6 + b"e."), name="file.pkl")
except ValueError as error:
    print(error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout.startswith("cannot read file.pkl: it takes more memory than there is; ")
    assert ended.stdout.count("\n") == 1


def test_numbers_of_a_million_digits_are_not_multiplied():
    number = b"\x8b" + struct.pack("<i", 500_000) + b"\x7f" * 500_000
    shape = b"(" + number + b"q\x09" + b"h\x09" * 7 + b"t"
    with pytest.raises(ValueError, match="the axes of an array must be whole numbers"):
        read(PYTHON_2.replace(b"K\x02K\x03\x86", shape))


def test_hostile_nesting_is_harmless():
    depth = 200_000
    with pytest.raises(ValueError, match="a key of a dict"):
        read(b"\x80\x02})" + b"\x85" * depth + b"K\x01s.")
    assert type(read(b"\x80\x02)" + b"\x85" * depth + b".")) is tuple


def test_numbers_of_60_bits_are_keys():
    content = {2**60 - 1: "a", -(2**60) + 1: "b", 1.5: "c"}
    assert read(pickle.dumps(content, 2)) == content


def test_persistent_ids_and_more_globals_reach_the_reader_that_allows_them():
    content = b"\x80\x02ctorch\nFloatStorage\nU\x017\x86Qcmodule\nmake\nK\x05\x85R\x86."
    loaded = read(
        content,
        allowed={"torch FloatStorage": "f4", "module make": lambda number: number + 1},
        persistent_load=lambda pid: pid,
    )
    assert loaded == (("f4", "7"), 6)


def test_attributes_of_an_ordered_dict_are_dropped():
    ordered = b"\x80\x02ccollections\nOrderedDict\n)RU\x01aK\x01s}U\x09_metadataK\x00sb."
    assert read(ordered, allowed={"collections OrderedDict": dict}) == {"a": 1}


def mutate(rng: np.random.Generator, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(len(changed) + 1))
        match rng.integers(4):
            case 0:
                changed[place : place + 1] = rng.bytes(1)
            case 1:
                del changed[place:]
            case 2:
                changed[place:place] = rng.bytes(3)
            case 3:
                start = int(rng.integers(len(content)))
                changed[place:place] = content[start : start + 20]
    return bytes(changed)


@pytest.mark.parametrize("seed", [PYTHON_2, *(pickle.dumps(CONTENT, p) for p in (2, 4, 5))])
def test_damaged_bytes_raise_nothing_but_value_errors(rng, seed):
    messages = []
    for _ in range(100):
        try:
            read(mutate(rng, seed))
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(message.startswith("cannot read file.pkl: ") for message in messages)
