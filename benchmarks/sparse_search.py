"""Search in posting lists of 100 000 documents against bm25s and a plain compiled loop.

The documents have about 110 tokens of 30 522, which are as frequent as those of English
text, and topics; their order is random.  A query is a question: 3 of the 50 most
frequent tokens ("what is the") and 4 others, all of one document, with their IDF.  Its
tokens have 1.6 postings for each document of the index; the paper's models have 1.8.
Peers, on one core:

- ``bm25s`` (its compiled backend) answering the same queries with BM25, on its own
  index of the same tokens with their counts;
- a loop over the tokens' postings that adds to one array, and a pass over that array
  for the best: what is written down first.

Also how many documents a second become an index, from encoded vectors.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from timing import alone, compare, versions

NAME = "sparse-search"
VOCAB, TOKENS, QUERY_TOKENS, K = 30_522, 110, 7, 10
_TOPICS, _OWN = 200, 400  # topics, and tokens that are a topic's own
_DRAWS = 130  # tokens of a text with about 110 different ones
_COMMON = 50  # tokens that questions are put with
PROMISED = 20_000  # documents a second


class Data(NamedTuple):
    """What is searched and what is asked.

    Attributes:
      rows: documents, as :class:`jaxir.sparse.postings.SparseRows`.
      counts: of each entry's token in its document.
      queries: each a :class:`jaxir.sparse.search.SparseQueries` of one.
    """

    rows: Any
    counts: np.ndarray
    queries: list


def make_data(
    num_docs: int,
    num_queries: int,
    *,
    by_topic: bool = False,
    vocabulary: np.ndarray | None = None,
) -> Data:
    """Random documents and queries, see the module; in no order, or that of topics.

    ``vocabulary``: the tokens that occur, rising, the most frequent first.
    """
    from jaxir.sparse.idf import idf_from_frequencies
    from jaxir.sparse.postings import SparseRows
    from jaxir.sparse.search import SparseQueries

    rng = np.random.default_rng(0)
    vocabulary = np.arange(VOCAB) if vocabulary is None else vocabulary
    chance = 1 / (
        np.arange(len(vocabulary)) + 2.7
    )  # Zipf's law with Mandelbrot's constant
    chance /= chance.sum()
    size = (num_docs, _DRAWS)
    tokens = rng.choice(len(vocabulary), size, p=chance)
    own = rng.integers(_OWN, len(vocabulary), (_TOPICS, _OWN))
    topic = rng.integers(_TOPICS, size=(num_docs, 1))
    topic = np.sort(topic, axis=0) if by_topic else topic
    ranks = (_OWN * rng.random(size) ** 3).astype(int)  # some are a topic's favourites
    tokens = np.where(rng.random(size) < 0.3, own[topic, ranks], tokens)
    keys = (tokens + VOCAB * np.arange(num_docs)[:, None]).ravel()
    entries, counts = np.unique(keys, return_counts=True)
    tokens = vocabulary[entries % VOCAB].astype(np.int32)
    offsets = np.searchsorted(entries, VOCAB * np.arange(num_docs + 1))
    idf = idf_from_frequencies(np.bincount(tokens, minlength=VOCAB), num_docs)
    noise = rng.lognormal(0, 0.3, len(tokens))
    weights = np.log1p(counts * idf[tokens] * noise).astype(np.float32)
    queries = []
    common = np.zeros(VOCAB, bool)
    common[np.argsort(idf)[:_COMMON]] = True
    for doc in rng.permutation(num_docs):
        some = tokens[offsets[doc] : offsets[doc + 1]]
        words = some[common[some]], some[~common[some]]
        if min(map(len, words)) < 4 or len(queries) == num_queries:
            continue
        chosen = [rng.choice(words[0], 3, replace=False)]
        chosen.append(rng.choice(words[1], QUERY_TOKENS - 3, replace=False))
        asked = np.sort(np.concatenate(chosen))
        queries.append(SparseQueries(np.array([0, QUERY_TOKENS]), asked, idf[asked]))
    return Data(SparseRows(offsets, tokens, weights), counts, queries)


def plain_loop() -> Callable:
    """``loop(offsets, docs, weights, num_docs, tokens, query_weights, k)``."""
    import numba

    @numba.njit(nogil=True)
    def loop(offsets, docs, weights, num_docs, tokens, query_weights, k):
        sums = np.zeros(num_docs, np.float32)
        for j in range(len(tokens)):
            for i in range(offsets[tokens[j]], offsets[tokens[j] + 1]):
                sums[docs[i]] += query_weights[j] * weights[i]
        scores, rows = np.zeros(k, np.float32), np.full(k, -1, np.int32)
        for row in range(num_docs):
            if sums[row] > scores[k - 1]:
                at = k - 1
                while at > 0 and sums[row] > scores[at - 1]:
                    scores[at], rows[at] = scores[at - 1], rows[at - 1]
                    at -= 1
                scores[at], rows[at] = sums[row], row
        return rows, scores

    return loop


def plain_searches(postings: Any, queries: list, k: int) -> list[Callable]:
    """The plain loop, bound to each query."""
    loop = plain_loop()
    lists = (postings.offsets, postings.docs, postings.weights, postings.num_docs)
    return [partial(loop, *lists, q.tokens, q.weights, k) for q in queries]


def bm25_of(data: Data, backend: str = "numba") -> Any:
    """The documents as bm25s indexes them."""
    import bm25s

    rows = data.rows
    texts = np.split(np.repeat(rows.tokens, data.counts), _text_ends(data))
    retriever = bm25s.BM25(k1=0.9, b=0.4, method="lucene", backend=backend)
    vocabulary = {str(token): token for token in range(VOCAB)}
    retriever.index((texts, vocabulary), show_progress=False, create_empty_token=False)
    return retriever


def _text_ends(data: Data) -> np.ndarray:
    ends = np.concatenate([[0], np.cumsum(data.counts)])
    return ends[data.rows.offsets[1:-1]]


def _cases(data: Data, dtype: str, pairs: int, bm25: Any) -> Iterator[dict]:
    """Of weights stored in one way: the build, and the search against each peer."""
    from jaxir.sparse.postings import build_postings, open_postings
    from jaxir.sparse.search import search

    num_docs = len(data.rows.offsets) - 1
    about = {"name": NAME, "docs": num_docs, "k": K}
    with tempfile.TemporaryDirectory() as folder:
        building = alone(
            lambda: build_postings([data.rows], VOCAB, folder, dtype=dtype), runs=3
        )
        rate = num_docs / building["ours_s"]
        case = f"build, {dtype}: {rate:,.0f} docs/s (bar {PROMISED:,})"
        yield about | {
            "case": case, "peer": None, **building, "docs_per_s": rate,
            "versions": versions("numba"),
        }  # fmt: skip
        postings = open_postings(folder, num_docs)
        ask = partial(search, postings, k=K, method="exhaustive", threads=1)
        ours = [partial(ask, query) for query in data.queries]
        peers: dict[str, list[Callable]] = {"bm25s": []}
        if bm25 is not None:
            retrieve = partial(bm25.retrieve, k=K, show_progress=False, n_threads=1)
            texts = [[query.tokens.tolist()] for query in data.queries]
            peers["bm25s"] = [partial(retrieve, text) for text in texts]
        if dtype == "float32":  # it knows no other
            peers["plain loop"] = plain_searches(postings, data.queries, K)
        for name, asked in peers.items():
            yield about | {
                "case": f"exhaustive, {dtype}", "peer": name,
                **timed(ours, asked, pairs), "versions": versions("bm25s", "numba"),
            }  # fmt: skip


def timed(ours: list[Callable], peer: list[Callable], pairs: int) -> dict:
    """As ``timing.compare`` of all queries one after another; times are of one."""

    def all_of(works: list[Callable]) -> Callable[[], None]:
        def run() -> None:
            for work in works:
                work()

        return run

    if not peer:
        times = alone(all_of(ours), runs=pairs)
    else:
        times = compare(all_of(ours), all_of(peer), pairs=pairs)
    seconds = {name: times[name] for name in ("ours_s", "peer_s") if times[name]}
    return times | {name: value / len(ours) for name, value in seconds.items()}


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields the build and the search against each peer, for each way to store."""
    from jaxir.sparse.postings import DTYPES

    num_docs, pairs = (10_000, 3) if quick else (100_000, 7)
    data = make_data(num_docs, 50 if quick else 200)
    bm25 = bm25_of(data) if importlib.util.find_spec("bm25s") else None
    for dtype in DTYPES:
        yield from _cases(data, dtype, pairs, bm25)
