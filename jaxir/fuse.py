"""Several runs into one: reciprocal ranks, interpolation, CombSUM and CombMNZ.

A document that a run does not list is worth nothing in it: rank infinity for
reciprocal ranks, the lowest normalised score otherwise.  Equal fused scores are
ordered by the best rank in any run, then by the order of the runs, so that equal input
gives equal output whatever the hash seed.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxir.data.formats import Run
from jaxir.errors import InputError

__all__ = ["METHODS", "NORMALIZATIONS", "fuse", "min_max", "z_score"]


def min_max(scores: np.ndarray) -> np.ndarray:
    """Scores of one query moved to [0, 1]; all 1 where they are equal.

    Example::

      >>> min_max(np.array([4.0, 3.0, 2.0]))
      array([1. , 0.5, 0. ])
    """
    low, high = scores.min(), scores.max()
    if low == high:
        return np.ones_like(scores)
    # Halved first: the span of finite scores may itself be infinite.
    return (scores / 2 - low / 2) / (high / 2 - low / 2)


def z_score(scores: np.ndarray) -> np.ndarray:
    """Scores of one query less their mean, in standard deviations.

    Example::

      >>> z_score(np.array([3.0, 1.0]))
      array([ 1., -1.])
    """
    spread = scores.std()
    return (scores - scores.mean()) / (spread if spread > 0 else 1.0)


NORMALIZATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "min-max": min_max,
    "z-score": z_score,
    "none": np.asarray,
}
"""How the scores of a query are made comparable between runs."""

# What one run contributes to its documents: (ranks from 1, scores, rrf_k) -> points.
_Points = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def _reciprocal_rank(ranks: np.ndarray, scores: np.ndarray, k: float) -> np.ndarray:
    return 1.0 / (k + ranks)


def _score(ranks: np.ndarray, scores: np.ndarray, k: float) -> np.ndarray:
    return scores


METHODS: dict[str, str] = {
    "rrf": "sum of w / (k + rank); Cormack, Clarke and Büttcher, SIGIR 2009",
    "interpolation": "weighted mean of normalised scores",
    "combsum": "sum of normalised scores; Fox and Shaw, TREC-2, 1994",
    "combmnz": "CombSUM times the number of runs that list the document; ibid.",
}
"""The methods by name, each with what it computes."""


def fuse(
    runs: Sequence[Mapping[str, Mapping[str, float]]],
    *,
    method: str = "rrf",
    weights: Sequence[float] | None = None,
    rrf_k: float = 60.0,
    normalization: str = "min-max",
    depth: int = 1000,
) -> Run:
    """One run out of several.

    With ``r_i(d)`` the rank of document d in run i from 1, ``s_i(d)`` its normalised
    score and ``w_i`` the weights::

      rrf            sum_i w_i / (k + r_i(d))
      interpolation  sum_i w_i s_i(d) / sum_i w_i
      combsum        sum_i w_i s_i(d)
      combmnz        #{i: d in run i} * sum_i w_i s_i(d)

    Args:
      runs: scores by query and document, at least one run.
      method: a name from :data:`METHODS`.
      weights: one for each run; equal by default.
      rrf_k: the constant of reciprocal rank fusion; larger flattens the ranks.
      normalization: a name from :data:`NORMALIZATIONS`, unused by ``rrf``.
      depth: documents kept for each query.

    Returns:
      A run over all queries of all runs, each query's documents best first.

    Raises:
      InputError: no run, an unknown name, weights that do not fit, or a score that is
        not finite.

    Example::

      >>> lexical = {"q": {"a": 9.0, "b": 5.0}}
      >>> dense = {"q": {"b": 0.8, "c": 0.7}}
      >>> list(fuse([lexical, dense])["q"])
      ['b', 'a', 'c']
    """
    _check(runs, method, weights, rrf_k, normalization, depth)
    shares = np.ones(len(runs)) if weights is None else np.asarray(weights, np.float64)
    if method == "interpolation":
        shares = shares / shares.sum()
    points = _reciprocal_rank if method == "rrf" else _score
    normalize = NORMALIZATIONS["none" if method == "rrf" else normalization]
    query_ids = dict.fromkeys(query_id for run in runs for query_id in run)
    fused: Run = {}
    for query_id in query_ids:
        columns = [
            (share, run[query_id])
            for share, run in zip(shares, runs, strict=True)
            if run.get(query_id)
        ]
        total = _fuse_query(query_id, columns, points, normalize, rrf_k)
        if method == "combmnz":
            for doc_id in total:
                listed = sum(doc_id in scored for _, scored in columns)
                total[doc_id] *= listed
        # sorted() is stable, and `total` stands in the order of the tie rule
        best = sorted(total.items(), key=lambda item: -item[1])[:depth]
        fused[query_id] = dict(best)
    return fused


def _fuse_query(
    query_id: str,
    columns: Sequence[tuple[float, Mapping[str, float]]],
    points: _Points,
    normalize: Callable[[np.ndarray], np.ndarray],
    rrf_k: float,
) -> dict[str, float]:
    """Weighted sums by document, ordered by best rank and then by run."""
    ranked = []
    for share, scored in columns:
        doc_ids = list(scored)
        scores = np.fromiter(scored.values(), np.float64, len(scored))
        if not np.isfinite(scores).all():
            bad = doc_ids[int((~np.isfinite(scores)).argmax())]
            raise InputError(
                "runs", f"score of {bad!r} for query {query_id!r} is {scored[bad]}",
                "a finite number", "score the run again",
            )  # fmt: skip
        order = np.argsort(-scores, kind="stable")
        gained = points(np.arange(1, len(order) + 1), normalize(scores[order]), rrf_k)
        ranked.append(([doc_ids[i] for i in order], (share * gained).tolist()))
    total: dict[str, float] = {}
    for rank in range(max((len(ids) for ids, _ in ranked), default=0)):
        for ids, _ in ranked:
            if rank < len(ids):
                total.setdefault(ids[rank], 0.0)
    floors = [min(0.0, gained[-1]) for _, gained in ranked]
    for (ids, gained), floor in zip(ranked, floors, strict=True):
        for doc_id, value in zip(ids, gained, strict=True):
            total[doc_id] += value - floor
    # z-scores may be negative: an unlisted document gets its run's lowest, not more.
    return {doc_id: value + sum(floors) for doc_id, value in total.items()}


def _check(
    runs: Sequence[object],
    method: str,
    weights: Sequence[float] | None,
    rrf_k: float,
    normalization: str,
    depth: int,
) -> None:
    if not runs:
        raise InputError("runs", "no run", "at least one")
    if method not in METHODS:
        raise InputError("method", f"{method!r}", "one of " + ", ".join(METHODS))
    if normalization not in NORMALIZATIONS:
        expected = "one of " + ", ".join(NORMALIZATIONS)
        raise InputError("normalization", f"{normalization!r}", expected)
    if weights is not None:
        if len(weights) != len(runs):
            raise InputError(
                "weights", f"{len(weights)} for {len(runs)} runs", "one for each run"
            )
        if not (min(weights) >= 0 and 0 < sum(weights) < float("inf")):
            raise InputError(
                "weights", f"{list(weights)}", "numbers of at least 0, not all 0"
            )
    if not rrf_k >= 0:
        raise InputError("rrf_k", f"{rrf_k}", "a number of at least 0, usually 60")
    if depth < 1:
        raise InputError("depth", f"{depth}", "at least 1")
