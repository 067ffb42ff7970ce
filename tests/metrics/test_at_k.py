import numpy as np
import pytest

from quantjax import metrics

# One level of three holds one relevant item, then one relevant item alone, then a tied pair.
COUNTS = np.array([[[3, 1], [1, 1], [2, 1]]])
TIES = ("worst", "expected", "best")


@pytest.mark.parametrize(
    ("metric", "options", "due"),
    [
        (metrics.precision_from_counts, {"top_k": 1}, [0, 1 / 3, 1]),
        (metrics.precision_from_counts, {"top_k": 2}, [0, 1 / 3, 1 / 2]),
        (metrics.precision_from_counts, {"top_k": 5}, [2 / 5, 2.5 / 5, 3 / 5]),
        (metrics.precision_from_counts, {"top_k": 9}, [3 / 6, 3 / 6, 3 / 6]),
        (metrics.recall_from_counts, {"top_k": 1}, [0, 1 / 9, 1 / 3]),
        (metrics.recall_from_counts, {"top_k": 4}, [2 / 3, 2 / 3, 2 / 3]),
        (metrics.recall_from_counts, {"top_k": 9}, [1, 1, 1]),
        (metrics.r_precision_from_counts, {}, [1 / 3, 1 / 3, 1 / 3]),
        (
            metrics.average_precision_at_r_from_counts,
            {},
            [1 / 9, (1 + 1 / 2 + 1 / 3) / 9, 1 / 3],
        ),
    ],
)
def test_values_made_by_hand(metric, options, due):
    got = [metric(COUNTS, ties=ties, **options)[0] for ties in TIES]
    np.testing.assert_allclose(got, due, rtol=1e-14)


def test_r_is_each_query_s_own():
    counts = np.array([[[2, 1], [4, 3]], [[2, 1], [4, 0]]])
    got = metrics.r_precision_from_counts(counts)
    np.testing.assert_allclose(got, [(1 + 2 * 3 / 4) / 4, 1 / 2], rtol=1e-14)
    got = metrics.average_precision_at_r_from_counts(counts, ties="best")
    np.testing.assert_allclose(got, [(1 + 2 / 3 + 3 / 4) / 4, 1], rtol=1e-14)
