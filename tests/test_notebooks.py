"""The notebooks: short cells, small clean outputs, and a run from a cold kernel."""

import os
import pathlib
import re
import sys

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST = 20  # lines of a code cell
LARGEST = 500_000  # bytes of a file
# Folders that only one machine has.
PLACES = re.compile(r"/(?:root|home|tmp|work|Users|var/folders)\b")

every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path):
    """Returns a notebook's cells, and those that hold code."""
    cells = nbformat.read(path, as_version=4).cells
    return cells, [cell for cell in cells if cell.cell_type == "code"]


def complaints(code):
    """Returns every output that is an error or was written to stderr."""
    outputs = [output for cell in code for output in cell.outputs]
    return [each for each in outputs if each.output_type == "error" or each.get("name") == "stderr"]


def places(cells):
    """Returns the folders of one machine that cells name; figures, in base64, are left out."""
    texts = [cell.source for cell in cells]
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        data = output.get("data", {}).items()
        texts += [output.get("text", ""), *(text for kind, text in data if "image" not in kind)]
    return [place for text in texts for place in PLACES.findall(str(text))]


def test_there_are_notebooks():
    assert PATHS


@every_notebook
def test_a_notebook_is_valid_and_opens_with_a_heading(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    cells, _ = read(path)
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")


@every_notebook
def test_code_cells_are_short(path):
    _, code = read(path)
    assert max(len(cell.source.splitlines()) for cell in code) <= LONGEST


@every_notebook
def test_a_notebook_has_outputs_and_is_small(path):
    _, code = read(path)
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert path.stat().st_size < LARGEST


@every_notebook
def test_outputs_have_no_errors_and_nothing_on_stderr(path):
    _, code = read(path)
    assert complaints(code) == []


@every_notebook
def test_a_notebook_names_no_folder_of_one_machine(path):
    cells, _ = read(path)
    assert places(cells) == []


@pytest.mark.notebooks
@every_notebook
def test_a_notebook_runs_from_a_cold_kernel(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment["PATH"] = os.pathsep.join(
        [str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]
    )
    environment.pop("QUANTJAX_DATA", None)
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute(env=environment)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert complaints(code) == []
    assert places(code) == []
