"""BM25 over a model's tokens, as an index of kind ``sparse``.

Equation: ``score(q, d) = sum_t idf(t) * tf / (tf + k1 * (1 - b + b * |d| / avgdl))``
with ``idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5))``, over the different tokens of the
query: the first factor is what the query's table holds, the second a document's weight.
It is what a sparse model is compared with, in the same index and by the same search.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.bm25 import Bm25Config
from jaxir.errors import InputError
from jaxir.index_job import Job, writing
from jaxir.progress import progress_bar
from jaxir.sparse.idf import idf_from_frequencies
from jaxir.sparse.postings import SparseRows, build_postings
from jaxir.sparse_query import QUERY, QuerySettings, write_query_files
from jaxir.text import Tokenizer, load_tokenizer

__all__ = ["build_token_bm25"]

_SHARD_ROWS = 16_384
_QUERY_LENGTH = 1 << 30  # BM25 cuts no query, were it a whole document


def build_token_bm25(job: Job) -> None:
    """Writes a sparse index of BM25's weights.

    Args:
      job: without a model; ``options.sparse.tokenizer`` names the tokenizer.

    Raises:
      InputError: no such tokenizer, no documents, none with a token, or an option that
        would be ignored.
    """
    from jaxir.checkpoints.weights import resolve

    options, docs = job.options, job.collection.docs
    if not len(docs):
        raise InputError(job.collection.path, "no documents", "at least one")
    for name in ("stemmer", "stop_words"):
        if getattr(options.bm25, name) != getattr(Bm25Config(), name):
            raise InputError(
                name, "given with --tokenizer, whose tokens are the terms",
                "to be left out",
            )  # fmt: skip
    tokenizer = load_tokenizer(resolve(str(options.sparse.tokenizer)))
    # Hidden: beside an index ".partial" is what an encoding goes on from.
    place = job.directory.with_name(f".{job.directory.name}.counts")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        counted = _count(job, tokenizer, place)
        if not counted.frequencies.any():
            raise InputError(job.collection.path, "no document has a token", "words")
        idf = idf_from_frequencies(counted.frequencies, counted.num_texts)
        postings = int(counted.frequencies.sum())
        details = {
            "vocab_size": tokenizer.vocab_size,
            "query": "idf",
            "tokenizer": tokenizer.fingerprint,
            "dtype": options.dtype,
            "postings": postings,
            "tokens_per_doc": round(postings / len(docs), 3),
            "empty_docs": len(docs) - counted.num_texts,
            "expansion_rate": 0.0,
            "bm25": {"k1": options.bm25.k1, "b": options.bm25.b},
            "model_kind": "bm25",
            "model_path": "",
            "self_contained": True,
        }
        special = tuple(int(token) for token in tokenizer.special_ids)
        settings = QuerySettings("idf", _QUERY_LENGTH, "{text}", special)
        with writing(job, "sparse", details) as folder:
            build_postings(counted, tokenizer.vocab_size, folder, dtype=options.dtype)
            write_query_files(folder / QUERY, tokenizer, idf, settings)
    finally:
        shutil.rmtree(place)


class _Counted(Sequence[SparseRows]):
    """Shards of BM25's weights, made of token counts when they are asked for."""

    def __init__(self, paths: Sequence[Path], config: Bm25Config) -> None:
        self._paths, self._config = paths, config
        self.frequencies = np.zeros(0, np.int64)
        self.num_texts, self.num_tokens = 0, 0

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        with np.load(self._paths[place], allow_pickle=False) as file:
            offsets, tokens, counts = (file[n] for n in ("offsets", "tokens", "counts"))
        sums = np.concatenate([[0], np.cumsum(counts, dtype=np.float64)])[offsets]
        mean = max(self.num_tokens / max(self.num_texts, 1), 1.0)
        k1, b = self._config.k1, self._config.b
        held = np.repeat(k1 * (1 - b + b * np.diff(sums) / mean), np.diff(offsets))
        return SparseRows(offsets, tokens, (counts / (counts + held)).astype("f4"))


def _count(job: Job, tokenizer: Tokenizer, place: Path) -> _Counted:
    """How often each document has each token, in files."""
    docs = job.collection.docs
    starts = range(0, len(docs), _SHARD_ROWS)
    paths = [place / f"counts-{i:05d}.npz" for i in range(len(starts))]
    found = _Counted(paths, job.options.bm25)
    found.frequencies = np.zeros(tokenizer.vocab_size, np.int64)
    with progress_bar(total=len(docs), label="count", unit="doc") as bar:
        for path, start in zip(paths, starts, strict=True):
            texts = docs.texts(range(start, min(start + _SHARD_ROWS, len(docs))))
            rows = []
            for ids in tokenizer.pieces(texts):
                words = ids[~np.isin(ids, tokenizer.special_ids)]
                rows.append(np.unique(words, return_counts=True))
                found.frequencies[rows[-1][0]] += 1
                found.num_texts += len(words) > 0
                found.num_tokens += len(words)
            offsets = np.cumsum([0, *(len(tokens) for tokens, _ in rows)])
            np.savez(
                path,
                offsets=offsets.astype(np.int64),
                tokens=np.concatenate([tokens for tokens, _ in rows]).astype(np.int32),
                counts=np.concatenate([counts for _, counts in rows]),
            )
            bar.update(len(texts))
    return found
