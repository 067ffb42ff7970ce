import inspect

import numpy as np
import pytest

from quantjax.metrics import measures


def made():
    """Every measure of the module, with a cut where it takes one."""
    for name, function in inspect.getmembers(measures, inspect.isfunction):
        signature = inspect.signature(function)
        if name.startswith("_") or signature.return_annotation is not measures.Measure:
            continue
        yield name, function(**{k: 3 for k in ("top_k", "radius") if k in signature.parameters})


def test_no_two_measures_share_an_id():
    ids = [measure.id(distance="hamming", num_items=9) for _, measure in made()]
    assert len(set(ids)) == len(ids) == 12


def test_an_id_names_every_option():
    options = [
        measures.average_precision(top_k=k, denominator=den)
        for k in (None, 5, 50)
        for den in ("hits", "capped", "all")
    ]
    ids = [
        measure.id(distance=distance, num_items=20, ties=ties)
        for measure in options
        for distance in ("aqd", "sqd", "float", "hamming")
        for ties in ("worst", "expected", "best")
    ]
    assert len(set(ids)) == len(ids)


def test_a_cut_of_all_items_is_not_beyond_them():
    measure = measures.precision(top_k=20)
    due = {19: "p@all(20)", 20: "p@20", 21: "p@20"}
    for num_items, head in due.items():
        got = measure.id(distance="aqd", num_items=num_items)
        assert got == f"{head}|ties=expected|zero=0|dist=aqd"


@pytest.mark.parametrize(("name", "measure"), list(made()))
def test_chance_is_the_mean_over_random_rankings(rng, name, measure):
    # 3 items of grade 2, 4 of grade 1 and 13 of none, in 4,000 random orders.
    grades = np.repeat([2, 1, 0], [3, 4, 13])
    shuffled = rng.permuted(np.tile(grades, (4000, 1)), axis=1)
    if measure.graded:
        counts, totals = shuffled[..., None] == np.arange(3), np.array([[13, 4, 3]])
    else:
        counts, totals = shuffled[..., None] >= np.arange(2), np.array([[20, 7]])
    got = measure.chance(totals)
    if not measure.ranked:
        assert np.isnan(got).all()
        return
    values = measure.of(counts.astype(int), ties="expected")
    assert abs(got[0] - values.mean()) < 4 * values.std() / np.sqrt(len(values)), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: measures.precision(top_k=0), "top_k must be an integer of at least 1"),
        (lambda: measures.ndcg(top_k=2.5), "top_k must be an integer"),
        (lambda: measures.average_precision(denominator="hit"), "denominator must be one of"),
        (lambda: measures.wap(denominator="hit"), "denominator must be one of"),
        (lambda: measures.empty_balls(radius=-1), "radius must be an integer"),
        (lambda: measures.recall(top_k=1).id(distance="adc", num_items=2), "distance must be"),
    ],
)
def test_unknown_options_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()
