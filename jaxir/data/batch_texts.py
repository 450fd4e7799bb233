"""The texts of batches as stored tokens; for bi-encoders, query and documents apart.

What a model reads is made by an object with ``tokens(query_rows, places, where, own) ->
(query, doc)``: :class:`SeparateTexts` here, :class:`~jaxir.data.pair_texts.JointTexts`
for cross-encoders.  It sees the rows of the whole global batch, so that all processes
choose the same shape, and makes tokens of its ``own`` rows only.
"""

import hashlib
from collections.abc import Callable, Iterable

import numpy as np

from jaxir.data.table import ListTable, Positives
from jaxir.data.tokens import TokenStore, build_token_store
from jaxir.text import Tokenizer, bucket_lengths, bucket_of, pad_batch
from jaxir.types import TokenBatch

__all__ = [
    "SeparateTexts",
    "StoredTexts",
    "few_lengths",
    "fold",
    "known_positives",
    "store_texts",
]

_NOTHING = np.zeros(0, np.int32)


class StoredTexts:
    """Tokens of some rows of the collection, or of the split's queries.

    Args:
      rows: the rows, rising.
      store: their tokens, in the same order.
    """

    def __init__(self, rows: np.ndarray, store: TokenStore) -> None:
        self.rows, self.store = rows, store
        self.lengths = np.asarray(store.lengths, np.int32)
        # filled as batches ask: 9 bytes a text
        self._content = np.zeros(len(rows), np.int64)
        self._known = np.zeros(len(rows), bool)

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Where rows stand in the store; rows of -1 give 0."""
        return np.searchsorted(self.rows, np.maximum(rows, self.rows[0]))

    def content(self, places: np.ndarray) -> np.ndarray:
        """int64, equal exactly where the tokens are (but for one chance in 2^64)."""
        for place in places[~self._known[places]].tolist():
            digest = hashlib.blake2b(self.store[place].tobytes(), digest_size=8)
            self._content[place] = int.from_bytes(
                digest.digest(), "little", signed=True
            )
            self._known[place] = True
        return self._content[places]


def few_lengths(max_length: int, count: int) -> tuple[int, ...]:
    """At most ``count`` of :func:`~jaxir.text.bucket_lengths`, spread evenly.

    Example::

      >>> few_lengths(256, 4)
      (64, 128, 192, 256)
      >>> few_lengths(32, 4)
      (16, 32)
    """
    buckets = bucket_lengths(max_length)
    wanted = {-(-max_length * i // count) for i in range(1, count + 1)}
    return tuple(sorted({bucket_of(length, buckets) for length in wanted}))


def store_texts(
    rows: np.ndarray,
    text: Callable[[int], str],
    tokenizer: Tokenizer,
    *,
    template: str,
    length: int,
    content: str,
    label: str,
) -> StoredTexts:
    """Tokenizes the texts of some rows once, whatever is done with them later.

    Args:
      rows: of the texts, rising.
      text: gives the text of a row.
      tokenizer: of the model.
      template: what stands around a text.
      length: most tokens kept, special tokens included.
      content: stands for all the texts there are.
      label: what they are, for the progress bar.
    """
    digest = hashlib.sha256(f"{content}\0{template}\0".encode() + rows.tobytes())
    texts: Iterable[str] = (template.format(text=text(row)) for row in rows.tolist())
    key = f"{label}-{digest.hexdigest()}"
    store = build_token_store(
        texts, len(rows), tokenizer, max_length=length, key=key,
        label=f"tokenizing {label}",
    )  # fmt: skip
    return StoredTexts(rows, store)


def fold(batch: TokenBatch, list_size: int) -> TokenBatch:
    """``[batch * list, T]`` as ``[batch, list, T]``."""
    folded = [
        None if array is None else array.reshape(-1, list_size, array.shape[-1])
        for array in batch
    ]
    return TokenBatch(*folded)


class SeparateTexts:
    """Query and documents as texts of their own.

    Args:
      queries: tokens of the queries that lists ask.
      docs: tokens of the documents that lists name or that answer their queries.
      pad_id: what stands at padding.
      query_buckets: lengths that queries are padded to, rising.
      doc_buckets: lengths that documents are padded to, rising.
    """

    def __init__(
        self,
        queries: StoredTexts,
        docs: StoredTexts,
        *,
        pad_id: int,
        query_buckets: tuple[int, ...],
        doc_buckets: tuple[int, ...],
    ) -> None:
        self.queries, self.docs, self._pad_id = queries, docs, pad_id
        self._query_buckets, self._doc_buckets = query_buckets, doc_buckets

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Every (query length, document length)."""
        return [(q, doc) for q in self._query_buckets for doc in self._doc_buckets]

    def list_lengths(self, table: ListTable) -> np.ndarray:
        """Tokens of the longest document of each list."""
        lengths = self.docs.lengths[self.docs.places(table.doc_rows)]
        return np.maximum.reduceat(lengths, table.bounds[:-1])

    def cuts(
        self, query_rows: np.ndarray, places: np.ndarray, where: np.ndarray
    ) -> tuple[int, int]:
        """None known: each text was cut by itself, when it was stored."""
        return 0, 0

    def tokens(
        self,
        query_rows: np.ndarray,
        places: np.ndarray,
        where: np.ndarray,
        own: slice,
    ) -> tuple[TokenBatch, TokenBatch]:
        """Own rows of the queries ``[B, T]`` and of their documents ``[B, L, T]``."""
        asked = self.queries.places(query_rows)
        longest = int(self.queries.lengths[asked].max())
        query = pad_batch(
            [self.queries.store[place] for place in asked[own].tolist()],
            length=bucket_of(longest, self._query_buckets),
            pad_id=self._pad_id,
        )
        longest = int(self.docs.lengths[places[where]].max())
        real = where[own].ravel().tolist()
        doc = pad_batch(
            [
                self.docs.store[place] if kept else _NOTHING
                for place, kept in zip(places[own].ravel().tolist(), real, strict=True)
            ],
            length=bucket_of(longest, self._doc_buckets),
            pad_id=self._pad_id,
        )
        return query, fold(doc, places.shape[1])


def known_positives(
    positives: Positives,
    docs: StoredTexts,
    query_rows: np.ndarray,
    places: np.ndarray,
    where: np.ndarray,
) -> np.ndarray:
    """bool ``[queries, batch * list]``: which documents answer which query.

    Documents are compared by their tokens, so that one that stands twice in the
    collection is a positive in both its rows.

    Args:
      positives: of every query.
      docs: their tokens.
      query_rows: the queries to ask about.
      places: ``[batch, list]`` places of documents in ``docs``.
      where: ``[batch, list]``, false at padding.
    """
    distinct, inverse = np.unique(docs.content(places.ravel()), return_inverse=True)
    groups = positives.groups[query_rows]
    starts, ends = positives.bounds[groups], positives.bounds[groups + 1]
    rows = [positives.doc_rows[a:b] for a, b in zip(starts, ends, strict=True)]
    content = docs.content(docs.places(np.concatenate(rows)))
    owner = np.repeat(np.arange(len(query_rows)), ends - starts)
    found = np.minimum(np.searchsorted(distinct, content), len(distinct) - 1)
    hit = distinct[found] == content
    table = np.zeros((len(query_rows), len(distinct)), bool)
    table[owner[hit], found[hit]] = True
    return table[:, inverse.ravel()] & where.ravel()[None, :]
