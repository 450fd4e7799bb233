"""Why a document was found: the tokens that it shares with the query."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxir.errors import InputError
from jaxir.sparse.postings import Postings

__all__ = ["Match", "explain"]


class Match(NamedTuple):
    """A token that query and document share.

    Attributes:
      token_id: the token.
      query_weight: its weight in the query.
      doc_weight: its weight in the document, as it is stored.
      score: what it adds to the document's score, float32.
    """

    token_id: int
    query_weight: float
    doc_weight: float
    score: float


def explain(
    postings: Postings,
    tokens: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    row: int,
) -> list[Match]:
    """The tokens that a query and a document share, what adds most first.

    Their float32 sum, in the order that :mod:`jaxir.sparse.search` has, is the
    document's score in an exact search.

    Args:
      postings: of :func:`jaxir.sparse.postings.open_postings`.
      tokens: of the query.
      weights: of the query's tokens.
      row: of the document.

    Raises:
      InputError: there is no such document or token.

    Example::

      >>> import tempfile
      >>> from jaxir.sparse.postings import SparseRows, build_postings, open_postings
      >>> place, weights = tempfile.mkdtemp(), np.array([0.5, 2], np.float32)
      >>> rows = SparseRows(np.array([0, 2]), np.array([1, 3]), weights)
      >>> build_postings([rows], 4, place)
      >>> explain(open_postings(place, 1), np.array([3]), np.ones(1, np.float32), 0)
      [Match(token_id=3, query_weight=1.0, doc_weight=2.0, score=2.0)]
    """
    if not 0 <= row < postings.num_docs:
        raise InputError(
            f"document {row}", "no such row", f"0 to {postings.num_docs - 1}"
        )
    found = []
    for token, weight in zip(tokens, weights, strict=True):
        if not 0 <= token < postings.vocab_size:
            expected = f"0 to {postings.vocab_size - 1:,}, those of the index"
            raise InputError(f"token {token}", "no such token", expected)
        start, stop = postings.offsets[token : token + 2]
        at = start + np.searchsorted(postings.docs[start:stop], row)
        if at == stop or postings.docs[at] != row:
            continue
        scale = np.float32(1 if postings.scales is None else postings.scales[token])
        stored, factor = np.float32(postings.weights[at]), np.float32(weight) * scale
        found.append(
            Match(
                int(token), float(weight), float(stored * scale), float(factor * stored)
            )
        )
    return sorted(found, key=lambda match: (-match.score, match.token_id))
