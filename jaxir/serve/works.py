"""The calls behind the service: search, rerank and embed several items at once.

Each gives what the direct call gives; what is compiled is one of a few shapes, listed
by ``jaxir/serve/warm.py``.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxir.serve.batching import Work
from jaxir.serve.requests import EXPLAINED

if TYPE_CHECKING:
    from jaxir.bucketing import Batch
    from jaxir.data.store import DocStore
    from jaxir.encode import TextEncoder
    from jaxir.scorers import Scorer
    from jaxir.search import Searcher

__all__ = [
    "DEPTHS",
    "PAIRS",
    "Embedded",
    "Query",
    "embed_plan",
    "embed_work",
    "rerank_work",
    "search_works",
    "sizes_to",
]

DEPTHS = (10, 100)
"""Results that are searched for; others are cut from the next one, or from the most."""

PAIRS = 32
"""The most pairs of a query and a document that are scored in one turn."""


class Query(NamedTuple):
    """One query of a search.

    Attributes:
      text: of it.
      k: results wanted.
      explain: whether hits have ``matches``.
      documents: whether hits have ``title`` and ``text``.
    """

    text: str
    k: int
    explain: bool = False
    documents: bool = True


def sizes_to(most: int, step: int = 2) -> tuple[int, ...]:
    """Numbers of items that a call is made for: powers of ``step``, and the most.

    Args:
      most: the largest.
      step: 4 where what is compiled for so many takes longest.

    Example::

      >>> sizes_to(12), sizes_to(64, 4)
      ((1, 2, 4, 8, 12), (1, 4, 16, 64))
    """
    powers = [step**i for i in range(most.bit_length()) if step**i < most]
    return (*powers, most)


def search_works(
    searcher: "Searcher",
    documents: "DocStore | None",
    *,
    most_k: int,
    sizes: Sequence[int],
) -> Callable[[int], Work]:
    """The work of queries for ``k`` results of an index.

    Args:
      searcher: the open index.
      documents: where titles and texts are.
      most_k: the largest ``k``.
      sizes: numbers of queries that a call is made for.

    Returns:
      ``work(k)``, the same one for the same depth; its items are :class:`Query`, its
      results lists of hits as plain JSON, best first.
    """
    depths = sorted({min(depth, most_k) for depth in (*DEPTHS, most_k)})
    made: dict[int, Work] = {}

    def run(depth: int, queries: list[Query]) -> list[list[dict[str, Any]]]:
        ranking = searcher.search_texts([query.text for query in queries], depth)
        return [
            _hits(searcher, documents, query, rows[: query.k], scores[: query.k])
            for query, rows, scores in zip(queries, *ranking, strict=True)
        ]

    def work(k: int) -> Work:
        depth = next(depth for depth in depths if depth >= k)
        depth = min(depth, max(searcher.num_docs, 1))
        if depth not in made:
            made[depth] = Work("search", lambda queries: run(depth, queries), sizes)
        return made[depth]

    return work


def _hits(
    searcher: "Searcher",
    documents: "DocStore | None",
    query: Query,
    rows: np.ndarray,
    scores: np.ndarray,
) -> list[dict[str, Any]]:
    found = [
        {"rank": i + 1, "doc_id": searcher.doc_ids[row], "score": score}
        for i, (row, score) in enumerate(
            zip(rows.tolist(), scores.tolist(), strict=True)
        )
        if row >= 0  # what is missing comes last
    ]
    if query.documents and documents is not None:
        places = documents.rows(hit["doc_id"] for hit in found)
        for hit, place in zip(found, places.tolist(), strict=True):
            if place >= 0:
                doc = documents[place]
                hit |= {"title": doc.title, "text": doc.text}
    if query.explain:
        first = rows[rows >= 0][:EXPLAINED].tolist()
        explained = searcher.explain_rows(query.text, first)
        for hit, matches in zip(found, explained, strict=False):
            hit["matches"] = [match._asdict() for match in matches]
    return found


def rerank_work(scorer: "Scorer") -> Work:
    """The work of pairs ``(query, document)``; its results are floats.

    Args:
      scorer: of ``jaxir.scorers``.
    """

    def run(pairs: list[tuple[str, str]]) -> list[float]:
        places: dict[str, list[int]] = {}
        for i, (query, _) in enumerate(pairs):
            places.setdefault(query, []).append(i)
        docs = [[pairs[i][1] for i in group] for group in places.values()]
        scores = [0.0] * len(pairs)
        found = scorer(list(places), docs)
        for group, values in zip(places.values(), found, strict=True):
            for i, value in zip(group, values.tolist(), strict=True):
                scores[i] = value
        return scores

    return Work("rerank", run, sizes_to(PAIRS, 4))


class Embedded(NamedTuple):
    """A text as a vector.

    Attributes:
      vector: float32 ``[E]``.
      tokens: that were read of the text.
    """

    vector: np.ndarray
    tokens: int


def embed_plan(encoder: "TextEncoder", lengths: Sequence[int]) -> list["Batch"]:
    """The batches in which texts are embedded, in few shapes.

    Lengths are powers of two: half as many programs as a search has, for texts that can
    be as long as a document.

    Args:
      encoder: of one side of a dense model.
      lengths: tokens of each text.
    """
    from jaxir.bucketing import plan_batches
    from jaxir.mesh import num_shards

    most = encoder.max_length
    coarse = [min(max(1 << (n - 1).bit_length(), 16), most) for n in lengths]
    return plan_batches(
        np.array(coarse, np.int64), most, batch_tokens=encoder.batch_tokens,
        multiple=num_shards(encoder.mesh), fill=False,
    )  # fmt: skip


def embed_work(encoder: "TextEncoder", *, name: str, batch: int) -> Work:
    """The work of texts that become vectors; its results are :class:`Embedded`.

    Args:
      encoder: of one side of a dense model.
      name: of the model, for errors.
      batch: the most texts of one call.
    """

    def run(texts: list[str]) -> list[Embedded]:
        from jaxir.numerics import check_finite

        ids = encoder.tokenize(texts)
        plan = embed_plan(encoder, [len(tokens) for tokens in ids])
        started = [encoder.start(ids, part) for part in plan]
        found: dict[int, Embedded] = {}
        for part, vectors in zip(plan, map(np.asarray, started), strict=True):
            for row, vector in zip(part.rows.tolist(), vectors, strict=False):
                check_finite(vector, name, lambda _, row=row: f"text {row}")
                found[row] = Embedded(vector, len(ids[row]))
        return [found[row] for row in range(len(texts))]

    return Work("embed", run, sizes_to(batch, 4))
