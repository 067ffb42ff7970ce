"""A wheel, a source distribution and an editable install hold what a release must."""

import ast
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest

import quantjax

ROOT = pathlib.Path(__file__).parents[2]
pytest.importorskip("hatchling")


def build(source, out, *kinds):
    """Builds distributions of a source tree, without a network; returns their paths by suffix."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
    for kind in kinds:
        command += ["-t", kind]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return {path.suffix: path for path in out.iterdir()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("dist"), "wheel", "sdist")


def files_of(folder):
    """Returns the Python files of a folder of the checkout."""
    return {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py")}


def test_a_wheel_holds_the_package_and_the_experiments_under_a_name_of_ours(built):
    with zipfile.ZipFile(built[".whl"]) as wheel:
        names = set(wheel.namelist())
        about = f"quantjax-{quantjax.__version__}.dist-info"
        scripts = wheel.read(f"{about}/entry_points.txt").decode()
        experiments = wheel.read("quantjax_experiments/__init__.py")
    assert {name.split("/")[0] for name in names} == {"quantjax", "quantjax_experiments", about}
    assert "quantjax = quantjax.cli:main" in scripts
    assert "quantjax/py.typed" in names
    due = files_of("quantjax") | {f"quantjax_{name}" for name in files_of("experiments")}
    assert {name for name in names if name.endswith(".py")} == due - {
        "quantjax_experiments/pictures.py"
    }
    # Not the file of that name in a checkout, which only points to `experiments`.
    assert experiments == (ROOT / "experiments" / "__init__.py").read_bytes()


def test_a_wheel_of_the_source_distribution_equals_the_one_of_the_checkout(built, tmp_path):
    with tarfile.open(built[".gz"]) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / f"quantjax-{quantjax.__version__}"
    assert (source / "CHANGELOG.md").is_file()
    again = build(source, tmp_path / "dist", "wheel")
    assert again[".whl"].read_bytes() == built[".whl"].read_bytes()


def test_the_changelog_begins_with_the_version_of_the_package():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = next(line for line in text.splitlines() if line[:3] == "## ")
    assert first.split()[1] == quantjax.__version__


def test_experiments_import_each_other_by_relative_names():
    for name in files_of("experiments"):
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            module = getattr(node, "module", None) if isinstance(node, ast.ImportFrom) else None
            words = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any("experiments" in word for word in [*words, module or ""]), name


def test_both_names_of_the_experiments_are_one_folder_in_a_checkout():
    for module in ("dqn_mnist", "tasks.digits"):
        ours, theirs = (
            importlib.util.find_spec(f"{package}.{module}").origin
            for package in ("quantjax_experiments", "experiments")
        )
        assert ours == theirs


OPENING = """
import sys
from quantjax import train
print(train.open_run(sys.argv[1]).name, *sorted({"experiments"} & sys.modules.keys()))
"""


def test_a_run_opens_although_another_package_is_called_experiments(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("")
    (tmp_path / "experiments" / "dqn_mnist.py").write_text("raise SystemExit('not ours')")
    about = {"experiment": "dqn_mnist", "config": {"bits": 16}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    opened = subprocess.run(
        [sys.executable, "-c", OPENING, str(tmp_path)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (opened.returncode, opened.stdout) == (0, "dqn_mnist\n"), opened.stderr


def environment(folder, *install):
    """Makes an environment that has our package alone, and dependencies of the one that tests."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    # As paths, so that an editable install of the testing environment is not followed.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index",
         "--no-deps", "--no-build-isolation", "--ignore-installed", *install],
        check=True, cwd=ROOT, env=without_paths(),
    )  # fmt: skip
    return folder / "bin"


def without_paths():
    """Returns the variables of this process but the ones that would find the checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_an_install_trains_and_opens_runs_from_another_folder(kind, built, tmp_path):
    install = [str(built[".whl"])] if kind == "wheel" else ["-e", str(ROOT)]
    programs = environment(tmp_path / "environment", *install)
    # A user's folder, with a package that would clash.
    folder = tmp_path / "work"
    (folder / "experiments").mkdir(parents=True)
    (folder / "experiments" / "__init__.py").write_text("raise SystemExit('not ours')")

    def run(*command):
        done = subprocess.run(
            [programs / command[0], *command[1:]],
            cwd=folder, env=without_paths() | {"JAX_PLATFORMS": "cpu"}, capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    due = str(ROOT if kind == "editable" else tmp_path / "environment")
    where = "import quantjax, quantjax_experiments as e; print(quantjax.__file__, e.__path__[0])"
    assert all(path.startswith(due) for path in run("python", "-c", where).split())
    training = "quantjax_experiments.dqn_mnist", "--workdir=runs/a", "--config.num_epochs=1"
    run("python", "-m", *training)
    assert "dqn" in run("quantjax", "info", "runs/a")
    assert run("python", "-c", OPENING, "runs/a") == "dqn_mnist\n"
    (stretch,) = json.loads((folder / "runs" / "a" / "stretches.json").read_text())
    assert {"quantjax_experiments/dqn.py", "quantjax/labels.py"} <= stretch["sources"].keys()
    assert run("quantjax", "--help").startswith("usage: quantjax")
    # The ledger finds the experiments of the same package, and a wheel has no results of its own.
    table = run("python", "-m", "quantjax_experiments.ledger", "table", "--results", "none")
    assert "| dqn" not in table
