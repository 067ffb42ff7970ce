"""Hypotheses stated before measuring on the queries, with the settings that each side may try.

All choices are by validation queries: `python -m experiments.ledger tune NAME` tries the settings
below, as many for each side of a comparison, and `run` takes the best.
"""

import itertools
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from quantjax.errors import InputError


class Hypothesis(NamedTuple):
    """A claim with the function that decides it.

    Attributes:
      claim: Text of the claim.
      arms: Entries of the ledger that the claim compares.
      decide: `(values by entry and role) -> (what was found, verdict)`; roles are "codes" and
        "float", values one for each seed.
      bits: Code length of the runs that decide.
    """

    claim: str
    arms: tuple[str, ...]
    decide: Callable[[dict[tuple[str, str], list[float]]], tuple[str, str]]
    bits: int = 32


def half_width(values: Sequence[float]) -> float | None:
    """Returns half the width of a mean's 95 % interval by Student's t; None below two values.

    Args:
      values: Independent values, such as of several seeds.
    """
    if len(values) < 2:
        return None
    # The standard error of the mean; with few seeds Student's t is much wider than 1.96 of them.
    spread = np.std(values, ddof=1) / math.sqrt(len(values))
    return float(stats.t.ppf(0.975, len(values) - 1) * spread)


def judge(low: float, high: float) -> str:
    """Returns the verdict of an interval: "supported", "refuted" or "undecided".

    Above 0 the interval supports the claim, below 0 it refutes the claim.
    """
    return "supported" if low > 0 else "refuted" if high < 0 else "undecided"


def interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Returns mean and 95 % interval of a - b, paired by seed.

    Args:
      a: A value for each seed.
      b: For the same seeds.

    Raises:
      ValueError: if both do not have the same number of seeds, at least two.
    """
    if len(a) != len(b) or len(a) < 2:
        raise InputError(f"there must be two seeds or more, the same, got {len(a)} and {len(b)}")
    # Paired, because a seed fixes the batches and the start of both.
    gaps = np.subtract(a, b)
    half = half_width(gaps.tolist())
    assert half is not None
    return float(gaps.mean()), float(gaps.mean() - half), float(gaps.mean() + half)


def better(a: str, b: str) -> Callable[..., tuple[str, str]]:
    """Returns the function that decides "a's codes beat b's", paired by seed."""

    def decide(values):
        gap, low, high = interval(values[a, "codes"], values[b, "codes"])
        return f"{gap:+.4f} ({low:+.4f} to {high:+.4f})", judge(low, high)

    return decide


def above(a: str, level: float) -> Callable[..., tuple[str, str]]:
    """Returns the function that decides "a's codes are above a level"."""

    def decide(values):
        found = values[a, "codes"]
        gap, low, high = interval(found, [level] * len(found))
        return f"{np.mean(found):.4f}, {gap:+.4f} ({low:+.4f} to {high:+.4f})", judge(low, high)

    return decide


def loses_less(a: str, rivals: Sequence[str]) -> Callable[..., tuple[str, str]]:
    """Returns the function that decides "a loses less by coding, at equal or better real".

    Supported if the drop is smaller than every rival's and no rival's real embedding is better, all
    outside their intervals. Refuted if the contrary of either holds against any rival.
    """

    def decide(values):
        def drops(arm):
            return np.subtract(values[arm, "float"], values[arm, "codes"])

        found, verdicts = [f"drop {np.mean(drops(a)):.4f}"], []
        # A small drop is no merit where the real embedding is worse, so both must hold.
        for rival in rivals:
            _, low, high = interval(drops(rival), drops(a))
            gap, _, best = interval(values[a, "float"], values[rival, "float"])
            drop = judge(low, high)
            verdicts.append("refuted" if best < 0 else drop)
            name = rival.partition(".")[2] or rival
            found.append(f"{name}: drop {np.mean(drops(rival)):.4f}, real {-gap:+.4f}")
        # The claim is about all rivals, so the worst verdict decides.
        for verdict in ("refuted", "undecided"):
            if verdict in verdicts:
                return "; ".join(found), verdict
        return "; ".join(found), "supported"

    return decide


def values_of(results: pathlib.Path, arms: Sequence[str], bits: int = 32) -> dict[Any, Any]:
    """Reads the values that decide hypotheses from the ledger's files.

    Args:
      results: Folder of the ledger's files.
      arms: Entries; "codes_DATA/NAME" is the row NAME of an entry that has several.
      bits: Code length.

    Returns:
      Values by entry and role, in the order of seeds.

    Raises:
      FileNotFoundError: if an entry was not run.
    """
    found: dict[Any, Any] = {}
    for arm in arms:
        entry, _, row_name = arm.partition("/")
        runs = json.loads((results / f"{entry}.json").read_text(encoding="utf-8"))["runs"]
        for run in runs:
            if run["bits"] != bits or "failed" in run:
                continue
            for row in run["rows"]:
                # Symmetric distances of the same codes are left out, and so are validation rows.
                is_codes = row["distance"] in ("aqd", "hamming") and (
                    row["name"] == (row_name or "codes")
                )
                role = "codes" if is_codes else "float" if row["name"] == "codes float" else None
                if role is not None:
                    found.setdefault((arm, role), []).append(row["value"])
    return found


_DQN, _TRIPLET = "dqn_cifar10_features", "triplet_quantization_cifar10_features"
_FEW = f"{_DQN}_few"
_ADSQ, _DEEPQUAN = "adsq_cifar10_features", "deepquan_cifar10_features"
_CODES = "codes_cifar10_features"


def _grid(**values):
    return [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]


# Around the defaults, six combinations for each side: who may try more fares better by chance.
_OF_DQN = _grid(learning_rate=(0.01, 0.03), quantization_weight=(1e-4, 1e-2, 1e-1))
# Without the weight, which it leaves out: six rates instead.
_OF_TWO_STEP = _grid(learning_rate=(0.003, 0.01, 0.02, 0.03, 0.05, 0.1))
_OF_INNER_PRODUCT = _grid(learning_rate=(0.003, 0.01, 0.03), quantization_weight=(1e-4, 1e-2))
_OF_TRIPLET = _grid(learning_rate=(0.003, 0.01), quantization_weight=(0.3, 1.0, 3.0))
_OF_ADSQ = _grid(learning_rate=(3e-4, 1e-3, 3e-3), quantization_weight=(0.05, 0.5))
_OF_DEEPQUAN = _grid(margin=(30.0, 100.0, 300.0), reconstruction_weight=(0.02, 1.0))

SETTINGS: dict[str, list[dict[str, Any]]] = {
    _DQN: _OF_DQN,
    f"{_DQN}.two_step": _OF_TWO_STEP,
    f"{_DQN}.inner_product": _OF_INNER_PRODUCT,
    _FEW: _OF_DQN,
    f"{_FEW}.two_step": _OF_TWO_STEP,
    f"{_FEW}.two_step_opq": _OF_TWO_STEP,
    f"{_FEW}.inner_product": _OF_INNER_PRODUCT,
    f"{_DQN}.paper": _grid(quantization_weight=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
    _TRIPLET: _OF_TRIPLET,
    # On another scale than the losses of triplets, which are shares of the largest distance.
    f"{_TRIPLET}.sign_error": _grid(
        learning_rate=(0.003, 0.01), quantization_weight=(0.001, 0.003, 0.01)
    ),
    f"{_TRIPLET}.no_quantization": _grid(learning_rate=(0.001, 0.002, 0.003, 0.005, 0.01, 0.02)),
    _ADSQ: _OF_ADSQ,
    f"{_ADSQ}.no_labelnet": _OF_ADSQ,
    _DEEPQUAN: _OF_DEEPQUAN,
    "dqn_clothing_features": _OF_DQN,
    "triplet_quantization_clothing_features": _OF_TRIPLET,
    "adsq_clothing_features": _OF_ADSQ,
    "deepquan_clothing_features": _OF_DEEPQUAN,
    "dqn_fashion_mnist": _grid(learning_rate=(0.1, 0.2, 0.4)),
    "triplet_quantization_fashion_mnist": _grid(learning_rate=(0.01, 0.03, 0.1)),
}
"""What `tune` tries: six settings for each side of a hypothesis. PQ and OPQ have none to choose.
Where codewords are few, 12 bits choose. For DQN with the paper's settings that is lambda among the
powers of ten of the paper's own choice, though ours weighs means, not sums.

An ablation that is not named here takes the settings of the whole, and other experiments those of
their files."""


def _at_few_bits(claim, arm):
    """Returns the claim that DQN beats an arm of 16 codewords at 8, 12 and 16 bits."""
    return tuple(
        Hypothesis(
            f"at {bits} bits {claim}", (_FEW, f"{_FEW}.{arm}"), better(_FEW, f"{_FEW}.{arm}"), bits
        )
        for bits in (8, 12, 16)
    )


HYPOTHESES = (
    Hypothesis(
        "DQN at 32 bits on CIFAR-10 (JPEG), protocol i, is above the paper's 0.564",
        (_DQN,),
        above(_DQN, 0.564),
    ),
    Hypothesis(
        "joint training beats two-step (paper, on CIFAR-10: by 2.5 points)",
        (_DQN, f"{_DQN}.two_step"),
        better(_DQN, f"{_DQN}.two_step"),
    ),
    Hypothesis(
        "the cosine loss beats the inner product (paper, on CIFAR-10: by 4.7 points)",
        (_DQN, f"{_DQN}.inner_product"),
        better(_DQN, f"{_DQN}.inner_product"),
    ),
    *_at_few_bits("joint training beats two-step (DQN2)", "two_step"),
    *_at_few_bits("joint training beats two-step with OPQ (DQN2+)", "two_step_opq"),
    *_at_few_bits("the cosine loss beats the inner product (DQNip)", "inner_product"),
    Hypothesis(
        "triplet quantization loses less from real to binary, at equal or better real mAP",
        (_TRIPLET, f"{_TRIPLET}.no_quantization", f"{_TRIPLET}.sign_error"),
        loses_less(_TRIPLET, (f"{_TRIPLET}.no_quantization", f"{_TRIPLET}.sign_error")),
    ),
    Hypothesis(
        "ADSQ with LabelNet beats ADSQ without",
        (_ADSQ, f"{_ADSQ}.no_labelnet"),
        better(_ADSQ, f"{_ADSQ}.no_labelnet"),
    ),
    Hypothesis(
        "DeepQuan beats PQ on the same features",
        (_DEEPQUAN, f"{_CODES}/pq"),
        better(_DEEPQUAN, f"{_CODES}/pq"),
    ),
    Hypothesis(
        "DeepQuan beats OPQ on the same features",
        (_DEEPQUAN, f"{_CODES}/opq"),
        better(_DEEPQUAN, f"{_CODES}/opq"),
    ),
)
"""Written before any of these entries was measured on the queries. Five seeds each. The claims at
few bits, with 16 codewords in a codebook, were added once 256 had left nothing to win.

Later, when the paper itself could be read, these were put right: the gaps that it reports (Table 2,
CIFAR-10, means of four lengths; over OPQ after training joint training has 2.9 points), the scale
of the inner product, 1 / bits for 1 / D, and with it that arm's settings and runs."""
