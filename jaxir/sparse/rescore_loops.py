"""The loop of the second phase: documents that were found get their other tokens."""

import numpy as np

from jaxir.sparse.compiled import compiled, lower_bound, real
from jaxir.sparse.heap_loops import finish, push

__all__ = ["rescore"]


@compiled
def rescore(
    offsets, docs, weights, starts, tokens, factors, first, stop, window_ids,
    window_scores, doc_ids, scores,
):  # fmt: skip
    """Adds other tokens to the scores of each query's window and keeps the best."""
    width = window_ids.shape[1]
    added = np.empty(width, np.float32)
    for query in range(first, stop):
        found = 0
        while found < width and window_ids[query, found] >= 0:
            found += 1
        order = np.argsort(window_ids[query, :found])
        added[:found] = 0
        for j in range(starts[query], starts[query + 1]):
            at, end = offsets[tokens[j]], offsets[tokens[j] + 1]
            for i in order:
                row = window_ids[query, i]
                at = lower_bound(docs, at, end, row)
                if at == end:
                    break
                if docs[at] == row:
                    added[i] += factors[j] * real(weights[at])
        size = 0
        best, rows = scores[query], doc_ids[query]
        for i in range(found):
            score, row = window_scores[query, i] + added[i], window_ids[query, i]
            if (
                size < best.shape[0]
                or score > best[0]
                or (score == best[0] and row < rows[0])
            ):
                size = push(best, rows, size, score, row)
        finish(best, rows, size)
