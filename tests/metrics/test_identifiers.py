import numpy as np
import pytest

from quantjax.metrics import measures


def metric_id(*, distance="aqd", ties="expected", **options):
    return measures.average_precision(**options).id(distance=distance, num_items=9000, ties=ties)


def test_id_names_every_convention():
    assert metric_id() == "map@all|ties=expected|den=capped|zero=0|dist=aqd"
    named = metric_id(top_k=5000, ties="best", denominator="hits", distance="hamming")
    assert named == "map@5000|ties=best|den=hits|zero=0|dist=hamming"
    assert metric_id(top_k=np.int64(7), distance="sqd").startswith("map@7|")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": "cosine"}, "distance must be one of 'aqd', 'sqd', 'float', 'hamming'"),
        ({"ties": "random"}, "ties must be one of 'expected', 'best', 'worst', got 'random'"),
        ({"denominator": "top"}, "denominator must be one of 'hits', 'capped', 'all'"),
        ({"top_k": 0}, "top_k must be an integer of at least 1"),
        ({"top_k": -1}, "got -1"),
        ({"top_k": "all"}, "or None for all items, got 'all'"),
    ],
)
def test_id_refuses_what_it_does_not_know(change, message):
    with pytest.raises(ValueError, match=message):
        metric_id(**change)
