"""Retrieval quality during training, on a fixed and affordable part of a split.

A full evaluation encodes the whole corpus.  During training the corpus is cut to the
judged documents of a sample of queries and a sample of others, so figures are higher
than the full ones; they rank checkpoints of one run.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxir.checkpoints.model_dir import Model
from jaxir.data.collection import Collection
from jaxir.encode import encode_texts
from jaxir.errors import InputError
from jaxir.evaluate import evaluate
from jaxir.topk import top_k
from jaxir.types import Params

__all__ = ["ValidationConfig", "ValidationSample", "draw_sample", "make_validation"]


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
    """

    split: str | None = "dev"
    metrics: tuple[str, ...] = ("nDCG@10", "RR@10", "R@100")
    max_queries: int = 200
    max_docs: int = 2000
    seed: int = 0


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
    """
    sample = draw_sample(collection, config)
    doc_ids = [collection.docs.doc_id(int(row)) for row in sample.doc_rows]
    doc_texts = collection.docs.texts(sample.doc_rows)
    depth = min(100, len(doc_ids))

    def validation(params: Params) -> dict[str, float]:
        current = model._replace(params=params)
        queries = encode_texts(current, list(sample.queries.values()), side="query")
        docs = encode_texts(current, doc_texts, side="doc")
        ranking = top_k(queries @ docs.T, depth)
        run = {
            query_id: {
                doc_ids[row]: float(score)
                for row, score in zip(rows, scores, strict=True)
            }
            for query_id, rows, scores in zip(
                sample.queries,
                np.asarray(ranking.doc_ids),
                np.asarray(ranking.scores),
                strict=True,
            )
        }
        result = evaluate(sample.qrels, {"model": run}, metrics=config.metrics)
        return {name: result.mean("model", name) for name in result.metrics}

    return validation
