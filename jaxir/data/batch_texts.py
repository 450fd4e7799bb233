"""The texts of a batch as tokens: apart for bi-encoders, joined for cross-encoders.

A strategy is a function ``(texts, query_rows, places, where, own) -> (query, doc)``
that sees the rows of the whole global batch, so that all processes choose the same
shape, and makes tokens of its ``own`` rows only.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from jaxir.data.collection import Collection
from jaxir.data.tokens import TokenStore, build_token_store
from jaxir.text import Templates, Tokenizer, bucket_lengths, bucket_of, pad_batch
from jaxir.types import TokenBatch

__all__ = ["STRATEGIES", "BatchTexts", "StoredTexts", "few_lengths", "open_texts"]

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


class BatchTexts(NamedTuple):
    """What a strategy works from.

    Attributes:
      queries: tokens of the queries that lists ask.
      docs: tokens of the documents that lists name or that answer their queries.
      query_texts: text of each query of the split.
      collection: where the documents' texts are.
      tokenizer: of the model.
      templates: what stands around the texts.
      query_buckets: lengths that queries are padded to, rising.
      doc_buckets: lengths that documents or joint texts are padded to, rising.
    """

    queries: StoredTexts
    docs: StoredTexts
    query_texts: list[str]
    collection: Collection
    tokenizer: Tokenizer
    templates: Templates
    query_buckets: tuple[int, ...]
    doc_buckets: tuple[int, ...]


Strategy = Callable[
    [BatchTexts, np.ndarray, np.ndarray, np.ndarray, slice],
    tuple[TokenBatch | None, TokenBatch],
]


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


def _stored(
    rows: np.ndarray,
    text: Callable[[int], str],
    tokenizer: Tokenizer,
    *,
    template: str,
    length: int,
    content: str,
    label: str,
) -> StoredTexts:
    """Tokenizes the texts of some rows once, whatever is done with them later."""
    digest = hashlib.sha256(f"{content}\0{template}\0".encode() + rows.tobytes())
    texts: Iterable[str] = (template.format(text=text(row)) for row in rows.tolist())
    key = f"{label}-{digest.hexdigest()}"
    store = build_token_store(
        texts, len(rows), tokenizer, max_length=length, key=key,
        label=f"tokenizing {label}",
    )  # fmt: skip
    return StoredTexts(rows, store)


def open_texts(
    collection: Collection,
    split: str | None,
    tokenizer: Tokenizer,
    templates: Templates,
    *,
    query_rows: np.ndarray,
    doc_rows: np.ndarray,
    query_buckets: tuple[int, ...],
    doc_buckets: tuple[int, ...],
) -> BatchTexts:
    """Tokenizes, or finds already tokenized, the texts that training will read.

    Args:
      collection: the documents.
      split: whose queries.
      tokenizer: of the model.
      templates: what stands around the texts.
      query_rows: rows of queries, rising.
      doc_rows: rows of documents, rising.
      query_buckets: lengths that queries are padded to; the last is the longest.
      doc_buckets: the same for documents.
    """
    texts = list(collection.queries(split).values())
    queries = _stored(
        query_rows, texts.__getitem__, tokenizer, template=templates.query,
        length=query_buckets[-1], content="\0".join(texts), label="queries",
    )  # fmt: skip
    docs = _stored(
        doc_rows, collection.docs.text, tokenizer, template=templates.doc,
        length=doc_buckets[-1], content=collection.docs.fingerprint, label="documents",
    )  # fmt: skip
    return BatchTexts(
        queries, docs, texts, collection, tokenizer, templates, query_buckets,
        doc_buckets,
    )  # fmt: skip


def _fold(batch: TokenBatch, list_size: int) -> TokenBatch:
    """``[batch * list, T]`` as ``[batch, list, T]``."""
    folded = [
        None if array is None else array.reshape(-1, list_size, array.shape[-1])
        for array in batch
    ]
    return TokenBatch(*folded)


def _separate(
    texts: BatchTexts,
    query_rows: np.ndarray,
    places: np.ndarray,
    where: np.ndarray,
    own: slice,
) -> tuple[TokenBatch, TokenBatch]:
    """Query and documents as texts of their own."""
    pad_id = texts.tokenizer.pad_id
    asked = texts.queries.places(query_rows)
    longest = int(texts.queries.lengths[asked].max())
    query = pad_batch(
        [texts.queries.store[place] for place in asked[own].tolist()],
        length=bucket_of(longest, texts.query_buckets),
        pad_id=pad_id,
    )
    longest = int(texts.docs.lengths[places[where]].max())
    real = where[own].ravel().tolist()
    doc = pad_batch(
        [
            texts.docs.store[place] if kept else _NOTHING
            for place, kept in zip(places[own].ravel().tolist(), real, strict=True)
        ],
        length=bucket_of(longest, texts.doc_buckets),
        pad_id=pad_id,
    )
    return query, _fold(doc, places.shape[1])


class _Joint(NamedTuple):
    """What the joint text of a pair is made of, besides its two parts.

    Attributes:
      prefix: special tokens before the query.
      middle: between query and document.
      suffix: after the document.
      skip: special tokens before a text that stands alone.
      tail: special tokens after it.
      typed: whether the document is of segment 1.
    """

    prefix: np.ndarray
    middle: np.ndarray
    suffix: np.ndarray
    skip: int
    tail: int
    typed: bool


@functools.lru_cache(maxsize=8)
def _joint_parts(tokenizer: Tokenizer) -> _Joint:
    """Learns from four small texts where a tokenizer puts its special tokens."""
    (one,) = tokenizer.encode(["a"], 64)
    (empty,) = tokenizer.encode([""], 64)
    skip = _first_difference(empty, one)
    firsts, seconds = ["", "a", ""], ["", "", "a"]
    (bare, first, second), ends = tokenizer.encode_pairs(firsts, seconds, 64)
    start, stop = _first_difference(bare, first), _first_difference(bare, second)
    return _Joint(
        bare[:start], bare[start:stop], bare[stop:], skip, len(empty) - skip,
        typed=bool(ends[2] < len(second)),
    )  # fmt: skip


def _first_difference(short: np.ndarray, long: np.ndarray) -> int:
    """The first place where two arrays differ; at most the end of the short one."""
    (differing,) = np.nonzero(short != long[: len(short)])
    return int(differing[0]) if len(differing) else len(short)


def _width(
    texts: BatchTexts,
    query_rows: np.ndarray,
    places: np.ndarray,
    where: np.ndarray,
    extra: int,
) -> int:
    """The length that the joint texts of the global batch are padded to.

    Args:
      extra: tokens of a joint text beyond those of its two parts; may be negative.
    """
    asked = texts.queries.lengths[texts.queries.places(query_rows)]
    lengths = asked[:, None] + texts.docs.lengths[places] + extra
    longest = min(int(lengths[where].max()), texts.doc_buckets[-1])
    return bucket_of(longest, texts.doc_buckets)


def _joint(
    texts: BatchTexts,
    query_rows: np.ndarray,
    places: np.ndarray,
    where: np.ndarray,
    own: slice,
) -> tuple[None, TokenBatch]:
    """Query and document as the two segments of one text.

    Joined from the stored tokens; equal to :meth:`~jaxir.text.Tokenizer.encode_pairs`.
    """
    parts = _joint_parts(texts.tokenizer)
    specials = len(parts.prefix) + len(parts.middle) + len(parts.suffix)
    around = parts.skip + parts.tail
    width = _width(texts, query_rows, places, where, specials - 2 * around)
    room = width - specials
    ids: list[np.ndarray] = []
    boundaries: list[int] = []
    asked = texts.queries.places(query_rows[own])
    for i, query_place in enumerate(asked.tolist()):
        first = texts.queries.store[query_place]
        first = first[parts.skip : len(first) - parts.tail][:room]
        head = np.concatenate([parts.prefix, first, parts.middle])
        for place, real in zip(places[own][i].tolist(), where[own][i], strict=True):
            if not real:
                ids.append(_NOTHING)
                boundaries.append(width)
                continue
            second = texts.docs.store[place]
            second = second[parts.skip : len(second) - parts.tail][: room - len(first)]
            ids.append(np.concatenate([head, second, parts.suffix]))
            boundaries.append(len(head) if parts.typed else width)
    batch = pad_batch(
        ids, length=width, pad_id=texts.tokenizer.pad_id, type_boundaries=boundaries
    )
    return None, _fold(batch, places.shape[1])


def _template(
    texts: BatchTexts,
    query_rows: np.ndarray,
    places: np.ndarray,
    where: np.ndarray,
    own: slice,
) -> tuple[None, TokenBatch]:
    """Query and document as one text by the pair template.

    Tokenized anew, since what stands beside a word can change how it splits.
    """
    tokenizer, pair = texts.tokenizer, texts.templates.pair
    lone = len(tokenizer.encode(["a"], 512)[0])
    whole = len(tokenizer.encode([pair.format(query="a", document="a")], 512)[0])
    # two to spare: a part may split otherwise beside the template's words
    width = _width(texts, query_rows, places, where, whole - 2 * lone + 2)
    real = where[own].ravel()
    owner = np.repeat(query_rows[own], where.shape[1])[real]
    docs = texts.collection.docs.texts(texts.docs.rows[places[own].ravel()[real]])
    joint = [
        pair.format(query=texts.query_texts[row], document=doc)
        for row, doc in zip(owner.tolist(), docs, strict=True)
    ]
    encoded = iter(tokenizer.encode(joint, width))
    ids = [next(encoded) if kept else _NOTHING for kept in real.tolist()]
    batch = pad_batch(ids, length=width, pad_id=tokenizer.pad_id)
    return None, _fold(batch, places.shape[1])


STRATEGIES: dict[str, Strategy] = {
    "separate": _separate,
    "joint": _joint,
    "template": _template,
}
"""How the texts of a batch become tokens, by name."""
