"""Documents come and go in an index of kind ``pq``.

Both ways the index is exchanged as a whole: a search that has the old one open keeps
it, one that begins later finds the new one, and a failure leaves the old one.  Files
that stay as they are, the model's above all, are not copied where the system knows
links.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from jaxir.data.collection import Collection, open_collection
from jaxir.errors import InputError
from jaxir.files import locked, open_text
from jaxir.index_job import BuildOptions, changing, encoded
from jaxir.manifest import DocIdFile, Manifest, read_manifest, write_doc_ids
from jaxir.openers import Opening, model_of
from jaxir.pq_index import CODES, measured, new_codes, read_pq, write_codes
from jaxir.progress import progress_bar

__all__ = ["add_documents", "delete_documents", "read_ids"]

_IDS = ("ids.bin", "ids.npy")


def add_documents(
    directory: str | os.PathLike,
    collection: Collection | str | os.PathLike,
    *,
    batch_tokens: int | None = None,
) -> Manifest:
    """Adds the documents of a collection to an index, behind those it has.

    They are encoded by the index's own model and get codes of its assignment.  The
    index is exchanged as a whole at the end; until then searches find the old one.
    Encoding that was interrupted goes on where it stopped, from the hidden folder
    ``.<name>.add`` beside the index.

    Args:
      directory: an index of kind ``pq``.
      collection: from ``open_collection``, or its folder or name.
      batch_tokens: tokens of a batch of documents; None for the encoder's default.

    Returns:
      The manifest of the new index.

    Raises:
      InputError: no index, one of another kind, no documents, or ids that the index
        has already.
    """
    from jaxir.encode import as_bi_encoder
    from jaxir.pq.model import assigning_codec

    directory = Path(directory)
    if not isinstance(collection, Collection):
        collection = open_collection(os.fspath(collection))
    docs = collection.docs
    with _held(directory, "documents are added to") as manifest:
        ids = DocIdFile(directory)
        added = set(docs.doc_ids())
        known = [name for name in _walk(ids) if name in added]
        if known:
            raise InputError(
                collection.path, f"documents that the index has: {_some(known)}",
                "new ids", f"first jaxir index --index {directory} --delete IDS",
            )  # fmt: skip
        model = model_of(Opening(directory, manifest))
        details = manifest.details
        options = BuildOptions(
            batch_tokens=batch_tokens, max_length=details.get("max_length")
        )
        place = directory.with_name(f".{directory.name}.add")
        with encoded(as_bi_encoder(model), collection, place, options) as found:
            shards = found.open()
            note = {
                "added": collection.name,
                "collection_fingerprint": docs.fingerprint,
                "docs": len(docs),
                **measured(model, shards),
            }
            new = _changed(manifest, note, len(ids) + len(docs))
            with _exchanged(directory, new) as (folder, old, codes):
                for row in range(len(old)):
                    codes[row, : len(ids)] = old[row]
                write_codes(assigning_codec(model.params), shards, codes[:, len(ids) :])
                write_doc_ids(folder, chain(_walk(ids), docs.doc_ids()))
    return read_manifest(directory)


def delete_documents(directory: str | os.PathLike, doc_ids: Iterable[str]) -> Manifest:
    """Deletes documents from an index, which is exchanged as a whole.

    Args:
      directory: an index of kind ``pq``.
      doc_ids: of the documents.

    Returns:
      The manifest of the new index.

    Raises:
      InputError: no index, one of another kind, no ids, ids that the index does not
        have, or those of all its documents.
    """
    directory = Path(directory)
    missing = dict.fromkeys(doc_ids)  # a set in the order given
    if not missing:
        raise InputError("doc_ids", "none", "at least one")
    with _held(directory, "documents are deleted from") as manifest:
        ids = DocIdFile(directory)
        digest = hashlib.sha256("\n".join(sorted(missing)).encode()).hexdigest()
        note = {"deleted": len(missing), "ids_sha256": digest}
        keep = np.ones(len(ids), bool)
        wanted = set(missing)
        for row, name in enumerate(_walk(ids)):
            if name in wanted:
                keep[row] = False
                del missing[name]
        if missing:
            raise InputError(
                directory, f"no documents {_some(list(missing))}", "ids of the index"
            )
        if not keep.any():
            raise InputError(
                directory, "every document would be deleted", "some to stay",
                "remove the index",
            )  # fmt: skip
        new = _changed(manifest, note, int(keep.sum()))
        with _exchanged(directory, new) as (folder, old, codes):
            for row in range(len(old)):
                codes[row] = old[row][keep]
            stay = (name for name, kept in zip(_walk(ids), keep, strict=True) if kept)
            write_doc_ids(folder, stay)
    return read_manifest(directory)


@contextlib.contextmanager
def _held(directory: Path, what: str) -> Iterator[Manifest]:
    """The manifest of an index that nobody else changes meanwhile."""
    read_pq(directory, what)  # before a lock is made where no index is
    with locked(directory):
        yield read_pq(directory, what)


def _walk(ids: DocIdFile) -> Iterable[str]:
    return progress_bar(ids, total=len(ids), label="ids", unit="doc")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more


def _changed(manifest: Manifest, note: dict[str, Any], num_docs: int) -> Manifest:
    """The manifest with a change noted: it is no longer of the collection alone."""
    details = manifest.details
    before = str(details["collection_fingerprint"])
    what = str(note.get("collection_fingerprint") or note["ids_sha256"])
    now = hashlib.sha256(f"{before} {what}".encode()).hexdigest()
    changes = [*details.get("changes", []), note]
    return manifest._replace(
        counts={"docs": num_docs},
        details=details | {"collection_fingerprint": now, "changes": changes},
    )


@contextlib.contextmanager
def _exchanged(
    directory: Path, new: Manifest
) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """The new index's folder without ids, the old codes, and room for the new ones."""
    with changing(directory, new, without=(CODES, *_IDS), target=directory) as folder:
        old = np.load(directory / CODES, mmap_mode="r")
        codes = new_codes(folder, len(old), new.counts["docs"])
        yield folder, old, codes
        codes.flush()


def read_ids(path: str | os.PathLike) -> list[str]:
    """Ids of documents from a file, one a line.

    Raises:
      InputError: no such file, or no ids in it.
    """
    with open_text(path) as lines:
        ids = [line.strip() for line in lines]
    ids = [name for name in ids if name]
    if not ids:
        raise InputError(path, "no ids", "one a line")
    return ids
