"""Why a document was found: its tokens, and that they add up to its score."""

import numpy as np
import pytest
from tiny_postings import best, built, draw, rows_of, sums

from jaxir.errors import InputError
from jaxir.sparse.explain import Match, explain
from jaxir.sparse.postings import DTYPES
from jaxir.sparse.search import SparseQueries


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_add_up_to_the_score(tmp_path, dtype):
    rng = np.random.default_rng(0)
    docs = draw(rng, 50, 30, 8)
    postings = built(tmp_path, docs, dtype=dtype)
    dense = draw(rng, 6, 30, 8)
    total = sums(postings, SparseQueries(*rows_of(dense)))
    lengths = np.diff(postings.offsets)
    for query, row in enumerate(dense):
        tokens = np.flatnonzero(row).astype(np.int32)
        for doc in best(total, 3)[0][query]:
            found = explain(postings, tokens, row[tokens], int(doc))
            assert {match.token_id for match in found} == set(
                np.flatnonzero((row > 0) & (docs[doc] > 0))
            )
            scores = [match.score for match in found]
            assert scores == sorted(scores, reverse=True)
            score = np.float32(0)
            found.sort(key=lambda match: (lengths[match.token_id], match.token_id))
            for match in found:
                score += np.float32(match.score)
                assert match.query_weight == row[match.token_id]
                near = pytest.approx(docs[doc, match.token_id], rel=1e-3, abs=0.02)
                assert match.doc_weight == near
            assert score == total[query, doc]


def test_by_hand(tmp_path):
    postings = built(tmp_path, np.array([[0, 2, 3, 1], [0, 0, 4, 1]]))
    tokens, weights = np.array([0, 1, 2, 3]), np.array([9, 1, 2, 2], np.float32)
    assert explain(postings, tokens, weights, 0) == [
        Match(2, 2.0, 3.0, 6.0), Match(1, 1.0, 2.0, 2.0), Match(3, 2.0, 1.0, 2.0),
    ]  # fmt: skip
    assert explain(postings, tokens[:1], weights[:1], 1) == []


def test_refuses(tmp_path):
    postings = built(tmp_path, np.eye(3))
    one = np.ones(1, np.float32)
    for row in (-1, 3):
        with pytest.raises(InputError, match=f"document {row}: no such row; expected"):
            explain(postings, np.array([1]), one, row)
    with pytest.raises(InputError, match="token 3: no such token; expected 0 to 2"):
        explain(postings, np.array([3]), one, 0)
