"""Stretches of a run are added and completed, and tell which code took the steps that are left."""

import json

import pytest

from quantjax.run import stretches

ABOUT = {"flags": {"keep": 3}, "sources": {"a.py": "1", "b.py": "1"}}


def stretch(start, **sources):
    return {"from": start, "flags": {}, "sources": {f"{name}.py": x for name, x in sources.items()}}


@pytest.mark.parametrize(
    ("found", "step", "due"),
    [
        ([], 8, {}),
        ([stretch(0, a="1")], 8, {"a.py": "1"}),
        ([stretch(0, a="1")], 0, {}),  # killed ahead of its first checkpoint
        ([stretch(0, a="1", b="1"), stretch(4, a="2")], 8, {"a.py": "2", "b.py": "1"}),
        ([stretch(0, a="1"), stretch(4, a="2")], 4, {"a.py": "1"}),
        # The second stretch took no step that is left, and the third has the first one's code.
        ([stretch(0, a="1"), stretch(4, a="2"), stretch(4, a="1")], 8, {"a.py": "1"}),
        # Damaged checkpoints: the third stretch went back behind the second.
        ([stretch(0, a="1"), stretch(6, a="2"), stretch(4, b="1")], 4, {"a.py": "1"}),
    ],
)
def test_code_counts_if_it_took_steps_that_are_left(found, step, due):
    assert stretches.trained_by(found, step) == due


def test_a_stretch_keeps_only_sources_that_are_new(tmp_path):
    stretches.begin(tmp_path, 0, ABOUT)
    stretches.end(tmp_path, 4, stopped="SIGTERM")
    stretches.end(tmp_path, 5)  # has ended already
    stretches.begin(tmp_path, 4, {**ABOUT, "sources": {"a.py": "2", "b.py": "1", "c.py": "1"}})
    first, second = stretches.read(tmp_path)
    assert (first["from"], first["to"], first["stopped"]) == (0, 4, "SIGTERM")
    assert first["begin"] <= first["end"] <= second["begin"]
    assert "end" not in second
    assert first["sources"] == ABOUT["sources"]
    assert second["sources"] == {"a.py": "2", "c.py": "1"}
    rows = stretches.summary([first, second])
    assert [row["changed"] for row in rows] == [[], ["a.py"]]
    assert not any("sources" in row for row in rows)


@pytest.mark.parametrize(
    "content",
    ["", "3", "[3]", "[{}]", '[{"from": 0, "flags": {}}]', "[" * 10**5,
     '[{"from": "0", "flags": {}, "sources": {}}]', '[{"from": 0, "flags": 3, "sources": {}}]'],
)  # fmt: skip
def test_a_damaged_file_is_said_and_put_aside(content, tmp_path):
    path = tmp_path / stretches.FILE
    path.write_text(content)
    with pytest.warns(UserWarning, match=r"stretches.json is damaged, so which code"):
        stretches.begin(tmp_path, 4, ABOUT)
    assert (tmp_path / "stretches.json.unreadable").read_text() == content
    assert json.loads(path.read_text())[0]["from"] == 4
