"""Where the parts of a collection stand: folders as people have them, and ir_datasets.

:func:`folder_layout` finds the files of a folder by name and tells BEIR, MS MARCO and
TREC apart by the content of the document file; :func:`irds_layout` asks ir_datasets.
"""

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jaxir.data.formats import (
    Doc,
    Qrels,
    corpus_with_lines,
    read_qrels,
    read_queries,
)
from jaxir.data.lines import first_line
from jaxir.data.store import STORE_VERSION, Source
from jaxir.errors import InputError

__all__ = ["Layout", "folder_layout", "irds_layout"]

_CORPUS_STEMS = ("corpus", "collection", "documents", "docs", "msmarco-docs")
_ENDINGS = ("", ".jsonl", ".json", ".tsv", ".trec", ".txt", ".xml", ".sgml", ".sgm")
_QRELS = r"qrels?(?![a-z])"
_KINDS = {"{": "beir", "<": "trec"}


class Layout(NamedTuple):
    """The parts of a collection, each to be read when asked for.

    Attributes:
      name: short name, for messages.
      path: the folder, or ``irds:…``.
      kind: ``beir``, ``msmarco``, ``trec`` or ``irds``.
      documents: begins a walk over the documents.
      store_key: name of the derived store; changes when the documents change.
      queries: reads all queries.
      split_queries: reads the queries of the splits that have a file of their own.
      judgments: reads the judgments of each split.
    """

    name: str
    path: str
    kind: str
    documents: Source
    store_key: str
    queries: Callable[[], dict[str, str]]
    split_queries: Mapping[str, Callable[[], dict[str, str]]]
    judgments: Mapping[str, Callable[[], Qrels]]


def _key(name: str, parts: Iterable[object]) -> str:
    """A file name that changes with the parts."""
    text = "\n".join(map(str, (STORE_VERSION, *parts)))
    digest = hashlib.sha256(text.encode()).hexdigest()[:24]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', name)[:40]}-{digest}"


def _without_endings(name: str) -> str:
    return re.sub(r"(\.(gz|jsonl?|tsv|txt|qrels?|topics|xml|sgml?|trec))+$", "", name)


def _split_name(name: str, kind: str) -> str:
    """``qrels.dev.small.tsv`` -> ``dev.small``; ``test`` where nothing is left."""
    stem = re.sub(kind, "", _without_endings(name), flags=re.IGNORECASE)
    return stem.strip("._-") or "test"


def _files(folder: Path) -> list[Path]:
    """Files of a folder by name, plain before gzip, hidden ones left out."""
    found = [p for p in folder.iterdir() if p.is_file() and p.name[0] not in "._"]
    return sorted(found, key=lambda p: (p.name.removesuffix(".gz"), len(p.name)))


def _corpus_files(folder: Path) -> list[Path]:
    for stem in _CORPUS_STEMS:
        for ending in _ENDINGS:
            for packed in ("", ".gz"):
                path = folder / f"{stem}{ending}{packed}"
                if path.is_file():
                    return [path]
                if path.is_dir() and not ending and not packed:
                    inside = [p for p in sorted(path.rglob("*")) if p.is_file()]
                    inside = [p for p in inside if p.name[0] not in "._"]
                    if inside:
                        return inside
    raise InputError(
        folder, "no documents",
        "corpus.jsonl (BEIR), collection.tsv (MS MARCO) or docs/ (TREC), or .gz",
        "name the file so or check the path",
    )  # fmt: skip


def _walk(files: list[Path]) -> Iterator[tuple[str, int, Doc]]:
    for path in files:
        name = str(path)
        for line, doc in corpus_with_lines(path):
            yield name, line, doc


def _query_files(folder: Path) -> dict[str, Path]:
    """Query files by split; one file for all of them has the name ``test`` or so."""
    for beir in ("queries.jsonl", "queries.jsonl.gz"):
        if (folder / beir).is_file():
            return {"": folder / beir}
    found: dict[str, Path] = {}
    for path in _files(folder):
        if re.search(r"queries|topics", path.name, re.IGNORECASE):
            found.setdefault(_split_name(path.name, "queries|topics"), path)
    return found


def _qrels_files(folder: Path) -> dict[str, Path]:
    inside = folder / "qrels"
    found: dict[str, Path] = {}
    if inside.is_dir():
        for path in _files(inside):
            found.setdefault(_split_name(path.name, r"^qrels[._-]"), path)
        return found
    for path in _files(folder):
        if re.search(_QRELS, path.name, re.IGNORECASE):
            found.setdefault(_split_name(path.name, _QRELS), path)
    return found


def _read_all_queries(where: str, readers: Iterable[Callable]) -> dict[str, str]:
    queries: dict[str, str] = {}
    for read in readers:
        for query_id, text in read().items():
            if queries.setdefault(query_id, text) != text:
                raise InputError(
                    where, f"query {query_id!r} has two texts in two files", "one",
                    "ask for one split, or rename one",
                )  # fmt: skip
    if not queries:
        raise InputError(
            where, "no queries", "queries.jsonl, queries.*.tsv or topics.*",
            "add the file",
        )  # fmt: skip
    return queries


def folder_layout(path: str | os.PathLike) -> Layout:
    """The parts of a folder.

    ``corpus.jsonl`` with ``queries.jsonl`` and ``qrels/<split>.tsv`` (BEIR);
    ``collection.tsv`` with ``queries.<split>.tsv`` and ``qrels.<split>.tsv`` (MS
    MARCO); ``docs/`` or one document file with ``topics.<split>.*`` and
    ``qrels.<split>.*`` (TREC).  Mixtures work as well, and every file may end in
    ``.gz``.

    Raises:
      InputError: no such folder, or none of its files holds documents.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(
            folder, "not a folder" if folder.exists() else "no such folder",
            "a folder with corpus.jsonl, or irds:ID", "check the path",
        )  # fmt: skip
    resolved = folder.resolve()
    corpus = _corpus_files(folder)
    stats = [(p.resolve(), p.stat()) for p in corpus]
    key = _key(resolved.name, ((p, s.st_size, s.st_mtime_ns) for p, s in stats))
    kind = _KINDS.get(first_line(corpus[0])[1].lstrip()[:1], "msmarco")
    query_readers = {
        k: partial(read_queries, p) for k, p in _query_files(folder).items()
    }
    qrels = {k: partial(read_qrels, p) for k, p in _qrels_files(folder).items()}
    own = query_readers if len(query_readers) > 1 else {}
    return Layout(
        resolved.name,
        str(folder),
        kind,
        partial(_walk, corpus),
        key,
        # a folder of documents alone is no mistake; judgments without queries are
        partial(_read_all_queries, str(folder), list(query_readers.values()))
        if query_readers or qrels
        else dict,
        own,
        qrels,
    )


def _irds_doc(record: Any) -> Doc:
    title = getattr(record, "title", "") or ""
    if hasattr(record, "text"):
        return Doc(record.doc_id, title, record.text or "")
    if hasattr(record, "body"):
        return Doc(record.doc_id, title, record.body or "")
    return Doc(record.doc_id, "", record.default_text() or "")


def _fetching(where: str, records: Callable[[], Iterable]) -> Iterator:
    """Walks what ir_datasets yields; a failed download is one line."""
    try:
        yield from records()
    except (OSError, RuntimeError) as error:
        reason = str(error.args[0] if error.args else error)[:100]
        raise InputError(
            where, f"ir_datasets could not provide it ({reason})",
            remedy="check the network, or the licence its page names",
        ) from error  # fmt: skip


def _irds_documents(where: str, dataset: Any) -> Iterator[tuple[str, int, Doc]]:
    for number, record in enumerate(_fetching(where, dataset.docs_iter), 1):
        yield where, number, _irds_doc(record)


def _irds_queries(where: str, dataset: Any) -> dict[str, str]:
    queries: dict[str, str] = {}
    for record in _fetching(where, dataset.queries_iter):
        text = record.default_text()
        if not text.strip():
            raise InputError(where, f"query {record.query_id!r} has empty text")
        queries[record.query_id] = text
    return queries


def _irds_qrels(where: str, dataset: Any) -> Qrels:
    qrels: Qrels = {}
    for record in _fetching(where, dataset.qrels_iter):
        qrels.setdefault(record.query_id, {})[record.doc_id] = int(record.relevance)
    return qrels


def _documents_id(dataset: Any) -> str | None:
    """The id that several ids with the same documents share."""
    try:
        return dataset.docs_namespace()
    except TypeError:  # ir_datasets 0.6 defines Vaswani's without `self`
        return None


def irds_layout(dataset_id: str) -> Layout:
    """The parts of an ir_datasets id, such as ``msmarco-passage/dev/small``.

    Its splits are the id itself and the ids below it that have judgments, named by
    what follows the documents' id with dots for slashes: ``dev.small``.  ir_datasets
    downloads on first use, into its own cache.

    Raises:
      InputError: ir_datasets knows no such id, or it has no documents.
    """
    import ir_datasets

    where = f"irds:{dataset_id}"
    try:
        dataset = ir_datasets.load(dataset_id)
    except KeyError as error:
        near = difflib.get_close_matches(dataset_id, list(ir_datasets.registry), 3)
        raise InputError(
            where, "ir_datasets has no such id", " or ".join(near),
            "see https://ir-datasets.com",
        ) from error  # fmt: skip
    if not dataset.has_docs():
        raise InputError(where, "this id has no documents", "one with documents")
    space = _documents_id(dataset) or dataset_id
    members = {dataset_id: dataset} if dataset.has_qrels() else {}
    for name in [n for n in ir_datasets.registry if n.startswith(f"{dataset_id}/")]:
        member = ir_datasets.load(name)
        if member.has_qrels() and member.has_docs():
            members[name] = member
    splits = {}
    for name, member in members.items():
        below = name.removeprefix(space).strip("/")
        splits[below.replace("/", ".") or "test"] = (f"irds:{name}", member)
    own = {
        split: partial(_irds_queries, place, member)
        for split, (place, member) in splits.items()
        if member.has_queries()
    }
    readers = [partial(_irds_queries, where, dataset)] if dataset.has_queries() else []
    return Layout(
        space.replace("/", "-"),
        where,
        "irds",
        partial(_irds_documents, where, dataset),
        _key(f"irds-{space}", [space, ir_datasets.__version__]),
        partial(_read_all_queries, where, readers or list(own.values())),
        own,
        {s: partial(_irds_qrels, place, m) for s, (place, m) in splits.items()},
    )
