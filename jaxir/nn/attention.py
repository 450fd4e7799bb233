"""Multi-head attention with masks and biases, in the fastest form of each backend.

``softmax(Q K' / sqrt C) V`` (Vaswani et al. 2017, equation 1) over the keys that the
mask keeps; T5 scales nothing and adds a bias of the head and of the two positions to
the scores.  Scores and their softmax are float32.  A row whose keys are all padding
attends to nothing: its result is 0 with a zero gradient.
"""

import functools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxir.nn.layers import Dense, dropout_mask
from jaxir.numerics import NEG_INF, safe_divide, where_score

__all__ = ["SelfAttention", "attend"]


def attend(
    query: Float[Array, "B T H C"],
    key: Float[Array, "B S H C"],
    value: Float[Array, "B S H C"],
    mask: Bool[Array, "B S"] | Bool[Array, "B T S"],
    *,
    bias: Float[Array, "H T S"] | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    rng: PRNGKeyArray | None = None,
) -> Float[Array, "B T H C"]:
    """Attention of every query token over the keys that the mask keeps.

    On a GPU in bfloat16 this is cuDNN's fused kernel; elsewhere, and whenever
    dropout is drawn, it is two batched products around a float32 softmax.

    Args:
      query: ``[B, T, H, C]``.
      key: ``[B, S, H, C]``.
      value: ``[B, S, H, C]``.
      mask: ``[B, S]`` true at the keys that are real tokens, or ``[B, T, S]`` true
        where a query may see a key (texts packed in one row).
      bias: ``[H, T, S]`` added to the scores of every text, as one array; -inf hides a
        key.  Its gradient is the sum over the texts.
      scale: factor of the scores; None is ``1 / sqrt C``, T5's is 1.
      dropout: rate at which attention probabilities are dropped.
      rng: drives dropout; None (or a rate of 0) drops nothing.

    Example::

      >>> ones = jnp.ones((1, 2, 1, 8))
      >>> attend(ones, ones, ones, jnp.array([[True, False]])).shape
      (1, 2, 1, 8)
    """
    dropped = rng is not None and dropout > 0
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    plain = bias is None and mask.ndim == 2
    if plain and not dropped and _cudnn_takes(query, key):
        return _attend_fused(query, key, value, mask, scale)
    if scale != 1.0:
        query = query * scale
    # [B, T, H, C] -> [B, H, T, C]: contiguous matrices make the products 2.7x as fast
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    kept = None
    if rng is not None and dropped:
        kept = dropout_mask(rng, dropout, (*query.shape[:3], key.shape[2]))
    context = _attend_heads(query, key, value, mask, bias, kept, dropout)
    return jnp.swapaxes(context, 1, 2)


class _Saved(NamedTuple):
    """For the backward pass; ``weights`` is ``E`` and ``inverse`` is ``1 / E 1``."""

    query: Array
    key: Array
    value: Array
    bias: Array | None
    kept: Array | None
    weights: Array
    inverse: Array
    context: Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attend_heads(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    bias: Array | None,
    kept: Array | None,
    dropout: float,
) -> Array:
    """Attention on ``[B, H, T, C]`` of a scaled query, normalised after the product.

    ``O = (E V) / (E 1)`` with ``E = exp(scores - max)``: dividing ``[T, C]`` instead of
    ``[T, S]``.  ``kept`` is the dropout mask of ``E``.
    """
    return _attend_forward(query, key, value, mask, bias, kept, dropout)[0]


def _attend_forward(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    bias: Array | None,
    kept: Array | None,
    dropout: float,
) -> tuple[Array, _Saved]:
    scores = jnp.einsum(
        "BHTC,BHSC->BHTS", query, key, preferred_element_type=jnp.float32
    )
    # [B, S] or [B, T, S] -> [B, 1, 1 or T, S]
    hidden = where_score(jnp.zeros(mask.shape), mask)
    hidden = hidden[:, None, None, :] if mask.ndim == 2 else hidden[:, None]
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)[None]
    scores = scores + hidden
    largest = jnp.max(scores, axis=-1, keepdims=True)
    largest = jnp.where(largest == NEG_INF, 0.0, largest)  # nothing to attend to
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    inverse = safe_divide(jnp.ones_like(total), total)
    weights = weights.astype(value.dtype)
    context = jnp.einsum(
        "BHTS,BHSC->BHTC",
        _drop(weights, kept, dropout),
        value,
        preferred_element_type=jnp.float32,
    )
    context = (context * inverse).astype(value.dtype)
    return context, _Saved(query, key, value, bias, kept, weights, inverse, context)


def _attend_backward(
    dropout: float, saved: _Saved, gradient: Array
) -> tuple[Array | None, ...]:
    query, key, value, bias, kept, weights, inverse, context = saved
    # With P = E / total: dS = P (dP - sum_s P dP), and sum_s P dP = sum_c O dO
    slope = gradient * inverse
    mean = jnp.sum(slope * context, axis=-1, keepdims=True)
    slope = slope.astype(value.dtype)
    d_value = _sum_over_queries(_drop(weights, kept, dropout), slope)
    d_probs = jnp.einsum(
        "BHTC,BHSC->BHTS", slope, value, preferred_element_type=jnp.float32
    )
    d_scores = weights * (_drop(d_probs, kept, dropout) - mean)
    # One bias served all texts.
    d_bias = None if bias is None else jnp.sum(d_scores, axis=0).astype(bias.dtype)
    d_scores = d_scores.astype(value.dtype)
    d_query = jnp.einsum("BHTS,BHSC->BHTC", d_scores, key)
    d_key = _sum_over_queries(d_scores, query)
    return d_query, d_key, d_value, None, d_bias, None


def _sum_over_queries(pairs: Array, x: Array) -> Array:
    """``[B, H, T, S]`` and ``[B, H, T, C]`` to ``[B, H, S, C]``."""
    # On a CPU this is 2.6 times as fast with the narrow operand transposed in memory;
    # without the barrier XLA folds the transposition into the product.
    columns = jax.lax.optimization_barrier(jnp.swapaxes(x, 2, 3))
    return jnp.swapaxes(jnp.einsum("BHCT,BHTS->BHCS", columns, pairs), 2, 3)


def _drop(x: Array, kept: Array | None, dropout: float) -> Array:
    if kept is None:
        return x
    return jnp.where(kept, x / (1.0 - dropout), 0.0).astype(x.dtype)


_attend_heads.defvjp(_attend_forward, _attend_backward)


def _cudnn_takes(query: Array, key: Array) -> bool:
    """Whether cuDNN's flash attention serves these shapes, type and backend."""
    return (
        jax.default_backend() == "gpu"
        and query.dtype == jnp.bfloat16
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 128
        and query.shape[1] % 2 == 0
        and key.shape[1] % 2 == 0
    )


def _attend_fused(
    query: Array, key: Array, value: Array, mask: Array, scale: float
) -> Array:
    # cuDNN wants the mask of every pair of tokens, if of one head only.
    batch, length = query.shape[:2]
    where = jnp.broadcast_to(mask[:, None, None, :], (batch, 1, length, key.shape[1]))
    context = jax.nn.dot_product_attention(
        query, key, value, mask=where, scale=scale, implementation="cudnn"
    )
    # It gives the mean of all values where nothing is kept.
    some = jnp.any(mask, axis=-1)[:, None, None, None]
    return jnp.where(some, context, 0)


class SelfAttention(nn.Module):
    """Multi-head self-attention with its four projections.

    Parameters: ``query``, ``key``, ``value``, ``out``, each a :class:`Dense` with
    ``kernel`` ``[D, D]`` and ``bias`` ``[D]``.

    Args:
      num_heads: heads; divides the width.
      dropout: rate on the attention probabilities, drawn from the rng ``dropout``.
      dtype: compute type.
    """

    num_heads: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        states: Float[Array, "B T D"],
        mask: Bool[Array, "B T"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B T D"]:
        batch, length, width = states.shape
        heads = (batch, length, self.num_heads, width // self.num_heads)
        # [B, T, D] -> [B, T, H, C]
        query, key, value = (
            Dense(width, dtype=self.dtype, name=name)(states).reshape(heads)
            for name in ("query", "key", "value")
        )
        draws = self.dropout > 0 and not deterministic
        rng = self.make_rng("dropout") if draws else None
        context = attend(query, key, value, mask, dropout=self.dropout, rng=rng)
        # [B, T, H, C] -> [B, T, D]
        context = context.reshape(batch, length, width)
        return Dense(width, dtype=self.dtype, name="out")(context)
