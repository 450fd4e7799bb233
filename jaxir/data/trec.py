"""TREC's marked-up files: topics and documents, SGML with missing tags, or XML.

Topics are the ``<top>`` records of the ad hoc tracks, whose fields are closed by the
next field (https://trec.nist.gov/data/topics_eng), or the ``<topic number="…">``
records of later tracks.  Documents are ``<DOC>`` records with a ``<DOCNO>``.
"""

import html
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from jaxir.data.lines import numbered_lines
from jaxir.errors import InputError

__all__ = ["Marked", "read_trec_docs", "read_trec_topics"]

_RECORD = re.compile(r"<top(?:ic)?(?:\s[^>]*)?>", re.IGNORECASE)
_RECORD_END = re.compile(r"</top(?:ic)?\s*>", re.IGNORECASE)
_NUMBER_ATTRIBUTE = re.compile(r"\b(?:number|id|num)\s*=\s*[\"']([^\"']+)[\"']", re.I)
_TAG = re.compile(r"</?[A-Za-z!?][^>]*>")
_TITLE_TAGS = ("title", "headline", "head", "hl", "ttl", "ti")
_DOC_START = re.compile(r"<DOC>", re.IGNORECASE)
_DOC_END = re.compile(r"</DOC>", re.IGNORECASE)
_DOCNO = re.compile(r"<DOCNO>(.*?)</DOCNO>", re.IGNORECASE | re.DOTALL)
_TEXT = re.compile(r"<TEXT>(.*?)(?:</TEXT>|(?=<TEXT>)|\Z)", re.IGNORECASE | re.DOTALL)
_HEADERS = re.compile(
    r"<(DOCNO|DOCHDR|DOCID|DOCOLDNO)>.*?</\1>", re.IGNORECASE | re.DOTALL
)


class Marked(NamedTuple):
    """One record of a marked-up file.

    Attributes:
      line: number of the line where the record begins, from 1.
      identifier: topic number or DOCNO.
      title: title or headline of a document, possibly empty.
      text: the query or the body.
    """

    line: int
    identifier: str
    title: str
    text: str


def _plain(markup: str) -> str:
    """Text without tags and entities, white space folded."""
    return " ".join(html.unescape(_TAG.sub(" ", markup)).split())


def _field(record: str, name: str) -> str | None:
    """Content of a field up to its end tag or the next tag, None if absent."""
    match = re.search(rf"<{name}(?:\s[^>]*)?>([^<]*)", record, re.IGNORECASE)
    return None if match is None else html.unescape(match.group(1)).strip()


def read_trec_topics(path: str | os.PathLike) -> Iterator[Marked]:
    """Yields topics: the number and the title (or ``<query>``) of each.

    Raises:
      InputError: no topic in the file, a topic without number, or without text.
    """
    lines = list(numbered_lines(path))
    starts, size = [], 0
    for _, content in lines:
        starts.append(size)
        size += len(content) + 1
    text = "\n".join(content for _, content in lines)
    matches = list(_RECORD.finditer(text))
    if not matches:
        raise InputError(path, "no <top> or <topic>", "TREC topics", "check the file")
    current = 0
    for match, following in zip(matches, [*matches[1:], None], strict=True):
        while current + 1 < len(starts) and starts[current + 1] <= match.start():
            current += 1
        line = lines[current][0]
        stop = len(text) if following is None else following.start()
        record = text[match.end() : stop]
        end = _RECORD_END.search(record)
        record = record[: end.start()] if end else record
        attribute = _NUMBER_ATTRIBUTE.search(match.group())
        number = attribute.group(1) if attribute else _field(record, "num")
        number = re.sub(r"^Number:\s*", "", number or "", flags=re.IGNORECASE).strip()
        if not number:
            raise InputError(
                f"{path}:{line}", "a topic without number", "<num> or number=",
                "add it",
            )  # fmt: skip
        query = _field(record, "title") or _field(record, "query") or ""
        query = re.sub(r"^Topic:\s*", "", query, flags=re.IGNORECASE)
        yield Marked(line, number, "", " ".join(query.split()))


def _document(path: str | os.PathLike, line: int, record: str) -> Marked:
    """One ``<DOC>`` record taken apart."""
    number = _DOCNO.search(record)
    if number is None or not number.group(1).strip():
        raise InputError(
            f"{path}:{line}", "a <DOC> without <DOCNO>", "<DOCNO>id</DOCNO>", "add it"
        )
    rest = _HEADERS.sub(" ", record)
    title = ""
    for tag in _TITLE_TAGS:
        match = re.search(rf"<{tag}>(.*?)</{tag}>", rest, re.IGNORECASE | re.DOTALL)
        if match:
            title = _plain(match.group(1))
            rest = rest[: match.start()] + " " + rest[match.end() :]
            break
    sections = _TEXT.findall(rest)
    text = _plain(" ".join(sections)) if sections else _plain(rest)
    return Marked(line, number.group(1).strip(), title, text)


def read_trec_docs(path: str | os.PathLike) -> Iterator[Marked]:
    """Yields documents of a TREC file, one ``<DOC>`` in memory at a time.

    The text is that of the ``<TEXT>`` sections, or of the whole record when it has
    none (as in TREC web files), without tags; the title is the first of ``<TITLE>``,
    ``<HEADLINE>`` and their abbreviations.

    Raises:
      InputError: text outside a ``<DOC>``, a record that does not end, or one without
        ``<DOCNO>``.
    """
    begin = 0
    record: list[str] = []
    for number, line in numbered_lines(path):
        while line.strip():
            if not begin:
                start = _DOC_START.search(line)
                before = line[: start.start()] if start else line
                if _TAG.sub("", before).strip():
                    raise InputError(
                        f"{path}:{number}", f"{before.strip()[:40]!r} outside a <DOC>",
                        "<DOC>", "remove it or close the record before it later",
                    )  # fmt: skip
                if start is None:
                    break
                begin, record, line = number, [], line[start.end() :]
            end = _DOC_END.search(line)
            nested = _DOC_START.search(line, 0, end.start() if end else len(line))
            if nested:
                raise InputError(
                    f"{path}:{number}", f"<DOC> inside the one of line {begin}",
                    "</DOC>", "close the record",
                )  # fmt: skip
            record.append(line[: end.start()] if end else line)
            if end is None:
                break
            yield _document(path, begin, "\n".join(record))
            begin, line = 0, line[end.end() :]
    if begin:
        raise InputError(
            f"{path}:{begin}", "a <DOC> that does not end", "</DOC>",
            "the file may be cut short; fetch it again",
        )  # fmt: skip
