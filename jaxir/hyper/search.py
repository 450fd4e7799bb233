"""Exhaustive search with q-nets: every query's network scores every document.

The three searches of ``jaxir.blocks`` with ``qnet.apply_all`` as the score function.
Blocks are smaller than an inner product's: what a q-net computes of a block is as large
as the block itself.  Queries go through in batches of at most
``QUERY_BATCHES[-1]``, because a q-net is large too: six blocks of 768 are 14 MB in
float32.

Weights or vectors that are not finite are refused, never ranked.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxir import blocks
from jaxir.errors import InputError
from jaxir.hyper.qnet import QNetSpec, QNetWeights, apply_all
from jaxir.hyper.stored import check_finite, product_dtype, score_stored
from jaxir.topk import empty_ranking
from jaxir.types import Ranking
from jaxir.vectors import BlockedVectors, OpenVectors, device_blocks

__all__ = [
    "QUERY_BATCHES",
    "BlockedVectors",
    "OpenVectors",
    "QNetScore",
    "default_block_rows",
    "device_blocks",
    "exhaustive_search",
    "open_vectors",
    "sharded_search",
    "stream_search",
]

QUERY_BATCHES = (1, 2, 4, 8)
"""Numbers of queries searched together: each is compiled once for each ``k``."""


def default_block_rows() -> int:
    """Documents of a block: what a q-net computes of them stays in a CPU's cache."""
    return 1024 if jax.default_backend() == "cpu" else 16_384


@dataclasses.dataclass(frozen=True)
class QNetScore:
    """The score function of a q-net for ``jaxir.blocks``; NaN for a broken vector.

    Attributes:
      spec: of the q-nets.
      dtype: of the products; weights and documents are cast to it.
    """

    spec: QNetSpec
    dtype: str = "float32"

    def __call__(
        self, weights: QNetWeights, block: Float[Array, "N W"]
    ) -> Float[Array, "B N"]:
        """Scores ``[B, N]`` of a block by every query's q-net."""
        return score_stored(apply_all, self.spec, weights, block, self.dtype)


def _score(spec: QNetSpec, stored: Any) -> QNetScore:
    return QNetScore(spec, product_dtype(stored, jax.default_backend()))


def _in_batches(
    weights: QNetWeights, k: int, search: Callable[[QNetWeights], Ranking]
) -> Ranking:
    """Searches batch by batch: 13 queries as 8, 4 and 1.  Nothing is filled up.

    A smaller batch is no slower for a query, since products are large either way.
    """
    count, start = weights.output.shape[0], 0
    parts = []
    while start < count:
        size = max(size for size in QUERY_BATCHES if size <= count - start)
        part = weights
        if size < count:
            part = jax.tree.map(lambda x: x[start : start + size], weights)  # noqa: B023
        part = jax.tree.map(jnp.asarray, part)  # placed once, for all that follows
        check_finite(part, start)
        parts.append(search(part))
        start += size
    if not parts:
        return empty_ranking((0,), k)
    kind = np if isinstance(parts[0].scores, np.ndarray) else jnp
    return Ranking(*(kind.concatenate(column) for column in zip(*parts, strict=True)))


def exhaustive_search(
    spec: QNetSpec,
    weights: QNetWeights,
    vectors: Float[Array, "N W"] | BlockedVectors,
    k: int,
    *,
    block_rows: int | None = None,
) -> Ranking:
    """The ``k`` documents that each query's q-net scores highest, on one device.

    Args:
      spec: of the q-nets.
      weights: of queries ``[B, ...]``.
      vectors: ``[N, num_vectors * input_width]`` on the device, or what
        :func:`device_blocks` made of them.
      k: number of results; may exceed ``N``.
      block_rows: documents of a block, if ``vectors`` are not in blocks yet.

    Returns:
      ``[B, k]`` rows and float32 scores; the tie rule of ``jaxir.topk``.

    Raises:
      InputError: vectors of another width, or weights or vectors that are not finite.

    Example::

      >>> spec = QNetSpec(input_width=2, hidden=(2,), layer_norm=False)
      >>> weights = QNetWeights(
      ...     (jnp.eye(2)[None],), (jnp.zeros((1, 2)),), jnp.array([[1.0, 10.0]])
      ... )
      >>> vectors = jnp.array([[9.0, -1.0], [0.0, 1.0], [1.0, 1.0]])
      >>> exhaustive_search(spec, weights, vectors, 2).doc_ids.tolist()
      [[2, 1]]
    """
    held = vectors.blocks if isinstance(vectors, BlockedVectors) else vectors
    score = _score(spec, held.dtype)
    rows = block_rows or default_block_rows()

    def search(part: QNetWeights) -> Ranking:
        return blocks.resident_search(score, part, vectors, k, block_rows=rows)

    return _in_batches(weights, k, search)


def sharded_search(
    spec: QNetSpec,
    weights: QNetWeights,
    vectors: BlockedVectors,
    k: int,
    *,
    mesh: Mesh,
) -> Ranking:
    """As :func:`exhaustive_search` with the blocks split over the devices of a mesh.

    Args:
      spec: of the q-nets.
      weights: of queries ``[B, ...]``, the same on every device.
      vectors: from ``device_blocks(..., mesh=mesh)``.
      k: number of results.
      mesh: devices; the first axis splits the blocks.
    """
    score = _score(spec, vectors.blocks.dtype)

    def search(part: QNetWeights) -> Ranking:
        return blocks.sharded_search(score, part, vectors, k, mesh=mesh)

    return _in_batches(weights, k, search)


def stream_search(
    spec: QNetSpec,
    weights: QNetWeights,
    vectors: np.ndarray | Sequence[np.ndarray],
    k: int,
    *,
    block_rows: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Ranking:
    """As :func:`exhaustive_search` over vectors that stay in the host's memory.

    Args:
      spec: of the q-nets.
      weights: of queries ``[B, ...]``.
      vectors: ``[N, num_vectors * input_width]``, or shards of it in order, plain or
        memory-mapped.
      k: number of results.
      block_rows: documents of a block; None for :func:`default_block_rows`.
      devices: take blocks in turn; by default all local devices.

    Returns:
      ``[B, k]`` numpy arrays; the same result as from one device.
    """
    shards = [vectors] if isinstance(vectors, np.ndarray) else list(vectors)
    score = _score(spec, shards[0].dtype if shards else jnp.float32)
    rows = block_rows or default_block_rows()

    def search(part: QNetWeights) -> Ranking:
        return blocks.stream_search(
            score, part, shards, k, block_rows=rows, devices=devices
        )

    return jax.device_get(_in_batches(weights, k, search))


def open_vectors(
    spec: QNetSpec,
    shards: Sequence[np.ndarray],
    *,
    budget: int | None = None,
    block_rows: int | None = None,
    dtype: str | None = None,
) -> OpenVectors:
    """Puts vectors on the devices if they fit there, else streams them from the host.

    Args:
      spec: of the q-nets that will search.
      shards: ``[rows, num_vectors * input_width]`` arrays in order, plain or
        memory-mapped.
      budget: bytes that the devices may hold; None for ``device_budget()``.
      block_rows: documents of a block.
      dtype: storage on the devices; ``"bfloat16"`` halves it.

    Returns:
      ``search(weights [B, ...], k)`` beside the sizes; any number of queries.

    Raises:
      InputError: vectors of another width than the q-net's.
    """
    width = shards[0].shape[1]
    if width != spec.row_width:
        raise InputError(
            "vectors",
            f"width {width}",
            f"{spec.row_width}, the q-net's {spec.num_vectors} x {spec.input_width}",
            "search with the model that encoded them",
        )
    score = _score(spec, dtype or shards[0].dtype)
    opened = blocks.open_vectors(
        score,
        shards,
        budget=budget,
        block_rows=block_rows or default_block_rows(),
        dtype=dtype,
    )

    def search(weights: QNetWeights, k: int) -> Ranking:
        found = _in_batches(weights, k, lambda part: opened.search(part, k))
        return jax.device_get(found)

    return opened._replace(search=search)
