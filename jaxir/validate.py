"""Retrieval quality during training, on a fixed and affordable part of a split.

A full evaluation encodes the whole corpus.  During training the corpus is cut to the
judged documents of a sample of queries and a sample of others, so figures are higher
than the full ones; they rank checkpoints of one run.

A retriever scores every document of that corpus as its family matches queries and
documents: by an inner product, or by the q-net that a query has become.  A
cross-encoder has no vectors to search with: it reranks the candidates that a run has
for the same sample of queries, and its figures are those of the reranked run.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxir.checkpoints.model_dir import Model
from jaxir.data.collection import Collection
from jaxir.data.formats import Run, read_run
from jaxir.encode import TextEncoder, compiled_match, encode_texts
from jaxir.errors import InputError
from jaxir.evaluate import evaluate
from jaxir.families import family
from jaxir.topk import top_k
from jaxir.types import Params

__all__ = ["ValidationConfig", "ValidationSample", "draw_sample", "make_validation"]

QUERY_BYTES = 1 << 27
"""Of the representations searched with together: a q-net of 6 x 768 has 14 MB."""

BLOCK_PAIRS = 4_096
"""Queries times documents scored together: a q-net's states stay in a CPU's cache."""


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """What is evaluated while training.

    Attributes:
      split: the split whose judgments are used; None for no validation.
      metrics: names as ``ir_measures`` spells them; the first decides which checkpoint
        is best.
      max_queries: how many queries are drawn, all when there are fewer.
      max_docs: size of the reduced corpus; judged documents always belong to it.
      seed: of the draws.
      candidates: a TREC run of the split, which cross-encoders rerank; bi-encoders do
        not read it.
      candidate_depth: how many of each query's candidates are reranked; a metric
        deeper than that finds no more, so that R@100 wants 100.
    """

    split: str | None = "dev"
    metrics: tuple[str, ...] = ("nDCG@10", "RR@10", "R@100")
    max_queries: int = 200
    max_docs: int = 2000
    seed: int = 0
    candidates: str | None = None
    candidate_depth: int = 100


@dataclasses.dataclass(frozen=True)
class ValidationSample:
    """The queries, judgments and documents that :func:`draw_sample` chose."""

    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    doc_rows: np.ndarray


def draw_sample(collection: Collection, config: ValidationConfig) -> ValidationSample:
    """Draws queries with judgments, and the reduced corpus, from the seed alone.

    Raises:
      InputError: the split has no query with a relevant document in the corpus.
    """
    random = np.random.default_rng(config.seed)
    texts = collection.queries(config.split)
    docs = collection.docs
    qrels = {}
    for query_id, judged in collection.qrels(config.split).items():
        rows = docs.rows(list(judged))
        present = {
            d: g for (d, g), row in zip(judged.items(), rows, strict=True) if row >= 0
        }
        if query_id in texts and any(grade > 0 for grade in present.values()):
            qrels[query_id] = present
    if not qrels:
        raise InputError(
            f"{collection.path}:{config.split}",
            "no query with a relevant document in the corpus",
            remedy="choose another split, or None for no validation",
        )
    names = sorted(qrels)
    if len(names) > config.max_queries:
        chosen = random.choice(len(names), config.max_queries, replace=False)
        names = [names[i] for i in np.sort(chosen)]
    qrels = {name: qrels[name] for name in names}
    judged_rows = docs.rows(sorted({d for judged in qrels.values() for d in judged}))
    room = max(0, config.max_docs - len(judged_rows))
    others = np.setdiff1d(np.arange(len(docs)), judged_rows)
    if len(others) > room:
        others = random.choice(others, room, replace=False)
    return ValidationSample(
        queries={name: texts[name] for name in names},
        qrels=qrels,
        doc_rows=np.sort(np.concatenate([judged_rows, others])),
    )


def make_validation(
    model: Model, collection: Collection, config: ValidationConfig
) -> Callable[[Params], dict[str, float]]:
    """Returns ``evaluate(params) -> metrics`` for the training loop.

    Args:
      model: the family and configuration that is trained; its parameters are not used.
      collection: where the split stands.
      config: what to draw.

    Raises:
      InputError: see :func:`draw_sample`; or a cross-encoder without candidates, or
        with a run that does not fit.  When called: scores that are not finite.
    """
    sample = draw_sample(collection, config)
    make = _searching if family(model.kind).score is None else _reranking
    make_run = make(model, collection, config, sample)

    def validation(params: Params) -> dict[str, float]:
        run = make_run(model._replace(params=params))
        result = evaluate(sample.qrels, {"model": run}, metrics=config.metrics)
        return {name: result.mean("model", name) for name in result.metrics}

    return validation


def _searching(
    model: Model,
    collection: Collection,
    config: ValidationConfig,
    sample: ValidationSample,
) -> Callable[[Model], Run]:
    """A retriever's run over the reduced corpus, as its family matches."""
    del config
    doc_ids = [collection.docs.doc_id(int(row)) for row in sample.doc_rows]
    doc_texts = collection.docs.texts(sample.doc_rows)
    names, texts = list(sample.queries), list(sample.queries.values())
    depth = min(100, len(doc_ids))
    match = compiled_match(model.kind, model.config)

    def make_run(current: Model) -> Run:
        docs = encode_texts(current, doc_texts, side="doc")
        encoder = TextEncoder(current, side="query")
        rows = encoder.rows_within(QUERY_BYTES, at_most=64)
        run: Run = {}
        for start in range(0, len(names), rows):
            batch = slice(start, start + rows)
            queries = encoder.on_devices(texts[batch], rows)
            size = max(1, min(BLOCK_PAIRS // rows, len(docs)))
            ranking = top_k(_scores(match, queries, docs, size), depth)
            columns = map(np.asarray, (ranking.doc_ids, ranking.scores))
            # strict would mind the texts that fill the last batch up
            for name, ids, scores in zip(names[batch], *columns, strict=False):
                run[name] = {
                    doc_ids[row]: float(score)
                    for row, score in zip(ids, scores, strict=True)
                }
        return run

    return make_run


def _scores(match: Callable, queries: Any, docs: np.ndarray, size: int) -> np.ndarray:
    """Scores ``[B, N]`` in host memory, block by block of so many documents."""
    parts = []
    for start in range(0, len(docs), size):
        # The last block reaches back over documents that are scored already.
        first = min(start, len(docs) - size)
        found = np.asarray(match(queries, docs[first : first + size]))
        parts.append(found[:, start - first :])
    scores = np.concatenate(parts, axis=1)
    if not np.isfinite(scores).all():
        raise InputError(
            "validation", "scores that are not finite", "numbers",
            "the model has diverged: train it with a lower rate",
        )  # fmt: skip
    return scores


def _reranking(
    model: Model,
    collection: Collection,
    config: ValidationConfig,
    sample: ValidationSample,
) -> Callable[[Model], Run]:
    """A cross-encoder's run: the sample's candidates, reranked."""
    from jaxir.rank.score import PairScorer

    if config.candidates is None:
        raise InputError(
            "ValidationConfig.candidates",
            f"None for a model of kind {model.kind!r}, which reranks",
            f"a TREC run of the split {config.split!r}",
            "make one (jaxir search), or validate on split None",
        )
    names = _candidates(config, collection, sample)
    texts = [collection.docs.texts(collection.docs.rows(ids)) for ids in names.values()]
    queries = [sample.queries[query_id] for query_id in names]
    encoded: list = []  # the same tokens each time

    def make_run(current: Model) -> Run:
        scorer = PairScorer(current.config, current.params, current.tokenizer)
        if not encoded:
            encoded.append(scorer.encode(queries, texts))
        scored = scorer.score(encoded[0])
        return {
            query_id: dict(zip(ids, scores.astype(float).tolist(), strict=True))
            for (query_id, ids), scores in zip(names.items(), scored, strict=True)
        }

    return make_run


def _candidates(
    config: ValidationConfig, collection: Collection, sample: ValidationSample
) -> dict[str, list[str]]:
    """The best candidates of each query of the sample that has any."""
    if config.candidate_depth < 1:
        found = str(config.candidate_depth)
        raise InputError("ValidationConfig.candidate_depth", found, "at least 1")
    path = str(config.candidates)
    results = read_run(path)
    if not results.keys() & sample.queries.keys():
        raise InputError(
            path, f"no candidates for queries of the split {config.split!r}",
            "a run of this split", "search with its queries (jaxir search)",
        )  # fmt: skip
    names = {}
    for query_id in sample.queries:  # a query without candidates counts as 0
        names[query_id] = list(results.get(query_id, {}))[: config.candidate_depth]
    ids = [doc_id for ranked in names.values() for doc_id in ranked]
    rows = collection.docs.rows(ids)
    if (rows < 0).any():
        absent = ids[int((rows < 0).argmax())]
        raise InputError(
            path, f"document {absent!r} is not in the collection",
            "a run over this collection", "name the collection that was searched",
        )  # fmt: skip
    return names
