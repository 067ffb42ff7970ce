"""NDCG and average cumulative gain, exact in ties, from distances or from counts by grade."""

import jax

from quantjax.metrics.checks import check_ties
from quantjax.metrics.discount import discount_sums
from quantjax.metrics.entry import measure_graded_counts, measure_grades
from quantjax.metrics.graded import arrange, gain_values, graded_levels
from quantjax.metrics.harmonic import Array
from quantjax.metrics.identifiers import check_cut
from quantjax.metrics.levels import ranks_inside


def ndcg(
    distances: Array,
    grades: Array,
    *,
    num_grades: int,
    top_k: int | None = None,
    ties: str = "expected",
) -> jax.Array:
    """Measures discounted gain against the ideal ranking's: NDCG@K.

    DCG@K = sum_{i=1..K} (2^grade_i - 1) / log2(i + 1), divided by that of all items by falling
    grade, cut at the same K.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; equal ones are ties.
      grades: Number of labels the item shares with the query, [Q, N] integers.
      num_grades: One more than the largest grade that can be, 2 to 64.
      top_k: K; None, or more than N, ranks all items.
      ties: "expected" (the mean over all orders of ties), "best" or "worst".

    Returns:
      NDCG of every query, [Q] float32 in 0..1; 0 where nothing is relevant.

    Raises:
      ValueError: if shapes or types do not agree, a grade is not below `num_grades`, an option is
        unknown, or a distance is NaN (values inside jit are not seen).

    Reference:
      Jarvelin & Kekalainen, Cumulated Gain-Based Evaluation of IR Techniques, TOIS 2002, with the
      gain of Burges et al., Learning to Rank using Gradient Descent, ICML 2005; ties by McSherry &
      Najork, ECIR 2008.
    """
    check_cut(top_k)
    check_ties(ties)
    return measure_grades(_ndcg, distances, grades, num_grades, top_k, ties)


def ndcg_from_counts(counts: Array, *, top_k: int | None = None, ties: str = "expected") -> Array:
    """Computes `ndcg` from the number of items of each grade at each distance.

    Args:
      counts: Items of grade 0..G-1 at every level of distance, nearest level first, integers
        [Q, levels, G]; empty levels may stand anywhere.
      top_k: K, or None for all items.
      ties: "expected", "best" or "worst".

    Returns:
      NDCG of every query, [Q]: NumPy counts give NumPy float64, JAX counts float32.

    Raises:
      ValueError: if `counts` is not integer [Q, levels, G], holds a negative number, or an option
        is unknown.
    """
    check_cut(top_k)
    check_ties(ties)
    return measure_graded_counts(_ndcg, counts, top_k, ties)


def acg(
    distances: Array,
    grades: Array,
    *,
    num_grades: int,
    top_k: int | None,
    ties: str = "expected",
) -> jax.Array:
    """Measures the mean grade of the first K items: average cumulative gain.

    ACG@K = sum_{i=1..K} grade_i / min(K, N), with `min` as in `precision`.

    Args:
      distances: Smaller is nearer, [Q, N] real numbers; equal ones are ties.
      grades: Number of labels the item shares with the query, [Q, N] integers.
      num_grades: One more than the largest grade that can be, 2 to 64.
      top_k: K; None, or more than N, takes all items.
      ties: "expected" (the mean over all orders of ties), "best" or "worst".

    Returns:
      Average cumulative gain of every query, [Q] float32, in labels; 0 where nothing is relevant.

    Raises:
      ValueError: as `ndcg`.

    Reference:
      Zhao et al., Deep Semantic Ranking Based Hashing for Multi-Label Image Retrieval, CVPR 2015;
      Jarvelin & Kekalainen, IR Evaluation Methods for Retrieving Highly Relevant Documents, SIGIR
      2000.
    """
    check_cut(top_k)
    check_ties(ties)
    return measure_grades(_acg, distances, grades, num_grades, top_k, ties)


def acg_from_counts(counts: Array, *, top_k: int | None, ties: str = "expected") -> Array:
    """Computes `acg` from the number of items of each grade at each distance.

    Args:
      counts: Items of grade 0..G-1 at every level, integers [Q, levels, G].
      top_k: K; None takes all items.
      ties: "expected", "best" or "worst".

    Returns:
      Average cumulative gain of every query, [Q]: NumPy counts give NumPy float64, JAX counts
      float32.

    Raises:
      ValueError: as `ndcg_from_counts`.
    """
    check_cut(top_k)
    check_ties(ties)
    return measure_graded_counts(_acg, counts, top_k, ties)


def _ndcg(counts, top_k, ties):
    xp = counts.__array_namespace__()
    ideal = _discounted(counts.sum(1, keepdims=True), top_k, "best")
    gained = _discounted(counts, top_k, ties)
    return xp.where(ideal > 0, gained / xp.where(ideal > 0, ideal, 1.0), 0.0)


def _discounted(counts, top_k, ties):
    xp = counts.__array_namespace__()
    levels = graded_levels(counts, ties)
    gains = arrange(counts * gain_values(counts), ties)
    inside = ranks_inside(levels.items, levels.items_before, top_k)
    # Without gain a level need not be summed, which saves NumPy most of a ranking.
    discounts = discount_sums(levels.items_before, xp.where(gains > 0, inside, 0))
    return (gains / xp.maximum(levels.items, 1) * discounts).sum(1)


def _acg(counts, top_k, ties):
    xp = counts.__array_namespace__()
    levels = graded_levels(counts, ties)
    items = counts.sum((1, 2))
    shown = items if top_k is None else xp.minimum(items, top_k)
    inside = ranks_inside(levels.items, levels.items_before, top_k)
    mean_grade = levels.grades / xp.maximum(levels.items, 1)
    return (mean_grade * inside).sum(1) / xp.maximum(shown, 1)
