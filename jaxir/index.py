"""Building an index: a collection and a model become a directory that can be searched.

Every kind is a function in :data:`BUILDERS`; ``jaxir/openers.py`` opens what it wrote.
Kinds whose documents are vectors share one of them.
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxir.bm25 import Bm25Config, build_bm25
from jaxir.data.collection import Collection, open_collection
from jaxir.errors import InputError
from jaxir.files import locked, sha256_file
from jaxir.manifest import (
    Manifest,
    check_replaceable,
    read_manifest,
    write_doc_ids,
    write_index,
)
from jaxir.openers import GRAPH, shards_fingerprint
from jaxir.progress import progress_bar

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model

__all__ = ["BUILDERS", "BuildOptions", "add_neighbors", "build_index"]


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What may be chosen when an index is built; each kind reads its own.

    Attributes:
      batch_tokens: tokens of a batch of documents; None for the encoder's default.
      max_length: cuts documents shorter than the model does; None for the model's.
      dtype: of stored vectors, ``float32`` or ``float16`` (half the size).
      shard_rows: documents of a shard; None for the encoder's default.
      self_contained: keep a copy of the model in the index, so that it can be moved;
        otherwise the index remembers the model's path.
      neighbors: of each document in the graph that a Hypencoder's index can be searched
        along (the paper has 100); None for no graph.
      graph_backend: what finds them exactly, ``jax`` or ``faiss``.
      bm25: parameters of BM25.
    """

    batch_tokens: int | None = None
    max_length: int | None = None
    dtype: str = "float32"
    shard_rows: int | None = None
    self_contained: bool = True
    neighbors: int | None = None
    graph_backend: str = "jax"
    bm25: Bm25Config = dataclasses.field(default_factory=Bm25Config)

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.dtype not in ("float32", "float16"):
            raise InputError("dtype", repr(self.dtype), "float32 or float16")
        if self.graph_backend not in ("jax", "faiss"):
            raise InputError("graph_backend", repr(self.graph_backend), "jax or faiss")
        for name in ("batch_tokens", "max_length", "shard_rows", "neighbors"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(name, str(value), "a positive number")


class Job(NamedTuple):
    """One call of :func:`build_index`.

    Attributes:
      model: None for kinds without one.
      collection: what to index.
      directory: where the index shall stand.
      options: what was chosen.
    """

    model: "Model | None"
    collection: Collection
    directory: Path
    options: BuildOptions


@contextlib.contextmanager
def _writing(job: Job, kind: str, details: Mapping[str, Any]) -> Iterator[Path]:
    """``write_index`` with what all kinds have: the ids and where they came from."""
    docs = job.collection.docs
    with write_index(
        job.directory,
        kind=kind,
        counts={"docs": len(docs)},
        model_fingerprint=job.model.fingerprint if job.model else "",
        details={
            "collection": job.collection.name,
            "collection_fingerprint": docs.fingerprint,
            **details,
        },
    ) as folder:
        write_doc_ids(folder, docs.doc_ids())
        yield folder


def _build_bm25(job: Job) -> None:
    docs = job.collection.docs
    if not len(docs):
        raise InputError(job.collection.path, "no documents", "at least one")
    rows = progress_bar(range(len(docs)), label="index", unit="doc")
    texts = (docs.text(row) for row in rows)
    with _writing(job, "bm25", dataclasses.asdict(job.options.bm25)) as folder:
        (folder / "bm25").mkdir()
        build_bm25(texts, folder / "bm25", job.options.bm25)


@contextlib.contextmanager
def _worth_keeping(partial: Path) -> Iterator[None]:
    """A failed encoding without a single shard leaves nothing to go on from."""
    try:
        yield
    except InputError:
        if (partial / "encoding.json").is_file() and not any(partial.glob("*.npy")):
            shutil.rmtree(partial)
        raise


def _build_vectors(job: Job) -> None:
    """Of every kind that makes a document one vector, or several side by side."""
    from jaxir.checkpoints.model_dir import save_model
    from jaxir.encode import SHARD_ROWS, encode_corpus

    assert job.model is not None
    options = job.options
    # Beside the index, so that an interrupted run is found again and can go on.
    partial = job.directory.with_name(f"{job.directory.name}.partial")
    with _worth_keeping(partial):
        encoded = encode_corpus(
            job.model,
            job.collection,
            partial,
            batch_tokens=options.batch_tokens,
            shard_rows=options.shard_rows or SHARD_ROWS,
            max_length=options.max_length,
            dtype=options.dtype,  # type: ignore[arg-type]
        )
    qnet = getattr(job.model.config, "qnet", None)
    details = {
        "width": encoded.width,
        "num_vectors": getattr(qnet, "num_vectors", 1),
        "dtype": options.dtype,
        "shards": [f"vectors/{path.name}" for path in encoded.paths],
        "model_kind": job.model.kind,
        "model_path": os.path.abspath(job.model.path) if job.model.path else "",
        "self_contained": options.self_contained,
    }
    if options.neighbors is not None:
        hashes = map(sha256_file, encoded.paths)
        details |= _build_graph(
            partial / GRAPH, encoded.paths, hashes, options.neighbors,
            options.graph_backend,
        )  # fmt: skip
    with _writing(job, job.model.kind, details) as folder:
        (folder / "vectors").mkdir()
        for path in encoded.paths:
            _link(path, folder / "vectors" / path.name)
        if options.neighbors is not None:
            _link_all(partial / GRAPH, folder / GRAPH)
        if options.self_contained:
            save_model(folder / "model", job.model)
    shutil.rmtree(partial)


def _build_graph(
    place: Path, paths: Sequence[Path], hashes: Iterable[str], degree: int, backend: str
) -> dict[str, Any]:
    """Finds the neighbours, going on where an interrupted run stopped."""
    from jaxir.hyper.neighbors import build_neighbors

    shards = [np.load(path, mmap_mode="r") for path in paths]
    build_neighbors(
        shards, degree, place,
        backend=backend,
        fingerprint=shards_fingerprint(hashes),
    )  # fmt: skip
    return {"neighbors": degree}


def _link(source: Path, target: Path) -> None:
    """A second name for a file where the system has those, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _link_all(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            _link(path, target / path.relative_to(source))


def _check_graph(kind: str, where: object) -> None:
    if kind != "hypencoder":
        raise InputError(
            where, f"a neighbour graph for kind {kind!r}", "kind 'hypencoder'",
            "leave --neighbors out: other kinds are searched without a graph",
        )  # fmt: skip


def add_neighbors(
    directory: str | os.PathLike, degree: int, *, backend: str = "jax"
) -> Manifest:
    """Adds a neighbour graph to an index that stands, or replaces the one it has.

    The index is exchanged as a whole once the graph is complete; its vectors are not
    copied where the system knows links.  A run that was interrupted goes on where it
    stopped, from the hidden folders ``.<name>.graph.partial`` and, once every neighbour
    is found, ``.<name>.graph`` beside the index.

    Args:
      directory: an index of kind ``hypencoder``.
      degree: neighbours of each document.
      backend: what finds them exactly, ``jax`` or ``faiss``.

    Returns:
      The manifest of the new index.

    Raises:
      InputError: no index, a damaged one, one of another kind, or something else
        stands at those folders.
    """
    directory = Path(directory)
    BuildOptions(neighbors=degree, graph_backend=backend)  # checks them
    with locked(directory):
        manifest = read_manifest(directory)
        _check_graph(manifest.kind, directory)
        # Hidden: "<name>.graph" may well be another index of the user's.
        partial = directory.with_name(f".{directory.name}.graph")
        names = manifest.details["shards"]
        paths = [directory / name for name in names]
        hashes = (manifest.files[name]["sha256"] for name in names)
        built = _build_graph(partial, paths, hashes, degree, backend)
        with write_index(
            directory,
            kind=manifest.kind,
            counts=manifest.counts,
            model_fingerprint=manifest.model_fingerprint,
            details=manifest.details | built,
        ) as folder:
            for name in manifest.files:
                if not name.startswith(f"{GRAPH}/"):
                    _link(directory / name, folder / name)
            _link_all(partial, folder / GRAPH)
        shutil.rmtree(partial)
    return read_manifest(directory)


BUILDERS: Mapping[str, Callable[[Job], None]] = MappingProxyType(
    {"bm25": _build_bm25, "dense": _build_vectors, "hypencoder": _build_vectors}
)
"""What builds an index of each kind."""


def build_index(
    model: "Model | str | os.PathLike",
    collection: Collection | str | os.PathLike,
    directory: str | os.PathLike,
    *,
    kind: str | None = None,
    options: BuildOptions | None = None,
) -> Manifest:
    """Builds an index of a collection.

    An index that stands at ``directory`` is replaced once the new one is complete.
    Encoding that was interrupted goes on where it stopped, from
    ``<directory>.partial``.

    Args:
      model: ``"bm25"``, a model, or what ``load_model`` reads: a model directory, a
        sentence-transformers folder, ``hf:ID``.
      collection: from ``open_collection``, or its folder or name.
      directory: where the index shall stand.
      kind: a name in :data:`BUILDERS`; by default the model's own.
      options: see :class:`BuildOptions`.

    Returns:
      The manifest of the new index.

    Raises:
      InputError: nothing to index, a model that this kind cannot use, or a place that
        holds something else.
    """
    directory = Path(directory)
    check_replaceable(directory)
    if not isinstance(collection, Collection):
        collection = open_collection(os.fspath(collection))
    loaded: Model | None = None
    if isinstance(model, (str, os.PathLike)):
        if os.fspath(model) != "bm25":
            from jaxir.checkpoints.model_dir import load_model

            loaded = load_model(os.fspath(model))
    else:
        loaded = model
    natural = loaded.kind if loaded else "bm25"
    kind = kind or natural
    if kind not in BUILDERS:
        raise InputError("kind", repr(kind), "one of " + ", ".join(BUILDERS))
    if kind != natural:
        raise InputError("kind", f"{kind!r} with a model of kind {natural!r}", natural)
    options = options or BuildOptions()
    if options.neighbors is not None:
        _check_graph(kind, directory)
    len(collection.docs)  # malformed documents are found before anything is written
    with locked(directory):
        BUILDERS[kind](Job(loaded, collection, directory, options))
    return read_manifest(directory)
