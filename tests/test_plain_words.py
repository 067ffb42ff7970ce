"""Code keeps to the rules of style that a program can check: words of docstrings, length."""

import ast
import io
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "quantjax").rglob("*.py"))
# Words that stand in place of a noun, or of the ordinary word.
RIDDLES = re.compile(
    r"\b(?:is there|of its own|of their own|what it|what is|what are|those that|the one that)\b",
    re.IGNORECASE,
)
MOST_LINES = 50
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


def code_lines(text):
    """Returns the numbers of the lines that hold code: no blank line, comment or docstring."""
    no_code = {
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
        tokenize.ENDMARKER,
    }  # fmt: skip
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in no_code:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def long_functions(text):
    """Yields name and number of code lines, from signature to end, of each function too long."""
    lines = code_lines(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            number = len(lines.intersection(range(node.lineno, node.end_lineno + 1)))
            if number > MOST_LINES:
                yield node.name, number


def test_only_code_counts_as_length():
    def function(number):
        docstring = '    """Adds ones.\n\n    Slowly.\n    """\n    # Why.\n\n'
        return "def f(\n    x,\n):\n" + docstring + "    x += 1\n" * number

    assert list(long_functions(function(MOST_LINES - 3))) == []
    assert list(long_functions(function(MOST_LINES - 2))) == [("f", MOST_LINES + 1)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_long(path):
    assert list(long_functions(path.read_text())) == []
