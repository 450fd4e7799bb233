"""What any cluster must do: the tests' own one, and that of JAXIR_OPENSEARCH_URL."""

import json
import os
import uuid

import numpy as np
import pytest
from fake_opensearch import FakeOpenSearch, serving
from tiny_exports import QUERIES, sparse_index

from jaxir.errors import InputError
from jaxir.export.opensearch_client import Client
from jaxir.export.opensearch_config import OpenSearchConfig, version_number
from jaxir.export.opensearch_files import ExportOptions, export_index
from jaxir.export.opensearch_live import load_index
from jaxir.export.opensearch_search import search_cluster
from jaxir.export.sparse_source import open_source, open_terms
from jaxir.manifest import DocIdFile
from jaxir.sparse.search import TwoPhase, search


@pytest.fixture(params=["fake 2.13.0", "fake 2.19.1", "fake 3.3.0", "real"])
def client(request):
    if request.param == "real":
        url = os.environ.get("JAXIR_OPENSEARCH_URL")
        if not url:
            pytest.skip("JAXIR_OPENSEARCH_URL names no cluster; see ci/test_opensearch")
        yield Client(url)
    else:
        with serving(FakeOpenSearch(request.param.split()[1])) as url:
            yield Client(url, environ={})


@pytest.fixture
def number(client):
    return version_number(client.version())


@pytest.fixture
def name(client):
    """A name that nobody has, and nothing left of it in the end."""
    name = f"jaxir-test-{uuid.uuid4().hex[:12]}"
    yield name
    pipeline = f"/_search/pipeline/{name}-two-phase"
    for path in (f"/{name}", pipeline):
        client.request("DELETE", path, accept=(200, 404))


@pytest.fixture
def index(tmp_path):
    """An index whose weights Lucene keeps as they are."""
    return sparse_index(tmp_path / "index", exact=True)


def ours(index, k, **options):
    """A run of our own search."""
    source = open_source(index)
    texts = list(QUERIES.values()), list(QUERIES)
    terms = open_terms(index, source.manifest)(*texts)
    found = search(source.postings, terms, k, **options)
    ids, run = DocIdFile(index), {}
    for name, rows, scores in zip(QUERIES, *map(np.ndarray.tolist, found), strict=True):
        kept = [pair for pair in zip(rows, scores, strict=True) if pair[0] >= 0]
        run[name] = {ids[row]: score for row, score in kept}
    return run


def same(found, expected, number):
    """Documents in the same order; before 2.14 of queries without a dot alone."""
    assert found.keys() == expected.keys()
    for name in found:
        if name == "dots" and number < (2, 14):
            continue
        assert list(found[name]) == list(expected[name]), name
        values = list(found[name].values()), list(expected[name].values())
        np.testing.assert_allclose(*values, rtol=1e-5)


def test_exact(client, name, index, number):
    assert load_index(index, client, name, max_bytes=2000).sent == 40
    run = search_cluster(index, client, name, QUERIES, k=10)
    same(run, ours(index, 10), number)
    assert load_index(index, client, name).sent == 0  # nothing is done twice


@pytest.mark.parametrize("ratio", [0.0, 0.4, 0.9])
def test_two_phases(client, name, index, number, ratio):
    phases = TwoPhase(prune_ratio=ratio, expansion_rate=1.5)
    config = OpenSearchConfig(two_phase=phases)
    if number < (2, 15):
        with pytest.raises(InputError, match=r"two-phase processor in OpenSearch"):
            load_index(index, client, name, config)
        return
    load_index(index, client, name, config)
    run = search_cluster(index, client, name, QUERIES, k=4, two_phase=phases)
    same(run, ours(index, 4, method="two_phase", two_phase=phases), number)
    # The pipeline that the index has by itself is passed by.
    run = search_cluster(index, client, name, QUERIES, k=4)
    same(run, ours(index, 4), number)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_stored_weights_are_a_little_smaller(client, name, tmp_path, number, dtype):
    index = sparse_index(tmp_path / "index", dtype=dtype)
    load_index(index, client, name)
    run = search_cluster(index, client, name, QUERIES, k=40)
    for query, results in ours(index, 40).items():
        if query == "dots" and number < (2, 14):
            continue
        assert run[query].keys() == results.keys()
        for doc, score in results.items():
            assert score * (1 - 1 / 256) <= run[query][doc] <= score * (1 + 1e-5)


def test_sparse_vectors(client, name, index, number):
    config = OpenSearchConfig(field="sparse_vector")
    if number < (3, 3):
        with pytest.raises(InputError, match=r"sparse_vector in OpenSearch"):
            load_index(index, client, name, config)
        return
    load_index(index, client, name, config)
    run = search_cluster(index, client, name, QUERIES, k=10)
    # Fewer documents than approximate_threshold are searched exactly.
    same(run, ours(index, 10), number)


def test_an_interrupted_load_goes_on(client, name, index, number, monkeypatch):
    real, calls = client.request, []

    def request(method, path, *args, **kwargs):
        calls.append(path)
        if sum("_bulk" in path for path in calls) > 3:
            raise KeyboardInterrupt
        return real(method, path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(client, "request", request)
        with pytest.raises(KeyboardInterrupt):
            load_index(index, client, name, max_bytes=1000)
    assert 0 < load_index(index, client, name, max_bytes=1000).sent < 40
    run = search_cluster(index, client, name, QUERIES, k=10)
    same(run, ours(index, 10), number)


def test_another_mapping_is_refused(client, name, index):
    body = {
        "settings": {"index": {"number_of_replicas": 0}},
        "mappings": {"properties": {"text_sparse": {"type": "text"}}},
    }
    client.request("PUT", f"/{name}", body)
    with pytest.raises(InputError, match=r"its field '(id|text_sparse)' is"):
        load_index(index, client, name)


def test_files_are_what_the_cluster_takes(client, name, index, number, tmp_path):
    version = ".".join(map(str, number))
    phases = TwoPhase() if number >= (2, 15) else None
    config = OpenSearchConfig(version=version, two_phase=phases)
    options = ExportOptions(config, name, queries=QUERIES, max_bytes=2000)
    target = tmp_path / "export"
    export_index(index, target, options)

    def send(method, path, file):
        return client.request(method, path, json.loads((target / file).read_text()))

    if phases is not None:
        send("PUT", f"/_search/pipeline/{name}-two-phase", "pipeline.json")
    send("PUT", f"/{name}", "index.json")
    for path in sorted((target / "bulk").iterdir()):
        reply = client.request("POST", f"/{name}/_bulk", path.read_bytes())
        assert reply.body["errors"] is False
    send("PUT", f"/{name}/_settings", "loaded.json")
    client.request("POST", f"/{name}/_refresh")
    own = ours(index, 10) if phases is None else ours(index, 10, method="two_phase")
    for line in (target / "queries.jsonl").read_text().splitlines():
        query = json.loads(line)
        if not own[query["id"]] or (query["id"] == "dots" and number < (2, 14)):
            continue
        reply = client.request("POST", f"/{name}/_search", query["body"])
        hits = [hit["_id"] for hit in reply.body["hits"]["hits"]]
        assert hits == list(own[query["id"]])
    run = search_cluster(index, client, name, QUERIES, k=10)
    same(run, ours(index, 10), number)
