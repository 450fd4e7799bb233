"""Product quantization: a vector becomes a byte for each of its parts.

A rotation turns the vector, its ``M`` parts of width ``W = E / M`` are each replaced by
the number of the nearest of ``C`` centroids (Jegou et al. 2011, "Product Quantization
for Nearest Neighbor Search"; Ge et al. 2013, "Optimized Product Quantization")::

    code_m(x) = argmin_c | (R x)_m - centroids[m, c] |^2
    <q, x> ~ sum_m <(R q)_m, centroids[m, code_m(x)]>

The second line is all that a search computes: the products of a query's parts with all
centroids are a *table* ``[M, C]``, and a document's score is ``M`` entries of it.

Shapes beyond those of ``types.py``: ``M`` parts, ``C`` centroids of a part, ``W`` its
width.  Codes are uint8 ``[N, M]`` where documents are made and ``[M, N]`` where they
are searched.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxir.errors import InputError

__all__ = [
    "BITS",
    "Codec",
    "CodecSpec",
    "check_codes",
    "decode",
    "lookup",
    "pack",
    "quantize",
    "reconstruct",
    "rotate",
    "tables",
    "unpack",
]

BITS = (4, 8)
"""Sizes of a code: 16 or 256 centroids of a part."""

_HIGHEST = "highest"

Codes = UInt8[Array, "_ N"] | UInt8[np.ndarray, "_ N"]


@dataclasses.dataclass(frozen=True)
class CodecSpec:
    """The shape of a codec.

    Attributes:
      width: ``E`` of the vectors.
      subvectors: ``M``, parts of a vector.
      bits: of a part's code, 8 or 4.

    Raises:
      InputError: parts of unequal width, or another number of bits.

    Example::

      >>> spec = CodecSpec(width=384, subvectors=24)
      >>> spec.centroids, spec.part_width, spec.doc_bytes
      (256, 16, 24)
      >>> CodecSpec(384, 48, bits=4).doc_bytes
      24
    """

    width: int
    subvectors: int
    bits: int = 8

    def __post_init__(self) -> None:
        """Checks the numbers."""
        if self.bits not in BITS:
            raise InputError("bits", str(self.bits), "8 or 4")
        if self.subvectors < 1 or self.width % self.subvectors:
            raise InputError(
                "subvectors",
                f"{self.subvectors} parts of vectors of width {self.width}",
                f"a divisor of {self.width}",
            )
        if self.bits == 4 and self.subvectors % 2:
            raise InputError(
                "subvectors", f"{self.subvectors} parts of 4 bits",
                "an even number: two codes share a byte",
            )  # fmt: skip

    @property
    def centroids(self) -> int:
        """``C``, centroids of a part."""
        return 1 << self.bits

    @property
    def part_width(self) -> int:
        """``W``, width of a part."""
        return self.width // self.subvectors

    @property
    def doc_bytes(self) -> int:
        """Bytes of a document's codes."""
        return self.subvectors * self.bits // 8

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(M, C, W)``, the centroids'."""
        return self.subvectors, self.centroids, self.part_width


class Codec(NamedTuple):
    """What turns vectors into codes and back.

    Attributes:
      rotation: float32 ``[E, E]``, orthonormal; a vector ``x`` becomes ``R x``.
      centroids: float32 ``[M, C, W]`` of the rotated vectors' parts.
    """

    rotation: Float[Array, "E E"]
    centroids: Float[Array, "M C W"]

    @property
    def spec(self) -> CodecSpec:
        """The shape of it."""
        subvectors, centroids, width = self.centroids.shape
        return CodecSpec(subvectors * width, subvectors, centroids.bit_length() - 1)


def rotate(codec: Codec, vectors: Float[Array, "N E"]) -> Float[Array, "N E"]:
    """Vectors where the codec's parts are cut: ``R x``."""
    return jnp.einsum("NE,FE->NF", vectors, codec.rotation, precision=_HIGHEST)


def tables(codec: Codec, queries: Float[Array, "B E"]) -> Float[Array, "B M C"]:
    """Products of the parts of queries with every centroid, float32.

    Example::

      >>> codec = Codec(jnp.eye(2), jnp.array([[[0.0], [1.0]], [[2.0], [3.0]]]))
      >>> tables(codec, jnp.array([[10.0, 1.0]])).tolist()
      [[[0.0, 10.0], [2.0, 3.0]]]
    """
    parts = _parts(codec, rotate(codec, queries))
    return jnp.einsum("BMW,MCW->BMC", parts, codec.centroids, precision=_HIGHEST)


def lookup(
    tables: Float[Array, "B M C"], codes: UInt8[Array, "M N"]
) -> Float[Array, "B N"]:
    """Scores of documents: the sum over parts of their codes' entries.

    One gather a part over contiguous codes, added up in float32: of all formulations
    measured on a CPU the fastest, and no array is larger than the scores.

    Args:
      tables: of :func:`tables`.
      codes: one byte a part, below ``C``; a code of ``C`` or above reads what it must
        not, hence :func:`check_codes` where codes come from elsewhere.

    Example::

      >>> table = jnp.array([[[0.0, 10.0], [2.0, 3.0]]])
      >>> lookup(table, jnp.array([[0, 1, 1], [0, 0, 1]], jnp.uint8)).tolist()
      [[2.0, 12.0, 13.0]]
    """

    def add(scores: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
        table, code = part
        # In bounds by contract: a checked gather costs twice as much.
        found = table.at[:, code].get(mode="promise_in_bounds")
        return scores + found, None

    zero = jnp.zeros((tables.shape[0], codes.shape[1]), jnp.float32)
    by_part = jnp.swapaxes(tables, 0, 1)  # [B, M, C] -> [M, B, C]
    return jax.lax.scan(add, zero, (by_part, codes))[0]


def quantize(codec: Codec, vectors: Float[Array, "N E"]) -> UInt8[Array, "N M"]:
    """Codes of vectors: of every part the nearest centroid, the first of equally near.

    Args:
      codec: rotation and centroids.
      vectors: ``[N, E]``; a block of a corpus, for the distances are ``[N, M, C]``.

    Example::

      >>> codec = Codec(jnp.eye(2), jnp.array([[[0.0], [1.0]], [[2.0], [3.0]]]))
      >>> quantize(codec, jnp.array([[0.9, 2.1]])).tolist()
      [[1, 0]]
    """
    parts = _parts(codec, rotate(codec, vectors))
    # |x - c|^2 = |x|^2 - 2 (<x, c> - |c|^2 / 2), of which the first is common to all
    inner = jnp.einsum("NMW,MCW->NMC", parts, codec.centroids, precision=_HIGHEST)
    near = inner - 0.5 * jnp.sum(codec.centroids**2, axis=-1)[None]
    return jnp.argmax(near, axis=-1).astype(jnp.uint8)


def decode(codec: Codec, codes: UInt8[Array, "N M"]) -> Float[Array, "N E"]:
    """The rotated vectors that codes stand for: their centroids side by side."""
    parts = codec.centroids[jnp.arange(codes.shape[1]), codes.astype(jnp.int32)]
    return parts.reshape(codes.shape[0], -1)


def reconstruct(codec: Codec, codes: UInt8[Array, "N M"]) -> Float[Array, "N E"]:
    """The vectors that codes stand for, turned back.

    Example::

      >>> codec = Codec(jnp.eye(2), jnp.array([[[0.0], [1.0]], [[2.0], [3.0]]]))
      >>> reconstruct(codec, jnp.array([[1, 0]], jnp.uint8)).tolist()
      [[1.0, 2.0]]
    """
    turned = decode(codec, codes)
    return jnp.einsum("NF,FE->NE", turned, codec.rotation, precision=_HIGHEST)


def pack(codes: UInt8[np.ndarray, "M N"]) -> UInt8[np.ndarray, "M/2 N"]:
    """Two codes of 4 bits in a byte: that of an even part in the low half.

    Example::

      >>> pack(np.array([[1], [2]], np.uint8)).tolist()
      [[33]]
    """
    return codes[0::2] | (codes[1::2] << 4)


def unpack(packed: Codes) -> Codes:
    """The codes ``[M, N]`` that :func:`pack` put together; numpy or JAX arrays.

    Example::

      >>> unpack(np.array([[33]], np.uint8)).tolist()
      [[1], [2]]
    """
    module = jnp if isinstance(packed, jax.Array) else np
    halves = module.stack([packed & 15, packed >> 4], axis=1)
    return halves.reshape(2 * len(packed), packed.shape[1])


def check_codes(
    codes: UInt8[np.ndarray, "M N"], spec: CodecSpec, where: object
) -> None:
    """Checks codes that came from elsewhere: shape, type and range.

    Args:
      codes: ``[M, N]``, not packed.
      spec: of the codec that they belong to.
      where: names them in the error.

    Raises:
      InputError: they are not codes of this codec.
    """
    if codes.dtype != np.uint8 or codes.ndim != 2 or len(codes) != spec.subvectors:
        raise InputError(
            where, f"codes of {codes.dtype} {list(codes.shape)}",
            f"uint8 [{spec.subvectors}, documents]",
        )  # fmt: skip
    if spec.bits == 8:  # every byte is a code
        return
    for part, row in enumerate(codes):
        if row.size and row.max() >= spec.centroids:
            doc = int(np.argmax(row >= spec.centroids))
            raise InputError(
                where, f"code {row[doc]} of part {part}, document {doc}",
                f"codes below {spec.centroids}",
            )  # fmt: skip


def _parts(codec: Codec, vectors: Float[Array, "N E"]) -> Float[Array, "N M W"]:
    return vectors.reshape(vectors.shape[0], *codec.centroids.shape[::2])
