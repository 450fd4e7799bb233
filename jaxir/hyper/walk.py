"""The walk of a graph search as one compiled program of fixed shapes.

``hyper.graph`` says what is computed and in which order; here is how.  A query's state
is ``T``, the best of the newest candidates, and a bit a document for what was visited.
An iteration is a selection, a gather of neighbours, two sorts that leave each new one
once and in the order of rows, and as many blocks of q-net scores as those need.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from jaxir.hyper.qnet import QNetSpec, QNetWeights, apply_all, apply_own
from jaxir.hyper.stored import finite_weights, score_stored
from jaxir.numerics import INVALID_ID, NEG_INF, where_score
from jaxir.topk import empty_ranking, update_top_k
from jaxir.types import Ranking

__all__ = ["Plan", "Walked", "walk"]


class Plan(NamedTuple):
    """What the program depends on beside shapes; hashable.

    Attributes:
      explore: candidates that may be expanded.
      kept: candidates that are offered to ``T``.
      slots: places in ``T``.
      iterations: the most there are.
      released: the rule, else the paper's.
      early_stop: end when nothing entered ``T``.
      together: all queries in each operation, else one query after another.
      block_rows: documents scored at a time, of all queries that go together.
      dtype: of the products; weights and documents are cast to it.
    """

    explore: int
    kept: int
    slots: int
    iterations: int
    released: bool
    early_stop: bool
    together: bool
    block_rows: int
    dtype: str


class Walked(NamedTuple):
    """``G`` queries between two iterations, and at the end.

    Attributes:
      best: ``T``, ``[G, slots]`` by falling score, equals in order of entry.
      found: ``[G, kept]`` the best of the newest candidates, by score, then row.
      visited: bool ``[G, N + 1]``; the last column, of no document, is true.  At the
        end ``[G, 0]``.
      active: bool ``[G]``, there are candidates that were not offered yet.
      scored: int32 ``[G]`` documents.
      rounds: int32 ``[G]`` of scoring.
      broken: bool ``[G]``, a weight, a vector or a score was not finite.
    """

    best: Ranking
    found: Ranking
    visited: Bool[Array, "G M"]
    active: Bool[Array, " G"]
    scored: Int[Array, " G"]
    rounds: Int[Array, " G"]
    broken: Bool[Array, " G"]


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
    plan: Plan,
) -> tuple[Ranking, Array]:
    """The best entry points of every query; their vectors are gathered once for all."""
    batch, num_docs = weights.output.shape[0], vectors.shape[0]
    width = _block_width(plan, batch, entry.shape[0])
    num_blocks = -(-entry.shape[0] // width)
    rows = _padded(entry, num_blocks * width, num_docs)

    def score_block(i: Int[Array, ""]) -> tuple[Array, Array]:
        block = jax.lax.dynamic_slice_in_dim(rows, i * width, width)
        docs = _take_docs(vectors, block)
        scores = score_stored(apply_all, spec, weights, docs, plan.dtype)
        exists = jnp.broadcast_to(jnp.expand_dims(block < num_docs, 0), scores.shape)
        return scores, exists

    start = empty_ranking((batch,), plan.kept)
    found, broken = _best_of_blocks(score_block, num_blocks, start, width)
    spread = jnp.broadcast_to(jnp.expand_dims(rows, 0), (batch, rows.shape[0]))
    return _rows_at(spread, found), broken


def _block_width(plan: Plan, queries: int, most: int) -> int:
    """Documents of each query in a block, so that all of them are ``block_rows``."""
    return max(1, min(most, max(16, plan.block_rows // max(queries, 1))))


def _absorb(state: Walked, plan: Plan) -> tuple[Ranking, Int[Array, " G"]]:
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
    visited: Bool[Array, "G M"],
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
    plan: Plan,
    state: Walked,
) -> Walked:
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
        docs = _take_docs(vectors, block)
        scores = score_stored(apply_own, spec, weights, docs, plan.dtype)
        return scores, block < num_docs

    start = empty_ranking((group,), plan.kept)
    found, broken = _best_of_blocks(score_block, num_blocks, start, width)
    going &= count > 0
    return Walked(
        best, _rows_at(rows, found), visited, going,
        state.scored + count.astype(jnp.int32),
        state.rounds + going.astype(jnp.int32), state.broken | broken,
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("spec", "plan", "mesh"))
def walk(
    weights: QNetWeights,
    vectors: Float[Array, "N W"],
    neighbors: Int[Array, "N degree"],
    entry: Int[Array, " P"],
    *,
    spec: QNetSpec,
    plan: Plan,
    mesh: Mesh | None = None,
) -> Walked:
    """Searches for every query.

    Args:
      weights: ``[B, ...]``.
      vectors: ``[N, W]``.
      neighbors: ``[N, degree]``; what is below 0 or from ``N`` on is no neighbour.
      entry: ``[P]`` rows to begin with, ascending, each once.
      spec: of the q-nets.
      plan: the settings.
      mesh: devices that walk each for its own queries, ``B`` of which its first axis
        splits evenly; everything else is on all of them.  None for one device.

    Returns:
      The last state of all queries; ``best`` is the result.
    """
    own = functools.partial(_walk, spec, plan)
    if mesh is not None:
        # Devices never wait for each other: the loop of each ends by itself.
        split, whole = PartitionSpec(mesh.axis_names[0]), PartitionSpec()
        own = jax.shard_map(
            own,
            mesh=mesh,
            in_specs=(split, whole, whole, whole),
            out_specs=split,
            check_vma=False,
        )
    return own(weights, vectors, neighbors, entry)


def _walk(
    spec: QNetSpec,
    plan: Plan,
    weights: QNetWeights,
    vectors: Float[Array, "N W"],
    neighbors: Int[Array, "N degree"],
    entry: Int[Array, " P"],
) -> Walked:
    """What one device does."""
    num_docs, num_entry = vectors.shape[0], entry.shape[0]
    known = jnp.zeros(num_docs + 1, bool).at[entry].set(True).at[num_docs].set(True)

    def together(weights: QNetWeights) -> Walked:
        group = weights.output.shape[0]
        found, broken = _score_entry(spec, weights, vectors, entry, plan)
        state = Walked(
            empty_ranking((group,), plan.slots), found,
            jnp.broadcast_to(jnp.expand_dims(known, 0), (group, num_docs + 1)),
            jnp.ones(group, bool), jnp.full(group, num_entry, jnp.int32),
            jnp.ones(group, jnp.int32), broken | ~finite_weights(weights),
        )  # fmt: skip
        step = functools.partial(_step, spec, weights, vectors, neighbors, plan)
        state = jax.lax.while_loop(lambda state: jnp.any(state.active), step, state)
        return state._replace(visited=jnp.zeros((group, 0), bool))

    def alone(weights: QNetWeights) -> Walked:
        state = together(jax.tree.map(lambda x: jnp.expand_dims(x, 0), weights))
        return jax.tree.map(lambda x: jnp.squeeze(x, 0), state)

    return together(weights) if plan.together else jax.lax.map(alone, weights)
