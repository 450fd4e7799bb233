"""The OpenAPI document is true: what it allows is answered, the rest is refused."""

import hypothesis
import jsonschema_rs
import pytest
import schemathesis
from starlette.testclient import TestClient
from tiny_service import make_service

from jaxir.serve.fields import Limits
from jaxir.serve.openapi import openapi

LIMITS = Limits(text_chars=200, queries=3, documents=6, inputs=4, k=20)


@pytest.fixture(scope="module")
def service(place):
    made = make_service(place, limits=LIMITS)
    yield made
    made.batcher.close()


@pytest.mark.parametrize(
    ("kinds", "models", "texts", "paths"),
    [
        (("dense", "bm25"), True, True, {"/search", "/rerank", "/v1/embeddings"}),
        (("sparse",), False, False, {"/search"}),
        ((), True, False, {"/rerank", "/v1/embeddings"}),
    ],
)
def test_it_names_what_is_there(place, kinds, models, texts, paths):
    service = make_service(place, kinds=kinds, models=models, texts=texts)
    document = openapi(service.systems, service.limits, keys=True)
    posts = {path for path, item in document["paths"].items() if "post" in item}
    assert posts == paths
    for path in posts:
        operation = document["paths"][path]["post"]
        assert operation["security"] == [{"bearer": []}, {"key": []}]
        assert "401" in operation["responses"]
    assert "security" not in document["paths"]["/health"]["get"]
    service.batcher.close()


def test_bodies_of_the_document(service):
    document = openapi(service.systems, LIMITS, keys=False)
    body = document["paths"]["/search"]["post"]["requestBody"]
    valid = jsonschema_rs.validator_for(body["content"]["application/json"]["schema"])
    client = TestClient(service.app)
    for value, good in (
        ({"query": "a"}, True), ({"query": "a", "k": 20}, True),
        ({"query": "a", "k": 21}, False), ({"query": "a", "k": 3.0}, True),
        ({"queries": ["a"], "index": "sparse", "explain": True}, True),
        ({"query": "a", "index": "bm25", "explain": True}, False),
        ({"query": "a", "explain": True}, False), ({"query": None}, False),
        ({"query": "a", "index": "bm25", "explain": False}, True),
        ({"query": "a", "rerank": 5}, True), ({"query": "a", "rerank": 7}, False),
        ({"query": "a", "rerank": 0}, False), ({"query": "a" * 201}, False),
        ({"queries": []}, False), ({"queries": ["a"] * 4}, False), ({}, False),
        ({"query": "a", "queries": ["a"]}, False), ({"query": "a", "K": 1}, False),
    ):  # fmt: skip
        assert valid.is_valid(value) == good, value
        answer = client.post("/search", json=value)
        assert answer.status_code == (200 if good else 400), (value, answer.text)


def test_schemathesis_finds_nothing(service):
    schema = schemathesis.openapi.from_asgi("/openapi.json", service.app)
    tried = []

    def check(operation, mode):
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        @hypothesis.settings(
            max_examples=40, database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )  # fmt: skip
        def one(case):
            tried.append(operation.path)
            case.call_and_validate()

        one()

    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:
            if mode.is_negative and operation.method == "get":
                continue
            check(operation, mode)
    assert {"/search", "/rerank", "/v1/embeddings", "/indexes"} <= set(tried)
    assert len(tried) > 200
