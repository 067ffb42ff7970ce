"""docs/promises.md promises nothing that no test proves."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def test_every_promise_names_a_test_that_is_there():
    text = (ROOT / "docs" / "promises.md").read_text()
    rows = [line for line in text.splitlines() if line[:2] == "| " and line != "| promise | test |"]
    assert len(rows) > 60
    for row in rows:
        promise, proofs = row.strip("| ").rsplit(" | ", 1)
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", proofs)
        assert named, row
        marks = []
        for file, name in named:
            tree = ast.parse((ROOT / file).read_text())
            found = [node for node in tree.body if getattr(node, "name", "") == name]
            assert found, f"{file} has no {name}"
            marks.append("pytest.mark.slow" in map(ast.unparse, found[0].decorator_list))
        assert "(slow)" in promise or not any(marks), row
