"""Readers and writers of the field's files: strict, streaming, gzip or plain.

========== ========================================================================
what       forms, told apart by content
========== ========================================================================
queries    BEIR JSON lines, ``qid<TAB>text`` (MS MARCO), TREC topics (SGML or XML)
documents  BEIR JSON lines (also ``{"id", "contents"}``), ``pid<TAB>text`` (MS MARCO
           passages), ``id<TAB>url<TAB>title<TAB>body`` (MS MARCO documents), ``<DOC>``
qrels      BEIR's three columns with header, TREC's four columns
runs       TREC's six columns, MS MARCO's ``qid<TAB>pid<TAB>rank``
========== ========================================================================

Anything else raises :class:`~jaxir.errors.InputError` with file, line and remedy.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from jaxir.data.lines import (
    check_identifier,
    first_line,
    is_identifier,
    json_field,
    json_object,
    numbered_lines,
    spaced_columns,
    split_columns,
)
from jaxir.data.trec import read_trec_docs, read_trec_topics
from jaxir.errors import InputError
from jaxir.files import atomic_file

__all__ = [
    "Doc",
    "Qrels",
    "Run",
    "read_corpus",
    "read_qrels",
    "read_queries",
    "read_run",
    "write_corpus",
    "write_qrels",
    "write_queries",
    "write_run",
]

Qrels = dict[str, dict[str, int]]
"""Relevance by query id and document id; 0 and below is judged not relevant."""

Run = dict[str, dict[str, float]]
"""Scores by query id and document id, each query's documents best first."""

Path = str | os.PathLike

_DOC_ID_KEYS = ("_id", "id", "docid", "doc_id", "docno")
_QUERY_ID_KEYS = ("_id", "id", "query_id", "qid")
_QRELS_HEADERS = ({"query-id", "query_id", "qid"}, {"corpus-id", "corpus_id", "docid"})


class Doc(NamedTuple):
    """A document as its collection holds it.

    Attributes:
      doc_id: the collection's own id.
      title: the title, empty where there is none.
      text: the body.
    """

    doc_id: str
    title: str
    text: str


def _queries_with_lines(path: Path) -> Iterator[tuple[int, str, str]]:
    first, line = first_line(path)
    head = line.lstrip()[:1]
    if head == "<":
        for topic in read_trec_topics(path):
            yield topic.line, topic.identifier, topic.text
    elif head == "{":
        for number, line in numbered_lines(path):
            record, where = json_object(path, number, line), f"{path}:{number}"
            query_id = json_field(where, record, _QUERY_ID_KEYS, identifier=True)
            text = json_field(where, record, ("text", "query"), identifier=False)
            yield number, query_id, text
    elif "\t" in line:
        for number, line in numbered_lines(path):
            query_id, tab, text = line.partition("\t")
            if not tab:
                raise InputError(
                    f"{path}:{number}", "no tab", "query id, tab, text",
                    "separate the columns with one tab",
                )  # fmt: skip
            check_identifier(f"{path}:{number}", "query id", query_id)
            yield number, query_id, text
    else:
        raise InputError(
            f"{path}:{first}", f"{line[:40]!r}",
            "JSON lines, `id<TAB>text`, or TREC topics", "convert the file to one",
        )  # fmt: skip


def read_queries(path: Path) -> dict[str, str]:
    """Query texts by id, in the order of the file.

    Raises:
      InputError: a malformed line, an id twice, or an empty text.

    Example::

      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "queries.jsonl"
      >>> _ = path.write_text('{"_id": "1", "text": "what is a q-net"}')
      >>> read_queries(path)
      {'1': 'what is a q-net'}
    """
    queries: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, query_id, text in _queries_with_lines(path):
        where = f"{path}:{number}"
        if query_id in queries:
            raise InputError(
                where, f"query id {query_id!r} again, first in line {lines[query_id]}",
                "ids that differ", "remove or rename one",
            )  # fmt: skip
        if not text.strip():
            raise InputError(
                where, f"query {query_id!r} has empty text", "a text",
                "write one or remove the line",
            )  # fmt: skip
        queries[query_id], lines[query_id] = text, number
    return queries


def corpus_with_lines(path: Path) -> Iterator[tuple[int, Doc]]:
    """Yields ``(line, document)``; see :func:`read_corpus`."""
    first, line = first_line(path)
    head = line.lstrip()[:1]
    if head == "<":
        for found in read_trec_docs(path):
            yield found.line, Doc(found.identifier, found.title, found.text)
    elif head == "{":
        for number, line in numbered_lines(path):
            record, where = json_object(path, number, line), f"{path}:{number}"
            doc_id = json_field(where, record, _DOC_ID_KEYS, identifier=True)
            text = json_field(where, record, ("text", "contents"), identifier=False)
            # BEIR dumps hold null for "no title"
            title = ""
            if record.get("title") is not None:
                title = json_field(where, record, ("title",), identifier=False)
            yield number, Doc(doc_id, title, text)
    elif line.count("\t") in (1, 3):
        columns = line.count("\t") + 1
        for number, line in numbered_lines(path):
            parts = line.split("\t")
            if len(parts) != columns:
                raise InputError(
                    f"{path}:{number}", f"{len(parts)} columns",
                    f"{columns} columns separated by tabs, as in line {first}",
                    "mend the line; a text may not contain a tab",
                )  # fmt: skip
            if not is_identifier(parts[0]):
                check_identifier(f"{path}:{number}", "document id", parts[0])
            yield number, Doc(parts[0], parts[2] if columns == 4 else "", parts[-1])
    else:
        raise InputError(
            f"{path}:{first}", f"{line[:40]!r}",
            "JSON lines, `id<TAB>text`, or TREC <DOC> records",
            "convert the file to one",
        )  # fmt: skip


def read_corpus(path: Path) -> Iterator[Doc]:
    """Yields the documents of a file, one in memory at a time.

    That no id occurs twice is checked where the documents are kept,
    :func:`jaxir.data.store.build_store`, since here it would take the corpus' memory.

    Raises:
      InputError: a malformed line.
    """
    for _, doc in corpus_with_lines(path):
        yield doc


def _is_qrels_header(columns: list[str]) -> bool:
    return len(columns) >= 3 and all(
        column.lower() in names
        for column, names in zip(columns, _QRELS_HEADERS, strict=False)
    )


def read_qrels(path: Path) -> Qrels:
    """Judgments of a file: BEIR's with its header line, or TREC's four columns.

    In TREC's form, lines that begin with ``#`` are comments.  The same judgment twice
    counts once.

    Raises:
      InputError: another number of columns, a relevance that is not a whole number, or
        two judgments that contradict each other.
    """
    qrels: Qrels = {}
    width, headed = None, False
    for number, line in numbered_lines(path):
        # below BEIR's header, # may begin an id
        if not headed and line.lstrip().startswith("#"):
            continue
        columns, where = split_columns(line), f"{path}:{number}"
        if width is None:
            if _is_qrels_header(columns):
                width, headed = 3, True
                continue
            width = len(columns)
        if len(columns) != width or width not in (3, 4):
            wanted = width if width in (3, 4) else "3 (BEIR) or 4 (TREC)"
            raise InputError(
                where, f"{len(columns)} columns", f"{wanted} columns",
                "write `query<TAB>doc<TAB>relevance` or `query 0 doc relevance`",
            )  # fmt: skip
        query_id, doc_id, relevance = columns[0], columns[-2], columns[-1]
        check_identifier(where, "query id", query_id)
        check_identifier(where, "document id", doc_id)
        try:
            grade = int(relevance)
        except ValueError as error:
            raise InputError(
                where, f"relevance {relevance!r}", "a whole number",
                "write grades as 0, 1, 2, …",
            ) from error  # fmt: skip
        judged = qrels.setdefault(query_id, {})
        if judged.setdefault(doc_id, grade) != grade:
            raise InputError(
                where,
                f"document {doc_id!r} of query {query_id!r} judged {judged[doc_id]} "
                f"and {grade}",
                "one judgment", "remove one",
            )  # fmt: skip
    if not qrels:
        raise InputError(path, "no judgments", "at least one line", "check the file")
    return qrels


def run_lines(path: Path) -> Iterator[tuple[int, str, str, float]]:
    """Yields ``(line, query, document, score)``; see :func:`read_run`."""
    short = None
    for number, line in numbered_lines(path):
        where = f"{path}:{number}"
        columns = split_columns(line)
        if short is None:
            short = len(columns) == 3
        if (short and len(columns) != 3) or (not short and len(columns) < 6):
            # tabs inside an otherwise space-separated line
            columns = spaced_columns(line)
        if (short and len(columns) != 3) or (not short and len(columns) < 6):
            raise InputError(
                where, f"{len(columns)} columns", "3 columns" if short else "6 columns",
                "write `query Q0 doc rank score tag`",
            )  # fmt: skip
        query_id, doc_id = columns[0], columns[1 if short else 2]
        value = columns[2 if short else 4]
        try:
            rank = int(columns[2 if short else 3])
        except ValueError as error:
            raise InputError(
                where, f"rank {columns[2 if short else 3]!r}", "a whole number",
                "write `query Q0 doc rank score tag`",
            ) from error  # fmt: skip
        try:
            score = -float(rank) if short else float(value)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise InputError(
                where, f"score {value!r}", "a finite number",
                "run the search again or remove the line",
            )  # fmt: skip
        yield number, query_id, doc_id, score


def read_run(path: Path) -> Run:
    """Results of a file, each query's documents by falling score.

    TREC's six columns ``query Q0 doc rank score tag`` (the tag may contain spaces; the
    rank column is not used, as in trec_eval), or MS MARCO's three columns
    ``query<TAB>doc<TAB>rank`` with score ``-rank``.  Equal scores keep the order of
    the file.

    Raises:
      InputError: another number of columns, a rank or score that is not a number, a
        score that is not finite, or a document twice for a query.
    """
    run: Run = {}
    for number, query_id, doc_id, score in run_lines(path):
        results = run.setdefault(query_id, {})
        if doc_id in results:
            raise InputError(
                f"{path}:{number}", f"document {doc_id!r} again for query {query_id!r}",
                "each document once", "remove one line",
            )  # fmt: skip
        results[doc_id] = score
    return {query_id: _by_score(results) for query_id, results in run.items()}


def _by_score(results: Mapping[str, float]) -> dict[str, float]:
    """Documents by falling score; Python's sort keeps the order of equals."""
    return dict(sorted(results.items(), key=lambda item: -item[1]))


def write_run(path: Path, run: Mapping[str, Mapping], *, tag: str = "jaxir") -> None:
    """Writes a run in TREC's six columns, ranks from 1, scores falling.

    Scores are written with all their digits, so that two that differ differ in the
    file.  Equal scores keep their order here and in :func:`read_run`; trec_eval orders
    those by falling document id.  Columns are separated by a space, or by a tab when
    an id contains white space.

    Args:
      path: the file; ``.gz`` compresses.
      run: scores by query and document; ties in the order stored.
      tag: name of the run, one word.

    Raises:
      InputError: a score that is not finite, or an id or tag that no column can hold.
    """
    if not tag or tag.split() != [tag]:
        raise InputError("tag", f"{tag!r}", "one word", "choose another")
    spaced = False
    for query_id, results in run.items():
        check_identifier(str(path), "query id", query_id)
        spaced = spaced or any(len(name.split()) > 1 for name in (query_id, *results))
    gap = "\t" if spaced else " "
    with atomic_file(path) as out:
        for query_id, results in run.items():
            ranked = _by_score({doc: float(score) for doc, score in results.items()})
            for rank, (doc_id, score) in enumerate(ranked.items(), 1):
                if not math.isfinite(score):
                    raise InputError(
                        path, f"score {score} of document {doc_id!r}, query "
                        f"{query_id!r}", "a finite number", "nothing was written",
                    )  # fmt: skip
                check_identifier(str(path), "document id", doc_id)
                row = (query_id, "Q0", doc_id, str(rank), repr(score), tag)
                out.write(gap.join(row) + "\n")


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Writes judgments in BEIR's form: a header, then query, document and relevance.

    Raises:
      InputError: an id that no column can hold.
    """
    with atomic_file(path) as out:
        out.write("query-id\tcorpus-id\tscore\n")
        for query_id, judged in qrels.items():
            check_identifier(str(path), "query id", query_id)
            for doc_id, grade in judged.items():
                check_identifier(str(path), "document id", doc_id)
                out.write(f"{query_id}\t{doc_id}\t{int(grade)}\n")


def write_queries(path: Path, queries: Mapping[str, str]) -> None:
    """Writes query texts as BEIR's JSON lines."""
    with atomic_file(path) as out:
        for query_id, text in queries.items():
            record = {"_id": query_id, "text": text}
            out.write(json.dumps(record, ensure_ascii=False) + "\n")


def write_corpus(path: Path, docs: Iterable[Doc]) -> int:
    """Writes documents as BEIR's JSON lines, streaming; returns their number."""
    count = 0
    with atomic_file(path) as out:
        for doc in docs:
            record = {"_id": doc.doc_id, "title": doc.title, "text": doc.text}
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count
