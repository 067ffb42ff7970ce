"""Modules import only modules of lower layers, and an import loads no needless package."""

import ast
import pathlib
import subprocess
import sys

import pytest

import quantjax

ROOT = pathlib.Path(__file__).parents[1]

# What each part of the package may import of the package itself; a part may import its own modules.
# `arrays`, `batch` and `errors` are open to all.
MAY_IMPORT = {
    "arrays": set(),
    "batch": set(),
    "errors": set(),
    "labels": set(),
    "metrics": set(),
    "quantizers": set(),
    "losses": {"quantizers"},
    "run": set(),
    "optimizers": set(),
    "data": {"run", "labels"},
    "models": {"run", "data"},
    "methods": {"losses", "quantizers", "labels", "models"},
    "index": {"quantizers", "run", "data"},
    "train": {"methods", "run", "optimizers", "data", "index"},
    "evaluate": {"index", "train", "methods", "metrics", "quantizers", "labels", "data", "run"},
    "recipes": {"evaluate", "index", "train", "methods", "models", "quantizers", "data", "run"},
    "plots": {"metrics", "quantizers"},
    "report": {"evaluate", "train", "plots", "run", "data", "metrics", "quantizers"},
    "serve": {"index", "quantizers", "data"},
    "launch": {"train", "evaluate", "index", "report", "run", "data"},
    "commands": {"launch", "recipes", "train", "evaluate", "index", "report", "serve", "run",
                 "data", "models", "methods", "losses", "quantizers", "metrics", "labels"},
    "cli": {"commands", "run"},
}  # fmt: skip
OPEN = {"arrays", "batch", "errors"}

# Third-party packages, and the only parts of the package that import them at all.
ONLY_IN = {
    "flax": {"models"},
    "ml_collections": {"launch"},
    "absl": {"launch"},
    "orbax": {"run"},
    "rich": {"run"},
    "safetensors": {"run", "models"},
    "optax": {"train", "optimizers", "recipes"},
    "matplotlib": {"plots"},
    "equinox": {"models"},
    "anyio": {"serve"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
    "haiku": {"models"},
}

# Parts that are imported for the sake of one optional extra, and by no other part.
OPTIONAL = {"plots": {"matplotlib"}, "serve": {"anyio", "starlette", "uvicorn"}}

# Never at the top of a module: imported inside the function that needs them.
LAZY = {
    "tensorflow", "tensorflow_datasets", "faiss", "matplotlib", "PIL", "mlxtend", "torch",
    "grain", "array_record", "equinox", "haiku", "lance", "lancedb", "pyarrow", "duckdb", "usearch",
    "anyio", "starlette", "uvicorn", "fsspec", "ray", "orbax", "jinja2",
}  # fmt: skip


def test_no_part_imports_a_part_that_imports_it():
    order = list(MAY_IMPORT)
    for part, others in MAY_IMPORT.items():
        assert all(order.index(other) < order.index(part) for other in others), part


def modules():
    return sorted((ROOT / "quantjax").rglob("*.py"))


def part_of(path):
    return path.relative_to(ROOT / "quantjax").parts[0].removesuffix(".py")


def imports(path, *, top_level_only=False):
    """Yields the dotted names that a file imports."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_its_layer_may(path):
    part = part_of(path)
    if part == "__init__":
        return
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "quantjax":
            other = rest.split(".")[0]
            assert other in {part, *OPEN, *MAY_IMPORT[part]}, f"{part} may not import {name}"
        assert part in ONLY_IN.get(package, {part}), f"{part} may not import {package}"
        assert "experiments" not in package, "the package never imports experiments"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_are_imported_where_they_are_needed(path):
    top = {name.split(".")[0] for name in imports(path, top_level_only=True)}
    assert not top & LAZY - OPTIONAL.get(part_of(path), set())


def test_losses_import_straight_through_functions_and_no_other_quantizer():
    for path in (ROOT / "quantjax" / "losses").glob("*.py"):
        for name in imports(path):
            if name.startswith("quantjax.quantizers"):
                assert name.split(".")[2] in ("binary", "straight_through")


def test_pure_parts_import_arrays_alone():
    for part in ("losses", "quantizers", "metrics", "labels.py"):
        root = ROOT / "quantjax" / part
        for path in [root] if root.is_file() else root.glob("*.py"):
            packages = {name.split(".")[0] for name in imports(path)}
            assert packages <= {*sys.stdlib_module_names, "jax", "numpy", "quantjax"}, path


def test_methods_import_no_network_but_its_type():
    for path in (ROOT / "quantjax" / "methods").glob("*.py"):
        for name in imports(path):
            if name.startswith("quantjax.models"):
                assert name.startswith("quantjax.models.base")


@pytest.mark.parametrize(
    "statement", ["import quantjax", "from quantjax import losses, quantizers, metrics, labels"]
)
def test_the_third_door_brings_no_framework_along(statement):
    unwanted = ["flax", "ml_collections", "tensorflow", "matplotlib", "orbax", "torch", "PIL"]
    program = (
        f"{statement}\nimport sys\nprint([name for name in {unwanted} if name in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("statement", "most"),
    [
        ("import quantjax", 1),
        ("from quantjax.losses import pairwise_cosine", 21),
        ("from quantjax.metrics import average_precision", 14),
        ("import quantjax; quantjax.train.fit, quantjax.evaluate.compare", 180),
    ],
)
def test_an_import_loads_what_it_needs_alone(statement, most):
    program = (
        f"{statement}\nimport sys\nprint(sum(n.split('.')[0] == 'quantjax' for n in sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 1 <= int(out.stdout) <= most


def test_a_part_that_is_not_there_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        quantjax.nonsense  # noqa: B018
    assert "train" in dir(quantjax)
