"""The package stays small: its files, its functions and its comments. Run it to see its sizes."""

import ast
import io
import pathlib
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "quantjax"
FILES = sorted(ROOT.rglob("*.py"))
_LAYOUT = {
    tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef


def lines_of(path):
    """Returns the numbers of a file's lines of code, and of its lines of comments."""
    source = path.read_text()
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    code, comments = set(), set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in _LAYOUT:
            code.update(range(token.start[0], token.end[0] + 1))
    return code - docstrings, comments


def functions():
    """Yields the name and the number of code lines of each function."""
    for path in FILES:
        code, _ = lines_of(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                size = sum(line in code for line in range(node.lineno, node.end_lineno + 1))
                yield f"{path.relative_to(ROOT)}:{node.name}", size


def test_no_function_is_longer_than_fifty_lines():
    assert {name: size for name, size in functions() if size > 50} == {}


def test_the_ground_floor_has_at_most_eight_files():
    assert len(list(ROOT.glob("*.py"))) <= 8


def test_a_hundred_lines_of_code_have_six_comments():
    sizes = [lines_of(path) for path in FILES]
    assert sum(len(notes) for _, notes in sizes) >= 0.06 * sum(len(code) for code, _ in sizes)


@pytest.mark.parametrize(("part", "most"), [("metrics", 10)])
def test_a_part_has_few_files(part, most):
    assert len(list((ROOT / part).glob("*.py"))) <= most


if __name__ == "__main__":
    for part in sorted({path.relative_to(ROOT).parts[0] for path in FILES}):
        files = [path for path in FILES if path.relative_to(ROOT).parts[0] == part]
        sizes = [lines_of(path) for path in files]
        code, notes = (sum(map(len, lines)) for lines in zip(*sizes, strict=True))
        print(f"{part:16} {len(files):4} files {code:6} lines of code {notes:5} of comments")
