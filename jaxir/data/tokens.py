"""Token ids of many texts, memory-mapped, so that no text is tokenized twice.

File of a store: ``ids`` (uint16 when the vocabulary fits, else uint32), ``bounds``
(int64 ``[N + 1]``, where each text begins) and ``meta.json``.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from jaxir.errors import InputError
from jaxir.files import atomic_directory, cache_root, locked
from jaxir.progress import progress_bar, say
from jaxir.text import Tokenizer

__all__ = ["TokenStore", "build_token_store"]

_VERSION = 1
_CHUNK = 1000


class TokenStore:
    """Token ids by row; made by :func:`build_token_store`.

    A store can be handed to another process: it travels as its path.

    Attributes:
      directory: where it lives.

    Raises:
      InputError: the directory is not a store, or a file is cut short.
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        self.directory = Path(directory)
        try:
            meta = json.loads((self.directory / "meta.json").read_text())
            self._count, total = int(meta["count"]), int(meta["tokens"])
            dtype = np.dtype(meta["dtype"])
            sizes = [(self.directory / n).stat().st_size for n in ("ids", "bounds")]
            whole = sizes == [total * dtype.itemsize, 8 * (self._count + 1)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                self.directory, "not a token store", remedy="delete it"
            ) from error
        if meta.get("version") != _VERSION or not whole:
            raise InputError(
                self.directory, "a damaged or foreign token store", remedy="delete it"
            )
        # an empty file cannot be mapped
        self._ids = np.zeros(0, dtype)
        if total:
            self._ids = np.memmap(self.directory / "ids", dtype, "r").view(np.ndarray)
        bounds = np.memmap(self.directory / "bounds", np.dtype("<i8"), "r")
        self._bounds = bounds.view(np.ndarray)

    def __reduce__(self) -> tuple:
        return (TokenStore, (str(self.directory),))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int | np.integer) -> np.ndarray:
        """Token ids of a text, int32, special tokens included."""
        if not 0 <= row < self._count:
            raise IndexError(f"row {row} of a store of {self._count} texts")
        start, end = self._bounds[int(row) : int(row) + 2]
        return self._ids[start:end].astype(np.int32)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, int32 ``[N]``."""
        return np.diff(self._bounds).astype(np.int32)


def build_token_store(
    texts: Iterable[str],
    count: int,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    key: str,
    label: str,
) -> TokenStore:
    """Tokenizes texts, streaming, or opens what an earlier call left.

    The store lives under :func:`jaxir.files.cache_root`; its name follows from ``key``,
    the tokenizer and ``max_length``.

    Args:
      texts: the texts, walked over once and only when the store is not there.
      count: how many there are.
      tokenizer: turns them into ids.
      max_length: most tokens of a text, special tokens included.
      key: stands for the content of ``texts``, template included, such as a
        collection's fingerprint.
      label: what the work is, for the progress bar.

    Raises:
      ValueError: ``texts`` has another length than ``count``.
    """
    parts = (_VERSION, key, tokenizer.fingerprint, max_length, count)
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:24]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", key)[:40].strip("-")
    directory = cache_root() / "tokens" / f"{readable}-{digest}"
    found = _stored(directory)
    if found is not None:
        return found
    with locked(directory):  # processes started together build it once
        if _stored(directory) is None:
            _write_store(directory, texts, count, tokenizer, max_length, label)
        return TokenStore(directory)


def _stored(directory: Path) -> TokenStore | None:
    """The store of an earlier call, None if it is not there or damaged."""
    if not (directory / "meta.json").is_file():
        return None
    try:
        return TokenStore(directory)
    except InputError:
        say(f"{directory}: damaged; building it again")
        return None


def _write_store(
    directory: Path,
    texts: Iterable[str],
    count: int,
    tokenizer: Tokenizer,
    max_length: int,
    label: str,
) -> None:
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
    done, total = 0, 0
    with atomic_directory(directory) as temporary:
        with (
            (temporary / "ids").open("wb") as ids,
            (temporary / "bounds").open("wb") as bounds,
            progress_bar(total=count, label=label, unit="text") as bar,
        ):
            bounds.write(np.zeros(1, "<i8").tobytes())
            source = iter(texts)
            while chunk := list(islice(source, _CHUNK)):
                encoded = tokenizer.encode(chunk, max_length)
                lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
                ids.write(np.concatenate(encoded).astype(dtype).tobytes())
                bounds.write((total + np.cumsum(lengths)).astype("<i8").tobytes())
                total += int(lengths.sum())
                done += len(chunk)
                bar.update(len(chunk))
        if done != count:
            raise ValueError(f"{done} texts where {count} were announced")
        meta = {
            "version": _VERSION,
            "count": count,
            "tokens": total,
            "dtype": dtype.str,
            "max_length": max_length,
        }
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1))
