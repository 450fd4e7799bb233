"""Block-max pruning against the plain loop over postings; the same results, checked.

The index and the queries of ``sparse_search.py``, with documents in random order and in
that of their topics, and, where the collections of ``../shared/data`` are there, their
texts in pieces of 200 tokens with 1,000 of their queries.  On one core; the number is
the documents scored of each query, on average.
"""

import itertools
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from sparse_search import TOKENS, VOCAB, Data, make_data, plain_searches, timed
from timing import versions

NAME = "sparse-blockmax"
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
COLLECTIONS = ("medquad", "nfcorpus", "scifact", "cosqa", "vaswani", "cacm")
_PIECE, _QUERIES = 200, 1000


def real_data(count: int | None) -> Data:
    """Pieces of real documents, weighted as tf-idf does, and real queries with IDF."""
    from jaxir.data.formats import read_corpus, read_queries
    from jaxir.sparse.idf import idf_from_frequencies, query_terms
    from jaxir.sparse.postings import SparseRows
    from jaxir.sparse.search import SparseQueries
    from jaxir.text import load_tokenizer

    tokenizer = load_tokenizer(SHARED / "tokenizers" / "bert-base-uncased")
    pieces, asked = [], []
    for name in COLLECTIONS:
        docs = itertools.islice(read_corpus(SHARED / name / "corpus.jsonl"), count)
        for ids in tokenizer.pieces([f"{doc.title} {doc.text}" for doc in docs]):
            pieces += [ids[i : i + _PIECE] for i in range(0, len(ids), _PIECE)]
        texts = list(read_queries(SHARED / name / "queries.jsonl").values())
        asked += tokenizer.pieces(texts[: _QUERIES // len(COLLECTIONS)])
    rows = [np.unique(piece, return_counts=True) for piece in pieces]
    offsets = np.cumsum([0, *(len(tokens) for tokens, _ in rows)])
    tokens = np.concatenate([row[0] for row in rows]).astype(np.int32)
    counts = np.concatenate([row[1] for row in rows])
    idf = idf_from_frequencies(np.bincount(tokens, minlength=VOCAB), len(rows))
    weights = (np.log1p(counts) * idf[tokens]).astype(np.float32)
    terms = [query_terms(ids, idf) for ids in asked]
    queries = [SparseQueries(np.array([0, len(t)]), t, w) for t, w in terms if len(t)]
    return Data(SparseRows(offsets, tokens, weights), counts, queries)


def _case(case: str, data: Data, k: int, pairs: int) -> dict:
    from jaxir.sparse.postings import build_postings, open_postings
    from jaxir.sparse.search import search_counted

    num_docs = len(data.rows.offsets) - 1
    with tempfile.TemporaryDirectory() as folder:
        build_postings([data.rows], VOCAB, folder)
        postings = open_postings(folder, num_docs)
        ask = partial(search_counted, postings, k=k, threads=1)
        ours = [partial(ask, query) for query in data.queries]
        peer = plain_searches(postings, data.queries, k)
        scored = []
        for query, mine in zip(data.queries, ours, strict=True):
            exact = ask(query, method="exhaustive").ranking
            found = mine()
            np.testing.assert_array_equal(found.ranking.doc_ids, exact.doc_ids)
            np.testing.assert_array_equal(found.ranking.scores, exact.scores)
            scored.append(found.scored.item())
        times = timed(ours, peer, pairs)
    return {
        "name": NAME, "case": f"{case}, k={k}: {np.mean(scored):,.0f} of {num_docs:,}",
        "peer": "plain loop", **times, "docs": num_docs, "k": k,
        "docs_scored": float(np.mean(scored)), "versions": versions("numba"),
    }  # fmt: skip


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields a case for each order of documents and number of results."""
    num_docs, pairs, ks = (10_000, 3, (10,)) if quick else (100_000, 7, (10, 100))
    num_queries = 50 if quick else 200
    kinds = {
        f"{TOKENS} tokens, random order": make_data(num_docs, num_queries),
        f"{TOKENS} tokens, by topic": make_data(num_docs, num_queries, by_topic=True),
    }
    if SHARED.is_dir():
        kinds["real texts"] = real_data(200 if quick else None)
    for case, data in kinds.items():
        for k in ks:
            yield _case(case, data, k, pairs)
