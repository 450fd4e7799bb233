"""Loading a cluster and searching it: whole, once, and as our own search finds."""

import json

import numpy as np
import pytest
from fake_opensearch import FakeOpenSearch, Refused, serving
from tiny_exports import QUERIES, sparse_index
from tiny_sparse import tiny_sparse

from jaxir.data.collection import open_collection
from jaxir.errors import InputError
from jaxir.export.opensearch_client import Client
from jaxir.export.opensearch_config import OpenSearchConfig
from jaxir.export.opensearch_live import load_index
from jaxir.export.opensearch_search import search_cluster
from jaxir.export.sparse_source import open_source, open_terms
from jaxir.index import build_index
from jaxir.manifest import DocIdFile
from jaxir.search import open_index
from jaxir.sparse.search import TwoPhase, search


@pytest.fixture
def index(tmp_path):
    """An index whose weights Lucene keeps as they are."""
    return sparse_index(tmp_path / "index", exact=True)


@pytest.fixture
def fake():
    return FakeOpenSearch()


@pytest.fixture
def url(fake):
    with serving(fake) as url:
        yield url


@pytest.fixture
def client(url):
    return Client(url, environ={}, sleep=lambda seconds: None)


def ours(index, k, **options):
    """A run of our own search."""
    source = open_source(index)
    terms = open_terms(index, source.manifest)(list(QUERIES.values()), list(QUERIES))
    found = search(source.postings, terms, k, **options)
    ids = DocIdFile(index)
    run = {}
    for name, rows, scores in zip(QUERIES, *map(np.ndarray.tolist, found), strict=True):
        kept = [
            (row, score) for row, score in zip(rows, scores, strict=True) if row >= 0
        ]
        run[name] = {ids[row]: score for row, score in kept}
    return run


def same(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        assert list(found[name]) == list(expected[name]), name
        np.testing.assert_allclose(
            list(found[name].values()), list(expected[name].values()), rtol=1e-5
        )


def test_load_and_search(index, client, fake):
    report = load_index(index, client, "docs", max_bytes=2000)
    assert report == ("docs", 40, 40, "2.19.1")
    assert len(fake.sent("_bulk")) > 3
    held = fake.indexes["docs"]
    assert len(held["docs"]) == 40
    assert held["settings"]["refresh_interval"] is None
    assert held["mappings"]["_meta"]["jaxir"]["loaded"] is True
    assert not list(index.parent.glob(".*loading*"))
    same(search_cluster(index, client, "docs", QUERIES, k=10), ours(index, 10))
    bodies = [json.loads(request[4]) for request in fake.sent("_search")]
    assert all(body["_source"] is False for body in bodies)


def test_sparse_vectors_have_ids_for_keys(index, fake, client):
    fake.version, fake.number = "3.3.0", (3, 3)
    load_index(index, client, "docs", OpenSearchConfig(field="sparse_vector"))
    doc = next(iter(fake.indexes["docs"]["docs"].values()))
    assert all(key.isdigit() for key in doc["text_sparse"])
    same(search_cluster(index, client, "docs", QUERIES, k=40), ours(index, 40))


def test_versions_before_query_tokens(index, fake, client):
    fake.version, fake.number = "2.11.0", (2, 11)
    load_index(index, client, "docs")
    run, own = search_cluster(index, client, "docs", QUERIES, k=40), ours(index, 40)
    names = [name for name in QUERIES if "." not in QUERIES[name]]
    same({name: run[name] for name in names}, {name: own[name] for name in names})
    # A token with a dot, which rank_feature takes for a field's name, adds nothing.
    assert sum(run["dots"].values()) < sum(own["dots"].values())


def test_texts_go_along(index, client, fake, tmp_path):
    lines = [
        json.dumps({"_id": doc_id, "title": "t", "text": f"text of {doc_id}"})
        for doc_id in DocIdFile(index)
    ]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    collection = open_collection(str(tmp_path / "texts"))
    config = OpenSearchConfig(text_name="text")
    load_index(index, client, "docs", config, collection=collection)
    first = json.loads(fake.sent("_bulk")[0][4].split(b"\n")[1])
    assert first["text"] == f"t text of {first['id']}"


# --------------------------------------------------------------- interruptions


def bulk_ids(fake):
    return [
        json.loads(line)["index"]["_id"]
        for request in fake.sent("_bulk")
        for line in request[4].split(b"\n")[:-1:2]
    ]


def test_an_error_in_the_middle_goes_on_and_nothing_is_twice(index, client, fake):
    ids = list(DocIdFile(index))
    fake.busy_docs[ids[25]] = [400]
    with pytest.raises(
        InputError, match=r"refused \(mapper_parsing_exception.*goes on"
    ):
        load_index(index, client, "docs", max_bytes=2000)
    assert fake.indexes["docs"]["mappings"]["_meta"]["jaxir"]["loaded"] is False
    first = set(bulk_ids(fake))
    with pytest.raises(InputError, match=r"is not loaded to its end"):
        search_cluster(index, client, "docs", QUERIES)
    fake.requests.clear()
    report = load_index(index, client, "docs", max_bytes=2000)
    again = sorted(bulk_ids(fake), key=ids.index)  # two requests go side by side
    assert 0 < report.sent < 40
    assert report.docs == 40
    assert again == ids[40 - report.sent :]  # from the first that may lack
    assert first | set(again) == set(ids)
    assert len(fake.indexes["docs"]["visible"]) == 40
    same(search_cluster(index, client, "docs", QUERIES, k=10), ours(index, 10))


def test_what_is_loaded_is_not_loaded_again(index, client, fake):
    load_index(index, client, "docs")
    fake.requests.clear()
    assert load_index(index, client, "docs").sent == 0
    assert not fake.sent("_bulk")


def test_an_index_that_stands_gets_the_pipeline_that_is_asked_for(index, client, fake):
    load_index(index, client, "docs")
    config = OpenSearchConfig(two_phase=TwoPhase())
    assert load_index(index, client, "docs", config).sent == 0
    settings = fake.indexes["docs"]["settings"]
    assert settings["search.default_pipeline"] == "docs-two-phase"
    assert "docs-two-phase" in fake.pipelines


def test_the_working_directory_is_an_index(index, client, fake, monkeypatch):
    monkeypatch.chdir(index)
    assert load_index(".", client, "docs").sent == 40
    assert not list(index.parent.glob(".*loading*"))


def test_a_note_that_is_damaged_counts_for_nothing(index, client, fake):
    fake.busy_docs[DocIdFile(index)[25]] = [400]
    with pytest.raises(InputError, match="refused"):
        load_index(index, client, "docs", max_bytes=2000)
    (note,) = index.parent.glob(".*loading.json")
    found = json.loads(note.read_text())
    note.write_text(json.dumps({**found, "rows": None}))
    assert load_index(index, client, "docs").sent == 40


def test_an_index_deleted_in_between_begins_anew(index, client, fake):
    fake.busy_docs[DocIdFile(index)[25]] = [400]
    with pytest.raises(InputError, match="refused"):
        load_index(index, client, "docs", max_bytes=2000)
    del fake.indexes["docs"]
    assert load_index(index, client, "docs").sent == 40


@pytest.mark.parametrize("drop", ["before", "after"])
def test_dropped_connections(index, client, fake, drop):
    for part in ("_bulk", "_bulk", "_refresh", "docs", "_settings"):
        fake.fail(part, drop=drop)
    assert load_index(index, client, "docs", max_bytes=2000).docs == 40
    assert not fake.faults


def test_busy_documents_alone_are_sent_again(index, client, fake):
    ids = list(DocIdFile(index))
    fake.busy_docs = {ids[3]: [429, 503], ids[7]: [429]}
    load_index(index, client, "docs")
    assert len(bulk_ids(fake)) == 40 + 2 + 1
    assert len(fake.indexes["docs"]["docs"]) == 40
    fake.busy_docs = {ids[3]: [429] * 20}
    with pytest.raises(InputError, match=r"too busy for 1 documents; run it again"):
        load_index(index, client, "others")


def test_requests_that_are_too_large_are_halved(index, client, fake):
    fake.max_bytes = 3000
    load_index(index, client, "docs")
    assert len(fake.indexes["docs"]["docs"]) == 40
    fake.max_bytes = 200
    with pytest.raises(InputError, match=r"too many for the cluster"):
        load_index(index, client, "others")


# -------------------------------------------------------------------- refusals


def test_another_mapping_is_refused(index, client, fake):
    load_index(index, client, "docs")
    field = fake.indexes["docs"]["mappings"]["properties"]
    field["text_sparse"] = {"type": "text"}
    with pytest.raises(
        InputError, match=r"its field 'text_sparse' is .*text.*expected"
    ):
        load_index(index, client, "docs")
    del field["text_sparse"]
    with pytest.raises(InputError, match=r"its field 'text_sparse' is missing"):
        load_index(index, client, "docs")


def test_shards_are_fixed_and_replicas_are_not(index, client, fake):
    settings = lambda: fake.indexes["docs"]["settings"]  # noqa: E731
    load_index(index, client, "docs", OpenSearchConfig(shards=3, replicas=2))
    assert (settings()["number_of_shards"], settings()["number_of_replicas"]) == (3, 2)
    again = load_index(index, client, "docs", OpenSearchConfig(replicas=0))
    assert (again.sent, settings()["number_of_replicas"]) == (0, 0)
    load_index(index, client, "docs", OpenSearchConfig(shards=3))
    assert settings()["number_of_replicas"] == 0
    with pytest.raises(InputError, match=r"docs: shards: 3; expected 2; .*--name"):
        load_index(index, client, "docs", OpenSearchConfig(shards=2))


def test_another_index_is_refused(index, client, tmp_path, fake):
    load_index(index, client, "docs")
    other = sparse_index(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"holds another index; expected .*--name"):
        load_index(other, client, "docs")
    fake.indexes["docs"]["mappings"]["_meta"]["jaxir"]["model_fingerprint"] = "else"
    with pytest.raises(InputError, match=r"encoded by another model"):
        search_cluster(index, client, "docs", QUERIES)
    del fake.indexes["docs"]["mappings"]["_meta"]
    with pytest.raises(InputError, match=r"holds 40 documents of something else"):
        load_index(index, client, "docs")
    with pytest.raises(InputError, match=r"was not loaded by jaxir"):
        search_cluster(index, client, "docs", QUERIES)
    with pytest.raises(InputError, match=r"no such index"):
        search_cluster(index, client, "nothing", QUERIES)


def test_weights_of_bm25_belong_to_one_index(index, client, tmp_path):
    other = sparse_index(tmp_path / "other", seed=1)
    for place in (index, other):  # BM25 has no model
        manifest = json.loads((place / "manifest.json").read_text())
        text = json.dumps({**manifest, "model_fingerprint": ""})
        (place / "manifest.json").write_text(text)
    load_index(index, client, "docs")
    assert search_cluster(index, client, "docs", QUERIES, k=1)["one"]
    with pytest.raises(InputError, match=r"encoded by another model"):
        search_cluster(other, client, "docs", QUERIES, k=1)


def test_an_index_that_someone_made_is_filled(index, client, fake):
    load_index(index, client, "docs")
    held = fake.indexes["docs"]
    held["docs"], held["visible"] = {}, {}
    del held["mappings"]["_meta"]
    assert load_index(index, client, "docs").sent == 40
    assert held["mappings"]["_meta"]["jaxir"]["loaded"] is True


def test_a_count_that_differs(index, client, fake):
    real = fake.take

    def losing(held, doc_id, source):
        item = real(held, doc_id, source)
        held["docs"].pop("d7", None)
        return item

    fake.take = losing
    with pytest.raises(InputError, match=r"39 documents; expected the index's 40"):
        load_index(index, client, "docs")


def test_old_clusters_and_others(index, client, fake, url):
    fake.version, fake.number = "2.9.0", (2, 9)
    with pytest.raises(InputError, match=r"OpenSearch 2\.9\.0; expected 2\.11"):
        load_index(index, client, "docs")
    fake.version, fake.number = "2.11.0", (2, 11)
    config = OpenSearchConfig(two_phase=TwoPhase())
    with pytest.raises(InputError, match=r"two-phase processor in OpenSearch 2\.11"):
        load_index(index, client, "docs", config)
    fake.fail("/", status=200, body={"version": {"number": "8.1"}})
    with pytest.raises(InputError, match=r"not OpenSearch .*8\.1"):
        load_index(index, client, "docs")


def test_an_index_that_cannot_be_made_says_why(index, client, fake):
    def refuse(mapping, settings):
        raise Refused(400, "no_plugin", "neural-search lacks")

    fake.check_field = refuse
    with pytest.raises(InputError, match=r"not made \(no_plugin: neural-search lacks"):
        load_index(index, client, "docs")


def test_answers_that_are_not_whole(index, client, fake):
    load_index(index, client, "docs")
    body = {"timed_out": False, "_shards": {"failed": 2}, "hits": {"hits": []}}
    fake.fail("_search", status=200, body=body)
    with pytest.raises(InputError, match=r"incomplete: 2 shards failed"):
        search_cluster(index, client, "docs", QUERIES)
    fake.fail("_search", status=200, body={"timed_out": True})
    with pytest.raises(InputError, match=r"timed out; expected an answer of all"):
        search_cluster(index, client, "docs", QUERIES)


def test_an_answer_about_other_documents(index, client, fake):
    item = {"index": {"_id": "stranger", "status": 201}}
    fake.fail("_bulk", status=200, body={"errors": False, "items": [item]})
    with pytest.raises(InputError, match=r"an answer about other documents"):
        load_index(index, client, "docs")


def test_ids_that_are_too_long(client, tmp_path):
    index = sparse_index(tmp_path / "index", prefix="ü" * 300)
    with pytest.raises(InputError, match=r"an id of 601 bytes; expected at most 512"):
        load_index(index, client, "docs")


def test_texts_that_are_not_given(index, client):
    with pytest.raises(InputError, match=r"--texts: not given"):
        load_index(index, client, "docs", OpenSearchConfig(text_name="text"))


@pytest.mark.slow
def test_a_query_encoder(client, tiny_collection, tmp_path):
    model = tiny_sparse(tmp_path / "words", query="encoder")
    build_index(model, str(tiny_collection), tmp_path / "encoder")
    load_index(tmp_path / "encoder", client, "docs")
    texts = {"one": "rivers carry clay", "two": "bake bread in ovens"}
    run = search_cluster(tmp_path / "encoder", client, "docs", texts, k=3)
    own = open_index(tmp_path / "encoder").search(texts, k=12)
    for name, results in run.items():
        assert len(results) == 3
        for doc, score in results.items():
            assert score == pytest.approx(own[name][doc], rel=1 / 256)
