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
from typing import Any

import numpy as np

from jaxir.data.batch_texts import known_positives
from jaxir.data.collection import Collection
from jaxir.data.epochs import choose_items, plan_epoch
from jaxir.data.lists import TrainingList, read_lists
from jaxir.data.open_texts import open_queries, open_texts
from jaxir.data.pair_texts import JointTexts
from jaxir.data.query_texts import QueryTexts
from jaxir.data.table import ListTable, build_table, find_positives, with_positives
from jaxir.data.tfds_lists import is_prepared, open_lists
from jaxir.errors import InputError
from jaxir.text import Templates, Tokenizer
from jaxir.types import RankBatch

__all__ = ["Batches", "PipelineConfig", "make_batches"]

STATE_VERSION = 1
_ENDLESS = 2**62  # batches; Grain wants a length
_ENCODINGS = ("separate", "joint", "template", "query")
_SAMPLES = 256  # batches whose lengths are looked at before groups are planned


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
        of one text, for BERT cross-encoders; ``"template"``, both as one text by
        ``templates.pair``, for T5 cross-encoders (see :mod:`jaxir.pairs`); or
        ``"query"``, queries alone with the rows of their documents, for models whose
        documents are encoded already (see :mod:`jaxir.data.query_texts`).
      templates: what stands around the texts.
      eos: whether the text of a template ends with the tokenizer's closing token.
      pair_groups: into how many groups of like length, each padded to its own, the
        pairs of a batch are sorted; one keeps lists together.  Only for joint texts;
        a divisor of ``batch_size * list_size`` over the number of processes.
      window: batches that are sorted by length together; of no effect with groups,
        which want every batch to have texts of all lengths.
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
    eos: bool = True
    pair_groups: int = 1
    window: int = 64
    query_buckets: int = 2
    doc_buckets: int = 4
    prefetch: int = 4

    def __post_init__(self) -> None:
        for name in (
            "batch_size", "list_size", "query_length", "doc_length", "window",
            "query_buckets", "doc_buckets", "prefetch", "pair_groups",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(name, str(getattr(self, name)), "at least 1")
        if self.seed < 0:
            raise InputError("seed", str(self.seed), "at least 0")
        if self.encode not in _ENCODINGS:
            known = ", ".join(repr(name) for name in _ENCODINGS)
            raise InputError("encode", repr(self.encode), f"one of {known}")
        if self.encode != "template" and not self.eos:
            raise InputError(
                "eos", f"False for {self.encode} texts", "True",
                "only the text of a template can do without",
            )  # fmt: skip


class Batches(Iterator[RankBatch]):
    """An endless stream of batches; made by :func:`make_batches`.

    Attributes:
      config: how the batches are made.
      steps_per_epoch: batches of an epoch.
      cut_docs: pairs handed out so far of which the end of the document was cut, over
        all processes; :meth:`restore` goes back with it.  0 for separate texts.
      cut_queries: the same for queries.
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
        if config.encode in ("separate", "query") and config.pair_groups > 1:
            raise InputError(
                "pair_groups", f"{config.pair_groups} for {config.encode} texts", "1",
                "groups are for joint texts: set encode",
            )  # fmt: skip
        pairs = config.batch_size * config.list_size
        if config.pair_groups > 1 and pairs % (config.pair_groups * process_count):
            raise InputError(
                "pair_groups", f"{config.pair_groups} for {config.batch_size} lists of "
                f"{config.list_size} over {process_count} processes",
                f"a divisor of {pairs} pairs on every process",
                "choose another number of groups",
            )  # fmt: skip
        self._positives = find_positives(table, collection, split)
        asked = np.unique(table.query_rows)
        if config.encode == "query":
            queries = open_queries(collection, split, tokenizer, config, rows=asked)
            self._texts: Any = QueryTexts(queries, self._positives, config.list_size)
        else:
            named = np.concatenate([table.doc_rows, self._positives.doc_rows])
            self._texts = open_texts(
                collection, split, tokenizer, config,
                query_rows=asked, doc_rows=np.unique(named),
            )  # fmt: skip
        self._lengths = self._texts.list_lengths(table)
        self.cut_docs = self.cut_queries = 0
        parts = [table.fingerprint, collection.docs.fingerprint, tokenizer.fingerprint]
        # how far ahead the thread works changes no batch
        made_of = "\0".join([*parts, repr(replace(config, prefetch=1))])
        self._fingerprint = hashlib.sha256(made_of.encode()).hexdigest()
        self._lock = threading.Lock()
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)
        if isinstance(self._texts, JointTexts) and config.pair_groups > 1:
            self._choose_groups(self._texts)
        self._iterator = self._stream()

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The lengths that a batch may have, each a model compiled.

        ``(query length, document length)``; for joint texts ``(0, pair length)``, and
        with groups ``(0, width of the first group, of the second, ...)``.
        """
        return self._texts.shapes

    def _stream(self) -> Any:
        import grain

        options = grain.ReadOptions(
            num_threads=1, prefetch_buffer_size=self.config.prefetch
        )
        source = grain.MapDataset.range(_ENDLESS).map(self._counted)
        return iter(source.to_iter_dataset(options))

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> RankBatch:
        batch, cut_docs, cut_queries = next(self._iterator)
        self.cut_docs += cut_docs
        self.cut_queries += cut_queries
        return batch

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
            "cut": [self.cut_docs, self.cut_queries],
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
        self.cut_docs, self.cut_queries = state.get("cut", (0, 0))

    def close(self) -> None:
        """Ends the thread that works ahead."""
        self._iterator.close()

    # -- one batch ---------------------------------------------------------------

    def _make_plan(self, epoch: int) -> np.ndarray:
        config = self.config
        return plan_epoch(
            self._lengths, batch_size=config.batch_size, seed=config.seed, epoch=epoch,
            window=config.window if config.pair_groups == 1 else 1,
        )  # fmt: skip

    def _items(self, lists: np.ndarray, epoch: int) -> np.ndarray:
        size, seed = self.config.list_size, self.config.seed
        return choose_items(self._table, lists, size, seed=seed, epoch=epoch)

    def _rows(
        self, lists: np.ndarray, epoch: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``[batch, list]`` items of the table, rows of documents, and their places."""
        items = self._items(lists, epoch)
        rows = np.where(items >= 0, self._table.doc_rows[items], -1)
        return items, rows, self._texts.docs.places(rows)

    def _choose_groups(self, texts: JointTexts) -> None:
        """Looks at the lengths of the first epoch's batches; no text is touched."""
        samples = []
        for lists in self._plan(0)[:_SAMPLES]:
            items, _, places = self._rows(lists, 0)
            lengths = texts.lengths(self._table.query_rows[lists], places, items >= 0)
            samples.append(lengths.ravel())
        texts.choose_plans(np.stack(samples), int(self._lengths.max()))

    def batch(self, position: int) -> RankBatch:
        """Batch number ``position`` of the stream, this process' rows of it."""
        return self._counted(position)[0]

    def _counted(self, position: int) -> tuple[RankBatch, int, int]:
        """A batch, and how many of its pairs are cut at the document, at the query."""
        epoch, number = divmod(int(position), self.steps_per_epoch)
        with self._lock:
            lists = self._plan(epoch)[number]
        if isinstance(self._texts, QueryTexts):
            items = self._items(lists, epoch)
            return self._texts.batch(self._table, lists, items, self._own), 0, 0
        # [batch, list] of the global batch: cheap, and shapes must agree everywhere
        items, rows, places = self._rows(lists, epoch)
        where = items >= 0
        own, table = self._own, self._table
        labels = np.where(where, table.labels[items], 0)[own].astype(np.float32)
        scores = None
        if table.scores is not None:
            scores = np.where(where, table.scores[items], 0)[own].astype(np.float32)
        query_rows = table.query_rows[lists]
        known = known_positives(
            self._positives, self._texts.docs, query_rows[own], places, where
        )
        kept = where[own]
        if scores is None:
            # a negative that answers the query after all: neither right nor wrong
            start = own.start * where.shape[1]
            index = start + np.arange(kept.size).reshape(kept.shape)
            inside = np.take_along_axis(known, index, axis=1)
            kept = kept & ~(inside & (labels <= 0))
        query, doc = self._texts.tokens(query_rows, places, where, own)
        batch = RankBatch(
            query=query, doc=doc, labels=labels, where=kept, teacher_scores=scores,
            query_index=query_rows[own].astype(np.int32),
            doc_index=rows[own].astype(np.int32),
            known_positive=known if query is not None else None,
        )  # fmt: skip
        return batch, *self._texts.cuts(query_rows, places, where)


def make_batches(
    lists: str | os.PathLike | Iterable[TrainingList],
    collection: Collection,
    tokenizer: Tokenizer,
    config: PipelineConfig,
    *,
    split: str | None = None,
    need_positive: bool = True,
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
      need_positive: leave out lists without a positive; otherwise those that a teacher
        scored stay, for losses that learn from its scores alone.
      process_index: which of the processes this is.
      process_count: processes that share every batch, each with its rows.

    Returns:
      :class:`Batches` of numpy arrays.  Of ``known_positive [B, B * L]`` a process has
      the rows of its queries and the columns of the whole batch.

    Raises:
      InputError: lists that do not fit the collection, or fewer than a batch.
    """
    if isinstance(lists, str | os.PathLike) and is_prepared(lists):
        prepared = open_lists(lists, collection=collection, split=split)
        split = prepared.split
        table = with_positives(prepared.table(), lists, need_positive=need_positive)
    else:
        if isinstance(lists, str | os.PathLike):
            lists = read_lists(lists)
        split = split or "train"
        table = build_table(lists, collection, split, need_positive=need_positive)
    return Batches(
        table, collection, split, tokenizer, config,
        process_index=process_index, process_count=process_count,
    )  # fmt: skip
