"""Index directories: whole or absent, and able to say when they are damaged.

``manifest.json`` names the kind, the version of the format, the fingerprint of the
model, counts, and the size and sha256 of every file.  It is written last, into a
directory that is renamed into place, so a directory without it does not exist.
"""

import contextlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from jaxir.errors import InputError
from jaxir.files import atomic_directory, sha256_file

__all__ = [
    "FORMAT_VERSION",
    "DocIdFile",
    "Manifest",
    "read_manifest",
    "verify",
    "write_doc_ids",
    "write_index",
]

FORMAT_VERSION = 1
"""Version of the directory's layout that this code writes, and the newest it reads."""

_NAME = "manifest.json"
_REBUILD = "build the index again with `jaxir index`"


class Manifest(NamedTuple):
    """What an index directory says of itself.

    Attributes:
      kind: which searcher opens it, such as ``dense`` or ``bm25``.
      format_version: of the layout.
      model_fingerprint: of the model that encoded it; empty where there is none.
      counts: such as ``{"docs": 3633}``.
      files: ``{"sha256", "bytes"}`` by path relative to the directory.
      details: what this kind needs beyond that.
    """

    kind: str
    format_version: int
    model_fingerprint: str
    counts: dict[str, int]
    files: dict[str, dict[str, Any]]
    details: dict[str, Any]


@contextlib.contextmanager
def write_index(
    directory: str | os.PathLike,
    *,
    kind: str,
    counts: Mapping[str, int],
    model_fingerprint: str = "",
    details: Mapping[str, Any] | None = None,
) -> Iterator[Path]:
    """Yields a temporary directory to fill; it becomes the index when the block ends.

    Args:
      directory: where the index shall stand; an index that stands there is replaced,
        anything else is left alone.
      kind: see :class:`Manifest`, as for the other arguments.
      counts: numbers of things, ``docs`` among them.
      model_fingerprint: of the model, if any.
      details: must be JSON's own types.

    Raises:
      InputError: something that is not an index stands at ``directory``, or the disk
        is full.

    Example::

      >>> import tempfile
      >>> place = Path(tempfile.mkdtemp()) / "index"
      >>> with write_index(place, kind="demo", counts={"docs": 0}) as folder:
      ...     _ = (folder / "data.bin").write_bytes(b"abc")
      >>> verify(place, deep=True).files["data.bin"]["bytes"]
      3
    """
    directory = Path(directory)
    check_replaceable(directory)
    with atomic_directory(directory) as temporary:
        yield temporary
        files = {
            path.relative_to(temporary).as_posix(): {
                "sha256": sha256_file(path),
                "bytes": path.stat().st_size,
            }
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        }
        content = {
            "kind": kind,
            "format_version": FORMAT_VERSION,
            "model_fingerprint": model_fingerprint,
            "counts": dict(counts),
            "details": dict(details or {}),
            "files": files,
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        with (temporary / _NAME).open("w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())


def check_replaceable(directory: Path) -> None:
    """Refuses to write an index over something that is not one.

    Raises:
      InputError: a file or a directory of another kind stands there.
    """
    if directory.is_dir():
        empty = next(directory.iterdir(), None) is None
        if not empty and not (directory / _NAME).is_file():
            raise InputError(
                directory,
                "a directory that is not an index stands here",
                "a new place or an index to replace",
                "choose another --index",
            )
    elif directory.exists():
        raise InputError(directory, "a file stands here", remedy="choose another place")


def read_manifest(directory: str | os.PathLike, *, kind: str | None = None) -> Manifest:
    """Reads the manifest and compares the size of every file with it.

    Args:
      directory: the index.
      kind: the kind expected, or None for any.

    Raises:
      InputError: no index here, one of another kind or of a newer format, or one whose
        files are missing or of another size.
    """
    directory = Path(directory)
    path = directory / _NAME
    if not directory.exists():
        raise InputError(directory, "no such directory", "an index", _REBUILD)
    if not path.is_file():
        raise InputError(directory, f"no {_NAME} here", "an index directory", _REBUILD)
    text = path.read_bytes()
    try:
        content = json.loads(text)
        manifest = Manifest(
            kind=str(content["kind"]),
            format_version=int(content["format_version"]),
            model_fingerprint=str(content["model_fingerprint"]),
            counts=dict(content["counts"]),
            files=dict(content["files"]),
            details=dict(content["details"]),
        )
        sizes = {name: int(entry["bytes"]) for name, entry in manifest.files.items()}
    except (ValueError, KeyError, TypeError) as error:
        found = "not a manifest of an index"
        raise InputError(path, found, remedy=_REBUILD) from error
    if manifest.format_version > FORMAT_VERSION:
        raise InputError(
            path,
            f"format version {manifest.format_version}",
            f"at most {FORMAT_VERSION}",
            "upgrade jaxir or build the index again",
        )
    if kind is not None and manifest.kind != kind:
        raise InputError(
            directory, f"an index of kind {manifest.kind!r}", f"kind {kind!r}"
        )
    for name, size in sizes.items():
        file = directory / name
        actual = file.stat().st_size if file.is_file() else None
        if actual != size:
            if path.is_file() and path.read_bytes() != text:  # of another index now
                return read_manifest(directory, kind=kind)
            state = "missing" if actual is None else f"of {actual} bytes"
            raise InputError(file, state, f"{size} bytes", _REBUILD)
    return manifest


def verify(directory: str | os.PathLike, *, deep: bool = False) -> Manifest:
    """Checks an index: sizes always, the sha256 of every file where ``deep``.

    Raises:
      InputError: as :func:`read_manifest`; or a file's content has changed.
    """
    manifest = read_manifest(directory)
    if deep:
        for name, entry in manifest.files.items():
            path = Path(directory) / name
            if sha256_file(path) != entry["sha256"]:
                raise InputError(path, "its content has changed", remedy=_REBUILD)
    return manifest


def write_doc_ids(directory: Path, doc_ids: Iterable[str]) -> int:
    """Writes ``ids.bin`` (bytes) and ``ids.npy`` (bounds); returns how many."""
    bounds = array("q", [0])  # 8 bytes an id, where a list would take 40
    with (directory / "ids.bin").open("wb") as out:
        for doc_id in doc_ids:
            bounds.append(bounds[-1] + out.write(doc_id.encode()))
    np.save(directory / "ids.npy", np.frombuffer(bounds, np.int64))
    return len(bounds) - 1


class DocIdFile(Sequence[str]):
    """The collection's own ids by row, memory-mapped; read on demand.

    Args:
      directory: where :func:`write_doc_ids` wrote.
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        self._bounds = np.load(Path(directory) / "ids.npy", mmap_mode="r")
        path = Path(directory) / "ids.bin"
        # An empty file cannot be mapped.
        empty = path.stat().st_size == 0
        self._bytes = np.zeros(0, np.uint8) if empty else np.memmap(path, mode="r")

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """The row of an id, without reading the others one by one.

        Raises:
          ValueError: it is not there.
        """
        wanted = str(value).encode()
        bounds = np.asarray(self._bounds)
        rows = np.arange(len(self))[start:stop]
        rows = rows[np.diff(bounds)[rows] == len(wanted)]
        for i in reversed(range(len(wanted))):  # ids differ at their ends
            rows = rows[self._bytes[bounds[rows] + i] == wanted[i]]
        if not len(rows):
            raise ValueError(f"no document {value!r}")
        return int(rows[0])

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of an index of {len(self)} documents")
        start, end = self._bounds[row : row + 2]
        return self._bytes[start:end].tobytes().decode()
