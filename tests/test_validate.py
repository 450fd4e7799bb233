"""Validation: retrievers search the sample's documents, cross-encoders rerank."""

import jax
import numpy as np
import pytest
from tiny_hypencoders import tiny_hypencoder
from tiny_rerankers import tiny_reranker

from jaxir import validate
from jaxir.data.collection import open_collection
from jaxir.data.formats import read_run, write_run
from jaxir.errors import InputError
from jaxir.evaluate import evaluate
from jaxir.index import build_index
from jaxir.rank.score import PairScorer
from jaxir.rerank import rerank
from jaxir.search import open_index
from jaxir.validate import ValidationConfig, make_validation


@pytest.fixture
def collection(tiny_collection):
    return open_collection(str(tiny_collection))


@pytest.fixture
def candidates(collection, tmp_path):
    """Eight documents for each test query but the last, and those of train beside."""
    random = np.random.default_rng(0)
    ids = list(collection.docs.doc_ids())
    run = {
        query_id: {
            ids[i]: float(9 - r) for r, i in enumerate(random.permutation(12)[:8])
        }
        for query_id in collection.queries()
    }
    del run["q-bread-test"]
    write_run(tmp_path / "candidates.trec", run)
    return tmp_path / "candidates.trec"


@pytest.mark.parametrize(("query_bytes", "block_pairs"), [(1 << 27, 4096), (1, 45)])
@pytest.mark.parametrize("kind", ["dense", "hypencoder", "two vectors"])
def test_metrics_of_a_search(
    kind, query_bytes, block_pairs, collection, make_tiny_model, tmp_path, monkeypatch
):
    """The sample being the whole corpus; also where batches are as small as can be."""
    monkeypatch.setattr(validate, "QUERY_BYTES", query_bytes)
    monkeypatch.setattr(validate, "BLOCK_PAIRS", block_pairs)
    if kind == "dense":
        model = make_tiny_model()
    else:
        model = tiny_hypencoder(tmp_path / "m", vectors=1 + (kind == "two vectors"))
    config = ValidationConfig(split="test", metrics=("nDCG@10", "RR@10"))
    found = make_validation(model, collection, config)(model.params)
    build_index(model, collection, tmp_path / "i")
    run = open_index(tmp_path / "i").search(collection.queries("test"), k=12)
    qrels = collection.qrels("test")
    expected = evaluate(qrels, {"m": run}, metrics=config.metrics)
    assert found == pytest.approx(
        {name: expected.mean("m", name) for name in expected.metrics}, abs=1e-6
    )


def test_a_diverged_retriever(collection, make_tiny_model):
    model = make_tiny_model()
    config = ValidationConfig(split="test", metrics=("nDCG@10",))
    broken = jax.tree.map(lambda x: x * np.nan, model.params)
    with pytest.raises(InputError, match="validation: scores that are not finite"):
        make_validation(model, collection, config)(broken)


@pytest.mark.parametrize("depth", [3, 50])
@pytest.mark.parametrize("kind", ["bert", "enc"])
def test_metrics_of_the_reranked_run(kind, depth, collection, candidates, tmp_path):
    # Means over the tokens differ between documents by more than a batch's rounding;
    # the first token of so small a model hardly does.
    model = tiny_reranker(kind, tmp_path / "model", pooling="mean")
    config = ValidationConfig(
        split="test", candidates=str(candidates), candidate_depth=depth,
        metrics=("nDCG@10", "RR@10"),
    )  # fmt: skip
    validation = make_validation(model, collection, config)
    rerank(model, candidates, collection, output=tmp_path / "out.trec", k=depth)
    run = read_run(tmp_path / "out.trec")
    expected = evaluate(
        collection.qrels("test"),
        {
            "m": {
                query_id: run.get(query_id, {})
                for query_id in collection.queries("test")
            }
        },
        metrics=config.metrics,
    )
    for _ in range(2):
        found = validation(model.params)
        assert found == pytest.approx(
            {name: expected.mean("m", name) for name in expected.metrics}, abs=1e-6
        )
    others = (
        tiny_reranker(kind, tmp_path / "model", seed=seed, pooling="mean")
        for seed in range(1, 9)
    )
    assert any(validation(other.params) != found for other in others)


def test_as_many_are_reranked_as_the_metrics_count():
    config = ValidationConfig()
    depths = [int(name.split("@")[1]) for name in config.metrics]
    assert config.candidate_depth >= max(depths)


def test_texts_are_tokenized_once(collection, candidates, tmp_path, monkeypatch):
    model = tiny_reranker("bert", tmp_path / "model")
    config = ValidationConfig(split="test", candidates=str(candidates))
    calls, real = [], PairScorer.encode

    def counted(self, *args):
        calls.append(args)
        return real(self, *args)

    monkeypatch.setattr(PairScorer, "encode", counted)
    validation = make_validation(model, collection, config)
    validation(model.params)
    validation(model.params)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        (
            None, {},
            "ValidationConfig.candidates: None for a model of kind 'rank_bert', which "
            "reranks; expected a TREC run of the split 'test'",
        ),
        ("", {}, "run.trec: no candidates for queries of the split 'test'"),
        ("q-x Q0 river0 1 1.0 a\n", {}, "run.trec: no candidates for queries of the"),
        (
            "q-river-test Q0 gone 1 1.0 a\n", {},
            "run.trec: document 'gone' is not in the collection",
        ),
        ("q-river-test Q0 river0 1 x a\n", {}, "run.trec:1: score 'x'"),
        (
            "q-river-test Q0 river0 1 1.0 a\n" * 2, {},
            "run.trec:2: document 'river0' again for query 'q-river-test'",
        ),
        (
            "q-river-test Q0 river0 1 1.0 a\n", {"candidate_depth": 0},
            "ValidationConfig.candidate_depth: 0; expected at least 1",
        ),
    ],
)  # fmt: skip
def test_mistakes(collection, tmp_path, text, changes, message):
    model = tiny_reranker("bert", tmp_path / "model")
    path = None
    if text is not None:
        path = str(tmp_path / "run.trec")
        (tmp_path / "run.trec").write_text(text)
    config = ValidationConfig(split="test", candidates=path, **changes)
    with pytest.raises(InputError, match=message):
        make_validation(model, collection, config)
