"""The loops that search postings.

A document's score is the float32 sum of the float32 products of the query's and the
document's weights.  Tokens are taken in the order of the lengths of their lists, the
shortest first, and of equal lengths the lower token first.  Every loop here sums in
that order, so that all give the same bits.  Rounding never changes the order of two
numbers: a sum of upper bounds, taken in the same order, is one of the rounded sum.
"""

import numpy as np

from jaxir.sparse.compiled import compiled, real
from jaxir.sparse.heap_loops import finish
from jaxir.sparse.sum_loops import (
    SHIFT,
    add_lists,
    add_short,
    clear_lists,
    count_positive,
    keep_best,
    keep_good,
    kth_largest,
    within,
)

__all__ = ["WINDOW", "block_max", "exhaustive"]

WINDOW = 1 << 17  # documents whose scores stay in a core's cache
"""Documents of a window, at most."""

_BUCKETS = 256  # of bounds, by which blocks are ordered
_FEW = 4  # with more than a 4th of the blocks to visit, lists are read whole


@compiled
def _window(num_docs, shift):
    """Documents of a window: windows of like size, of whole blocks."""
    count = (num_docs + WINDOW - 1) // WINDOW
    blocks = (((num_docs + count - 1) // count - 1) >> shift) + 1
    return min(blocks << shift, num_docs)


@compiled
def _most_tokens(starts, first, stop):
    most = 0
    for query in range(first, stop):
        most = max(most, starts[query + 1] - starts[query])
    return most


@compiled
def _set_turn(tokens, offsets, turn, at, ends):
    """Where a query's lists begin and end, and their turn, the shortest first."""
    for j in range(tokens.shape[0]):
        at[j], ends[j] = offsets[tokens[j]], offsets[tokens[j] + 1]
        place = j
        while place > 0:
            other = turn[place - 1]
            if ends[other] - at[other] <= ends[j] - at[j]:
                break
            turn[place] = other
            place -= 1
        turn[place] = j


@compiled
def exhaustive(
    offsets, docs, weights, num_docs, starts, tokens, factors, first, stop,
    doc_ids, scores, scored, sums,
):  # fmt: skip
    """Token after token over all postings; documents in windows that fit a cache.

    ``sums`` has room for a window, and is 0 before and after.
    """
    kept, window = doc_ids.shape[1], _window(num_docs, 0)
    largest = np.empty(((window - 1) >> SHIFT) + 1, np.float32)
    heap, heap_rows = np.empty(kept, np.float32), np.empty(kept, np.int32)
    turns = np.empty((3, _most_tokens(starts, first, stop)), np.int64)
    for query in range(first, stop):
        own = tokens[starts[query] : starts[query + 1]]
        own_factors = factors[starts[query] : starts[query + 1]]
        best, rows = scores[query], doc_ids[query]
        turn, at, ends = turns[:, : own.shape[0]]
        _set_turn(own, offsets, turn, at, ends)
        size = num_scored = 0
        for low in range(0, num_docs, window):
            high = min(low + window, num_docs)
            last = high == num_docs
            add_lists(docs, weights, own_factors, turn, at, ends, low, high, last, sums)
            part = sums[: high - low]
            num_scored += count_positive(part)
            size = keep_best(part, largest, heap, heap_rows, low, best, rows, size)
            part[:] = 0
        scored[query] = num_scored
        finish(best, rows, size)


@compiled
def _raise_bounds(blocks, block_maxima, block_starts, factor, first, bounds, places):
    """Adds a list's blocks to bounds; ``places``: 1 + its first posting in a block."""
    if blocks.shape[0] == bounds.shape[0]:
        for i in range(blocks.shape[0]):
            bounds[i] += factor * block_maxima[i]
            places[i] = block_starts[i] + 1
        return
    places[:] = 0
    for i in range(blocks.shape[0]):
        block = np.uint32(blocks[i] - first)
        bounds[block] += factor * block_maxima[i]
        places[block] = block_starts[i] + 1


@compiled
def _bucket(height, scale):
    """Higher for higher ones; the highest also for what is not a number."""
    place = height * scale
    if place < _BUCKETS - 1:
        return np.int64(place)
    return np.int64(_BUCKETS - 1)


@compiled
def _candidates(bounds, least, tally, found, order):
    """Blocks whose bound is above 0 and at least ``least``, by their bounds, roughly.

    How many there are; ``order`` has them bucket after bucket from the highest.
    """
    count = 0
    highest = np.float32(0)
    for block in range(bounds.shape[0]):
        bound = bounds[block]
        if bound >= least and bound > 0:
            found[count] = block
            count += 1
            highest = max(highest, bound)
    scale = np.float32(_BUCKETS) / (highest - least)
    tally[:] = 0
    for block in found[:count]:
        tally[_bucket(bounds[block] - least, scale)] += 1
    total = 0
    for bucket in range(_BUCKETS - 1, -1, -1):
        size = tally[bucket]
        tally[bucket] = total
        total += size
    for block in found[:count]:
        bucket = _bucket(bounds[block] - least, scale)
        order[tally[bucket]] = block
        tally[bucket] += 1
    return count


@compiled
def _add_block(offsets, docs, weights, tokens, factors, turn, places, block, low, sums):
    """Adds the lists of tokens, in turn, to the sums of a block's documents."""
    high = low + sums.shape[0]
    for i in range(turn.shape[0]):
        if places[i, block] > 0:
            token, factor = tokens[turn[i]], factors[turn[i]]
            at, end = offsets[token] + places[i, block] - 1, offsets[token + 1]
            while at < end and docs[at] < high:
                sums[np.uint32(docs[at] - low)] += factor * real(weights[at])
                at += 1


@compiled
def block_max(
    offsets, docs, weights, num_docs, starts, tokens, factors, first, stop,
    doc_ids, scores, scored, sums,
    block_offsets, blocks, block_maxima, block_starts, shift,
):  # fmt: skip
    """Blocks of documents in the order of their bounds, while they can hold a result.

    As Mallia, Suel and Tonellotto, "Faster Learned Sparse Retrieval with Block-Max
    Pruning" (2024), but for short lists, which no bound would make shorter: these are
    summed as :func:`exhaustive` does.  A block's bound is its largest sum so far and
    what the long lists, those that have blocks, can add to it.  Where bounds leave many
    blocks, as for large ``k``, the long lists are read whole.

    A block whose bound equals the worst score kept can still hold an equal score at a
    lower row, unless its own rows are higher.
    """
    kept, block_size = doc_ids.shape[1], 1 << shift
    window = _window(num_docs, shift)
    num_blocks = ((window - 1) >> shift) + 1
    all_bounds = np.empty(num_blocks, np.float32)
    largest = np.empty(((window - 1) >> SHIFT) + 1, np.float32)
    found, order = np.empty(num_blocks, np.int32), np.empty(num_blocks, np.int32)
    tally = np.empty(_BUCKETS, np.int64)
    heap, heap_rows = np.empty(kept, np.float32), np.empty(kept, np.int32)
    most = _most_tokens(starts, first, stop)
    turns, places = (
        np.empty((4, most), np.int64),
        np.empty((most, num_blocks), np.int32),
    )
    for query in range(first, stop):
        own = tokens[starts[query] : starts[query + 1]]
        own_factors = factors[starts[query] : starts[query + 1]]
        best, rows = scores[query], doc_ids[query]
        turn, at, ends, begun = turns[:, : own.shape[0]]
        _set_turn(own, offsets, turn, at, ends)
        cut = turn.shape[0]
        while cut and (
            block_offsets[own[turn[cut - 1]]] < block_offsets[own[turn[cut - 1]] + 1]
        ):
            cut -= 1
        short, long = turn[:cut], turn[cut:]
        size = num_scored = 0
        for low in range(0, num_docs, window):
            high = min(low + window, num_docs)
            last = high == num_docs
            first_block, last_block = low >> shift, ((high - 1) >> shift) + 1
            all_sums, bounds = (
                sums[: high - low],
                all_bounds[: last_block - first_block],
            )
            few = add_short(
                docs, weights, own_factors, short, at, ends, low, high, last, all_sums,
                begun, shift, bounds,
            )  # fmt: skip
            least = best[0] if size == kept else kth_largest(bounds, heap, heap_rows)
            for i in range(long.shape[0]):
                token = own[long[i]]
                start, end = within(
                    blocks, block_offsets[token], block_offsets[token + 1],
                    first_block, last_block,
                )  # fmt: skip
                _raise_bounds(
                    blocks[start:end], block_maxima[start:end], block_starts[start:end],
                    own_factors[long[i]], first_block, bounds, places[i],
                )  # fmt: skip
            num_found = _candidates(bounds, least, tally, found, order)
            if num_found * _FEW > bounds.shape[0]:
                add_lists(
                    docs, weights, own_factors, long, at, ends, low, high, last, sums
                )
                num_scored += count_positive(all_sums)
                num_found = 0
                size = keep_best(
                    all_sums, largest, heap, heap_rows, low, best, rows, size
                )
                all_sums[:] = 0
                continue
            for block in order[:num_found]:
                start, bound = block << shift, bounds[block]
                row = low + start
                if size == kept and (
                    bound < best[0] or (bound == best[0] and row > rows[0])
                ):
                    continue
                part = all_sums[start : start + block_size]
                _add_block(
                    offsets, docs, weights, own, own_factors, long, places, block, row,
                    part,
                )  # fmt: skip
                num_scored += count_positive(part)
                size = keep_good(part, least, row, best, rows, size)
                part[:] = 0
            if few:
                clear_lists(docs, short, begun, at, low, sums)
            else:
                all_sums[:] = 0
        scored[query] = num_scored
        finish(best, rows, size)
