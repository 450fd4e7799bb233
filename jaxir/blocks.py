"""Exhaustive search: a score function applied to every document, block by block.

A running top-k is carried over blocks of document vectors, so that nothing of size
queries x documents exists.  What a query is and how it scores a block is the score
function's affair; a family gives its own and gets three searches with one result:

- :func:`resident_search`: vectors in a device's memory, one compiled scan.
- :func:`sharded_search`: the same on each device of a mesh over its own rows, then an
  exchange of ``[B, k]`` results only.
- :func:`stream_search`: vectors in the host's memory or in memory-mapped files, sent to
  the devices block by block, in turn.  On a CPU the blocks are not copied at all.

A top-k would leave a document out whose score is NaN, and nobody would know.  Here a
score that is not a finite number counts as ``+inf``: it comes first in any ranking, so
that one look at the results shows whether there was any, and the search refuses.
"""

import collections
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxir.errors import InputError
from jaxir.numerics import NEG_INF
from jaxir.topk import (
    empty_ranking,
    gather_top_k,
    marked,
    merge_top_k,
    streaming_top_k,
    update_top_k,
)
from jaxir.types import Ranking
from jaxir.vectors import (
    BLOCK_ROWS,
    BlockedVectors,
    OpenVectors,
    device_blocks,
    device_budget,
    host_blocks,
    row_of_blocks,
    row_of_shards,
)

__all__ = [
    "Programs",
    "Score",
    "open_vectors",
    "programs",
    "resident_search",
    "sharded_search",
    "stream_search",
]

Score = Callable[[Any, Array], Array]
"""``score(queries, block [N, E]) -> float32 [B, N]``.

``queries`` is a pytree of arrays whose first axis is ``B``.  Equal functions (by ``==``
and ``hash``) share their compiled programs: a function of a module or an instance of a
frozen dataclass, never a fresh ``lambda``.
"""


# --- what is compiled, once for each score function and shape ------------------------


def _existing(
    scores: Float[Array, "B N"],
    valid_from: Int[Array, ""] | int,
    valid_to: Int[Array, ""] | int,
) -> Float[Array, "B N"]:
    row = jnp.arange(scores.shape[1])
    exists = jnp.expand_dims((row >= valid_from) & (row < valid_to), 0)
    return jnp.where(exists, marked(scores), NEG_INF)


def _scan(
    score: Score,
    queries: Any,
    blocks: Float[Array, "n N E"],
    num_docs: Int[Array, ""] | int,
    k: int,
    first_row: Int[Array, ""] | int = 0,
) -> Ranking:
    rows = blocks.shape[1]

    def score_block(block: Int[Array, ""]) -> Float[Array, "B N"]:
        num_valid = num_docs - first_row - block * rows
        return _existing(score(queries, blocks[block]), 0, num_valid)

    return streaming_top_k(score_block, blocks.shape[0], k, first_row=first_row)


def _scan_sharded(
    score: Score,
    queries: Any,
    blocks: Float[Array, "n N E"],
    num_docs: Int[Array, ""] | int,
    k: int,
    mesh: Mesh,
) -> Ranking:
    axis = mesh.axis_names[0]
    rows_of_device = blocks.shape[0] // mesh.shape[axis] * blocks.shape[1]

    def local(
        queries: Any, blocks: Float[Array, "m N E"], num_docs: Int[Array, ""]
    ) -> Ranking:
        first_row = jax.lax.axis_index(axis) * rows_of_device
        keep = min(k, rows_of_device)
        best = _scan(score, queries, blocks, num_docs, keep, first_row)
        return gather_top_k(best, k, axis)

    replicated = PartitionSpec()
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(replicated, PartitionSpec(axis), replicated),
        out_specs=replicated,
        check_vma=False,
    )(queries, blocks, jnp.asarray(num_docs, jnp.int32))


def _fold(
    score: Score,
    running: Ranking,
    queries: Any,
    block: Float[Array, "N E"],
    first_row: Int[Array, ""] | int,
) -> Ranking:
    return update_top_k(running, score(queries, block), first_row, mark=True)


def _fold_partial(
    score: Score,
    running: Ranking,
    queries: Any,
    block: Float[Array, "N E"],
    first_row: Int[Array, ""] | int,
    valid_from: Int[Array, ""] | int,
    valid_to: Int[Array, ""] | int,
) -> Ranking:
    scores = _existing(score(queries, block), valid_from, valid_to)
    return update_top_k(running, scores, first_row)


class Programs(NamedTuple):
    """The compiled programs of a score function.

    Attributes:
      resident: of :func:`resident_search`, all blocks of a device.
      sharded: of :func:`sharded_search`, all blocks of a mesh.
      fold: of :func:`stream_search`, one block.
      fold_partial: the same where only some rows of the block are new.
    """

    resident: Callable[..., Ranking]
    sharded: Callable[..., Ranking]
    fold: Callable[..., Ranking]
    fold_partial: Callable[..., Ranking]


@functools.cache
def programs(score: Score) -> Programs:
    """The programs of a score function, always the same ones for equal functions."""

    def compiled(function: Callable, *static: str) -> Callable[..., Ranking]:
        return jax.jit(functools.partial(function, score), static_argnames=static)

    return Programs(
        compiled(_scan, "k"),
        compiled(_scan_sharded, "k", "mesh"),
        compiled(_fold),
        compiled(_fold_partial),
    )


# --- what is not a finite number ------------------------------------------------------


def _checked(
    ranking: Ranking, queries: Any, where: Callable[[int], tuple[object, np.ndarray]]
) -> Ranking:
    """The ranking, or an error that names the first document without a finite score.

    Args:
      ranking: ``[B, K]``.
      queries: what was searched with.
      where: from a row to the name of its place, ending in the row, and its vector.
    """
    # Under a transformation of JAX there are no numbers to look at yet.
    if isinstance(ranking.scores, jax.core.Tracer):
        return ranking
    infinite = np.isposinf(np.asarray(ranking.scores))
    if not infinite.any():
        return ranking
    row = int(np.asarray(ranking.doc_ids)[infinite].min())
    for query in np.flatnonzero(infinite.any(axis=-1)):
        for leaf in jax.tree.leaves(queries):
            if not np.isfinite(_float(leaf[query])).all():
                raise InputError(f"query {query}", "NaN or infinity", "finite numbers")
    place, vector = where(row)
    if not np.isfinite(_float(vector)).all():
        remedy = "encode the documents again"
        raise InputError(place, "NaN or infinity", "finite numbers", remedy)
    raise InputError(place, "its score is not a finite number", "smaller numbers")


def _float(values: Any) -> np.ndarray:
    return np.asarray(values).astype(np.float32)  # numpy knows no bfloat16


# --- the three searches ---------------------------------------------------------------


def resident_search(
    score: Score,
    queries: Any,
    vectors: Float[Array, "N E"] | BlockedVectors,
    k: int,
    *,
    block_rows: int = BLOCK_ROWS,
) -> Ranking:
    """The ``k`` documents with the largest scores, on one device.

    Args:
      score: scores a block.
      queries: pytree with a first axis ``B``.
      vectors: ``[N, E]`` on the device, or what :func:`device_blocks` made of them.
      k: number of results; may exceed ``N``.
      block_rows: documents of a block, if ``vectors`` are not in blocks yet.

    Returns:
      ``[B, k]`` rows and float32 scores; the tie rule of ``jaxir.topk``.

    Raises:
      InputError: a score is not a finite number.

    Example::

      >>> def dot(queries, block):
      ...     return queries @ block.T
      >>> vectors = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> found = resident_search(dot, jnp.array([[2.0, 1.0]]), vectors, 2)
      >>> found.doc_ids.tolist()
      [[2, 0]]
    """
    if not isinstance(vectors, BlockedVectors):
        if vectors.shape[0] > block_rows:
            vectors = device_blocks(np.asarray(vectors), block_rows=block_rows)
        else:
            vectors = BlockedVectors(vectors[None], vectors.shape[0])
    found = programs(score).resident(queries, vectors.blocks, vectors.num_docs, k)
    return _checked(found, queries, functools.partial(row_of_blocks, vectors))


def sharded_search(
    score: Score, queries: Any, vectors: BlockedVectors, k: int, *, mesh: Mesh
) -> Ranking:
    """As :func:`resident_search` with the blocks split over the devices of a mesh.

    Args:
      score: scores a block.
      queries: pytree with a first axis ``B``; copied to every device.
      vectors: from ``device_blocks(..., mesh=mesh)``.
      k: number of results.
      mesh: devices; the first axis splits the blocks.
    """
    queries = jax.device_put(queries, NamedSharding(mesh, PartitionSpec()))
    sharded = programs(score).sharded
    found = sharded(queries, vectors.blocks, vectors.num_docs, k, mesh)
    return _checked(found, queries, functools.partial(row_of_blocks, vectors))


def stream_search(
    score: Score,
    queries: Any,
    vectors: np.ndarray | Sequence[np.ndarray],
    k: int,
    *,
    block_rows: int = BLOCK_ROWS,
    devices: Sequence[jax.Device] | None = None,
) -> Ranking:
    """As :func:`resident_search` over vectors that stay in the host's memory.

    Each device holds one running top-k and at most two blocks.  A CPU device reads
    blocks that begin at a multiple of 64 bytes where they lie (memory-mapped ``.npy``
    files do): the search then needs no memory beyond the vectors'.

    Args:
      score: scores a block.
      queries: pytree with a first axis ``B``.
      vectors: ``[N, E]``, or shards of it in order, plain or memory-mapped.
      k: number of results.
      block_rows: documents of a block; a multiple of 16 keeps blocks aligned.
      devices: take blocks in turn; by default all local devices.

    Returns:
      ``[B, k]`` numpy arrays; the same result as from one device.
    """
    shards = [vectors] if isinstance(vectors, np.ndarray) else list(vectors)
    places = list(devices) if devices is not None else jax.local_devices()
    longest = max((len(shard) for shard in shards), default=1)
    rows = min(block_rows, max(16, 1 << (longest - 1).bit_length()))
    num_queries = jax.tree.leaves(queries)[0].shape[0]
    at = [_put(queries, place) for place in places]
    running = [
        jax.device_put(empty_ranking((num_queries,), k), place) for place in places
    ]
    turns = itertools.cycle(range(len(places)))
    in_flight: collections.deque[jax.Array] = collections.deque()
    for host in host_blocks(shards, rows):
        turn = next(turns)
        # Wait for the fold before the last one, so that blocks do not pile up.
        while len(in_flight) >= 2 * len(places):
            jax.block_until_ready(in_flight.popleft())
        block = jax.device_put(host.vectors, places[turn], may_alias=True)
        arguments = (running[turn], at[turn], block, host.first_row)
        if (host.valid_from, host.valid_to) == (0, rows):
            folded = programs(score).fold(*arguments)
        else:
            fold = programs(score).fold_partial
            folded = fold(*arguments, host.valid_from, host.valid_to)
        running[turn] = folded
        in_flight.append(folded.scores)
    best = running[0]
    for other in running[1:]:
        best = merge_top_k(best, jax.device_put(other, places[0]), k)
    found = jax.device_get(best)
    return _checked(found, queries, functools.partial(row_of_shards, shards))


def _put(queries: Any, place: jax.Device) -> Any:
    """Queries on a device; the devices of one CPU share one copy of them."""
    if place.platform == "cpu":
        queries = jax.tree.map(np.asarray, queries)
    return jax.device_put(queries, place, may_alias=True)


def open_vectors(
    score: Score,
    shards: Sequence[np.ndarray],
    *,
    budget: int | None = None,
    block_rows: int = BLOCK_ROWS,
    dtype: str | None = None,
) -> OpenVectors:
    """Puts vectors on the devices if they fit there, else streams them from the host.

    Args:
      score: scores a block.
      shards: ``[rows, E]`` arrays in order, plain or memory-mapped.
      budget: bytes that the devices may hold; None for ``device_budget()``.
      block_rows: documents of a block.
      dtype: storage on the devices; None for that of the shards.
    """
    num_docs = sum(len(shard) for shard in shards)
    width = shards[0].shape[1]
    budget = device_budget() if budget is None else budget
    stored = jnp.dtype(dtype or shards[0].dtype)
    if num_docs * width * stored.itemsize > budget:

        def stream(queries: Any, k: int) -> Ranking:
            return stream_search(score, queries, shards, k, block_rows=block_rows)

        return OpenVectors(num_docs, width, stream)
    mesh = Mesh(np.array(jax.local_devices()), ("data",))
    vectors = device_blocks(shards, mesh=mesh, block_rows=block_rows, dtype=dtype)

    def resident(queries: Any, k: int) -> Ranking:
        queries = jax.device_put(queries, NamedSharding(mesh, PartitionSpec()))
        found = programs(score).sharded(queries, vectors.blocks, num_docs, k, mesh)
        found = jax.device_get(found)
        return _checked(found, queries, functools.partial(row_of_shards, shards))

    return OpenVectors(num_docs, width, resident)
