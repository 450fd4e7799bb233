"""Each address answers what the direct call gives, and mistakes in one line."""

import base64
import io
import json

import numpy as np
import pytest
from starlette.testclient import TestClient
from tiny_service import KINDS, make_service

from jaxir.checkpoints.model_dir import load_model
from jaxir.encode import encode_texts
from jaxir.reranker import Reranker
from jaxir.search import open_index
from jaxir.serve.access import Log
from jaxir.serve.fields import Limits
from jaxir.serve.guard import _frames, fault
from jaxir.serve.load import differences
from jaxir.serve.systems import Systems
from jaxir.types import Ranking

JSON = "application/json"
QUERY = "water from the mountains"


@pytest.fixture(scope="module")
def service(place):
    made = make_service(place)
    yield made
    made.batcher.close()


@pytest.fixture(scope="module")
def client(service):
    return TestClient(service.app)


def ask(client, **body):
    return client.post("/search", json=body)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 5, 12, 100])
def test_search_is_the_direct_call(client, place, kind, k):
    queries = [QUERY, "bread", "", "an engine burns fuel and turns a shaft that drives"]
    searcher = open_index(place / "indexes" / kind)
    direct = searcher.search_texts(queries, 12)
    answer = ask(client, queries=queries, k=k, index=kind).json()
    assert answer["index"] == kind
    assert answer["took_ms"] > 0
    for i, (query, result) in enumerate(zip(queries, answer["results"], strict=True)):
        assert result["query"] == query
        truth = Ranking(direct.doc_ids[i], direct.scores[i])
        assert len(result["hits"]) == min(k, int((truth.doc_ids >= 0).sum()))
        assert differences(result["hits"], truth, searcher.doc_ids) == ""
        (alone,) = ask(client, query=query, k=k, index=kind).json()["results"]
        assert differences(alone["hits"], truth, searcher.doc_ids) == ""


def test_documents_come_with_hits(client):
    body = {"query": QUERY, "k": 2, "index": "bm25"}
    (result,) = ask(client, **body).json()["results"]
    assert result["hits"][0]["title"] == "river"
    assert "mountains" in result["hits"][0]["text"]
    (result,) = ask(client, **body, return_documents=False).json()["results"]
    assert set(result["hits"][0]) == {"rank", "doc_id", "score"}


def test_explained_hits_add_up(client):
    body = {"query": QUERY, "k": 3, "index": "sparse", "explain": True}
    (result,) = ask(client, **body).json()["results"]
    for hit in result["hits"]:
        total = sum(match["score"] for match in hit["matches"])
        assert total == pytest.approx(hit["score"], rel=1e-5)
        assert set(hit["matches"][0]) == {
            "token", "query_weight", "doc_weight", "score",
        }  # fmt: skip
    answer = ask(client, query=QUERY, index="bm25", explain=True)
    assert answer.status_code == 400
    assert "explain: true for bm25" in answer.json()["error"]["message"]


def test_search_reranked_is_the_direct_call(client, place):
    body = {"query": QUERY, "k": 3, "index": "bm25"}
    (first,) = ask(client, **(body | {"k": 4})).json()["results"]
    (result,) = ask(client, **body, rerank=4).json()["results"]
    documents = [{"title": h["title"], "text": h["text"]} for h in first["hits"]]
    direct = Reranker(place / "reranker").rank(QUERY, documents, top_k=3)
    assert [hit["rank"] for hit in result["hits"]] == [1, 2, 3]
    for hit, ranked in zip(result["hits"], direct, strict=True):
        assert hit["doc_id"] == first["hits"][ranked["corpus_id"]]["doc_id"]
        assert hit["score"] == pytest.approx(ranked["score"], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "path"),
    [("documents", "/rerank"), ("texts", "/rerank"), ("documents", "/v2/rerank")],
)
def test_rerank_is_the_direct_call(client, place, name, path):
    documents = ["bread", "rivers carry water", {"title": "engine", "text": "burns"}]
    body = {"query": QUERY, name: documents, "top_n": 2, "return_documents": True}
    answer = client.post(path, json=body).json()
    assert answer["model"] == "reranker"
    assert answer["id"]
    direct = Reranker(place / "reranker").rank(QUERY, documents, top_k=2)
    for result, ranked in zip(answer["results"], direct, strict=True):
        assert result["index"] == ranked["corpus_id"]
        assert result["relevance_score"] == pytest.approx(ranked["score"], abs=1e-4)
        assert result["document"] == {"text": ranked["text"]}


@pytest.mark.parametrize(("kind", "side"), [("query", "query"), ("document", "doc")])
def test_embeddings_are_the_direct_call(client, place, kind, side):
    texts = ["bread", QUERY, "of " * 40]
    body = {"input": texts, "input_type": kind, "model": "dense"}
    answer = client.post("/v1/embeddings", json=body).json()
    model = load_model(place / "indexes" / "dense" / "model")
    direct = encode_texts(model, texts, side=side)
    assert answer["object"] == "list"
    assert [entry["index"] for entry in answer["data"]] == [0, 1, 2]
    for entry, vector in zip(answer["data"], direct, strict=True):
        np.testing.assert_allclose(entry["embedding"], vector, atol=1e-5)
    longest = getattr(model.config, f"{side}_length")
    assert answer["usage"]["prompt_tokens"] == 3 + 6 + longest
    coded = client.post("/v1/embeddings", json=body | {"encoding_format": "base64"})
    raw = base64.b64decode(coded.json()["data"][1]["embedding"])
    np.testing.assert_allclose(np.frombuffer(raw, "<f4"), direct[1], atol=1e-5)


def test_indexes(client):
    found = client.get("/indexes").json()["indexes"]
    assert [entry["name"] for entry in found] == list(KINDS)
    assert [entry["explain"] for entry in found] == [False, False, True]
    assert found[0] == {
        "name": "dense", "kind": "dense", "docs": 12, "model": None,
        "reranker": "reranker", "explain": False, "documents": True,
    }  # fmt: skip


def test_health_ready_and_loading(place):
    service = make_service(place, kinds=("bm25",), models=False)
    client = TestClient(service.app)
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/ready").json() == {"status": "ready"}
    service.state = "loading"
    assert client.get("/ready").status_code == 503
    answer = ask(client, query="bread")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    service.state, closed = "closing", service.systems  # before it was ready
    service.systems = Systems()
    answer = ask(client, query="bread")
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "the service is closing"
    service.systems = closed
    service.state = "closing"  # what still comes is answered, its connection closed
    answer = ask(client, query="bread")
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"
    service.batcher.close()
    assert ask(client, query="bread").status_code == 503


def test_what_is_not_there_is_said(place):
    service = make_service(place, kinds=("bm25",), models=False, texts=False)
    client = TestClient(service.app)
    for path, body, said in (
        ("/rerank", {"query": "a", "documents": ["b"]}, "no reranker here"),
        ("/v1/embeddings", {"input": "a"}, "no dense model here"),
        ("/search", {"query": "a", "rerank": True}, "rerank: asked of bm25"),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 400
        assert said in answer.json()["error"]["message"]
    (result,) = ask(client, query="bread").json()["results"]
    assert "text" not in result["hits"][0]
    service.systems.open.clear()
    assert "none is open" in ask(client, query="a").json()["error"]["message"]
    service.batcher.close()


def test_addresses(client):
    for path in ("/nothing", "/search/", "/static/", "/static/app.py",
                 "/static/..%2fapp.py", "/static/%2e%2e/app.py", "//etc/passwd",
                 "/static//etc/passwd", "/static/%00"):  # fmt: skip
        answer = client.get(path, follow_redirects=False)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["type"] == "not_found_error"
    answer = client.get("/search")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert client.head("/health").status_code == 200


def test_page(client):
    answer = client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    names = [part.split('"')[0] for part in answer.text.split('="static/')[1:]]
    assert names
    for name in names:
        assert client.get(f"/static/{name}").status_code == 200


def test_request_ids(client):
    assert client.get("/health", headers={"x-request-id": "abc.1"}).headers[
        "x-request-id"
    ] == "abc.1"  # fmt: skip
    made = client.get("/nothing", headers={"x-request-id": "a b"})
    assert len(made.headers["x-request-id"]) == 32


def test_keys(place):
    service = make_service(place, kinds=("bm25",), models=False, keys=("k1", "k2"))
    client = TestClient(service.app)
    for path in ("/health", "/ready", "/", "/openapi.json", "/static/page.js"):
        assert client.get(path).status_code in (200, 404)
    for path in ("/indexes", "/metrics"):
        assert client.get(path).status_code == 401
    answer = ask(client, query="bread")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["type"] == "authentication_error"
    for headers, status in (
        ({"authorization": "Bearer k2"}, 200), ({"x-api-key": "k1"}, 200),
        ({"authorization": "bearer k1"}, 200), ({"authorization": "Basic k1"}, 401),
        ({"authorization": "Bearer k"}, 401), ({"x-api-key": ""}, 401),
        ({"authorization": "Bearer k1x"}, 401), ({"x-api-key": b"\xff"}, 401),
    ):  # fmt: skip
        answer = client.post("/search", json={"query": "bread"}, headers=headers)
        assert answer.status_code == status, headers
    service.batcher.close()


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/search", {}, "query: neither query and queries"),
        ("/search", {"query": "a", "queries": ["b"]}, "query: both query and queries"),
        ("/search", {"query": 3}, "query: a number; expected a string"),
        ("/search", {"query": "a", "k": 0}, "k: 0; expected 1 to 20"),
        ("/search", {"query": "a", "k": 21}, "k: 21; expected 1 to 20"),
        ("/search", {"query": "a", "k": 1.5}, "k: a number; expected a whole number"),
        ("/search", {"query": "a", "k": True}, "k: a boolean"),
        ("/search", {"query": "a", "k": 10**30}, "k: a number out of range"),
        ("/search", {"queries": []}, "queries: 0 of them; expected 1 to 3"),
        ("/search", {"queries": ["a"] * 4}, "queries: 4 of them; expected 1 to 3"),
        ("/search", {"queries": ["a", None]}, r"queries\[1\]: null; expected a string"),
        ("/search", {"query": "a" * 51}, "query: 51 characters; expected at most 50"),
        ("/search", {"query": "a", "top": 3}, "an unknown name 'top'; expected one of"),
        ("/search", {"query": "a", "explain": 1}, "explain: a number; expected true"),
        ("/search", {"query": "a", "rerank": "x"}, "rerank: a string"),
        ("/search", {"query": "a", "index": 5}, "index: a number; expected one of bm"),
        ("/search", ["a"], "the body: an array; expected a JSON object"),
        ("/rerank", {"query": "a"}, "documents: neither documents and texts"),
        ("/rerank", {"query": "a", "texts": [{}]}, r"texts\[0\].text: missing"),
        ("/rerank", {"query": "a", "texts": [{"text": "b", "x": 1}]}, "unknown name"),
        ("/rerank", {"query": "a", "texts": ["b"], "return_text": True,
                     "return_documents": True}, "both return_documents and"),
        ("/rerank", {"texts": ["b"]}, "query: missing; expected a string"),
        ("/v1/embeddings", {}, "input: missing"),
        ("/v1/embeddings", {"input": "a", "dimensions": 8}, "dimensions: another"),
        ("/v1/embeddings", {"input": "a", "input_type": "x"}, "'x'; expected document"),
        ("/v1/embeddings", {"input": [[1, 2]]}, r"input\[0\]: an array"),
        ("/v1/embeddings", {"input": "a", "user": 3}, "user: a number"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(small, path, body, said):
    answer = small.post(path, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]
    with pytest.raises(ValueError, match=said):
        raise ValueError(error["message"])


@pytest.fixture(scope="module")
def small(place):
    limits = Limits(text_chars=50, queries=3, documents=4, inputs=3, k=20)
    service = make_service(place, kinds=("bm25",), limits=limits)
    yield TestClient(service.app)
    service.batcher.close()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/search", {"query": "a", "index": "none"}, "index"),
        ("/rerank", {"query": "a", "texts": ["b"], "model": "other"}, "model"),
        ("/v1/embeddings", {"input": "a", "model": "ada"}, "model"),
    ],
)
def test_names_that_are_not_there(small, path, body, param):
    answer = small.post(path, json=body)
    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == param
    assert "expected one of" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b'{"query": "\xff"}', {}, 400),
        (b'{"query": "\\ud800"}', {}, 400),
        (b'{"query": NaN}', {}, 400),
        (b'{"query": "a", "k": Infinity}', {}, 400),
        (b'{"query": "a", "k": 1e999}', {}, 400),
        (b'{"query": "a", "query": "b"}', {}, 400),
        (b'{"query": "a", "query": "a"}', {}, 400),
        (b"[" * 100_000, {}, 400),
        (b"", {}, 400),
        (b'{"query": "a"}', {"content-type": "text/plain"}, 415),
        (b'{"query": "a"}', {"content-type": ""}, 415),
        (b'{"query": "a"}', {"content-type": f"{JSON}; charset=utf-16"}, 415),
        (b'{"query": "bread"}', {"content-type": f"{JSON};charset=UTF-8"}, 200),
        (b'{"query": "a"}', {"content-encoding": "gzip"}, 415),
        (b'{"query": "' + b"a" * 3_000_000 + b'"}', {}, 413),
    ],
)  # fmt: skip
def test_bodies(client, content, headers, status):
    headers = {"content-type": JSON} | headers
    answer = client.post("/search", content=content, headers=headers)
    assert answer.status_code == status
    if status != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param"}


def test_a_fault_is_500_and_in_the_log(place, capsys):
    out = io.StringIO()
    service = make_service(place, kinds=("bm25",), models=False, log=Log(out))
    work = service.systems.open["bm25"].work(10)

    def run(items):
        try:
            raise KeyError(f"no token of {items[0].text!r}")
        except KeyError as error:
            raise ValueError(f"cannot read {items[0].text!r}") from error

    work.run = run
    for told in (False, True):
        service.log.queries = told
        answer = ask(TestClient(service.app), query="a secret")
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        assert "secret" not in answer.text
        line = json.loads(out.getvalue().splitlines()[-1])
        place = "ValueError at serve/test_app.py:"
        said = "ValueError: cannot read 'a secret'" if told else place
        assert line["error"].startswith(said)
        assert line["status"] == 500
        assert ", in run\n" in line["traceback"]
        assert "KeyError" in line["traceback"]
        assert ("secret" in out.getvalue()) == told
        assert capsys.readouterr().err == ""
    service.batcher.close()


def test_a_timeout_that_is_not_the_deadlines_is_a_fault(place):
    service = make_service(place, kinds=("bm25",), models=False)

    def run(items):
        raise TimeoutError("a disk of another machine")

    service.systems.open["bm25"].work(10).run = run
    assert ask(TestClient(service.app), query="bread").status_code == 500
    service.batcher.close()


def test_what_an_error_may_say():
    for error, said in (
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left"),
        (MemoryError("12 GB"), "MemoryError: 12 GB"),
        (ValueError("a secret"), "ValueError"),
    ):
        assert fault(error, told=False).startswith(said)
        assert "secret" not in fault(error, told=False)


def test_names_of_the_service(place):
    service = make_service(place, kinds=("bm25",), models=False)
    client = TestClient(service.app)
    for hosts, given, status in (
        (None, "evil.test", 200), ([], "evil.test", 403), ([], "127.0.0.1:80", 200),
        (["ir.test"], "ir.test:80", 200), (["ir.test"], "evil.test", 403),
    ):  # fmt: skip
        service.hosts = hosts
        for path in ("/health", "/", "/indexes"):
            answer = client.get(path, headers={"host": given})
            assert answer.status_code == status, (hosts, given, path)
        body = {"query": "bread"}
        answer = client.post("/search", json=body, headers={"host": given})
        assert answer.status_code == status
        if status == 403:
            assert answer.json()["error"]["type"] == "permission_error"
    service.batcher.close()


def test_a_body_has_one_end(client):
    headers = {"content-type": JSON, "transfer-encoding": "chunked",
               "content-length": "18"}  # fmt: skip
    answer = client.post("/search", content=b'{"query": "bread"}', headers=headers)
    assert answer.status_code == 400
    assert answer.headers["connection"] == "close"
    assert "both content-length and" in answer.json()["error"]["message"]


def test_log_without_and_with_queries(place):
    for queries in (False, True):
        out = io.StringIO()
        log = Log(out, queries=queries)
        service = make_service(place, kinds=("bm25",), models=False, log=log)
        client = TestClient(service.app)
        client.post("/search?q=private", json={"query": "bread", "k": 3},
                    headers={"x-request-id": "one"})  # fmt: skip
        client.get("/private-address")
        first, second = map(json.loads, out.getvalue().splitlines())
        assert first["id"] == "one"
        assert (first["path"], first["k"], first["count"]) == ("/search", 3, 1)
        assert first["index"] == "bm25"
        assert first["ms"] > 0
        assert second["path"] == "other"
        assert first.get("queries") == (["bread"] if queries else None)
        assert "private" not in out.getvalue()
        service.batcher.close()


def test_metrics(place):
    service = make_service(place, kinds=("bm25",), models=False)
    client = TestClient(service.app)
    ask(client, queries=["bread", "water"])
    ask(client, query=3)
    client.get("/made-up")
    text = client.get("/metrics").text
    for line in (
        'jaxir_requests_total{path="/search",status="200"} 1',
        'jaxir_requests_total{path="/search",status="400"} 1',
        'jaxir_requests_total{path="other",status="404"} 1',
        'jaxir_batch_items_sum{work="search"} 2.000000',
        'jaxir_batch_items_count{work="search"} 1',
        'jaxir_index_docs{index="bm25"} 12',
        "jaxir_ready 1", "jaxir_in_flight 0", "jaxir_waiting_items 0",
    ):  # fmt: skip
        assert line in text.splitlines(), line
    assert "made-up" not in text
    service.batcher.close()


def test_causes_in_a_circle_end():
    one, other = ValueError("a"), KeyError("b")
    one.__cause__, other.__cause__ = other, one
    assert _frames(one, told=True) == "ValueError: a\nKeyError: 'b'\n"
