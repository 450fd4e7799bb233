"""Document vectors in blocks of one shape, on the devices or on the host.

A search reads vectors block by block.  On a device they are one array of equal blocks;
on the host they stay shards of any length, plain or memory-mapped, from which blocks
are taken with as few copies as possible.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxir.types import Ranking

__all__ = [
    "BLOCK_ROWS",
    "BlockedVectors",
    "HostBlock",
    "OpenVectors",
    "device_blocks",
    "device_budget",
    "host_blocks",
    "row_of_blocks",
    "row_of_shards",
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


class OpenVectors(NamedTuple):
    """Vectors ready to be searched.

    Attributes:
      num_docs: rows.
      width: ``E``.
      search: ``search(queries, k) -> Ranking`` of numpy arrays.
    """

    num_docs: int
    width: int
    search: Callable[[Any, int], Ranking]


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


class HostBlock(NamedTuple):
    """Vectors ``[rows, E]``; of these ``valid_from`` to ``valid_to`` are new."""

    vectors: np.ndarray
    first_row: int
    valid_from: int
    valid_to: int


def host_blocks(shards: Sequence[np.ndarray], rows: int) -> Iterator[HostBlock]:
    """Blocks of one shape, as few of them copied as possible."""
    shard_row = 0
    for shard in shards:
        size = len(shard)
        for start in range(0, size, rows):
            if start + rows <= size:
                block = shard[start : start + rows]
                yield HostBlock(block, shard_row + start, 0, rows)
            elif size >= rows:  # reach back over rows already seen instead of padding
                back = size - rows
                yield HostBlock(shard[back:], shard_row + back, start - back, rows)
            else:
                padded = np.zeros((rows, shard.shape[1]), shard.dtype)
                padded[:size] = shard
                yield HostBlock(padded, shard_row, 0, size)
        shard_row += size


def row_of_blocks(vectors: BlockedVectors, row: int) -> tuple[str, np.ndarray]:
    """Where a document's vector lies, in words, and the vector."""
    block, at = divmod(row, vectors.blocks.shape[1])
    return f"vectors, row {row}", np.asarray(vectors.blocks[block, at])


def row_of_shards(shards: Sequence[np.ndarray], row: int) -> tuple[str, np.ndarray]:
    """As :func:`row_of_blocks`; a memory-mapped shard has the name of its file."""
    for shard in shards:
        if row < len(shard):
            break
        row -= len(shard)
    name = getattr(shard, "filename", None) or "vectors"
    return f"{name}, row {row}", shard[row]


def device_budget() -> int:
    """Bytes of vectors that all local accelerators may hold; 0 on a CPU.

    On a CPU memory-mapped vectors are searched where they lie, without a copy.
    """
    if jax.default_backend() == "cpu":
        return 0
    limits = [
        (device.memory_stats() or {}).get("bytes_limit", 0)
        for device in jax.local_devices()
    ]
    # The rest is for the model, the scores of a block, and other users.
    return int(0.6 * sum(limits))
