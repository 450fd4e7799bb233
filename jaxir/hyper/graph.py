"""Search by a neighbour graph: a q-net scores the documents near those it likes.

Algorithm 1 of Hypencoder (arXiv 2502.05364, section 3.6).  Candidates, at first random
documents, are scored; the best of them may enter ``T``, the ``k`` best so far; the
neighbours of those, unless visited before, are the next candidates; and so on until
there are none or the iterations are over.  How much is scored depends on the settings,
not on the corpus.

Two rules differ in what is offered to ``T`` and in whose neighbours come next:

============ ====================================== ==================================
rule         offered to ``T`` in an iteration       expanded
============ ====================================== ==================================
``paper``    the ``explore`` best candidates        those of them that entered ``T``
``released`` the ``max(explore, k)`` best           the ``explore`` best candidates
============ ====================================== ==================================

``released`` is what the authors' code does, which gave the paper's figures.  It ends
early when nothing entered ``T``.  Under ``paper`` that end comes by itself, because
what did not enter is not expanded: there ``early_stop`` changes nothing.  ``paper``
finds at most ``explore * iterations`` documents, however many were scored.

Where every document is an entry point, all are scored and there is nowhere to walk to.
The ``max(explore, k)`` best are then offered under either rule: the search is
exhaustive.

Order is exact: candidates by higher score, then lower row; a candidate enters ``T``
while that holds fewer than ``k`` documents or if its score is *higher* than the lowest
there, which leaves (of equals the last that came).  The same ids and the same number
of scored documents as a plain transcription of the algorithm, on any device.

Memory beside vectors and graph, for ``G`` queries that go together (all of a call on an
accelerator; one after another on a CPU, where that is faster): ``G * N`` bytes of what
was visited, ``12 * G * explore * degree`` bytes of candidates, and the vectors and
activations of one block of documents.
"""

import dataclasses
import functools
import random
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxir.errors import InputError
from jaxir.hyper.placed import (
    graph_vectors,
    on_devices,
    split_queries,
    walking_devices,
)
from jaxir.hyper.qnet import QNetSpec, QNetWeights
from jaxir.hyper.stored import QueryError, check_finite, product_dtype
from jaxir.hyper.walk import Plan, walk
from jaxir.numerics import INVALID_ID, NEG_INF
from jaxir.topk import empty_ranking
from jaxir.types import Ranking

__all__ = [
    "GraphResult",
    "GraphSearchConfig",
    "entry_rows",
    "graph_search",
    "graph_vectors",
]

_RULES = ("paper", "released")

BLOCK_ROWS = 65_536
"""Documents scored at a time on an accelerator, of all queries together."""

CPU_BLOCK_ROWS = 512
"""The same on a CPU, of one query: a block and its activations stay in a cache."""


@dataclasses.dataclass(frozen=True)
class GraphSearchConfig:
    """How far a graph search looks; the defaults are the paper's "Efficient 1".

    Attributes:
      entry_points: random documents that are scored first, the paper's ``|C~|``; in a
        smaller corpus every document, which makes the search exhaustive.
      explore: candidates looked at in an iteration, ``nCandidates``.
      iterations: ``maxIter``, at least 1.
      rule: ``"paper"`` or ``"released"``; see the module.
      early_stop: whether ``released`` ends when nothing entered the result.
      seed: of the entry points.

    Raises:
      InputError: a number below 1 or an unknown rule.
    """

    entry_points: int = 10_000
    explore: int = 64
    iterations: int = 16
    rule: str = "paper"
    early_stop: bool = True
    seed: int = 43

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("entry_points", "explore", "iterations"):
            if getattr(self, name) < 1:
                raise InputError(name, str(getattr(self, name)), "at least 1")
        if self.rule not in _RULES:
            raise InputError("rule", repr(self.rule), " or ".join(_RULES))


class GraphResult(NamedTuple):
    """What a graph search found, as numpy arrays.

    Attributes:
      ranking: ``[B, K]``; ties by the lower row, missing results with id -1.
      scored: int32 ``[B]`` documents that each query's q-net scored.
      iterations: int32 ``[B]`` rounds of scoring, the entry points' included.
    """

    ranking: Ranking
    scored: np.ndarray
    iterations: np.ndarray


@functools.lru_cache(maxsize=16)
def _sample(num_docs: int, count: int, seed: int) -> np.ndarray:
    rows = random.Random(seed).sample(range(num_docs), count)
    return np.sort(np.array(rows, np.int32))


def entry_rows(num_docs: int, config: GraphSearchConfig) -> np.ndarray:
    """The rows where every query begins, ascending.

    They are those of the authors' code, which samples with Python's ``random`` and
    seed 43.

    Example::

      >>> entry_rows(100, GraphSearchConfig(entry_points=5)).tolist()
      [4, 18, 36, 89, 97]
    """
    return _sample(num_docs, min(config.entry_points, num_docs), config.seed).copy()


def graph_search(
    spec: QNetSpec,
    weights: QNetWeights,
    vectors: Float[Array, "N W"] | Float[np.ndarray, "N W"],
    neighbors: Int[Array, "M degree"] | Int[np.ndarray, "M degree"],
    k: int,
    config: GraphSearchConfig | None = None,
    *,
    entry: np.ndarray | None = None,
    block_rows: int | None = None,
    together: bool | None = None,
) -> GraphResult:
    """The best documents that a walk over the neighbour graph meets.

    Args:
      spec: of the q-nets.
      weights: ``[B, ...]``, one q-net a query.
      vectors: ``[N, num_vectors * E]`` document vectors, best on a device already
        (:func:`graph_vectors`): numpy arrays are put there by every call.  Where they
        are on several devices, these share the queries.
      neighbors: ``[N, degree]`` rows of each document's neighbours, likewise; what is
        not a row of a document is no neighbour.
      k: number of results; may exceed what can be reached.
      config: how far to look; by default the paper's "Efficient 1".
      entry: rows to begin with instead of random ones.
      block_rows: documents scored at a time, of all queries that go together.
      together: whether all queries go together; None for not on a CPU.  It changes the
        time alone.

    Raises:
      InputError: ``k`` below 1, vectors of another width, a graph of another corpus,
        entry rows that are not in it, or q-nets, vectors that the walk comes by, or
        scores that are not finite.

    Example::

      >>> spec = QNetSpec(input_width=1, hidden=(1,), layer_norm=False)
      >>> one = jnp.ones((1, 1))  # one query whose q-net gives back what it reads
      >>> weights = QNetWeights((one[None],), (0 * one,), one)
      >>> vectors = jnp.array([[0.0], [1.0], [2.0], [3.0]])
      >>> line = jnp.array([[1, 4], [0, 2], [1, 3], [2, 4]])  # 4: no neighbour
      >>> found = graph_search(spec, weights, vectors, line, 2, entry=np.array([1]))
      >>> found.ranking.doc_ids.tolist(), found.scored.tolist()
      ([[3, 2]], [4])
    """
    config = config or GraphSearchConfig()
    _check(spec, vectors, neighbors, k)
    num_docs = vectors.shape[0]
    if entry is None:
        entry = entry_rows(num_docs, config)
    else:
        entry = np.unique(np.asarray(entry, np.int32))
        if not len(entry) or entry[0] < 0 or entry[-1] >= num_docs:
            raise InputError("entry", "not rows of documents", f"0 to {num_docs - 1}")
    if isinstance(vectors, np.ndarray):
        vectors = graph_vectors(vectors)
    num_queries = weights.output.shape[0]
    if not num_queries:
        nothing, none = jax.device_get(empty_ranking((0,), k)), np.zeros(0, np.int32)
        return GraphResult(nothing, none, none)
    devices = walking_devices(vectors, num_queries)
    vectors, neighbors, begin = (
        on_devices(array, devices) for array in (vectors, neighbors, entry)
    )
    weights, mesh = split_queries(weights, devices)
    platform = devices[0].platform
    on_cpu = platform == "cpu"
    released = config.rule == "released"
    explore = min(config.explore, num_docs)
    # One slot more than there are documents is never filled, as k of them are not.
    slots = min(k, num_docs + 1)
    offers_all = released or len(entry) == num_docs
    plan = Plan(
        explore, max(explore, slots) if offers_all else explore, slots,
        # Every iteration but the last one scores a document that none did before.
        min(config.iterations, num_docs + 1), released, released and config.early_stop,
        not on_cpu if together is None else together,
        block_rows or (CPU_BLOCK_ROWS if on_cpu else BLOCK_ROWS),
        product_dtype(vectors.dtype, platform),
    )  # fmt: skip
    state = walk(weights, vectors, neighbors, begin, spec=spec, plan=plan, mesh=mesh)
    fetched = jax.device_get((state.best, state.scored, state.rounds, state.broken))
    fetched = jax.tree.map(lambda leaf: leaf[:num_queries], fetched)
    (doc_ids, scores), scored, rounds, broken = fetched
    if broken.any():
        raise _not_finite(weights, vectors, int(np.argmax(broken)))
    return GraphResult(_finished(doc_ids, scores, k), scored, rounds)


def _not_finite(
    weights: QNetWeights, vectors: Float[Array, "N W"], query: int
) -> InputError:
    """Why a query's scores are not finite numbers; looked for only then."""
    check_finite(weights)
    finite = np.asarray(jnp.isfinite(vectors).all(axis=1))
    if not finite.all():
        return InputError(
            f"vectors, row {int(np.argmin(finite))}", "NaN or infinity",
            "finite numbers", "encode the documents again",
        )  # fmt: skip
    return QueryError(query, "scores that are not finite numbers", "smaller numbers")


def _finished(doc_ids: np.ndarray, scores: np.ndarray, k: int) -> Ranking:
    """The result in the order of every ranking: by score, then by row."""
    order = np.lexsort((doc_ids, -scores))
    missing = ((0, 0), (0, k - doc_ids.shape[1]))
    return Ranking(
        np.pad(
            np.take_along_axis(doc_ids, order, -1), missing, constant_values=INVALID_ID
        ),
        np.pad(np.take_along_axis(scores, order, -1), missing, constant_values=NEG_INF),
    )


def _check(
    spec: QNetSpec, vectors: Array | np.ndarray, neighbors: Array | np.ndarray, k: int
) -> None:
    if k < 1:
        raise InputError("k", str(k), "at least 1")
    width = spec.num_vectors * spec.input_width
    if vectors.shape[1] != width:
        raise InputError(
            "vectors", f"width {vectors.shape[1]}", f"width {width}, the q-net's",
            "search with the model that encoded the documents",
        )  # fmt: skip
    if neighbors.shape[0] != vectors.shape[0]:
        raise InputError(
            "neighbors", f"a graph of {neighbors.shape[0]} documents",
            f"{vectors.shape[0]} documents, as there are vectors",
            "build the graph of these vectors",
        )  # fmt: skip
