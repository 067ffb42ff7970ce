"""First lines of docstrings keep to the rules of plain English that a program can check."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "quantjax").rglob("*.py"))
# Words that stand in place of a noun, or of the ordinary word.
RIDDLES = re.compile(
    r"\b(?:is there|of its own|of their own|what it|what is|what are|those that|the one that)\b",
    re.IGNORECASE,
)
FIRST_WORDS = {"Tells", "Forgets", "Refuses", "What", "Whether", "Settles", "Looks", "Takes"}


def public_docstrings(path):
    """Yields the name and the first line of each public class and function of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            text = ast.get_docstring(node)
            if text:
                yield node.name, text.splitlines()[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_first_lines_name_things_by_ordinary_words(path):
    for name, line in public_docstrings(path):
        assert not RIDDLES.search(line), f"{name}: {line}"
        assert line.split()[0] not in FIRST_WORDS, f"{name}: {line}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_first_lines_are_sentences(path):
    for name, line in public_docstrings(path):
        assert line[0].isupper(), f"{name}: {line}"
        assert line[-1] in ".:?", f"{name}: {line}"
