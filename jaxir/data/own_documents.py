"""A user's own documents, as they lie about: text files, tables, JSON.

========== =========================================================================
what       becomes documents so
========== =========================================================================
a folder   each ``.txt``, ``.md`` or ``.markdown`` file in it and below; the id is the
           path within the folder, the title the first heading or the file's name
``.csv``   a row each, under a header line; separated by commas, semicolons or tabs
``.tsv``   the same, separated by tabs
``.jsonl`` an object a line (also ``.ndjson``); ``.json`` holds a list of them
========== =========================================================================

Tables and JSON may end in ``.gz``.  What has no text is left out and counted; whatever
else is wrong is an :class:`~jaxir.errors.InputError` with its place.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxir.data.formats import Doc
from jaxir.data.lines import (
    check_identifier,
    json_object,
    numbered_lines,
    whole_lines,
)
from jaxir.data.passages import cut_passages, markdown_sections
from jaxir.errors import InputError

__all__ = ["Fields", "Found", "own_documents"]

_ENDINGS = (".txt", ".md", ".markdown")
_KINDS = "a folder of .txt and .md files, or a .csv, .tsv, .jsonl or .json file"
_MOST_CHARACTERS = 2**31 - 1  # of a table's cell; the csv module stops at 131,072
_USUAL = {
    "id": ("_id", "id", "docid", "doc_id", "docno"),
    "title": ("title", "name", "subject", "headline"),
    "text": ("text", "contents", "content", "body", "description"),
}


class Fields(NamedTuple):
    """Which columns or keys are what; the usual names where nothing is named.

    Attributes:
      id: holds the id; where there is none, records are numbered from 1.
      title: holds the title, if any.
      text: hold the text, joined by a line break.
    """

    id: str | None = None
    title: str | None = None
    text: tuple[str, ...] = ()


class Found(NamedTuple):
    """A document with the place that a complaint about it names.

    Attributes:
      where: file, or ``file:line``.
      doc: the document; empty title and text where the record has none.
    """

    where: str
    doc: Doc


def own_documents(
    path: str | os.PathLike, *, fields: Fields | None = None, words: int | None = None
) -> Iterator[Found]:
    """Walks over the documents of a folder or file.

    Args:
      path: what the module's text lists.
      fields: columns or keys; not for folders.
      words: cut longer texts into passages of at most so many words, which are
        documents ``ID#1``, ``ID#2`` and so on; Markdown is cut at headings first, and a
        passage's title names its section.  None keeps texts whole.

    Raises:
      InputError: nothing of these kinds stands there, a record is malformed, a column
        is missing, or an id is unusable.

    Example::

      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> _ = (folder / "rivers.md").write_text("# Rivers\\n\\nThey carry clay.")
      >>> next(own_documents(folder)).doc
      Doc(doc_id='rivers.md', title='Rivers', text='They carry clay.')
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if fields is not None and fields != Fields():
            raise InputError(
                path, "columns named for a folder of texts", "a table or JSON",
                "leave the columns out",
            )  # fmt: skip
        yield from _of_folder(path, words)
        return
    if not path.is_file():
        raise InputError(path, "no such file or folder", _KINDS, "check the path")
    for number, (where, record) in enumerate(_records(path), 1):
        doc = _record_doc(where, number, record, fields or Fields())
        parts = [doc.text] if words is None else cut_passages(doc.text, words)
        for doc_id, text in _named(doc.doc_id, parts):
            yield Found(where, Doc(doc_id, doc.title, text))


def _named(doc_id: str, parts: list[str]) -> Iterable[tuple[str, str]]:
    """A single passage, or none at all, keeps the id of its document."""
    if len(parts) < 2:
        return [(doc_id, "".join(parts))]
    return [(f"{doc_id}#{n}", part) for n, part in enumerate(parts, 1)]


# ------------------------------------------------------------------ folders of texts


def _of_folder(folder: Path, words: int | None) -> Iterator[Found]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _ENDINGS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise InputError(
            folder, "no .txt or .md files in it or below", _KINDS,
            "convert other files to text first, as with `pdftotext`",
        )  # fmt: skip
    for path in files:
        name = path.relative_to(folder).as_posix()
        check_identifier(str(path), "file name", name)
        yield from _of_file(path, name, words)


def _of_file(path: Path, name: str, words: int | None) -> Iterator[Found]:
    text = "".join(line for _, line in whole_lines(path)).replace("\r\n", "\n")
    title = path.stem.replace("_", " ").replace("-", " ").strip()
    if path.suffix.lower() == ".txt":
        parts = [text.strip()] if words is None else cut_passages(text, words)
        titled = [(title, part) for part in parts if part]
    else:
        titled = _of_markdown(text, title, words)
    named = _named(name, [part for _, part in titled])
    titles = [heading for heading, _ in titled] or [""]
    for heading, (doc_id, part) in zip(titles, named, strict=True):
        yield Found(str(path), Doc(doc_id, heading, part))


def _of_markdown(text: str, title: str, words: int | None) -> list[tuple[str, str]]:
    """Titles and texts of one file's documents."""
    sections = markdown_sections(text)
    title = next((section.heading for section in sections if section.heading), title)
    if words is None:
        parts = [
            part
            for heading, below in sections
            for part in (heading if heading != title else "", below)
            if part
        ]
        return [(title, "\n\n".join(parts))] if parts else []
    return [
        (title if heading in ("", title) else f"{title}: {heading}", part)
        for heading, below in sections
        for part in cut_passages(below, words)
    ]


# ------------------------------------------------------------------- tables and JSON


def _records(path: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Each record with its place."""
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind in (".csv", ".tsv"):
        return _table(path, "\t" if kind == ".tsv" else "")
    if kind in (".jsonl", ".ndjson"):
        return _json_lines(path)
    if kind == ".json":
        return _json_list(path)
    raise InputError(path, f"a file that ends in {kind!r}", _KINDS, "convert it")


def _table(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, str]]]:
    before = csv.field_size_limit(_MOST_CHARACTERS)
    lines, line = (text for _, text in whole_lines(path)), 1
    try:
        head = next(lines, "")
        if not head.strip():
            raise InputError(path, "no header line", "names of columns above the rows")
        delimiter = delimiter or max(",;\t", key=head.count)
        (names,) = csv.reader([head], delimiter=delimiter, strict=True)
        columns = [name.strip() for name in names]
        _check_columns(path, columns)
        line, rows = 2, csv.reader(lines, delimiter=delimiter, strict=True)
        for cells in rows:
            if any(cell.strip() for cell in cells):
                if len(cells) != len(columns):
                    raise InputError(
                        f"{path}:{line}", f"{len(cells)} columns",
                        f"{len(columns)}, as in the header",
                        f'put a cell that holds {delimiter!r} in "quotes"',
                    )  # fmt: skip
                yield f"{path}:{line}", dict(zip(columns, cells, strict=True))
            line = rows.line_num + 2  # a cell in quotes may hold lines
    except csv.Error as error:
        raise InputError(
            f"{path}:{line}", f"not a row of a table ({error})",
            'cells in whole "quotes"', 'write a quote within quotes as ""',
        ) from error  # fmt: skip
    finally:
        csv.field_size_limit(before)


def _check_columns(path: Path, columns: list[str]) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise InputError(
            f"{path}:1", f"column {twice[0]!r} twice", "names that differ",
            "rename one",
        )  # fmt: skip


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in numbered_lines(path):
        yield f"{path}:{number}", json_object(path, number, line)


def _json_list(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        records = json.loads("".join(line for _, line in whole_lines(path)))
    except (ValueError, RecursionError) as error:
        raise InputError(
            path, f"broken JSON ({error})", "a list of objects",
            "mend it; a file of one object a line ends in .jsonl",
        ) from error  # fmt: skip
    if not isinstance(records, list):
        raise InputError(
            path, f"a JSON {type(records).__name__}", "a list of objects",
            "take the list out of it",
        )  # fmt: skip
    for row, record in enumerate(records):
        where = f"{path}[{row}]"
        if not isinstance(record, dict):
            raise InputError(where, f"a JSON {type(record).__name__}", "an object")
        yield where, record


def _record_doc(
    where: str, number: int, record: Mapping[str, Any], fields: Fields
) -> Doc:
    texts = fields.text or _usual(record, "text")
    if not texts:
        raise InputError(
            where, "nothing that is called " + ", ".join(_USUAL["text"]),
            f"one of: {', '.join(record)}", "name it, as with --text COLUMN",
        )  # fmt: skip
    ids = (fields.id,) if fields.id else _usual(record, "id")
    titles = (fields.title,) if fields.title else _usual(record, "title")
    doc_id = _value(where, record, ids[0]).strip() if ids else str(number)
    check_identifier(where, ids[0] if ids else "number", doc_id)
    title = _value(where, record, titles[0]).strip() if titles else ""
    parts = [_value(where, record, name).strip() for name in texts]
    return Doc(doc_id, title, "\n".join(part for part in parts if part))


def _usual(record: Mapping[str, Any], what: str) -> tuple[str, ...]:
    """The first of the usual names that the record has, in any case of letters."""
    names = {name.lower(): name for name in record}
    return tuple(names[name] for name in _USUAL[what] if name in names)[:1]


def _value(where: str, record: Mapping[str, Any], name: str) -> str:
    if name not in record:
        raise InputError(
            where, f"no {name!r}", f"one of: {', '.join(record)}", "check the name"
        )
    value = record[name]
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    raise InputError(
        where, f"{name!r} is {json.dumps(value)[:40]}", "a text, number or texts",
        "write it as one text",
    )  # fmt: skip
