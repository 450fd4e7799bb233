"""Scores of codes: lookups in tables of queries, or products with decoded documents.

Packed codes of 4 bits are never unpacked: a byte that holds the codes of two parts is
the code of the pair, one of 256, and a pair has a table like a part's.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jaxir.errors import InputError
from jaxir.pq.codec import Codec, decode, lookup, rotate, tables

__all__ = [
    "Products",
    "Queries",
    "byte_codec",
    "byte_tables",
    "default_block_rows",
    "for_codes",
    "make_queries",
    "multiplies",
    "score_codes",
]

MULTIPLY_FROM = 16
"""Queries of a batch from which an accelerator decodes and multiplies."""


class Products(NamedTuple):
    """Queries to multiply decoded documents with, in the place of their tables.

    Attributes:
      vectors: ``[B, E]``, rotated.
      codec: decodes the documents.
    """

    vectors: Float[Array, "B E"]
    codec: Codec


Queries = Float[Array, "B _ _"] | Products  # tables of parts, or of pairs of them


def multiplies(platform: str, batch: int) -> bool:
    """Whether a search decodes documents and multiplies, or looks up tables.

    A lookup costs ``M`` reads for each query and document.  Decoding costs ``E``
    numbers a document, whatever the number of queries, and then a matrix product: on
    an accelerator the cheaper of the two from about 16 queries on, on a CPU never
    (four times a lookup's time at 16 queries).

    Args:
      platform: of the devices.
      batch: number of queries.
    """
    return platform != "cpu" and batch >= MULTIPLY_FROM


def default_block_rows(platform: str, queries: Queries) -> int:
    """Documents of a block.

    On a CPU the scores of a few queries stay in its cache; an accelerator starts a
    kernel for each part of each block, and wants few.

    Args:
      platform: of the devices.
      queries: tables, or products, for which blocks are decoded.
    """
    if platform == "cpu":
        return 16_384
    return 65_536 if isinstance(queries, Products) else 1 << 20


def byte_tables(tables: Float[Array, "B M C"]) -> Float[Array, "B P D"]:
    """Tables of pairs of parts, for packed codes: ``[B, M, 16]`` to ``[B, M/2, 256]``.

    Example::

      >>> parts = jnp.stack([jnp.arange(16.0), 100 * jnp.arange(16.0)])
      >>> pair = byte_tables(parts[None])
      >>> pair.shape, pair[0, 0, 0x21].item()
      ((1, 1, 256), 201.0)
    """
    low, high = tables[:, 0::2, None, :], tables[:, 1::2, :, None]
    return (high + low).reshape(tables.shape[0], tables.shape[1] // 2, -1)


def byte_codec(codec: Codec) -> Codec:
    """The codec whose codes are the bytes of packed codes of 4 bits."""
    _, count, width = codec.centroids.shape
    shape = (codec.centroids.shape[0] // 2, count, count, width)
    low = jnp.broadcast_to(codec.centroids[0::2, None, :], shape)
    high = jnp.broadcast_to(codec.centroids[1::2, :, None], shape)
    both = jnp.concatenate([low, high], axis=-1)
    return Codec(codec.rotation, both.reshape(-1, count * count, 2 * width))


@partial(jax.jit, static_argnames="multiply")
def make_queries(
    codec: Codec, vectors: Float[Array, "B E"], *, multiply: bool = False
) -> Queries:
    """What a search needs of query vectors.

    Args:
      codec: it is searched with.
      vectors: ``[B, E]``, not rotated.
      multiply: :class:`Products` instead of tables.
    """
    if multiply:
        return Products(rotate(codec, vectors), codec)
    return tables(codec, vectors)


def score_codes(queries: Queries, codes: UInt8[Array, "P N"]) -> Float[Array, "B N"]:
    """Scores of documents, float32.

    Args:
      queries: of :func:`make_queries`.
      codes: ``[M, N]``, or packed ``[M/2, N]``.

    Example::

      >>> table = jnp.array([[[0.0, 10.0], [2.0, 3.0]]])
      >>> score_codes(table, jnp.array([[0, 1, 1], [0, 0, 1]], jnp.uint8)).tolist()
      [[2.0, 12.0, 13.0]]
    """
    queries = for_codes(queries, codes.shape[0])
    if isinstance(queries, Products):
        docs = decode(queries.codec, codes.T)
        return jnp.einsum("BE,NE->BN", queries.vectors, docs, precision="highest")
    return lookup(queries, codes)


def for_codes(queries: Queries, num_rows: int) -> Queries:
    """Queries for codes of so many rows, which may be packed.

    Args:
      queries: of :func:`make_queries`.
      num_rows: ``M``, or ``M/2`` of packed codes.

    Raises:
      InputError: codes of another codec.
    """
    if isinstance(queries, Products):
        parts, count, _ = queries.codec.centroids.shape
    else:
        _, parts, count = queries.shape
    if num_rows == parts:
        return queries
    if count == 16 and 2 * num_rows == parts:
        if isinstance(queries, Products):
            return queries._replace(codec=byte_codec(queries.codec))
        return byte_tables(queries)
    raise InputError("codes", f"{num_rows} parts", f"{parts}, the codec's")
