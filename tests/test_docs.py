"""The site builds without a warning, and its reference has every public name."""

import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import quantjax
from tests import test_fifth_method

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = (
    "data",
    "evaluate",
    "index",
    "losses",
    "methods",
    "metrics",
    "models",
    "plots",
    "quantizers",
    "recipes",
    "report",
    "train",
)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 9_000


def test_readme_links_to_files_that_are_there():
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"(?<!!)\[[^]]+\]\(([^)#]+)\)", text)  # pictures are made by a command
    assert len(links) > 8
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_citation_has_the_version_of_the_package():
    assert f"\nversion: {quantjax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f'\nversion = "{quantjax.__version__}"\n' in (ROOT / "pyproject.toml").read_text()


def test_the_method_in_the_documents_is_the_one_that_is_tested():
    documented = (ROOT / "docs" / "your_paper.md").read_text()
    assert test_fifth_method.METHOD.split('"""', 2)[2].strip() in documented


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_every_public_name(tmp_path):
    inventory = pytest.importorskip("sphinx.util.inventory")
    site = tmp_path / "site"
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", "html"]
    command = [*build, "-d", tmp_path / "doctrees", ROOT / "docs", site]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in ("index", "running", "data", "metrics", "results", "promises", "api/losses"):
        assert (site / f"{page}.html").is_file()

    content = inventory.InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    described = {
        name for kind, names in content.data.items() if kind[:3] == "py:" for name in names
    }
    for package in PACKAGES:
        module = importlib.import_module(f"quantjax.{package}")
        for name, value in ((name, getattr(module, name)) for name in module.__all__):
            if inspect.isclass(value) or inspect.isfunction(value):  # no modules, aliases of types
                assert f"quantjax.{package}.{name}" in described
