"""An inverted index read by documents again, a block of them at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxir.sparse.postings import Postings
from jaxir.sparse.rows import document_rows

__all__ = ["RowBlock", "row_blocks"]

_BLOCK = 1 << 22  # weights held at a time: about 100 MB with what sorting needs


class RowBlock(NamedTuple):
    """Sparse vectors of documents that follow each other.

    Attributes:
      start: row of the first.
      offsets: int64 ``[N+1]``, where each document's tokens begin.
      tokens: int32 ``[P]`` token ids, rising within a document.
      weights: float32 ``[P]``.
    """

    start: int
    offsets: np.ndarray
    tokens: np.ndarray
    weights: np.ndarray


def row_blocks(
    postings: Postings, *, start: int = 0, block: int = _BLOCK
) -> Iterator[RowBlock]:
    """The documents of an inverted index from a row on, in order.

    Args:
      postings: of ``open_postings``.
      start: the first row.
      block: weights of a block, about; a block has one document at least.

    Example::

      >>> import tempfile
      >>> from jaxir.sparse.postings import SparseRows, build_postings, open_postings
      >>> place, weights = tempfile.mkdtemp(), np.array([0.5, 2, 1], np.float32)
      >>> rows = SparseRows(np.array([0, 2, 3]), np.array([1, 3, 1]), weights)
      >>> build_postings([rows], 4, place)
      >>> [block.tokens.tolist() for block in row_blocks(open_postings(place, 2))]
      [[1, 3, 1]]
    """
    num_docs, total = postings.num_docs, max(len(postings.docs), 1)
    size = max(1, int(block * num_docs / total)) if num_docs else 1
    for first in range(start, num_docs, size):
        last = min(first + size, num_docs)
        yield RowBlock(first, *document_rows(postings, first, last))
