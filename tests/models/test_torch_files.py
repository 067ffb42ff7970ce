import pickle
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from quantjax.models import weights
from tests.models import weight_files
from tests.models.weight_files import Part, entries, legacy, tensor, text, zipped

WRITERS = {"zip": zipped, "legacy": legacy}
KINDS = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@pytest.fixture(params=list(WRITERS))
def write(request):
    return WRITERS[request.param]


@pytest.fixture
def read(tmp_path):
    def read_content(content):
        (tmp_path / "file.pth").write_bytes(content)
        return weights.read(tmp_path / "file.pth")

    return read_content


def assert_equal(tensors, due):
    assert list(tensors) == list(due)
    for key, value in due.items():
        assert (tensors[key].dtype, tensors[key].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(tensors[key], value)


def one(part, **keywords):
    return entries({"x": tensor(part, **keywords)})


def test_views_of_shared_storages_come_back(write, read):
    value, storages, due = weight_files.example()
    assert_equal(read(write(value, storages)), due)


@pytest.mark.parametrize("pairs", [b"}", b"]((K\x01K\x02te", b"]((" + text("x") + b"te", b"]]a"])
def test_an_ordered_dict_takes_a_list_of_pairs(write, read, pairs):
    value = b"ccollections\nOrderedDict\n" + pairs + b"\x85R"
    with pytest.raises(ValueError, match="an ordered dict must have a list of pairs"):
        read(write(value, {}))


@pytest.mark.parametrize("path", [("state_dict",), ("model",), ("state_dict", "model")])
def test_a_state_dict_inside_a_checkpoint_comes_back(write, read, path):
    value, storages, due = weight_files.example()
    for key in reversed(path):
        value = entries({"epoch": b"K\x07", key: value})
    assert_equal(read(write(value, storages)), due)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_storage_comes_back(write, read, kind):
    due = np.asarray([1, 0, 1, 1, 0], KINDS[kind])
    content = one(Part("0", kind, 5, 1, (2, 2), (2, 1)))
    keywords = {"width": due.itemsize} if write is legacy else {}
    assert_equal(
        read(write(content, {"0": due.tobytes()}, **keywords)), {"x": due[1:].reshape(2, 2)}
    )


def test_parameters_attributes_and_pairs_of_python_2_come_back(write, read):
    one_tensor = tensor(Part("0", "FloatStorage", 2, 0, (2,), (1,)))
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + one_tensor + b"\x88}tR"
    pairs = b"ccollections\nOrderedDict\n](](" + text("x") + parameter + b"ee\x85R"
    attributes = pairs + b"}(" + text("_metadata") + b"}ub"
    due = {"x": np.asarray([1, 2], np.float32)}
    assert_equal(read(write(attributes, {"0": due["x"].tobytes()})), due)


def test_a_part_of_a_storage_is_read_from_its_start(read):
    content = np.arange(6, dtype=np.float32)
    view = b"(" + text("1") + b"K\x02K\x03t"
    part = Part("0", "FloatStorage", 6, 1, (2,), (1,))
    assert_equal(read(legacy(one(part, view=view), {"0": content.tobytes()})), {"x": content[3:5]})
    with pytest.raises(ValueError, match="beyond its storage of 3 values"):
        read(legacy(one(part._replace(offset=2), view=view), {"0": content.tobytes()}))


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_that_torch_wrote_come_back(tmp_path, is_zip):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    base = torch.rand((6, 5, 4), generator=generator)
    tensors = {
        "base": base,
        "permuted": base.permute(2, 0, 1),
        "slice": base[1:4, ::2, 3],
        "parameter": torch.nn.Parameter(base[0]),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "double": base.double(),
        "int64": torch.arange(-4, 4),
        "uint8": torch.arange(9, dtype=torch.uint8),
        "bool": base > 0.5,
        "scalar": torch.tensor(3),
        "empty": torch.zeros((0, 7)),
    }
    norm = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4)).state_dict()
    for content in (tensors, norm, {"state_dict": norm, "epoch": 3, "best": 0.5}):
        path = tmp_path / "file.pth"
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        state = content.get("state_dict", content)
        read = weights.read(path)
        assert list(read) == list(state)
        for key, value in state.items():
            value = value.detach()
            is_bfloat16 = value.dtype == torch.bfloat16
            due = value.float().numpy() if is_bfloat16 else value.numpy()
            assert read[key].shape == due.shape
            assert read[key].dtype == (jnp.bfloat16 if is_bfloat16 else due.dtype)
            np.testing.assert_array_equal(read[key].astype(due.dtype), due)


@pytest.mark.parametrize(
    "call",
    [
        b"cposix\nsystem\n" + text("echo it ran") + b"\x85R",
        b"cbuiltins\neval\n" + text("print('it ran')") + b"\x85R",
        b"c__builtin__\ngetattr\n" + text("x") + text("y") + b"\x86R",
        b"ctorch.storage\n_load_from_bytes\nU\x01a\x85R",
        b"ctorchvision.models.resnet\nResNet\n)R",
        b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n)R",
    ],
)
def test_a_call_is_refused_by_name_and_does_not_run(write, read, call, capfd):
    with pytest.raises(ValueError, match=r"file\.pth: refused global '.*state_dict\(\)") as caught:
        read(write(entries({"x": call}), {}))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "operations",
    [
        b"ctorch\nFloatStorage\n)R",
        b"ctorch\nFloatStorage\n)\x81",
        b"iposix\nsystem\n",
        b"(" + text("echo") + b"o",
        b"\x82\x01",
    ],
)
def test_other_ways_to_call_are_refused(write, read, operations):
    with pytest.raises(ValueError, match="refused"):
        read(write(entries({"x": operations}), {}))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part("0", "FloatStorage", 2**38, 0, (2**38,), (1,)), "bytes, got 8"),
        (Part("0", "FloatStorage", 2, 0, (3,), (1,)), "beyond its storage of 2 values"),
        (Part("0", "FloatStorage", 2, 1, (2,), (1,)), "beyond its storage of 2 values"),
        (Part("0", "FloatStorage", 2, 0, (2**60,), (0,)), "beyond its storage of 2 values"),
        (Part("0", "FloatStorage", 2, 0, (2**62, 2**62, 0), (1, 1, 1)), "beyond its storage"),
        (Part("0", "FloatStorage", 2, 0, (2,), (-1,)), "whole numbers, 0 or more"),
        (Part("0", "FloatStorage", 2, -1, (1,), (1,)), "whole numbers, 0 or more"),
        (Part("0", "FloatStorage", 2, 0, (2**200,), (1,)), "whole numbers, 0 or more"),
        (Part("0", "FloatStorage", 2, 0, (1,) * 9, (1,) * 9), "up to 8 whole numbers"),
        (Part("0", "FloatStorage", -2, 0, (1,), (1,)), "a number of values"),
        (Part("0", "FloatStorage", 2**80, 0, (1,), (1,)), "takes 4.* bytes, got 8"),
        (Part("0", "FloatStorage", 3, 0, (1,), (1,)), "takes 12 bytes, got 8"),
        (Part("1", "FloatStorage", 2, 0, (1,), (1,)), "no storage '1'|not those that its tensors"),
    ],
)
def test_sizes_that_do_not_agree_are_refused_before_anything_is_made(write, read, part, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(write(one(part), {"0": np.zeros(2, np.float32).tobytes()}))
    assert "\n" not in str(caught.value)


def test_content_that_is_no_state_dict_is_named(write, read):
    with pytest.raises(ValueError, match="holds no state dict, but list"):
        read(write(b"]", {}))
    with pytest.raises(ValueError, match="holds int under 'epoch', not a tensor; due is"):
        read(write(entries({"epoch": b"K\x01"}), {}))


def test_archives_that_torch_does_not_write_are_refused(read, tmp_path):
    value, storages, _ = weight_files.example()
    with pytest.raises(ValueError, match="torch does not compress"):
        read(zipped(value, storages, zipfile.ZIP_DEFLATED))
    content = zipped(value, {"0": bytes(1000)})
    size = content.rindex(struct.pack("<II", 1000, 1000))
    with pytest.raises(ValueError, match="members are larger than the archive"):
        read(content[:size] + struct.pack("<II", 2**31, 2**31) + content[size + 8 :])
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a/b.txt", b"text")
    with pytest.raises(ValueError, match=r"torch\.save did not write it"):
        weights.read(tmp_path / "other.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a/data.pkl", weight_files.program(value))
        archive.writestr("a/byteorder", b"big")
    with pytest.raises(ValueError, match="big-endian machine"):
        weights.read(tmp_path / "other.zip")


def test_legacy_files_of_other_machines_are_refused(read):
    head = [weight_files.MAGIC, 1001, {**weight_files.MACHINE, "little_endian": False}]
    with pytest.raises(ValueError, match="by a little-endian machine"):
        read(b"".join(pickle.dumps(each, 2) for each in head))


def test_a_storage_of_two_sizes_is_refused(read):
    first, second = (Part("0", "FloatStorage", total, 0, (1,), (1,)) for total in (1, 2))
    value = entries({"a": tensor(first), "b": tensor(second)})
    with pytest.raises(ValueError, match="two sizes"):
        read(legacy(value, {"0": bytes(4)}))


def test_every_cut_of_a_file_is_refused(write, read):
    value, storages, _ = weight_files.example()
    content = write(value, storages)
    for length in range(0, len(content), 7):
        with pytest.raises(ValueError, match=r"file\.pth"):
            read(content[:length])


def damage(rng, content):
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        where = rng.integers(len(content))
        match rng.integers(4):
            case 0:
                content[where] = rng.integers(256)
            case 1:
                del content[where : where + rng.integers(1, 9)]
            case 2:
                content[where:where] = rng.bytes(rng.integers(1, 9))
            case _:
                content[where : where + 8] = struct.pack("<q", rng.choice([-1, 2**62, 2**31, 0]))
    return bytes(content)


@pytest.mark.parametrize(
    "count", [100, pytest.param(3334, marks=pytest.mark.slow)], ids=["some", "many"]
)
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damaged_files_read_or_raise_as_documented(read, rng, kind, count, capfd):
    value, storages, due = weight_files.example()
    if kind == "safetensors":
        content = weight_files.safetensors(
            {key: ("F32", array.shape, array.tobytes()) for key, array in due.items()}
        )
    else:
        content = WRITERS[kind](value, storages)
    for _ in range(count):
        try:
            tensors = read(damage(rng, content))
        except ValueError as error:
            assert "file.pth" in str(error)  # noqa: PT017
            continue
        assert sum(array.size for array in tensors.values()) <= 4 * len(content)
    assert capfd.readouterr().out == ""
