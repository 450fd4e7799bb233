"""``jaxir export``: an index of kind ``sparse`` as files that other engines load.

The folder of OpenSearch's requests, whole or absent:

=================  ===========================================================
``index.json``     body of ``PUT /NAME``: mapping and settings
``pipeline.json``  body of ``PUT /_search/pipeline/NAME-two-phase``, if asked for
``bulk/*.ndjson``  bodies of ``POST /NAME/_bulk``, each below a size
``loaded.json``    body of ``PUT /NAME/_settings`` after the last of them
``queries.jsonl``  a query a line: its id, and the body of ``POST /NAME/_search``
``export.json``    what was exported, with sizes and the rounding's effect
=================  ===========================================================
"""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from jaxir.data.collection import Collection
from jaxir.errors import InputError
from jaxir.export.opensearch import (
    index_body,
    json_keys,
    loaded_settings,
    pipeline_body,
    query_body,
    sparse_json,
    stored_weights,
    token_names,
)
from jaxir.export.opensearch_config import OpenSearchConfig, check_name
from jaxir.export.sparse_rows import RowBlock, row_blocks
from jaxir.export.sparse_source import (
    BulkDoc,
    SparseSource,
    bulk_documents,
    check_names,
    open_source,
    open_terms,
    source_meta,
    sparse_documents,
    text_of,
)
from jaxir.files import atomic_directory
from jaxir.progress import progress_bar
from jaxir.sparse.search import SparseQueries

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "ExportOptions",
    "byte_count",
    "byte_sized",
    "export_index",
    "keyed",
    "pipeline_name",
]

MAX_BYTES = 50_000_000
"""Of a bulk file; a cluster takes requests of up to 100 MB unless told otherwise."""

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}
_COMPARED = 100  # queries whose scores are computed twice, over all documents


def byte_count(text: str) -> int:
    """A number of bytes, as ``50MB`` (10**6) or ``8MiB`` (2**20).

    Raises:
      InputError: not one.

    Example::

      >>> byte_count("50MB"), byte_count("1 KiB")
      (50000000, 1024)
    """
    number = text.strip().rstrip("BKMGIbkmgi ")
    unit = text.strip()[len(number) :].strip().lower()
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError) as error:
        raise InputError("bytes", repr(text), "a size such as 50MB") from error
    if size < 1:
        raise InputError("bytes", repr(text), "at least 1")
    return size


def pipeline_name(name: str) -> str:
    """Name of the search pipeline that belongs to an index."""
    return f"{name}-two-phase"


class ExportOptions(NamedTuple):
    """What is exported, and how.

    Attributes:
      opensearch: how the vectors stand there.
      name: of the index in the cluster, which only the pipeline's name depends on.
      collection: has the documents' texts; None to leave them out.
      queries: texts by id whose request bodies are written.
      k: results of these requests.
      max_bytes: the largest bulk file.
      scale: of Pyserini's weights, which are whole numbers.
    """

    opensearch: OpenSearchConfig = OpenSearchConfig()
    name: str = "jaxir"
    collection: Collection | None = None
    queries: Mapping[str, str] = MappingProxyType({})
    k: int = 10
    max_bytes: int = MAX_BYTES
    scale: int = 100


def export_index(
    directory: str | os.PathLike,
    target: str | os.PathLike,
    options: ExportOptions,
    *,
    format: str = "opensearch",
) -> dict[str, Any]:
    """Writes an index of kind ``sparse`` for another engine.

    Args:
      directory: the index.
      target: the folder to write; one that an export wrote before is replaced.
      options: what is written.
      format: a name in :data:`FORMATS`.

    Returns:
      What ``export.json`` says.

    Raises:
      InputError: an unknown format, no such index, something that the engine refuses,
        or a place that holds something else.
    """
    if format not in FORMATS:
        raise InputError(
            "format", repr(format), "one of " + ", ".join(FORMATS),
            "a file of Faiss is written by jaxir convert",
        )  # fmt: skip
    target = Path(target)
    foreign = target.is_dir() and not (target / "export.json").is_file()
    if target.exists() and (not target.is_dir() or (foreign and any(target.iterdir()))):
        raise InputError(target, "not an export", "a new place or one to replace")
    source = open_source(directory)
    with atomic_directory(target) as folder:
        told = FORMATS[format](source, folder, options)
        told = {"format": format, **told}
        _write_json(folder / "export.json", told)
    return told


def _write_json(path: Path, value: Any) -> None:
    path.write_text(
        json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _opensearch(
    source: SparseSource, folder: Path, options: ExportOptions
) -> dict[str, Any]:
    config = options.opensearch
    check_name(options.name)
    pipeline = pipeline_name(options.name) if config.two_phase else None
    meta = source_meta(source, config)
    body = index_body(
        config, meta={**meta, "loaded": True}, pipeline=pipeline,
        largest_weight=source.largest_weight,
    )  # fmt: skip
    _write_json(folder / "index.json", body)
    _write_json(folder / "loaded.json", loaded_settings(config))
    if pipeline is not None:
        _write_json(folder / "pipeline.json", pipeline_body(config))
    docs = bulk_documents(source, config, collection=options.collection)
    files = _write_bulk(folder / "bulk", _counted(docs, source), options.max_bytes)
    told = {
        **meta, "version": ".".join(map(str, config.number)),
        "files": files, "queries": len(options.queries),
    }  # fmt: skip
    if options.queries:
        terms = open_terms(source.directory, source.manifest)(
            list(options.queries.values()), list(options.queries)
        )
        _write_queries(folder / "queries.jsonl", source, options, terms)
        told |= _differences(source, terms)
    return told


def _counted(docs: Iterator[BulkDoc], source: SparseSource) -> Iterator[BulkDoc]:
    total = int(source.manifest.counts["docs"])
    return iter(progress_bar(docs, total=total, label="export", unit="doc"))


def byte_sized(docs: Iterable[BulkDoc], max_bytes: int) -> Iterator[list[BulkDoc]]:
    """Documents in groups whose lines are at most so many bytes.

    Raises:
      InputError: a single document is larger.
    """
    group: list[BulkDoc] = []
    size = 0
    for doc in docs:
        if len(doc.lines) > max_bytes:
            raise InputError(
                f"document {doc.doc_id}", f"{len(doc.lines):,} bytes",
                f"at most {max_bytes:,}", "raise --max_bytes",
            )  # fmt: skip
        if size + len(doc.lines) > max_bytes:
            yield group
            group, size = [], 0
        group.append(doc)
        size += len(doc.lines)
    if group:
        yield group


def _write_bulk(
    folder: Path, docs: Iterable[BulkDoc], max_bytes: int, suffix: str = "ndjson"
) -> dict[str, dict[str, int]]:
    """Writes files of at most so many bytes; returns what is in each."""
    folder.mkdir()
    files = {}
    for number, group in enumerate(byte_sized(docs, max_bytes)):
        path = folder / f"{number:05d}.{suffix}"
        with path.open("wb") as out:
            out.writelines(doc.lines for doc in group)
        name = f"{folder.name}/{path.name}"
        files[name] = {"docs": len(group), "bytes": path.stat().st_size}
    return files


def _write_queries(
    path: Path, source: SparseSource, options: ExportOptions, terms: SparseQueries
) -> None:
    config = options.opensearch
    keys = token_names(config, source.names)
    with path.open("w", encoding="utf-8") as out:
        for name, tokens in zip(options.queries, keyed(terms, keys), strict=True):
            body = query_body(config, tokens, options.k, where=f"query {name}")
            line = {"id": name, "body": body}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def keyed(terms: SparseQueries, keys: Sequence[str]) -> Iterator[dict[str, float]]:
    """Each query's weights by key."""
    for low, high in itertools.pairwise(terms.offsets.tolist()):
        here = [keys[token] for token in terms.tokens[low:high].tolist()]
        text = sparse_json(json_keys(here), terms.weights[low:high])
        yield json.loads(text)


def _differences(source: SparseSource, terms: SparseQueries) -> dict[str, Any]:
    """How far scores of stored weights lie below those of the index's own."""
    last = int(terms.offsets[: _COMPARED + 1][-1])
    size = len(source.postings.offsets) - 1
    shape = (min(len(terms.offsets) - 1, _COMPARED), size)
    queries = csr_matrix(
        (terms.weights[:last], terms.tokens[:last], terms.offsets[: shape[0] + 1]),
        shape,
    )
    largest = share = 0.0
    for block in row_blocks(source.postings):
        scores = queries @ _matrix(block, block.weights, size).T
        kept = queries @ _matrix(block, stored_weights(block.weights), size).T
        if scores.nnz:
            losses = scores - kept
            largest = max(largest, float(losses.max()))
            share = max(share, float(losses.multiply(scores.power(-1)).max()))
    return {
        "queries_compared": shape[0],
        "largest_score_difference": largest,
        "largest_relative_difference": share,
    }


def _matrix(block: RowBlock, weights: np.ndarray, vocab_size: int) -> csr_matrix:
    shape = (len(block.offsets) - 1, vocab_size)
    return csr_matrix((weights.astype(np.float64), block.tokens, block.offsets), shape)


def _jsonl(
    source: SparseSource, folder: Path, options: ExportOptions
) -> dict[str, Any]:
    """Anserini's JsonVectorCollection: weights times ``scale``, as whole numbers."""
    if options.queries:
        raise InputError("--queries", "given with format jsonl", "format opensearch")
    if options.scale < 1:
        raise InputError("scale", str(options.scale), "at least 1")
    if not options.scale * source.largest_weight < 2**31:
        raise InputError(
            "scale", str(options.scale), "whole numbers of 31 bits, at most "
            f"{2**31 / source.largest_weight:.3g}",
        )  # fmt: skip
    docs = _counted(_vectors(source, options), source)
    files = _write_bulk(folder / "docs", docs, options.max_bytes, "jsonl")
    total = int(source.manifest.counts["docs"])
    return {"docs": total, "scale": options.scale, "files": files}


def _vectors(source: SparseSource, options: ExportOptions) -> Iterator[BulkDoc]:
    names = np.array(check_names(source), object)
    for doc in sparse_documents(source):
        numbers = np.rint(doc.weights * options.scale).astype(np.int64)
        kept = numbers > 0
        keys = names[doc.tokens[kept]].tolist()
        line = {
            "id": doc.doc_id,
            "contents": text_of(options.collection, doc.doc_id),
            "vector": dict(zip(keys, numbers[kept].tolist(), strict=True)),
        }
        text = json.dumps(line, ensure_ascii=False) + "\n"
        yield BulkDoc(doc.doc_id, text.encode())


FORMATS: Mapping[str, Callable[[SparseSource, Path, ExportOptions], dict[str, Any]]] = (
    MappingProxyType({"opensearch": _opensearch, "jsonl": _jsonl})
)
"""What writes each format into a folder."""
