"""The weights of query tokens: how rare each is, and what a query becomes by them.

All that runs at query time is a tokenizer and this table (Geng et al., "Towards
Competitive Search Relevance For Inference-Free Learned Sparse Retrievers", arXiv
2411.04403, section 4.1).
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jaxir.data.collection import Collection, open_collection
from jaxir.errors import InputError
from jaxir.files import atomic_file
from jaxir.text import Tokenizer

__all__ = [
    "IDF_FILE",
    "compute_idf",
    "document_frequencies",
    "idf_from_frequencies",
    "idf_to_file",
    "query_terms",
    "read_idf",
    "vocabulary_of",
]

IDF_FILE = "idf.json"
"""The file beside a model that the released ones keep their table in."""

_LARGEST = float(np.finfo(np.float32).max)
_CHUNK = 1000  # documents whose tokens are in memory at a time


def document_frequencies(
    texts: Iterable[Sequence[int] | Int[np.ndarray, " T"]], vocab_size: int
) -> tuple[Int[np.ndarray, " V"], int]:
    """In how many texts each token occurs, and how many texts have a token at all.

    Args:
      texts: token ids of each document, special tokens left out, not cut.
      vocab_size: ``V``.

    Example::

      >>> counts, texts = document_frequencies([[1, 1, 2], [2], []], 4)
      >>> counts.tolist(), texts
      ([0, 1, 2, 0], 2)
    """
    counts, num_texts = np.zeros(vocab_size, np.int64), 0
    for ids in texts:
        different = np.unique(np.asarray(ids, np.int64))
        counts[different] += 1
        num_texts += len(different) > 0
    return counts, num_texts


def idf_from_frequencies(
    frequencies: Int[np.ndarray, " V"], num_texts: int
) -> Float[np.ndarray, " V"]:
    """Inverse document frequencies as Lucene has them; 1 for a token that is in none.

    Equation: ``idf(t) = ln(1 + (N - df(t) + 0.5) / (df(t) + 0.5))``.

    Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework" (2009),
    section 3.4, in Lucene's form; arXiv 2411.04403, section 5.1.2, for the 1.

    Args:
      frequencies: of :func:`document_frequencies`.
      num_texts: ``N``, documents with a token.

    Example::

      >>> idf_from_frequencies(np.array([0, 1, 2]), 2).astype(float).round(4).tolist()
      [1.0, 0.6931, 0.1823]
    """
    df = np.asarray(frequencies, np.float64)
    idf = np.log1p((num_texts - df + 0.5) / (df + 0.5))
    return np.where(df > 0, idf, 1.0).astype(np.float32)


def compute_idf(
    collection: str | Collection, tokenizer: Tokenizer, vocab_size: int | None = None
) -> Float[np.ndarray, " V"]:
    """Inverse document frequencies of a collection's documents.

    Whole documents, title and text, without special tokens; those of a chunk are in
    memory at a time.

    Args:
      collection: a folder, ``irds:ID``, or an opened collection.
      tokenizer: the model's.
      vocab_size: ``V``, rows of the model's word table; the tokenizer's if None.

    Raises:
      InputError: no such collection, or no document with a token.
    """
    if isinstance(collection, str):
        collection = open_collection(collection)
    docs = collection.docs

    def texts() -> Iterator[Int[np.ndarray, " T"]]:
        for start in range(0, len(docs), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(docs)))
            yield from tokenizer.pieces(docs.texts(rows))

    size = tokenizer.vocab_size if vocab_size is None else vocab_size
    frequencies, num_texts = document_frequencies(texts(), size)
    if not num_texts:
        raise InputError(
            collection.path, "no document with a token", "documents to count tokens in"
        )
    return idf_from_frequencies(frequencies, num_texts)


def vocabulary_of(tokenizer: Tokenizer) -> dict[str, int]:
    """The id of each token by its name.

    Args:
      tokenizer: any.
    """
    names = tokenizer.tokens(range(tokenizer.vocab_size))
    return {name: number for number, name in enumerate(names) if name}


def read_idf(
    path: str | os.PathLike,
    vocabulary: Mapping[str, int],
    vocab_size: int | None = None,
) -> Float[np.ndarray, " V"]:
    """The table of an ``idf.json``; 1 for tokens that it does not name.

    Args:
      path: the file, ``{token: weight}``.
      vocabulary: ids of the tokenizer's tokens.
      vocab_size: ``V``, rows of the model's word table, which may have more of them;
        as many as there are ids if None.

    Raises:
      InputError: no such file; not an object of numbers; a token that the tokenizer
        does not have; a weight that is negative or not finite.
    """
    place = Path(path)
    try:
        table = json.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            place, "no table of token weights", "a file like idf.json"
        ) from error
    except ValueError as error:
        raise InputError(place, f"not JSON ({error})", '{"token": weight, …}') from None
    if not isinstance(table, dict) or not table:
        raise InputError(place, type(table).__name__, '{"token": weight, …}')
    unknown = [token for token in table if token not in vocabulary]
    if unknown:
        raise InputError(
            place, f"{len(unknown):,} tokens, as {unknown[0]!r}, that "
            "the tokenizer does not have", "a table of the model's own tokenizer",
            "compute it of a collection, or take the model that it belongs to",
        )  # fmt: skip
    size = max(vocabulary.values()) + 1 if vocab_size is None else vocab_size
    weights = np.ones(size, np.float32)
    for token, weight in table.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 <= weight <= _LARGEST:
            raise InputError(place, f"{token!r}: {weight!r}", "a finite number from 0")
        weights[vocabulary[token]] = weight
    return weights


def idf_to_file(
    weights: Float[np.ndarray, " V"],
    tokens: Sequence[str],
    path: str | os.PathLike,
) -> None:
    """Writes a table as ``idf.json``, every token that has a name by it.

    Args:
      weights: ``[V]``.
      tokens: the tokenizer's tokens by id.
      path: where it goes.
    """
    pairs = zip(tokens, map(float, weights), strict=False)
    named = {token: weight for token, weight in pairs if token}
    with atomic_file(path) as out:
        json.dump(named, out, ensure_ascii=False)


def query_terms(
    ids: Sequence[int] | Int[np.ndarray, " T"],
    weights: Float[np.ndarray, " V"],
    special_ids: Sequence[int] = (),
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """What a query is: its different tokens, and the weight of each.

    Tokens that occur twice count once, special ones and those of weight 0 not at all.

    Args:
      ids: of the query's tokens, special ones among them or not.
      weights: ``[V]``.
      special_ids: tokens that are no words.

    Returns:
      Token ids, rising, and their weights.

    Example::

      >>> ids, weights = query_terms([5, 2, 3, 2], np.arange(6) / 2, [5])
      >>> ids.tolist(), weights.tolist()
      ([2, 3], [1.0, 1.5])
    """
    different = np.setdiff1d(
        np.asarray(ids, np.int32), np.asarray(special_ids, np.int32)
    )
    found = np.asarray(weights, np.float32)[different]
    return different[found > 0], found[found > 0]
