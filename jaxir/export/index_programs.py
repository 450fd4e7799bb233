"""A whole searcher as one program: tokens of queries to positions and scores.

The encoder of the queries and the search over every document are one function, and the
vectors or codes of the documents are among its parameters.  What is searched is what
``jaxir.search`` searches exhaustively; a document's position is its row in the index.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxir.checkpoints.model_dir import Model
from jaxir.checkpoints.rules import flatten, unflatten
from jaxir.errors import InputError
from jaxir.export.programs import (
    Arrays,
    Exportable,
    Program,
    is_coarse,
    read_tokens,
    token_inputs,
)
from jaxir.families import family
from jaxir.manifest import DocIdFile, Manifest, read_manifest
from jaxir.nn.tower import tower_name
from jaxir.openers import Opening, model_of

__all__ = ["SEARCHERS", "index_programs"]

_BLOCK_ROWS = {"dense": 16_384, "hypencoder": 2_048, "pq": 16_384}


class _Search(NamedTuple):
    """How an index is searched inside a program.

    Attributes:
      stored: arrays by path, of the index alone.
      parts: the beginnings of the paths of the model's parameters that are read.
      rank: ``rank(params, tokens) -> Ranking``.
    """

    stored: dict[str, np.ndarray]
    parts: tuple[str, ...]
    rank: Callable[[Any, Any], Any]


def index_programs(
    directory: str | os.PathLike, *, model: Model | str | None = None, k: int = 100
) -> Exportable:
    """What is exported of an index.

    Args:
      directory: what ``build_index`` wrote.
      model: encodes the queries; by default the index's own.
      k: results of a query, as many as there are documents if fewer.

    Raises:
      InputError: no index, one of a kind that cannot be exported, ``k`` below 1, or a
        model that did not encode the documents.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if manifest.kind not in SEARCHERS:
        remedy = "jaxir export --format opensearch" if manifest.kind == "sparse" else ""
        raise InputError(
            directory, f"an index of kind {manifest.kind!r}",
            "one of " + ", ".join(SEARCHERS), remedy,
        )  # fmt: skip
    if k < 1:
        raise InputError("k", str(k), "at least 1")
    num_docs = int(manifest.counts["docs"])
    k = min(k, num_docs)
    loaded = model_of(Opening(directory, manifest, model))
    search = SEARCHERS[manifest.kind](directory, manifest, loaded, k)

    def function(params: Arrays, inputs: Arrays) -> dict[str, Any]:
        found = search.rank(unflatten(params), read_tokens(inputs))
        return {"positions": found.doc_ids, "scores": found.scores}

    config = loaded.config
    program = Program(
        "search",
        function,
        (*search.parts, *search.stored),
        token_inputs(config.backbone.vocab_size),
        config.backbone.max_length,
        config.query_length,
        config.query_template,
    )
    return Exportable(
        manifest.kind, str(directory), flatten(loaded.params) | search.stored,
        (program,), program.name, loaded.tokenizer, loaded.fingerprint,
        DocIdFile(directory), {"docs": num_docs, "k": k}, is_coarse(loaded),
    )  # fmt: skip


def _blocks(directory: Path, manifest: Manifest, width: int) -> np.ndarray:
    """The stored vectors ``[blocks, rows, W]``, zeros after the last document."""
    names = manifest.details["shards"]
    shards = [np.load(directory / name, mmap_mode="r") for name in names]
    if shards[0].shape[1] != width:
        raise InputError(
            directory, f"vectors of width {shards[0].shape[1]}",
            f"width {width}, the model's", "build the index again",
        )  # fmt: skip
    num_docs = sum(map(len, shards))
    count = -(-num_docs // _BLOCK_ROWS[manifest.kind])
    # Blocks of like size, a multiple of what the selection cuts into groups.
    rows = -(-num_docs // (64 * count)) * 64
    blocks = np.zeros((count * rows, width), shards[0].dtype)
    np.concatenate(shards, out=blocks[:num_docs])
    return blocks.reshape(count, rows, width)


def _exhaustive(score: Any, num_docs: int, k: int, queries: Any, vectors: Any) -> Any:
    from jaxir.blocks import resident_search
    from jaxir.vectors import BlockedVectors

    return resident_search(score, queries, BlockedVectors(vectors, num_docs), k)


def _dense(directory: Path, manifest: Manifest, model: Model, k: int) -> _Search:
    from jaxir.dense.search import dot_scores
    from jaxir.nn.tower import embedding_size

    encode: Any = family("dense").encode_query
    num_docs = int(manifest.counts["docs"])
    search = partial(_exhaustive, dot_scores, num_docs, k)

    def rank(params: Any, tokens: Any) -> Any:
        queries = encode(model.config, params, tokens)
        return search(queries, params["index"]["vectors"])

    vectors = _blocks(directory, manifest, embedding_size(model.config))
    parts = (tower_name(model.config, "query"),)
    return _Search({"index/vectors": vectors}, parts, rank)


def _hypencoder(directory: Path, manifest: Manifest, model: Model, k: int) -> _Search:
    from jaxir.hyper.search import QNetScore

    encode: Any = family("hypencoder").encode_query
    config, num_docs = model.config, int(manifest.counts["docs"])
    search = partial(_exhaustive, QNetScore(config.qnet), num_docs, k)

    def rank(params: Any, tokens: Any) -> Any:
        nets = encode(config, params, tokens)
        return search(nets, params["index"]["vectors"])

    vectors = _blocks(directory, manifest, config.qnet.row_width)
    parts = (tower_name(config, "query"), "head")
    return _Search({"index/vectors": vectors}, parts, rank)


def _pq(directory: Path, manifest: Manifest, model: Model, k: int) -> _Search:
    from jaxir.pq.model import query_vectors, searching_codec
    from jaxir.pq.score import check_codec
    from jaxir.pq.search import exhaustive_search, make_queries

    config = model.config
    codes = np.load(directory / "codes.npy")
    check_codec(searching_codec(model.params), codes, config.bits)

    def rank(params: Any, tokens: Any) -> Any:
        vectors = query_vectors(config, params, tokens)
        tables = make_queries(searching_codec(params), vectors)
        held, rows = params["index"]["codes"], _BLOCK_ROWS["pq"]
        return exhaustive_search(tables, held, k, block_rows=rows)

    parts = ("query", "codec/rotation", "codec/centroids")
    return _Search({"index/codes": codes}, parts, rank)


SEARCHERS: Mapping[str, Callable[[Path, Manifest, Model, int], _Search]] = (
    MappingProxyType({"dense": _dense, "hypencoder": _hypencoder, "pq": _pq})
)
"""How an index of each kind is searched inside a program."""
