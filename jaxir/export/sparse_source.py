"""What is exported of an index of kind ``sparse``: its documents, one at a time."""

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxir.data.collection import Collection
from jaxir.errors import InputError
from jaxir.export.opensearch import json_keys, sparse_json, token_names
from jaxir.export.opensearch_config import OpenSearchConfig
from jaxir.export.sparse_rows import row_blocks
from jaxir.files import sha256_file
from jaxir.manifest import DocIdFile, Manifest, read_manifest
from jaxir.openers import Opening, model_of
from jaxir.sparse.postings import Postings, open_postings
from jaxir.sparse.search import SparseQueries
from jaxir.sparse_query import QUERY, encoded_queries, open_queries
from jaxir.text import load_tokenizer

__all__ = [
    "BulkDoc",
    "SparseDoc",
    "SparseSource",
    "bulk_documents",
    "check_names",
    "open_source",
    "open_terms",
    "source_meta",
    "sparse_documents",
    "text_of",
    "vocabulary",
]

_LONGEST_ID = 512  # bytes of an _id


class SparseSource(NamedTuple):
    """An index of kind ``sparse``, open to be exported.

    Attributes:
      directory: of the index.
      manifest: what it says of itself.
      postings: its lists.
      doc_ids: the collection's own ids by row.
      names: the vocabulary's entries by token id, empty where an id has none.
    """

    directory: Path
    manifest: Manifest
    postings: Postings
    doc_ids: Sequence[str]
    names: list[str]

    @property
    def largest_weight(self) -> float:
        """Of a document's tokens; 0 where there is none."""
        weights, scales = self.postings.weights, self.postings.scales
        if not len(weights):
            return 0.0
        if scales is None:
            return float(weights.max())
        # The largest of each token has the largest code.
        return float(255 * scales[np.diff(self.postings.offsets) > 0].max())


class SparseDoc(NamedTuple):
    """A document of an index.

    Attributes:
      doc_id: its own id.
      tokens: int32 ``[n]``, rising.
      weights: float32 ``[n]``, above 0.
    """

    doc_id: str
    tokens: np.ndarray
    weights: np.ndarray


class BulkDoc(NamedTuple):
    """A document as the bulk API takes it.

    Attributes:
      doc_id: its own id, and the ``_id`` it has in the cluster.
      lines: the action and the fields, two lines of JSON in UTF-8.
    """

    doc_id: str
    lines: bytes


def open_source(directory: str | os.PathLike) -> SparseSource:
    """Opens an index of kind ``sparse``.

    Raises:
      InputError: no index, one of another kind, or a damaged one.
    """
    directory = Path(directory)
    manifest = read_manifest(directory, kind="sparse")
    num_docs = int(manifest.counts["docs"])
    postings = open_postings(directory, num_docs)
    names = vocabulary(directory, manifest)
    return SparseSource(directory, manifest, postings, DocIdFile(directory), names)


def vocabulary(directory: Path, manifest: Manifest) -> list[str]:
    """The entries of an index's vocabulary by token id, empty where an id has none."""
    if (directory / QUERY).is_dir():
        tokenizer = load_tokenizer(directory / QUERY / "tokenizer")
    elif manifest.details.get("self_contained", True):
        tokenizer = load_tokenizer(directory / "model")
    else:
        from jaxir.checkpoints.weights import resolve

        tokenizer = load_tokenizer(resolve(manifest.details["model_path"]))
    return tokenizer.tokens(np.arange(manifest.details["vocab_size"]))


def sparse_documents(source: SparseSource, *, start: int = 0) -> Iterator[SparseDoc]:
    """The documents of an index from a row on, in the order of their rows."""
    for block in row_blocks(source.postings, start=start):
        bounds = itertools.pairwise(block.offsets.tolist())
        for row, (low, high) in enumerate(bounds, block.start):
            here = slice(low, high)
            doc_id = source.doc_ids[row]
            yield SparseDoc(doc_id, block.tokens[here], block.weights[here])


def source_meta(source: SparseSource, config: OpenSearchConfig) -> dict[str, Any]:
    """What a mapping's ``_meta`` tells of the index that it was made of."""
    return {
        "format": 1,
        "docs": int(source.manifest.counts["docs"]),
        "field": config.field,
        "vector_name": config.vector_name,
        "text_name": config.text_name,
        "model_fingerprint": source.manifest.model_fingerprint,
        "manifest": sha256_file(source.directory / "manifest.json"),
    }


def bulk_documents(
    source: SparseSource,
    config: OpenSearchConfig,
    *,
    collection: Collection | None = None,
    start: int = 0,
) -> Iterator[BulkDoc]:
    """The documents from a row on, in the order of their rows.

    Args:
      source: of :func:`open_source`.
      config: how the vectors stand; titles and texts go along where it names a field
        for them.
      collection: has these texts.
      start: the first row.

    Raises:
      InputError: an id that OpenSearch does not take, a document that the collection
        lacks, or a token without a name.
    """
    if config.text_name is not None and collection is None:
        raise InputError("--texts", "not given", "the collection with the texts")
    keys = np.array(json_keys(token_names(config, source.names)), object)
    if config.field == "rank_features":
        check_names(source)
    for doc in sparse_documents(source, start=start):
        size = len(doc.doc_id.encode())
        if size > _LONGEST_ID:
            raise InputError(
                f"document {doc.doc_id[:40]}…", f"an id of {size} bytes",
                f"at most {_LONGEST_ID}, as OpenSearch has it",
            )  # fmt: skip
        fields = {"id": doc.doc_id}
        if config.text_name is not None:
            fields[config.text_name] = text_of(collection, doc.doc_id)
        vector = sparse_json(keys[doc.tokens].tolist(), doc.weights)
        line = f'{_dumps(fields)[:-1]},"{config.vector_name}":{vector}}}'
        action = _dumps({"index": {"_id": doc.doc_id}})
        yield BulkDoc(doc.doc_id, f"{action}\n{line}\n".encode())


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def text_of(collection: Collection | None, doc_id: str) -> str:
    """Title and text of a document; empty without a collection.

    Raises:
      InputError: the collection has no such document.
    """
    if collection is None:
        return ""
    row = collection.docs.row(doc_id)
    if row < 0:
        raise InputError(collection.path, f"no document {doc_id!r}", "the index's own")
    return collection.docs.text(row)


def check_names(source: SparseSource) -> list[str]:
    """The vocabulary's entries, where each token that is used has one of its own.

    Raises:
      InputError: two tokens would be one, or one has no name.
    """
    used = np.flatnonzero(np.diff(source.postings.offsets)).tolist()
    seen = {""}
    for token in used:
        name = source.names[token]
        if name in seen:
            raise InputError(
                source.directory, f"token {token} has no name of its own ({name!r})",
                "one for each", "a field of type sparse_vector has ids instead",
            )  # fmt: skip
        seen.add(name)
    return source.names


def open_terms(
    directory: Path, manifest: Manifest
) -> Callable[[Sequence[str], Sequence[str]], SparseQueries]:
    """What makes weighted tokens of texts, given queries' names for its errors.

    Raises:
      InputError: the index's files of queries are damaged.
    """
    details, folder = manifest.details, directory / QUERY
    if folder.is_dir():
        return open_queries(folder, details["vocab_size"], details["tokenizer"])
    return encoded_queries(model_of(Opening(directory, manifest)))
