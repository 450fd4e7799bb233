"""Scores of a few documents of each query, with a gradient that fits the machine.

A document's score is the sum of its codes' entries of the query's table, and a table is
the products of a query with all centroids.  So what reaches a centroid is the query's
part wherever a document has its code, and nothing elsewhere (Zhan et al. 2021, "JPQ",
equation 18); the table is where the documents of a query are added up.

The derivative of reading entries is adding to them.  XLA adds to small arrays slowly on
accelerators; there the sums are products with the codes' indicators, part by part.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from jaxir.pq.codec import unpack

__all__ = [
    "add_by_indicators",
    "add_by_scatter",
    "chosen_codes",
    "chosen_scores",
]


def chosen_codes(
    codes: UInt8[Array, "P N"], docs: Int[Array, "B K"], subvectors: int
) -> UInt8[Array, "B M K"]:
    """Codes of some documents of each query.

    Args:
      codes: ``[M, N]``, or packed ``[M/2, N]``.
      docs: rows of documents; -1, for no document, gives those of row 0.
      subvectors: ``M``.

    Example::

      >>> codes = jnp.array([[0, 1, 2], [3, 4, 5]], jnp.uint8)
      >>> chosen_codes(codes, jnp.array([[2, -1]]), 2).tolist()
      [[[2, 0], [5, 3]]]
    """
    rows = jnp.maximum(docs, 0).reshape(-1)
    found = jnp.take(codes, rows, axis=1)  # [P, B * K]
    if len(found) != subvectors:
        found = jnp.asarray(unpack(found))
    return jnp.swapaxes(found.reshape(subvectors, *docs.shape), 0, 1)


def chosen_scores(
    tables: Float[Array, "B M C"], codes: UInt8[Array, "B M K"]
) -> Float[Array, "B K"]:
    """Scores of chosen documents, differentiable in the tables.

    Equation: ``s[b, k] = sum_m tables[b, m, codes[b, m, k]]``, that of
    :func:`jaxir.pq.codec.lookup`; its gradient is
    ``dtables[b, m, c] = sum of ds[b, k] over k with codes[b, m, k] = c``.

    Args:
      tables: products of each query's parts with all centroids.
      codes: of each query's documents.

    Example::

      >>> tables = jnp.array([[[0.0, 10.0], [2.0, 3.0]]])
      >>> codes = jnp.array([[[0, 1], [0, 0]]], jnp.uint8)
      >>> chosen_scores(tables, codes).tolist()
      [[2.0, 12.0]]
      >>> jax.grad(lambda t: chosen_scores(t, codes).sum())(tables).tolist()
      [[[1.0, 1.0], [2.0, 0.0]]]
    """
    return _read(tables, codes, tables.shape[2])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _read(tables: Array, codes: Array, count: int) -> Array:
    entries = jnp.take_along_axis(
        tables, codes.astype(jnp.int32), axis=2, mode="promise_in_bounds"
    )
    return jnp.sum(entries, axis=1)


def _forward(tables: Array, codes: Array, count: int) -> tuple[Array, Array]:
    return _read(tables, codes, count), codes


def _backward(count: int, codes: Array, slope: Array) -> tuple[Array, None]:
    added = jax.lax.platform_dependent(
        slope,
        codes,
        cpu=partial(add_by_scatter, count=count),
        default=partial(add_by_indicators, count=count),
    )
    return added, None


_read.defvjp(_forward, _backward)


def add_by_scatter(
    slope: Float[Array, "B K"], codes: UInt8[Array, "B M K"], *, count: int
) -> Float[Array, "B M C"]:
    """Sums of ``slope`` over the documents of each code: one addition after another.

    Args:
      slope: a number for each document.
      codes: of the documents.
      count: ``C``.
    """

    def part(values: Array, code: Array) -> Array:
        empty = jnp.zeros(count, slope.dtype)
        return empty.at[code].add(values, mode="promise_in_bounds")

    parts = jax.vmap(part, in_axes=(None, 0))
    return jax.vmap(parts)(slope, codes.astype(jnp.int32))


def add_by_indicators(
    slope: Float[Array, "B K"], codes: UInt8[Array, "B M K"], *, count: int
) -> Float[Array, "B M C"]:
    """As :func:`add_by_scatter`, as a product with indicators ``[B, K, C]`` a part."""

    def part(_: None, code: Array) -> tuple[None, Array]:
        indicators = jax.nn.one_hot(code, count, dtype=slope.dtype)
        return None, jnp.einsum("BK,BKC->BC", slope, indicators, precision="highest")

    sums = jax.lax.scan(part, None, jnp.swapaxes(codes, 0, 1))[1]
    return jnp.swapaxes(sums, 0, 1)
