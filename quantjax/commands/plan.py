"""Implements `quantjax plan`: finds the cheapest codes of vectors that reach a recall."""

import argparse
import json
import re
import shlex

from quantjax import data, recipes
from quantjax.run import compile_cache, console
from quantjax.run.paths import user_path

MISSED = 3
"""Exit status if no setting reaches the recall; the nearest is marked."""

_UNITS = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to its parser."""
    add = parser.add_argument
    text = "vectors [N, D], compared by Euclid: .npy, .fvecs, .bvecs, .ivecs or .parquet"
    add("vectors", metavar="VECTORS", type=user_path, help=text)
    text = "memory for all N items, such as 2GB or 500MiB"
    add("--ram", metavar="SIZE", type=_size, required=True, help=text)
    text = "share of the k nearest neighbours to find, and k, such as 0.9@10"
    add("--recall", metavar="R@K", type=_target, required=True, help=text)
    text = "rows that search, drawn at random; 200 where absent"
    add("--num_queries", metavar="N", type=int, default=200, help=text)
    text = "rows that are searched, drawn at random; 100,000 where absent"
    add("--sample", metavar="N", type=int, default=100_000, help=text)
    add("--seed", metavar="N", type=int, default=0, help="seed of all randomness; 0 where absent")
    add("--json", action="store_true", help="print one JSON object in place of a table")


def _size(text):
    """Parses a size such as 2GB into bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text)
    if not found or (found[2] or "B") not in _UNITS:
        raise argparse.ArgumentTypeError(f"must be a size such as 2GB or 500MiB, got {text}")
    return float(found[1]) * _UNITS[found[2] or "B"]


def _target(text):
    """Parses --recall=0.9@10 into a share and k."""
    found = re.fullmatch(r"(0?\.\d+|1|1\.0+)@(\d{1,3})", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be a share and k, such as 0.9@10, got {text}")
    return float(found[1]), int(found[2])


def run(arguments: argparse.Namespace) -> int:
    """Runs the command with its parsed arguments; returns its exit status."""
    compile_cache.keep_programs()
    recall, k = arguments.recall
    x = data.read_vectors(arguments.vectors)
    trials = recipes.plan(
        x,
        k=k,
        recall=recall,
        ram=arguments.ram,
        num_queries=arguments.num_queries,
        most_rows=arguments.sample,
        seed=arguments.seed,
        # A line for each, since nobody knows at the start how many it takes.
        report=_say_measured,
    )
    best = recipes.front(trials)
    choice = recipes.choose(trials, recall)
    commands = _commands(arguments, choice.setting, k)
    searched = min(arguments.sample, len(x) - arguments.num_queries)
    if arguments.json:
        found = {"rows": len(x), "sample": searched, "met": choice.recall >= recall}
        found |= {"choice": _row(choice), "front": [_row(trial) for trial in best]}
        print(json.dumps({**found, "commands": commands}))
    else:
        _report(best, choice, recall, k, len(x), searched)
        console.say("\n".join(commands))
    return 0 if choice.recall >= recall else MISSED


def _say_measured(trial):
    console.say(f"measured {_words(trial.setting)}: recall {trial.recall:.3f}")


def _row(trial):
    """Returns a trial as one flat dict for JSON."""
    row = {**trial.setting._asdict(), **trial._asdict()}
    del row["setting"]
    return row


def _words(setting):
    """Returns a setting in words, such as "opq of 64 bits, re-ranks 100"."""
    words = f"{setting.codec} of {setting.bits} bits"
    # K is 256 mostly, and signs have none.
    if setting.num_codewords not in (None, 256):
        words += f" ({setting.num_codewords} codewords)"
    if setting.num_lists:
        words += f", probes {setting.num_probes} of {setting.num_lists} lists"
    return words + (f", re-ranks {setting.rerank}" if setting.rerank else "")


def _report(best, choice, recall, k, num_rows, searched):
    """Prints the front, cheapest first, and which stage of the choice loses most recall."""
    console.say(f"{'recall@' + str(k):>11}  {'bytes':>7}  {'GB':>8}  {'queries/s':>9}")
    for trial in best:
        mark = "*" if trial.setting == choice.setting else " "
        total = trial.num_bytes * num_rows / 1e9
        console.say(
            f"{mark}{trial.recall:10.3f}  {trial.num_bytes:7.1f}  {total:8.3f}  "
            f"{trial.queries_per_second:9,.0f}  {_words(trial.setting)}; {_lost(trial)}"
        )
    verdict = "the cheapest that reaches" if choice.recall >= recall else "the nearest to"
    console.say(f"* is {verdict} recall {recall:g}: {_words(choice.setting)}")
    if searched < num_rows:
        console.say(
            f"measured on {searched:,} of {num_rows:,} rows: among all, recall is lower, and a "
            "search that scans all codes is slower"
        )


def _lost(trial):
    stage, share = max(trial.lost.items(), key=lambda item: item[1])
    return f"{stage} lose {share:.3f}" if stage != "depth" else f"the depth loses {share:.3f}"


def _commands(arguments, setting, k):
    """Returns the lines that make and search the index of a setting."""
    vectors = shlex.quote(str(arguments.vectors))
    fit = f"quantjax fit {vectors} -o CODEC --bits={setting.bits} --codec={setting.codec}"
    # `fit` takes the most codewords that divide the bits.
    if setting.num_codewords not in (None, 256):
        fit += f" --num_codewords={setting.num_codewords}"
    encode = f"quantjax encode CODEC {vectors} -o INDEX"
    search = f"quantjax search INDEX QUERIES -k {k}"
    if setting.num_lists:
        encode += f" --num_lists={setting.num_lists}"
        search += f" --num_probes={setting.num_probes}"
    if setting.rerank:
        encode += " --vectors"
        search += f" --rerank={setting.rerank}"
    return [fit, encode, search]
