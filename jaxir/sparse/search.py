"""Search in postings: exhaustive, with bounds of blocks, or in two phases.

Equation: ``s(q, d) = sum_t q_t d_t`` over the tokens that both have (Geng et al., arXiv
2411.04403, eq. 5), summed in float32, the tokens of the shortest lists first (of equal
lengths the lower token).  The first two methods give the same documents and the same
bits.  Only scores above 0 are results.
"""

import dataclasses
import itertools
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxir.errors import InputError
from jaxir.sparse.postings import Postings, loop_blocks, loop_weights
from jaxir.types import Ranking

__all__ = [
    "METHODS",
    "PRUNE_TYPES",
    "CountedRanking",
    "SparseQueries",
    "TwoPhase",
    "search",
    "search_counted",
    "split_queries",
]

METHODS = ("exhaustive", "block_max", "two_phase")
"""How postings can be searched; the first two are exact."""

PRUNE_TYPES = ("none", "max_ratio", "abs_value", "alpha_mass", "top_k")
"""How a query's tokens can be divided into those that choose documents and others."""


class SparseQueries(NamedTuple):
    """Queries as rows of a sparse matrix.

    Attributes:
      offsets: int64 ``[B + 1]``.
      tokens: int32 ``[nnz]``, rising within a query.
      weights: float32 ``[nnz]``, above 0.
    """

    offsets: Int[np.ndarray, " m"]
    tokens: Int[np.ndarray, " nnz"]
    weights: Float[np.ndarray, " nnz"]


class CountedRanking(NamedTuple):
    """Results and what they cost.

    Attributes:
      ranking: int32 and float32 ``[B, K]``.
      scored: int64 ``[B]``, documents whose score was computed and above 0.
    """

    ranking: Ranking
    scored: Int[np.ndarray, " B"]


@dataclasses.dataclass(frozen=True)
class TwoPhase:
    """The parameters of OpenSearch's ``neural_sparse_two_phase_processor``.

    The tokens of a query that ``prune_type`` keeps choose ``expansion_rate`` times as
    many documents as are wanted; the others are then added to the scores of these.  A
    document without a token that was kept is never found.

    Attributes:
      prune_type: ``max_ratio`` keeps weights of at least ``prune_ratio`` times the
        largest; ``abs_value`` of at least ``prune_ratio``; ``alpha_mass`` the largest
        ones while their sum is at most ``prune_ratio`` of the whole; ``top_k`` the
        ``prune_ratio`` largest ones; ``none`` all.
      prune_ratio: see there; 0 keeps all tokens, whatever the type.
      expansion_rate: at least 1.
      max_window_size: the most documents that the second phase may score, at least 50.

    Raises:
      InputError: an unknown type or a number out of range.
    """

    prune_type: str = "max_ratio"
    prune_ratio: float | int = 0.4
    expansion_rate: float | int = 5.0
    max_window_size: int = 10_000

    def __post_init__(self) -> None:
        """Checks the numbers."""
        kind, ratio = self.prune_type, self.prune_ratio
        if kind not in PRUNE_TYPES:
            expected = "one of " + ", ".join(PRUNE_TYPES)
            raise InputError("prune_type", repr(kind), expected)
        if kind in ("max_ratio", "alpha_mass"):
            good, expected = 0 <= ratio < 1, f"from 0 to below 1 for {kind}"
        elif kind == "top_k":
            good, expected = 0 <= ratio < math.inf and ratio % 1 == 0, "a whole number"
        else:
            good, expected = 0 <= ratio < math.inf, "a finite number from 0"
        if not good:
            raise InputError("prune_ratio", str(ratio), expected)
        if not 1 <= self.expansion_rate < math.inf:
            raise InputError("expansion_rate", str(self.expansion_rate), "from 1")
        if self.max_window_size < 50:
            raise InputError("max_window_size", str(self.max_window_size), "from 50")

    def window(self, k: int) -> int:
        """Documents that the second phase scores where ``k`` are wanted.

        Raises:
          InputError: more than ``max_window_size``.
        """
        size = int(k * self.expansion_rate)
        if size > self.max_window_size:
            raise InputError(
                f"k = {k}", f"a window of {size:,} documents",
                f"at most max_window_size = {self.max_window_size:,}",
                "ask for fewer, or lower expansion_rate",
            )  # fmt: skip
        return size


def _keeps(weights: np.ndarray, how: TwoPhase) -> np.ndarray:
    """bool: the tokens of one query that choose documents."""
    kept = np.ones(len(weights), bool)
    if how.prune_type == "none" or how.prune_ratio == 0 or not len(weights):
        return kept
    if how.prune_type == "max_ratio":
        # as Java: float32 products and comparisons
        return weights >= np.float32(how.prune_ratio) * weights.max()
    if how.prune_type == "abs_value":
        return weights >= np.float32(how.prune_ratio)
    order = np.argsort(-weights, kind="stable")
    if how.prune_type == "top_k":
        kept[order[int(how.prune_ratio) :]] = False
        return kept
    ordered = weights[order]
    limit = np.sum(ordered, dtype=np.float64) * how.prune_ratio
    kept[order] = np.cumsum(ordered, dtype=np.float64) <= limit
    return kept


def split_queries(
    queries: SparseQueries, how: TwoPhase
) -> tuple[SparseQueries, SparseQueries]:
    """The tokens of each query that choose documents, and the others.

    Example::

      >>> weights = np.array([1.0, 5.0, 2.0], np.float32)
      >>> queries = SparseQueries(np.array([0, 3]), np.array([4, 6, 9]), weights)
      >>> high, low = split_queries(queries, TwoPhase(prune_ratio=0.4))
      >>> high.tokens.tolist(), low.tokens.tolist()
      ([6, 9], [4])
    """
    starts = queries.offsets
    parts = [
        _keeps(queries.weights[start:stop], how)
        for start, stop in itertools.pairwise(starts)
    ]
    kept = np.concatenate([np.zeros(0, bool), *parts])
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])

    def part(where: np.ndarray, offsets: np.ndarray) -> SparseQueries:
        return SparseQueries(offsets, queries.tokens[where], queries.weights[where])

    high = before[starts]
    return part(kept, high), part(~kept, starts - high)


_FAULTS: dict[int, Callable[[Any, int], tuple[str, str]]] = {
    1: lambda token, size: (f"token {token}", f"0 to {size - 1:,}, those of the index"),
    2: lambda weight, _: (f"weight {weight}", "a finite number from 0"),
    3: lambda token, _: (f"token {token} out of order", "rising tokens, each once"),
}


def check_queries(queries: SparseQueries, vocab_size: int) -> SparseQueries:
    """Queries of the types that searches take, refused where they cannot be answered.

    Raises:
      InputError: as :func:`search`.
    """
    offsets = np.ascontiguousarray(queries.offsets, np.int64)
    tokens = np.ascontiguousarray(queries.tokens, np.int32)
    weights = np.ascontiguousarray(queries.weights, np.float32)
    from jaxir.sparse.posting_loops import find_fault

    if len(tokens) != len(weights):
        raise InputError("queries", f"{len(weights)} weights", f"{len(tokens)}")
    fault, query, at = find_fault(offsets, tokens, weights, vocab_size)
    if fault == 4:
        raise InputError(
            "queries", "offsets that are not those of queries",
            "0, then rising to the number of tokens",
        )  # fmt: skip
    if fault:
        found = weights[at] if fault == 2 else tokens[at]
        raise InputError(f"query {query}", *_FAULTS[fault](found, vocab_size))
    return SparseQueries(offsets, tokens, weights)


_OWN = threading.local()  # of each thread: sums, which every search leaves at 0


def _sums(num_docs: int) -> np.ndarray:
    """float32 zeros for the sums of a window; no search makes them anew."""
    from jaxir.sparse.search_loops import WINDOW

    held = getattr(_OWN, "sums", None)
    if held is None or len(held) < min(num_docs, WINDOW):
        held = _OWN.sums = np.zeros(min(num_docs, WINDOW), np.float32)
    return held


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _shared(
    work: Callable[[int, int], None], num_queries: int, threads: int | None
) -> None:
    """Calls ``work(first, stop)`` over ranges of queries on several threads."""
    threads = min(_cores() if threads is None else threads, num_queries)
    if threads < 2:
        work(0, num_queries)
        return
    # Four ranges a thread: queries differ in length.
    bounds = np.linspace(0, num_queries, min(4 * threads, num_queries) + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, bounds[:-1].tolist(), bounds[1:].tolist()))


def search(
    postings: Postings,
    queries: SparseQueries,
    k: int,
    *,
    method: str = "block_max",
    two_phase: TwoPhase | None = None,
    threads: int | None = None,
) -> Ranking:
    """The ``k`` best documents of each query, equal scores by the lower row.

    Args:
      postings: of :func:`jaxir.sparse.postings.open_postings`.
      queries: ``B`` of them.
      k: results of a query.
      method: one of :data:`METHODS`.
      two_phase: parameters of that method; None for its defaults.
      threads: that share the queries; None for the cores this process may use.

    Returns:
      int32 and float32 ``[B, k]``; where fewer documents have a score above 0, id -1
      and score -inf.

    Raises:
      InputError: an unknown method; tokens that the index does not have or that do not
        rise; weights that are not finite numbers from 0; a window that is too large.

    Example::

      >>> import tempfile
      >>> from jaxir.sparse.postings import SparseRows, build_postings, open_postings
      >>> place = tempfile.mkdtemp()
      >>> weights = np.array([0.5, 2, 1], np.float32)
      >>> rows = SparseRows(np.array([0, 2, 3]), np.array([1, 3, 1]), weights)
      >>> build_postings([rows], 4, place)
      >>> query = SparseQueries(np.array([0, 1]), np.array([1]), np.ones(1, np.float32))
      >>> found = search(open_postings(place, 2), query, 2)
      >>> found.doc_ids.tolist(), found.scores.tolist()
      ([[1, 0]], [[1.0, 0.5]])
    """
    return search_counted(
        postings, queries, k, method=method, two_phase=two_phase, threads=threads
    ).ranking


def search_counted(
    postings: Postings,
    queries: SparseQueries,
    k: int,
    *,
    method: str = "block_max",
    two_phase: TwoPhase | None = None,
    threads: int | None = None,
) -> CountedRanking:
    """As :func:`search`, with how many documents were scored.

    Of two phases it is the first that counts: the second scores none anew.
    """
    if method not in METHODS:
        raise InputError("method", repr(method), "one of " + ", ".join(METHODS))
    if two_phase is not None and method != "two_phase":
        raise InputError("two_phase", f"given with {method}", "method two_phase")
    if k < 1:
        raise InputError("k", str(k), "at least 1")
    queries = check_queries(queries, postings.vocab_size)
    if method != "two_phase":
        return _exact(postings, queries, k, method, threads)
    how = TwoPhase() if two_phase is None else two_phase
    window = how.window(k)
    if how.prune_type == "none" or how.prune_ratio == 0:
        return _exact(postings, queries, k, "block_max", threads)
    high, low = split_queries(queries, how)
    first, scored = _exact(postings, high, window, "block_max", threads)
    return CountedRanking(_rescored(postings, low, first, k, threads), scored)


def _factors(postings: Postings, queries: SparseQueries) -> np.ndarray:
    """What stored weights are multiplied with: a code's scale goes with the query."""
    if postings.scales is None:
        return queries.weights
    return queries.weights * postings.scales[queries.tokens]


def _exact(
    postings: Postings, queries: SparseQueries, k: int, method: str,
    threads: int | None,
) -> CountedRanking:  # fmt: skip
    from jaxir.sparse import search_loops

    num_queries = len(queries.offsets) - 1
    doc_ids = np.empty((num_queries, k), np.int32)
    scores = np.empty((num_queries, k), np.float32)
    scored = np.zeros(num_queries, np.int64)
    if not postings.num_docs:
        doc_ids[:], scores[:] = -1, -np.inf
        return CountedRanking(Ranking(doc_ids, scores), scored)
    lists = (postings.offsets, postings.docs, loop_weights(postings.weights))
    asked = (queries.offsets, queries.tokens, _factors(postings, queries))
    loop, blocks = search_loops.exhaustive, ()
    if method == "block_max":
        loop, blocks = search_loops.block_max, loop_blocks(postings)

    def work(first: int, stop: int) -> None:
        loop(
            *lists, postings.num_docs, *asked, first, stop, doc_ids, scores, scored,
            _sums(postings.num_docs), *blocks,
        )  # fmt: skip

    _shared(work, num_queries, threads)
    return CountedRanking(Ranking(doc_ids, scores), scored)


def _rescored(
    postings: Postings, low: SparseQueries, window: Ranking, k: int,
    threads: int | None,
) -> Ranking:  # fmt: skip
    from jaxir.sparse.rescore_loops import rescore

    num_queries = len(low.offsets) - 1
    doc_ids = np.empty((num_queries, k), np.int32)
    scores = np.empty((num_queries, k), np.float32)
    lists = (postings.offsets, postings.docs, loop_weights(postings.weights))
    asked = (low.offsets, low.tokens, _factors(postings, low))

    def work(first: int, stop: int) -> None:
        rescore(*lists, *asked, first, stop, *window, doc_ids, scores)

    _shared(work, num_queries, threads)
    return Ranking(doc_ids, scores)
