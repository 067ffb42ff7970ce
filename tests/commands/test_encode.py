"""`quantjax encode` and `merge` write an index, name what they could not read, and say so."""

import json

import numpy as np
import pytest

from quantjax import cli, index
from tests.index import encoders

NAMES = [f"{'ant' if number % 2 else 'cat'}/{number}.png" for number in range(9)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with photos and an encoder."""
    folder = tmp_path_factory.mktemp("encode")
    encoders.plant_photos(folder / "photos", NAMES)
    encoders.of_photos(folder / "run" / "encoder")
    return folder


def run(*arguments):
    """Runs the command line; returns its exit status."""
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as error:
        return error.code
    return 0


def test_a_folder_becomes_an_index(place, tmp_path, capsys):
    assert run("encode", place / "run", place / "photos", "-o", tmp_path / "index") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "items: 9/9"
    assert lines[1].startswith(f"9 codes of 16 bits are in {tmp_path / 'index'}; ")
    found = index.load(tmp_path / "index")
    assert found.ids.tolist() == sorted(NAMES)
    assert found.vectors is None


def test_json_is_the_only_output(place, tmp_path, capsys):
    out = tmp_path / "index"
    assert run("encode", place / "run", place / "photos", "-o", out, "--vectors", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("seconds") > 0
    assert found == {"index": str(out), "count": 9, "bits": 16, "failures": []}
    assert index.load(out).vectors.shape == (9, 16)


def test_an_unreadable_photo_is_named_and_the_exit_status_says_so(place, tmp_path, capsys):
    encoders.plant_photos(tmp_path / "photos", ["a.png", "b.png"])
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    assert run("encode", place / "run", tmp_path / "photos", "-o", tmp_path / "index") == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "cannot read a.png: cannot identify image file"
    assert ", 1 could not be read; " in lines[2]
    assert index.load(tmp_path / "index").ids.tolist() == ["b.png"]


def test_shards_are_merged_to_the_index_of_one_call(place, tmp_path, capsys):
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    for number in (1, 0):
        arguments = ("-o", parts, f"--shard={number}/2")
        assert run("encode", place / "run", place / "photos", *arguments) == 0
    assert "quantjax merge" in capsys.readouterr().out.splitlines()[-1]
    assert run("merge", parts, "-o", tmp_path / "index") == 0
    assert capsys.readouterr().out == f"9 codes of 16 bits are in {tmp_path / 'index'}\n"
    run("encode", place / "run", place / "photos", "-o", whole)
    np.testing.assert_array_equal(index.load(tmp_path / "index").codes, index.load(whole).codes)


def test_a_missing_part_is_named_in_one_line(place, tmp_path, capsys):
    run("encode", place / "run", place / "photos", "-o", tmp_path / "parts", "--shard=1/2")
    assert run("merge", tmp_path / "parts", "-o", tmp_path / "index") == 1
    assert capsys.readouterr().err == (
        "error: parts 0 of 2 are missing; encode them by --shard=0/2\n"
    )


@pytest.mark.parametrize("shard", ["2/2", "-1/2", "1", "a/b", "1/0"])
def test_a_shard_that_is_none_is_refused(place, shard, tmp_path, capsys):
    arguments = ("encode", place / "run", place / "photos", "-o", tmp_path, f"--shard={shard}")
    assert run(*arguments) == 2
    assert f"must be I/N with I from 0 to N - 1, got {shard}" in capsys.readouterr().err


def test_a_photo_above_the_limit_of_pixels_is_not_read(place, tmp_path, capsys):
    out = tmp_path / "index"
    assert run("encode", place / "run", place / "photos", "-o", out, "--max_pixels=89") == 1
    assert "no item could be read, such as ant/1.png (9 x 10 pixels are more than 89" in (
        capsys.readouterr().err
    )


@pytest.fixture(scope="module")
def listable(tmp_path_factory):
    """A folder with vectors, and with encoders of them by PQ and by ITQ."""
    folder = tmp_path_factory.mktemp("listable")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32))
    for name in ("pq", "itq"):
        options = ("--bits=6", f"--codec={name}", "--json")
        assert run("fit", folder / "x.npy", "-o", folder / name, *options) == 0
    return folder


def test_items_are_sorted_into_lists_and_found_there(listable, tmp_path, capsys):
    asked = ("encode", listable / "pq", listable / "x.npy", "-o", tmp_path / "index")
    assert run(*asked, "--num_lists=4") == 0
    assert f"200 codes of 6 bits are in {tmp_path / 'index'}; " in capsys.readouterr().out
    found = index.load(tmp_path / "index")
    assert found.lists.centroids.shape == (4, 6)
    assert sorted(found.ids.tolist()) == list(range(200))
    assert found.vectors is None
    # The index has the encoder, whose own codes are of vectors and not of residuals.
    assert found.manifest["encoder"] == index.load_encoder(listable / "pq").digest
    asked = ("search", tmp_path / "index", listable / "x.npy", "-k3", "--num_probes=4", "--json")
    assert run(*asked) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    due = index.search(found, np.load(listable / "x.npy"), top_k=3)
    assert [[each["id"] for each in row["neighbours"]] for row in answers] == due.ids.tolist()


@pytest.mark.parametrize(
    ("encoder", "options", "message"),
    [
        ("pq", ["--num_lists=201"], "num_lists must be from 1 to 200 items, got 201"),
        ("pq", ["--num_lists=0"], "num_lists must be from 1 to 200 items, got 0"),
        ("pq", ["--num_lists=4", "--shard=0/2"], "--num_lists does not go with --shard: lists are"),
        ("itq", ["--num_lists=4"], "lists need product codes without a rotation, compared by l2"),
    ],
)
def test_lists_that_do_not_fit_say_so(listable, tmp_path, capsys, encoder, options, message):
    source = listable / "x.npy"
    assert run("encode", listable / encoder, source, "-o", tmp_path / "index", *options) == 1
    text = capsys.readouterr().err
    assert (message in text, text.count("\n")) == (True, 1)
    assert not (tmp_path / "index" / "codes.json").exists()
