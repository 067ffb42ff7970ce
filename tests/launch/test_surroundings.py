"""Any home, locale, cache and logger of a process will do, and a run leaves them as they were."""

import ast
import functools
import json
import logging
import os
import pathlib
import pwd
import subprocess
import sys
import warnings

import jax
import numpy as np
import pytest
from PIL import Image

from quantjax import cli, data, errors, launch, train
from quantjax.run import encodings, files, paths
from tests import test_launch

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "quantjax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")])
LOGGERS = "absl", "jax", "a.users.own"


@functools.cache
def calls():
    """Returns file, line, name and call of every call in the sources."""
    return [
        (path, node.lineno, getattr(node.func, "attr", getattr(node.func, "id", "")), node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def test_every_text_file_is_opened_with_its_encoding():
    for path, line, name, call in calls():
        if name not in ("read_text", "write_text", "open"):
            continue
        words = ast.unparse(call)
        # Ours have UTF-8 inside, and the others take no encoding.
        if words.startswith(
            ("files.write_text(", "_log.open(", "os.open(", "image_module.", "importlib.", "gzip")
        ):
            continue
        is_text = name != "open" or "b" not in words[-8:]
        known = "encoding=" in words or "*_CODING" in words
        assert known or not is_text, f"{path}:{line}: {words}"


def test_one_function_alone_looks_for_the_home():
    used = {path.name for path, _, name, _ in calls() if name in ("expanduser", "home")}
    assert used == {"paths.py"}


def loggers():
    """Returns level, handlers and so on of each logger, and what holds for all of them."""
    found = {name: logging.getLogger(name) for name in [*logging.root.manager.loggerDict, ""]}
    return logging.root.manager.disable, logging.getLoggerClass(), [*warnings.filters], {
        name: (each.level, each.disabled, each.propagate, [*each.handlers], [*each.filters])
        for name, each in found.items()
    }  # fmt: skip


class Ran:
    """What a run in the home folder left in its process, and which messages came through."""

    def __init__(self, home):
        self.messages = []
        handler = logging.Handler()
        handler.emit = lambda record: self.messages.append((record.name, record.getMessage()))
        logging.root.addHandler(handler)
        try:
            self.before = loggers()
            argv = ["toy", "--workdir=~/runs/toy", "--config.num_epochs=2", "--checkpoint_every=1"]
            launch.main(test_launch.get_config, self.build, lambda *parts: {}, title="t", argv=argv)
            self.after = loggers()
        finally:
            logging.root.removeHandler(handler)

    def build(self, config):
        experiment = test_launch.build(config)

        def sampler(seed, epoch):
            for name in LOGGERS:
                logging.getLogger(name).error("from epoch %d", epoch)
            return experiment.sampler(seed, epoch)

        return experiment._replace(sampler=sampler)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield pathlib.Path(os.environ["HOME"])


@pytest.fixture(scope="module")
def ran(home, no_numbers, one_device, no_page):
    return Ran(home)


def test_a_run_leaves_every_logger_as_it_was(ran):
    *common_before, before = ran.before
    *common_after, after = ran.after
    assert common_after == common_before
    # A logger that a library made in the run must not be mute either.
    assert {name: after[name] for name in before} == before
    assert not any(after[name][1] for name in after.keys() - before)


def test_messages_of_others_come_through_while_a_run_trains_and_saves(ran):
    for name in LOGGERS:
        assert (name, "from epoch 1") in ran.messages
    assert not any("checkpoint" in text.lower() for _, text in ran.messages)


def test_the_home_is_expanded_in_options_arguments_and_config_paths(ran, home, capsys):
    assert (home / "runs" / "toy" / "results.json").is_file()
    assert train.open_run("~/runs/toy", test_launch).name == "toy"
    cli.main(["info", "~/runs/toy", "--json"])
    assert json.loads(capsys.readouterr().out)
    (home / "sets" / "mine").mkdir(parents=True)
    assert data.locate("~/sets", "mine", origin="nowhere") == home / "sets" / "mine"


@pytest.fixture
def homeless(monkeypatch):
    """A user without $HOME and without an entry in /etc/passwd, as containers have them."""

    def missing(number):
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", missing)


def test_a_path_in_an_unknown_home_is_refused_in_one_line(homeless):
    with pytest.raises(errors.InputError, match=r"^~/a begins with ~, whose folder is unknown; "):
        paths.user_path("~/a")
    assert paths.user_path("a/~") == pathlib.Path("a/~")


@pytest.fixture
def no_cache():
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_without_a_home_programs_are_not_kept(homeless, no_cache):
    with pytest.warns(UserWarning, match=r"programs are not kept \(~/.cache begins with ~"):
        train.keep_programs()
    assert jax.config.jax_compilation_cache_dir == ""


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch, no_cache):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"programs are not kept \(.*Not a directory.*; set XDG_"):
        train.keep_programs()
    assert jax.config.jax_compilation_cache_dir == ""


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}


def under_ascii(*command, **variables):
    """Runs Python under a locale that has ASCII alone; returns what it printed."""
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, **ASCII, **variables}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


PREPARED = """
import sys
from quantjax.run import encodings
encodings.prepare(restart=True)
print(sys.getfilesystemencoding(), ascii(sys.argv[1]))
print("caf\\u00e9", "\\udcc3")
"""


@pytest.mark.parametrize(
    ("variables", "due"),
    [({}, "café \\udcc3"), ({"PYTHONIOENCODING": "ascii"}, "caf\\xe9 \\udcc3")],
)
def test_a_program_starts_anew_where_the_locale_has_ascii_alone(variables, due):
    said = under_ascii("-c", PREPARED, "ü", **variables)
    assert said.splitlines() == [r"utf-8 '\xfc'", due]


SCRIPT = """
import os, sys
import numpy as np
from quantjax import train
from tests import toy
experiment = toy.experiment(toy.dqn_ste(), num_epochs=1)
for use in (train.fit, train.restore):
    try:
        use(experiment, workdir=sys.argv[1])
    except ValueError as error:
        print(error)
print(os.listdir(os.fsencode(sys.argv[2])))
"""


@pytest.mark.slow
def test_a_script_of_ones_own_is_told_how_to_use_names_beyond_ascii(tmp_path):
    said = under_ascii("-c", SCRIPT, f"{tmp_path}/ü", str(tmp_path), JAX_PLATFORMS="cpu")
    due = (
        f"checkpoints need a path in UTF-8, got '{tmp_path}/\\udcc3\\udcbc' where Python encodes "
        "paths as ascii; set PYTHONUTF8=1 or LC_ALL=C.UTF-8, or rename it"
    )
    assert said.splitlines() == [due, due, "[]"]


def test_a_path_that_libraries_would_read_otherwise_is_refused(tmp_path, monkeypatch):
    encodings.check_path(tmp_path / "ü")
    with pytest.raises(errors.InputError, match="need a path in UTF-8, got"):
        encodings.check_path(tmp_path / os.fsdecode(b"caf\xe9"))
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("latin-1"))  # as an old locale
    encodings.check_path(tmp_path / "u")
    with pytest.raises(errors.InputError, match="need a path in UTF-8, got"):
        encodings.check_path(tmp_path / "ü")


def test_names_beyond_ascii_are_the_same_under_any_locale(tmp_path, rng):
    for name in ("z", "é", "中"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        image = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / "photos" / name / "ü.png")
    command = ["records", str(tmp_path / "photos")]
    cli.main([*command, str(tmp_path / "här")])
    under_ascii("-m", "quantjax.cli", *command, str(tmp_path / "dår"))
    here, there = (data.from_records(tmp_path / name) for name in ("här", "dår"))
    assert there.classes == here.classes == ("z", "é", "中")
    assert there.digest == here.digest


def test_a_name_that_is_no_text_keeps_its_bytes(tmp_path):
    files.write_text(tmp_path / "names.txt", os.fsdecode(b"caf\xe9") + "\n")
    assert (tmp_path / "names.txt").read_bytes() == b"caf\xe9\n"


@pytest.mark.slow
def test_a_run_trains_under_ascii_without_a_home_and_without_a_cache(tmp_path):
    program = """
import pwd, runpy
def missing(number): raise KeyError(number)
pwd.getpwuid = missing
runpy.run_module("tests.run_toy", run_name="__main__")
"""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HOME", "XDG_CACHE_HOME") and name[:4] != "JAX_"
    }
    done = subprocess.run(
        [sys.executable, "-c", program, f"--workdir={tmp_path}/ü", "--config.num_epochs=2"],
        cwd=ROOT, env={**environment, **ASCII, "JAX_PLATFORMS": "cpu"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.decode().count("programs are not kept") == 1
    assert f"everything is in {tmp_path}/ü" in done.stdout.decode()
    assert (tmp_path / "ü" / "report.html").is_file()
