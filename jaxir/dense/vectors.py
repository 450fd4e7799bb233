"""Document vectors opened where a search is fastest: on the devices, or on the host."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxir.dense.search import device_blocks, sharded_search, stream_search
from jaxir.types import Ranking

__all__ = ["OpenVectors", "device_budget", "open_vectors"]


class OpenVectors(NamedTuple):
    """Vectors ready to be searched.

    Attributes:
      num_docs: rows.
      width: ``E``.
      search: ``search(queries [B, E], k) -> Ranking`` of numpy arrays.
    """

    num_docs: int
    width: int
    search: Callable[[np.ndarray, int], Ranking]


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


def open_vectors(
    shards: Sequence[np.ndarray], *, budget: int | None = None
) -> OpenVectors:
    """Puts vectors on the devices if they fit there, else streams them from the host.

    Args:
      shards: ``[rows, E]`` arrays in order, plain or memory-mapped.
      budget: bytes that the devices may hold; None for :func:`device_budget`.
    """
    num_docs = sum(len(shard) for shard in shards)
    width = shards[0].shape[1]
    budget = device_budget() if budget is None else budget
    if sum(shard.nbytes for shard in shards) > budget:

        def stream(queries: np.ndarray, k: int) -> Ranking:
            return stream_search(queries, shards, k)

        return OpenVectors(num_docs, width, stream)
    mesh = Mesh(np.array(jax.local_devices()), ("data",))
    blocks = device_blocks(shards, mesh=mesh)

    def resident(queries: np.ndarray, k: int) -> Ranking:
        found = sharded_search(jnp.asarray(queries), blocks, k, mesh=mesh)
        return jax.device_get(found)

    return OpenVectors(num_docs, width, resident)
