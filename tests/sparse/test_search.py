"""Search in postings against sums by hand, whatever the method, dtype and threads."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_postings import best, built, draw, real_tokens, rows_of, sums

from jaxir.errors import InputError
from jaxir.sparse.postings import DTYPES, SparseRows, build_postings, open_postings
from jaxir.sparse.search import (
    METHODS,
    SparseQueries,
    TwoPhase,
    search,
    search_counted,
    split_queries,
)

EXACT = METHODS[:2]


def check(found, expected):
    np.testing.assert_array_equal(found.doc_ids, expected[0])
    np.testing.assert_array_equal(found.scores, expected[1])


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_docs", [1, 15, 16, 17, 300])
def test_exact_methods_equal_sums_by_hand(tmp_path, method, dtype, num_docs):
    rng = np.random.default_rng(num_docs)
    docs = draw(rng, num_docs, 60, 12)
    postings = built(tmp_path, docs, dtype=dtype, block_size=16)
    queries = SparseQueries(*rows_of(draw(rng, 20, 60, 8)))
    total = sums(postings, queries)
    for k in (1, 10, num_docs + 3):
        found = search_counted(postings, queries, k, method=method)
        check(found.ranking, best(total, k))
        assert (found.scored <= (total > 0).sum(1)).all()
        if method == "exhaustive" or k > num_docs:
            np.testing.assert_array_equal(found.scored, (total > 0).sum(1))


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    seed=st.integers(0, 2**31), num_docs=st.integers(1, 70), k=st.integers(1, 80),
    block_size=st.sampled_from([1, 2, 8, 64]), mean=st.integers(1, 20),
    dtype=st.sampled_from(DTYPES), threads=st.sampled_from([1, 3]),
)  # fmt: skip
def test_methods_agree(
    tmp_path, seed, num_docs, k, block_size, mean, dtype, threads
):  # fmt: skip
    rng = np.random.default_rng(seed)
    postings = built(
        tmp_path, draw(rng, num_docs, 20, mean, whole=True), shards=3, dtype=dtype,
        block_size=block_size,
    )  # fmt: skip
    queries = SparseQueries(*rows_of(draw(rng, 9, 20, 5, whole=True)))
    expected = best(sums(postings, queries), k)
    for method in EXACT:
        check(search(postings, queries, k, method=method, threads=threads), expected)


def test_long_lists_are_searched_by_blocks(tmp_path):
    """Tokens of most documents alone, and beside a rare one."""
    rng = np.random.default_rng(5)
    docs = draw(rng, 900, 30, 9)
    docs[:, 25] = np.arange(900) % 150 == 7
    postings = built(tmp_path, docs, block_size=16)
    longs = np.diff(postings.block_offsets) > 0
    assert longs.any()
    queries = np.zeros((40, 30), np.float32)
    queries[:, longs] = rng.random((40, longs.sum()))
    queries[20:, 25] = 50.0
    queries = SparseQueries(*rows_of(queries))
    total = sums(postings, queries)
    found = search_counted(postings, queries, 5)
    check(found.ranking, best(total, 5))
    # Most documents have a score above 0, and were never looked at.
    assert found.scored[20:].mean() < 0.5 * (total[20:] > 0).sum(1).mean()


@pytest.mark.parametrize("block_size", [64, 1 << 16])
def test_documents_of_several_windows(tmp_path, block_size):
    """More than fit the sums of one window, each with few tokens."""
    rng, count = np.random.default_rng(6), 300_000
    tokens = np.where(rng.random((count, 2)) < 0.5, [0, 1], [2, 3]).astype(np.int32)
    offsets = np.arange(count + 1) * 2
    weights = rng.integers(1, 1000, 2 * count).astype(np.float32)
    rows = SparseRows(offsets, tokens.ravel(), weights)
    build_postings([rows], 4, tmp_path, block_size=block_size)
    postings = open_postings(tmp_path, count)
    queries = SparseQueries(*rows_of(np.array([[1, 2, 0, 0], [0, 1, 1, 1]])))
    expected = best(sums(postings, queries), 7)
    for method in EXACT:
        check(search(postings, queries, 7, method=method), expected)


def test_equal_scores_come_by_row_and_empty_queries_find_nothing(tmp_path):
    docs = np.ones((40, 3), np.float32)
    docs[7, 0] = 2.0
    queries = SparseQueries(*rows_of(np.array([[1, 1, 0], [0, 0, 0], [0, 0, 2]])))
    postings = built(tmp_path, docs, block_size=4)
    for method in METHODS:
        found = search(postings, queries, 3, method=method)
        assert found.doc_ids.tolist() == [[7, 0, 1], [-1] * 3, [0, 1, 2]]
        assert found.scores.tolist() == [[3, 2, 2], [-np.inf] * 3, [2, 2, 2]]


def test_an_index_without_documents_or_tokens(tmp_path):
    queries = SparseQueries(*rows_of(np.ones((1, 3))))
    for count in (0, 2):
        postings = built(tmp_path, np.zeros((count, 3), np.float32), shards=1)
        for method in METHODS:
            found = search(postings, queries, 2, method=method)
            assert found.doc_ids.tolist() == [[-1, -1]]


def test_threads_change_nothing(tmp_path):
    rng = np.random.default_rng(8)
    postings = built(tmp_path, draw(rng, 200, 40, 9))
    queries = SparseQueries(*rows_of(draw(rng, 31, 40, 6)))
    for method in METHODS:
        one = search_counted(postings, queries, 4, method=method, threads=1)
        for threads in (2, 5, 64):
            many = search_counted(postings, queries, 4, method=method, threads=threads)
            check(many.ranking, one.ranking)
            np.testing.assert_array_equal(many.scored, one.scored)


# --- two phases -----------------------------------------------------------------------


def kept_tokens(weights, how):
    """As OpenSearch's PruneUtils splits a query, token by token."""
    weights = {token: float(weight) for token, weight in weights}
    ordered = sorted(weights, key=lambda token: -weights[token])
    ratio = how.prune_ratio
    if how.prune_type == "none" or ratio == 0:
        return set(weights)
    if how.prune_type == "max_ratio":
        limit = np.float32(ratio) * np.float32(max(weights.values()))
        return {token for token in weights if weights[token] >= limit}
    if how.prune_type == "abs_value":
        return {token for token in weights if weights[token] >= np.float32(ratio)}
    if how.prune_type == "top_k":
        return set(ordered[: int(ratio)])
    kept, mass = set(), 0.0
    for token in ordered:
        mass += weights[token]
        if mass > ratio * sum(weights.values()):
            break
        kept.add(token)
    return kept


@pytest.mark.parametrize(
    "how",
    [
        TwoPhase(), TwoPhase(prune_ratio=0.0), TwoPhase("none"),
        TwoPhase("max_ratio", 0.8, 1.0), TwoPhase("abs_value", 2.0, 2.0),
        TwoPhase("alpha_mass", 0.6, 3.0), TwoPhase("alpha_mass", 0.1),
        TwoPhase("top_k", 2, 1.5),
    ],
    ids=str,
)  # fmt: skip
def test_two_phases_as_opensearch_has_them(tmp_path, how):
    rng = np.random.default_rng(9)
    # Whole numbers: a sum of two parts is that of all tokens.
    postings = built(tmp_path, draw(rng, 120, 30, 7, whole=True))
    dense = draw(rng, 25, 30, 6, whole=True)
    queries = SparseQueries(*rows_of(dense))
    kept = np.zeros_like(dense)
    for i, row in enumerate(dense):
        some = [(token, row[token]) for token in np.flatnonzero(row)]
        for token in kept_tokens(some, how) if some else ():
            kept[i, token] = row[token]
    high, low = split_queries(queries, how)
    check_rows(high, kept)
    check_rows(low, dense - kept)
    k, whole = 4, sums(postings, queries)
    if how.prune_type == "none" or how.prune_ratio == 0:
        window = np.arange(120)[None].repeat(len(dense), 0)
    else:
        window, _ = best(sums(postings, high), int(k * how.expansion_rate))
    total = np.zeros_like(whole)
    for i, rows in enumerate(window):
        rows = rows[rows >= 0]
        total[i, rows] = whole[i, rows]
    check(
        search(postings, queries, k, method="two_phase", two_phase=how), best(total, k)
    )


def check_rows(queries, dense):
    expected = rows_of(dense)
    for found, part in zip(queries, expected, strict=True):
        np.testing.assert_array_equal(found, part)


def test_alpha_mass_can_keep_no_token(tmp_path):
    postings = built(tmp_path, np.ones((3, 2), np.float32))
    queries = SparseQueries(*rows_of(np.array([[5, 1]])))
    how = TwoPhase("alpha_mass", 0.5)
    found = search(postings, queries, 2, method="two_phase", two_phase=how)
    assert found.doc_ids.tolist() == [[-1, -1]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prune_type": "best"}, "prune_type: 'best'; expected one of none, max_ratio"),
        ({"prune_ratio": 1.0}, "prune_ratio: 1.0; expected from 0 to below 1 for max"),
        ({"prune_ratio": float("nan")}, "prune_ratio: nan"),
        ({"prune_type": "abs_value", "prune_ratio": -1.0}, "a finite number from 0"),
        ({"prune_type": "top_k", "prune_ratio": 2.5}, "2.5; expected a whole number"),
        ({"expansion_rate": 0.5}, "expansion_rate: 0.5; expected from 1"),
        ({"max_window_size": 49}, "max_window_size: 49; expected from 50"),
        (
            {"prune_type": "top_k", "prune_ratio": float("inf")},
            "prune_ratio: inf; expected a whole number",
        ),
    ],
)
def test_two_phases_refuse(wrong, message):
    with pytest.raises(InputError, match=message):
        TwoPhase(**wrong)


def test_a_window_that_is_too_large():
    assert TwoPhase().window(2000) == 10_000
    with pytest.raises(InputError, match="k = 2001: a window of 10,005 documents"):
        TwoPhase().window(2001)


# --- what is refused ------------------------------------------------------------------


def queries_of(tokens, weights, offsets=None):
    offsets = np.array([0, len(tokens)] if offsets is None else offsets)
    return SparseQueries(
        offsets, np.array(tokens, np.int32), np.array(weights, np.float32)
    )


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (queries_of([1, 9], [1, 1], [0, 1, 2]), "query 1: token 9; expected 0 to 2"),
        (queries_of([-1], [1]), "query 0: token -1; expected 0 to 2"),
        (queries_of([0, 1], [1, np.nan]), "query 0: weight nan; expected a finite"),
        (queries_of([0], [-1]), "query 0: weight -1.0; expected a finite number from"),
        (queries_of([0], [np.inf]), "query 0: weight inf"),
        (queries_of([1, 1], [1, 1]), "query 0: token 1 out of order; expected rising"),
        (queries_of([2, 1], [1, 1]), "query 0: token 1 out of order"),
        (queries_of([2, 1], [1, 1], [0, 1]), "offsets that are not those of queries"),
        (queries_of([2], [1], [0, 2, 1]), "offsets that are not those of queries"),
        (queries_of([2], [1], [1, 1]), "offsets that are not those of queries"),
        (queries_of([], [], []), "offsets that are not those of queries"),
        (queries_of([2], [1, 1]), "queries: 2 weights; expected 1"),
    ],
)
def test_refuses_queries(tmp_path, queries, message):
    postings = built(tmp_path, np.eye(3, dtype=np.float32))
    with pytest.raises(InputError, match=message):
        search(postings, queries, 2)


def test_refuses_what_it_does_not_know(tmp_path):
    postings = built(tmp_path, np.eye(3, dtype=np.float32))
    queries = queries_of([1], [1])
    with pytest.raises(InputError, match="method: 'wand'; expected one of exhaustive"):
        search(postings, queries, 2, method="wand")
    with pytest.raises(InputError, match="two_phase: given with block_max"):
        search(postings, queries, 2, two_phase=TwoPhase())
    with pytest.raises(InputError, match="k: 0; expected at least 1"):
        search(postings, queries, 0)


def test_weights_of_0_add_nothing(tmp_path):
    postings = built(tmp_path, np.eye(3, dtype=np.float32))
    found = search(postings, queries_of([0, 1], [0, 1]), 2)
    assert found.doc_ids.tolist() == [[1, -1]]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["vaswani", "cacm", "nfcorpus"])
def test_real_texts(shared_data, tmp_path, name):
    """Tokens of real documents and queries, weighted as tf-idf does."""
    docs, queries = real_tokens(shared_data, name)
    queries = queries._replace(offsets=queries.offsets[:201])  # the first 200
    queries = SparseQueries(*(part[: queries.offsets[-1]] for part in queries))
    num_docs, vocab_size = len(docs.offsets) - 1, 30_522
    matrix = sp.csr_array(
        (docs.weights, docs.tokens, docs.offsets), (num_docs, vocab_size), np.float64
    )
    asked = sp.csr_array(
        (queries.weights, queries.tokens, queries.offsets), dtype=np.float64,
        shape=(len(queries.offsets) - 1, vocab_size),
    )  # fmt: skip
    for dtype, rtol in (("float32", 1e-5), ("float16", 1e-3), ("uint8", 2e-2)):
        build_postings([docs], vocab_size, tmp_path, dtype=dtype)
        postings = open_postings(tmp_path, num_docs)
        total = sums(postings, queries)
        np.testing.assert_allclose(total, (asked @ matrix.T).todense(), rtol, atol=1e-6)
        for k in (10, 1000):
            expected = best(total, k)
            for method in EXACT:
                check(search(postings, queries, k, method=method), expected)
