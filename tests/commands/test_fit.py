"""`quantjax fit` leaves an encoder of vectors whose codes are those of the codec in Python."""

import json

import numpy as np
import pytest

from quantjax import cli, data, index, recipes

DIM, ROWS = 10, 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Vectors of ten classes, and their labels."""
    folder = tmp_path_factory.mktemp("fit")
    rng = np.random.default_rng(0)
    class_ids = np.arange(ROWS) % 10
    x = 3 * rng.normal(size=(10, DIM))[class_ids] + rng.normal(size=(ROWS, DIM))
    np.save(folder / "x.npy", x.astype(np.float32))
    np.save(folder / "labels.npy", class_ids)
    return folder


def run(capsys, *arguments):
    """Runs the command line; returns its standard output."""
    cli.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(("name", "fit"), recipes.CODECS.items(), ids=recipes.CODECS)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.by_default("l2-rq", "l2-pq", "cosine-itq")
def test_codes_are_those_of_the_codec(folder, tmp_path, capsys, name, fit, metric):
    out = tmp_path / "codec"
    options = ("--bits=9", f"--codec={name}", f"--metric={metric}")
    text = run(capsys, "fit", folder / "x.npy", "-o", out, *options)
    x = np.load(folder / "x.npy")
    codec = fit(x, bits=9, metric=metric)
    kind = "hamming" if name == "itq" else metric
    due = f"9 bits by {kind}, fitted to 300 of 300 vectors of 10 numbers, are in {out}\n"
    progress, said, _ = text.rpartition(due)
    assert said
    # Networks tell how far they are, on a slow machine with a rate.
    assert not progress or (name == "neural_rq" and "epochs: 30/30" in progress)
    encoder = index.load_encoder(out)
    assert encoder.input == "vectors"
    embedded = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
    # Nine bits are three codebooks of eight codewords, whose width divides no ten.
    width = 12 if name in ("pq", "opq") else 10
    embedded = np.pad(embedded, ((0, 0), (0, width - 10)))
    np.testing.assert_allclose(encoder.embed(x), embedded, atol=1e-5)
    assert np.mean(encoder(x) != np.asarray(codec.encode(embedded))) < 0.01


def test_labels_give_codes_whose_neighbours_share_them(folder, tmp_path, capsys):
    out = tmp_path / "codec"
    labels = f"--labels={folder / 'labels.npy'}"
    text = run(capsys, "fit", folder / "x.npy", "-o", out, "--bits=8", labels, "--json")
    assert json.loads(text) == {
        "encoder": str(out), "bits": 8, "metric": "ip", "rows": ROWS, "of": ROWS
    }  # fmt: skip
    encoder = index.load_encoder(out)
    assert encoder.classes == tuple(map(str, range(10)))
    x, class_ids = np.load(folder / "x.npy"), np.load(folder / "labels.npy")
    distances = np.asarray(encoder.codec.distances(encoder.embed_query(x), encoder(x)))
    nearest = np.argsort(distances, axis=1)[:, :10]
    assert np.mean(class_ids[nearest] == class_ids[:, None]) > 0.95


@pytest.mark.parametrize(("name", "width"), [("pq", 2), ("opq", 2), ("rq", 10), ("neural_rq", 10)])
@pytest.mark.by_default("pq-2", "opq-2")
def test_codebooks_have_the_codewords_that_were_asked_for(folder, tmp_path, capsys, name, width):
    out = tmp_path / "codec"
    options = ("--bits=20", f"--codec={name}", "--num_codewords=16", "--json")
    run(capsys, "fit", folder / "x.npy", "-o", out, *options)
    assert index.load_encoder(out).codec.codebooks.shape == (5, 16, width)


def test_a_sample_of_rows_is_fitted_to(folder, tmp_path, capsys):
    out = tmp_path / "codec"
    run(capsys, "fit", folder / "x.npy", "-o", out, "--bits=8", "--codec=pq", "--sample=100")
    x = np.load(folder / "x.npy")
    codec = recipes.pq(x[recipes.sample(x, 100, seed=0)], bits=8)
    found = index.load_encoder(out)
    np.testing.assert_allclose(found.codec.codebooks, codec.codebooks, atol=1e-6)
    assert found.manifest["about"] == {"rows": 100}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--codec=itq", "--metric=ip"], "itq compares by Hamming distance, metric must be l2 or"),
        (["--codec=itq", "--bits=11"], "num_bits must be between 1 and D = 10, got 11"),
        (["--bits=0"], "codes need a bit and 2 rows at least, got 0 and 300"),
        (
            ["--codec=itq", "--num_codewords=16"],
            "--num_codewords does not go with itq, whose codes",
        ),
        (["--labels=LABELS", "--num_codewords=16"], "--num_codewords does not go with --labels"),
        (["--bits=8", "--num_codewords=8"], "bits must be a multiple of log2 num_codewords, got 8"),
        (["--bits=8", "--num_codewords=7"], "num_codewords must be a power of two, got 7"),
        (["--bits=8", "--num_codewords=0"], "num_codewords must be between 2 and 256, got 0"),
        (["--labels=LABELS", "--codec=pq"], "--codec does not go with --labels"),
        (["--labels=LABELS", "--metric=l2"], "--metric does not go with --labels"),
        (["--labels=x.npy"], "no file x.npy"),
        (["--sample=0"], "--sample must be 2 or more, got 0"),
    ],
)
def test_options_that_do_not_fit_say_so(folder, tmp_path, capsys, options, message):
    options = [each.replace("LABELS", str(folder / "labels.npy")) for each in options]
    status, text = refusal(capsys, "fit", folder / "x.npy", "-o", tmp_path / "codec", *options)
    assert (status, text.count("\n")) == (1, 1)
    assert message in text
    assert not (tmp_path / "codec").exists()


def test_nan_is_named_by_its_row(tmp_path, capsys):
    x = np.zeros((5, 4), np.float32)
    x[3, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    status, text = refusal(capsys, "fit", tmp_path / "x.npy", "-o", tmp_path / "codec")
    assert (status, text.count("\n")) == (1, 1)
    assert "row 3" in text


def test_labels_of_other_rows_say_so(folder, tmp_path, capsys):
    np.save(tmp_path / "labels.npy", np.arange(3))
    labels = f"--labels={tmp_path / 'labels.npy'}"
    status, text = refusal(capsys, "fit", folder / "x.npy", "-o", tmp_path / "codec", labels)
    assert (status, text) == (1, f"error: {tmp_path}/labels.npy must have 300 rows, got (3,)\n")


def test_a_folder_of_other_things_is_not_replaced(folder, capsys):
    status, text = refusal(capsys, "fit", folder / "x.npy", "-o", folder, "--codec=pq")
    assert (status, text) == (
        1, f"error: {folder} is no encoder, and would be lost; name another folder\n"
    )  # fmt: skip
    assert (folder / "x.npy").exists()


def test_big_files_of_vectors_are_fitted_too(tmp_path, capsys, rng):
    x = rng.integers(0, 256, (40, 4)).astype(np.uint8)
    rows = np.zeros(40, [("dim", "<i4"), ("x", "u1", 4)])
    rows["dim"], rows["x"] = 4, x
    rows.tofile(tmp_path / "x.bvecs")
    run(capsys, "fit", tmp_path / "x.bvecs", "-o", tmp_path / "codec", "--bits=4", "--codec=pq")
    encoder = index.load_encoder(tmp_path / "codec")
    assert encoder(np.asarray(data.read_vectors(tmp_path / "x.bvecs"))).shape == (40, 1)
