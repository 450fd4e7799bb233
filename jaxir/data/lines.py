"""Lines of text files, each with its number, so that every complaint can name a place.

UTF-8 only, gzip or plain, a byte-order mark and Windows line ends tolerated.  Lines are
ended by the newline byte alone: other Unicode separators are part of the text.
"""

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxir.errors import InputError
from jaxir.files import open_text

__all__ = [
    "first_line",
    "json_field",
    "json_object",
    "numbered_lines",
    "spaced_columns",
    "split_columns",
    "whole_lines",
]

_BOM = b"\xef\xbb\xbf"
_GAP = re.compile(r"[ \t\n\r\f\v]+")


def whole_lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """Yields ``(number, line)`` of every line with its end, blank ones too, from 1.

    Raises:
      InputError: there is no such file, a line is not UTF-8, or the gzip stream is
        damaged.
    """
    number = 0
    try:
        opened = open_text(path)
    except PermissionError as error:
        raise InputError(path, "cannot be read", remedy="check its rights") from error
    with opened as text:
        # The bytes below the text layer: only so can a bad byte be placed on its line.
        stream: Any = text.buffer
        try:
            for raw in stream:
                number += 1
                if number == 1 and raw.startswith(_BOM):
                    raw = raw[len(_BOM) :]
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{path}:{number}",
                        f"byte 0x{raw[error.start]:02x} is not UTF-8",
                        "UTF-8 text",
                        "convert the file, as with `iconv -f latin1 -t utf-8`",
                    ) from error
                yield number, line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(
                f"{path}:{number + 1}",
                f"the gzip stream is damaged ({error})",
                remedy="fetch the file again",
            ) from error


def numbered_lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """Yields ``(number, line)`` of a file's lines that are not blank, from 1.

    Raises:
      InputError: as :func:`whole_lines`.
    """
    for number, whole in whole_lines(path):
        line = whole.rstrip("\r\n")
        if line and not line.isspace():
            yield number, line


def first_line(path: str | os.PathLike) -> tuple[int, str]:
    """The first line that is not blank, with its number.

    Raises:
      InputError: the file has no such line.
    """
    for number, line in numbered_lines(path):
        return number, line
    raise InputError(path, "the file is empty", "at least one line", "check the path")


def json_object(path: str | os.PathLike, number: int, line: str) -> dict[str, Any]:
    """The JSON object of one line.

    Raises:
      InputError: the line is not JSON, or not an object.
    """
    where = f"{path}:{number}"
    try:
        value = json.loads(line)
    # besides its own errors, numbers of thousands of digits and endless nesting
    except (ValueError, RecursionError) as error:
        column = getattr(error, "colno", 1)
        raise InputError(
            where,
            f"broken JSON at column {column} ({getattr(error, 'msg', error)})",
            "one JSON object a line",
            "mend the line or remove it",
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            where,
            f"a JSON {type(value).__name__}",
            "one JSON object a line",
            "write the file as JSON lines",
        )
    return value


def json_field(
    where: str, record: Mapping[str, Any], names: Sequence[str], *, identifier: bool
) -> str:
    """The first of the named keys that the record has, as text.

    Args:
      where: place for the complaint, ``path:line``.
      record: a JSON object.
      names: keys that mean the same, the usual one first.
      identifier: true for an id, which may be a whole number and must not be empty or
        contain a tab or newline.

    Raises:
      InputError: no such key, another type, an unusable id, or half a surrogate pair.
    """
    for name in names:
        if name in record:
            break
    else:
        keys = ", ".join(repr(key) for key in record) or "none"
        raise InputError(
            where,
            f"no key {names[0]!r} (keys: {keys})",
            " or ".join(repr(name) for name in names),
            f"add {names[0]!r} to the line",
        )
    value = record[name]
    if identifier and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise InputError(
            where,
            f"{name!r} is {json.dumps(value)[:40]}",
            "a string",
            "write it in quotes",
        )
    if identifier:
        check_identifier(where, name, value)
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                where,
                f"{name!r} has half of a surrogate pair",
                "whole characters",
                "mend the escape \\ud…",
            ) from error
    return value


def is_identifier(value: str) -> bool:
    """True unless empty, or with a tab, a newline or outer spaces."""
    return (
        bool(value)
        and value == value.strip()
        and "\t" not in value
        and "\n" not in value
        and "\r" not in value
    )


def check_identifier(where: str, name: str, value: str) -> None:
    """Refuses ids that no tab-separated file can carry.

    Raises:
      InputError: the id is empty, begins or ends with a space, or has a tab or newline.
    """
    if not is_identifier(value):
        raise InputError(
            where,
            f"{name!r} is {value!r}",
            "an id without tab, newline or outer spaces",
            "rename it in all files",
        )


def split_columns(line: str) -> list[str]:
    """Columns of a line: at tabs when it has any, otherwise at runs of white space.

    Ids may contain spaces (BEIR's LIMIT has such); in a tab-separated file they stay
    whole.

    Example::

      >>> split_columns("q1\\tGeneva Durben\\t1")
      ['q1', 'Geneva Durben', '1']
      >>> split_columns("301 0  CR93E-10279 1")
      ['301', '0', 'CR93E-10279', '1']
    """
    if "\t" in line:
        return [column.strip() for column in line.split("\t")]
    return spaced_columns(line)


def spaced_columns(line: str) -> list[str]:
    """Columns at runs of ASCII white space, as trec_eval splits.

    An id may contain Unicode's other spaces, where Python's ``split`` would cut it.

    Example::

      >>> len(spaced_columns("301 0 doc\\u00a07 1"))
      4
    """
    return line.split() if line.isascii() else _GAP.split(line.strip(" \t\n\r\f\v"))
