"""Collections: documents, queries and judgments, whatever their form on disk.

A collection folder is only read, never written.  The documents are copied once into a
memory-mapped store under :func:`jaxir.files.cache_root`, from which they are opened in
milliseconds; the store's name follows from path, size and time of the document files,
so that a changed file gets a new store.
"""

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxir.data.folders import Layout, folder_layout, irds_layout
from jaxir.data.formats import Qrels, write_corpus, write_qrels, write_queries
from jaxir.data.store import DocStore, build_store
from jaxir.errors import InputError
from jaxir.files import atomic_directory, cache_root, locked
from jaxir.progress import say

__all__ = [
    "Collection",
    "CollectionCheck",
    "DocStore",
    "JudgedQueries",
    "SplitCheck",
    "judged_queries",
    "open_collection",
    "split_spec",
    "write_beir",
]


class SplitCheck(NamedTuple):
    """What a split holds.

    Attributes:
      num_queries: queries with judgments.
      num_judgments: pairs judged.
      num_relevant: pairs judged above 0.
      grades: judgments by grade.
      absent_queries: judged queries without text.
      absent_docs: judged documents that the collection does not have.
    """

    num_queries: int
    num_judgments: int
    num_relevant: int
    grades: dict[int, int]
    absent_queries: int
    absent_docs: int


class CollectionCheck(NamedTuple):
    """What a collection holds, after every line of it was read.

    Attributes:
      name: short name.
      path: folder, or ``irds:…``.
      kind: ``beir``, ``msmarco``, ``trec`` or ``irds``.
      num_docs: documents.
      num_empty_docs: documents without title and text (only with ``allow_empty``).
      mean_words: words of title and text, over at most 10,000 documents spread evenly.
      num_queries: queries with text.
      splits: by name.
      fingerprint: sha256 of ids and texts.
      store: where the derived store lives.
    """

    name: str
    path: str
    kind: str
    num_docs: int
    num_empty_docs: int
    mean_words: float
    num_queries: int
    splits: dict[str, SplitCheck]
    fingerprint: str
    store: str

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        splits = {name: split._asdict() for name, split in self.splits.items()}
        return {**self._asdict(), "splits": splits}


class Collection:
    """Documents, queries and judgments; made by :func:`open_collection`.

    It can be handed to another process: it travels as its spec.

    Attributes:
      spec: what :func:`open_collection` was given.
      path: the folder, or ``irds:…``.
      name: short name.
      kind: ``beir``, ``msmarco``, ``trec`` or ``irds``.
    """

    def __init__(self, spec: str, layout: Layout, *, allow_empty: bool) -> None:
        self.spec, self.path = spec, layout.path
        self.name, self.kind = layout.name, layout.kind
        self._layout, self._allow_empty = layout, allow_empty
        self._qrels: dict[str, Qrels] = {}
        self._own_queries: dict[str, dict[str, str]] = {}

    def __reduce__(self) -> tuple:
        return (_reopen, (self.spec, self._allow_empty))

    def __repr__(self) -> str:
        return f"Collection({self.spec!r}, splits={self.splits})"

    @property
    def _store_path(self) -> Path:
        return cache_root() / "collections" / self._layout.store_key

    @cached_property
    def docs(self) -> DocStore:
        """The documents; builds the derived store at the first use of a collection.

        Raises:
          InputError: a malformed document, an id twice, an empty document.
        """
        found = self._stored()
        if found is not None:
            return found
        with locked(self._store_path):  # processes started together build it once
            return self._stored() or build_store(
                self._layout.documents,
                self._store_path,
                name=self.name,
                allow_empty=self._allow_empty,
            )

    def _stored(self) -> DocStore | None:
        """The derived store, None if it is not there or damaged."""
        if not (self._store_path / "meta.json").is_file():
            return None
        try:
            return DocStore(self._store_path)
        except InputError:
            say(f"{self._store_path}: damaged; building it again")
            return None

    @property
    def splits(self) -> list[str]:
        """Names of the splits that have judgments, sorted."""
        return sorted(self._layout.judgments)

    def _split(self, split: str | None) -> str:
        known = ", ".join(self.splits) or "none"
        if split is None and len(self.splits) == 1:
            return self.splits[0]
        if split is None:
            raise InputError(
                self.path, "no split named", f"one of: {known}",
                f"write {self.path}:SPLIT",
            )  # fmt: skip
        if split not in self._layout.judgments:
            raise InputError(
                self.path, f"no split {split!r}", f"one of: {known}", "check the name"
            )
        return split

    @cached_property
    def _all_queries(self) -> dict[str, str]:
        return self._layout.queries()

    def queries(self, split: str | None = None) -> dict[str, str]:
        """Query texts by id, in the order of the file.

        Args:
          split: the queries judged in this split; all of the collection if None.

        Raises:
          InputError: no such split, or a malformed line.
        """
        if split is None:
            return dict(self._all_queries)
        split = self._split(split)
        judged = self.qrels(split)
        texts = self._texts(split)
        return {query_id: texts[query_id] for query_id in texts if query_id in judged}

    def qrels(self, split: str | None = None) -> Qrels:
        """Judgments of a split, as they stand in the file.

        Judgments of documents or queries that the collection lacks are kept, since
        they count in recall; their number is told once.  Documents of an ir_datasets
        id are compared only when they were fetched before.

        Args:
          split: which; may be None when there is only one.

        Raises:
          InputError: no such split, or a malformed line.
        """
        split = self._split(split)
        if split not in self._qrels:
            self._qrels[split] = self._layout.judgments[split]()
            self._warn_absent(split)
        return self._qrels[split]

    def _texts(self, split: str) -> dict[str, str]:
        """Texts of the file that a split's queries stand in, read once."""
        if split not in self._layout.split_queries:
            return self._all_queries
        if split not in self._own_queries:
            self._own_queries[split] = self._layout.split_queries[split]()
        return self._own_queries[split]

    def _absent_queries(self, split: str) -> list[str]:
        texts = self._texts(split)
        return [query_id for query_id in self._qrels[split] if query_id not in texts]

    def _absent_docs(self, split: str) -> list[str]:
        ids = list({doc: None for docs in self._qrels[split].values() for doc in docs})
        rows = self.docs.rows(ids)
        return [ids[i] for i in np.flatnonzero(rows < 0).tolist()]

    def _warn_absent(self, split: str) -> None:
        absent = {"queries": self._absent_queries(split)}
        if self.kind != "irds" or (self._store_path / "meta.json").is_file():
            absent["documents"] = self._absent_docs(split)
        for what, ids in absent.items():
            if ids:
                say(
                    f"{self.path}: the judgments of split {split!r} name {len(ids)} "
                    f"{what} that the collection does not have, such as {ids[0]!r}"
                )

    def check(self) -> CollectionCheck:
        """Reads every line of the collection and counts.

        Raises:
          InputError: the first malformed line.
        """
        docs = self.docs
        sample = range(0, len(docs), max(1, len(docs) // 10_000))
        words = sum(len(docs.text(row).split()) for row in sample)
        splits = {}
        for split in self.splits:
            qrels = self.qrels(split)
            grades: dict[int, int] = {}
            for judged in qrels.values():
                for grade in judged.values():
                    grades[grade] = grades.get(grade, 0) + 1
            splits[split] = SplitCheck(
                num_queries=len(qrels),
                num_judgments=sum(grades.values()),
                num_relevant=sum(n for grade, n in grades.items() if grade > 0),
                grades=dict(sorted(grades.items())),
                absent_queries=len(self._absent_queries(split)),
                absent_docs=len(self._absent_docs(split)),
            )
        return CollectionCheck(
            name=self.name,
            path=self.path,
            kind=self.kind,
            num_docs=len(docs),
            num_empty_docs=docs.num_empty,
            mean_words=round(words / len(sample), 1),
            num_queries=len(self._all_queries),
            splits=splits,
            fingerprint=docs.fingerprint,
            store=str(docs.directory),
        )


def _reopen(spec: str, allow_empty: bool) -> Collection:
    return open_collection(spec, allow_empty=allow_empty)


def open_collection(
    spec: str | os.PathLike, *, allow_empty: bool = False
) -> Collection:
    """Opens a collection; the documents are read when first asked for.

    Args:
      spec: a folder (BEIR, MS MARCO or TREC; see
        :func:`jaxir.data.folders.folder_layout`) or ``irds:ID``.
      allow_empty: take documents whose title and text are both empty.  A store built
        so is opened by later calls without it.

    Raises:
      InputError: no such folder or id, or no documents in it.
    """
    spec = os.fspath(spec)
    if spec.startswith("irds:"):
        layout = irds_layout(spec.removeprefix("irds:"))
    else:
        layout = folder_layout(spec)
    return Collection(spec, layout, allow_empty=allow_empty)


def split_spec(spec: str) -> tuple[str, str | None]:
    """Takes ``C:split`` apart; the split is None where none is named.

    Example::

      >>> split_spec("data/scifact:test")
      ('data/scifact', 'test')
      >>> split_spec("irds:beir/scifact:train"), split_spec("irds:vaswani")
      (('irds:beir/scifact', 'train'), ('irds:vaswani', None))
    """
    if Path(spec).exists():
        return spec, None
    base, _, split = spec.rpartition(":")
    drive = re.fullmatch(r"[A-Za-z]", base) and split[:1] in ("\\", "/")
    if base in ("", "irds") or not split or drive:
        return spec, None
    return base, split


class JudgedQueries(NamedTuple):
    """What a system is measured on.

    Attributes:
      collection: opened.
      texts: of the queries that are judged, by id.
      qrels: the split's judgments.
    """

    collection: Collection
    texts: dict[str, str]
    qrels: Qrels


def judged_queries(spec: str) -> JudgedQueries:
    """The queries of a split that have judgments.

    Args:
      spec: ``COLLECTION:SPLIT``.

    Raises:
      InputError: no such collection or split, or no query that is judged.
    """
    name, split = split_spec(spec)
    collection = open_collection(name)
    texts, qrels = collection.queries(split), collection.qrels(split)
    texts = {query_id: texts[query_id] for query_id in qrels if query_id in texts}
    if not texts:
        raise InputError(spec, "no judged queries", "at least one")
    return JudgedQueries(collection, texts, qrels)


def write_beir(collection: Collection, directory: str | os.PathLike) -> Path:
    """Writes a collection of any kind as a BEIR folder.

    Raises:
      InputError: a malformed line, or no space.
    """
    directory = Path(directory)
    with atomic_directory(directory) as folder:
        write_corpus(folder / "corpus.jsonl", collection.docs)
        if queries := collection.queries():
            write_queries(folder / "queries.jsonl", queries)
        for split in collection.splits:
            write_qrels(folder / "qrels" / f"{split}.tsv", collection.qrels(split))
    return directory
