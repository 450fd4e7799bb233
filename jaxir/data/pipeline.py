"""From training lists to batches of fixed shapes, on the host.

One *epoch* visits the lists in a random order of its own.  The order is cut into
windows, each window sorted by document length and cut into batches, and the batches
shuffled: so a batch holds texts of like length and is padded little, and yet the order
is as good as random.  A batch is padded to the length bucket of its longest text; there
are few buckets, so a model is compiled few times.  The lists that do not fill the last
batch are left out of that epoch (another epoch, other lists).

Everything about batch number ``n`` follows from the seed and ``n``.  Hence resuming
costs nothing, whatever ``n``; and each of several processes makes its own rows of the
same global batch without asking the others.
"""

import functools
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.data.batch_texts import STRATEGIES, few_lengths, open_texts
from jaxir.data.collection import Collection
from jaxir.data.lists import TrainingList, read_lists
from jaxir.data.table import ListTable, build_table, find_positives
from jaxir.data.tfds_lists import is_prepared, open_lists
from jaxir.errors import InputError
from jaxir.text import Templates, Tokenizer
from jaxir.types import RankBatch

__all__ = ["Batches", "PipelineConfig", "make_batches", "plan_epoch"]

STATE_VERSION = 1
_ENDLESS = 2**62  # batches; Grain wants a length


@dataclass(frozen=True)
class PipelineConfig:
    """How batches are made.

    Attributes:
      batch_size: queries of a global batch, over all processes.
      list_size: documents of a list.  Of a longer list the first positive and a random
        choice of the rest are taken, another in each epoch; a shorter one is padded.
      query_length: most tokens of a query; of no effect on joint texts, of which the
        document is cut.
      doc_length: most tokens of a document, or of a joint text.
      seed: of the order and the choices.
      encode: ``"separate"`` texts for bi-encoders; ``"joint"``, both as two segments
        of one text, for BERT cross-encoders; or ``"template"``, both as one text by
        ``templates.pair``, for T5 cross-encoders.
      templates: what stands around the texts.
      window: batches that are sorted by length together.
      query_buckets: number of lengths that queries are padded to.
      doc_buckets: number of lengths that documents are padded to.
      prefetch: batches made ahead of their use, by a thread.
    """

    batch_size: int = 32
    list_size: int = 8
    query_length: int = 32
    doc_length: int = 256
    seed: int = 0
    encode: str = "separate"
    templates: Templates = field(default_factory=Templates)
    window: int = 64
    query_buckets: int = 2
    doc_buckets: int = 4
    prefetch: int = 4

    def __post_init__(self) -> None:
        for name in (
            "batch_size", "list_size", "query_length", "doc_length", "window",
            "query_buckets", "doc_buckets", "prefetch",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(name, str(getattr(self, name)), "at least 1")
        if self.seed < 0:
            raise InputError("seed", str(self.seed), "at least 0")
        if self.encode not in STRATEGIES:
            known = ", ".join(repr(name) for name in STRATEGIES)
            raise InputError("encode", repr(self.encode), f"one of {known}")


def plan_epoch(
    lengths: np.ndarray, *, batch_size: int, window: int, seed: int, epoch: int
) -> np.ndarray:
    """Which lists make which batch of an epoch.

    Args:
      lengths: ``[lists]``, by which batches shall be alike.
      batch_size: lists of a batch.
      window: batches that are sorted together.
      seed: with ``epoch``, of the order.
      epoch: number of the epoch.

    Returns:
      int64 ``[lists // batch_size, batch_size]``, no list twice.

    Example::

      >>> plan_epoch(np.array([9, 1, 8, 2]), batch_size=2, window=2, seed=0, epoch=0)
      array([[2, 0],
             [1, 3]])
    """
    random = np.random.default_rng([seed, epoch])
    count = len(lengths) // batch_size
    order = random.permutation(len(lengths))[: count * batch_size]
    # within a window by length; windows keep their places: one stable sort of pairs
    windows = np.arange(len(order)) // (window * batch_size)
    order = order[np.lexsort((lengths[order], windows))]
    return order.reshape(count, batch_size)[random.permutation(count)]


class Batches(Iterator[RankBatch]):
    """An endless stream of batches; made by :func:`make_batches`.

    Attributes:
      config: how the batches are made.
      steps_per_epoch: batches of an epoch.
      shapes: every pair of query and document length that a batch may have; the query
        length is 0 for joint texts.
    """

    def __init__(
        self,
        table: ListTable,
        collection: Collection,
        split: str | None,
        tokenizer: Tokenizer,
        config: PipelineConfig,
        *,
        process_index: int,
        process_count: int,
    ) -> None:
        if len(table) < config.batch_size:
            raise InputError(
                "batch_size", f"{config.batch_size} with {len(table)} training lists",
                f"at most {len(table)}", "choose a smaller batch or make more lists",
            )  # fmt: skip
        if config.batch_size % process_count or not 0 <= process_index < process_count:
            raise InputError(
                "batch_size",
                f"{config.batch_size} over {process_count} processes",
                "a multiple of their number",
            )
        self.config = config
        self.steps_per_epoch = len(table) // config.batch_size
        self._table = table
        share = config.batch_size // process_count
        self._own = slice(process_index * share, (process_index + 1) * share)
        self._strategy = STRATEGIES[config.encode]
        self._positives = find_positives(table, collection, split)
        named = np.concatenate([table.doc_rows, self._positives.doc_rows])
        # in a joint text only the document gives way
        apart = config.encode == "separate"
        query_length = config.query_length if apart else config.doc_length
        self._texts = open_texts(
            collection, split, tokenizer, config.templates,
            query_rows=np.unique(table.query_rows), doc_rows=np.unique(named),
            query_buckets=few_lengths(query_length, config.query_buckets),
            doc_buckets=few_lengths(config.doc_length, config.doc_buckets),
        )  # fmt: skip
        docs = self._texts.docs
        lengths = docs.lengths[docs.places(table.doc_rows)]
        self._lengths = np.maximum.reduceat(lengths, table.bounds[:-1])
        parts = [table.fingerprint, collection.docs.fingerprint, tokenizer.fingerprint]
        # how far ahead the thread works changes no batch
        made_of = "\0".join([*parts, repr(replace(config, prefetch=1))])
        self._fingerprint = hashlib.sha256(made_of.encode()).hexdigest()
        self._lock = threading.Lock()
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)
        self._iterator = self._stream()

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Every (query length, document length) that a batch may have."""
        texts = self._texts
        queries = texts.query_buckets if self.config.encode == "separate" else (0,)
        return [(query, doc) for query in queries for doc in texts.doc_buckets]

    def _stream(self) -> Any:
        import grain

        options = grain.ReadOptions(
            num_threads=1, prefetch_buffer_size=self.config.prefetch
        )
        source = grain.MapDataset.range(_ENDLESS).map(self.batch)
        return iter(source.to_iter_dataset(options))

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> RankBatch:
        return next(self._iterator)

    @property
    def position(self) -> int:
        """The number of batches handed out so far, from the very first."""
        return int(self._iterator.get_state()["next_index"])

    def state(self) -> dict[str, Any]:
        """Where the stream stands, as plain JSON; :meth:`restore` goes on from it."""
        return {
            "version": STATE_VERSION,
            "position": self.position,
            "fingerprint": self._fingerprint,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to where ``state`` was taken; the next batch is the one it was about.

        Raises:
          InputError: the state is of other lists, texts or another configuration.
        """
        if state.get("version") != STATE_VERSION or "position" not in state:
            raise InputError("data state", f"{sorted(state)}", "what state() gave")
        if state.get("fingerprint") != self._fingerprint:
            raise InputError(
                "data state", "taken from other training lists or another pipeline "
                "configuration", "the same data, tokenizer and configuration",
                "restore them, or begin in a new model directory",
            )  # fmt: skip
        self._iterator.set_state({"next_index": int(state["position"])})

    def close(self) -> None:
        """Ends the thread that works ahead."""
        self._iterator.close()

    # -- one batch ---------------------------------------------------------------

    def _make_plan(self, epoch: int) -> np.ndarray:
        config = self.config
        return plan_epoch(
            self._lengths, batch_size=config.batch_size, window=config.window,
            seed=config.seed, epoch=epoch,
        )  # fmt: skip

    def batch(self, position: int) -> RankBatch:
        """Batch number ``position`` of the stream, this process' rows of it."""
        epoch, number = divmod(int(position), self.steps_per_epoch)
        with self._lock:
            lists = self._plan(epoch)[number]
        # [batch, list] of the global batch: cheap, and shapes must agree everywhere
        items = self._items(lists, epoch)
        where = items >= 0
        rows = np.where(where, self._table.doc_rows[items], -1)
        places = self._texts.docs.places(rows)
        own, table = self._own, self._table
        labels = np.where(where, table.labels[items], 0)[own].astype(np.float32)
        scores = None
        if table.scores is not None:
            scores = np.where(where, table.scores[items], 0)[own].astype(np.float32)
        query_rows = table.query_rows[lists]
        known = self._known_positive(query_rows[own], places, where)
        kept = where[own]
        if scores is None:
            # a negative that answers the query after all: neither right nor wrong
            start = own.start * where.shape[1]
            index = start + np.arange(kept.size).reshape(kept.shape)
            inside = np.take_along_axis(known, index, axis=1)
            kept = kept & ~(inside & (labels <= 0))
        query, doc = self._strategy(self._texts, query_rows, places, where, own)
        return RankBatch(
            query=query,
            doc=doc,
            labels=labels,
            where=kept,
            teacher_scores=scores,
            query_index=query_rows[own].astype(np.int32),
            doc_index=rows[own].astype(np.int32),
            known_positive=known if query is not None else None,
        )

    def _items(self, lists: np.ndarray, epoch: int) -> np.ndarray:
        """int64 ``[batch, list_size]`` places in the table's items, -1 at padding."""
        size = self.config.list_size
        starts, ends = self._table.bounds[lists], self._table.bounds[lists + 1]
        items = starts[:, None] + np.arange(size)[None, :]
        items = np.where(items < ends[:, None], items, -1)
        for i in np.flatnonzero(ends - starts > size).tolist():
            random = np.random.default_rng([self.config.seed, epoch, int(lists[i]), 1])
            rest = random.permutation(int(ends[i] - starts[i]) - 1)[: size - 1]
            items[i, 1:] = starts[i] + 1 + np.sort(rest)
        return items

    def _known_positive(
        self, query_rows: np.ndarray, places: np.ndarray, where: np.ndarray
    ) -> np.ndarray:
        """bool ``[own queries, batch * list]``: which documents answer which query.

        Documents are compared by their tokens, so that one that stands twice in the
        collection is a positive in both its rows.
        """
        flat = self._texts.docs.content(places.ravel())
        distinct, inverse = np.unique(flat, return_inverse=True)
        groups = self._positives.groups[query_rows]
        starts, ends = (
            self._positives.bounds[groups],
            self._positives.bounds[groups + 1],
        )
        rows = [
            self._positives.doc_rows[a:b] for a, b in zip(starts, ends, strict=True)
        ]
        content = self._texts.docs.content(
            self._texts.docs.places(np.concatenate(rows))
        )
        owner = np.repeat(np.arange(len(query_rows)), ends - starts)
        found = np.minimum(np.searchsorted(distinct, content), len(distinct) - 1)
        hit = distinct[found] == content
        table = np.zeros((len(query_rows), len(distinct)), bool)
        table[owner[hit], found[hit]] = True
        return table[:, inverse.ravel()] & where.ravel()[None, :]


def make_batches(
    lists: str | os.PathLike | Iterable[TrainingList],
    collection: Collection,
    tokenizer: Tokenizer,
    config: PipelineConfig,
    *,
    split: str | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """An endless, resumable stream of batches over training lists.

    Args:
      lists: training lists; a JSON lines file of them; or a directory that
        :func:`~jaxir.data.tfds_lists.prepare_lists` wrote.
      collection: the documents, queries and judgments.
      tokenizer: of the model.
      config: sizes, lengths and seed.
      split: whose queries the lists ask; ``"train"`` unless a prepared directory says
        otherwise.
      process_index: which of the processes this is.
      process_count: processes that share every batch, each with its rows.

    Returns:
      :class:`Batches` of numpy arrays.  Of ``known_positive [B, B * L]`` a process has
      the rows of its queries and the columns of the whole batch.

    Raises:
      InputError: lists that do not fit the collection, or fewer than a batch.
    """
    if isinstance(lists, str | os.PathLike):
        path = Path(lists)
        if is_prepared(path):
            prepared = open_lists(path, collection=collection, split=split)
            table, split = prepared.table(), prepared.split
        else:
            split = split or "train"
            table = build_table(read_lists(path), collection, split)
    else:
        split = split or "train"
        table = build_table(lists, collection, split)
    return Batches(
        table, collection, split, tokenizer, config,
        process_index=process_index, process_count=process_count,
    )  # fmt: skip
