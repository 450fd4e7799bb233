"""BM25 as Lucene scores it, through the library ``bm25s``.

Equation: ``score(q, d) = sum_t idf(t) * tf / (tf + k1 * (1 - b + b * |d| / avgdl))``
with ``idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5))``, over the terms of the query, as
Lucene computes it since version 8 (Kamphuis et al. 2020, "Which BM25 Do You Mean?",
variant "Lucene (accurate)").  A repeated query term counts each time.

Text becomes terms as in Anserini's default English analyzer: words, lower case, without
the possessive ``'s``, Lucene's 33 stop words removed, Porter's stemmer.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.errors import InputError
from jaxir.types import Ranking

__all__ = [
    "STOP_WORDS",
    "Bm25",
    "Bm25Config",
    "build_bm25",
    "load_bm25",
    "make_analyzer",
]

_STOP_TEXT = """a an and are as at be but by for if in into is it no not of on or such
that the their then there these they this to was will with"""
STOP_WORDS = frozenset(_STOP_TEXT.split())
"""Lucene's default English stop words."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_STEMMERS = ("porter", "english", "none")  # PyStemmer also knows other languages


@dataclasses.dataclass(frozen=True)
class Bm25Config:
    """Parameters of BM25 and of its analyzer; the defaults are Anserini's.

    Attributes:
      k1: how slowly repeated terms saturate.
      b: how much long documents are held back, from 0 to 1.
      stemmer: a name of PyStemmer (``porter``, ``english``, ``german``, …) or ``none``.
      stop_words: ``lucene`` or ``none``.

    Raises:
      InputError: for values out of range or unknown names.
    """

    k1: float = 0.9
    b: float = 0.4
    stemmer: str = "porter"
    stop_words: str = "lucene"

    def __post_init__(self) -> None:
        """Checks the values."""
        if not 0 <= self.k1 < float("inf"):
            raise InputError("bm25 k1", str(self.k1), "a number from 0")
        if not 0 <= self.b <= 1:
            raise InputError("bm25 b", str(self.b), "a number from 0 to 1")
        if self.stemmer != "none":
            import Stemmer

            if self.stemmer not in Stemmer.algorithms():
                known = ", ".join(_STEMMERS)
                expected = f"{known} or another language of PyStemmer"
                raise InputError("bm25 stemmer", repr(self.stemmer), expected)
        if self.stop_words not in ("lucene", "none"):
            raise InputError("bm25 stop words", self.stop_words, "lucene or none")


def make_analyzer(config: Bm25Config) -> Callable[[str], list[str]]:
    """The function from a text to its terms.

    Example::

      >>> make_analyzer(Bm25Config())("The runner's shoes are running!")
      ['runner', 'shoe', 'run']
    """
    import Stemmer

    stem: Callable[[list[str]], list[str]] = list
    if config.stemmer != "none":
        stem = Stemmer.Stemmer(config.stemmer).stemWords
    stop_words = STOP_WORDS if config.stop_words == "lucene" else frozenset()

    def analyze(text: str) -> list[str]:
        words = _WORD.findall(text.lower().replace("’", "'"))
        words = [word.removesuffix("'s") for word in words]
        words = [word for word in words if word and word not in stop_words]
        # Porter leaves words of two letters alone; PyStemmer would make "s" empty.
        stems = zip(words, stem(words), strict=True)
        return [word if len(word) < 3 else stemmed for word, stemmed in stems]

    return analyze


class Bm25:
    """A BM25 index; made by :func:`build_bm25` and :func:`load_bm25`.

    Args:
      retriever: the ``bm25s.BM25``.
      config: its parameters.
    """

    def __init__(self, retriever: Any, config: Bm25Config) -> None:
        self.config = config
        self._retriever = retriever
        self._analyze = make_analyzer(config)
        self._vocabulary = retriever.vocab_dict
        self.num_docs = int(retriever.scores["num_docs"])

    def scores(self, query: str) -> np.ndarray:
        """float32 ``[N]``: the score of every document, 0 where no term occurs."""
        terms = [self._vocabulary.get(term) for term in self._analyze(query)]
        known = [term for term in terms if term is not None]
        if not known:
            return np.zeros(self.num_docs, np.float32)
        return self._retriever.get_scores_from_ids(known)

    def search(self, queries: Sequence[str], k: int) -> Ranking:
        """The ``k`` best documents that share a term with each query.

        Equal scores are ordered by the lower document row.

        Returns:
          numpy arrays ``[len(queries), k]``, padded with id -1 and score -inf.
        """
        doc_ids = np.full((len(queries), k), -1, np.int32)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for i, query in enumerate(queries):
            rows, best = _top_k_positive(self.scores(query), k)
            doc_ids[i, : len(rows)], scores[i, : len(rows)] = rows, best
        return Ranking(doc_ids, scores)


def _top_k_positive(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    # Most scores are 0, and a partition of many equal values is slow: leave them out.
    rows = np.flatnonzero(scores > 0)
    found = scores[rows]
    if len(rows) > k:
        # All that reach the k-th score stay, so that ties are settled by the row.
        kth = np.partition(found, len(found) - k)[len(found) - k]
        rows, found = rows[found >= kth], found[found >= kth]
    order = np.lexsort((rows, -found))[:k]
    return rows[order], found[order]


def build_bm25(
    texts: Iterable[str], directory: str | os.PathLike, config: Bm25Config | None = None
) -> int:
    """Writes a BM25 index of texts into an existing directory.

    Args:
      texts: documents, by row.
      directory: for arrays, vocabulary and parameters.
      config: parameters; None for the defaults.

    Returns:
      The number of documents.

    Raises:
      InputError: no document has a term.
    """
    import bm25s

    config = config or Bm25Config()
    analyze = make_analyzer(config)
    vocabulary: dict[str, int] = {}
    ids: list[list[int]] = []
    for text in texts:
        terms = analyze(text)
        ids.append([vocabulary.setdefault(term, len(vocabulary)) for term in terms])
    if not vocabulary:
        expected = "words that are no stop words"
        raise InputError("collection", "no document has a term", expected)
    retriever = bm25s.BM25(k1=config.k1, b=config.b, method="lucene")
    retriever.index((ids, vocabulary), show_progress=False, create_empty_token=False)
    retriever.save(os.fspath(directory), show_progress=False)
    settings = json.dumps(dataclasses.asdict(config), indent=1)
    (Path(directory) / "bm25.json").write_text(settings)
    return len(ids)


def load_bm25(directory: str | os.PathLike) -> Bm25:
    """Opens a BM25 index, memory-mapped.

    Raises:
      InputError: there is none in the directory.
    """
    import bm25s

    path = Path(directory) / "bm25.json"
    if not path.is_file():
        raise InputError(directory, "no bm25.json here", "a BM25 index")
    config = Bm25Config(**json.loads(path.read_text()))
    retriever = bm25s.BM25.load(os.fspath(directory), mmap=True, show_progress=False)
    return Bm25(retriever, config)
