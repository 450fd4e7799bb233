"""Scores of codes: lookups in tables of queries, or products with decoded documents.

Packed codes of 4 bits are never unpacked: a byte that holds the codes of two parts is
the code of the pair, one of 256, and a pair has a table like a part's.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jaxir.errors import InputError
from jaxir.pq.codec import Codec, check_codes, decode, rotate, tables
from jaxir.types import Size

__all__ = [
    "Products",
    "Queries",
    "byte_codec",
    "byte_tables",
    "check_codec",
    "check_queries",
    "count_queries",
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


Queries = Float[Array, "B _ _"] | Products
"""Tables of parts, or of pairs of them, or what is multiplied in their place."""


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
    """Documents of a block, at most.

    On a CPU the scores of a block and what the selection makes of them stay near its
    caches, and below a fifth of an index of 100 MB; an accelerator starts a kernel for
    each part of each block, and wants few.

    Args:
      platform: of the devices.
      queries: tables, or products, for which blocks are decoded.
    """
    if platform != "cpu":
        return 65_536 if isinstance(queries, Products) else 1 << 20
    rows = (1 << 18) // max(1, count_queries(queries))
    return min(max(rows, 8_192), 65_536)


def count_queries(queries: Queries) -> Size:
    """``B``."""
    return (queries.vectors if isinstance(queries, Products) else queries).shape[0]


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


def score_codes(
    queries: Queries,
    codes: UInt8[Array, "P N"],
    first: Int[Array, ""] | int = 0,
    count: int | None = None,
) -> Float[Array, "B R"]:
    """Scores of consecutive documents, float32.

    Args:
      queries: of :func:`make_queries`.
      codes: ``[M, N]``, or packed ``[M/2, N]``.
      first: row of the first document.
      count: number of documents, ``R``; None for all ``N``.

    Example::

      >>> table = jnp.array([[[0.0, 10.0], [2.0, 3.0]]])
      >>> codes = jnp.array([[0, 1, 1], [0, 0, 1]], jnp.uint8)
      >>> score_codes(table, codes, first=1, count=2).tolist()
      [[12.0, 13.0]]
    """
    queries = for_codes(queries, codes.shape[0])
    if count is None:
        count = codes.shape[1]
    if isinstance(queries, Products):
        piece = jax.lax.dynamic_slice_in_dim(codes, first, count, axis=1)
        docs = decode(queries.codec, piece.T)
        return jnp.einsum("BE,NE->BN", queries.vectors, docs, precision="highest")

    # As codec.lookup, but a range is cut out of each part's codes as they are read: a
    # block [M, R] of its own, copied first, takes a CPU a tenth more time.
    def add(scores: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        table, row = part
        code = jax.lax.dynamic_slice(codes, (row, first), (1, count))[0]
        return scores + table.at[:, code].get(mode="promise_in_bounds"), None

    zero = jnp.zeros((queries.shape[0], count), jnp.float32)
    by_part = jnp.swapaxes(queries, 0, 1)  # [B, M, C] -> [M, B, C]
    parts = jnp.arange(codes.shape[0], dtype=jnp.int32)
    return jax.lax.scan(add, zero, (by_part, parts))[0]


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


def check_queries(width: int, vectors: np.ndarray, names: Sequence[Any]) -> None:
    """Checks query vectors.

    Args:
      width: ``E`` of the codec.
      vectors: ``[B, E]``.
      names: of the queries.

    Raises:
      InputError: vectors of another width, or one that is not finite.
    """
    if vectors.shape[1] != width:
        found = f"width {vectors.shape[1]}"
        raise InputError("queries", found, f"{width}, the codec's")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        name = names[int(np.argmin(finite))]
        raise InputError(f"query {name}", "NaN or infinity", "finite numbers")


def check_codec(codec: Codec, codes: np.ndarray, bits: int) -> None:
    """Checks that codes are a codec's, by shape and range, and that it is finite.

    Args:
      codec: it is searched with.
      codes: ``[M, N]``, or packed.
      bits: of a code.

    Raises:
      InputError: codes of another codec or out of its range, or a codec of NaN or
        infinity.
    """
    spec = codec.spec
    if spec.bits != bits:
        raise InputError("bits", f"{bits} with a codec of {spec.bits}", str(spec.bits))
    if len(codes) not in (spec.subvectors, spec.doc_bytes):
        found = f"{len(codes)} rows of bytes"
        raise InputError("codes", found, f"{spec.doc_bytes}, the codec's")
    if len(codes) == spec.subvectors:  # of packed codes every byte is possible
        check_codes(codes, spec, "codes")
    if not all(np.isfinite(np.asarray(part)).all() for part in codec):
        raise InputError("codec", "NaN or infinity", "finite numbers")
