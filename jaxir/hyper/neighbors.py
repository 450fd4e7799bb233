"""The neighbour graph: for every document the nearest others, by Euclidean distance.

What graph search walks on (Hypencoder, arXiv 2502.05364, section 3.6).  It is exact:
every document is compared with every other, ``N^2`` distances in blocks, so that
nothing of that size exists.  Of documents equally near the lower row comes first.

A graph is a directory, made whole or not at all: ``neighbors.npy``, int32
``[N, degree]``, which is memory-mapped, and ``neighbors.json``, which knows the vectors
it was made of.
"""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxir.blocks import open_vectors
from jaxir.errors import InputError
from jaxir.files import atomic_directory, atomic_file, locked
from jaxir.progress import progress_bar, say

__all__ = ["build_neighbors", "open_neighbors", "vectors_fingerprint"]

PIECE_ROWS = 8_192
"""Documents whose neighbours are written together: what an interrupted run may lose."""

BLOCK_ROWS = 1_024
"""Documents whose neighbours are searched together."""

_NPY, _JSON, _SETTINGS = "neighbors.npy", "neighbors.json", "settings.json"
_REBUILD = "build the graph again"

Nearest = Callable[[np.ndarray, int], np.ndarray]
"""``nearest(queries [B, E], k) -> rows [B, k]`` by distance, then row; -1 for none."""


def _closeness(
    queries: Float[Array, "B E"], block: Float[Array, "N E"]
) -> Float[Array, "B N"]:
    """``x.y - |y|^2 / 2``: half of ``|x|^2 - |x - y|^2``, larger where ``y`` is nearer.

    ``|x|^2`` is the same for all, and left out it takes no digits from the others.
    """
    product = functools.partial(
        jnp.einsum, precision="highest", preferred_element_type=jnp.float32
    )
    queries, block = queries.astype(jnp.float32), block.astype(jnp.float32)
    squares = product("ne,ne->n", block, block)
    return product("be,ne->bn", queries, block) - 0.5 * jnp.expand_dims(squares, 0)


def _jax_nearest(shards: Sequence[np.ndarray]) -> Nearest:
    search = open_vectors(_closeness, shards).search
    return lambda queries, k: np.asarray(search(queries, k).doc_ids)


def _faiss_nearest(shards: Sequence[np.ndarray]) -> Nearest:
    import faiss

    index = faiss.IndexFlatL2(shards[0].shape[1])
    for shard in shards:
        index.add(np.ascontiguousarray(shard, np.float32))
    return lambda queries, k: index.search(queries, k)[1]


_BACKENDS = {"jax": _jax_nearest, "faiss": _faiss_nearest}


def vectors_fingerprint(shards: np.ndarray | Sequence[np.ndarray]) -> str:
    """The sha256 of vectors' numbers, type and shape, however they lie in shards.

    Raises:
      InputError: no vectors, shards that differ in width or type, or a number that is
        not finite.

    Example::

      >>> whole = np.ones((4, 2), np.float32)
      >>> vectors_fingerprint(whole) == vectors_fingerprint([whole[:1], whole[1:]])
      True
    """
    parts = [shards] if isinstance(shards, np.ndarray) else list(shards)
    num_docs = sum(map(len, parts))
    if not num_docs:
        raise InputError("vectors", "no documents", "at least one")
    width, dtype = parts[0].shape[1], parts[0].dtype
    digest = hashlib.sha256(f"{num_docs} {width} {dtype.str}".encode())
    row = 0
    for part in parts:
        if (part.shape[1], part.dtype) != (width, dtype):
            raise InputError(
                "vectors", f"{part.dtype} of width {part.shape[1]} from row {row} on",
                f"{dtype} of width {width}, as before",
            )  # fmt: skip
        for start in range(0, len(part), PIECE_ROWS):
            block = np.ascontiguousarray(part[start : start + PIECE_ROWS])
            finite = np.isfinite(block.astype(np.float32)).all(axis=1)
            if not finite.all():
                name = getattr(part, "filename", None) or "vectors"
                raise InputError(
                    name, f"NaN or infinity in row {row + int(np.argmin(finite))}",
                    "finite numbers", "encode the documents again",
                )  # fmt: skip
            digest.update(block.view(np.uint8).data)
            row += len(block)
    return digest.hexdigest()


def build_neighbors(
    shards: np.ndarray | Sequence[np.ndarray],
    degree: int,
    directory: str | os.PathLike,
    *,
    backend: str = "jax",
    block_rows: int = BLOCK_ROWS,
    piece_rows: int = PIECE_ROWS,
    fingerprint: str | None = None,
) -> np.ndarray:
    """Writes the neighbour graph of document vectors and opens it.

    Nearness is ``|x - y|^2`` in float32, computed as ``|x|^2 - 2 x.y + |y|^2``.  A
    document is never its own neighbour, though a duplicate of it may be.  Where there
    are fewer than ``degree`` other documents the graph has so many columns, and that of
    a lone document one with ``N``, which is no document.

    An interrupted build goes on where it stopped, from ``<directory>.partial``; a
    graph that stands already is not built again.

    Args:
      shards: ``[rows, E]`` vectors in order, plain or memory-mapped.
      degree: neighbours of a document, as far as there are others; the paper has 100.
      directory: where the graph shall stand.  One of other vectors, degree or backend
        is replaced; what is no graph is left alone.
      backend: ``"jax"``, on all devices, or ``"faiss"`` (``IndexFlatL2``, a copy of the
        vectors in memory), which may order equally near documents otherwise.
      block_rows: documents searched together.
      piece_rows: documents that an interrupted run may lose.
      fingerprint: names the vectors; None for :func:`vectors_fingerprint`.

    Returns:
      int32 ``[N, min(degree, N - 1)]``, memory-mapped: each row's neighbours, nearest
      first.

    Raises:
      InputError: a number below 1, an unknown backend, no vectors, NaN among them, or
        something else stands at ``directory`` or ``<directory>.partial``.

    Example::

      >>> import tempfile
      >>> place = Path(tempfile.mkdtemp()) / "graph"
      >>> vectors = np.array([[0.0], [1.0], [3.0], [7.0]], np.float32)
      >>> build_neighbors(vectors, 2, place).tolist()
      [[1, 2], [0, 2], [1, 0], [2, 1]]
    """
    numbers = {"degree": degree, "block_rows": block_rows, "piece_rows": piece_rows}
    for argument, value in numbers.items():
        if value < 1:
            raise InputError(argument, str(value), "at least 1")
    if backend not in _BACKENDS:
        raise InputError("backend", repr(backend), " or ".join(_BACKENDS))
    parts = [shards] if isinstance(shards, np.ndarray) else list(shards)
    directory, num_docs = Path(directory), sum(map(len, parts))
    degree = max(1, min(degree, num_docs - 1))
    digest = vectors_fingerprint(parts)  # also looks for NaN
    name = digest if fingerprint is None else fingerprint
    note = {
        "num_docs": num_docs, "degree": degree, "fingerprint": name,
        "vectors": digest, "backend": backend,
    }  # fmt: skip
    with locked(directory):
        partial = directory.with_name(f"{directory.name}.partial")
        _check_ours(directory, _JSON)
        _check_ours(partial, _SETTINGS)
        if (done := _standing(directory, note)) is not None:
            shutil.rmtree(partial, ignore_errors=True)
            return done
        _resume(partial, note | {"piece_rows": piece_rows})
        nearest: Nearest | None = None
        pieces = []
        with progress_bar(total=num_docs, label="neighbors", unit="doc") as bar:
            for start in range(0, num_docs, piece_rows):
                stop = min(start + piece_rows, num_docs)
                pieces.append(partial / f"rows-{start:010d}.npy")
                if not pieces[-1].is_file():
                    nearest = nearest or _BACKENDS[backend](parts)
                    found = _rows(
                        nearest, parts, range(start, stop), degree, block_rows
                    )
                    with atomic_file(pieces[-1], "wb") as out:
                        np.save(out, found)
                bar.update(stop - start)
        with atomic_directory(directory) as folder:
            _join(pieces, folder / _NPY, (num_docs, degree))
            (folder / _JSON).write_text(json.dumps(note, indent=1) + "\n")
        shutil.rmtree(partial)
    return open_neighbors(directory, num_docs, name)


def _check_ours(directory: Path, note: str) -> None:
    """Refuses to replace or remove what is not a graph or the beginning of one."""
    empty = directory.is_dir() and next(directory.iterdir(), None) is None
    if directory.exists() and not empty and not (directory / note).is_file():
        raise InputError(
            directory, "something that is not a neighbour graph stands here",
            "a new place or a graph to replace", "choose another one or remove it",
        )  # fmt: skip


def _standing(directory: Path, note: dict) -> np.ndarray | None:
    """The graph that stands whole at ``directory``, if it is the one wanted."""
    try:
        if json.loads((directory / _JSON).read_text()) != note:
            return None
        return open_neighbors(directory, note["num_docs"], note["fingerprint"])
    except (OSError, ValueError):  # none, or a damaged one (InputError)
        return None


def _resume(partial: Path, settings: dict) -> None:
    """The folder of pieces, empty unless they were made with the same settings."""
    note = partial / _SETTINGS
    text = json.dumps(settings, indent=1) + "\n"
    if note.is_file() and note.read_text() == text:
        done = len(list(partial.glob("rows-*.npy")))
        say(f"{partial}: {done} pieces are done already; going on")
        return
    if partial.exists():
        say(f"{partial}: of other settings or vectors; starting over")
        shutil.rmtree(partial)
    with atomic_file(note) as out:
        out.write(text)


def _rows(
    nearest: Nearest,
    shards: Sequence[np.ndarray],
    rows: range,
    degree: int,
    block_rows: int,
) -> np.ndarray:
    """The neighbours of some documents: the nearest, without the document itself."""
    num_docs = sum(map(len, shards))
    wanted, block_rows = min(degree, num_docs - 1), min(block_rows, num_docs)
    found = np.full((len(rows), degree), num_docs, np.int32)
    for start in range(0, len(rows), block_rows):
        own = np.array(rows[start : start + block_rows])
        # blocks of one shape: the last one is filled with its last document
        padded = np.pad(own, (0, block_rows - len(own)), mode="edge")
        queries = _take(shards, padded)
        near = nearest(queries, wanted + 1)[: len(own)]
        # One more was asked for than is wanted.  The document itself is among them or,
        # behind that many duplicates of it, not: then the last one goes.
        others = near != own[:, None]
        others[others.all(axis=1), -1] = False
        found[start : start + len(own), :wanted] = near[others].reshape(
            len(own), wanted
        )
    return found


def _take(shards: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Vectors of ascending rows, float32."""
    out = np.empty((len(rows), shards[0].shape[1]), np.float32)
    first = 0
    for shard in shards:
        inside = (rows >= first) & (rows < first + len(shard))
        if inside.any():
            out[inside] = shard[rows[inside] - first]
        first += len(shard)
    return out


def _join(pieces: Sequence[Path], path: Path, shape: tuple[int, int]) -> None:
    """The pieces as one ``.npy`` file, a piece in memory at a time."""
    out = np.lib.format.open_memmap(path, "w+", np.int32, shape)
    row = 0
    for piece in _loaded(pieces):
        out[row : row + len(piece)] = piece
        row += len(piece)
    out.flush()


def _loaded(pieces: Sequence[Path]) -> Iterator[np.ndarray]:
    for path in pieces:
        yield np.load(path)


def open_neighbors(
    directory: str | os.PathLike, num_docs: int, fingerprint: str
) -> np.ndarray:
    """Opens a neighbour graph, if it is one of the vectors at hand.

    Args:
      directory: what :func:`build_neighbors` wrote.
      num_docs: how many vectors there are.
      fingerprint: theirs.

    Returns:
      int32 ``[N, degree]``, memory-mapped; ``N`` stands for no neighbour.

    Raises:
      InputError: no graph here, a damaged one, or one of other vectors.
    """
    directory = Path(directory)
    try:
        note = json.loads((directory / _JSON).read_text())
        made_of = (int(note["num_docs"]), str(note["fingerprint"]))
        shape = (made_of[0], int(note["degree"]))
        graph = np.load(directory / _NPY, mmap_mode="r")
    except FileNotFoundError as error:
        raise InputError(
            directory, "no neighbour graph here", remedy=_REBUILD
        ) from error
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            directory, "a damaged neighbour graph", remedy=_REBUILD
        ) from error
    if made_of != (num_docs, fingerprint):
        raise InputError(
            directory,
            f"a graph of {made_of[0]} vectors with fingerprint {made_of[1][:12]}",
            f"{num_docs} with {fingerprint[:12]}, those of the index",
            _REBUILD,
        )
    if (graph.shape, graph.dtype) != (shape, np.dtype(np.int32)):
        raise InputError(directory, "a damaged neighbour graph", remedy=_REBUILD)
    return graph
