"""Hard negatives: documents a searcher likes and the judgments do not.

The knobs and their meaning are those of sentence-transformers'
``mine_hard_negatives`` (Moreira et al., "NV-Retriever", arXiv 2407.15831, compares
them; its best, TopK-PercPos at 95 %, is ``relative_margin=0.05``).  Added are: queries
stream through in batches, an interrupted run resumes, draws are seeded for each query,
and a positive of *any* query of the same text is never a negative.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from jaxir.data.lists import TrainingList, list_to_json, positives_by_text
from jaxir.data.negatives import MineConfig, candidate_range, select_negatives
from jaxir.data.resumable import mappings_fingerprint, resumable_lines
from jaxir.errors import InputError
from jaxir.progress import progress_bar

__all__ = [
    "MineConfig",
    "MineReport",
    "Rescorer",
    "mine",
    "mine_lists",
]

Rescorer = Callable[[Sequence[str], Sequence[Sequence[str]]], list[np.ndarray]]
"""Scores of each query text's document texts; a teacher of ``jaxir.label`` is one."""


_DEFAULTS = MineConfig()
_DROPPING = (
    "absolute_margin", "relative_margin", "max_score", "min_score", "consistent_top",
)  # fmt: skip


class MineReport(NamedTuple):
    """What :func:`mine_lists` did.

    Attributes:
      queries: queries with a positive.
      lists: lists written.
      negatives: negatives in them.
      without: queries left out, no positive or too few negatives remaining.
      dropped: candidates dropped, by the knob that dropped them; ``consistent_top``
        drops positives.
    """

    queries: int
    lists: int
    negatives: int
    without: int
    dropped: dict[str, int]


def mine(
    searcher: Any,
    collection: Any,
    split: str | None,
    *,
    config: MineConfig = _DEFAULTS,
    rescore: Rescorer | None = None,
    skip: Collection[str] = frozenset(),
) -> Iterator[TrainingList]:
    """Yields training lists with hard negatives as they are found.

    Queries left with fewer than ``min_negatives`` give no list.

    Args:
      searcher: what ``jaxir.search.open_index`` opens.
      collection: the documents and judgments.
      split: whose judgments are the positives.
      config: the knobs.
      rescore: scores the candidates anew (a cross-encoder, say); margins, bounds and
        order then go by its scores, and the lists carry them.
      skip: ids of queries not to mine.

    Raises:
      InputError: knobs that contradict each other, or a split without positives.
    """
    positives = _positives(collection, split)
    counts: Counter[str] = Counter()
    for _, lists in _mine_queries(
        searcher, collection, split, positives, config, rescore, skip, counts
    ):
        yield from lists


def _positives(collection: Any, split: str | None) -> dict[str, list[str]]:
    """The positives of each query and of its namesakes that the collection holds."""
    queries = collection.queries(split)
    joined = positives_by_text(collection.qrels(split), queries)
    found = {}
    for query_id, docs in joined.items():
        ids = sorted(docs)
        rows = collection.docs.rows(ids).tolist()
        held = [doc for doc, row in zip(ids, rows, strict=True) if row >= 0]
        if held and query_id in queries:
            found[query_id] = held
    if not found:
        raise InputError(f"split {split}", "no query with a positive", "judgments")
    return found


def _mine_queries(
    searcher: Any,
    collection: Any,
    split: str | None,
    positives: Mapping[str, Sequence[str]],
    config: MineConfig,
    rescore: Rescorer | None,
    skip: Collection[str],
    counts: Counter[str],
) -> Iterator[tuple[str, list[TrainingList]]]:
    """Yields each query's lists; counts what was dropped and what was left out."""
    queries = collection.queries(split)
    qrels = collection.qrels(split)
    most = max(map(len, positives.values()))
    range_max = candidate_range(config, most, rescored=rescore is not None)
    todo = [query_id for query_id in positives if query_id not in skip]
    depth = max(range_max + most, config.consistent_top or 0)
    depth = min(depth, len(collection.docs))
    for start in range(0, len(todo), config.batch_size):
        batch = todo[start : start + config.batch_size]
        scored = _search(searcher, [queries[query_id] for query_id in batch], depth)
        if rescore is not None:
            scored = _rescored(rescore, collection, batch, queries, scored, positives)
        for query_id, candidates in zip(batch, scored, strict=True):
            known = positives[query_id]
            close = _consistent(known, candidates, config.consistent_top)
            judged = _graded(qrels[query_id], collection)
            kept = [pair for pair in judged if pair[0] in close]
            if len(kept) < len(judged):
                counts["consistent_top"] += len(judged) - len(kept)
            if not close or (judged and not kept):
                counts["without"] += 1
                yield query_id, []
                continue
            # A positive beyond the depth scores below all that was found.
            reached = np.array([candidates.get(doc, -np.inf) for doc in close])
            others = [doc for doc in candidates if doc not in known]
            chosen = select_negatives(
                np.array([candidates[doc] for doc in others]), reached, config,
                range_max=range_max, random=_random(config.seed, query_id),
                counts=counts,
            )  # fmt: skip
            negatives = [others[i] for i in chosen.tolist()]
            if len(negatives) < config.min_negatives:
                counts["without"] += 1
                yield query_id, []
                continue
            heads = [[pair] for pair in kept] if config.per == "positive" else [kept]
            with_scores = candidates if rescore is not None else None
            yield (
                query_id,
                [
                    _make_list(query_id, head, negatives, with_scores)
                    for head in heads
                    if head
                ],
            )


def _consistent(
    positives: Sequence[str], candidates: Mapping[str, float], top: int | None
) -> list[str]:
    """The positives that are among the best found, as good as the last of them."""
    if top is None:
        return list(positives)
    best = sorted(candidates.values(), reverse=True)[:top]
    last = best[-1] if best else np.inf
    return [doc for doc in positives if candidates.get(doc, -np.inf) >= last]


def _search(searcher: Any, texts: Sequence[str], k: int) -> list[dict[str, float]]:
    ranking = searcher.search_texts(texts, k)
    return [
        {
            searcher.doc_ids[row]: score
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
            if row >= 0
        }
        for rows, scores in zip(ranking.doc_ids, ranking.scores, strict=True)
    ]


def _graded(judged: Mapping[str, int], collection: Any) -> list[tuple[str, float]]:
    """Positives that the collection holds, best grade first."""
    found = sorted(((-grade, doc) for doc, grade in judged.items() if grade > 0))
    rows = collection.docs.rows([doc for _, doc in found])
    return [
        (doc, float(-minus))
        for (minus, doc), row in zip(found, rows.tolist(), strict=True)
        if row >= 0
    ]


def _make_list(
    query_id: str,
    head: Sequence[tuple[str, float]],
    negatives: Sequence[str],
    scores: Mapping[str, float] | None,
) -> TrainingList:
    doc_ids = (*(doc for doc, _ in head), *negatives)
    labels = (*(grade for _, grade in head), *(0.0 for _ in negatives))
    taught = None if scores is None else tuple(float(scores[doc]) for doc in doc_ids)
    return TrainingList(query_id, doc_ids, labels, taught)


def _rescored(
    rescore: Rescorer,
    collection: Any,
    batch: Sequence[str],
    queries: Mapping[str, str],
    scored: Sequence[Mapping[str, float]],
    positives: Mapping[str, Sequence[str]],
) -> list[dict[str, float]]:
    """New scores of all candidates, and of the positives wherever they stood."""
    wanted = []
    for query_id, candidates in zip(batch, scored, strict=True):
        ids = list(dict.fromkeys([*candidates, *positives[query_id]]))
        rows = collection.docs.rows(ids).tolist()
        wanted.append(
            [(doc, row) for doc, row in zip(ids, rows, strict=True) if row >= 0]
        )
    texts = [collection.docs.texts([row for _, row in pairs]) for pairs in wanted]
    fresh = rescore([queries[query_id] for query_id in batch], texts)
    return [
        {doc: float(score) for (doc, _), score in zip(pairs, values, strict=True)}
        for pairs, values in zip(wanted, fresh, strict=True)
    ]


def _random(seed: int, query_id: str) -> np.random.Generator:
    digest = hashlib.blake2b(query_id.encode(), digest_size=16).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32).tolist()])


def mine_lists(
    searcher: Any,
    collection: Any,
    split: str | None,
    path: str | os.PathLike,
    *,
    config: MineConfig = _DEFAULTS,
    rescore: Rescorer | None = None,
    identity: str = "",
) -> MineReport:
    """Mines a split into a file of training lists; resumes where it was interrupted.

    Args:
      searcher: see :func:`mine`.
      collection: see :func:`mine`.
      split: see :func:`mine`.
      path: the JSON lines file; it appears when all queries are done.
      config: the knobs.
      rescore: see :func:`mine`.
      identity: names searcher and rescorer; work done under another is not resumed.

    Raises:
      InputError: see :func:`mine`; or the file cannot be written.
    """
    # How many queries are searched at a time changes no list.
    knobs = {k: v for k, v in asdict(config).items() if k != "batch_size"}
    settings = {
        "knobs": knobs,
        "collection": collection.docs.fingerprint,
        "split": split,
        "judgments": mappings_fingerprint(
            collection.qrels(split), collection.queries(split)
        ),
        "identity": identity,
    }
    with resumable_lines(path, settings) as out:
        before: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        positives = _positives(collection, split)
        mined = _mine_queries(
            searcher, collection, split, positives, config, rescore, out.done, counts
        )
        with progress_bar(
            total=len(positives), label="mine", unit="query", initial=len(out.done)
        ) as bar:
            for query_id, lists in mined:
                fresh = counts - before
                before = counts.copy()
                fresh["lists"] = len(lists)
                fresh["negatives"] = sum(
                    sum(label == 0 for label in item.labels) for item in lists
                )
                out.append(query_id, map(list_to_json, lists), fresh)
                bar.update()
        found = out.counts
        queries = len(out.done)
    dropped = {
        name: found[name] for name in _DROPPING if getattr(config, name) is not None
    }
    return MineReport(
        queries, found["lists"], found["negatives"], found["without"], dropped
    )
