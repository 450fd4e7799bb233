"""Shards of an encoded collection: written whole, found again, gone on with.

Of what they hold, vectors or the rows of a sparse matrix, nothing is known here.
"""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxir.data.collection import Collection
from jaxir.errors import InputError
from jaxir.files import atomic_file
from jaxir.progress import progress_bar, say

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model
    from jaxir.encode import TextEncoder

__all__ = ["diverged", "encode_shards"]


def encode_shards(
    encoder: "TextEncoder",
    model: "Model",
    collection: Collection,
    directory: str | os.PathLike,
    *,
    settings: dict[str, Any],
    shard_rows: int,
    name: str,
    write: Callable[[Path, list[np.ndarray], Any], None],
) -> list[Path]:
    """Writes the shards that are not there yet; what they hold is ``write``'s matter.

    The next shard is tokenized while one is encoded.

    Args:
      encoder: of the documents.
      model: that it is of.
      collection: the documents.
      directory: for the shards.
      settings: what the shards depend on besides model, collection and length.
      shard_rows: documents of a shard.
      name: of a shard's file, with a place for its number.
      write: ``write(path, ids, bar)`` encodes documents, given as their token ids, into
        a file that appears when it is whole, and moves the bar.

    Returns:
      The files, in order.

    Raises:
      InputError: no documents; a directory of something else; a full disk.
    """
    directory = Path(directory)
    docs = collection.docs
    if not len(docs):
        raise InputError(collection.path, "no documents", "at least one")
    identity = {
        "model": model.fingerprint,
        "tokenizer": model.tokenizer.fingerprint,
        "collection": docs.fingerprint,
        "max_length": encoder.max_length,
        **settings,
        "shard_rows": shard_rows,
        "num_docs": len(docs),
    }
    _claim(directory, identity)
    starts = range(0, len(docs), shard_rows)
    paths = [directory / name.format(i) for i in range(len(starts))]
    todo = [
        (path, range(start, min(start + shard_rows, len(docs))))
        for path, start in zip(paths, starts, strict=True)
        if not path.is_file()
    ]
    done = len(docs) - sum(len(rows) for _, rows in todo)
    if done:
        say(f"{directory}: {done} of {len(docs)} documents are encoded already")

    def prepare(rows: range) -> list[np.ndarray]:
        return encoder.tokenize(docs.texts(rows))

    with (
        progress_bar(total=len(docs), label="encode", unit="doc", initial=done) as bar,
        ThreadPoolExecutor(1) as beside,
    ):
        upcoming = beside.submit(prepare, todo[0][1]) if todo else None
        for i, (path, _) in enumerate(todo):
            ids = upcoming.result() if upcoming else []
            if i + 1 < len(todo):  # tokenized while this shard is encoded
                upcoming = beside.submit(prepare, todo[i + 1][1])
            write(path, ids, bar)
    return paths


def diverged(where: object) -> InputError:
    """What is said of a model whose vectors are not finite."""
    return InputError(
        where, "the model gives values that are not finite", "finite vectors",
        "the model may have diverged: train it with a lower rate",
    )  # fmt: skip


def _claim(directory: Path, identity: dict[str, Any]) -> None:
    """Makes the directory ours, and empties it of shards that are of something else."""
    note = directory / "encoding.json"
    if directory.exists() and not note.is_file() and any(directory.iterdir()):
        raise InputError(
            directory,
            "a directory that is not an encoding stands here",
            "a new place",
            "choose another one or remove it",
        )
    try:
        found = json.loads(note.read_text())
    except (OSError, ValueError):
        found = None
    if found == identity:
        return
    if directory.exists():
        if found is not None:
            say(f"{directory}: holds another encoding; starting over")
        shutil.rmtree(directory)
    with atomic_file(note) as out:
        json.dump(identity, out, indent=1)
