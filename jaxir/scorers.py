"""Whatever can score a query's documents, behind one function of texts.

Teachers, rescorers of mined candidates and rerankers are the same thing: texts in,
scores out.  A family that can score adds a row to :data:`SCORERS`.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxir.errors import InputError

__all__ = [
    "SCORERS",
    "Scorer",
    "bi_encoder_scorer",
    "cross_encoder_scorer",
    "make_scorer",
]

Scorer = Callable[[Sequence[str], Sequence[Sequence[str]]], list[np.ndarray]]
"""``scorer(queries, docs)``: scores ``[L]`` of each query text's document texts."""


def bi_encoder_scorer(
    model: Any,
    *,
    keep: int = 50_000,
    max_length: int | None = None,
    **options: Any,
) -> Scorer:
    """Scores by the inner product of a bi-encoder's vectors.

    A model of cosine similarity gives normalised vectors, so that the product is its
    cosine.  Vectors of recent documents are kept, since lists share documents.

    Args:
      model: from ``load_model``.
      keep: documents whose vectors are kept.
      max_length: of a document; None for the model's own.
      options: of both sides' :class:`jaxir.encode.TextEncoder`.
    """
    from jaxir.encode import TextEncoder

    encode_query = TextEncoder(model, side="query", **options)
    encode_doc = TextEncoder(model, side="doc", max_length=max_length, **options)
    kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def scorer(
        queries: Sequence[str], docs: Sequence[Sequence[str]]
    ) -> list[np.ndarray]:
        texts = dict.fromkeys(text for group in docs for text in group)
        fresh = [text for text in texts if text not in kept]
        if fresh:
            kept.update(zip(fresh, encode_doc(fresh), strict=True))
        scores = []
        for vector, group in zip(encode_query(list(queries)), docs, strict=True):
            rows = [kept[text] for text in group]
            product = np.stack(rows) @ vector if rows else np.zeros(0)
            scores.append(product.astype(np.float32))
        for text in texts:
            kept.move_to_end(text)
        while len(kept) > keep:
            kept.popitem(last=False)
        return scores

    return scorer


def cross_encoder_scorer(model: Any, **options: Any) -> Scorer:
    """Scores by reading query and document together.

    Args:
      model: from ``load_model``, of a kind of the family ``rank``.
      options: of :class:`jaxir.rank.score.PairScorer`.
    """
    from jaxir.rank.score import PairScorer

    scorer = PairScorer(model.config, model.params, model.tokenizer, **options)
    return scorer.score_lists


SCORERS: Mapping[str, Callable[..., Scorer]] = MappingProxyType(
    {
        "dense": bi_encoder_scorer,
        "rank_bert": cross_encoder_scorer,
        "rank_t5": cross_encoder_scorer,
    }
)
"""How a model of each kind scores; a family that can score pairs adds a row."""


def make_scorer(model: Any, *, role: str = "scorer", **options: Any) -> Scorer:
    """The scorer that a loaded model is.

    Args:
      model: from ``load_model`` or ``jaxir.reranker.load_scoring_model``.
      role: what it is wanted for, for the error.
      options: ``mesh``, ``batch_tokens`` and ``max_length``.

    Raises:
      InputError: its kind cannot score, or ``batch_tokens`` is below 1.
    """
    batch_tokens = options.get("batch_tokens")
    if batch_tokens is not None and batch_tokens < 1:
        raise InputError("batch_tokens", str(batch_tokens), "at least 1")
    if model.kind not in SCORERS:
        raise InputError(
            model.path or role, f"a model of kind {model.kind!r} as a {role}",
            "one of " + ", ".join(SCORERS),
            "train it on lists first (jaxir train)",
        )  # fmt: skip
    return SCORERS[model.kind](model, **options)
