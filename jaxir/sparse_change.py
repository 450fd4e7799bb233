"""Posting lists with documents added or taken out: what a fresh build would give.

The old lists are read by documents again (:mod:`jaxir.sparse.rows`), a stretch of rows
at a time.  Memory is that of a stretch, whatever the index's size.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxir.errors import InputError
from jaxir.index_job import BuildOptions, SparseOptions
from jaxir.manifest import Manifest, read_manifest
from jaxir.sparse.postings import (
    FOLDER,
    Postings,
    SparseRows,
    build_postings,
    open_postings,
)
from jaxir.sparse.rows import document_rows
from jaxir.sparse_index import row_details, sparse_encoded
from jaxir.sparse_query import check_tokenizer

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model
    from jaxir.data.collection import Collection
    from jaxir.sparse_corpus import SparseCorpus

__all__ = ["SPARSE", "Change", "PostingRows"]

_STRETCH = 1 << 22  # postings that are held at a time


class Change(NamedTuple):
    """How documents come and go in an index of some kind; see ``pq_change.CHANGES``.

    Attributes:
      files: how the names of files begin that are written anew, besides the ids.
      check: ``check(directory, manifest)`` raises where documents cannot come and go.
      encoded: ``encoded(model, collection, place, options, manifest)``, a context with
        the new documents as the index needs them.
      measured: ``measured(model, found)``, what is noted of them.
      added: ``added(new, found)``, details of the new manifest.
      append: ``append(directory, folder, model, found)`` writes the files with them.
      kept: ``kept(directory, new, keep)``, details of the new manifest.
      keep: ``keep(directory, folder, keep)`` writes the files without some.
    """

    files: str
    check: Callable[[Path, Manifest], None]
    encoded: Callable[..., contextlib.AbstractContextManager]
    measured: Callable[["Model", Any], dict[str, Any]]
    added: Callable[[Manifest, Any], dict[str, Any]]
    append: Callable[[Path, Path, "Model", Any], None]
    kept: Callable[[Path, Manifest, np.ndarray], dict[str, Any]]
    keep: Callable[[Path, Path, np.ndarray], None]


class PostingRows(Sequence[SparseRows]):
    """Postings as the rows that they were built of, in shards; weights as stored.

    Args:
      postings: of an index.
      keep: documents that are left; None for all.
      more: shards that follow.
      stretch: postings of a shard, about.

    Example::

      >>> two = Postings(
      ...     np.array([0, 1, 3]), np.array([1, 0, 1], np.int32),
      ...     np.array([2, 1, 3], np.float32), None, np.zeros(3, np.int64),
      ...     np.zeros(0, np.uint16), np.zeros(0, np.float32), 2, 64,
      ...     np.zeros(0, np.int32))
      >>> rows, = PostingRows(two)
      >>> rows.offsets.tolist(), rows.tokens.tolist(), rows.weights.tolist()
      ([0, 1, 3], [1, 0, 1], [1.0, 2.0, 3.0])
    """

    def __init__(
        self,
        postings: Postings,
        keep: Bool[np.ndarray, " N"] | None = None,
        more: Sequence[SparseRows] = (),
        *,
        stretch: int = _STRETCH,
    ) -> None:
        self._postings, self._keep, self._more = postings, keep, more
        num_docs, total = postings.num_docs, max(len(postings.docs), 1)
        rows = max(1, int(num_docs * stretch / total))
        self._starts = range(0, num_docs, rows)

    def __len__(self) -> int:
        return len(self._starts) + len(self._more)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if place >= len(self._starts):
            return self._more[place - len(self._starts)]
        start = self._starts[place]
        stop = min(start + self._starts.step, self._postings.num_docs)
        return document_rows(self._postings, start, stop, self._keep)


def _open(directory: Path) -> Postings:
    return open_postings(directory, int(read_manifest(directory).counts["docs"]))


def _check(directory: Path, manifest: Manifest) -> None:
    if manifest.details["model_kind"] == "bm25":
        raise InputError(
            directory, "weights of BM25, which are of the whole collection",
            "those of a model", "build the index again",
        )  # fmt: skip


@contextlib.contextmanager
def _encoded(
    model: "Model",
    collection: "Collection",
    place: Path,
    options: BuildOptions,
    manifest: Manifest,
) -> "Iterator[SparseCorpus]":
    check_tokenizer(model, manifest)
    ratio = float(manifest.details["prune_ratio"])
    options = dataclasses.replace(options, sparse=SparseOptions(prune_ratio=ratio))
    with sparse_encoded(model, collection, place, options) as found:
        yield found


def _added(new: Manifest, found: "SparseCorpus") -> dict[str, Any]:
    old = new.details
    names = ("postings", "empty_docs", "text_tokens", "expanded_tokens")
    counts = row_details(found)
    postings, empty, words, expanded = (old[n] + counts[n] for n in names)
    whole = found._replace(
        num_docs=new.counts["docs"], postings=postings, empty=empty, words=words,
        expanded=expanded,
    )  # fmt: skip
    return row_details(whole)


def _append(
    directory: Path, folder: Path, model: "Model", found: "SparseCorpus"
) -> None:
    del model  # rows are whole without it
    old = _open(directory)
    _write(folder, old, PostingRows(old, more=found.open()))


def _kept(directory: Path, new: Manifest, keep: np.ndarray) -> dict[str, Any]:
    """What is known of the documents that stay.

    How many tokens their texts have is not: the rate of expansion stays that of all
    documents that were ever encoded.
    """
    old = _open(directory)
    counts = np.zeros(old.num_docs, np.int64)
    for start in range(0, len(old.docs), _STRETCH):
        docs = old.docs[start : start + _STRETCH]
        counts += np.bincount(docs, minlength=old.num_docs)
    postings = int(counts[keep].sum())
    return {
        "postings": postings,
        "tokens_per_doc": round(postings / new.counts["docs"], 3),
        "empty_docs": int((counts[keep] == 0).sum()),
    }


def _keep(directory: Path, folder: Path, keep: np.ndarray) -> None:
    old = _open(directory)
    _write(folder, old, PostingRows(old, keep))


def _write(folder: Path, old: Postings, rows: PostingRows) -> None:
    build_postings(
        rows, old.vocab_size, folder, dtype=old.weights.dtype.name,
        block_size=old.block_size,
    )  # fmt: skip


SPARSE = Change(
    files=f"{FOLDER}/",
    check=_check,
    encoded=_encoded,
    measured=lambda model, found: {},
    added=_added,
    append=_append,
    kept=_kept,
    keep=_keep,
)
"""In an index of kind ``sparse``: all lists are written anew.

Weights of 8 bits are rounded a second time where the largest of their token is another.
"""
