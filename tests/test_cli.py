"""The command line: what it converts, exit codes, one clear line."""

import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from quantjax import cli, data, methods, models, parallel, train
from quantjax.data import record_writer
from tests import toy

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("grain")


@pytest.fixture
def folder(tmp_path, rng):
    for name in ("ant/a.png", "ant/b.png", "cat/a.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 6 + 2 * (name[4] == "b"), 3), np.uint8)).save(path)
    return tmp_path / "photos"


def refusal(capsys, *arguments):
    """Returns the exit status and the line on standard error."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    return caught.value.code, capsys.readouterr().err


def test_records_of_a_folder(folder, tmp_path, capsys):
    cli.main(["records", str(folder), str(tmp_path / "out"), "--shards=2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["photos: 3/3", f"3 photos of 2 classes are in {tmp_path / 'out'}"]
    assert len(list((tmp_path / "out").glob("*.array_record"))) == 2
    due = data.image_folder(folder, size=4)
    batch = data.from_records(tmp_path / "out", size=4)[np.arange(3)]
    np.testing.assert_array_equal(batch["image"], due[np.arange(3)]["image"])
    np.testing.assert_array_equal(batch["label"], due.labels)


def test_records_of_pixels(folder, tmp_path):
    cli.main(["records", str(folder), str(tmp_path / "out"), "--size=4"])
    due = data.image_folder(folder, size=4)[np.arange(3)]["image"]
    source = data.from_records(tmp_path / "out")
    np.testing.assert_array_equal(source[np.arange(3)]["image"], due)
    assert source.size == 4


def test_records_of_parts(folder, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "test").symlink_to(folder)
    (tmp_path / "parts" / "train").symlink_to(folder)
    cli.main(["records", str(tmp_path / "parts"), str(tmp_path / "out"), "--parts=train,test"])
    source = data.from_records(tmp_path / "out", size=4)
    assert source.parts["train"].tolist() == [0, 1, 2]
    assert source.parts["test"].tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["record"], "argument COMMAND: invalid choice: 'record'"),
        (["records", "in"], "the following arguments are required: OUT"),
        (["records", "in", "out", "--shard=2"], "unrecognized arguments: --shard=2"),
        (["records", "in", "out", "--size=x"], "argument --size: invalid int value: 'x'"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_with_2(capsys, arguments, message):
    status, text = refusal(capsys, *arguments)
    assert status == 2
    assert text.startswith(f"error: {message}")
    assert text.endswith("; --help lists all\n")
    assert text.count("\n") == 1


def test_bad_input_is_one_line_and_exits_with_1(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, message in [
        ((tmp_path / "none", tmp_path / "out"), "no folder"),
        ((folder, tmp_path / "full"), "full is not an empty folder; choose another"),
        ((folder, tmp_path / "out", "--size=0"), "size must be 1 pixel or more, got 0"),
        ((folder, tmp_path / "out", "--shards=4"), "num_shards must be 1 to 3"),
        ((folder, tmp_path / "out", "--parts=ant"), "class"),
        ((folder, folder / "out"), "photos, where it would be a class; choose another"),
        ((folder, tmp_path / "full" / "file" / "out"), "Not a directory"),
    ]:
        status, text = refusal(capsys, "records", *arguments)
        assert status == 1
        assert text.startswith("error: ")
        assert text.count("\n") == 1
        assert message in text
    monkeypatch.setitem(sys.modules, "grain", None)
    status, text = refusal(capsys, "records", folder, tmp_path / "out")
    assert (status, text.count("\n")) == (1, 1)
    assert 'pip install "quantjax[stream]"' in text
    assert not (tmp_path / "out").exists()


def test_ctrl_c_leaves_nothing_and_exits_with_130(folder, tmp_path, capsys, monkeypatch):
    def write(*arguments, **options):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(record_writer, "write_manifest", write)
    assert refusal(capsys, "records", folder, tmp_path / "out") == (130, "")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("arguments", [["--help"], ["records", "--help"]])
def test_help_names_the_command(arguments):
    out = subprocess.run(
        [sys.executable, "-m", "quantjax.cli", *arguments],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out.startswith("usage: python -m quantjax.cli ")
    assert "data.from_records" in out


@pytest.fixture(scope="module")
def clothing(tmp_path_factory):
    """Real photos as records of 16 pixels, and from their folder."""
    folder = os.environ.get("QUANTJAX_DATA")
    if not folder:
        pytest.skip("real data: QUANTJAX_DATA is not set")
    folder, out = pathlib.Path(folder) / "clothing", tmp_path_factory.mktemp("records")
    names = ["train", "validation", "test"]
    cli.main(["records", str(folder), str(out), f"--parts={','.join(names)}", "--size=16"])
    source, rows = data.image_folders(folder, names, size=16)
    return data.from_records(out), source, dict(zip(names, rows, strict=True))


def experiment(source, parts, every=96):
    """Two steps an epoch, for two epochs, on every so many of the photos that train."""
    method = methods.dqn_ste(
        models.mlp((16, 16, 3), hidden=(8,), dim=8), dim=8, num_codebooks=2, num_codewords=4
    )
    splits = data.make_splits(
        source,
        train=parts["train"][::every],
        validation=parts["validation"],
        query=parts["test"],
        database=parts["train"],
    )
    return toy.experiment(
        method, splits=splits, sampler=data.shuffled(32, 16), batch_size=16, num_epochs=2
    )


def assert_records_train_as_the_folder(of_records, of_folder, workdir):
    """Runs on records, stopped after a step and started again, beside a whole run on the folder."""
    mesh = parallel.data_mesh(jax.devices()[:2])
    whole = train.fit(of_folder, mesh=mesh).state
    options = {"mesh": mesh, "workdir": workdir, "log_every": 1}

    def stop(record):
        if record["step"] == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = train.fit(of_records, callbacks=[stop], **options)
    assert stopped.signal == signal.SIGTERM
    assert int(stopped.state.step) < 4
    resumed = train.fit(of_records, **options).state
    assert int(resumed.step) == 4
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_a_run_on_records_that_was_stopped_ends_with_the_bits_of_one_on_the_folder(tmp_path, rng):
    for number in range(48):
        path = tmp_path / "photos" / "abcd"[number % 4] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    cli.main(["records", str(tmp_path / "photos"), str(tmp_path / "out"), "--shards=3"])
    numbers = np.random.default_rng(0).permutation(48)
    parts = dict(zip(("train", "validation", "test"), np.split(numbers, (32, 40)), strict=True))
    of_records, of_folder = (
        experiment(source, parts, every=1)
        for source in (data.from_records(tmp_path / "out"), data.image_folder(tmp_path / "photos"))
    )
    assert_records_train_as_the_folder(of_records, of_folder, tmp_path / "run")


@pytest.mark.data
@pytest.mark.slow
def test_training_on_real_records_equals_training_on_the_folder(clothing, tmp_path):
    source, due, parts = clothing
    for name, rows in parts.items():
        np.testing.assert_array_equal(source.parts[name], rows)
    audited = data.audit(experiment(source, source.parts).splits, max_equal_images=1)
    assert audited == data.audit(experiment(due, parts).splits, max_equal_images=1)
    of_records, of_folder = experiment(source, source.parts), experiment(due, parts)
    assert_records_train_as_the_folder(of_records, of_folder, tmp_path)
