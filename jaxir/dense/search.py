"""Exact search by inner product: every document is scored, block by block.

The three searches of ``jaxir.blocks`` with one score function.  Scores are float32
whatever the vectors are stored in.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxir import blocks
from jaxir.types import Ranking
from jaxir.vectors import BLOCK_ROWS, BlockedVectors, device_blocks

__all__ = [
    "BlockedVectors",
    "device_blocks",
    "dot_scores",
    "exact_search",
    "sharded_search",
    "stream_search",
]


def dot_scores(
    queries: Float[Array, "B E"], block: Float[Array, "N E"]
) -> Float[Array, "B N"]:
    """Inner products of queries and documents, accumulated in float32.

    Example::

      >>> dot_scores(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0]])).tolist()
      [[11.0]]
    """
    # bfloat16 and float16 storage multiplies as stored and accumulates in float32;
    # float32 is not cut to TF32 or bfloat16, as accelerators do unless told.
    dot = partial(jnp.einsum, precision="highest", preferred_element_type=jnp.float32)
    queries = queries.astype(block.dtype)
    count = queries.shape[0]
    if isinstance(count, int) and 1 < count < 32:  # not of a symbolic batch
        # A CPU multiplies a tall matrix by a few columns a third faster than the
        # reverse; the barrier keeps XLA from turning it around again.
        return jax.lax.optimization_barrier(dot("ne,be->nb", block, queries)).T
    return dot("be,ne->bn", queries, block)


_exact, _, _fold, _fold_partial = blocks.programs(dot_scores)


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

    Raises:
      InputError: queries or vectors are not finite.

    Example::

      >>> vectors = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
      >>> exact_search(jnp.array([[2.0, 1.0]]), vectors, 2).doc_ids.tolist()
      [[2, 0]]
    """
    return blocks.resident_search(dot_scores, queries, vectors, k)


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
    return blocks.sharded_search(dot_scores, queries, vectors, k, mesh=mesh)


def stream_search(
    queries: Float[np.ndarray, "B E"] | Float[Array, "B E"],
    vectors: np.ndarray | Sequence[np.ndarray],
    k: int,
    *,
    block_rows: int = BLOCK_ROWS,
    devices: Sequence[jax.Device] | None = None,
) -> Ranking:
    """As :func:`exact_search` over vectors that stay in the host's memory.

    Args:
      queries: ``[B, E]``.
      vectors: ``[N, E]``, or shards of it in order, plain or memory-mapped.
      k: number of results.
      block_rows: documents of a block; a multiple of 16 keeps blocks aligned.
      devices: take blocks in turn; by default all local devices.

    Returns:
      ``[B, k]`` numpy arrays; the same result as from one device.
    """
    return blocks.stream_search(
        dot_scores, queries, vectors, k, block_rows=block_rows, devices=devices
    )
