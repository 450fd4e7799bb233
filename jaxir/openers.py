"""What opens an index of each kind: from its directory to a function that ranks texts.

``jaxir/search.py`` is the same for all of them; a new kind adds a function and a row to
:data:`OPENERS`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxir.errors import InputError
from jaxir.manifest import Manifest
from jaxir.types import Ranking

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model
    from jaxir.hyper.graph import GraphSearchConfig

__all__ = ["MODES", "OPENERS", "QUERY_BATCHES", "Found", "Opening", "RankTexts"]

MODES = ("exhaustive", "graph")
"""Ways through an index: every document, or those a walk along a graph comes by."""

QUERY_BATCHES = (1, 8, 64)
"""Queries searched together: each number is compiled once for each ``k``."""


class Found(NamedTuple):
    """What a search of a batch of texts gives.

    Attributes:
      ranking: numpy arrays ``[B, k]``.
      scored: documents whose score was computed, of all the queries together.
    """

    ranking: Ranking
    scored: int


RankTexts = Callable[[Sequence[str], int], Found]
"""``rank(texts, k) -> Found`` of one to ``QUERY_BATCHES[-1]`` texts."""


class Opening(NamedTuple):
    """One call of ``open_index``.

    Attributes:
      directory: of the index.
      manifest: what it says of itself.
      model: encodes the queries; None for the index's own.
      mode: a name in :data:`MODES`.
      graph: settings of the graph search; None for its defaults.
    """

    directory: Path
    manifest: Manifest
    model: "Model | str | None" = None
    mode: str = "exhaustive"
    graph: "GraphSearchConfig | None" = None


def _open_bm25(opening: Opening) -> RankTexts:
    from jaxir.bm25 import load_bm25

    if opening.model is not None:
        raise InputError("model", "given for a BM25 index", "no model")
    search = load_bm25(opening.directory / "bm25").search
    num_docs = int(opening.manifest.counts["docs"])

    def rank(texts: Sequence[str], k: int) -> Found:
        return Found(search(texts, k), len(texts) * num_docs)

    return rank


def _open_dense(opening: Opening) -> RankTexts:
    from jaxir.dense.vectors import open_vectors
    from jaxir.encode import TextEncoder

    encoder = TextEncoder(_model_of(opening), side="query")
    vectors = open_vectors(_shards(opening))

    def rank(texts: Sequence[str], k: int) -> Found:
        queries = encoder(texts)
        _check_width(opening, vectors.width, queries.shape[1])
        rows = next(size for size in QUERY_BATCHES if size >= len(texts))
        padded = np.zeros((rows, queries.shape[1]), np.float32)
        padded[: len(texts)] = queries
        ranking = _first(vectors.search(padded, k), len(texts))
        return Found(ranking, len(texts) * vectors.num_docs)

    return rank


def _shards(opening: Opening) -> list[np.ndarray]:
    """The stored vectors, memory-mapped."""
    names = opening.manifest.details["shards"]
    return [np.load(opening.directory / name, mmap_mode="r") for name in names]


def _check_width(opening: Opening, found: int, expected: int) -> None:
    if found != expected:
        raise InputError(
            opening.directory,
            f"vectors of width {found}",
            f"width {expected}, the model's",
            "search with the model that built the index",
        )


def _first(ranking: Ranking, count: int) -> Ranking:
    """The rankings of the queries that do not only fill a batch up."""
    return Ranking(*(np.asarray(part)[:count] for part in ranking))


def _model_of(opening: Opening) -> "Model":
    """The model given, the copy in the index, or the one at the remembered path."""
    from jaxir.checkpoints.model_dir import load_model

    directory, manifest, model = opening.directory, opening.manifest, opening.model
    where = "model" if model is not None else directory
    if model is None:
        copy = directory / "model"
        model = os.fspath(copy) if copy.is_dir() else manifest.details["model_path"]
        elsewhere = model.startswith(("hf:", "package:"))
        if not (elsewhere or (model and Path(model).exists())):
            raise InputError(
                directory,
                f"its model is no longer at {model or 'any path'}",
                remedy="say where it is with --model",
            )
    loaded = load_model(model) if isinstance(model, str) else model
    if loaded.fingerprint != manifest.model_fingerprint:
        raise InputError(
            where,
            f"a model with fingerprint {loaded.fingerprint[:12]}",
            f"{manifest.model_fingerprint[:12]}, which encoded the documents",
            "search with that model or build the index again",
        )
    return loaded


OPENERS: Mapping[str, Callable[[Opening], RankTexts]] = MappingProxyType(
    {"bm25": _open_bm25, "dense": _open_dense}
)
"""What opens an index of each kind."""
