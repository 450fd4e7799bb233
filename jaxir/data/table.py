"""Training lists as flat arrays over rows, and which of their documents are positives.

String ids end here: what follows, down to the device, knows queries by their row in the
split and documents by their row in the collection.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from jaxir.data.collection import Collection
from jaxir.data.lists import TrainingList, normalise_text
from jaxir.errors import InputError
from jaxir.progress import progress_bar, say

__all__ = [
    "ListTable",
    "Positives",
    "build_table",
    "find_positives",
    "with_positives",
]

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class ListTable:
    """Lists one after the other; list ``i`` is ``bounds[i] : bounds[i + 1]``.

    Attributes:
      query_rows: int32 ``[lists]``, row of each list's query in its split.
      bounds: int64 ``[lists + 1]``.
      doc_rows: int32 ``[items]``, row of each document in the collection.
      labels: float32 ``[items]``.
      scores: float32 ``[items]`` of a teacher, or None.
    """

    query_rows: np.ndarray
    bounds: np.ndarray
    doc_rows: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None

    def __len__(self) -> int:
        return len(self.query_rows)

    @property
    def fingerprint(self) -> str:
        """sha256 of the content."""
        digest = hashlib.sha256()
        for field in fields(self):
            array = getattr(self, field.name)
            digest.update(b"none" if array is None else array.tobytes())
        return digest.hexdigest()


class Positives(NamedTuple):
    """The documents known to answer each query, joined over queries of one text.

    Attributes:
      groups: int32 ``[queries of the split]``, which text each query has; -1 for those
        that no list asks for.
      bounds: int64 ``[groups + 1]``.
      doc_rows: int32, the positives of group ``g`` at ``bounds[g] : bounds[g + 1]``.
    """

    groups: np.ndarray
    bounds: np.ndarray
    doc_rows: np.ndarray

    def of(self, query_row: int) -> np.ndarray:
        """Rows of the documents that answer a query, rising."""
        group = self.groups[query_row]
        return self.doc_rows[self.bounds[group] : self.bounds[group + 1]]


def with_positives(
    table: ListTable, where: object, *, need_positive: bool = True
) -> ListTable:
    """The lists that something can be learned from; how many are left out is told.

    Args:
      table: all lists.
      where: the file or folder they came from, to name it.
      need_positive: leave out every list without a label above 0; otherwise only those
        that no teacher scored, since no loss can use them.

    Raises:
      InputError: no list is left.
    """
    if table.scores is not None and not need_positive:
        return table
    positive = np.maximum.reduceat(table.labels, table.bounds[:-1]) > 0
    lost, total = int((~positive).sum()), len(table)
    if not lost:
        return table
    if lost == total:
        raise InputError(
            where, f"no positive in any of {total:,} training lists",
            "a first document with a label above 0",
            "label documents, or learn from a teacher's scores alone",
        )  # fmt: skip
    say(
        f"{where}: {lost:,} of {total:,} training lists have no positive, no label "
        "above 0; left out"
    )
    sizes = np.diff(table.bounds)
    keep = np.repeat(positive, sizes)
    return ListTable(
        table.query_rows[positive],
        np.concatenate([[0], np.cumsum(sizes[positive])]).astype(np.int64),
        table.doc_rows[keep],
        table.labels[keep],
        None if table.scores is None else table.scores[keep],
    )


def build_table(
    lists: Iterable[TrainingList],
    collection: Collection,
    split: str | None,
    *,
    need_positive: bool = True,
) -> ListTable:
    """Turns lists into rows, streaming.

    Documents that the collection does not have are left out of their list, and a list
    whose positive in the first place is among them as a whole; how many is told once.

    Args:
      lists: the lists.
      collection: that they are about.
      split: whose queries they ask.
      need_positive: see :func:`with_positives`.

    Raises:
      InputError: a query that is not in the split, teacher scores in some lists only,
        or no list at all.
    """
    query_rows = {query: row for row, query in enumerate(collection.queries(split))}
    parts: list[tuple[np.ndarray, ...]] = []
    absent = dropped = 0
    chunk: list[TrainingList] = []

    def flush() -> None:
        nonlocal absent, dropped
        ids = [doc for item in chunk for doc in item.doc_ids]
        rows = collection.docs.rows(ids)
        labels = np.array([x for item in chunk for x in item.labels], np.float32)
        scores = np.array([x for item in chunk for x in item.scores or ()], np.float32)
        sizes = np.array([len(item.doc_ids) for item in chunk], np.int64)
        owner = np.repeat(np.arange(len(chunk)), sizes)
        firsts = np.cumsum(sizes) - sizes
        there = np.bincount(owner[rows >= 0], minlength=len(chunk))
        headless = ((rows[firsts] < 0) & (labels[firsts] > 0)) | (there == 0)
        keep = (rows >= 0) & ~headless[owner]
        absent += int((rows < 0).sum())
        dropped += int(headless.sum())
        queries = np.array([query_rows[item.query_id] for item in chunk], np.int32)
        parts.append(
            (
                queries[~headless],
                there[~headless],
                rows[keep].astype(np.int32),
                labels[keep],
                scores[keep] if len(scores) else scores,
            )
        )
        chunk.clear()

    def place() -> str:  # a file's reader knows the line
        return getattr(lists, "place", "lists")

    scored: bool | None = None
    for item in progress_bar(lists, label="reading training lists", unit="list"):
        if item.query_id not in query_rows:
            raise InputError(
                place(), f"query {item.query_id!r} is not in split {split!r} of "
                f"{collection.path}", "queries of that split",
                "name the split that the lists were made from",
            )  # fmt: skip
        if scored is not None and scored != (item.scores is not None):
            raise InputError(
                place(), f"the list of {item.query_id!r} "
                f"{'has no' if scored else 'has'} teacher scores, those before it "
                f"{'have' if scored else 'do not'}", "scores in all lists or in none",
                "label all of them",
            )  # fmt: skip
        scored = item.scores is not None
        chunk.append(item)
        if len(chunk) == _CHUNK:
            flush()
    if chunk:
        flush()
    if absent:
        say(
            f"{collection.path}: {absent} documents of the training lists are not in "
            f"the collection; left out, with {dropped} lists that they were the "
            "positive of, or all of"
        )
    if not parts or not sum(len(part[0]) for part in parts):
        raise InputError(place(), "no training list", "at least one", "check the file")
    queries, sizes, rows, labels, scores = map(np.concatenate, zip(*parts, strict=True))
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    table = ListTable(queries, bounds, rows, labels, scores if scored else None)
    return with_positives(table, place(), need_positive=need_positive)


def find_positives(
    table: ListTable, collection: Collection, split: str | None
) -> Positives:
    """The positives of every query that a list asks for.

    Judged in the split, or labelled above 0 in a list, for the query itself or for
    another of the same text.
    """
    texts, qrels = collection.queries(split), collection.qrels(split)
    judged = [qrels[query_id] for query_id in texts]
    wanted = np.unique(table.query_rows)
    names: dict[str, int] = {}
    groups = np.full(len(texts), -1, np.int32)
    keys = [normalise_text(text) for text in texts.values()]
    for row in wanted.tolist():
        groups[row] = names.setdefault(keys[row], len(names))
    # a query without a list of its own still lends its answers to its twins
    found = [(names[key], row) for row, key in enumerate(keys) if key in names]
    ids: list[str] = []
    owners: list[int] = []
    for group, row in found:
        positives = [doc for doc, grade in judged[row].items() if grade > 0]
        ids += positives
        owners += [group] * len(positives)
    rows = collection.docs.rows(ids)
    sizes = np.diff(table.bounds)
    labelled = table.labels > 0
    pairs = np.stack(
        [
            np.concatenate(
                [
                    np.array(owners, np.int64)[rows >= 0],
                    np.repeat(groups[table.query_rows], sizes)[labelled],
                ]
            ),
            np.concatenate([rows[rows >= 0], table.doc_rows[labelled]]),
        ]
    )
    pairs = np.unique(pairs, axis=1)  # sorted by group
    bounds = np.searchsorted(pairs[0], np.arange(len(names) + 1))
    return Positives(groups, bounds.astype(np.int64), pairs[1].astype(np.int32))
