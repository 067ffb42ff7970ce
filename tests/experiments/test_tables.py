"""Tables say what the ledger's files say, and the documents have the tables that are due."""

import json
import pathlib

import pytest

from experiments.ledger import field_tables, hypotheses, runs, tables

ROOT = pathlib.Path(__file__).parents[2]
RESULTS_PAGE = ROOT / "docs" / "results.md"
METHODS_PAGE = ROOT / "docs" / "which_method.md"
DATA_IN_README = (
    "CIFAR-10 (JPEG), protocol `i`, features of EfficientNet-Lite0",
    "Fashion-MNIST, protocol `i`",
    "Clothing photos, test asks train, features of EfficientNet-Lite0",
)


def summary(bits, name, mean, half_width, distance="aqd"):
    return {
        "bits": bits, "name": name, "distance": distance, "metric": "map", "mean": mean,
        "half_width": half_width, "seeds": 1 if half_width is None else 3,
    }  # fmt: skip


def write(folder, name, rows, runs):
    text = json.dumps({"name": name, "summary": rows, "runs": runs})
    (folder / f"{name}.json").write_text(text)


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(hypotheses, "HYPOTHESES", ())

    def row(name, value, distance="aqd"):
        return {"name": name, "value": value, "distance": distance, "bits": 32}

    rows = [row("codes", 0.7), row("codes float", 0.72, "float")]
    good = {"rows": rows, "bits": 32, "seed": 0, "seconds": 12.4, "commit": "abc1234"}
    failed = {"bits": 48, "seed": 0, "failed": "too few rows", "commit": "abc1234"}
    rows = [
        summary(16, "codes", 0.61, None),
        summary(32, "codes", 0.7, 0.0123),
        summary(32, "codes", 0.9, 0.1, "sqd"),
        summary(32, "codes float", 0.72, 0.01, "float"),
    ]
    write(tmp_path, "dqn_cifar10_features", rows, [good, failed])
    ablated = {
        **good,
        "rows": [row("codes", 0.65), row("codes float", 0.75), row("codes", 0.1, "sqd")],
    }
    write(tmp_path, "dqn_cifar10_features.two_step", [summary(32, "codes", 0.65, None)], [ablated])
    one = {**good, "rows": [{"name": "class-id code", "bits": 4}, {"name": "features", "bits": 96}]}
    write(tmp_path, "codes_cifar10_features", [summary(32, "pq", 0.33, None)], [one])
    return tmp_path


def test_a_table_has_means_half_widths_and_failures(results):
    text = tables.render(results)
    line = "| DQN | 0.610 | 0.700 ± 0.012 | failed: too few rows | 0.720 ± 0.010 | 0.564 | 12 s |"
    assert f"{line} abc1234 |" in text
    assert "| PQ, no labels |  | 0.330 |  | | | | abc1234 |" in text
    assert "| class-id code, 4 bits |" in text
    assert "| DQN: two step | 0.650 |  | 0.100 | 1 | abc1234 |" in text
    assert "| DQN: whole | 0.700 ± 0.012 | 0.720 ± 0.010 | 0.020 | 1 | abc1234 |" in text


def test_a_hypothesis_is_decided_at_its_length(results, monkeypatch):
    claim = hypotheses.Hypothesis("it works", ("dqn_birds",), hypotheses.above("dqn_birds", 0.5), 8)
    monkeypatch.setattr(hypotheses, "HYPOTHESES", (claim,))
    rows = {8: [0.6, 0.61], 32: [0.1, 0.11]}
    runs = [
        {"bits": bits, "seed": seed, "commit": "abc1234", "protocol": "birds",
         "rows": [{"name": "codes", "distance": "aqd", "value": value, "bits": bits}]}
        for bits, values in rows.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
    write(results, "dqn_birds", [], runs)
    assert "| it works | 0.6050, +0.1050 (+0.0415 to +0.1685) | supported |" in tables.render(
        results
    )


def test_a_data_set_of_few_codewords_has_its_lengths(results):
    summaries = [summary(8, "codes", 0.5, 0.02), summary(12, "codes float", 0.6, None, "float")]
    runs = [{"bits": bits, "seed": 0, "rows": [], "commit": "abc1234"} for bits in (8, 12)]
    write(results, "dqn_cifar10_features_few.two_step_opq", summaries, runs)
    line = "| DQN: two step opq | 0.500 ± 0.020 |  |  |  | 0.600 |  | 1 | abc1234 |"
    assert line in tables.render(results)


def test_unknown_methods_and_data_have_rows_of_their_own_names(results):
    def run(**more):
        rows = [{"name": "codes", "value": 0.5, "distance": "hamming", "bits": 32}]
        about = {"rows": rows, "bits": 32, "seed": 0, "commit": "abc1234", "protocol": "birds ii"}
        return {**about, **more}

    cell = [summary(32, "codes", 0.5, None, "hamming")]
    failed = {"bits": 32, "seed": 0, "failed": "no memory", "commit": "abc1234"}
    bits = run(rows=[{"name": "rabitq", "value": 0.4, "distance": "aqd", "bits": 32}])
    write(results, "center_hash_cifar10_features", cell, [run()])
    write(results, "center_hash_birds", cell, [run()])
    write(results, "center_hash_birds.no_centers", [], [failed])
    write(results, "codes_birds", [summary(32, "rabitq", 0.4, None)], [bits])
    known, birds, lost = tables.render(results).split("**Protocol `")
    assert "| center hash |  | 0.500 |  |  |  |  | abc1234 |" in known
    assert birds.startswith("birds ii`**")
    assert "| center hash birds |  | 0.500 |  |  |  |  | abc1234 |" in birds
    assert "| rabitq |  | 0.400 |  | | | | abc1234 |" in birds
    assert lost.startswith("unknown`: what is left out, 32 bits**")
    assert "| center hash birds: no centers | failed: no memory | failed: no memory |" in lost


def test_only_the_part_between_the_marks_changes(results, tmp_path):
    page = tmp_path / "results.md"
    page.write_text("before\n<!-- ledger: begin -->\nold\n<!-- ledger: end -->\nafter\n")
    with pytest.raises(ValueError, match="other tables than the ledger's files; run python -m"):
        tables.update(page, tables.render(results), check=True)
    tables.update(page, tables.render(results))
    text = page.read_text()
    assert text.startswith("before\n<!-- ledger: begin -->\n")
    assert text.endswith("<!-- ledger: end -->\nafter\n")
    assert "old" not in text
    tables.update(page, tables.render(results), check=True)
    page.write_text("no marks")
    with pytest.raises(ValueError, match="must have the lines"):
        tables.update(page, tables.render(results))


def test_the_results_page_has_the_tables_of_the_ledger():
    tables.update(RESULTS_PAGE, tables.render(runs.RESULTS), check=True)
    tables.update(METHODS_PAGE, field_tables.render(runs.RESULTS), check=True)


def test_readme_repeats_numbers_of_the_results_page():
    section = (ROOT / "README.md").read_text().split("\n## Results\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:2] == "| "][1:]
    page = RESULTS_PAGE.read_text()
    parts = [page.split(f"\n**{title}**\n")[1].split("\n**")[0] for title in DATA_IN_README]
    assert len(rows) == 4
    for method, *values, _ in rows:
        for value, table in zip(values, parts, strict=True):
            of_method = [line for line in table.splitlines() if line.startswith(f"| {method} |")]
            assert [line.split(" | ")[2] for line in of_method] == [value], method
