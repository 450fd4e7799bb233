"""Chunks of documents for language modelling, and rows of a fixed length made of them.

Documents are tokenized once, without special tokens, and cut into chunks that fill a
row; shorter chunks share a row.  Which chunks share one is decided once, by best fit;
an epoch visits the rows in a random order of its own.  So everything about batch number
``n`` follows from the seed and ``n``: resuming costs nothing, and each of several
processes makes its own rows of the same global batch without asking the others.
"""

import abc
import functools
import hashlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxir.data.collection import Collection, open_collection
from jaxir.data.tokens import TokenStore, build_token_store
from jaxir.errors import InputError
from jaxir.text import Tokenizer

__all__ = ["Chunks", "RowBatches", "open_chunks", "pack_rows"]

STATE_VERSION = 1
_WHOLE = 2**20  # tokens: no document is cut before it is stored
_TRIES = 8  # places looked at for a chunk before it begins a new row


class Chunks(NamedTuple):
    """Pieces of documents, read when asked for.

    Attributes:
      stores: the documents' tokens with special tokens, a store a collection.
      prefix: special tokens before a document in its store; ``suffix`` those after it.
      store: int32 ``[N]`` store of each chunk.
      doc: int64 ``[N]`` row of its document in the store.
      start: int64 ``[N]`` its first token in the document, special tokens not counted.
      lengths: int64 ``[N]`` its tokens.
      fingerprint: sha256 of the texts, the tokenizer and the cutting.
    """

    stores: tuple[TokenStore, ...]
    prefix: int
    suffix: int
    store: np.ndarray
    doc: np.ndarray
    start: np.ndarray
    lengths: np.ndarray
    fingerprint: str

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return len(self.lengths)

    @property
    def num_docs(self) -> int:
        """Documents that have a chunk."""
        pairs = np.stack([self.store.astype(np.int64), self.doc])
        return np.unique(pairs, axis=1).shape[1]

    def tokens(self, index: int | np.integer) -> np.ndarray:
        """Token ids of a chunk, int32, without special tokens."""
        ids = self.stores[int(self.store[index])][int(self.doc[index])]
        start = self.prefix + int(self.start[index])
        return ids[start : start + int(self.lengths[index])]

    def select(self, keep: np.ndarray) -> "Chunks":
        """The chunks where ``keep``, bool ``[N]``, is true."""
        digest = hashlib.sha256(np.packbits(keep).tobytes()).hexdigest()
        return self._replace(
            store=self.store[keep], doc=self.doc[keep], start=self.start[keep],
            lengths=self.lengths[keep],
            fingerprint=hashlib.sha256(
                f"{self.fingerprint} {digest}".encode()
            ).hexdigest(),
        )  # fmt: skip

    def hold_out(self, amount: int | float, seed: int) -> tuple["Chunks", "Chunks"]:
        """Splits off the chunks of some documents, drawn at random.

        Args:
          amount: documents: a number of them (int) or a fraction (float below 1).
          seed: of the draw.

        Returns:
          The chunks that stay, and those split off.

        Raises:
          InputError: the amount leaves no document on one of the sides.
        """
        pairs = np.stack([self.store.astype(np.int64), self.doc])
        docs, owner = np.unique(pairs, axis=1, return_inverse=True)
        total = docs.shape[1]
        count = round(amount * total) if isinstance(amount, float) else amount
        if not 0 < count < total:
            raise InputError(
                "holdout", f"{amount} of {total} documents",
                f"a fraction below 1 or 1 to {total - 1} documents",
            )  # fmt: skip
        held = np.zeros(total, bool)
        held[np.random.default_rng([seed, 2]).permutation(total)[:count]] = True
        mine = held[owner.reshape(-1)]
        return self.select(~mine), self.select(mine)


def open_chunks(
    collections: str | Collection | Sequence[str | Collection],
    tokenizer: Tokenizer,
    *,
    chunk_length: int,
    min_tokens: int = 8,
) -> Chunks:
    """The documents of collections as chunks of at most ``chunk_length`` tokens.

    A document's text is its title, a space and its text.  The token stores are kept
    under the cache and used again by every later run, whatever its ``chunk_length``.

    Args:
      collections: a folder or ``irds:ID``, an opened collection, or several of them.
      tokenizer: of the model.
      chunk_length: most tokens of a chunk, special tokens not counted.
      min_tokens: documents and ends of documents of fewer tokens are left out.

    Raises:
      InputError: no document has ``min_tokens`` tokens.
    """
    if isinstance(collections, str | Collection):
        collections = (collections,)
    opened = [
        open_collection(item) if isinstance(item, str) else item for item in collections
    ]
    prefix, suffix = len(tokenizer.frame.prefix), len(tokenizer.frame.suffix)
    stores, parts = [], []
    for number, collection in enumerate(opened):
        docs = collection.docs
        store = build_token_store(
            (docs.text(row) for row in range(len(docs))), len(docs), tokenizer,
            max_length=_WHOLE, key=f"whole {docs.fingerprint}",
            label=f"tokenizing {collection.name}",
        )  # fmt: skip
        stores.append(store)
        lengths = store.lengths.astype(np.int64) - prefix - suffix
        pieces = -(-lengths // chunk_length)
        doc = np.repeat(np.arange(len(lengths)), pieces)
        first = np.repeat(np.cumsum(pieces) - pieces, pieces)
        start = (np.arange(len(doc)) - first) * chunk_length
        length = np.minimum(lengths[doc] - start, chunk_length)
        parts.append((np.full(len(doc), number, np.int32), doc, start, length))
    owner, doc, start, length = (np.concatenate(c) for c in zip(*parts, strict=True))
    texts = " ".join(collection.docs.fingerprint for collection in opened)
    made_of = f"{texts} {tokenizer.fingerprint} {chunk_length} {min_tokens}"
    chunks = Chunks(
        tuple(stores), prefix, suffix, owner, doc, start, length,
        fingerprint=hashlib.sha256(made_of.encode()).hexdigest(),
    )  # fmt: skip
    chunks = chunks.select(chunks.lengths >= min_tokens)
    if not chunks.num_chunks:
        names = ", ".join(collection.name for collection in opened)
        raise InputError(
            names, "no text long enough to learn from",
            f"documents of at least {min_tokens} tokens",
        )  # fmt: skip
    return chunks


def pack_rows(
    lengths: np.ndarray, sizes: Sequence[np.ndarray], limits: Sequence[int], seed: int
) -> list[np.ndarray]:
    """Puts chunks into rows of limited size, best fit by falling length.

    Every chunk has several sizes (its inputs, its targets) and a row a limit for each.
    Chunks of one length come in random order, so that rows mix documents.

    Args:
      lengths: ``[N]`` what the chunks are ordered by.
      sizes: each ``[N]``; the first decides which row fits best.
      limits: of a row, one for each of ``sizes``.
      seed: of the order among equals.

    Returns:
      int64 arrays of chunks, one a row.

    Raises:
      InputError: a chunk exceeds a limit.

    Example::

      >>> lengths = np.array([6, 4, 9])
      >>> [row.tolist() for row in pack_rows(lengths, [lengths], [10], seed=0)]
      [[2], [0, 1]]
    """
    for size, limit in zip(sizes, limits, strict=True):
        if len(size) and size.max() > limit:
            raise InputError("row", f"a chunk of {size.max()}", f"at most {limit}")
    order = np.random.default_rng([seed, 3]).permutation(len(lengths))
    order = order[np.argsort(-lengths[order], kind="stable")]
    needs = np.stack([np.asarray(size, np.int64) for size in sizes], axis=1)[order]
    rows: list[list[int]] = []
    left: list[list[int]] = []
    # rows by the room they have left, and a bit for every room that some row has
    by_room: dict[int, list[int]] = {}
    rooms = 0
    for chunk, need in zip(order.tolist(), needs.tolist(), strict=True):
        above, place = rooms >> need[0], -1
        room = need[0]
        for _ in range(_TRIES):
            if not above:
                break
            step = (above & -above).bit_length() - 1
            above, room = above >> step, room + step
            candidate = by_room[room][-1]
            if all(a <= b for a, b in zip(need, left[candidate], strict=True)):
                place = candidate
                break
            above &= ~1
        if place < 0:
            place = len(rows)
            rows.append([])
            left.append(list(limits))
        else:
            by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
        rows[place].append(chunk)
        left[place] = [b - a for a, b in zip(need, left[place], strict=True)]
        room = left[place][0]
        if room:
            by_room.setdefault(room, []).append(place)
            rooms |= 1 << room
    return [np.array(row, np.int64) for row in rows]


class RowBatches(Iterator[Any]):
    """An endless stream of batches of packed rows; the base of the two objectives.

    The rows that do not fill the last batch of an epoch are left out of it (another
    epoch, other rows); with ``every_row`` empty rows fill it up, and an epoch is all.

    Attributes:
      steps_per_epoch: batches of an epoch.
      fill: part of the input positions that hold a token, over all rows.
    """

    def __init__(
        self,
        rows: list[np.ndarray],
        *,
        batch_size: int,
        seed: int,
        fill: float,
        fingerprint: str,
        every_row: bool = False,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        if len(rows) < batch_size and not every_row:
            raise InputError(
                "batch_size", f"{batch_size} with {len(rows)} rows of text",
                f"at most {len(rows)}", "choose a smaller batch or more documents",
            )  # fmt: skip
        if batch_size % process_count or not 0 <= process_index < process_count:
            raise InputError(
                "batch_size", f"{batch_size} over {process_count} processes",
                "a multiple of their number",
            )  # fmt: skip
        if every_row:
            empty = -len(rows) % batch_size
            rows = [*rows, *[np.zeros(0, np.int64)] * empty]
        self.steps_per_epoch = len(rows) // batch_size
        self.fill = fill
        self._rows, self._batch_size, self._seed = rows, batch_size, seed
        share = batch_size // process_count
        self._own = slice(process_index * share, (process_index + 1) * share)
        self._fingerprint = fingerprint
        self._position = 0
        self._lock = threading.Lock()
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)

    def __iter__(self) -> "RowBatches":
        return self

    def __next__(self) -> Any:
        batch = self.batch(self._position)
        self._position += 1
        return batch

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as plain JSON; :meth:`restore` goes on from it."""
        return {
            "version": STATE_VERSION,
            "position": self._position,
            "fingerprint": self._fingerprint,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to where ``state`` was taken; the next batch is the one it was about.

        Raises:
          InputError: the state is of other texts or another configuration.
        """
        if state.get("version") != STATE_VERSION or "position" not in state:
            raise InputError("data state", f"{sorted(state)}", "what state() gave")
        if state.get("fingerprint") != self._fingerprint:
            raise InputError(
                "data state", "taken from other documents or another configuration",
                "the same documents, tokenizer and configuration",
                "restore them, or begin in a new model directory",
            )  # fmt: skip
        self._position = int(state["position"])

    def _make_plan(self, epoch: int) -> np.ndarray:
        random = np.random.default_rng([self._seed, epoch, 0])
        used = self.steps_per_epoch * self._batch_size
        return random.permutation(len(self._rows))[:used].reshape(-1, self._batch_size)

    def batch(self, position: int) -> Any:
        """Batch number ``position`` of the stream, this process' rows of it."""
        epoch, number = divmod(int(position), self.steps_per_epoch)
        with self._lock:
            chosen = self._plan(epoch)[number]
        return self._make(
            [
                # masks follow from seed, epoch and row: the same in every process
                (self._rows[row], np.random.default_rng([self._seed, epoch, 1, row]))
                for row in chosen[self._own].tolist()
            ]
        )

    @abc.abstractmethod
    def _make(self, rows: list[tuple[np.ndarray, np.random.Generator]]) -> Any:
        """A batch of rows of chunks, each with its own source of chance."""
