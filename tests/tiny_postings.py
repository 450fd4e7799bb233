"""Documents as posting lists, random or real, and what a search of them must find."""

import json
from typing import NamedTuple

import numpy as np

from jaxir.sparse.idf import idf_from_frequencies, query_terms
from jaxir.sparse.postings import SparseRows, build_postings, open_postings
from jaxir.sparse.search import SparseQueries
from jaxir.text import load_tokenizer


def rows_of(matrix):
    """A dense ``[n, V]`` as :class:`SparseRows`."""
    rows, tokens = np.nonzero(matrix)
    offsets = np.searchsorted(rows, np.arange(len(matrix) + 1))
    return SparseRows(
        offsets, tokens.astype(np.int32), matrix[rows, tokens].astype(np.float32)
    )


def draw(rng, num_rows, vocab_size, mean, *, whole=False):
    """Rows whose tokens are as words are: a few in most, most in a few."""
    chance = np.minimum(1, mean / np.log(vocab_size) / np.arange(1, vocab_size + 1))
    weights = rng.lognormal(0, 0.7, (num_rows, vocab_size)).astype(np.float32)
    if whole:  # many equal sums, each without rounding
        weights = np.ceil(np.minimum(weights, 3))
    return np.where(rng.random(weights.shape) < chance, weights, np.float32(0))


def built(folder, matrix, *, shards=2, **options):
    cuts = np.array_split(np.asarray(matrix, np.float32), shards)
    build_postings([rows_of(cut) for cut in cuts], matrix.shape[1], folder, **options)
    return open_postings(folder, len(matrix))


def sums(postings, queries):
    """float32 ``[B, N]``, summed in the order of the lists' lengths."""
    scales = np.ones(postings.vocab_size, np.float32)
    scales = scales if postings.scales is None else postings.scales
    total = np.zeros((len(queries.offsets) - 1, postings.num_docs), np.float32)
    for query, row in enumerate(total):
        entries = np.arange(queries.offsets[query], queries.offsets[query + 1])
        lengths = np.diff(postings.offsets)[queries.tokens[entries]]
        for j in entries[np.argsort(lengths, kind="stable")]:
            token = queries.tokens[j]
            own = slice(*postings.offsets[token : token + 2])
            weights = postings.weights[own].astype(np.float32)
            row[postings.docs[own]] += queries.weights[j] * scales[token] * weights
    return total


def best(total, k):
    """The ``k`` best above 0 of each row, equal ones by the lower position."""
    doc_ids = np.full((len(total), k), -1, np.int32)
    scores = np.full((len(total), k), -np.inf, np.float32)
    for i, row in enumerate(total):
        order = np.lexsort((np.arange(len(row)), -row))
        order = order[row[order] > 0][:k]
        doc_ids[i, : len(order)], scores[i, : len(order)] = order, row[order]
    return doc_ids, scores


class RealTokens(NamedTuple):
    docs: SparseRows
    queries: SparseQueries


def real_tokens(shared_data, name):
    """A collection's documents, weighted as tf-idf does, and its queries with IDF."""
    tokenizer = load_tokenizer(shared_data / "tokenizers" / "bert-base-uncased")
    texts = {}
    for part in ("corpus", "queries"):
        lines = (shared_data / name / f"{part}.jsonl").read_text().splitlines()
        rows = map(json.loads, lines)
        texts[part] = [f"{row.get('title', '')} {row['text']}" for row in rows]
    ids = {part: tokenizer.encode(some, 10_000) for part, some in texts.items()}
    counts = [np.unique(text, return_counts=True) for text in ids["corpus"]]
    listed = np.concatenate([tokens for tokens, _ in counts])
    idf = idf_from_frequencies(np.bincount(listed, minlength=30_522), len(counts))
    docs = [
        (tokens, np.log1p(often).astype(np.float32) * idf[tokens])
        for tokens, often in counts
    ]
    queries = [query_terms(text, idf, (101, 102)) for text in ids["queries"]]
    return RealTokens(SparseRows(*_joined(docs)), SparseQueries(*_joined(queries)))


def _joined(rows):
    offsets = np.cumsum([0, *(len(tokens) for tokens, _ in rows)])
    tokens, weights = (np.concatenate(column) for column in zip(*rows, strict=True))
    return offsets, tokens.astype(np.int32), weights.astype(np.float32)
