"""Comparing what may be compared, intervals that hold, rows that JSON can take."""

import json

import numpy as np
import pytest

from quantjax import evaluate
from quantjax.metrics import measures
from tests.evaluate.cases import N, Q, measured


def test_different_ids_are_not_compared():
    whole = measured("binary")
    cut = measured("binary", measures=[measures.average_precision(top_k=20)])
    with pytest.raises(ValueError, match=r"different quantities: b has map@20.*not map@all"):
        evaluate.compare(whole, cut)
    with pytest.raises(ValueError, match=r"a has map@all.*not map@20"):
        evaluate.compare(whole, cut, metric=cut.metric)
    with pytest.raises(ValueError, match=r"dist=float, not map@all.*dist=hamming"):
        evaluate.compare(whole, measured("float"))


def test_different_queries_or_databases_are_not_compared():
    a = measured("product l2")
    other = measured("product l2", "class ids")
    with pytest.raises(ValueError, match="the same queries in the same order"):
        evaluate.compare(a, other)
    with pytest.raises(ValueError, match="and the same database, got tasks of digest"):
        evaluate.compare(other, measured("product l2", "class ids", moved=True))
    with pytest.raises(ValueError, match="got tasks of digest"):
        evaluate.compare(a, measured("product l2", task="another split"))
    with pytest.raises(ValueError, match="one database, got 301 and 100 items"):
        evaluate.compare(a, measured("product l2", rows=np.arange(100)))


def with_values(results, values):
    return results._replace(per_query={results.metric: np.asarray(values, float)})


def test_the_comparison_is_of_query_against_query(rng):
    base = measured("binary")
    values = rng.random(Q)
    better = with_values(base, values + 0.01 + 0.001 * rng.normal(size=Q))
    found = evaluate.compare(better, with_values(base, values))
    assert found.difference == pytest.approx(0.01, abs=1e-3)
    assert 0 < found.low < found.difference < found.high  # although the values span all of 0..1
    assert found.p_value == 1 / 10_001  # no exchange of signs does as well
    assert (found.metric, found.num_queries) == (base.metric, Q)
    back = evaluate.compare(with_values(base, values), better)
    assert (back.difference, back.low, back.high) == (-found.difference, -found.high, -found.low)
    assert back.p_value == found.p_value
    shown = f"<Comparison of {Q} queries: difference +0.010 (+0.010 to +0.010), p 0.0001; "
    assert repr(found) == f"{shown}{base.metric}>"
    same = evaluate.compare(base, base)
    assert same == (base.metric, 0, 0, 0, 1, Q)
    with pytest.raises(ValueError, match="num_resamples must be 1 or more, got 0"):
        evaluate.compare(base, base, num_resamples=0)


def test_the_same_labels_in_another_form_are_the_same_task():
    ids, one_hot = (measured("product l2", kind) for kind in ("class ids", "one-hot"))
    assert evaluate.compare(ids, one_hot).difference == 0
    assert ids.numbers == one_hot.numbers


def test_p_values_of_equal_methods_are_uniform(rng):
    values = [evaluate.randomization_p_value(rng.normal(size=12)) for _ in range(300)]
    for level in (0.1, 0.5, 0.9):
        assert np.mean(np.array(values) <= level) == pytest.approx(level, abs=0.08)


def test_few_queries_prove_nothing():
    # All 2, all 4, ... choices of signs: one of each two, and of each 2^(Q - 1), is as far from 0.
    assert evaluate.randomization_p_value(np.array([0.3])) == 1
    assert evaluate.randomization_p_value(np.array([0.3, 0.2])) == pytest.approx(0.5, abs=0.02)
    assert evaluate.randomization_p_value(np.full(5, 0.1)) == pytest.approx(2 / 32, abs=0.01)
    assert np.isnan(evaluate.mean_interval(np.array([0.3]))).all()


def test_intervals_cover_the_truth_as_often_as_they_say(rng):
    covered = 0
    for _ in range(300):
        low, high = evaluate.mean_interval(rng.beta(2, 5, 60))
        covered += low <= 2 / 7 <= high
    assert 0.90 < covered / 300 < 0.98


def test_resampling_is_blind_to_the_order_of_queries(rng):
    values = rng.random(50)
    due = evaluate.resampled_means(values)
    np.testing.assert_array_equal(evaluate.resampled_means(rng.permutation(values)), due)
    assert len(due) == 2000
    assert due.std() == pytest.approx(values.std() / np.sqrt(50), rel=0.1)


def test_rows_are_plain_json_without_single_queries():
    asked = [measures.average_precision(top_k=k) for k in (None, 10)]
    results = measured("binary", measures=asked)
    rows = json.loads(json.dumps(results.rows()))
    assert [row["metric"] for row in rows] == [number.metric for number in results.numbers]
    for row, number in zip(rows, results.numbers, strict=True):
        assert row["name"] == "toy"
        assert (row["value"], row["low"], row["chance"]) == (
            number.value,
            number.low,
            number.chance,
        )
        assert row["num_database"] == N
        assert "per_query" not in row


def test_a_printed_result_says_what_it_is():
    text = str(measured("binary"))
    assert "70 queries" in text
    assert "301 items of 1 bytes (6 bits)" in text
    assert "map@all|ties=expected|den=capped|zero=0|dist=hamming" in text


def test_results_say_in_words_what_they_are():
    results = measured("binary", measures=[measures.average_precision(top_k=20)])
    number = results.numbers[0]
    assert number.short == "mAP@20"
    assert number.words == f"{number.value:.3f} ({number.low:.3f} to {number.high:.3f})"
    assert "differing bits: mAP@20 0." in repr(results)
    assert len(repr(results)) < 200
    assert measured("binary").numbers[0].short == "mAP"
    assert measured("binary", measures=[measures.precision(top_k=3)]).numbers[0].short == "p@3"


def test_results_are_a_frame_and_a_latex_table():
    results = measured(
        "binary", measures=[measures.average_precision(), measures.hit_rate(top_k=1)]
    )
    frame = results.to_frame()
    assert list(frame["value"]) == [number.value for number in results.numbers]
    table = results.to_latex(columns=("name", "bits", "value"))
    assert "toprule" in table
    assert f"{results.value:.3f}" in table
    assert "worst" not in table
    with pytest.raises(ValueError, match="no column 'mAP'; there are name, metric"):
        results.to_latex(columns=("mAP",))
