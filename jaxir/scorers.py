"""Whatever can score a query's documents, behind one function of texts.

Teachers, rescorers of mined candidates and rerankers are the same thing: texts in,
scores out.  A family that can score adds a row to :data:`SCORERS`.
"""

import textwrap
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxir.errors import InputError

__all__ = [
    "SCORERS",
    "Scorer",
    "bi_encoder_scorer",
    "cross_encoder_scorer",
    "jpq_scorer",
    "make_scorer",
    "scores_identity",
    "sparse_scorer",
]

QUERY_BYTES = 1 << 27
"""Of the queries' representations scored with together."""

SPARSE_QUERIES = 64
"""Of a sparse model, encoded together: each has a number for every token."""

CODED = 256
"""Documents that become codes together."""

Scorer = Callable[[Sequence[str], Sequence[Sequence[str]]], list[np.ndarray]]
"""``scorer(queries, docs)``: scores ``[L]`` of each query text's document texts."""


def bi_encoder_scorer(
    model: Any,
    *,
    keep: int = 50_000,
    max_length: int | None = None,
    **options: Any,
) -> Scorer:
    """Scores by what queries and documents become apart from each other.

    By the inner product of a bi-encoder's vectors: a model of cosine similarity gives
    normalised ones, so that the product is its cosine.  By a Hypencoder's q-net, which
    is made once for each query.  Vectors of recent documents are kept, since lists
    share documents.

    Args:
      model: from ``load_model``.
      keep: documents whose vectors are kept.
      max_length: of a document; None for the model's own.
      options: of both sides' :class:`jaxir.encode.TextEncoder`.

    Raises:
      InputError: when scoring: a score that is not finite.
    """
    from jaxir.encode import TextEncoder

    encode_doc = TextEncoder(model, side="doc", max_length=max_length, **options)
    return _scorer_apart(model, encode_doc, keep, options)


def jpq_scorer(
    model: Any,
    *,
    keep: int = 50_000,
    max_length: int | None = None,
    **options: Any,
) -> Scorer:
    """Scores as an index of a JPQ model's codes does.

    A document is encoded and becomes codes of the assignment; its score is the product
    of the query's vector with what the trained centroids make of the codes.

    Args:
      model: from ``load_model``, of kind ``jpq``.
      keep: documents whose codes are kept.
      max_length: of a document; None for the model's own.
      options: of both sides' :class:`jaxir.encode.TextEncoder`.

    Raises:
      InputError: when scoring: a vector or a score that is not finite.
    """
    import jax

    from jaxir.encode import TextEncoder, as_bi_encoder
    from jaxir.pq.codec import quantize
    from jaxir.pq.model import assigning_codec

    towers = as_bi_encoder(model)
    encode = TextEncoder(towers, side="doc", max_length=max_length, **options)
    assign = jax.jit(partial(quantize, assigning_codec(model.params)))

    def encode_doc(texts: Sequence[str]) -> np.ndarray:
        vectors = encode(texts)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():  # which codes would hide
            raise InputError(
                model.path or "model",
                f"a vector of {_shortened(texts[int(finite.argmin())])} that is not "
                "finite", "a finite one", "the model may have diverged: train it anew",
            )  # fmt: skip
        blocks = []
        for start in range(0, len(vectors), CODED):
            block = vectors[start : start + CODED]
            full = np.pad(block, [(0, CODED - len(block)), (0, 0)])  # one shape
            blocks.append(np.asarray(assign(full))[: len(block)])
        return np.concatenate(blocks)

    return _scorer_apart(model, encode_doc, keep, options)


def _scorer_apart(
    model: Any,
    encode_doc: Callable[[Sequence[str]], np.ndarray],
    keep: int,
    options: Mapping[str, Any],
) -> Scorer:
    """Queries encoded and matched with what ``encode_doc`` gives of fresh documents."""
    from jaxir.encode import TextEncoder
    from jaxir.numerics import check_finite

    query_encoder = TextEncoder(model, side="query", **options)
    match = _own_match(model.kind, model.config)
    rows = query_encoder.rows_within(QUERY_BYTES, at_most=8)
    name = model.path or "model"
    kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def scorer(
        queries: Sequence[str], docs: Sequence[Sequence[str]]
    ) -> list[np.ndarray]:
        known = _remember(kept, docs, encode_doc, keep)
        scores: list[np.ndarray] = []
        for start in range(0, len(queries), rows):
            groups = docs[start : start + rows]
            vectors = [[known[text] for text in group] for group in groups]
            block = _rectangle(vectors, rows)
            if block is None:  # no query has a document
                scores += [np.zeros(0, np.float32) for _ in groups]
                continue
            made = query_encoder.on_devices(queries[start : start + rows], rows)
            found = np.asarray(match(made, block), np.float32)
            # strict would mind the queries that fill the batch up
            pairs = zip(found, groups, strict=False)
            scores += [row[: len(group)].copy() for row, group in pairs]
        for query, group, row in zip(queries, docs, scores, strict=True):
            check_finite(row, name, partial(_told, query, group))
        return scores

    return scorer


def _remember(
    kept: OrderedDict[str, Any],
    docs: Sequence[Sequence[str]],
    encode: Callable[[list[str]], Iterable[Any]],
    keep: int,
) -> dict[str, Any]:
    """What each document becomes; the latest ``keep`` are kept for the next time."""
    texts = dict.fromkeys(text for group in docs for text in group)
    fresh = [text for text in texts if text not in kept]
    if fresh:
        kept.update(zip(fresh, encode(fresh), strict=True))
    for text in texts:
        kept.move_to_end(text)
    known = {text: kept[text] for text in texts}
    while len(kept) > keep:
        kept.popitem(last=False)
    return known


def sparse_scorer(
    model: Any,
    *,
    keep: int = 50_000,
    max_length: int | None = None,
    **options: Any,
) -> Scorer:
    """Scores by the inner product of weights of the vocabulary's tokens.

    Of a document only what is not 0 is kept: a hundred numbers of 30,522, mostly.

    Args:
      model: from ``load_model``, of kind ``sparse``.
      keep: documents whose weights are kept.
      max_length: of a document; None for the model's own.
      options: of both sides' :class:`jaxir.encode.TextEncoder`.

    Raises:
      InputError: when scoring: a score that is not finite.
    """
    from jaxir.encode import TextEncoder
    from jaxir.numerics import check_finite

    query_encoder = TextEncoder(model, side="query", **options)
    doc_encoder = TextEncoder(model, side="doc", max_length=max_length, **options)
    name = model.path or "model"
    kept: OrderedDict[str, tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def encode_doc(texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        found: list[Any] = [None] * len(texts)
        for rows, weights in doc_encoder.encode_ids(doc_encoder.tokenize(texts)):
            for row, dense in zip(rows.tolist(), np.asarray(weights), strict=True):
                tokens = np.flatnonzero(dense).astype(np.int32)
                found[row] = tokens, dense[tokens]
        return found

    def scorer(
        queries: Sequence[str], docs: Sequence[Sequence[str]]
    ) -> list[np.ndarray]:
        known = _remember(kept, docs, encode_doc, keep)
        scores: list[np.ndarray] = []
        for start in range(0, len(queries), SPARSE_QUERIES):
            asked = query_encoder(queries[start : start + SPARSE_QUERIES])
            for query, group in zip(asked, docs[start:], strict=False):
                pairs = [known[text] for text in group]
                found = [query[tokens] @ weights for tokens, weights in pairs]
                scores.append(np.array(found, np.float32))
        for text, group, row in zip(queries, docs, scores, strict=True):
            check_finite(row, name, partial(_told, text, group))
        return scores

    return scorer


def _told(query: str, docs: Sequence[str], place: int) -> str:
    """A pair, for an error."""
    return f"{_shortened(docs[place])} for {_shortened(query)}"


def _shortened(text: str) -> str:
    return repr(textwrap.shorten(text, 40))


@lru_cache(maxsize=8)
def _own_match(kind: str, config: Any) -> Callable:
    """``match(queries, docs [B, L, W]) -> [B, L]``, each query with its own list."""
    import jax

    from jaxir.encode import compiled_match

    match = compiled_match(kind, config)

    def own(query: Any, docs: Any) -> Any:
        return match(jax.tree.map(lambda x: x[None], query), docs)[0]

    return jax.jit(jax.vmap(own))


def _rectangle(groups: list[list[np.ndarray]], rows: int) -> np.ndarray | None:
    """Lists of vectors as ``[rows, L, W]``, zeros at padding, ``L`` a power of two."""
    longest = max(map(len, groups))
    if not longest:
        return None
    like = next(group[0] for group in groups if group)
    block = np.zeros((rows, 1 << (longest - 1).bit_length(), *like.shape), like.dtype)
    for out, group in zip(block, groups, strict=False):
        if group:
            out[: len(group)] = group
    return block


def cross_encoder_scorer(model: Any, **options: Any) -> Scorer:
    """Scores by reading query and document together.

    Args:
      model: from ``load_model``, of a kind of the family ``rank``.
      options: of :class:`jaxir.rank.score.PairScorer`.

    Raises:
      InputError: as ``PairScorer``; when scoring: a score that is not finite.
    """
    from jaxir.rank.score import PairScorer

    scorer = PairScorer(
        model.config, model.params, model.tokenizer, name=model.path or "model",
        **options,
    )  # fmt: skip
    return scorer.score_lists


SCORERS: Mapping[str, Callable[..., Scorer]] = MappingProxyType(
    {
        "dense": bi_encoder_scorer,
        "hypencoder": bi_encoder_scorer,
        "jpq": jpq_scorer,
        "rank_bert": cross_encoder_scorer,
        "rank_t5": cross_encoder_scorer,
        "sparse": sparse_scorer,
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


def scores_identity(*models: Any) -> str:
    """What models' scores depend on: parameters, configurations and tokenizers.

    Work that one model has begun is resumed with no other.

    Args:
      models: from ``load_model``.
    """
    return " ".join(f"{m.fingerprint} {m.tokenizer.fingerprint}" for m in models)
