"""Gradient caching: the full gradient of a large batch in the memory of one chunk.

Contrastive losses want thousands of texts in one batch, whose activations do not fit.
Encoding chunk after chunk and recomputing each chunk in the backward pass keeps the
embeddings only (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup").  Here that is a loop over rematerialised chunks, which automatic
differentiation turns into exactly the two passes of the paper.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxir.errors import InputError
from jaxir.types import Params

__all__ = ["in_chunks"]

Encode = Callable[[Params, Any, Any], Any]


def in_chunks(encode: Encode, chunk_size: int) -> Encode:
    """The same function, computed over chunks of the batch and recomputed backward.

    Args:
      encode: ``encode(params, batch, rng) -> outputs``; ``batch`` and ``outputs`` are
        pytrees whose arrays have the batch as first axis; ``rng`` may be None.
      chunk_size: texts a chunk; divides the batch.

    Returns:
      ``encode(params, batch, rng)`` with the same values and the same gradient.  Each
      chunk draws its dropout from ``rng`` folded with the chunk's number, and draws
      the same in the backward pass.

    Raises:
      InputError: when the batch is no multiple of ``chunk_size``.

    Example::

      >>> double = in_chunks(lambda params, batch, rng: params * batch, chunk_size=2)
      >>> double(2.0, jnp.arange(4.0), None).tolist()
      [0.0, 2.0, 4.0, 6.0]
    """
    if chunk_size < 1:
        raise InputError("chunk_size", str(chunk_size), "a number above 0")

    def encode_in_chunks(params: Params, batch: Any, rng: Any = None) -> Any:
        size = jax.tree.leaves(batch)[0].shape[0]
        if size % chunk_size:
            raise InputError(
                "chunk_size",
                f"{chunk_size} for a batch of {size}",
                "a divisor of the batch",
            )
        count = size // chunk_size

        @jax.checkpoint
        def encode_chunk(params: Params, chunk: Any, index: Any) -> Any:
            chunk_rng = None if rng is None else jax.random.fold_in(rng, index)
            return encode(params, chunk, chunk_rng)

        # [B, ...] -> [count, chunk_size, ...] -> [B, ...].  A chunk takes every
        # count-th text, so that each of several devices has its share of every chunk.
        chunks = jax.tree.map(
            lambda x: x.reshape(chunk_size, count, *x.shape[1:]).swapaxes(0, 1), batch
        )
        outputs = jax.lax.map(
            lambda item: encode_chunk(params, *item), (chunks, jnp.arange(count))
        )
        return jax.tree.map(
            lambda x: x.swapaxes(0, 1).reshape(size, *x.shape[2:]), outputs
        )

    return encode_in_chunks
