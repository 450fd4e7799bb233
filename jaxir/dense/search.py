"""Exact search by inner product: every document is scored, block by block.

A running top-k is carried over blocks of document vectors, so that nothing of size
queries x documents exists.  Scores are float32 whatever the vectors are stored in.

Three ways through the same arithmetic, with one result:

- :func:`exact_search`: vectors in a device's memory, one compiled scan.
- :func:`sharded_search`: the same on each device of a mesh over its own rows, then an
  exchange of ``[B, k]`` results only.
- :func:`stream_search`: vectors in the host's memory or in memory-mapped files, sent to
  the devices block by block, in turn.  On a CPU the blocks are not copied at all.
"""

import collections
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxir.numerics import NEG_INF
from jaxir.topk import (
    empty_ranking,
    gather_top_k,
    merge_top_k,
    streaming_top_k,
    update_top_k,
)
from jaxir.types import Ranking

__all__ = [
    "BlockedVectors",
    "device_blocks",
    "exact_search",
    "sharded_search",
    "stream_search",
]

BLOCK_ROWS = 16_384
"""Documents of a block: the scores of 64 queries are 4 MB and stay in a cache."""


class BlockedVectors(NamedTuple):
    """Document vectors cut into equal blocks.

    Attributes:
      blocks: ``[num_blocks, N, E]``; rows from ``num_docs`` on are padding.
      num_docs: number of documents.
    """

    blocks: Array
    num_docs: int


def _dot(
    queries: Float[Array, "B E"], block: Float[Array, "N E"]
) -> Float[Array, "B N"]:
    # bfloat16 and float16 storage multiplies as stored and accumulates in float32;
    # float32 is not cut to TF32 or bfloat16, as accelerators do unless told.
    dot = partial(jnp.einsum, precision="highest", preferred_element_type=jnp.float32)
    queries = queries.astype(block.dtype)
    if 1 < queries.shape[0] < 32:
        # A CPU multiplies a tall matrix by a few columns a third faster than the
        # reverse; the barrier keeps XLA from turning it around again.
        return jax.lax.optimization_barrier(dot("ne,be->nb", block, queries)).T
    return dot("be,ne->bn", queries, block)


def _masked_scores(
    queries: Float[Array, "B E"],
    block: Float[Array, "N E"],
    num_valid: Int[Array, ""] | int,
) -> Float[Array, "B N"]:
    scores = _dot(queries, block)
    exists = jnp.expand_dims(jnp.arange(block.shape[0]) < num_valid, 0)
    return jnp.where(exists, scores, NEG_INF)


def device_blocks(
    vectors: np.ndarray | Sequence[np.ndarray],
    *,
    mesh: Mesh | None = None,
    block_rows: int = BLOCK_ROWS,
    dtype: str | None = None,
) -> BlockedVectors:
    """Puts vectors on the device (or splits them over a mesh) in blocks.

    Args:
      vectors: ``[num_docs, E]`` on the host, or shards of it in order.
      mesh: devices to split the blocks over, along its first axis.
      block_rows: documents of a block.
      dtype: storage on the device; ``"bfloat16"`` halves the memory.
    """
    shards = [vectors] if isinstance(vectors, np.ndarray) else list(vectors)
    num_docs, width = sum(map(len, shards)), shards[0].shape[1]
    num_parts = 1 if mesh is None else mesh.shape[mesh.axis_names[0]]
    # Blocks no larger than a device's share, so that small corpora split as well.
    rows = max(1, min(block_rows, -(-num_docs // num_parts)))
    num_blocks = -(-num_docs // rows)
    num_blocks = max(num_parts, -(-num_blocks // num_parts) * num_parts)
    stored = jnp.dtype(dtype or shards[0].dtype)

    def piece(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # as for every array with axes
        first, last, _ = index[0].indices(num_blocks)
        out = np.zeros((last - first, rows, width), stored)
        _copy_rows(shards, first * rows, out.reshape(-1, width))
        return out

    shape = (num_blocks, rows, width)
    sharding: jax.sharding.Sharding
    if mesh is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    else:
        sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    return BlockedVectors(
        jax.make_array_from_callback(shape, sharding, piece), num_docs
    )


def _copy_rows(shards: Sequence[np.ndarray], start: int, out: np.ndarray) -> None:
    """Fills ``out`` with rows from ``start`` on, as far as the shards go."""
    for shard in shards:
        low, high = max(start, 0), min(start + len(out), len(shard))
        if low < high:
            out[low - start : high - start] = shard[low:high]
        start -= len(shard)


def _scan(
    queries: Float[Array, "B E"],
    blocks: Float[Array, "n N E"],
    num_docs: Int[Array, ""] | int,
    k: int,
    first_row: Int[Array, ""] | int = 0,
) -> Ranking:
    rows = blocks.shape[1]

    def score_block(block: Int[Array, ""]) -> Float[Array, "B N"]:
        num_valid = num_docs - first_row - block * rows
        return _masked_scores(queries, blocks[block], num_valid)

    return streaming_top_k(score_block, blocks.shape[0], k, first_row=first_row)


@partial(jax.jit, static_argnames=("k",))
def _exact(
    queries: Float[Array, "B E"],
    blocks: Float[Array, "n N E"],
    num_docs: Int[Array, ""] | int,
    k: int,
) -> Ranking:
    return _scan(queries, blocks, num_docs, k)


def exact_search(
    queries: Float[Array, "B E"],
    vectors: Float[Array, "N E"] | BlockedVectors,
    k: int,
) -> Ranking:
    """The ``k`` documents with the largest inner products, on one device.

    Args:
      queries: ``[B, E]``.
      vectors: ``[N, E]`` on the device, or what :func:`device_blocks` made of them.
      k: number of results; may exceed ``N``.

    Returns:
      ``[B, k]`` rows and float32 scores; the tie rule of ``jaxir.topk``.

    Example::

      >>> vectors = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> exact_search(jnp.array([[2.0, 1.0]]), vectors, 2).doc_ids.tolist()
      [[2, 0]]
    """
    if not isinstance(vectors, BlockedVectors):
        if vectors.shape[0] > BLOCK_ROWS:
            vectors = device_blocks(np.asarray(vectors))
        else:
            vectors = BlockedVectors(vectors[None], vectors.shape[0])
    return _exact(queries, vectors.blocks, vectors.num_docs, k)


@partial(jax.jit, static_argnames=("k", "mesh"))
def _sharded(
    queries: Float[Array, "B E"],
    blocks: Float[Array, "n N E"],
    num_docs: Int[Array, ""] | int,
    k: int,
    mesh: Mesh,
) -> Ranking:
    axis = mesh.axis_names[0]
    rows_of_device = blocks.shape[0] // mesh.shape[axis] * blocks.shape[1]

    def local(
        queries: Float[Array, "B E"],
        blocks: Float[Array, "m N E"],
        num_docs: Int[Array, ""],
    ) -> Ranking:
        first_row = jax.lax.axis_index(axis) * rows_of_device
        best = _scan(queries, blocks, num_docs, min(k, rows_of_device), first_row)
        return gather_top_k(best, k, axis)

    replicated = PartitionSpec()
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(replicated, PartitionSpec(axis), replicated),
        out_specs=replicated,
        check_vma=False,
    )(queries, blocks, jnp.asarray(num_docs, jnp.int32))


def sharded_search(
    queries: Float[Array, "B E"], vectors: BlockedVectors, k: int, *, mesh: Mesh
) -> Ranking:
    """As :func:`exact_search` with the blocks split over the devices of a mesh.

    Args:
      queries: ``[B, E]``, the same on every device.
      vectors: from ``device_blocks(..., mesh=mesh)``.
      k: number of results.
      mesh: devices; the first axis splits the blocks.
    """
    return _sharded(queries, vectors.blocks, vectors.num_docs, k, mesh)


@jax.jit
def _fold(
    running: Ranking,
    queries: Float[Array, "B E"],
    block: Float[Array, "N E"],
    first_row: Int[Array, ""] | int,
) -> Ranking:
    return update_top_k(running, _dot(queries, block), first_row)


@jax.jit
def _fold_partial(
    running: Ranking,
    queries: Float[Array, "B E"],
    block: Float[Array, "N E"],
    first_row: Int[Array, ""] | int,
    valid_from: Int[Array, ""] | int,
    valid_to: Int[Array, ""] | int,
) -> Ranking:
    scores = _masked_scores(queries, block, valid_to)
    unseen = jnp.expand_dims(jnp.arange(block.shape[0]) >= valid_from, 0)
    return update_top_k(running, jnp.where(unseen, scores, NEG_INF), first_row)


class _HostBlock(NamedTuple):
    """Vectors ``[rows, E]``; of these ``valid_from`` to ``valid_to`` are new."""

    vectors: np.ndarray
    first_row: int
    valid_from: int
    valid_to: int


def _host_blocks(shards: Sequence[np.ndarray], rows: int) -> Iterator[_HostBlock]:
    """Blocks of one shape, as few of them copied as possible."""
    shard_row = 0
    for shard in shards:
        size = len(shard)
        for start in range(0, size, rows):
            if start + rows <= size:
                block = shard[start : start + rows]
                yield _HostBlock(block, shard_row + start, 0, rows)
            elif size >= rows:  # reach back over rows already seen instead of padding
                back = size - rows
                yield _HostBlock(shard[back:], shard_row + back, start - back, rows)
            else:
                padded = np.zeros((rows, shard.shape[1]), shard.dtype)
                padded[:size] = shard
                yield _HostBlock(padded, shard_row, 0, size)
        shard_row += size


def stream_search(
    queries: Float[np.ndarray, "B E"] | Float[Array, "B E"],
    vectors: np.ndarray | Sequence[np.ndarray],
    k: int,
    *,
    block_rows: int = BLOCK_ROWS,
    devices: Sequence[jax.Device] | None = None,
) -> Ranking:
    """As :func:`exact_search` over vectors that stay in the host's memory.

    Each device holds one running top-k and at most two blocks.  A CPU device reads
    blocks that begin at a multiple of 64 bytes where they lie (memory-mapped ``.npy``
    files do): the search then needs no memory beyond the vectors'.

    Args:
      queries: ``[B, E]``.
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
    num_queries = queries.shape[0]
    at = [jax.device_put(queries, place) for place in places]
    running = [
        jax.device_put(empty_ranking((num_queries,), k), place) for place in places
    ]
    turns = itertools.cycle(range(len(places)))
    in_flight: collections.deque[jax.Array] = collections.deque()
    for host in _host_blocks(shards, rows):
        turn = next(turns)
        # Wait for the fold before the last one, so that blocks do not pile up.
        while len(in_flight) >= 2 * len(places):
            jax.block_until_ready(in_flight.popleft())
        block = jax.device_put(host.vectors, places[turn], may_alias=True)
        arguments = (running[turn], at[turn], block, host.first_row)
        if (host.valid_from, host.valid_to) == (0, rows):
            folded = _fold(*arguments)
        else:
            folded = _fold_partial(*arguments, host.valid_from, host.valid_to)
        running[turn] = folded
        in_flight.append(folded.scores)
    best = running[0]
    for other in running[1:]:
        best = merge_top_k(best, jax.device_put(other, places[0]), k)
    return jax.device_get(best)
