"""The command line converts photos, and reports errors by one line and an exit code."""

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from quantjax import cli, data, methods, models, train
from quantjax.data import record_writer
from quantjax.run import parallel
from tests import toy
from tests.data.photo_files import plant

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
        (["records", "in", "out", "--split=80,20"], "argument --split: must be three numbers that"),
        (["records", "in", "out", "--split=80,x,20"], "argument --split: must be three numbers"),
        (["records", "in", "out", "--split=nan,0,0"], "argument --split: must be three numbers"),
        (["records", "in", "out", "--split=90,-10,20"], "argument --split: must be three numbers"),
        (["records", "in", "out", "--split=0,50,50"], "argument --split: must leave some to train"),
        (["records", "a", "b", "--split=8,1,1", "--parts=c"], "argument --split: must be three"),
        (["records", "a", "b", "--split=80,10,10", "--parts=c"], "argument --parts: not allowed"),
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
        ((folder, tmp_path / "full" / "file" / "out"), "a file is above it; choose another"),
        ((folder, tmp_path / "out", "--seed=1"), "--seed is of the draw of --split"),
        ((folder, tmp_path / "out", "--max_pixels=0"), "max_pixels must be 1 or more, got 0"),
        ((folder, tmp_path / "out", "--max_pixels=20"), "cannot read 3 of 3 photos: "),
    ]:
        status, text = refusal(capsys, "records", *arguments)
        assert status == 1
        assert text.startswith("error: ")
        assert text.count("\n") == 1
        assert message in text
    monkeypatch.setitem(sys.modules, "grain", None)
    status, text = refusal(capsys, "records", folder, tmp_path / "out")
    assert (status, text.count("\n")) == (1, 1)
    assert "pip install 'quantjax[stream]'" in text
    assert not (tmp_path / "out").exists()


def test_other_errors_keep_their_traceback(folder, tmp_path, monkeypatch):
    for error in (ValueError("of a library"), OSError(errno.EIO, "a broken disk")):

        def write(*arguments, error=error, **options):
            raise error

        monkeypatch.setattr(record_writer, "write_manifest", write)
        with pytest.raises(type(error), match=r"of a library|a broken disk"):
            cli.main(["records", str(folder), str(tmp_path / "out")])
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written_is_one_line(folder, tmp_path, capsys, monkeypatch, number):
    def write(*arguments, **options):
        raise OSError(number, os.strerror(number), "manifest")

    monkeypatch.setattr(record_writer, "write_manifest", write)
    status, text = refusal(capsys, "records", folder, tmp_path / "out")
    assert (status, text.count("\n")) == (1, 1)
    assert text.startswith("error: ")
    assert os.strerror(number) in text


def lines(capsys, *arguments):
    cli.main(["records", *map(str, arguments)])
    return capsys.readouterr().out.splitlines()


def test_what_is_ignored_and_what_is_changed_is_said_once(folder, tmp_path, capsys):
    plant(folder, "ant/notes.txt ant/2019/IMG_1 cat/july/c.gif readme.md dog/ .git/")
    for name in ("glass", "ice"):
        Image.new("RGBA", (6, 6), (1, 2, 3, 4)).save(folder / "cat" / f"{name}.png")
    assert lines(capsys, folder, tmp_path / "out") == [
        "6 photos of 2 classes; ignored: 1 .txt (ant/notes.txt), 1 beside the class folders "
        "(readme.md), 1 hidden (.git), 1 without a suffix (ant/2019/IMG_1); 1 in sub-folders "
        "(cat/july); class folders without a photo: dog",
        "photos: 6/6",
        f"6 photos of 2 classes are in {tmp_path / 'out'}; 2 transparent, composed on white "
        f"({folder}/cat/glass.png, ...)",
    ]
    image = data.from_records(tmp_path / "out", size=4)[np.array([3])]["image"]
    assert image.min() > 250


def test_unreadable_photos_are_listed_at_once_or_skipped_and_counted(folder, tmp_path, capsys):
    plant(folder, "dog/a.png")
    bad = [folder / name for name in ("ant/broken.jpg", "cat/0.png", "dog/a.png")]
    for path in bad:
        path.write_bytes(b"no photo")
    whole = folder / "cat" / "a.png"
    cut = folder / "cat" / "cut.png"
    cut.write_bytes(whole.read_bytes()[:60])
    os.symlink("nowhere", folder / "cat" / "link.png")
    named = [*bad[:2], cut, folder / "cat" / "link.png", bad[2]]
    for options in ([], ["--size=4"]):
        status, text = refusal(capsys, "records", folder, tmp_path / "out", *options)
        assert (status, text.count("\n")) == (1, 1)
        assert text.startswith("error: cannot read 5 of 8 photos: ")
        places = [text.index(f"{path} (") for path in named]
        assert places == sorted(places)
        assert text.endswith(
            "go on without by --skip_unreadable (in Python skip_unreadable=True)\n"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    *_, line = lines(capsys, folder, tmp_path / "out", "--skip_unreadable", "--shards=4")
    assert line.startswith(f"3 photos of 3 classes are in {tmp_path / 'out'}; skipped 5 unreadable")
    assert line.endswith("; no photo is left of dog")
    for path in named:
        assert f"{path} (" in line


def test_records_without_unreadable_photos_are_those_of_a_clean_folder(folder, tmp_path):
    for part in ("train", "test"):
        shutil.copytree(folder, tmp_path / "parts" / part)
    parts = "--parts=train,test"
    cli.main(["records", str(tmp_path / "parts"), str(tmp_path / "clean"), parts])
    (tmp_path / "parts" / "train" / "ant" / "aa.png").write_bytes(b"no photo")
    (tmp_path / "parts" / "test" / "ant" / "0.png").write_bytes(b"no photo")
    skip = "--skip_unreadable"
    cli.main(["records", str(tmp_path / "parts"), str(tmp_path / "out"), parts, skip, "--shards=3"])
    found, due = (data.from_records(tmp_path / name, size=4) for name in ("out", "clean"))
    assert found.digest == due.digest
    assert found.parts["test"].tolist() == [3, 4, 5]
    rows = np.arange(6)
    np.testing.assert_array_equal(found[rows]["image"], due[rows]["image"])


def test_nothing_readable_leaves_no_records(tmp_path, capsys):
    plant(tmp_path / "photos", "ant/a.png cat/b.png")
    for path in (tmp_path / "photos").glob("*/*"):
        path.write_bytes(b"no photo")
    status, text = refusal(
        capsys, "records", tmp_path / "photos", tmp_path / "out", "--skip_unreadable"
    )
    assert status == 1
    assert "cannot read 2 of 2 photos" in text
    assert "--skip_unreadable" not in text  # it was given
    assert not (tmp_path / "out").exists()


def test_an_unsplit_folder_is_split(tmp_path, capsys):
    plant(tmp_path / "photos", " ".join(f"{name}/{n:02d}.png" for name in "ab" for n in range(20)))
    plant(tmp_path / "photos", "c/1.png")
    command = [tmp_path / "photos", tmp_path / "out", "--split=80,10,10"]
    assert lines(capsys, *command)[0] == (
        "41 photos of 3 classes; split into 33 train, 4 validation, 4 test; validation has no "
        "photo of c; test has no photo of c"
    )
    source = data.from_records(tmp_path / "out")
    assert {name: len(rows) for name, rows in source.parts.items()} == {
        "train": 33,
        "validation": 4,
        "test": 4,
    }
    np.testing.assert_array_equal(source.labels[source.parts["test"]].sum(axis=0), [2, 2, 0])
    for number, seed in enumerate((0, 1)):
        out = tmp_path / f"out{number}"
        lines(capsys, tmp_path / "photos", out, "--split=80,10,10", f"--seed={seed}")
        assert (data.from_records(out).digest == source.digest) == (seed == 0)


def test_forgotten_parts_are_said(folder, tmp_path, capsys):
    for part in ("train", "validation", "test"):
        shutil.copytree(folder, tmp_path / "parts" / part)
    for options in ([], ["--split=80,10,10"]):
        status, text = refusal(capsys, "records", tmp_path / "parts", tmp_path / "out", *options)
        assert (status, text.count("\n")) == (1, 1)
        assert "is split already" in text
        assert "pass --parts=train,validation,test" in text


def test_a_raised_limit_of_pixels_lets_large_photos_through(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # ant/b.png has 48
    status, text = refusal(capsys, "records", folder, tmp_path / "out")
    assert status == 1
    assert "ant/b.png: 8 x 6 pixels are more than 40; --max_pixels=N raises the limit" in text
    *_, line = lines(capsys, folder, tmp_path / "out", "--max_pixels=48", "--size=4")
    assert line == f"3 photos of 2 classes are in {tmp_path / 'out'}"
    assert len(data.from_records(tmp_path / "out")[np.arange(3)]["image"]) == 3
    *_, line = lines(capsys, folder, tmp_path / "files", "--max_pixels=48")
    assert line.endswith("need the limit raised where they are read too, or --size=PX")
    assert Image.MAX_IMAGE_PIXELS == 40


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
    assert out.startswith("usage: quantjax ")
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


@pytest.mark.slow
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
