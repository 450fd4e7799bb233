"""From token states to one weight for each token of the vocabulary.

A vocabulary of 30,522 makes the logits of a batch far larger than everything else: 32
texts of 256 tokens have a gigabyte of them.  Here those of a block of the vocabulary
exist at a time, and of each largest logit it is remembered whose it was, which is all
that the gradient needs.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxir.errors import InputError
from jaxir.numerics import where_score

__all__ = ["ACTIVATIONS", "largest_logits"]


def _log1p(values: Array) -> Array:
    return jnp.log1p(jax.nn.relu(values))


ACTIVATIONS: Mapping[str, Any] = MappingProxyType(
    {"log1p": _log1p, "log1p_log1p": lambda values: jnp.log1p(_log1p(values))}
)
"""What becomes of a largest logit: once for SPLADE, twice for its v3 and l0 kin."""

_CPU_BLOCK, _BLOCK = 2**18, 2**26  # logits at a time: a core's cache, 256 MB
_FEWEST = 32  # columns of a block: narrower ones make slow products
_EXPORTED = 1024  # columns of a block in a program of any shape
_CHUNK = 2048  # gradients that are followed to their tokens at a time


def largest_logits(
    hidden: Float[Array, "B T D"],
    table: Float[Array, "V D"],
    bias: Float[Array, " V"],
    where: Bool[Array, "B T"],
    *,
    block_size: int | None = None,
) -> Float[Array, "B V"]:
    """The largest logit of each vocabulary token over the tokens of a text.

    Equation: ``m_bv = max over t with where_bt of h_bt . e_v + c_v``; -inf where a
    text has no token, of which every activation makes 0.

    The gradient goes to the first of the tokens that share the largest logit, as
    ``torch.max`` over a dimension has it.  Memory beside arguments and results is that
    of a block, whatever the vocabulary and the lengths.

    Args:
      hidden: transformed token states.
      table: the decoder's rows.
      bias: of each row.
      where: tokens that take part.
      block_size: logits that exist at a time, about; None for 2^18 on a CPU, whose
        caches they suit, and 2^26 elsewhere.  Does not change the result.

    Raises:
      InputError: a block of nothing.

    Example::

      >>> hidden = jnp.array([[[1.0, 0.0], [0.0, 2.0]]])
      >>> largest_logits(hidden, jnp.eye(2), jnp.zeros(2), jnp.array([[True, False]]))
      Array([[1., 0.]], dtype=float32)
    """
    on_cpu = jax.default_backend() == "cpu"
    if block_size is None:
        block_size = _CPU_BLOCK if on_cpu else _BLOCK
    if block_size < 1:
        raise InputError("block_size", str(block_size), "1 or more")
    rows, length, _ = hidden.shape
    vocabulary = table.shape[0]
    texts = rows * length
    # How many tokens a symbolic shape will have nobody knows yet.
    widest = _EXPORTED
    if isinstance(texts, int):
        widest = max(_FEWEST, block_size // texts)
    count = -(-vocabulary // widest)
    width = -(-vocabulary // count)
    largest = _largest(width, on_cpu, hidden, table, where)
    return largest + bias.astype(jnp.float32)[None, :]


def _starts(vocabulary: int, width: int) -> tuple[Array, Array]:
    """Where each block begins, and where what is new in it: the last overlaps."""
    fresh = jnp.arange(0, vocabulary, width)
    return jnp.minimum(fresh, vocabulary - width), fresh


def _block_logits(hidden: Array, rows: Array, where: Array) -> Array:
    # [B, T, D], [block, D] -> [B, T, block]
    logits = jnp.einsum("BTD,VD->BTV", hidden, rows, preferred_element_type=jnp.float32)
    return where_score(logits, jnp.broadcast_to(where[..., None], logits.shape))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _largest(
    width: int, sparse: bool, hidden: Array, table: Array, where: Array
) -> Array:
    del sparse  # only the gradient differs

    def one(found: Array, start: Array) -> tuple[Array, None]:
        rows = lax.dynamic_slice_in_dim(table, start, width)
        largest = jnp.max(_block_logits(hidden, rows, where), axis=1)
        return lax.dynamic_update_slice(found, largest, (0, start)), None

    empty = jnp.zeros((hidden.shape[0], table.shape[0]))
    return lax.scan(one, empty, _starts(len(table), width)[0])[0]


def _largest_forward(
    width: int, sparse: bool, hidden: Array, table: Array, where: Array
) -> tuple[Array, tuple[Array, ...]]:
    del sparse
    texts, length, _ = hidden.shape
    positions = jnp.arange(length, dtype=jnp.int32)[None, :, None]

    def one(carry: Any, start: Array) -> tuple[Any, None]:
        rows = lax.dynamic_slice_in_dim(table, start, width)
        logits = _block_logits(hidden, rows, where)
        largest = jnp.max(logits, axis=1)
        # Two plain reductions: an argmax is twice as slow on a CPU.
        hit = logits == jnp.expand_dims(largest, 1)
        first = jnp.min(jnp.where(hit, positions, length - 1), axis=1)
        return tuple(
            lax.dynamic_update_slice(whole, part, (0, start))
            for whole, part in zip(carry, (largest, first), strict=True)
        ), None

    shape = texts, table.shape[0]
    empty = jnp.zeros(shape), jnp.zeros(shape, jnp.int32)
    largest, first = lax.scan(one, empty, _starts(len(table), width)[0])[0]
    return largest, (hidden, table, where, first)


def _largest_backward(
    width: int, sparse: bool, kept: tuple[Array, ...], gradient: Array
) -> tuple[Array, Array, None]:
    hidden, table, where, first = kept
    some = jnp.any(where, axis=1)[:, None]
    gradient = jnp.where(some, gradient, 0.0)  # a text without tokens learns nothing
    if sparse:
        slopes = _followed(hidden, table, first, gradient)
    else:
        slopes = _multiplied(width, hidden, table, first, gradient)
    return slopes[0].astype(hidden.dtype), slopes[1].astype(table.dtype), None


_largest.defvjp(_largest_forward, _largest_backward)


def _multiplied(
    width: int, hidden: Array, table: Array, first: Array, gradient: Array
) -> tuple[Array, Array]:
    """The gradient by two products with a block of ``[B, T, V]`` that is mostly 0."""
    vocabulary = table.shape[0]
    positions = jnp.arange(hidden.shape[1])[None, :, None]

    def one(carry: Any, block: tuple[Array, Array]) -> tuple[Any, None]:
        hidden_slope, table_slope = carry
        start, fresh = block
        at = (0, start), (hidden.shape[0], width)
        chosen, slope = (lax.dynamic_slice(x, *at) for x in (first, gradient))
        hit = jnp.expand_dims(chosen, 1) == positions
        # [B, block] -> [B, T, block]
        spread = jnp.where(hit, jnp.expand_dims(slope, 1), 0.0).astype(hidden.dtype)
        kind = {"preferred_element_type": jnp.float32}
        rows_slope = jnp.einsum("BTV,BTD->VD", spread, hidden, **kind)
        table_slope = lax.dynamic_update_slice(table_slope, rows_slope, (start, 0))
        # Columns where the last block overlaps have been counted.
        new = (start + jnp.arange(width) >= fresh)[None, None, :]
        spread = jnp.where(new, spread, jnp.zeros_like(spread))
        rows = lax.dynamic_slice_in_dim(table, start, width)
        hidden_slope += jnp.einsum("BTV,VD->BTD", spread, rows, **kind)
        return (hidden_slope, table_slope), None

    empty = jnp.zeros(hidden.shape), jnp.zeros(table.shape)
    return lax.scan(one, empty, _starts(vocabulary, width))[0]


def _followed(
    hidden: Array, table: Array, first: Array, gradient: Array
) -> tuple[Array, Array]:
    """The gradient by following each that is not 0 to its token and its table row.

    Ten times as fast on a CPU as the products, even with half of the gradients not 0.
    """
    texts, length, width = hidden.shape
    vocabulary = table.shape[0]
    flat, total = gradient.reshape(-1), texts * vocabulary
    count = jnp.count_nonzero(flat)
    size = -(-total // _CHUNK) * _CHUNK
    (places,) = jnp.nonzero(flat, size=size, fill_value=total)
    states, tokens = hidden.reshape(-1, width), first.reshape(-1)

    def chunk(carry: Any) -> Any:
        done, hidden_slope, table_slope = carry
        at = lax.dynamic_slice_in_dim(places, done, _CHUNK)
        real, at = at < total, jnp.minimum(at, total - 1)
        slope = jnp.where(real, flat[at], 0.0)[:, None]
        row, token = at // vocabulary * length + tokens[at], at % vocabulary
        hidden_slope = hidden_slope.at[row].add(slope * table[token])
        table_slope = table_slope.at[token].add(slope * states[row])
        return done + _CHUNK, hidden_slope, table_slope

    empty = jnp.zeros(states.shape), jnp.zeros(table.shape)
    _, hidden_slope, table_slope = lax.while_loop(
        lambda carry: carry[0] < count, chunk, (jnp.int32(0), *empty)
    )
    return hidden_slope.reshape(hidden.shape), table_slope
