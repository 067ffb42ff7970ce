"""An encoder in a folder gives the codes of the functions it was saved from, and needs no more."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from quantjax import data, index
from quantjax.errors import FileError, InputError, MissingFileError, QuantjaxError
from quantjax.index import exporting
from quantjax.quantizers import (
    BinaryCodec,
    ClassCodec,
    FloatCodec,
    ProductCodec,
    ResidualCodec,
)
from quantjax.run import sealing

ROW = (6, 5, 3)
PHOTO = jax.ShapeDtypeStruct(ROW, np.uint8)


def embed(weights, x):
    flat = x.reshape(len(x), -1) / jnp.float32(255) - 0.5
    return jnp.tanh(flat @ weights["net"]["kernel"] + weights["net"]["bias"])


def embed_query(weights, x):
    return embed(weights, x) * weights["scale"]


def network_weights(rng):
    return {
        "net": {
            "kernel": jnp.asarray(rng.normal(size=(90, 8)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=8), jnp.float32),
        },
        "scale": jnp.float32(3),
        "table": jnp.zeros((100_000, 8)),
        "key": jax.random.key(0),
    }


def product_codec(rng, rotation=None):
    return ProductCodec(jnp.asarray(rng.normal(size=(4, 16, 2)), jnp.float32), rotation, "cosine")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Weights, codec and folder of an encoder of both sides."""
    rng = np.random.default_rng(0)
    weights, codec = network_weights(rng), product_codec(rng)
    folder = tmp_path_factory.mktemp("run") / "encoder"
    index.save_encoder(
        folder,
        embed=embed,
        embed_query=embed_query,
        weights=weights,
        codec=codec,
        example=PHOTO,
        classes=("cat", "dog"),
        photos=index.Preparation(),
        licence="Apache-2.0",
        about={"experiment": "toy"},
    )
    return weights, codec, folder


@pytest.fixture(scope="module")
def encoder(made):
    """The encoder of `made`, whose programs are compiled once."""
    return index.load_encoder(made[2])


@pytest.fixture
def photos(rng):
    return rng.integers(0, 256, (300, *ROW), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 16, 17, 64, 65, 128, 129, 300])
@pytest.mark.by_default("1", "17", "129")
def test_any_number_of_rows_gives_the_embeddings_and_codes_of_the_functions(
    made, encoder, photos, count
):
    (weights, codec, _), x = made, photos[:count]
    due, due_query = embed(weights, x), embed_query(weights, x)
    np.testing.assert_allclose(encoder.embed(x), due, atol=1e-5)
    np.testing.assert_allclose(encoder.embed_query(x), due_query, atol=3e-5)
    codes = encoder(x)
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, codec.encode(encoder.embed(x)))


def test_no_rows_give_no_codes(encoder):
    assert encoder(np.zeros((0, *ROW), np.uint8)).shape == (0, 2)
    assert encoder.embed([]).shape == encoder.embed_query([]).shape == (0, 8)


def test_up_to_64_rows_take_a_small_program(made, photos):
    encoder, taken = index.load_encoder(made[2]), []
    for name, program in encoder.programs.items():
        encoder.programs[name] = lambda *args, name=name, run=program: (
            taken.append(name) or run(*args)
        )
    for count in (2, 5, 64, 65):
        encoder(photos[:count])
    assert [(name, taken.count(name)) for name in dict.fromkeys(taken)] == [
        ("embed.1.bin", 2), ("embed.16.bin", 1 + 4), ("embed.128.bin", 1),
    ]  # fmt: skip


def test_programs_are_lowered_for_three_platforms_and_hold_no_weights(made):
    _, _, folder = made
    for side in ("embed", "embed_query"):
        for rows in (1, 16, 128):
            content = (folder / exporting.program_file(side, rows)).read_bytes()
            exported = jax.export.deserialize(bytearray(content))
            assert exported.platforms == ("cpu", "cuda", "tpu")
            assert exported.in_avals[-1].shape == (rows, *ROW)
            # The kernel alone takes 2,880 bytes as a constant, which compresses badly.
            assert not {each.shape for each in exported.in_avals} - {
                (90, 8),
                (8,),
                (),
                (4, 16, 2),
                (rows, *ROW),
            }
    assert len(exported.serialize()) < 8000


def test_only_the_weights_that_embedding_uses_are_written(made):
    tensors = load_file(made[2] / "weights.safetensors")
    assert sorted(tensors) == ["codec.codebooks", "net/bias", "net/kernel", "scale"]


def test_the_manifest_says_what_the_encoder_is(made):
    _, codec, folder = made
    encoder, manifest = (
        index.load_encoder(folder),
        json.loads((folder / "encoder.json").read_text()),
    )
    assert (encoder.classes, encoder.licence, encoder.input) == (
        ("cat", "dog"),
        "Apache-2.0",
        "photos",
    )
    assert (encoder.row_shape, encoder.digest) == (ROW, manifest["digest"])
    assert (encoder.codec.metric, encoder.codec.bits) == (codec.metric, codec.bits)
    assert manifest["jax"] == jax.__version__
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    assert manifest["about"] == {"experiment": "toy"}
    assert {*manifest["files"]} | {"encoder.json"} == {path.name for path in folder.iterdir()}
    assert "photos (6, 5, 3)" in repr(encoder)


def test_equal_weights_give_an_equal_digest_and_others_another(rng, tmp_path):
    codec = FloatCodec(3)
    digests = []
    for scale in (1.0, 1.0, 2.0):
        index.save_encoder(
            tmp_path / "encoder",
            embed=lambda w, x: x * w,
            weights=jnp.float32(scale),
            codec=codec,
            example=jax.ShapeDtypeStruct((3,), np.float32),
        )
        digests.append(index.load_encoder(tmp_path).digest)
    assert digests[0] == digests[1] != digests[2]
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def codecs_of_8(rng):
    rotation = jnp.asarray(np.linalg.qr(rng.normal(size=(8, 8)))[0], jnp.float32)
    yield product_codec(rng, rotation)
    yield BinaryCodec(8, offset=jnp.asarray(rng.normal(size=8), jnp.float32), projection=rotation)
    yield ResidualCodec(jnp.asarray(rng.normal(size=(2, 16, 8)), jnp.float32), beam_width=3)
    yield FloatCodec(8, metric="ip")
    yield ClassCodec(8)


@pytest.mark.parametrize("number", range(5))
def test_vectors_are_encoded_by_every_codec(rng, tmp_path, number):
    codec = [*codecs_of_8(rng)][number]
    index.save_encoder(
        tmp_path,
        embed=lambda weights, x: x @ weights,
        weights=jnp.asarray(rng.normal(size=(5, 8)), jnp.float32),
        codec=codec,
        example=jax.ShapeDtypeStruct((5,), np.float32),
    )
    encoder = index.load_encoder(tmp_path)
    x = rng.normal(size=(20, 5))
    np.testing.assert_array_equal(encoder(x), codec.encode(encoder.embed(x)))
    np.testing.assert_array_equal(encoder.embed_query(x), encoder.embed(x))
    with pytest.raises(InputError, match=r"takes arrays of vectors .*, no files"):
        encoder(["a.jpg"])


PROGRAM = """
import sys
import numpy as np
from quantjax import index
encoder = index.load_encoder(sys.argv[1])
np.save(sys.argv[2], encoder(np.load(sys.argv[2])))
roots = {name.split(".")[0] for name in sys.modules}
print(sorted(roots & {"flax", "orbax", "ml_collections", "optax", "absl", "PIL", "experiments"}))
"""


def test_an_encoder_needs_no_framework_and_no_experiment(made, encoder, photos, tmp_path):
    x = tmp_path / "x.npy"
    np.save(x, photos)
    # From another folder, so that neither tests nor experiments could be imported.
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(made[2].parent), str(x)],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert out.stdout.strip() == "[]"
    np.testing.assert_array_equal(np.load(x), encoder(photos))


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """The folder of an encoder whose embedding is the mean colour of a square of 8 pixels."""
    folder = tmp_path_factory.mktemp("squares")
    index.save_encoder(
        folder,
        embed=lambda weights, x: x.astype(jnp.float32).mean((1, 2)) * weights,
        weights=jnp.float32(1),
        codec=FloatCodec(3),
        example=jax.ShapeDtypeStruct((8, 8, 3), np.uint8),
        photos=index.Preparation(8),
    )
    return folder


def write_photos(folder, rng, count=6):
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return paths


def test_files_are_prepared_as_the_photos_of_training_were(squares, rng, tmp_path):
    encoder, paths = index.load_encoder(squares), write_photos(tmp_path, rng)
    rows = np.stack([encoder.read(path) for path in paths])
    np.testing.assert_array_equal(rows, data.from_photos(paths, size=8)[np.arange(6)]["image"])
    np.testing.assert_array_equal(encoder(paths), encoder(rows))
    np.testing.assert_array_equal(encoder(tuple(map(str, paths))), encoder(rows))


def test_an_unreadable_file_is_named_in_one_line(squares, rng, tmp_path):
    encoder, paths = index.load_encoder(squares), write_photos(tmp_path, rng)
    paths[4].write_bytes(b"no photo")
    with pytest.raises(InputError, match=rf"^cannot read photo {paths[4]}: cannot identify[^\n]*$"):
        encoder(paths)


def test_grey_photos_of_one_size_are_read_as_they_are(rng, tmp_path):
    index.save_encoder(
        tmp_path / "encoder",
        embed=lambda weights, x: x.astype(jnp.float32).mean((1, 2)) * weights,
        weights=jnp.float32(1),
        codec=FloatCodec(1),
        example=jax.ShapeDtypeStruct((20, 30, 1), np.uint8),
        photos=index.Preparation(mode="L"),
    )
    encoder, (path,) = index.load_encoder(tmp_path), write_photos(tmp_path, rng, 1)
    np.testing.assert_array_equal(encoder.read(path)[..., 0], Image.open(path).convert("L"))
    Image.new("L", (30, 21)).save(path)
    with pytest.raises(InputError, match=r"must be of \(20, 30, 1\), got \(21, 30, 1\)"):
        encoder([path])


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (
            np.zeros((2, 6, 5, 3)),
            r"photos must be uint8 \[N, 6, 5, 3\], got float64 \(2, 6, 5, 3\)",
        ),
        (np.zeros(ROW, np.uint8), r"photos must be uint8 \[N, 6, 5, 3\], got uint8 \(6, 5, 3\)"),
        ("a.png", r"photos must be uint8 \[N, 6, 5, 3\], got <U5 \(\)"),
    ],
)
def test_photos_of_another_shape_or_type_raise(encoder, x, match):
    with pytest.raises(InputError, match=match):
        encoder(x)


def vectors_encoder(folder):
    index.save_encoder(
        folder,
        embed=lambda weights, x: x * weights,
        weights=jnp.float32(1),
        codec=FloatCodec(2),
        example=jax.ShapeDtypeStruct((2,), np.float32),
    )
    return folder


def test_vectors_that_are_not_finite_raise(tmp_path):
    encoder = index.load_encoder(vectors_encoder(tmp_path / "encoder"))
    with pytest.raises(InputError, match="vectors must be finite, got NaN or infinity in row 1"):
        encoder([[0.0, 1], [np.nan, 0]])


def test_a_folder_without_an_encoder_raises_with_the_remedy(tmp_path):
    match = "has no encoder; `quantjax export-encoder RUN` writes it anew from a run"
    with pytest.raises(MissingFileError, match=match):
        index.load_encoder(tmp_path)


@pytest.mark.parametrize("name", ["weights.safetensors", "embed.16.bin", "embed.1.bin"])
@pytest.mark.parametrize(
    "change", [lambda raw: raw[:-1], lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])]
)
def test_a_cut_or_altered_file_raises(tmp_path, name, change):
    folder = vectors_encoder(tmp_path / "encoder")
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    match = (
        f"cannot read the encoder in .*: {name} is cut or altered; `quantjax export-encoder RUN`"
    )
    with pytest.raises(InputError, match=match):
        index.load_encoder(folder)


def test_a_missing_program_raises(tmp_path):
    folder = vectors_encoder(tmp_path / "encoder")
    (folder / "embed.16.bin").unlink()
    with pytest.raises(FileError, match="cannot read the encoder in"):
        index.load_encoder(folder)


def changed(folder, **entries):
    path = folder / "encoder.json"
    about = sealing.unsealed(json.loads(path.read_text()))
    path.write_text(json.dumps(sealing.sealed({**about, **entries})))


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ({"version": 2}, "must be quantjax-encoder version 1, got quantjax-encoder version 2"),
        ({"format": "other"}, "must be quantjax-encoder version 1, got other version 1"),
        (
            {"calling_convention_version": 99},
            "runs programs of calling conventions .*, got 99; `quantjax",
        ),
        ({"settings": {}}, "cannot read the encoder in"),
        ({"sides": ["nonsense"]}, "cannot read the encoder in"),
    ],
)
def test_a_manifest_of_another_version_or_content_raises(tmp_path, entries, match):
    folder = vectors_encoder(tmp_path / "encoder")
    changed(folder, **entries)
    with pytest.raises(QuantjaxError, match=match):
        index.load_encoder(folder)


def test_an_altered_manifest_raises(tmp_path):
    folder = vectors_encoder(tmp_path / "encoder")
    text = (folder / "encoder.json").read_text()
    (folder / "encoder.json").write_text(text.replace('"dim": 2', '"dim": 3'))
    with pytest.raises(InputError, match="what it says of itself is not what was saved"):
        index.load_encoder(folder)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"example": jax.ShapeDtypeStruct((2, 2), np.float32)}, r"must be .*, got .* \(2, 2\)"),
        ({"photos": index.Preparation()}, r"must be a photo \(H, W, C\) uint8, got .* \(2,\)"),
        ({"embed": lambda weights, x: x[0]}, r"embed must return \[1, D\], got \(2,\)"),
        ({"embed_query": lambda weights, x: x[:, :1]}, r"must be of one width, got \[1, 2\]"),
        ({"codec": object()}, "no format for object"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_raise_and_leave_the_folder_alone(tmp_path, options, match):
    folder = vectors_encoder(tmp_path / "encoder")
    before = index.load_encoder(folder).digest
    good = {
        "embed": lambda weights, x: x * weights,
        "weights": jnp.float32(1),
        "codec": FloatCodec(2),
        "example": jax.ShapeDtypeStruct((2,), np.float32),
    }
    with pytest.raises(InputError, match=match):
        index.save_encoder(folder, **{**good, **options})
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
    assert index.load_encoder(folder).digest == before


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("42")
    with pytest.raises(InputError, match="is not empty and holds no encoder; choose another"):
        vectors_encoder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
