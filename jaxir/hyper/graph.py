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
what did not enter is not expanded: there ``early_stop`` changes nothing.

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
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxir.errors import InputError
from jaxir.hyper.qnet import QNetSpec, QNetWeights, apply_all, apply_own
from jaxir.numerics import INVALID_ID, NEG_INF, where_score
from jaxir.topk import empty_ranking, update_top_k
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

CPU_BLOCK_ROWS = 1_024
"""The same on a CPU, of one query: a block and its activations stay in a cache."""


@dataclasses.dataclass(frozen=True)
class GraphSearchConfig:
    """How far a graph search looks; the defaults are the paper's "Efficient 1".

    Attributes:
      entry_points: random documents that are scored first, the paper's ``|C~|``; cut
        to the size of the corpus, and the search is then exhaustive.
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
    rule: Literal["paper", "released"] = "paper"
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


class _Plan(NamedTuple):
    """What the compiled program depends on beside shapes; hashable."""

    explore: int
    kept: int
    slots: int
    iterations: int
    released: bool
    early_stop: bool
    together: bool
    block_rows: int


class _State(NamedTuple):
    """``G`` queries between two iterations: what is best, and what was just scored."""

    best: Ranking  # [G, slots] by score, equals in order of entry
    found: Ranking  # [G, kept] of the newest candidates, by score, then row
    visited: Bool[Array, "G N+1"]
    active: Bool[Array, " G"]
    scored: Int[Array, " G"]
    rounds: Int[Array, " G"]
    broken: Bool[Array, " G"]  # a score was not finite


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


def graph_vectors(
    shards: np.ndarray | Sequence[np.ndarray], device: jax.Device | None = None
) -> Array:
    """Document vectors as the one device array that a graph search gathers from.

    On a CPU a single ``.npy`` file, memory-mapped, is used where it lies: only the
    pages that a search touches are read.  Several shards are put together in memory.

    Args:
      shards: ``[rows, W]`` arrays in order, plain or memory-mapped.
      device: where; by default JAX's first.
    """
    parts = [shards] if isinstance(shards, np.ndarray) else list(shards)
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return jax.device_put(whole, device or jax.local_devices()[0], may_alias=True)


def _best_of_blocks(
    score_block: Callable[[Array], tuple[Array, Array]],
    num_blocks: Int[Array, ""] | int,
    running: Ranking,
    width: int,
) -> tuple[Ranking, Array]:
    """The best positions over blocks ``[G, width]``, and whose scores are not finite.

    ``score_block(i)`` gives scores and which of them exist.  No more blocks are scored
    than ``num_blocks``, which need not be known before.
    """

    def fold(i: Int[Array, ""], carry: tuple[Ranking, Array]) -> tuple[Ranking, Array]:
        running, broken = carry
        scores, exists = score_block(i)
        broken |= jnp.any(exists & ~jnp.isfinite(scores), axis=-1)
        return update_top_k(running, where_score(scores, exists), i * width), broken

    broken = jnp.zeros(running.scores.shape[:-1], bool)
    return jax.lax.fori_loop(0, num_blocks, fold, (running, broken))


def _rows_at(rows: Int[Array, "G n"], found: Ranking) -> Ranking:
    """A ranking of positions as one of the rows that stand there."""
    at = jnp.maximum(found.doc_ids, 0)
    doc_ids = jnp.take_along_axis(rows, at, axis=-1, mode="promise_in_bounds")
    missing = found.doc_ids == INVALID_ID
    return Ranking(jnp.where(missing, INVALID_ID, doc_ids), found.scores)


def _padded(rows: Int[Array, "*g n"], size: int, filler: int) -> Int[Array, "*g m"]:
    widths = [(0, 0)] * (rows.ndim - 1) + [(0, size - rows.shape[-1])]
    return jnp.pad(rows, widths, constant_values=filler)


def _take_docs(vectors: Float[Array, "N W"], rows: Int[Array, "*g n"]) -> Array:
    inside = jnp.minimum(rows, vectors.shape[0] - 1)
    return vectors.at[inside].get(mode="promise_in_bounds")


def _score_entry(
    spec: QNetSpec,
    weights: QNetWeights,
    vectors: Float[Array, "N W"],
    entry: Int[Array, " P"],
    plan: _Plan,
) -> tuple[Ranking, Array]:
    """The best entry points of every query; their vectors are gathered once for all."""
    batch, num_docs = weights.output.shape[0], vectors.shape[0]
    width = _block_width(plan, batch, entry.shape[0])
    num_blocks = -(-entry.shape[0] // width)
    rows = _padded(entry, num_blocks * width, num_docs)

    def score_block(i: Int[Array, ""]) -> tuple[Array, Array]:
        block = jax.lax.dynamic_slice_in_dim(rows, i * width, width)
        scores = apply_all(spec, weights, _take_docs(vectors, block))
        exists = jnp.broadcast_to(jnp.expand_dims(block < num_docs, 0), scores.shape)
        return scores, exists

    start = empty_ranking((batch,), plan.kept)
    found, broken = _best_of_blocks(score_block, num_blocks, start, width)
    spread = jnp.broadcast_to(jnp.expand_dims(rows, 0), (batch, rows.shape[0]))
    return _rows_at(spread, found), broken


def _block_width(plan: _Plan, queries: int, most: int) -> int:
    """Documents of each query in a block, so that all of them are ``block_rows``."""
    return max(1, min(most, max(16, plan.block_rows // max(queries, 1))))


def _absorb(state: _State, plan: _Plan) -> tuple[Ranking, Int[Array, " G"]]:
    """``T`` after its candidates were offered, and how many of them entered.

    The candidates come in descending order, so each that enters stays, and those that
    enter stand before those that do not: one stable selection does what the algorithm
    does one by one.
    """
    scores = jnp.concatenate([state.best.scores, state.found.scores], axis=-1)
    doc_ids = jnp.concatenate([state.best.doc_ids, state.found.doc_ids], axis=-1)
    best, at = jax.lax.top_k(scores, plan.slots)
    chosen = jnp.take_along_axis(doc_ids, at, axis=-1, mode="promise_in_bounds")
    entered = jnp.sum((at >= plan.slots) & (best > NEG_INF), axis=-1)
    return Ranking(chosen, best), entered.astype(jnp.int32)


def _unvisited(
    neighbors: Int[Array, "N degree"],
    rows: Int[Array, "G e"],
    visited: Bool[Array, "G N+1"],
    capacity: int,
) -> Int[Array, "G m"]:
    """Neighbours not visited before, each once, ascending; ``N`` fills the rest."""
    num_docs = neighbors.shape[0]
    at = jnp.clip(rows, 0, num_docs - 1)
    near = neighbors.at[at].get(mode="promise_in_bounds").astype(jnp.int32)
    # [G, e, degree] -> [G, e * degree]; rows that do not exist have no neighbours
    real = jnp.expand_dims(rows >= 0, -1) & (near >= 0) & (near < num_docs)
    ids = jnp.sort(jnp.where(real, near, num_docs).reshape(rows.shape[0], -1))
    before = jnp.pad(ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    seen = jnp.take_along_axis(visited, ids, axis=-1, mode="promise_in_bounds")
    fresh = (ids != before) & ~seen
    return jnp.sort(jnp.where(fresh, ids, num_docs))[:, :capacity]


def _step(
    spec: QNetSpec,
    weights: QNetWeights,
    vectors: Float[Array, "N W"],
    neighbors: Int[Array, "N degree"],
    plan: _Plan,
    state: _State,
) -> _State:
    """One iteration: offers what was scored to ``T``, expands, scores what is new."""
    num_docs, group = vectors.shape[0], state.active.shape[0]
    best, entered = _absorb(state, plan)
    if plan.released:
        going = state.active & (entered > 0 if plan.early_stop else True)
        limit = jnp.full_like(entered, plan.explore)
    else:
        going, limit = state.active, entered
    going &= state.rounds < plan.iterations
    chosen = jnp.expand_dims(jnp.arange(plan.explore), 0) < jnp.expand_dims(limit, 1)
    chosen &= jnp.expand_dims(going, 1)
    expanded = jnp.where(chosen, state.found.doc_ids[:, : plan.explore], INVALID_ID)

    capacity = min(plan.explore * neighbors.shape[1], num_docs)
    width = _block_width(plan, group, capacity)
    rows = _unvisited(neighbors, expanded, state.visited, capacity)
    visited = state.visited.at[jnp.expand_dims(jnp.arange(group), 1), rows].set(True)
    count = jnp.sum(rows < num_docs, axis=-1)
    # Later iterations find little that is new: no more is scored than the query with
    # the most needs.
    rows = _padded(rows, -(-capacity // width) * width, num_docs)
    num_blocks = -(-jnp.max(count, initial=0) // width)

    def score_block(i: Int[Array, ""]) -> tuple[Array, Array]:
        block = jax.lax.dynamic_slice_in_dim(rows, i * width, width, axis=1)
        return apply_own(spec, weights, _take_docs(vectors, block)), block < num_docs

    start = empty_ranking((group,), plan.kept)
    found, broken = _best_of_blocks(score_block, num_blocks, start, width)
    going &= count > 0
    return _State(
        best, _rows_at(rows, found), visited, going,
        state.scored + count.astype(jnp.int32),
        state.rounds + going.astype(jnp.int32), state.broken | broken,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("spec", "plan"))
def _search(
    weights: QNetWeights,
    vectors: Float[Array, "N W"],
    neighbors: Int[Array, "N degree"],
    entry: Int[Array, " P"],
    *,
    spec: QNetSpec,
    plan: _Plan,
) -> _State:
    num_docs, num_entry = vectors.shape[0], entry.shape[0]
    known = jnp.zeros(num_docs + 1, bool).at[entry].set(True).at[num_docs].set(True)

    def together(weights: QNetWeights) -> _State:
        group = weights.output.shape[0]
        found, broken = _score_entry(spec, weights, vectors, entry, plan)
        state = _State(
            empty_ranking((group,), plan.slots), found,
            jnp.broadcast_to(jnp.expand_dims(known, 0), (group, num_docs + 1)),
            jnp.ones(group, bool), jnp.full(group, num_entry, jnp.int32),
            jnp.ones(group, jnp.int32), broken,
        )  # fmt: skip
        step = functools.partial(_step, spec, weights, vectors, neighbors, plan)
        state = jax.lax.while_loop(lambda state: jnp.any(state.active), step, state)
        return state._replace(visited=jnp.zeros((group, 0), bool))

    def alone(weights: QNetWeights) -> _State:
        state = together(jax.tree.map(lambda x: jnp.expand_dims(x, 0), weights))
        return jax.tree.map(lambda x: jnp.squeeze(x, 0), state)

    return together(weights) if plan.together else jax.lax.map(alone, weights)


def graph_search(
    spec: QNetSpec,
    weights: QNetWeights,
    vectors: Float[Array, "N W"],
    neighbors: Int[Array, "N degree"],
    k: int,
    config: GraphSearchConfig | None = None,
    *,
    entry: np.ndarray | None = None,
    block_rows: int | None = None,
) -> GraphResult:
    """The best documents that a walk over the neighbour graph meets.

    Args:
      spec: of the q-nets.
      weights: ``[B, ...]``, one q-net a query.
      vectors: ``[N, num_vectors * E]`` document vectors on a device.
      neighbors: ``[N, degree]`` rows of each document's neighbours on that device;
        what is not a row of a document is no neighbour.
      k: number of results; may exceed what can be reached.
      config: how far to look; by default the paper's "Efficient 1".
      entry: rows to begin with instead of random ones.
      block_rows: documents scored at a time, of all queries that go together.

    Raises:
      InputError: ``k`` below 1, vectors of another width, a graph of another corpus,
        entry rows that are not in it, or scores that are not finite.

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
    _check(spec, weights, vectors, neighbors, k)
    num_docs = vectors.shape[0]
    if entry is None:
        entry = entry_rows(num_docs, config)
    else:
        entry = np.unique(np.asarray(entry, np.int32))
        if not len(entry) or entry[0] < 0 or entry[-1] >= num_docs:
            raise InputError("entry", "not rows of documents", f"0 to {num_docs - 1}")
    place = next(iter(vectors.devices()))
    on_cpu = place.platform == "cpu"
    released = config.rule == "released"
    explore = min(config.explore, num_docs)
    # One slot more than there are documents is never filled, as k of them are not.
    slots = min(k, num_docs + 1)
    plan = _Plan(
        explore, max(explore, slots) if released else explore, slots,
        config.iterations, released, config.early_stop, not on_cpu,
        block_rows or (CPU_BLOCK_ROWS if on_cpu else BLOCK_ROWS),
    )  # fmt: skip
    state = _search(
        weights, vectors, neighbors, jax.device_put(entry, place), spec=spec, plan=plan
    )
    fetched = jax.device_get((state.best, state.scored, state.rounds, state.broken))
    (doc_ids, scores), scored, rounds, broken = fetched
    if broken.any():
        raise InputError(
            "graph_search",
            f"scores of query {int(np.argmax(broken))} that are not finite",
            "finite document vectors and q-net weights",
            "look for NaN in the vectors or encode the documents again",
        )
    return GraphResult(_finished(doc_ids, scores, k), scored, rounds)


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
    spec: QNetSpec,
    weights: QNetWeights,
    vectors: Float[Array, "N W"],
    neighbors: Int[Array, "N degree"],
    k: int,
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
