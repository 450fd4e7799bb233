"""Opening an index of any kind, and searching it.

Every kind is one function in :data:`OPENERS`, from the directory to a function that
ranks a batch of texts; :class:`Searcher` is the same for all of them.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from jaxir.errors import InputError
from jaxir.manifest import DocIdFile, Manifest, read_manifest
from jaxir.progress import progress_bar
from jaxir.types import Ranking

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model

__all__ = ["OPENERS", "Searcher", "open_index", "search"]

Run = dict[str, dict[str, float]]

RankTexts = Callable[[Sequence[str], int], Ranking]
"""``rank(texts, k) -> Ranking`` of numpy arrays ``[len(texts), k]``."""

QUERY_BATCHES = (1, 8, 64)
"""Queries searched together: each number is compiled once for each ``k``."""


class Searcher:
    """An open index; made by :func:`open_index`.

    Attributes:
      kind: of the index.
      num_docs: documents in it.
      doc_ids: the collection's own ids by row, read on demand.
      manifest: what the index says of itself.
    """

    def __init__(self, directory: Path, manifest: Manifest, rank: RankTexts) -> None:
        self.directory, self.manifest, self._rank = directory, manifest, rank
        self.kind = manifest.kind
        self.num_docs = int(manifest.counts["docs"])
        self.doc_ids: Sequence[str] = DocIdFile(directory)

    def __repr__(self) -> str:
        return f"Searcher({str(self.directory)!r}, kind={self.kind!r})"

    def search_texts(self, texts: Sequence[str], k: int) -> Ranking:
        """The ``k`` best documents of each text.

        Args:
          texts: queries.
          k: results of each, at least 1.

        Returns:
          Rows and scores ``[len(texts), k]`` as numpy arrays; ties by the lower row,
          missing results with id -1 and score -inf.

        Raises:
          InputError: ``k`` is not positive.
        """
        if k < 1:
            raise InputError("k", str(k), "at least 1")
        parts = [
            self._rank(texts[start : start + QUERY_BATCHES[-1]], k)
            for start in range(0, len(texts), QUERY_BATCHES[-1])
        ]
        if not parts:
            return Ranking(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32))
        return Ranking(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def search(self, queries: Mapping[str, str], *, k: int = 1000) -> Run:
        """A run: the ``k`` best documents of each query by their own ids.

        Args:
          queries: texts by query id.
          k: results of each query, at least 1.

        Returns:
          ``{query_id: {doc_id: score}}``, best first.  A query without results has an
          empty entry.
        """
        names, texts = list(queries), list(queries.values())
        run: Run = {}
        with progress_bar(total=len(names), label="search", unit="query") as bar:
            for start in range(0, len(names), QUERY_BATCHES[-1]):
                batch = slice(start, start + QUERY_BATCHES[-1])
                ranking = self.search_texts(texts[batch], k)
                for i, name in enumerate(names[batch]):
                    rows = ranking.doc_ids[i].tolist()
                    scores = ranking.scores[i].tolist()
                    run[name] = {
                        self.doc_ids[row]: score
                        for row, score in zip(rows, scores, strict=True)
                        if row >= 0
                    }
                bar.update(len(names[batch]))
        return run


def _open_bm25(
    directory: Path, manifest: Manifest, model: "Model | str | None"
) -> RankTexts:
    from jaxir.bm25 import load_bm25

    if model is not None:
        raise InputError("model", "given for a BM25 index", "no model")
    return load_bm25(directory / "bm25").search


def _open_dense(
    directory: Path, manifest: Manifest, model: "Model | str | None"
) -> RankTexts:
    from jaxir.dense.vectors import open_vectors
    from jaxir.encode import TextEncoder

    loaded = _model_of(directory, manifest, model)
    encoder = TextEncoder(loaded, side="query")
    paths = [directory / name for name in manifest.details["shards"]]
    vectors = open_vectors([np.load(path, mmap_mode="r") for path in paths])

    def rank(texts: Sequence[str], k: int) -> Ranking:
        queries = encoder(texts)
        if queries.shape[1] != vectors.width:
            raise InputError(
                directory,
                f"vectors of width {vectors.width}",
                f"width {queries.shape[1]}, the model's",
                "search with the model that built the index",
            )
        rows = next(size for size in QUERY_BATCHES if size >= len(texts))
        padded = np.zeros((rows, queries.shape[1]), np.float32)
        padded[: len(texts)] = queries
        ranking = vectors.search(padded, k)
        return Ranking(*(part[: len(texts)] for part in ranking))

    return rank


def _model_of(
    directory: Path, manifest: Manifest, model: "Model | str | None"
) -> "Model":
    """The model given, the copy in the index, or the one at the remembered path."""
    from jaxir.checkpoints.model_dir import load_model

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


Opener = Callable[[Path, Manifest, "Model | str | None"], RankTexts]

OPENERS: Mapping[str, Opener] = MappingProxyType(
    {"bm25": _open_bm25, "dense": _open_dense}
)
"""What opens an index of each kind."""


def open_index(
    directory: str | os.PathLike, *, model: "Model | str | None" = None
) -> Searcher:
    """Opens an index.

    Args:
      directory: what ``build_index`` wrote.
      model: encodes the queries; by default the index's own.

    Raises:
      InputError: no index, a damaged one, or one that another model encoded.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if manifest.kind not in OPENERS:
        raise InputError(
            directory,
            f"an index of kind {manifest.kind!r}",
            "one of " + ", ".join(OPENERS),
            "a newer jaxir may know it",
        )
    rank = OPENERS[manifest.kind](directory, manifest, model)
    return Searcher(directory, manifest, rank)


def search(
    index: Searcher | str | os.PathLike, queries: Mapping[str, str], *, k: int = 1000
) -> Run:
    """Searches an index: :func:`open_index` and :meth:`Searcher.search` in one.

    Args:
      index: an open index or its directory.
      queries: texts by query id.
      k: results of each query.
    """
    searcher = index if isinstance(index, Searcher) else open_index(index)
    return searcher.search(queries, k=k)
