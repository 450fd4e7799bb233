"""A heap of the best documents so far, in the rows of the results themselves.

Its first entry is the worst: the lowest score, and of equal ones the highest row.
"""

import numpy as np

from jaxir.sparse.compiled import compiled

__all__ = ["finish", "push"]


@compiled
def _worse(scores, rows, i, j):
    if scores[i] == scores[j]:
        return rows[i] > rows[j]
    return scores[i] < scores[j]


@compiled
def _swap(scores, rows, i, j):
    scores[i], scores[j] = scores[j], scores[i]
    rows[i], rows[j] = rows[j], rows[i]


@compiled
def _sink(scores, rows, size):
    """Restores a heap of ``size`` whose first entry alone is out of place."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _worse(scores, rows, child + 1, child):
            child += 1
        if not _worse(scores, rows, child, at):
            return
        _swap(scores, rows, child, at)
        at = child


@compiled
def push(scores, rows, size, score, row):
    """Adds a document to a heap, in the place of the worst one where it is full."""
    if size == scores.shape[0]:
        scores[0], rows[0] = score, row
        _sink(scores, rows, size)
        return size
    scores[size], rows[size] = score, row
    at = size
    while at > 0 and _worse(scores, rows, at, (at - 1) // 2):
        _swap(scores, rows, at, (at - 1) // 2)
        at = (at - 1) // 2
    return size + 1


@compiled
def finish(scores, rows, size):
    """Turns a heap into results, best first; the rest exist not."""
    for left in range(size - 1, 0, -1):
        _swap(scores, rows, 0, left)
        _sink(scores, rows, left)
    scores[size:] = -np.inf
    rows[size:] = -1
