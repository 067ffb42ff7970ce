"""A workdir that is published tells neither the host's name nor the folders of its machine."""

import json
import pathlib
import platform
import socket
import sys

import pytest

from quantjax import launch, train
from quantjax.launch import command_line
from quantjax.run import workdirs
from tests import test_launch

pytestmark = pytest.mark.usefixtures("no_page", "no_numbers", "one_device")

ROOT = pathlib.Path(__file__).parents[2]
HOST = "host-of-the-lab"


def no_baselines(experiment, mesh, trained):
    return {}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A function that runs the toy set on a host of a known name, as a command line would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setattr(platform, "node", lambda: HOST)

    def run(*arguments):
        words = ["toy", "--config.num_epochs=2", "--validate_every=1", "--tensorboard", *arguments]
        monkeypatch.setattr(sys, "argv", words)
        launch.main(test_launch.get_config, test_launch.build, no_baselines, title="dqn")

    return run


def assert_tells_nothing(workdir, *folders, but=()):
    """Neither names nor contents of files, text or not, have the host or one of the folders."""
    secrets = [HOST, str(ROOT), sys.prefix, str(pathlib.Path.home()), *map(str, folders)]
    paths = [path for path in workdir.rglob("*") if path.is_file() and path.parent.name not in but]
    assert len(paths) > 20
    for path in paths:
        assert HOST not in path.name
        content = path.read_bytes()
        for secret in secrets:
            assert secret.encode() not in content, f"{path.relative_to(workdir)} tells {secret}"


def test_a_run_of_relative_paths_tells_nothing_of_its_machine_but_in_its_log(run, tmp_path):
    run("--workdir=runs/toy")
    assert_tells_nothing(tmp_path / "runs" / "toy", tmp_path, but=["logs"])


def test_an_anonymous_run_keeps_no_absolute_path_that_its_user_gave(run, tmp_path):
    places = tmp_path / "photos-of-the-lab", tmp_path / "features-of-the-lab"
    workdir = tmp_path / "toy"
    run(
        f"--workdir={workdir}",
        f"--config.data_dir={places[0]}",
        f"--config.features_dir={places[1]}",
        "--anonymous",
    )
    assert_tells_nothing(workdir, tmp_path)
    # The same command goes on, with or without the option, and the run can be opened.
    run(f"--workdir={workdir}")
    assert "data_dir" not in json.loads((workdir / "config.json").read_text())["config"]
    assert train.open_run(workdir, test_launch).config["features_dir"] == "runs/features"


def test_only_a_lock_that_is_held_names_the_host(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    with workdirs.held(tmp_path):
        assert f"on {HOST}" in (tmp_path / ".lock").read_text()
    assert (tmp_path / ".lock").read_text() == ""


@pytest.mark.parametrize(
    ("words", "due"),
    [
        (["/a/b.py", "--workdir=/c/d", "--out", "/e/f"], "/a/b.py --workdir=/c/d --out /e/f"),
        (
            ["/a/b.py", "--anonymous", "--workdir=/c/d", "--out", "~x/f", "--config.lr=1/3"],
            ".../b.py --anonymous --workdir=.../d --out .../f --config.lr=1/3",
        ),
    ],
)
def test_a_command_is_kept_without_folders_where_that_is_asked_for(words, due):
    assert " ".join(command_line.recorded(words, words)) == due
