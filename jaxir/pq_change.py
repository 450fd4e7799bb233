"""Documents come and go in an index of kind ``pq`` or ``sparse``.

Both ways the index is exchanged as a whole: a search that has the old one open keeps
it, one that begins later finds the new one, and a failure leaves the old one.  Files
that stay as they are, the model's above all, are not copied where the system knows
links.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxir.data.collection import Collection, open_collection
from jaxir.data.lines import numbered_lines
from jaxir.errors import InputError
from jaxir.files import locked, named_place
from jaxir.index_job import BuildOptions, changing, encoded
from jaxir.manifest import DocIdFile, Manifest, read_manifest, write_doc_ids
from jaxir.openers import Opening, model_of
from jaxir.pq_index import CODES, measured, new_codes, write_codes
from jaxir.progress import progress_bar
from jaxir.sparse_change import SPARSE, Change

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model

__all__ = ["CHANGES", "add_documents", "delete_documents", "read_ids"]

_IDS = ("ids.bin", "ids.npy")


def add_documents(
    directory: str | os.PathLike,
    collection: Collection | str | os.PathLike,
    *,
    batch_tokens: int | None = None,
    model: "Model | str | None" = None,
) -> Manifest:
    """Adds the documents of a collection to an index, behind those it has.

    They are encoded by the index's own model, and get codes of its assignment or are
    pruned as the others were.  The index is exchanged as a whole at the end; until then
    searches find the old one.
    Encoding that was interrupted goes on where it stopped, from the hidden folder
    ``.<name>.add`` beside the index.

    Args:
      directory: an index of a kind in :data:`CHANGES`.
      collection: from ``open_collection``, or its folder or name.
      batch_tokens: tokens of a batch of documents; None for the encoder's default.
      model: that encoded the index, where it is neither in it nor where it was.

    Returns:
      The manifest of the new index.

    Raises:
      InputError: no index, one of another kind, no documents, ids that the index has
        already, or another model.
    """
    directory = named_place(directory)
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
        encoder = model_of(Opening(directory, manifest, model))
        change, details = CHANGES[manifest.kind], manifest.details
        options = BuildOptions(
            batch_tokens=batch_tokens, max_length=details.get("max_length")
        )
        place = directory.with_name(f".{directory.name}.add")
        with change.encoded(encoder, collection, place, options, manifest) as found:
            note = {
                "added": collection.name,
                "collection_fingerprint": docs.fingerprint,
                "docs": len(docs),
                **change.measured(encoder, found),
            }
            new = _changed(manifest, note, len(ids) + len(docs))
            new = new._replace(details=new.details | change.added(new, found))
            with _exchanged(directory, new) as folder:
                change.append(directory, folder, encoder, found)
                write_doc_ids(folder, chain(_walk(ids), docs.doc_ids()))
    return read_manifest(directory)


def delete_documents(directory: str | os.PathLike, doc_ids: Iterable[str]) -> Manifest:
    """Deletes documents from an index, which is exchanged as a whole.

    Args:
      directory: an index of a kind in :data:`CHANGES`.
      doc_ids: of the documents.

    Returns:
      The manifest of the new index.

    Raises:
      InputError: no index, one of another kind, no ids, ids that the index does not
        have, or those of all its documents.
    """
    directory = named_place(directory)
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
        change = CHANGES[manifest.kind]
        new = _changed(manifest, note, int(keep.sum()))
        new = new._replace(details=new.details | change.kept(directory, new, keep))
        with _exchanged(directory, new) as folder:
            change.keep(directory, folder, keep)
            stay = (name for name, kept in zip(_walk(ids), keep, strict=True) if kept)
            write_doc_ids(folder, stay)
    return read_manifest(directory)


@contextlib.contextmanager
def _held(directory: Path, what: str) -> Iterator[Manifest]:
    """The manifest of an index that nobody else changes meanwhile."""
    _read(directory, what)  # before a lock is made where no index is
    with locked(directory):
        yield _read(directory, what)


def _read(directory: Path, what: str) -> Manifest:
    manifest = read_manifest(directory)
    if manifest.kind not in CHANGES:
        kinds = " or ".join(map(repr, CHANGES))
        raise InputError(
            directory, f"an index of kind {manifest.kind!r}",
            f"one of kind {kinds}, the only ones that {what}",
        )  # fmt: skip
    CHANGES[manifest.kind].check(directory, manifest)
    return manifest


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
def _exchanged(directory: Path, new: Manifest) -> Iterator[Path]:
    """The new index's folder, without ids and what else changes with the documents."""
    without = (CHANGES[new.kind].files, *_IDS)
    with changing(directory, new, without=without, target=directory) as folder:
        yield folder


@contextlib.contextmanager
def _pq_encoded(
    model: "Model",
    collection: Collection,
    place: Path,
    options: BuildOptions,
    manifest: Manifest,
) -> "Iterator[list[np.ndarray]]":
    from jaxir.encode import as_bi_encoder

    del manifest  # codes are the model's matter
    with encoded(as_bi_encoder(model), collection, place, options) as found:
        yield found.open()


def _pq_append(
    directory: Path, folder: Path, model: "Model", shards: list[np.ndarray]
) -> None:
    from jaxir.pq.model import assigning_codec

    old = np.load(directory / CODES, mmap_mode="r")
    before = old.shape[1]
    codes = new_codes(folder, len(old), before + sum(map(len, shards)))
    for row in range(len(old)):
        codes[row, :before] = old[row]
    write_codes(assigning_codec(model.params), shards, codes[:, before:])
    codes.flush()


def _pq_keep(directory: Path, folder: Path, keep: np.ndarray) -> None:
    old = np.load(directory / CODES, mmap_mode="r")
    codes = new_codes(folder, len(old), int(keep.sum()))
    for row in range(len(old)):
        codes[row] = old[row][keep]
    codes.flush()


CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        "pq": Change(
            files=CODES,
            check=lambda directory, manifest: None,
            encoded=_pq_encoded,
            measured=measured,
            added=lambda new, shards: {},
            append=_pq_append,
            kept=lambda directory, new, keep: {},
            keep=_pq_keep,
        ),
        "sparse": SPARSE,
    }
)
"""How documents come and go in an index of each kind that knows it."""


def read_ids(path: str | os.PathLike) -> list[str]:
    """Ids of documents from a file, one a line.

    Raises:
      InputError: no such file, one that is not UTF-8, or no ids in it.
    """
    ids = [line.strip() for _, line in numbered_lines(path)]
    if not ids:
        raise InputError(path, "no ids", "one a line")
    return ids
