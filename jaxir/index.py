"""Building an index: a collection and a model become a directory that can be searched.

Every kind is a function in :data:`BUILDERS`; ``jaxir/openers.py`` opens what it wrote.
Kinds whose documents are vectors share one of them.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxir.bm25 import build_bm25
from jaxir.data.collection import Collection, open_collection
from jaxir.errors import InputError
from jaxir.files import locked, named_place, sha256_file
from jaxir.index_job import (
    BuildOptions,
    Job,
    changing,
    encoded,
    link,
    remembered_path,
    writing,
)
from jaxir.manifest import Manifest, check_replaceable, read_manifest
from jaxir.openers import GRAPH, shards_fingerprint
from jaxir.pq_index import build_pq, take_codes
from jaxir.progress import progress_bar
from jaxir.sparse_index import build_sparse

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model

__all__ = ["BUILDERS", "BuildOptions", "add_neighbors", "build_index"]


def _build_bm25(job: Job) -> None:
    docs = job.collection.docs
    if not len(docs):
        raise InputError(job.collection.path, "no documents", "at least one")
    rows = progress_bar(range(len(docs)), label="index", unit="doc")
    texts = (docs.text(row) for row in rows)
    with writing(job, "bm25", dataclasses.asdict(job.options.bm25)) as folder:
        (folder / "bm25").mkdir()
        build_bm25(texts, folder / "bm25", job.options.bm25)


def _build_vectors(job: Job) -> None:
    """Of every kind that makes a document one vector, or several side by side."""
    from jaxir.checkpoints.model_dir import save_model

    assert job.model is not None
    options = job.options
    # Beside the index, so that an interrupted run is found again and can go on.
    partial = job.directory.with_name(f"{job.directory.name}.partial")
    with encoded(job.model, job.collection, partial, options) as corpus:
        qnet = getattr(job.model.config, "qnet", None)
        details = {
            "width": corpus.width,
            "num_vectors": getattr(qnet, "num_vectors", 1),
            "dtype": options.dtype,
            "max_length": options.max_length,
            "shards": [f"vectors/{path.name}" for path in corpus.paths],
            "model_kind": job.model.kind,
            "model_path": remembered_path(job.model.path),
            "self_contained": options.self_contained,
        }
        if options.neighbors is not None:
            hashes = map(sha256_file, corpus.paths)
            details |= _build_graph(
                partial / GRAPH, corpus.paths, hashes, options.neighbors,
                options.graph_backend,
            )  # fmt: skip
        with writing(job, job.model.kind, details) as folder:
            (folder / "vectors").mkdir()
            for path in corpus.paths:
                link(path, folder / "vectors" / path.name)
            if options.neighbors is not None:
                link(partial / GRAPH, folder / GRAPH)
            if options.self_contained:
                save_model(folder / "model", job.model)


def _build_graph(
    place: Path, paths: Sequence[Path], hashes: Iterable[str], degree: int, backend: str
) -> dict[str, Any]:
    """Finds the neighbours, going on where an interrupted run stopped."""
    from jaxir.hyper.neighbors import build_neighbors

    shards = [np.load(path, mmap_mode="r") for path in paths]
    graph = build_neighbors(
        shards, degree, place,
        backend=backend,
        fingerprint=shards_fingerprint(hashes),
    )  # fmt: skip
    return {"neighbors": graph.shape[1]}


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
      degree: neighbours of each document, as far as there are others.
      backend: what finds them exactly, ``jax`` or ``faiss``.

    Returns:
      The manifest of the new index.

    Raises:
      InputError: no index, a damaged one, one of another kind, or something else
        stands at those folders.
    """
    directory = named_place(directory)
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
        new = manifest._replace(details=manifest.details | built)
        with changing(
            directory, new, without=(f"{GRAPH}/",), target=directory
        ) as folder:
            link(partial, folder / GRAPH)
        shutil.rmtree(partial)
    return read_manifest(directory)


def _check_sparse(kind: str, bm25: bool, options: BuildOptions) -> None:
    """What only posting lists can have is refused elsewhere."""
    given = options.sparse.given()
    if kind != "sparse":
        given += ["dtype 'uint8'"] * (options.dtype == "uint8")
        if given:
            found = f"given for an index of kind {kind!r}"
            raise InputError(given[0], found, "kind 'sparse'")
    unread = "prune_ratio" if bm25 else "tokenizer"
    if unread in given:
        model = "bm25" if bm25 else "a model, which has one"
        raise InputError(unread, f"given with {model}", "to be left out")


def _check_bm25(kind: str, options: BuildOptions) -> None:
    """What only an encoder reads is refused where there is none."""
    for name in ("max_length", "batch_tokens"):
        if getattr(options, name) is not None:
            raise InputError(
                name, "given for BM25, which cuts and encodes nothing", "to be left out"
            )
    if not options.self_contained:
        raise InputError(
            "self_contained", "False for an index that no model is kept in", "True",
            "leave --without_model out: queries need none",
        )  # fmt: skip
    if kind == "bm25" and options.dtype != "float32":
        raise InputError("dtype", f"{options.dtype!r} for BM25", "to be left out")


BUILDERS: Mapping[str, Callable[[Job], None]] = MappingProxyType(
    {
        "bm25": _build_bm25,
        "dense": _build_vectors,
        "hypencoder": _build_vectors,
        "pq": build_pq,
        "sparse": build_sparse,
    }
)
"""What builds an index of each kind."""

_KINDS = {"dense": ("dense", "pq"), "jpq": ("pq",)}
"""Kinds of index that a model can have, the natural one first; else its own alone."""


def build_index(
    model: "Model | str | os.PathLike",
    collection: Collection | str | os.PathLike | None,
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
        sentence-transformers folder, ``hf:ID``.  BM25 over the tokens of a model,
        ``options.sparse.tokenizer``, is an index of kind ``sparse``.
      collection: from ``open_collection``, or its folder or name; None is enough where
        ``options.pq.codes`` brings documents.
      directory: where the index shall stand.
      kind: a name in :data:`BUILDERS`; by default the model's own.
      options: see :class:`BuildOptions`.

    Returns:
      The manifest of the new index.

    Raises:
      InputError: nothing to index, a model that this kind cannot use, or a place that
        holds something else.
    """
    directory, options = named_place(directory), options or BuildOptions()
    check_replaceable(directory)
    if collection is None and options.pq.codes is None:
        raise InputError("collection", "not given", "what to index")
    if not (collection is None or isinstance(collection, Collection)):
        collection = open_collection(os.fspath(collection))
    loaded: Model | None = None
    if isinstance(model, (str, os.PathLike)):
        if os.fspath(model) != "bm25":
            from jaxir.checkpoints.model_dir import load_model

            loaded = load_model(os.fspath(model))
    else:
        loaded = model
    own = loaded.kind if loaded else "bm25"
    if own not in (*BUILDERS, *_KINDS):
        from jaxir.encode import without_vectors

        raise without_vectors(own)
    possible = _KINDS.get(own, (own,))
    if loaded is None and options.sparse.tokenizer is not None:
        possible = ("sparse",)
    kind = kind or possible[0]
    if kind not in BUILDERS:
        raise InputError("kind", repr(kind), "one of " + ", ".join(BUILDERS))
    if kind not in possible:
        raise InputError(
            "kind", f"{kind!r} with a model of kind {own!r}", " or ".join(possible)
        )
    if options.neighbors is not None:
        _check_graph(kind, directory)
    if kind != "pq" and (given := options.pq.given()):
        raise InputError(given[0], f"given for an index of kind {kind!r}", "--kind pq")
    _check_sparse(kind, loaded is None, options)
    if loaded is None:
        _check_bm25(kind, options)
    if collection is not None:
        len(collection.docs)  # malformed documents are found before anything is written
    with locked(directory):
        if loaded is not None and options.pq.codes is not None:
            take_codes(loaded, collection, directory, options)
        elif collection is not None:
            BUILDERS[kind](Job(loaded, collection, directory, options))
    return read_manifest(directory)
