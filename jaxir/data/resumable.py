"""A file of lines that takes hours to make, and survives an interruption.

Work is done in groups with a key.  Each finished group goes to ``<path>.partial`` as
one line, so that a crash can spoil only the last; the file itself appears, whole, when
everything is done.  Begun again with the same settings, the work goes on where it
stopped and ends with the same bytes as if it had never stopped.  What a damaged disk
has made unreadable, and all after it, is done again.
"""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxir.errors import InputError
from jaxir.files import atomic_file, check_output, claimed
from jaxir.progress import say

__all__ = ["ResumableLines", "mappings_fingerprint", "resumable_lines"]


class ResumableLines:
    """The open file: what is done, and how to add to it.

    Attributes:
      done: keys of the groups that are finished.
      counts: sums of the counts given with the groups.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.done: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._head = json.dumps({"settings": settings}, sort_keys=True)
        with self._disk_errors():
            end = self._read()
            # what follows the last whole line was being written when work stopped
            self._stream = self._partial.open("r+b" if end else "wb")
            self._stream.truncate(end)
            self._stream.seek(end)
            if not end:
                try:
                    self._write(self._head)
                except OSError:
                    self.close()
                    raise

    def _read(self) -> int:
        """Takes in what a stopped run has done; returns where its last line ends."""
        if not self._partial.is_file():
            return 0
        end = 0
        with self._partial.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    break
                if number == 1 and line != self._head.encode() + b"\n":
                    say(f"{self._partial}: of other settings or input; starting over")
                    return 0
                if number > 1 and not self._take(line):
                    say(f"{self._partial}:{number}: damaged; done again from here on")
                    break
                end += len(line)
        if self.done:
            say(f"{self._partial}: {len(self.done)} groups are done already; going on")
        return end

    def _take(self, line: bytes) -> bool:
        """Takes in one finished group; false where the line holds none."""
        try:
            record = json.loads(line)
            key, counts = record["key"], Counter(record["counts"])
            whole = all(isinstance(text, str) for text in [key, *record["lines"]])
        except (ValueError, KeyError, TypeError):
            return False
        if whole:
            self.done.add(key)
            self.counts.update(counts)
        return whole

    def append(
        self, key: str, lines: Iterable[str], counts: Mapping[str, int] | None = None
    ) -> None:
        """Adds a finished group: any number of lines, none of them with a line end."""
        record = {"key": key, "lines": list(lines), "counts": dict(counts or {})}
        with self._disk_errors():
            self._write(json.dumps(record))
        self.done.add(key)
        self.counts.update(record["counts"])

    def _write(self, text: str) -> None:
        self._stream.write(text.encode() + b"\n")
        self._stream.flush()

    def close(self) -> None:
        """Closes the partial file and leaves it for the next run."""
        # On a full disk what is still in the buffer fails again; it was never done.
        with contextlib.suppress(OSError):
            self._stream.close()

    def discard(self) -> None:
        """Removes the partial file: nothing in it is worth going on from."""
        self._partial.unlink(missing_ok=True)

    def finish(self) -> None:
        """Puts the whole file in its place and removes the partial one."""
        self._stream.close()
        try:
            with (
                self._partial.open(encoding="utf-8") as stream,
                atomic_file(self._path) as out,
            ):
                next(stream)
                for record in stream:
                    for line in json.loads(record)["lines"]:
                        out.write(line + "\n")
        except InputError as error:
            raise InputError(
                self._path, "cannot be written: " + str(error).split("; ")[0],
                remedy=f"make room and run it again; what is done is kept in "
                f"{self._partial.name}",
            ) from error  # fmt: skip
        self._partial.unlink()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                self._partial, f"cannot write ({error.strerror})",
                remedy="make room or choose another place; what is done is kept",
            ) from error  # fmt: skip


@contextlib.contextmanager
def resumable_lines(
    path: str | os.PathLike, settings: Mapping[str, Any]
) -> Iterator[ResumableLines]:
    """Opens a file of lines that is finished at the end of the block, or resumed later.

    Args:
      path: the file that shall stand at the end; ``.gz`` is compressed.
      settings: everything the lines depend on, JSON-able; work done under other
        settings is not used.

    Raises:
      InputError: at once where no file can stand, or where another is writing it; and
        later when the place is full or can no longer be written, what is done being
        kept.

    Example::

      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "squares.txt"
      >>> with resumable_lines(path, {"power": 2}) as out:
      ...     for n in (1, 2, 3):
      ...         if str(n) not in out.done:
      ...             out.append(str(n), [str(n**2)])
      >>> path.read_text().split()
      ['1', '4', '9']
    """
    check_output(path)
    with claimed(path):
        out = ResumableLines(Path(path), settings)
        try:
            yield out
        except BaseException:
            out.close()
            if not out.done:
                out.discard()
            raise
        out.finish()


def mappings_fingerprint(*mappings: Mapping[str, Any]) -> str:
    """The sha256 of queries, judgments and the like: one of the settings, often.

    Over keys and values in their order, which may decide the order of the lines.

    Example::

      >>> mappings_fingerprint({"q1": "why"})[:8]
      'b9e51190'
    """
    digest = hashlib.sha256()
    for mapping in mappings:
        for item in mapping.items():
            digest.update(repr(item).encode())
    return digest.hexdigest()
