"""The parsing half of :mod:`jaxir.export.faiss_io`: Faiss's objects, field by field.

Every field is read within the file and compared with what stands around it, so that a
damaged file is a one-line error that names the byte, whatever the damage.
"""

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxir.errors import InputError
from jaxir.pq.codec import CodecSpec

__all__ = ["HEADER", "Parsed", "parse"]

HEADER = "<iqqqBi"
"""What every index begins with: d, ntotal, two of no meaning, is_trained, metric."""

_INNER_PRODUCT, _L2 = 0, 1
_ORTHONORMAL = 1e-3  # of an entry of A A'; Faiss's own are within 1e-6
_WIDEST = 8192  # of a vector; its rotation has 256 MB
_WHOLE = "copy it anew"

_LINEAR = {b"LTra": "a linear map", b"rrot": "a random rotation"}
_MAPS = (b"IxMp", b"IxM2")  # IndexIDMap and IndexIDMap2
_OTHERS = {
    b"IxFI": "IndexFlatIP",
    b"IxF2": "IndexFlatL2",
    b"IxFl": "IndexFlat",
    b"IxPQ": "an IndexPQ of an old Faiss, which measured L2",
    b"IxPo": "an IndexPQ of an old Faiss, which measured L2",
    b"IPfs": "IndexPQFastScan",
    b"IwPf": "IndexIVFPQFastScan",
    b"IwQR": "IndexIVFPQR",
    b"IvPQ": "an IndexIVFPQ of an old Faiss",
    b"IwFl": "IndexIVFFlat",
    b"IwSq": "IndexIVFScalarQuantizer",
    b"IxSQ": "IndexScalarQuantizer",
    b"IHNf": "IndexHNSWFlat",
    b"IHNp": "IndexHNSWPQ",
    b"IxRF": "IndexRefine",
    b"IBxF": "IndexBinaryFlat",
}


class Parsed(NamedTuple):
    """What the objects of a file hold.

    Attributes:
      docs: number of documents.
      width: of their vectors.
      layout: ``flat`` or ``ivf``.
      spec: shape of the codec.
      centroids: float32 ``[M, C, W]``, the coarse centroid added to them.
      rows: uint8 ``[N, P]``, the codes by document; a view of the file.
      ids: int64 ``[N]``, or None where they are the row numbers.
      rotation: float32 ``[E, E]``, or None where there is none.
    """

    docs: int
    width: int
    layout: str
    spec: CodecSpec
    centroids: np.ndarray
    rows: np.ndarray
    ids: np.ndarray | None
    rotation: np.ndarray | None = None


class _Header(NamedTuple):
    """The fields that every index begins with."""

    width: int
    docs: int
    metric: int


def parse(path: Path) -> Parsed:
    """Parses a whole file; see :func:`jaxir.export.faiss_io.read_faiss`.

    Args:
      path: the file.

    Raises:
      InputError: whatever of it is not as it should be.
    """
    reader = _Reader(path)
    found = _index(reader, frozenset({"map", "rotation"}))
    if reader.at != reader.size:
        count = reader.size - reader.at
        raise reader.wrong(f"{count:,} bytes behind the index", "its end", _WHOLE)
    ids = found.ids
    if ids is not None and ids.size:
        rising = np.sort(ids)
        if rising[0] < 0 or (rising[1:] == rising[:-1]).any():
            found_ids = "ids that are negative or occur twice"
            raise InputError(path, found_ids, "one number from 0 a document")
    return found


class _Reader:
    """A file from its beginning to its end; every read is within it."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0
        if not path.is_file():
            raise InputError(path, "no such file", "a file of faiss.write_index")
        self.size = path.stat().st_size
        empty = self.size == 0  # which cannot be mapped
        self.content = np.zeros(0, np.uint8) if empty else np.memmap(path, mode="r")

    def wrong(
        self, found: str, expected: str = "", remedy: str = "", at: int | None = None
    ) -> InputError:
        """The error that names this place of the file."""
        where = f"{self.path}: byte {self.at if at is None else at:,}"
        return InputError(where, found, expected, remedy)

    def take(self, count: int, name: str) -> np.ndarray:
        """The next bytes, a view."""
        if count > self.size - self.at:
            raise self.wrong(
                f"{self.size - self.at:,} bytes left for {name}", f"{count:,}", _WHOLE
            )  # fmt: skip
        self.at += count
        return self.content[self.at - count : self.at]

    def numbers(self, form: str, name: str) -> tuple[Any, ...]:
        """The next fields, by their ``struct`` format."""
        return struct.unpack(form, self.take(struct.calcsize(form), name).tobytes())

    def tag(self, name: str) -> bytes:
        """The next four letters."""
        return self.take(4, name).tobytes()

    def vector(self, kind: str, name: str, expected: int | None = None) -> np.ndarray:
        """A count and as many items."""
        place = self.at
        (count,) = self.numbers("<Q", f"the count of {name}")
        if expected is not None and count != expected:
            raise self.wrong(f"{count:,} {name}", f"{expected:,}", at=place)
        return self.take(count * np.dtype(kind).itemsize, name).view(kind)


def _header(reader: _Reader, name: str, outer: _Header | None) -> _Header:
    place = reader.at
    width, docs, _, _, trained, metric = reader.numbers(HEADER, f"the header of {name}")
    if metric > _L2:
        reader.numbers("<f", f"the header of {name}")
    if not 1 <= width <= _WIDEST or docs < 0 or trained != 1:
        state = "" if trained == 1 else ", not trained"
        raise reader.wrong(
            f"{name} of {docs:,} vectors of width {width:,}{state}",
            f"a trained index of widths up to {_WIDEST:,}", at=place,
        )  # fmt: skip
    if outer is not None and (width, docs) != outer[:2]:
        raise reader.wrong(
            f"{name} of {docs:,} vectors of width {width:,}",
            f"{outer.docs:,} of width {outer.width:,}, as around it", at=place,
        )  # fmt: skip
    return _Header(width, docs, metric)


def _by_inner_product(reader: _Reader, header: _Header, name: str) -> None:
    if header.metric != _INNER_PRODUCT:
        metric = "L2" if header.metric == _L2 else f"number {header.metric}"
        raise reader.wrong(
            f"{name} of the metric {metric}", "the inner product",
            "build it with faiss.METRIC_INNER_PRODUCT",
        )  # fmt: skip


def _index(
    reader: _Reader, wrappers: frozenset[str], outer: _Header | None = None
) -> Parsed:
    """The next index, and what is wrapped around it, each at most once."""
    place, tag = reader.at, reader.tag("the type of the index")
    if tag in _MAPS and "map" in wrappers:
        header = _header(reader, "IndexIDMap", outer)
        inner = _index(reader, wrappers - {"map"}, header)
        own = reader.vector("<i8", "ids", header.docs)
        return inner._replace(ids=_mapped(reader, own, inner.ids))
    if tag == b"IxPT" and "rotation" in wrappers:
        header = _header(reader, "IndexPreTransform", outer)
        _by_inner_product(reader, header, "IndexPreTransform")
        rotation = _rotation(reader, header.width)
        inner = _index(reader, wrappers - {"rotation"}, header)
        return inner._replace(rotation=rotation)
    if tag == b"IxPq":
        return _flat(reader, outer)
    if tag == b"IwPQ":
        return _inverted(reader, outer)
    letters = tag.decode("ascii", "backslashreplace")
    known = _OTHERS.get(tag, f"an index of type {letters!r}")
    if tag[::-1] in (b"IxPT", b"IxPq", b"IwPQ", *_MAPS, *_OTHERS):
        known = f"an index of type {letters!r}, written in big endian"
    raise reader.wrong(
        known, "IndexPQ, or IndexIVFPQ of one list, with or without a rotation",
        at=place,
    )  # fmt: skip


def _mapped(reader: _Reader, own: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    """The ids of a map around a list, whose own ids are then row numbers."""
    if rows is None or not rows.size:
        return own.astype(np.int64)
    if rows.min() < 0 or rows.max() >= own.size:
        raise reader.wrong("ids beyond the map around them", f"0 to {own.size - 1:,}")
    return own[rows].astype(np.int64)


def _rotation(reader: _Reader, width: int) -> np.ndarray:
    """The one linear map of an ``IndexPreTransform``."""
    place = reader.at
    (count,) = reader.numbers("<i", "the number of transforms")
    if count != 1:
        raise reader.wrong(f"{count} transforms", "one rotation", at=place)
    place, tag = reader.at, reader.tag("the type of the transform")
    if tag not in _LINEAR:
        letters = tag.decode("ascii", "backslashreplace")
        expected = "a rotation, as OPQ's"
        raise reader.wrong(f"a transform of type {letters!r}", expected, at=place)
    (biased,) = reader.numbers("<B", "the rotation")
    matrix = reader.vector("<f4", "numbers of the rotation")
    bias = reader.vector("<f4", "numbers of its bias")
    inputs, outputs, _ = reader.numbers("<iiB", "the rotation")
    if (inputs, outputs) != (width, width) or matrix.size != width * width:
        raise reader.wrong(
            f"a map of {inputs:,} to {outputs:,} with {matrix.size:,} numbers",
            f"a rotation of width {width:,}", at=place,
        )  # fmt: skip
    if biased or bias.size:
        raise reader.wrong("a map with a bias", "a rotation", at=place)
    matrix = _finite(reader, matrix, "the rotation", place).reshape(width, width)
    off = float(np.abs(matrix).max()) - 1.0  # no product of larger ones is finite
    if off < _ORTHONORMAL:
        product = matrix @ matrix.T
        off = float(np.abs(product - np.eye(width, dtype=np.float32)).max())
    if not off < _ORTHONORMAL:
        raise reader.wrong(
            f"a map that is no rotation: A A' is off the identity by {off:.2g}",
            f"less than {_ORTHONORMAL}", at=place,
        )  # fmt: skip
    return matrix


def _finite(reader: _Reader, numbers: np.ndarray, name: str, place: int) -> np.ndarray:
    """A copy in the machine's own order, checked."""
    copied = np.array(numbers, np.float32)
    if not np.isfinite(copied).all():
        raise reader.wrong(f"NaN or infinity in {name}", "finite numbers", at=place)
    return copied


def _quantizer(reader: _Reader, width: int) -> tuple[CodecSpec, np.ndarray]:
    """The product quantizer: its shape and its centroids ``[M, C, W]``."""
    place = reader.at
    inner, parts, bits = reader.numbers("<QQQ", "the product quantizer")
    if inner != width:
        found = f"a product quantizer of width {inner:,}"
        raise reader.wrong(found, f"{width:,}, the index's", at=place)
    try:
        spec = CodecSpec(width, parts, bits)
    except InputError as error:
        raise reader.wrong(str(error), at=place) from error
    numbers = reader.vector("<f4", "numbers of centroids", width * spec.centroids)
    centroids = _finite(reader, numbers, "the centroids", place)
    return spec, centroids.reshape(spec.shape)


def _flat(reader: _Reader, outer: _Header | None) -> Parsed:
    header = _header(reader, "IndexPQ", outer)
    _by_inner_product(reader, header, "IndexPQ")
    spec, centroids = _quantizer(reader, header.width)
    content = reader.vector("<u1", "bytes of codes", header.docs * spec.doc_bytes)
    rows = content.reshape(header.docs, spec.doc_bytes)
    reader.numbers("<iBi", "the search parameters")
    return Parsed(header.docs, header.width, "flat", spec, centroids, rows, None)


def _inverted(reader: _Reader, outer: _Header | None) -> Parsed:
    header = _header(reader, "IndexIVFPQ", outer)
    _by_inner_product(reader, header, "IndexIVFPQ")
    place = reader.at
    lists, _ = reader.numbers("<QQ", "the number of lists")
    if lists != 1:
        raise reader.wrong(
            f"{lists:,} inverted lists", "one: 'OPQ{M},IVF1,PQ{M}x8'",
            "several lists have a centroid each, and a codec has one", at=place,
        )  # fmt: skip
    coarse = _coarse(reader, header.width)
    _skip_direct_map(reader)
    place = reader.at
    residual, size = reader.numbers("<BQ", "the size of a code")
    spec, centroids = _quantizer(reader, header.width)
    if size != spec.doc_bytes or residual > 1:
        raise reader.wrong(f"codes of {size:,} bytes", f"{spec.doc_bytes}", at=place)
    # Only where there is one: adding 0 makes a positive zero of a negative one.
    if residual and coarse.any():
        parts = coarse.reshape(spec.subvectors, 1, spec.part_width)
        centroids = _finite(reader, centroids + parts, "the centroids", place)
    rows, ids = _single_list(reader, header.docs, spec.doc_bytes)
    return Parsed(header.docs, header.width, "ivf", spec, centroids, rows, ids)


def _coarse(reader: _Reader, width: int) -> np.ndarray:
    """The centroid of the one list."""
    place, tag = reader.at, reader.tag("the type of the coarse quantizer")
    if tag not in (b"IxFI", b"IxF2"):
        letters = tag.decode("ascii", "backslashreplace")
        raise reader.wrong(
            f"a coarse quantizer of type {letters!r}", "an IndexFlat", at=place
        )
    _header(reader, "the coarse quantizer", _Header(width, 1, 0))
    place = reader.at
    numbers = reader.vector("<f4", "numbers of the coarse centroid", width)
    return _finite(reader, numbers, "the coarse centroid", place)


def _skip_direct_map(reader: _Reader) -> None:
    """Where each id stands, which a single list does not need."""
    place = reader.at
    (kind,) = reader.numbers("<B", "the direct map")
    if kind > 2:
        raise reader.wrong(f"a direct map of type {kind}", "0, 1 or 2", at=place)
    reader.vector("<i8", "entries of the direct map")
    if kind == 2:
        reader.vector("V16", "entries of the direct map")


def _single_list(
    reader: _Reader, docs: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes ``[N, P]`` and ids of the one list."""
    place, tag = reader.at, reader.tag("the type of the lists")
    if tag != b"ilar":
        letters = tag.decode("ascii", "backslashreplace")
        expected = "lists inside the file ('ilar')"
        raise reader.wrong(f"inverted lists of type {letters!r}", expected, at=place)
    lists, width = reader.numbers("<QQ", "the number of lists")
    tag = reader.tag("the form of the lists")
    if (lists, width) != (1, size) or tag not in (b"full", b"sprs"):
        found = f"{lists:,} lists of codes of {width:,} bytes"
        raise reader.wrong(found, f"one, of {size}", at=place)
    sizes = reader.vector("<u8", "sizes of lists")[:3].tolist()
    # Of each list its size, or pairs of a number and a size where few have anything.
    wanted = [docs] if tag == b"full" else [0, docs] if docs else []
    if sizes != wanted:
        raise reader.wrong(f"lists of sizes {sizes}", f"{wanted}", at=place)
    rows = reader.take(docs * size, "the codes").reshape(docs, size)
    ids = reader.take(8 * docs, "the ids").view("<i8").astype(np.int64)
    return rows, ids
