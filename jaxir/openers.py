"""What opens an index of each kind: from its directory to a function that ranks texts.

``jaxir/search.py`` is the same for all of them; a new kind adds a function and a row to
:data:`OPENERS`.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxir.errors import InputError
from jaxir.manifest import Manifest
from jaxir.progress import say
from jaxir.types import Ranking

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model
    from jaxir.hyper.graph import GraphSearchConfig
    from jaxir.hyper.qnet import QNetSpec, QNetWeights
    from jaxir.sparse.search import TwoPhase

__all__ = [
    "BACKENDS",
    "GRAPH",
    "MODES",
    "OPENERS",
    "Found",
    "Opener",
    "Opening",
    "RankTexts",
    "model_of",
    "shards_fingerprint",
]

GRAPH = "graph"
"""Folder of the neighbour graph in an index."""

MODES = ("exhaustive", "graph")
"""Ways through an index: every document, or those a walk along a graph comes by."""

BACKENDS = ("jax", "faiss")
"""What can search the codes of an index of kind ``pq``."""

QUERY_BATCHES = (1, 4, 16, 64)
"""Queries searched together: each number is compiled once for each ``k``."""

QNET_BATCHES = (1, 2, 4, 8)
"""Queries that become q-nets together, of 14 MB each at 6 x 768; compiled as above."""


class Found(NamedTuple):
    """What a search of a batch of texts gives.

    Attributes:
      ranking: numpy arrays ``[B, k]``.
      scored: documents whose score was computed, of all the queries together.
      tokens: of all the queries, where these are weights of tokens.
      postings: of those tokens.
    """

    ranking: Ranking
    scored: int
    tokens: int = 0
    postings: int = 0


RankTexts = Callable[[Sequence[str], int, Sequence[str]], Found]
"""``rank(texts, k, names) -> Found`` of one to ``Opener.batch`` texts.

An error that is of one query calls it by its name.
"""


class Opening(NamedTuple):
    """One call of ``open_index``.

    Attributes:
      directory: of the index.
      manifest: what it says of itself.
      model: encodes the queries; None for the index's own.
      mode: a name in :data:`MODES`.
      graph: settings of the graph search; None for its defaults.
      backend: a name in :data:`BACKENDS`, what searches codes.
      rescore: of Faiss's search in codes of 4 bits: how many times ``k`` candidates are
        scored exactly.
      method: of posting lists, a name in ``sparse_query.METHODS``; None for the
        default.
      two_phase: parameters of that method; None for its defaults.
    """

    directory: Path
    manifest: Manifest
    model: "Model | str | None" = None
    mode: str = "exhaustive"
    graph: "GraphSearchConfig | None" = None
    backend: str = "jax"
    rescore: int = 0
    method: str | None = None
    two_phase: "TwoPhase | None" = None


def _open_bm25(opening: Opening) -> RankTexts:
    from jaxir.bm25 import load_bm25

    if opening.model is not None:
        raise InputError("model", "given for a BM25 index", "no model")
    search = load_bm25(opening.directory / "bm25").search
    num_docs = int(opening.manifest.counts["docs"])

    def rank(texts: Sequence[str], k: int, names: Sequence[str]) -> Found:
        return Found(search(texts, k), len(texts) * num_docs)

    return rank


def _open_dense(opening: Opening) -> RankTexts:
    from jaxir.dense.vectors import open_vectors
    from jaxir.encode import TextEncoder

    encoder = TextEncoder(model_of(opening), side="query")
    vectors = open_vectors(_shards(opening))

    def rank(texts: Sequence[str], k: int, names: Sequence[str]) -> Found:
        queries = encoder(texts)
        _check_width(opening, vectors.width, queries.shape[1])
        finite = np.isfinite(queries).all(axis=1)
        if not finite.all():
            name = names[int(np.argmin(finite))]
            raise InputError(f"query {name}", "NaN or infinity", "finite numbers")
        rows = next(size for size in QUERY_BATCHES if size >= len(texts))
        padded = np.zeros((rows, queries.shape[1]), np.float32)
        padded[: len(texts)] = queries
        ranking = _first(vectors.search(padded, k), len(texts))
        return Found(ranking, len(texts) * vectors.num_docs)

    return rank


def _open_pq(opening: Opening) -> RankTexts:
    from jaxir.encode import TextEncoder, as_bi_encoder
    from jaxir.pq.model import searching_codec
    from jaxir.pq.search import open_codes

    model, path = model_of(opening), opening.directory / "codes.npy"
    codes = np.load(path, mmap_mode="r")
    num_docs = int(opening.manifest.counts["docs"])
    if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != num_docs:
        raise InputError(
            path, f"{codes.dtype} {list(codes.shape)}", f"uint8 codes of {num_docs} "
            "documents", "build the index again",
        )  # fmt: skip
    codec = searching_codec(model.params)
    opened = open_codes(
        codec, codes, model.config.bits, backend=opening.backend,
        rescore=opening.rescore,
    )  # fmt: skip
    # Vectors serve tables, products and Faiss.
    encoder = TextEncoder(as_bi_encoder(model), side="query")

    def rank(texts: Sequence[str], k: int, names: Sequence[str]) -> Found:
        ranking = opened.search(encoder(texts), k, names=names)
        return Found(ranking, len(texts) * num_docs)

    return rank


def _open_sparse(opening: Opening) -> RankTexts:
    from jaxir.sparse_query import open_ranker

    return open_ranker(opening)


def _open_hypencoder(opening: Opening) -> RankTexts:
    from jaxir.encode import TextEncoder
    from jaxir.hyper.stored import QueryError
    from jaxir.mesh import make_mesh

    model, shards = model_of(opening), _shards(opening)
    spec = model.config.qnet
    _check_width(opening, shards[0].shape[1], spec.row_width)
    open_mode = _walking if opening.mode == "graph" else _scoring_all
    search = open_mode(opening, spec, shards)
    # One device makes q-nets: a lone query cannot be split between several.
    encoder = TextEncoder(model, side="query", mesh=make_mesh(1))

    def rank(texts: Sequence[str], k: int, names: Sequence[str]) -> Found:
        rows = next(size for size in QNET_BATCHES if size >= len(texts))
        weights = encoder.on_devices(texts, rows)
        try:
            ranking, scored = search(weights, k)
        except QueryError as error:
            raise error.named(names[error.query]) from None
        return Found(_first(ranking, len(texts)), int(scored[: len(texts)].sum()))

    return rank


SearchQNets = Callable[["QNetWeights", int], tuple[Ranking, np.ndarray]]
"""``search(weights, k)``: the ranking, and of each query the documents scored."""


def _scoring_all(
    opening: Opening, spec: "QNetSpec", shards: Sequence[np.ndarray]
) -> SearchQNets:
    """Every document, wherever the vectors are searched fastest."""
    from jaxir.hyper.search import open_vectors

    vectors = open_vectors(spec, shards)

    def search(weights: "QNetWeights", k: int) -> tuple[Ranking, np.ndarray]:
        scored = np.full(weights.output.shape[0], vectors.num_docs)
        return vectors.search(weights, k), scored

    return search


def _walking(
    opening: Opening, spec: "QNetSpec", shards: Sequence[np.ndarray]
) -> SearchQNets:
    """What a walk along the neighbour graph comes by."""
    import jax
    from jax.sharding import Mesh

    from jaxir.hyper.graph import GraphSearchConfig, graph_search, graph_vectors
    from jaxir.vectors import device_budget

    num_docs, config = sum(map(len, shards)), opening.graph or GraphSearchConfig()
    graph = _neighbors(opening, num_docs)
    # Of one device, unlike the budget; 0 is a CPU's, where the host's memory serves.
    room = device_budget() // jax.local_device_count()
    needed = sum(shard.nbytes for shard in shards) + graph.nbytes
    if 0 < room < needed:
        raise InputError(
            opening.directory,
            f"{needed / 1e9:.1f} GB of vectors and neighbours for mode 'graph'",
            f"at most {room / 1e9:.1f} GB, the device's",
            "mode 'exhaustive' streams them; jaxir index --dtype float16 halves them",
        )
    if config.entry_points > num_docs:
        say(f"entry points: all {num_docs:,} documents, as there are no more")
    # The devices share the queries; each has the vectors and the graph.
    mesh = Mesh(np.array(jax.local_devices()), ("data",))
    vectors = graph_vectors(shards, mesh)
    neighbors = jax.device_put(graph, vectors.sharding, may_alias=True)

    def search(weights: "QNetWeights", k: int) -> tuple[Ranking, np.ndarray]:
        found = graph_search(spec, weights, vectors, neighbors, k, config)
        return found.ranking, found.scored

    return search


def _neighbors(opening: Opening, num_docs: int) -> np.ndarray:
    """Rows ``[N, degree]`` of each document's neighbours, memory-mapped."""
    from jaxir.hyper.neighbors import open_neighbors

    directory, manifest = opening.directory, opening.manifest
    if manifest.details.get("neighbors") is None:
        raise InputError(
            directory, "an index without a neighbour graph", "one for mode 'graph'",
            f"add it: jaxir index --index {directory} --neighbors 100",
        )  # fmt: skip
    hashes = (manifest.files[name]["sha256"] for name in manifest.details["shards"])
    return open_neighbors(directory / GRAPH, num_docs, shards_fingerprint(hashes))


def shards_fingerprint(hashes: Iterable[str]) -> str:
    """What a graph remembers of the vectors it is of, without reading them again.

    Args:
      hashes: the sha256 of each file of vectors, as the manifest has them.
    """
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


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


def model_of(opening: Opening) -> "Model":
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


class Opener(NamedTuple):
    """A kind of index.

    Attributes:
      open: the function that opens it.
      batch: the most texts that what it gives ranks at once.
    """

    open: Callable[[Opening], RankTexts]
    batch: int = QUERY_BATCHES[-1]


OPENERS: Mapping[str, Opener] = MappingProxyType(
    {
        "bm25": Opener(_open_bm25),
        "dense": Opener(_open_dense),
        "hypencoder": Opener(_open_hypencoder, QNET_BATCHES[-1]),
        "pq": Opener(_open_pq),
        "sparse": Opener(_open_sparse),
    }
)
"""What opens an index of each kind."""
