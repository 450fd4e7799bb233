"""OpenSearch's requests, compared with what its documentation prints."""

import json

import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.export.opensearch import (
    index_body,
    json_keys,
    loaded_settings,
    pipeline_body,
    query_body,
    sparse_json,
    stored_weights,
    token_names,
)
from jaxir.export.opensearch_config import OpenSearchConfig, check_name, version_number
from jaxir.sparse.search import TwoPhase


def test_mapping_of_rank_features():
    config = OpenSearchConfig(text_name="text", shards=12, replicas=0)
    body = index_body(config, meta={"docs": 3}, pipeline="mine")
    assert body == {
        "settings": {
            "index": {
                "number_of_shards": 12,
                "number_of_replicas": 0,
                "refresh_interval": "-1",
                "search.default_pipeline": "mine",
            }
        },
        "mappings": {
            "dynamic": "strict",
            "_meta": {"jaxir": {"docs": 3}},
            "properties": {
                "id": {"type": "keyword"},
                "text_sparse": {"type": "rank_features"},
                "text": {"type": "text"},
            },
        },
    }
    after = {"index": {"refresh_interval": None, "number_of_replicas": 0}}
    assert loaded_settings(config) == after


def test_mapping_of_sparse_vector():
    config = OpenSearchConfig(
        field="sparse_vector", seismic={"n_postings": 4000, "cluster_ratio": 0.1}
    )
    body = index_body(config, meta={}, largest_weight=3.4)
    assert body["settings"]["index"]["sparse"] is True
    assert body["mappings"]["properties"]["text_sparse"] == {
        "type": "sparse_vector",
        "method": {
            "name": "seismic",
            "parameters": {
                "n_postings": 4000,
                "cluster_ratio": 0.1,
                "quantization_ceiling_ingest": 4.0,  # no weight is cut
            },
        },
    }


def test_pipeline():
    body = pipeline_body(OpenSearchConfig(two_phase=TwoPhase()))
    (processor,) = body["request_processors"]
    found = processor["neural_sparse_two_phase_processor"]
    assert found["enabled"] is True
    assert found["two_phase_parameter"] == {
        "prune_type": "max_ratio", "prune_ratio": 0.4, "expansion_rate": 5.0,
        "max_window_size": 10000,
    }  # fmt: skip
    older = OpenSearchConfig(two_phase=TwoPhase(), version="2.15")
    (processor,) = pipeline_body(older)["request_processors"]
    found = processor["neural_sparse_two_phase_processor"]
    assert "prune_type" not in found["two_phase_parameter"]
    with pytest.raises(InputError, match=r"two_phase: not given"):
        pipeline_body(OpenSearchConfig())


def test_queries_before_query_tokens_came():
    tokens = {"river": 2.5, "clay": 0.5}
    old = query_body(OpenSearchConfig(version="2.13"), tokens, 5)
    assert old["query"]["bool"]["should"] == [
        {"rank_feature": {"field": "text_sparse.river", "boost": 2.5, "linear": {}}},
        {"rank_feature": {"field": "text_sparse.clay", "boost": 0.5, "linear": {}}},
    ]
    new = query_body(OpenSearchConfig(version="2.14"), tokens, 5)
    assert new["query"]["neural_sparse"]["text_sparse"]["query_tokens"] == tokens
    assert (new["size"], new["_source"]) == (5, False)


def test_queries_of_sparse_vectors_say_how_many_results_and_tokens():
    tokens = {str(i): 1.0 for i in range(12)}
    body = query_body(OpenSearchConfig(field="sparse_vector"), tokens, 100)
    asked = body["query"]["neural_sparse"]["text_sparse"]
    assert asked["method_parameters"] == {"k": 100, "top_n": 12}


def test_vocabularies_that_sparse_vectors_do_not_tell_apart():
    config = OpenSearchConfig(field="sparse_vector")
    assert len(token_names(config, ["a"] * 2**15)) == 2**15
    with pytest.raises(InputError, match=r"vocabulary of 32,769 tokens; expected at"):
        token_names(config, ["a"] * (2**15 + 1))


def test_keys():
    names = ["[PAD]", "", "u.s", "river"]
    assert token_names(OpenSearchConfig(), names) == names
    old = OpenSearchConfig(version="2.11")
    assert token_names(old, names) == ["[PAD]", "", "", "river"]
    ids = token_names(OpenSearchConfig(field="sparse_vector"), names)
    assert ids == ["0", "1", "2", "3"]


def test_weights_read_back_and_what_is_refused_is_left_out():
    weights = np.array([0.1, 1 / 3, 1e-40, 2.0, 3.0], np.float32)
    keys = json_keys(["a", 'b"', "tiny", "", "ü"])
    fields = json.loads(sparse_json(keys, weights))
    assert list(fields) == ["a", 'b"', "ü"]
    assert np.float32(fields['b"']) == weights[1]


def test_stored_weights_are_lucenes():
    weights = np.random.default_rng(0).gamma(1.0, 1.0, 1000).astype(np.float32)
    kept = stored_weights(weights)
    error = (weights - kept) / weights
    assert error.min() >= 0
    assert 0.9 / 256 < error.max() < 1 / 256
    mantissa = np.frexp(kept)[0] * 2**9
    np.testing.assert_array_equal(mantissa, np.round(mantissa))  # 9 significant bits
    np.testing.assert_array_equal(stored_weights(kept), kept)


# tests/goldens/FeatureValues.java prints these with Lucene 8.7.0.
LUCENE = {
    0.1: 0.099853516, 1 / 3: 0.3330078, 0.7853982: 0.78515625, 1.005: 1.0039062,
    1.9999: 1.9960938, 3.0999: 3.09375, 2.7182817: 2.7109375, 17.3: 17.25,
    1.17549435e-38: 1.17549435e-38,
}  # fmt: skip


def test_stored_weights_as_lucene_printed_them():
    kept = stored_weights(np.array(list(LUCENE), np.float32))
    np.testing.assert_array_equal(kept, np.array(list(LUCENE.values()), np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"field": "knn"}, r"field: 'knn'; expected one of rank_features"),
        ({"version": "2.9"}, r"version: OpenSearch 2\.9; expected 2\.11 or newer"),
        ({"version": "new"}, r"version: 'new'; expected a number such as 2\.15"),
        ({"shards": 0}, r"shards: 0"),
        ({"vector_name": "a.b"}, r"field's name: 'a\.b'"),
        ({"vector_name": "id"}, r"field's name: 'id'"),
        ({"text_name": "text_sparse"}, r"text_name: 'text_sparse'; expected another"),
        ({"seismic": {"n_postings": 3}}, r"seismic: given for a field rank_features"),
        (
            {"field": "sparse_vector", "version": "2.19"},
            r"type sparse_vector in OpenSearch 2\.19; expected 3\.3 or newer",
        ),
        (
            {"field": "sparse_vector", "two_phase": TwoPhase()},
            r"two_phase: given for a field of type sparse_vector",
        ),
        (
            {"field": "sparse_vector", "seismic": {"lists": 3}},
            r"seismic: 'lists'; expected one of n_postings",
        ),
        (
            {"field": "sparse_vector", "seismic": {"n_postings": -1}},
            r"seismic n_postings: -1",
        ),
        (
            {"version": "2.14", "two_phase": TwoPhase()},
            r"the two-phase processor in OpenSearch 2\.14; expected 2\.15",
        ),
        (
            {"version": "2.15", "two_phase": TwoPhase("top_k", 3.0)},
            r"prune_type 'top_k' in OpenSearch 2\.15; expected 2\.19",
        ),
    ],
)
def test_what_opensearch_refuses(changes, message):
    with pytest.raises(InputError, match=message):
        OpenSearchConfig(**changes)


def test_queries_that_opensearch_refuses():
    config = OpenSearchConfig(two_phase=TwoPhase())
    with pytest.raises(InputError, match=r"query q1: weight 65 of token 'a'"):
        query_body(config, {"a": 65.0}, 10, where="query q1")
    with pytest.raises(InputError, match=r"weight 0 of token 'a'"):
        query_body(config, {"a": 0.0}, 10)
    with pytest.raises(InputError, match=r"a window of 10,005 documents"):
        query_body(config, {"a": 1.0}, 2001)
    with pytest.raises(InputError, match=r"k: 10001; expected 1 to 10000"):
        query_body(OpenSearchConfig(), {"a": 1.0}, 10_001)


@pytest.mark.parametrize("name", ["Upper", "_hidden", "a b", "", ".."])
def test_names(name):
    with pytest.raises(InputError, match=r"name: .* expected lower-case letters"):
        check_name(name)


def test_versions():
    assert version_number("3.3.2-SNAPSHOT") == (3, 3)
