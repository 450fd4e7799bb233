"""Document vectors opened where a search is fastest: on the devices, or on the host."""

from collections.abc import Sequence

import numpy as np

from jaxir import blocks
from jaxir.dense.search import dot_scores
from jaxir.vectors import OpenVectors, device_budget

__all__ = ["OpenVectors", "device_budget", "open_vectors"]


def open_vectors(
    shards: Sequence[np.ndarray], *, budget: int | None = None
) -> OpenVectors:
    """Puts vectors on the devices if they fit there, else streams them from the host.

    Args:
      shards: ``[rows, E]`` arrays in order, plain or memory-mapped.
      budget: bytes that the devices may hold; None for :func:`device_budget`.
    """
    return blocks.open_vectors(dot_scores, shards, budget=budget)
