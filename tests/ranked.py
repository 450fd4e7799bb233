"""The oracle of every search, and the meshes that searches are tested on."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxir.types import Ranking

__all__ = ["mesh_of", "ranked"]


def ranked(scores, k: int) -> Ranking:
    """Score descending, row ascending, by numpy's stable lexicographic sort.

    Args:
      scores: ``[..., N]``, sorted as they are; NaN and ``-inf`` are of no document.
      k: results, float32; id -1 and ``-inf`` where there are no more.
    """
    scores = np.asarray(scores)
    flat = scores.reshape(-1, scores.shape[-1])
    doc_ids = np.full((len(flat), k), -1, np.int32)
    best = np.full((len(flat), k), -np.inf, np.float32)
    for i, row in enumerate(flat):
        row = np.where(np.isnan(row), -np.inf, row)
        order = np.lexsort((np.arange(len(row)), -row))
        order = order[row[order] > -np.inf][:k]
        doc_ids[i, : len(order)], best[i, : len(order)] = order, row[order]
    shape = (*scores.shape[:-1], k)
    return Ranking(doc_ids.reshape(shape), best.reshape(shape))


def mesh_of(num_devices: int) -> Mesh:
    """So many of the simulated devices."""
    if jax.device_count() < num_devices:
        pytest.skip("needs simulated devices")
    return Mesh(np.array(jax.devices()[:num_devices]), ("data",))
