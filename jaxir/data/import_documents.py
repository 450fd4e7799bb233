"""A user's own documents become a collection: a BEIR folder that every verb opens.

There are no queries, hence no judgments, unless titles are taken for queries: then each
title asks for the text below it, and the text stands without it.  That is material to
train a retriever on where nobody has judged anything, and to measure it on titles that
it has not seen.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxir.data.formats import Doc, Qrels, write_corpus, write_qrels, write_queries
from jaxir.data.own_documents import Fields, Found, own_documents
from jaxir.errors import InputError
from jaxir.files import atomic_directory
from jaxir.progress import progress_bar, say

__all__ = ["SPLITS", "Imported", "import_documents"]

SPLITS = (("train", 0.8), ("dev", 0.1), ("test", 0.1))
"""Names of the splits of title queries, and the share of the titles each is given."""

_MAX_SHARED = 5  # a title of more documents than this says nothing of any of them
_LONG = 200  # words: about what MiniLM reads of an English text


class Imported(NamedTuple):
    """What :func:`import_documents` wrote.

    Attributes:
      documents: their number.
      without_text: records left out, since they have neither title nor text.
      long: documents of more than 200 words, of which an encoder reads the beginning.
      queries: titles that became queries.
    """

    documents: int
    without_text: int
    long: int
    queries: int


class _Kept:
    """Walks over what is kept, and counts; refuses an id that comes again."""

    def __init__(self, found: Iterator[Found], *, take_titles: bool) -> None:
        self._found, self._take_titles = found, take_titles
        self.without_text = self.long = 0
        self.places: dict[str, str] = {}
        self.titles: dict[str, list[tuple[str, str]]] = {}

    def __iter__(self) -> Iterator[Doc]:
        for where, doc in progress_bar(self._found, label="import", unit="doc"):
            text = doc.text if self._take_titles else doc.title or doc.text
            if not text:
                self.without_text += 1
                continue
            if doc.doc_id in self.places:
                raise InputError(
                    where,
                    f"id {doc.doc_id!r} again, first in {self.places[doc.doc_id]}",
                    "ids that differ", "rename one, or name another column",
                )  # fmt: skip
            self.places[doc.doc_id] = where
            self.long += len(doc.text.split()) > _LONG
            if self._take_titles:
                if doc.title:
                    key = " ".join(doc.title.lower().split())
                    self.titles.setdefault(key, []).append((doc.title, doc.doc_id))
                doc = doc._replace(title="")
            yield doc


def import_documents(
    path: str | os.PathLike,
    directory: str | os.PathLike,
    *,
    fields: Fields | None = None,
    words: int | None = None,
    title_queries: bool = False,
) -> Imported:
    """Writes documents as a collection.

    Args:
      path: a folder of texts, a table or JSON, as
        :func:`jaxir.data.own_documents.own_documents` reads them.
      directory: the folder to write; an existing one is replaced as a whole.
      fields: columns or keys of a table or JSON.
      words: the most words of a document; longer ones become several.
      title_queries: take the titles out of the documents and write them as queries
        with judgments, in the splits of :data:`SPLITS`.  A title is drawn into a split
        by its hash; one that more than five documents share becomes no query.

    Raises:
      InputError: as ``own_documents``; an id twice, no document with a text, too few
        titles for three splits, or a place that cannot be written.

    Example::

      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> table = folder / "parts.csv"
      >>> _ = table.write_text("id,name,description\\n7,Bolt,holds a wheel\\n")
      >>> import_documents(table, folder / "collection").documents
      1
      >>> print((folder / "collection" / "corpus.jsonl").read_text().strip())
      {"_id": "7", "title": "Bolt", "text": "holds a wheel"}
    """
    if words is not None and words < 1:
        raise InputError("words", str(words), "at least 1")
    found = own_documents(path, fields=fields, words=words)
    kept = _Kept(found, take_titles=title_queries)
    with atomic_directory(directory) as folder:
        count = write_corpus(folder / "corpus.jsonl", kept)
        if not count:
            raise InputError(path, "no document with a text", "at least one")
        queries, judged = _asked(kept.titles) if title_queries else ({}, {})
        if title_queries:
            _require_splits(path, judged, len(queries))
            write_queries(folder / "queries.jsonl", queries)
        for split, qrels in judged.items():
            write_qrels(folder / "qrels" / f"{split}.tsv", qrels)
    if kept.without_text:
        say(f"{path}: {kept.without_text} without a text left out")
    if kept.long:
        say(
            f"{path}: {kept.long} of {count} documents have more than {_LONG} words; a "
            "model reads their beginning, --words 180 cuts them into passages"
        )
    return Imported(count, kept.without_text, kept.long, len(queries))


def _asked(
    titles: dict[str, list[tuple[str, str]]],
) -> tuple[dict[str, str], dict[str, Qrels]]:
    """Queries by id, and judgments by split."""
    queries: dict[str, str] = {}
    judged: dict[str, Qrels] = {name: {} for name, _ in SPLITS}
    for key, named in titles.items():
        if len(named) > _MAX_SHARED:
            continue
        digest = hashlib.sha256(key.encode()).hexdigest()
        query_id = f"q{digest[:12]}"
        queries[query_id] = named[0][0]
        judged[_split(digest)][query_id] = {doc_id: 1 for _, doc_id in named}
    return queries, judged


def _split(digest: str) -> str:
    place = int(digest[-8:], 16) / 2**32
    for name, share in SPLITS:
        place -= share
        if place < 0:
            return name
    return SPLITS[-1][0]


def _require_splits(
    path: str | os.PathLike, judged: dict[str, Qrels], count: int
) -> None:
    empty = [name for name, qrels in judged.items() if not qrels]
    if empty:
        raise InputError(
            Path(path), f"{count} titles, none of them in split {empty[0]!r}",
            "some dozens of titles", "leave --title_queries out, or add documents",
        )  # fmt: skip
