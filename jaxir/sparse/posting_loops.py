"""The loops that build and check postings, and check queries."""

import numpy as np

from jaxir.sparse.compiled import compiled, real

__all__ = [
    "NO_TOKEN",
    "TWICE",
    "WEIGHT",
    "check_blocks",
    "check_docs",
    "check_weights",
    "count_blocks",
    "count_tokens",
    "fill_blocks",
    "fill_postings",
    "fill_rows",
    "find_fault",
]

NO_TOKEN = 1
"""What :func:`count_tokens` says of a token that the vocabulary does not have."""

WEIGHT = 2
"""… of a weight that is not a finite number above 0."""

TWICE = 3
"""… of a token that a document has twice."""


@compiled
def count_tokens(offsets, tokens, weights, first_row, counts, largest, seen):
    """Adds a shard to postings and largest weights of tokens; the first fault if any.

    ``seen [V]`` holds the row that each token was last met in.
    """
    vocab_size = counts.shape[0]
    for row in range(offsets.shape[0] - 1):
        for i in range(offsets[row], offsets[row + 1]):
            token, weight = tokens[i], weights[i]
            if not 0 <= token < vocab_size:
                return NO_TOKEN, row, i
            if not 0 < weight < np.inf:
                return WEIGHT, row, i
            if seen[token] == first_row + row:
                return TWICE, row, i
            seen[token] = first_row + row
            counts[token] += 1
            largest[token] = max(largest[token], weight)
    return 0, 0, 0


@compiled
def fill_postings(offsets, tokens, values, first_row, ends, limits, docs, weights):
    """Puts a shard at the ends of its tokens' lists; whether there is room for it."""
    for row in range(offsets.shape[0] - 1):
        for i in range(offsets[row], offsets[row + 1]):
            token = tokens[i]
            if not 0 <= token < ends.shape[0] or ends[token] == limits[token]:
                return False
            at = ends[token]
            docs[at] = first_row + row
            weights[at] = values[i]
            ends[token] = at + 1
    return True


@compiled
def count_blocks(offsets, docs, shift, counts):
    """How many blocks each token's documents lie in."""
    for token in range(counts.shape[0]):
        block = -1
        for i in range(offsets[token], offsets[token + 1]):
            if docs[i] >> shift != block:
                block = docs[i] >> shift
                counts[token] += 1


@compiled
def fill_blocks(
    offsets, docs, weights, shift, block_offsets, blocks, block_maxima, block_starts
):
    """Blocks, largest stored weights and places of the tokens that list blocks."""
    for token in range(block_offsets.shape[0] - 1):
        entry = block_offsets[token] - 1
        if block_offsets[token + 1] == block_offsets[token]:
            continue
        start, last = offsets[token], -1
        for i in range(start, offsets[token + 1]):
            block, weight = docs[i] >> shift, real(weights[i])
            if block != last:
                entry += 1
                last = block
                blocks[entry] = block
                block_maxima[entry] = weight
                block_starts[entry] = i - start
            elif weight > block_maxima[entry]:
                block_maxima[entry] = weight


@compiled
def check_docs(offsets, docs, num_docs):
    """The first posting whose row does not exist or does not rise, or -1."""
    for token in range(offsets.shape[0] - 1):
        last = -1
        for i in range(offsets[token], offsets[token + 1]):
            if not last < docs[i] < num_docs:
                return i
            last = docs[i]
    return -1


@compiled
def check_weights(bits, most):
    """The first weight whose bits are not from 1 to ``most``, or -1.

    The bits of floating-point numbers above 0 are ordered as the numbers are.
    """
    for i in range(bits.shape[0]):
        if not 1 <= bits[i] <= most:
            return i
    return -1


@compiled
def check_blocks(
    offsets, docs, weights, shift, block_offsets, blocks, block_maxima, block_starts
):
    """The first entry that is not what :func:`fill_blocks` writes, or -1."""
    for token in range(block_offsets.shape[0] - 1):
        entry, end = block_offsets[token], block_offsets[token + 1]
        if entry == end:
            continue
        at, stop = offsets[token], offsets[token + 1]
        while at < stop:
            if entry == end or block_starts[entry] != at - offsets[token]:
                return min(entry, end - 1)
            block, largest = docs[at] >> shift, real(weights[at])
            while at < stop and docs[at] >> shift == block:
                largest = max(largest, real(weights[at]))
                at += 1
            if blocks[entry] != block or block_maxima[entry] != largest:
                return entry
            entry += 1
        if entry < end:
            return entry
    return -1


@compiled
def fill_rows(offsets, docs, weights, at, tokens_out, weights_out):
    """Turns lists into rows: each document's postings from its place ``at`` on."""
    for token in range(offsets.shape[0] - 1):
        for i in range(offsets[token], offsets[token + 1]):
            place = at[docs[i]]
            tokens_out[place] = token
            weights_out[place] = weights[i]
            at[docs[i]] = place + 1


@compiled
def find_fault(offsets, tokens, weights, vocab_size):
    """What is wrong with queries, and where: the query and the entry.

    0 nothing, 1 a token that is not there, 2 a weight, 3 the order, 4 the offsets.
    """
    if offsets.shape[0] == 0 or offsets[0] != 0 or offsets[-1] != tokens.shape[0]:
        return 4, 0, 0
    for query in range(offsets.shape[0] - 1):
        if offsets[query] > offsets[query + 1]:
            return 4, query, 0
    for query in range(offsets.shape[0] - 1):
        last = -1
        for i in range(offsets[query], offsets[query + 1]):
            if not 0 <= tokens[i] < vocab_size:
                return 1, query, i
            if not 0 <= weights[i] < np.inf:
                return 2, query, i
            if tokens[i] <= last:
                return 3, query, i
            last = tokens[i]
    return 0, 0, 0
