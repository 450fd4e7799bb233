"""The sums of a window of documents: lists are added to them, and the best are kept."""

from typing import Any

import numpy as np

from jaxir.sparse.compiled import compiled, lower_bound, real
from jaxir.sparse.heap_loops import push

__all__ = [
    "SHIFT",
    "add_lists",
    "add_short",
    "clear_lists",
    "count_positive",
    "keep_best",
    "keep_good",
    "kth_largest",
    "within",
]

SHIFT = 6
"""Of ``2**SHIFT`` scores the largest is looked at first."""

_FEW = 16  # short lists whose postings are fewer than a 16th of the documents


@compiled
def count_positive(sums):
    """How many sums are above 0; a processor compares many integers at once."""
    bits = sums.view(np.int32)
    count: Any = np.int32(0)
    for i in range(bits.shape[0]):
        count = np.int32(count + (np.int32(1) if bits[i] > 0 else np.int32(0)))
    return count


@compiled
def largest_sums(sums, shift, largest):
    """The largest sum of each block of documents.

    As integers, which are ordered as numbers from 0 are, and of which a processor
    compares many at once.
    """
    bits, out = sums.view(np.int32), largest.view(np.int32)
    for block in range(out.shape[0]):
        start = block << shift
        part = bits[start : start + (1 << shift)]
        most: Any = np.int32(0)
        for i in range(part.shape[0]):
            value = part[i]
            most = value if value > most else most
        out[block] = most


@compiled
def kth_largest(values, heap, rows):
    """The k-th largest of values, 0 where fewer are above 0; ``k`` is the heap's."""
    size = 0
    for value in values:
        if value > 0 and (size < heap.shape[0] or value > heap[0]):
            size = push(heap, rows, size, value, 0)
    return heap[0] if size == heap.shape[0] else np.float32(0)


@compiled
def _add(sums, docs, weights, low, factor):
    """Adds a token to the sums of documents from ``low`` on; slices are fast here."""
    for i in range(docs.shape[0]):
        sums[np.uint32(docs[i] - low)] += factor * real(weights[i])


@compiled
def within(values, start, stop, low, high):
    """The part of a list of rising values that is from ``low`` to below ``high``."""
    start = lower_bound(values, start, stop, low)
    return start, lower_bound(values, start, stop, high)


@compiled
def _add_raising(sums, docs, weights, low, factor, shift, largest):
    """As :func:`_add`, keeping the largest sum of each block of documents."""
    for i in range(docs.shape[0]):
        place = np.uint32(docs[i] - low)
        total = sums[place] + factor * real(weights[i])
        sums[place] = total
        block = place >> np.uint32(shift)
        largest[block] = max(largest[block], total)


@compiled
def _part(docs, start, stop, low, high, last):
    """The part of a list that is of a window's documents."""
    if start < stop and docs[start] < low:
        start = lower_bound(docs, start, stop, low)
    if not last:
        stop = lower_bound(docs, start, stop, high)
    return start, stop


@compiled
def add_lists(docs, weights, factors, turn, at, ends, low, high, last, sums):
    """Adds the lists of tokens, in turn, to the sums of a window's documents.

    ``at`` are the places in the lists, up to ``ends``; they move on to ``high``.
    """
    for j in turn:
        start, stop = _part(docs, at[j], ends[j], low, high, last)
        _add(sums, docs[start:stop], weights[start:stop], np.int32(low), factors[j])
        at[j] = stop


@compiled
def add_short(
    docs, weights, factors, turn, at, ends, low, high, last, sums, begun, shift, largest
):
    """As :func:`add_lists`, with where each began and each block's largest sum.

    Of few postings the largest are kept as they are added; else all sums are read.
    Returns whether they were few.
    """
    count = 0
    for j in turn:
        begun[j], stop = _part(docs, at[j], ends[j], low, high, last)
        at[j] = stop
        count += stop - begun[j]
    few = count * _FEW < sums.shape[0]
    largest[:] = 0
    for j in turn:
        own_docs, own_weights = docs[begun[j] : at[j]], weights[begun[j] : at[j]]
        if few:
            _add_raising(
                sums, own_docs, own_weights, np.int32(low), factors[j], shift, largest
            )
        else:
            _add(sums, own_docs, own_weights, np.int32(low), factors[j])
    if not few:
        largest_sums(sums, shift, largest)
    return few


@compiled
def clear_lists(docs, turn, begun, at, low, sums):
    """Makes the sums 0 that lists, in turn, were added to from ``begun`` to ``at``.

    Of few postings this touches less than the window has.
    """
    for j in turn:
        part = docs[begun[j] : at[j]]
        for i in range(part.shape[0]):
            sums[np.uint32(part[i] - np.int32(low))] = 0


@compiled
def keep_good(sums, least, low, scores, rows, size):
    """Puts sums above 0, and from ``least`` on, into the heap if good enough."""
    for i in range(sums.shape[0]):
        score = sums[i]
        if score >= least and score > 0 and (
            size < scores.shape[0] or score > scores[0]
            or (score == scores[0] and low + i < rows[0])
        ):  # fmt: skip
            size = push(scores, rows, size, score, low + i)
    return size


@compiled
def keep_best(sums, largest, heap, heap_rows, low, scores, rows, size):
    """Puts the best sums of a window into the heap.

    The k-th of the largest sums of blocks is a score that ``k`` documents reach.
    """
    largest = largest[: ((sums.shape[0] - 1) >> SHIFT) + 1]
    largest_sums(sums, SHIFT, largest)
    full = size == scores.shape[0]
    least = scores[0] if full else kth_largest(largest, heap, heap_rows)
    for block in range(largest.shape[0]):
        if largest[block] > 0 and largest[block] >= least:
            start = block << SHIFT
            part = sums[start : start + (1 << SHIFT)]
            size = keep_good(part, least, low + start, scores, rows, size)
    return size
