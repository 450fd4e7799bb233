"""The document store: texts and ids of a collection, memory-mapped.

A store is built once, streaming, and opened in milliseconds whatever its size: nothing
is read before it is asked for, and the operating system shares and drops the pages.

File of a store, all little-endian:

================== =================================================================
``meta.json``      format version, counts, fingerprint, and the size of every file
``texts.bin``      UTF-8 of title and text of each document, one after the other
``text_bounds``    int64 ``[2 N + 1]``: where each title and text begins
``ids.bin``        UTF-8 of the ids
``id_bounds``      int64 ``[N + 1]``: where each id begins
``hashes``         uint64 ``[N]``: BLAKE2b-64 of the ids, sorted
``hash_rows``      uint32 ``[N]``: the row of each hash
================== =================================================================

An id is found by binary search of its hash and then compared itself, so two ids with
one hash are told apart.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import overload

import numpy as np

from jaxir.data.formats import Doc
from jaxir.errors import InputError
from jaxir.files import atomic_directory
from jaxir.progress import progress_bar

__all__ = ["DocIds", "DocStore", "Source", "build_store"]

STORE_VERSION = 1
_CHUNK = 4096
_DTYPES: dict[str, np.dtype] = {
    "text_bounds": np.dtype("<i8"),
    "id_bounds": np.dtype("<i8"),
    "hashes": np.dtype("<u8"),
    "hash_rows": np.dtype("<u4"),
}

Source = Callable[[], Iterable[tuple[str, int, Doc]]]
"""Begins a walk over ``(file, line, document)``; called again to place a complaint."""


def _id_hashes(ids: Sequence[bytes]) -> np.ndarray:
    """BLAKE2b-64 of each id: the same on every machine, unlike Python's ``hash``."""
    digests = b"".join(hashlib.blake2b(i, digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, _DTYPES["hashes"])


def _where(source: Source, rows: Sequence[int]) -> list[tuple[str, int]]:
    """File and line of rows, by walking the source again."""
    wanted, found = set(rows), {}
    for row, (file, line, _) in enumerate(islice(source(), max(rows) + 1)):
        if row in wanted:
            found[row] = (file, line)
    return [found[row] for row in rows]


class _Writer:
    """Appends documents to a store's files and keeps the running digests."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        names = ("texts.bin", "ids.bin", "text_bounds", "id_bounds")
        self.files = {name: (directory / name).open("wb") for name in names}
        self.digests = {name: hashlib.sha256() for name in names}
        self.ends = {"text_bounds": 0, "id_bounds": 0}
        for name in self.ends:
            self.write(name, np.zeros(1, _DTYPES[name]).tobytes())
        self.hashes: list[np.ndarray] = []
        self.count = 0

    def write(self, name: str, data: bytes) -> None:
        self.files[name].write(data)
        self.digests[name].update(data)

    def _append(self, data: str, bounds: str, pieces: Sequence[bytes]) -> None:
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
        ends = self.ends[bounds] + np.cumsum(lengths)
        self.ends[bounds] = int(ends[-1])
        self.write(data, b"".join(pieces))
        self.write(bounds, ends.astype(_DTYPES[bounds]).tobytes())

    def add(self, docs: Sequence[Doc]) -> None:
        ids = [doc.doc_id.encode() for doc in docs]
        pieces = chain.from_iterable((doc.title, doc.text) for doc in docs)
        self._append("texts.bin", "text_bounds", [piece.encode() for piece in pieces])
        self._append("ids.bin", "id_bounds", ids)
        self.hashes.append(_id_hashes(ids))
        self.count += len(docs)

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def fingerprint(self) -> str:
        parts = "".join(self.digests[name].hexdigest() for name in sorted(self.files))
        return hashlib.sha256(parts.encode()).hexdigest()


def build_store(
    source: Source,
    directory: str | os.PathLike,
    *,
    name: str,
    allow_empty: bool = False,
    total: int | None = None,
) -> "DocStore":
    """Builds a store from documents, in memory of a few thousand of them.

    Besides one chunk of documents, some 40 bytes a document are held, to sort the ids.

    Args:
      source: begins a walk over ``(file, line, document)``.
      directory: where the store shall stand; it appears complete or not at all.
      name: the collection's name, for messages.
      allow_empty: take documents whose title and text are both empty.
      total: number of documents, where known, for the progress bar.

    Raises:
      InputError: no documents, an id twice, or an empty document.
    """
    directory = Path(directory)
    empty = 0
    with atomic_directory(directory) as temporary:
        writer = _Writer(temporary)
        bar = progress_bar(total=total, label=f"storing {name}", unit="doc")
        records = iter(source())
        try:
            while chunk := list(islice(records, _CHUNK)):
                for file, line, doc in chunk:
                    if not (doc.text.strip() or doc.title.strip()):
                        empty += 1
                        if not allow_empty:
                            raise InputError(
                                f"{file}:{line}",
                                f"document {doc.doc_id!r} has empty title and text",
                                "a text",
                                "write one, remove the line, or run `jaxir data` on "
                                "the folder once with --allow-empty",
                            )
                writer.add([doc for _, _, doc in chunk])
                bar.update(len(chunk))
        finally:
            writer.close()
            bar.close()
        if not writer.count:
            raise InputError(name, "no documents", "at least one", "check the corpus")
        hashes = np.concatenate(writer.hashes)
        order = np.argsort(hashes, kind="stable")
        _refuse_duplicates(source, temporary, hashes, order)
        hashes[order].tofile(temporary / "hashes")
        order.astype(_DTYPES["hash_rows"]).tofile(temporary / "hash_rows")
        sizes = {p.name: p.stat().st_size for p in sorted(temporary.iterdir())}
        meta = {
            "version": STORE_VERSION,
            "name": name,
            "count": writer.count,
            "empty": empty,
            "fingerprint": writer.fingerprint(),
            "files": sizes,
        }
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1))
    return DocStore(directory)


def _refuse_duplicates(
    source: Source, directory: Path, hashes: np.ndarray, order: np.ndarray
) -> None:
    """Raises InputError when two rows have the same id, not merely the same hash."""
    ranked = hashes[order]
    (same,) = np.nonzero(ranked[1:] == ranked[:-1])
    if not len(same):
        return
    bounds = np.fromfile(directory / "id_bounds", _DTYPES["id_bounds"])
    first: dict[bytes, int] = {}
    with (directory / "ids.bin").open("rb") as ids:
        # rows of one hash stand in rising order: the sort is stable
        for row in np.unique(order[np.concatenate([same, same + 1])]).tolist():
            ids.seek(bounds[row])
            doc_id = ids.read(int(bounds[row + 1] - bounds[row]))
            if doc_id in first:
                (old_file, old), (file, line) = _where(source, [first[doc_id], row])
                before = f"line {old}" if old_file == file else f"{old_file}:{old}"
                raise InputError(
                    f"{file}:{line}",
                    f"document id {doc_id.decode()!r} again, first in {before}",
                    "ids that differ",
                    "remove or rename one",
                )
            first[doc_id] = row


class DocIds(Sequence[str]):
    """The ids of a store by row, read when asked for."""

    def __init__(self, store: "DocStore") -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self._store.doc_id(r) for r in range(*row.indices(len(self)))]
        return self._store.doc_id(range(len(self))[row])

    def __iter__(self) -> Iterator[str]:
        return map(self._store.doc_id, range(len(self)))


class DocStore:
    """Documents by row, memory-mapped; see the module's text for the files.

    A store can be handed to another process: it travels as its path.

    Args:
      directory: what :func:`build_store` wrote.

    Raises:
      InputError: the directory is not a store of this version, or a file is cut short.
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        self.directory = Path(directory)
        try:
            meta = json.loads((self.directory / "meta.json").read_text())
            version, files = meta["version"], dict(meta["files"])
            sizes = {name: (self.directory / name).stat().st_size for name in files}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                self.directory, "not a document store", remedy="delete it"
            ) from error
        if version != STORE_VERSION or sizes != files:
            raise InputError(
                self.directory, "a damaged or foreign document store",
                f"version {STORE_VERSION} with whole files", "delete it",
            )  # fmt: skip
        self.fingerprint: str = meta["fingerprint"]
        self.num_empty: int = meta["empty"]
        self._count: int = meta["count"]
        self._texts = self._map("texts.bin")
        self._ids = self._map("ids.bin")
        self._text_bounds = self._array("text_bounds")
        self._id_bounds = self._array("id_bounds")
        self._hashes = self._array("hashes")
        self._hash_rows = self._array("hash_rows")

    def _map(self, name: str) -> mmap.mmap | bytes:
        path = self.directory / name
        if not path.stat().st_size:  # an empty file cannot be mapped
            return b""
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _array(self, name: str) -> np.ndarray:
        return np.frombuffer(self._map(name), _DTYPES[name])

    def __reduce__(self) -> tuple:
        return (DocStore, (str(self.directory),))

    def __len__(self) -> int:
        return self._count

    def _check(self, row: int) -> int:
        if not 0 <= row < self._count:
            raise IndexError(f"row {row} of a store of {self._count} documents")
        return int(row)

    def __getitem__(self, row: int | np.integer) -> Doc:
        row = self._check(int(row))
        start, middle, end = self._text_bounds[2 * row : 2 * row + 3].tolist()
        title, text = self._texts[start:middle], self._texts[middle:end]
        return Doc(self.doc_id(row), title.decode(), text.decode())

    def __iter__(self) -> Iterator[Doc]:
        return (self[row] for row in range(self._count))

    def text(self, row: int | np.integer) -> str:
        """Title, a space, and text, stripped: BEIR's and sentence-transformers' way."""
        doc = self[row]
        return f"{doc.title} {doc.text}".strip()

    def texts(self, rows: Iterable[int] | np.ndarray) -> list[str]:
        """:meth:`text` of several rows."""
        return [self.text(row) for row in rows]

    def doc_id(self, row: int | np.integer) -> str:
        """The collection's own id of a row."""
        row = self._check(int(row))
        start, end = self._id_bounds[row : row + 2].tolist()
        return self._ids[start:end].decode()

    def doc_ids(self) -> DocIds:
        """All ids by row, as a sequence that reads on demand."""
        return DocIds(self)

    def row(self, doc_id: str) -> int:
        """The row of an id, -1 if the collection has no such document."""
        return int(self.rows([doc_id])[0])

    def rows(self, ids: Iterable[str]) -> np.ndarray:
        """Rows of ids.

        Returns:
          int64 ``[len(ids)]``, -1 where the collection has no such document.
        """
        keys = [doc_id.encode() for doc_id in ids]
        found = np.full(len(keys), -1, np.int64)
        if not keys:
            return found
        hashes = _id_hashes(keys)
        places = np.searchsorted(self._hashes, hashes)
        for i, (key, place) in enumerate(zip(keys, places.tolist(), strict=True)):
            while place < self._count and self._hashes[place] == hashes[i]:
                row = int(self._hash_rows[place])
                start, end = self._id_bounds[row : row + 2].tolist()
                if self._ids[start:end] == key:
                    found[i] = row
                    break
                place += 1
        return found
