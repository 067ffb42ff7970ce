"""The server's answers: neighbours are those of `index.search`, and every state has its answer."""

import io

import numpy as np
import pytest
from PIL import Image

from quantjax import index as indexing
from tests.serve import shops


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return shops.make(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def server(shop):
    with shops.serving(shop) as server:
        yield server


def rows_of(reply):
    return [item["row"] for item in reply.json["neighbours"]]


def test_the_page_is_four_files_with_their_types(server):
    for path, kind in (
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
    ):
        reply = server.ask(path)
        assert reply.status == 200
        assert reply.headers.get_content_type() == kind
        assert len(reply.body) > 100


def test_the_description_counts_items_bytes_and_classes(server):
    about = server.ask("/api/index").json
    assert about["count"] == 24
    assert (about["bits"], about["num_bytes"], about["vector_bytes"]) == (12, 2, 24)
    assert about["classes"] == [{"name": name, "count": 8} for name in shops.COLOURS]
    assert about["modes"] == ["aqd", "sqd", "rerank"]
    assert about["encoder"] is about["pictures"] is True


@pytest.mark.parametrize(
    ("mode", "options"),
    [("aqd", {}), ("sqd", {"symmetric": True}), ("rerank", {"rerank": 24})],
)
def test_neighbours_of_an_upload_are_those_of_the_search(shop, server, tmp_path, mode, options):
    photo = shops.png((90, 70, 150), noise=99)
    path = tmp_path / "new.png"
    path.write_bytes(photo)
    query = shop.encoder.embed_query([path])
    due = indexing.search(shop.index, query, top_k=7, **options)
    reply = server.send(photo, f"/api/search?mode={mode}&count=7")
    assert reply.status == 200
    assert rows_of(reply) == due.rows[0].tolist()
    items = reply.json["neighbours"]
    assert [item["id"] for item in items] == due.ids[0].tolist()
    assert [item["class"] for item in items] == [name.split("/")[0] for name in due.ids[0]]
    np.testing.assert_allclose([item["distance"] for item in items], due.distances[0], rtol=1e-6)
    assert reply.json["query"] == {"id": "upload", "source": "photo"}
    assert reply.json["encode_ms"] > 0
    assert reply.json["search_ms"] > 0


def test_an_item_is_not_its_own_neighbour(shop, server):
    reply = server.ask("/api/search?row=9&count=23")
    assert sorted([*rows_of(reply), 9]) == list(range(24))
    query = shop.encoder.embed_query([shop.root / shop.index.ids[9]])
    due = indexing.search(shop.index, query, top_k=24).rows[0]
    assert rows_of(reply) == [row for row in due.tolist() if row != 9]
    assert reply.json["query"] == {
        "row": 9, "id": "green/1.png", "class": "green", "source": "photo"
    }  # fmt: skip


def test_a_class_is_all_that_is_searched(server):
    reply = server.ask("/api/search?row=1&class=red&count=20")
    assert sorted(rows_of(reply)) == list(range(16, 24))
    items = server.ask("/api/random?class=green&count=99").json["items"]
    assert sorted(item["row"] for item in items) == list(range(8, 16))


def test_random_items_are_different_ones(server):
    draws = [server.ask("/api/random?count=6").json["items"] for _ in range(9)]
    assert all(len({item["row"] for item in items}) == 6 for items in draws)
    assert len({tuple(item["row"] for item in items) for items in draws}) > 1


def test_without_an_encoder_items_are_searched_by_vector_or_code(shop):
    index = shop.index
    bare = shop._replace(encoder=None)
    codes_only = bare._replace(index=index._replace(vectors=None))
    for collection, source, query in (
        (bare, "vector", np.float32(index.vectors[3:4])),
        (codes_only, "code", index.codec.decode(index.codes[3:4])),
    ):
        due = indexing.search(index, np.asarray(query), top_k=24).rows[0].tolist()
        with shops.serving(collection) as server:
            reply = server.ask("/api/search?row=3&count=23")
            assert rows_of(reply) == [row for row in due if row != 3]
            assert reply.json["query"]["source"] == source
            assert reply.json["encode_ms"] is None
            assert server.ask("/api/index").json["encoder"] is False
            refused = server.send(shops.png((1, 2, 3)))
            assert refused.status == 409
            assert refused.json["error"].startswith("this index has no encoder")


def test_binary_codes_are_searched_by_hamming_distance(tmp_path):
    collection = shops.make(tmp_path, binary=True, vectors=False)
    with shops.serving(collection) as server:
        assert server.ask("/api/index").json["modes"] == ["hamming"]
        found = server.ask("/api/search?row=0&count=23").json["neighbours"]
        due = np.unpackbits(collection.index.codes ^ collection.index.codes[0], axis=1).sum(1)
        assert all(item["distance"] == due[item["row"]] for item in found)
        keys = [(item["distance"], item["row"]) for item in found]
        assert keys == sorted(keys)


def test_an_empty_index_has_no_items(shop):
    index = shop.index
    empty = index._replace(codes=index.codes[:0], ids=index.ids[:0], vectors=None, labels=None)
    with shops.serving(shop._replace(index=empty)) as server:
        assert server.ask("/api/index").json["classes"] == []
        assert server.ask("/api/random").json == {"items": []}
        assert server.send(shops.png((1, 2, 3))).json["neighbours"] == []
        assert server.ask("/api/search?row=0").status == 404


def test_pictures_are_small_jpegs_of_the_whole_photo(shop, server):
    Image.new("RGB", (900, 300), (9, 90, 200)).save(shop.root / "wide.png")
    index = shop.index
    ids = np.array([*index.ids[:-1], "wide.png"], object)
    with shops.serving(shop._replace(index=index._replace(ids=ids))) as server:
        reply = server.ask("/images/23?v=1")
        assert reply.headers.get_content_type() == "image/jpeg"
        assert "immutable" in reply.headers["cache-control"]
        image = Image.open(io.BytesIO(reply.body))
        assert image.size == (448, 149)
        np.testing.assert_allclose(np.asarray(image)[70, 200], (9, 90, 200), atol=4)


def test_items_whose_photo_is_away_have_none(shop):
    index = shop.index
    ids = np.array(["gone.png", *index.ids[1:]], object)
    with shops.serving(shop._replace(index=index._replace(ids=ids))) as server:
        reply = server.ask("/images/0")
        assert (reply.status, reply.json) == (404, {"error": "item 0 has no photo"})
        assert server.ask("/api/search?row=0").json["query"]["source"] == "vector"
    numbers = shop._replace(index=index._replace(ids=np.arange(24)))
    with shops.serving(numbers) as server:
        assert server.ask("/images/0").status == 404
        assert server.ask("/api/random?count=1").json["items"][0]["id"].isdecimal()


def test_names_that_are_not_utf8_are_answered(shop):
    ids = np.array(["caf\udce9.png", *shop.index.ids[1:]], object)
    with shops.serving(shop._replace(index=shop.index._replace(ids=ids))) as server:
        assert server.ask("/api/search?row=0").json["query"]["id"] == "caf?.png"
