"""Cross-entropy over a vocabulary in bounded memory.

A vocabulary of 32,128 makes logits far larger than everything else: 4,096 tokens have
half a gigabyte of them.  Here the logits of a block of tokens exist at a time, and the
block's gradient is computed beside its loss, while its logits are at hand: they are
neither kept for the backward pass nor computed again in it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxir.errors import InputError
from jaxir.numerics import safe_divide
from jaxir.types import Params

__all__ = ["TokenLoss", "token_cross_entropy"]

LogitsOf = Callable[[Params, Array], Array]


class TokenLoss(NamedTuple):
    """The loss of the tokens that count.

    Attributes:
      loss: mean over the tokens, ``z_loss`` included; 0 without tokens.
      z_loss: the part of it that ``z_loss`` makes.
      accuracy: part of the tokens whose own logit is the largest.
      tokens: how many count.
    """

    loss: Float[Array, ""]
    z_loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    tokens: Float[Array, ""]


def token_cross_entropy(
    logits_of: LogitsOf,
    params: Params,
    states: Float[Array, "B S D"],
    targets: Int[Array, "B S"],
    where: Bool[Array, "B S"],
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    block_size: int | None = None,
) -> TokenLoss:
    """Mean cross-entropy of tokens, their logits never all in memory at once.

    Equation, of a token with logits ``x``, target ``t`` and ``Z = log sum_v exp x_v``:
    ``Z - sum_v q_v x_v - H(q) + z_loss Z^2``, where ``q_t = 1 - e`` and all others are
    ``e / (V - 1)`` with ``e = label_smoothing``; ``H(q)``, the entropy of ``q``, makes
    the least value 0.  ``z_loss`` keeps ``Z`` near 0 (T5X's
    ``cross_entropy_with_logits`` with its ``z_loss`` of 1e-4; Roberts et al. 2022).

    The gradient is exact for ``params`` and ``states``.  Blocks run along ``S``, so
    each of several devices has its rows of every block.

    Args:
      logits_of: ``logits_of(params, states [N, D]) -> float32 [N, V]``; the same
        function, or an equal one, at every call.
      params: what ``logits_of`` reads; only these receive a gradient.
      states: ``[B, S, D]``.
      targets: ``[B, S]`` ids.
      where: ``[B, S]`` which tokens count.
      z_loss: weight of the squared log-normaliser.
      label_smoothing: what the target gives to the other tokens.
      block_size: tokens whose logits exist at a time, about; None for 512 on a CPU,
        whose caches they suit, and 4096 elsewhere.

    Raises:
      InputError: a number out of range.

    Example::

      >>> loss = token_cross_entropy(
      ...     lambda table, states: states @ table.T, jnp.eye(4), jnp.zeros((1, 2, 4)),
      ...     jnp.array([[0, 1]]), jnp.array([[True, False]]))
      >>> round(float(loss.loss), 4), float(loss.tokens)  # log 4
      (1.3863, 1.0)
    """
    if block_size is None:
        block_size = 512 if jax.default_backend() == "cpu" else 4096
    if block_size < 1:
        raise InputError("block_size", str(block_size), "1 or more")
    if not 0 <= label_smoothing < 1:
        raise InputError("label_smoothing", str(label_smoothing), "0 to below 1")
    if z_loss < 0:
        raise InputError("z_loss", str(z_loss), "0 or more")
    rows, length, _ = states.shape
    count = -(-length // max(1, block_size // rows))
    size = -(-length // count)

    def blocks(x: Array) -> Array:
        # [B, S, ...] -> [count, B * size, ...]
        x = jnp.pad(x, [(0, 0), (0, count * size - length), *[(0, 0)] * (x.ndim - 2)])
        x = x.reshape(rows, count, size, *x.shape[2:]).swapaxes(0, 1)
        return x.reshape(count, rows * size, *x.shape[3:])

    weights = where.astype(jnp.float32)
    tokens = jnp.sum(weights)
    sums = _block_sums(
        logits_of, z_loss, label_smoothing, params, blocks(states), blocks(targets),
        blocks(weights),
    )  # fmt: skip
    loss, z, right = (safe_divide(part, tokens) for part in sums)
    return TokenLoss(loss, z, right, tokens)


def _losses(
    logits: Array, targets: Array, z_loss: float, smoothing: float
) -> tuple[Array, Array, Array, Array]:
    """Of each token: its loss, its z-loss, whether it is right, and ``Z``."""
    vocabulary = logits.shape[-1]
    low = smoothing / (vocabulary - 1)
    largest = jnp.max(logits, axis=-1)
    total = jnp.sum(jnp.exp(logits - largest[:, None]), axis=-1)
    log_z = jnp.log(total) + largest
    own = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    expected = own
    if smoothing:
        entropy = -(1 - smoothing) * math.log1p(-smoothing) - smoothing * math.log(low)
        others = jnp.sum(logits, axis=-1) - own
        expected = (1 - smoothing) * own + low * others + entropy
    z = z_loss * jnp.square(log_z)
    return log_z - expected + z, z, (own >= largest).astype(jnp.float32), log_z


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _block_sums(
    logits_of: LogitsOf, z_loss: float, smoothing: float,
    params: Params, states: Array, targets: Array, weights: Array,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Sums over all blocks: losses, z-losses, tokens that are right."""

    def one(sums: Any, block: Any) -> tuple[Any, None]:
        rows, ids, count = block
        logits = logits_of(params, rows).astype(jnp.float32)
        parts = _losses(logits, ids, z_loss, smoothing)[:3]
        return tuple(
            s + jnp.sum(p * count) for s, p in zip(sums, parts, strict=True)
        ), None

    start = (jnp.zeros(()),) * 3
    return jax.lax.scan(one, start, (states, targets, weights))[0]


def _block_sums_forward(
    logits_of: LogitsOf, z_loss: float, smoothing: float,
    params: Params, states: Array, targets: Array, weights: Array,
) -> tuple[tuple[Array, Array, Array], tuple[Any, Array]]:  # fmt: skip
    def one(carry: Any, block: Any) -> tuple[Any, Array]:
        sums, slopes = carry
        rows, ids, count = block
        logits, pull = jax.vjp(logits_of, params, rows)
        wide = logits.astype(jnp.float32)
        *parts, log_z = _losses(wide, ids, z_loss, smoothing)
        sums = tuple(s + jnp.sum(p * count) for s, p in zip(sums, parts, strict=True))
        # d loss / d x = p (1 + 2 z Z) - q
        vocabulary = wide.shape[-1]
        own = jnp.arange(vocabulary)[None, :] == ids[:, None]
        wanted = jnp.where(own, 1.0 - smoothing, smoothing / (vocabulary - 1))
        grown = jnp.exp(wide - log_z[:, None]) * (1 + 2 * z_loss * log_z)[:, None]
        slope = (grown - wanted) * count[:, None]
        params_slope, rows_slope = pull(slope.astype(logits.dtype))
        return (sums, jax.tree.map(jnp.add, slopes, params_slope)), rows_slope

    start = ((jnp.zeros(()),) * 3, jax.tree.map(jnp.zeros_like, params))
    blocks = (states, targets, weights)
    (sums, params_slope), rows_slope = jax.lax.scan(one, start, blocks)
    return sums, (params_slope, rows_slope)


def _block_sums_backward(
    logits_of: LogitsOf, z_loss: float, smoothing: float,
    kept: tuple[Any, Array], gradient: tuple[Array, Array, Array],
) -> tuple[Any, Array, None, None]:  # fmt: skip
    # only the loss is differentiated; its parts are there to be looked at
    params_slope, rows_slope = kept
    scale = gradient[0]

    def scaled(x: Array) -> Array:
        return (x * scale).astype(x.dtype)

    return jax.tree.map(scaled, params_slope), scaled(rows_slope), None, None


_block_sums.defvjp(_block_sums_forward, _block_sums_backward)
