"""Faiss's own files of product-quantized vectors, read and written without Faiss.

A file is a tree of objects, each a tag of four letters and its fields in little endian;
a vector is a count and the items.  These trees hold what we have, ``OPQ{M},PQ{M}x8``
and ``OPQ{M},IVF1,PQ{M}x8`` by the names of ``faiss.index_factory``, without the ``OPQ``
where nothing is rotated::

    IxPT header, 1, LTra {bias, A [E, E], b, E, E, trained}, one of
        IxPq header, PQ, codes [N, P], search parameters
        IwPQ header, 1 list, probes, IxFI {coarse [1, E]}, direct map,
             by_residual, P, PQ, ilar {1 list, P, full {N}, codes [N, P], ids [N]}
    PQ = {E, M, bits, centroids [M, C, W]}

The single list of the second quantizes what is left of a vector after its *coarse
centroid* ``c``, and its score adds ``<R q, c>``; with the centroids ``C_m + c_m`` both
are what our codec does.  JPQ's authors published files of this form.

Four-bit codes share bytes in Faiss as in :func:`jaxir.pq.codec.pack`: the even part in
the low half.  ``P`` is the bytes of a document.
"""

import os
import struct
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from jaxir.errors import InputError
from jaxir.export.faiss_reader import HEADER, parse
from jaxir.files import atomic_file
from jaxir.pq.codec import Codec, unpack

__all__ = ["LAYOUTS", "FaissCodes", "read_faiss", "write_faiss"]

LAYOUTS = ("flat", "ivf")
"""What can be written: ``OPQ{M},PQ{M}x8``, or the authors' ``OPQ{M},IVF1,PQ{M}x8``."""

_INNER_PRODUCT = 0
_UNUSED = 1 << 20
_BLOCK = 1 << 16  # documents turned at a time


class FaissCodes(NamedTuple):
    """What a file holds.

    Attributes:
      codec: rotation and centroids, the coarse centroid added to them.
      packed: uint8 ``[P, N]``, the codes as ``codes.npy`` has them: a byte a part, or
        two parts a byte; a view of the file.
      ids: int64 ``[N]``, Faiss's number of each document.
      layout: a name of :data:`LAYOUTS`.
      rotated: whether the file has a rotation; without, it is the identity.
    """

    codec: Codec
    packed: UInt8[np.ndarray, "P N"]
    ids: Int[np.ndarray, " N"]
    layout: str
    rotated: bool

    @property
    def codes(self) -> np.ndarray:
        """One byte a part, ``[M, N]``."""
        halves = self.codec.spec.bits == 4
        return np.asarray(unpack(self.packed)) if halves else self.packed


def read_faiss(path: str | os.PathLike) -> FaissCodes:
    """Reads an ``IndexPQ`` or an ``IndexIVFPQ`` of one list, rotated or not.

    Nothing is taken into memory by a count that the file's own size does not bear out.

    Args:
      path: a file that ``faiss.write_index`` wrote.

    Raises:
      InputError: another type of index, a metric other than the inner product, several
        lists, a map that is no rotation, sizes that disagree, numbers that are not
        finite, ids that occur twice, or a file that is not whole.

    Example::

      >>> import tempfile
      >>> import jax.numpy as jnp
      >>> place = Path(tempfile.mkdtemp()) / "pq.faiss"
      >>> codec = Codec(jnp.eye(2), jnp.ones((2, 256, 1)))
      >>> write_faiss(place, codec, np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
      >>> found = read_faiss(place)
      >>> found.codes.tolist(), found.ids.tolist(), found.rotated
      ([[1, 2, 3], [4, 5, 6]], [0, 1, 2], False)
    """
    import jax.numpy as jnp

    found = parse(Path(path))
    rotated = found.rotation is not None
    rotation = jnp.asarray(found.rotation) if rotated else jnp.eye(found.width)
    return FaissCodes(
        codec=Codec(rotation, jnp.asarray(found.centroids)),
        packed=found.rows.T,
        ids=np.arange(found.docs, dtype=np.int64) if found.ids is None else found.ids,
        layout=found.layout,
        rotated=rotated,
    )


def write_faiss(
    path: str | os.PathLike,
    codec: Codec,
    packed: UInt8[np.ndarray, "P N"],
    *,
    layout: str = "flat",
) -> None:
    """Writes a file that ``faiss.read_index`` opens; document ``i`` has the id ``i``.

    A codec whose rotation is the identity is written without one.  The file is byte for
    byte what Faiss itself writes of such an index.

    Args:
      path: where the file shall stand; whole or absent.
      codec: rotation and centroids that documents are searched with.
      packed: codes as ``codes.npy`` has them, in memory or memory-mapped.
      layout: a name of :data:`LAYOUTS`.

    Raises:
      InputError: another layout, codes that are not the codec's, or a place that cannot
        be written.
    """
    spec = codec.spec
    if layout not in LAYOUTS:
        raise InputError("layout", repr(layout), "one of " + ", ".join(LAYOUTS))
    if len(packed) != spec.doc_bytes:
        found = f"codes of {len(packed)} bytes a document"
        raise InputError(path, found, f"{spec.doc_bytes}, the codec's")
    docs = packed.shape[1]
    rotation = np.asarray(codec.rotation, "<f4")
    with atomic_file(path, "wb") as out:
        if not np.array_equal(rotation, np.eye(spec.width, dtype=np.float32)):
            _put(out, b"IxPT", _header_bytes(spec.width, docs), struct.pack("<i", 1))
            _put(out, b"LTra", b"\0", _counted(rotation), _counted(rotation[:0]))
            _put(out, struct.pack("<iiB", spec.width, spec.width, 1))
        header = _header_bytes(spec.width, docs)
        centroids = np.asarray(codec.centroids, "<f4")
        quantizer = struct.pack("<QQQ", spec.width, spec.subvectors, spec.bits)
        if layout == "flat":
            _put(out, b"IxPq", header, quantizer, _counted(centroids))
            _put(out, struct.pack("<Q", packed.size))
            _put_rows(out, packed)
            # exhaustive search; the threshold stands for none
            _put(out, struct.pack("<iBi", 0, 0, spec.subvectors * spec.bits + 1))
            return
        _put(out, b"IwPQ", header, struct.pack("<QQ", 1, 1))
        coarse = np.zeros(spec.width, "<f4")
        _put(out, b"IxFI", _header_bytes(spec.width, 1), _counted(coarse))
        _put(out, struct.pack("<BQ", 0, 0))  # no direct map
        _put(out, struct.pack("<BQ", 1, spec.doc_bytes), quantizer, _counted(centroids))
        _put(out, b"ilar", struct.pack("<QQ", 1, spec.doc_bytes))
        if docs:
            _put(out, b"full", struct.pack("<QQ", 1, docs))
        else:  # no list has anything
            _put(out, b"sprs", struct.pack("<Q", 0))
        _put_rows(out, packed)
        for start in range(0, docs, _BLOCK):
            _put(
                out, np.arange(start, min(start + _BLOCK, docs), dtype="<i8").tobytes()
            )


def _header_bytes(width: int, docs: int) -> bytes:
    return struct.pack(HEADER, width, docs, _UNUSED, _UNUSED, 1, _INNER_PRODUCT)


def _counted(numbers: np.ndarray) -> bytes:
    return struct.pack("<Q", numbers.size) + np.ascontiguousarray(numbers).tobytes()


def _put(out: IO, *parts: bytes) -> None:
    for part in parts:
        out.write(part)


def _put_rows(out: IO, packed: np.ndarray) -> None:
    """Codes by document, of which no more than a block is in memory."""
    for start in range(0, packed.shape[1], _BLOCK):
        block = np.ascontiguousarray(packed[:, start : start + _BLOCK].T)
        out.write(block.tobytes())
