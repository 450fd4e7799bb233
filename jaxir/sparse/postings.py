"""Postings: for each token the documents that have it, on disk, and how they are built.

A token's list holds its documents in rising order, each with a weight.  A long list is
also cut into blocks of consecutive documents, and the largest weight of each block is
kept beside it: a search can then leave blocks out that cannot hold a result.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxir.errors import InputError

__all__ = [
    "BLOCK_SIZE",
    "DTYPES",
    "FOLDER",
    "Postings",
    "SparseRows",
    "build_postings",
    "open_postings",
]

BLOCK_SIZE = 64
"""Documents of a block where nobody says."""

DTYPES = ("float32", "float16", "uint8")
"""How weights can be stored."""

FOLDER = "postings"
"""Where postings lie in the directory of an index."""

_MOST = {"float32": 0x7F7FFFFF, "float16": 0x7BFF, "uint8": 0xFF}
_BITS = {"float32": np.uint32, "float16": np.uint16, "uint8": np.uint8}
_LONG = 6  # postings a block of the collection, from which a list has blocks


class SparseRows(NamedTuple):
    """Documents as rows of a sparse matrix.

    Attributes:
      offsets: int64 ``[n + 1]``: row ``i`` has the entries ``offsets[i]`` to
        ``offsets[i + 1]``.
      tokens: int32 ``[nnz]``; a row has a token once.
      weights: float32 ``[nnz]``, above 0.
    """

    offsets: Int[np.ndarray, " m"]
    tokens: Int[np.ndarray, " nnz"]
    weights: Float[np.ndarray, " nnz"]


class Postings(NamedTuple):
    """Lists of documents by token.

    Attributes:
      offsets: int64 ``[V + 1]``: token ``t`` has the postings ``offsets[t]`` to
        ``offsets[t + 1]``.
      docs: int32 ``[P]``, rows, rising within a token.
      weights: float32, float16 or uint8 ``[P]``, above 0.
      scales: float32 ``[V]`` where weights are codes: ``weight = code * scale``.
      block_offsets: int64 ``[V + 1]``: as ``offsets``, of ``blocks`` and what lies
        beside it.  Only tokens of many documents, a tenth or more, list blocks.
      blocks: uint16 or int32 ``[n]``, numbers of the blocks a token has documents in.
      block_maxima: float32 ``[n]``, the largest stored weight of the token in the
        block; a code where weights are codes.
      num_docs: ``N``.
      block_size: documents of a block, a power of 2.
      block_starts: int32 ``[n]``, the block's first posting, counted from the token's.
    """

    offsets: Int[np.ndarray, " m"]
    docs: Int[np.ndarray, " P"]
    weights: Any
    scales: Float[np.ndarray, " V"] | None
    block_offsets: Int[np.ndarray, " m"]
    blocks: Any
    block_maxima: Float[np.ndarray, " n"]
    num_docs: int
    block_size: int
    block_starts: Int[np.ndarray, " n"]

    @property
    def vocab_size(self) -> int:
        """``V``."""
        return len(self.offsets) - 1


def _new_file(path: Path, dtype: Any, size: int) -> np.ndarray:
    """A file of an array, mapped for writing; the disk has room for all of it."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(size,))
    if hasattr(os, "posix_fallocate"):  # else a full disk would end the process
        with path.open("rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return array


def _is_block_size(size: int) -> bool:
    return 1 <= size <= 1 << 16 and not size & (size - 1)


class _Counts(NamedTuple):
    counts: np.ndarray  # postings of each token
    largest: np.ndarray  # and its largest weight
    num_docs: int


def _count(shards: Sequence[SparseRows], vocab_size: int) -> _Counts:
    from jaxir.sparse.posting_loops import NO_TOKEN, WEIGHT, count_tokens

    counts, seen = np.zeros(vocab_size, np.int64), np.full(vocab_size, -1, np.int64)
    largest = np.zeros(vocab_size, np.float32)
    first_row = 0
    for shard in shards:
        rows = _checked(shard, first_row)
        fault, row, at = count_tokens(*rows, first_row, counts, largest, seen)
        if fault:
            where = f"document {first_row + row:,}"
            token, weight = rows.tokens[at], rows.weights[at]
            if fault == NO_TOKEN:
                expected = f"0 to {vocab_size - 1:,}"
                raise InputError(where, f"token {token}", expected)
            if fault == WEIGHT:
                expected = "a finite number above 0"
                raise InputError(where, f"weight {weight} of token {token}", expected)
            raise InputError(where, f"token {token} twice", "each token once")
        first_row += len(rows.offsets) - 1
    if first_row > np.iinfo(np.int32).max:
        raise InputError("documents", f"{first_row:,}", "at most 2,147,483,647")
    return _Counts(counts, largest, first_row)


def _checked(shard: SparseRows, first_row: int) -> SparseRows:
    """A shard as the loops take it: of the right types, its rows within it."""
    offsets = np.ascontiguousarray(shard.offsets, np.int64)
    tokens = np.ascontiguousarray(shard.tokens, np.int32)
    weights = np.ascontiguousarray(shard.weights, np.float32)
    whole = len(offsets) > 0 and offsets[0] == 0
    whole = whole and offsets[-1] == len(tokens) == len(weights)
    if not whole or np.any(np.diff(offsets) < 0):
        raise InputError(
            f"documents from {first_row:,}", "offsets that are not those of rows",
            "0, then rising to the number of entries",
        )  # fmt: skip
    return SparseRows(offsets, tokens, weights)


def _stored(
    rows: SparseRows, dtype: str, scales: np.ndarray | None, first_row: int
) -> np.ndarray:
    """Weights as they are stored, as bits; none becomes 0."""
    if scales is not None:
        codes = np.rint(rows.weights / scales[rows.tokens])
        return np.clip(codes, 1, 255).astype(np.uint8)
    if dtype == "float32":
        return rows.weights
    with np.errstate(over="ignore"):
        bits = rows.weights.astype(np.float16).view(np.uint16)
    if len(bits) and bits.max() > _MOST[dtype]:
        row = np.searchsorted(rows.offsets, np.argmax(bits), side="right") - 1
        raise InputError(
            f"document {first_row + row:,}", f"weight {rows.weights.max():.6g}",
            "at most 65504, the largest float16", "store float32 or uint8",
        )  # fmt: skip
    return np.maximum(bits, 1)


def build_postings(
    shards: Sequence[SparseRows],
    vocab_size: int,
    directory: str | os.PathLike,
    *,
    dtype: str = "float32",
    block_size: int = BLOCK_SIZE,
) -> None:
    """Writes postings into the folder ``postings`` of an index's directory.

    Shards are read twice, one after another: to count, then to fill files that are
    mapped into memory.  Beyond a shard and the vocabulary nothing is held.

    Args:
      shards: documents by row; the second begins where the first ends.
      vocab_size: ``V``.
      directory: an existing directory, such as ``manifest.write_index`` gives.
      dtype: of stored weights, one of :data:`DTYPES`.  ``uint8`` keeps a weight's
        255ths of the largest that its token has; no weight becomes 0.
      block_size: documents of a block, a power of 2.

    Raises:
      InputError: an unknown dtype or size; a document with a token that does not exist
        or twice, or a weight that is not a finite number above 0 or too large for the
        dtype; shards that are others at the second reading.

    Example::

      >>> import tempfile
      >>> place = tempfile.mkdtemp()
      >>> weights = np.array([0.5, 2, 1], np.float32)
      >>> rows = SparseRows(np.array([0, 2, 3]), np.array([1, 3, 1]), weights)
      >>> build_postings([rows], 4, place)
      >>> postings = open_postings(place, 2)
      >>> postings.offsets.tolist(), postings.docs.tolist(), postings.weights.tolist()
      ([0, 0, 2, 2, 3], [0, 1, 0], [0.5, 1.0, 2.0])
    """
    from jaxir.sparse.posting_loops import fill_postings

    if dtype not in DTYPES:
        raise InputError("dtype", repr(dtype), "one of " + ", ".join(DTYPES))
    if not _is_block_size(block_size):
        raise InputError("block_size", str(block_size), "a power of 2 up to 65,536")
    folder = Path(directory) / FOLDER
    folder.mkdir(exist_ok=True)
    counts, largest, num_docs = _count(shards, vocab_size)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    np.save(folder / "offsets.npy", offsets)
    np.save(folder / "shape.npy", np.array([num_docs, block_size]))
    scales = None
    if dtype == "uint8":
        tiny = np.finfo(np.float32).tiny
        scales = np.where(counts > 0, np.maximum(largest / 255, tiny), 1)
        scales = scales.astype(np.float32)
        np.save(folder / "scales.npy", scales)
    docs = _new_file(folder / "docs.npy", np.int32, int(offsets[-1]))
    weights = _new_file(folder / "weights.npy", dtype, int(offsets[-1]))
    bits = _bits(weights, dtype)
    ends, first_row, room = offsets[:-1].copy(), 0, True
    for shard in shards:
        rows = _checked(shard, first_row)
        values = _stored(rows, dtype, scales, first_row).view(_BITS[dtype])
        room = fill_postings(
            rows.offsets, rows.tokens, values, first_row, ends, offsets[1:],
            np.asarray(docs), bits,
        )  # fmt: skip
        first_row += len(rows.offsets) - 1
        if not room:
            break
    if not room or first_row != num_docs or not np.array_equal(ends, offsets[1:]):
        raise InputError("shards", "other documents at the second reading")
    _write_blocks(folder, offsets, docs, weights, dtype, num_docs, block_size)


def _bits(weights: np.ndarray, dtype: str) -> np.ndarray:
    return np.asarray(weights).view(_BITS[dtype])


def loop_weights(weights: np.ndarray) -> np.ndarray:
    """Stored weights as the compiled loops read them: float16 as its bits."""
    return weights.view(np.uint16) if weights.dtype == np.float16 else weights


def loop_blocks(postings: Postings) -> tuple:
    """Blocks as the compiled loops read them."""
    shift = postings.block_size.bit_length() - 1
    columns = (postings.blocks, postings.block_maxima, postings.block_starts)
    return (postings.block_offsets, *columns, shift)


def _write_blocks(
    folder: Path,
    offsets: np.ndarray,
    docs: np.ndarray,
    weights: np.ndarray,
    dtype: str,
    num_docs: int,
    block_size: int,
) -> None:
    from jaxir.sparse.posting_loops import count_blocks, fill_blocks

    shift, docs = block_size.bit_length() - 1, np.asarray(docs)
    counts = np.zeros(len(offsets) - 1, np.int64)
    count_blocks(offsets, docs, shift, counts)
    # A shorter list is read whole in less time than its bounds would save.
    counts[np.diff(offsets) < _LONG * -(-num_docs // block_size)] = 0
    block_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    np.save(folder / "block_offsets.npy", block_offsets)
    small = num_docs <= block_size << 16
    size = int(block_offsets[-1])
    arrays = (
        _new_file(folder / "blocks.npy", np.uint16 if small else np.int32, size),
        _new_file(folder / "block_maxima.npy", np.float32, size),
        _new_file(folder / "block_starts.npy", np.int32, size),
    )
    fill_blocks(
        offsets, docs, loop_weights(np.asarray(weights)), shift, block_offsets,
        *map(np.asarray, arrays),
    )  # fmt: skip


def _mapped(path: Path, *dtypes: Any) -> np.ndarray:
    """An array of a file, mapped, one-dimensional and of one of the types."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(path, "no such file", "postings of an index") from None
    except (ValueError, OSError, EOFError) as error:
        raise InputError(path, f"not an array ({error})") from None
    if array.ndim != 1 or array.dtype not in dtypes:
        names = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise InputError(path, f"{array.dtype} {array.shape}", f"{names} [n]")
    return np.asarray(array)


def open_postings(
    directory: str | os.PathLike, num_docs: int, *, check: bool = True
) -> Postings:
    """Postings of an index's directory, mapped into memory.

    Args:
      directory: what :func:`build_postings` was given.
      num_docs: ``N``, as the index's manifest has it.
      check: reads every posting once and looks whether its row and weight can be, and
        its block's bound.

    Raises:
      InputError: a file is missing or of another type; postings of other documents;
        lists that do not fit each other; rows that do not exist or do not rise; weights
        that are not finite numbers above 0; blocks that are not those of the postings.
    """
    folder = Path(directory) / FOLDER
    shape = _mapped(folder / "shape.npy", np.int64)
    if len(shape) != 2 or shape[0] != num_docs:
        found = f"of {shape[0]:,} documents" if len(shape) else "empty"
        expected = f"{num_docs:,}"
        raise InputError(folder / "shape.npy", found, expected, "build the index again")
    block_size = int(shape[1])
    if not _is_block_size(block_size):
        raise InputError(
            folder / "shape.npy", f"blocks of {block_size} documents",
            "a power of 2 up to 65,536", "build the index again",
        )  # fmt: skip
    offsets = _mapped(folder / "offsets.npy", np.int64)
    docs = _mapped(folder / "docs.npy", np.int32)
    weights = _mapped(folder / "weights.npy", np.float32, np.float16, np.uint8)
    scales = None
    if weights.dtype == np.uint8:
        scales = _mapped(folder / "scales.npy", np.float32)
    block_offsets = _mapped(folder / "block_offsets.npy", np.int64)
    opened = Postings(
        offsets, docs, weights, scales, block_offsets,
        _mapped(folder / "blocks.npy", np.uint16, np.int32),
        _mapped(folder / "block_maxima.npy", np.float32), num_docs, block_size,
        _mapped(folder / "block_starts.npy", np.int32),
    )  # fmt: skip
    _check_offsets(folder / "offsets.npy", offsets, docs, weights)
    _check_offsets(
        folder / "block_offsets.npy", block_offsets, opened.blocks, opened.block_maxima,
        opened.block_starts,
    )  # fmt: skip
    if len(block_offsets) != len(offsets):
        raise InputError(
            folder / "block_offsets.npy", f"{len(block_offsets):,} entries",
            f"{len(offsets):,}, as offsets.npy",
        )  # fmt: skip
    if scales is not None and not (
        len(scales) == len(offsets) - 1 and np.all(np.isfinite(scales) & (scales > 0))
    ):
        raise InputError(folder / "scales.npy", "not a number above 0 a token")
    if check:
        _check_content(folder, opened)
    return opened


def _check_offsets(path: Path, offsets: np.ndarray, *columns: np.ndarray) -> None:
    good = len(offsets) > 0 and offsets[0] == 0 and not np.any(np.diff(offsets) < 0)
    if not good or any(len(column) != offsets[-1] for column in columns):
        raise InputError(
            path, "offsets that are not those of the lists beside it",
            "0, then rising to their length", "build the index again",
        )  # fmt: skip


def _check_content(folder: Path, postings: Postings) -> None:
    from jaxir.sparse.posting_loops import check_blocks, check_docs, check_weights

    at = check_docs(postings.offsets, postings.docs, postings.num_docs)
    if at >= 0:
        raise InputError(
            folder / "docs.npy", f"row {postings.docs[at]} at posting {at:,}",
            f"rows of {postings.num_docs:,} documents, rising within a token",
            "build the index again",
        )  # fmt: skip
    name = postings.weights.dtype.name
    at = check_weights(_bits(postings.weights, name), _MOST[name])
    if at >= 0:
        raise InputError(
            folder / "weights.npy", f"{postings.weights[at]} at posting {at:,}",
            "a finite number above 0", "build the index again",
        )  # fmt: skip
    block_offsets, *blocks, shift = loop_blocks(postings)
    lists = (postings.offsets, postings.docs, loop_weights(postings.weights))
    at = check_blocks(*lists, shift, block_offsets, *blocks)
    if at >= 0:
        raise InputError(
            folder / "blocks.npy", f"at {at:,} a block that the postings do not have",
            remedy="build the index again",
        )  # fmt: skip
