"""An inverted index read by documents again.

Each list is sorted by document, so that consecutive documents are one stretch of it:
found by as many binary searches side by side as there are tokens, then sorted by row.
Memory is that of the documents asked for, whatever the index's size.
"""

import numpy as np
from jaxtyping import Bool, Int

from jaxir.sparse.postings import Postings, SparseRows

__all__ = ["document_rows"]


def document_rows(
    postings: Postings,
    start: int,
    stop: int,
    keep: Bool[np.ndarray, " N"] | None = None,
) -> SparseRows:
    """Consecutive documents as the rows that they were built of; weights as stored.

    Args:
      postings: of an index.
      start: row of the first document.
      stop: row behind the last.
      keep: of all documents of the index, those that are left; None for all.

    Example::

      >>> two = Postings(
      ...     np.array([0, 1, 3]), np.array([1, 0, 1], np.int32),
      ...     np.array([2, 1, 3], np.float32), None, np.zeros(3, np.int64),
      ...     np.zeros(0, np.uint16), np.zeros(0, np.float32), 2, 64,
      ...     np.zeros(0, np.int32))
      >>> rows = document_rows(two, 0, 2)
      >>> rows.offsets.tolist(), rows.tokens.tolist(), rows.weights.tolist()
      ([0, 1, 3], [1, 0, 1], [1.0, 2.0, 3.0])
    """
    low, high = (_first_from(postings, row) for row in (start, stop))
    counts = high - low
    # The stretches of all lists, one after the other: a posting's place is its
    # stretch's beginning and how far it stands in it.
    before = np.cumsum(counts) - counts
    places = np.repeat(low - before, counts) + np.arange(counts.sum())
    docs = postings.docs[places] - start
    tokens = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    weights = postings.weights[places].astype(np.float32)
    if postings.scales is not None:
        weights *= postings.scales[tokens]
    kept = np.ones(stop - start, bool) if keep is None else keep[start:stop]
    order = np.argsort(docs, kind="stable")  # tokens keep rising within a row
    order = order[kept[docs[order]]]
    lengths = np.bincount(docs[order], minlength=stop - start)[kept]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return SparseRows(offsets, tokens[order], weights[order])


def _first_from(postings: Postings, row: int) -> Int[np.ndarray, " V"]:
    """Of each list the place of its first document from a row on."""
    low, high = postings.offsets[:-1].copy(), postings.offsets[1:].copy()
    unsure = np.flatnonzero(low < high)
    while len(unsure):
        middle = (low[unsure] + high[unsure]) // 2
        below = postings.docs[middle] < row
        low[unsure[below]] = middle[below] + 1
        high[unsure[~below]] = middle[~below]
        unsure = unsure[low[unsure] < high[unsure]]
    return low
