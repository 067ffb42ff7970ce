"""Methods are built by keyword, and say in one place what most of them share."""

import ast
import copy
import pathlib
import re
import textwrap

import pytest

from quantjax.methods import Method, Phase
from quantjax.methods.base import first_phase

ROOT = pathlib.Path(__file__).parents[2]

BY_KEYWORD = {"Method", "Phase", "Refresh", "Context", "Experiment", "TrainState", "Task"}


def parts():
    return {
        "init": lambda key, batch, num_rows: ({}, {}),
        "phases": (Phase(name="joint", loss=lambda *_: None, trains=()),),
        "embed": lambda params, state, batch: batch["image"],
        "codec": lambda params, state: None,
    }


def test_a_method_names_only_what_it_has_of_its_own():
    given = parts()
    method = Method(**given)
    assert method.embed_query is given["embed"]
    assert [method.phase_at(epoch) for epoch in (0, 1, 70)] == [0, 0, 0]
    assert method.phase_at is first_phase  # one function, so that programs are shared
    assert (method.refresh, method.after_step) == (None, None)
    other = Method(**given, embed_query=len, phase_at=abs)
    assert (other.embed, other.embed_query, other.phase_at) == (given["embed"], len, abs)


def test_a_method_takes_no_field_by_its_place():
    with pytest.raises(TypeError, match="positional"):
        Method(*parts().values())


def test_a_method_is_replaced_copied_hashed_and_shown_as_any_named_tuple():
    method = Method(**parts())
    changed = method._replace(embed=len)
    assert isinstance(changed, Method)
    assert (changed.embed, changed.embed_query) == (len, method.embed)
    assert copy.copy(method) == copy.deepcopy(method) == method
    assert hash(method) == hash(Method(**method._asdict()))
    assert repr(method).startswith("Method(init=")


def python_texts():
    """Yields where and what: every module, and every block of Python in README and docs."""
    for folder in ("quantjax", "experiments", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        blocks = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
        for number, block in enumerate(blocks):
            yield f"{path.name}, block {number}", block


def by_place(text):
    """Yields the calls of the types above that have an argument without its name."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value:
            try:  # a module that a test writes
                yield from by_place(textwrap.dedent(node.value))
            except SyntaxError:
                continue
        elif isinstance(node, ast.Call) and node.args:
            name = ast.unparse(node.func).split(".")[-1]
            if name in BY_KEYWORD and not any(isinstance(x, ast.Starred) for x in node.args):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def test_what_makes_up_a_method_or_a_run_is_built_by_keyword_everywhere():
    assert list(by_place("Phase('joint', loss, trains)")) != []
    assert list(by_place("Phase(name='joint', loss=loss, trains=trains)")) == []
    found = {where: list(by_place(text)) for where, text in python_texts()}
    assert {where: calls for where, calls in found.items() if calls} == {}
