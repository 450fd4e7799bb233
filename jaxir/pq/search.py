"""Exhaustive search in codes: a document's score is ``M`` entries of a query's table.

Asymmetric distance computation (Jegou et al. 2011, section 3.2) for inner products::

    s(q, d) = sum_m table[m, code_m(d)],   table[m, c] = <(R q)_m, centroids[m, c]>

Tables are made once for each query.  Codes are scored block by block and folded into
an exact running top-k, so that nothing of size queries x documents exists.  Four ways
to hold codes, one result:

- :func:`exhaustive_search` on one device, :func:`sharded_search` over those of a mesh;
- :func:`stream_search` in the host's memory, sent to the devices in blocks;
- :func:`open_codes` where they are searched fastest, or by Faiss.
"""

import collections
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt8

from jaxir.errors import InputError
from jaxir.numerics import NEG_INF
from jaxir.pq.codec import Codec
from jaxir.pq.placed import PlacedCodes, place_codes
from jaxir.pq.score import (
    Products,
    Queries,
    check_codec,
    check_queries,
    count_queries,
    default_block_rows,
    for_codes,
    make_queries,
    multiplies,
    score_codes,
)
from jaxir.topk import empty_ranking, gather_top_k, marked, merge_top_k, update_top_k
from jaxir.types import Ranking
from jaxir.vectors import device_budget

__all__ = [
    "BACKENDS",
    "BATCHES",
    "OpenCodes",
    "PlacedCodes",
    "Products",
    "exhaustive_search",
    "make_queries",
    "open_codes",
    "place_codes",
    "sharded_search",
    "stream_search",
]

BACKENDS = ("jax", "faiss")
"""What can search codes."""

BATCHES: tuple[int, ...] = (1, 4, 16, 64)
"""Queries searched together: each number is compiled once for each ``k``."""


# --- what is compiled -----------------------------------------------------------------


def _scan(
    queries: Queries,
    codes: UInt8[Array, "P N"],
    k: int,
    block_rows: int,
    *,
    span: int,
    first: Int[Array, ""] | int = 0,
    stop: Int[Array, ""] | int,
    offset: Int[Array, ""] | int = 0,
) -> Ranking:
    """Documents ``first`` to ``stop``, ``span`` or fewer; row 0 is row ``offset``."""
    queries = for_codes(queries, codes.shape[0])  # once, not in every block
    if not span:
        return _empty(queries, k)
    # Blocks of like size; of 64s, which the selection cuts into groups.
    rows = min(span, -(-span // (64 * -(-span // block_rows))) * 64)
    last = codes.shape[1] - rows

    def body(running: Ranking, block: Int[Array, ""]) -> tuple[Ranking, None]:
        start = first + block * rows
        # The last block reaches back over documents already seen instead of padding.
        at = jnp.minimum(start, last)
        row = at + jnp.arange(rows, dtype=jnp.int32)
        exists = jnp.expand_dims((row >= start) & (row < stop), 0)
        scores = marked(score_codes(queries, codes, at, rows))
        scores = jnp.where(exists, scores, NEG_INF)
        return update_top_k(running, scores, at + offset), None

    blocks = jnp.arange(-(-span // rows), dtype=jnp.int32)
    return jax.lax.scan(body, _empty(queries, k), blocks)[0]


@partial(jax.jit, static_argnames=("k", "block_rows"))
def _resident(
    queries: Queries, codes: UInt8[Array, "P N"], k: int, block_rows: int
) -> Ranking:
    num_docs = codes.shape[1]
    return _scan(queries, codes, k, block_rows, span=num_docs, stop=num_docs)


@partial(jax.jit, static_argnames=("k", "block_rows", "num_docs", "mesh", "split"))
def _sharded(
    queries: Queries,
    codes: UInt8[Array, "P N"],
    k: int,
    block_rows: int | None,
    num_docs: int,
    mesh: Mesh,
    split: bool,
) -> Ranking:
    axis, platform = mesh.axis_names[0], mesh.devices.flat[0].platform
    block_rows = block_rows or default_block_rows(platform, queries)
    span = -(-num_docs // mesh.shape[axis])
    if mesh.size == 1:
        return _scan(queries, codes, k, block_rows, span=span, stop=span)

    def local(queries: Queries, codes: UInt8[Array, "P N"]) -> Ranking:
        first = jax.lax.axis_index(axis) * span
        if split:
            place = {"stop": num_docs - first, "offset": first}
        else:
            place = {"first": first, "stop": jnp.minimum(first + span, num_docs)}
        best = _scan(queries, codes, min(k, span), block_rows, span=span, **place)
        return gather_top_k(best, k, axis)

    whole = PartitionSpec()
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, PartitionSpec(None, axis) if split else whole),
        out_specs=whole,
        check_vma=False,
    )(queries, codes)


@partial(jax.jit, static_argnums=range(3, 9))
def _from_vectors(
    codec: Codec,
    vectors: Float[Array, "B E"],
    codes: UInt8[Array, "P N"],
    k: int,
    block_rows: int | None,
    multiply: bool,
    *placed: Any,
) -> Ranking:
    """One program: on a CPU, one that waits for another costs a millisecond more."""
    queries = make_queries(codec, vectors, multiply=multiply)
    return _sharded(queries, codes, k, block_rows, *placed)


@jax.jit
def _fold(
    running: Ranking,
    queries: Queries,
    block: UInt8[Array, "P N"],
    first_row: Int[Array, ""] | int,
    valid_from: Int[Array, ""] | int,
) -> Ranking:
    new = jnp.expand_dims(jnp.arange(block.shape[1]) >= valid_from, 0)
    scores = jnp.where(new, marked(score_codes(queries, block)), NEG_INF)
    return update_top_k(running, scores, first_row)


# --- the searches ---------------------------------------------------------------------


def exhaustive_search(
    queries: Queries,
    codes: UInt8[Array, "P N"],
    k: int,
    *,
    block_rows: int | None = None,
) -> Ranking:
    """The ``k`` documents with the largest scores, on one device.

    It may be called inside a compiled function, as a training step does.

    Args:
      queries: tables ``[B, M, C]``, or :class:`Products`.
      codes: ``[M, N]`` on the device, or packed ``[M/2, N]``.
      k: number of results; may exceed ``N``.
      block_rows: documents of a block; None for :func:`default_block_rows`.

    Returns:
      ``[B, k]`` rows and float32 scores; the tie rule of ``jaxir.topk``.

    Raises:
      InputError: codes of another codec, or a score that is not a finite number.

    Example::

      >>> table = jnp.array([[[0.0, 10.0], [2.0, 3.0]]])
      >>> codes = jnp.array([[0, 1, 1], [0, 0, 1]], jnp.uint8)
      >>> exhaustive_search(table, codes, 2).doc_ids.tolist()
      [[2, 1]]
    """
    rows = block_rows or default_block_rows(jax.default_backend(), queries)
    return _checked(_resident(queries, codes, k, rows))


def sharded_search(
    queries: Queries,
    placed: PlacedCodes,
    k: int,
    *,
    block_rows: int | None = None,
    names: Sequence[Any] | None = None,
) -> Ranking:
    """As :func:`exhaustive_search` over the devices of a mesh.

    Args:
      queries: tables or :class:`Products`, the same on every device.
      placed: of :func:`place_codes`.
      k: number of results.
      block_rows: documents of a block; None for :func:`default_block_rows`.
      names: of the queries in an error; None for their numbers.
    """
    queries = jax.device_put(queries, NamedSharding(placed.mesh, PartitionSpec()))
    found = _sharded(queries, placed.codes, k, block_rows, *placed[1:])
    return _checked(found, names)


def stream_search(
    queries: Queries,
    codes: UInt8[np.ndarray, "P N"],
    k: int,
    *,
    block_rows: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    names: Sequence[Any] | None = None,
) -> Ranking:
    """As :func:`exhaustive_search` over codes in the host's memory; numpy arrays.

    Each device holds one running top-k and at most two blocks.

    Args:
      queries: tables or :class:`Products`.
      codes: ``[M, N]`` or packed, plain or memory-mapped.
      k: number of results.
      block_rows: documents of a block; None for :func:`default_block_rows`.
      devices: take blocks in turn; by default all local devices.
      names: of the queries in an error; None for their numbers.
    """
    places = list(devices) if devices is not None else jax.local_devices()
    num_docs = codes.shape[1]
    rows = block_rows or default_block_rows(places[0].platform, queries)
    rows = max(1, min(rows, num_docs))
    at = [jax.device_put(queries, place) for place in places]
    running = [jax.device_put(_empty(queries, k), place) for place in places]
    in_flight: collections.deque[jax.Array] = collections.deque()
    turns = itertools.cycle(range(len(places)))
    for start, turn in zip(range(0, num_docs, rows), turns, strict=False):
        # Wait for the fold before the last one, so that blocks do not pile up.
        while len(in_flight) >= 2 * len(places):
            jax.block_until_ready(in_flight.popleft())
        first = min(start, num_docs - rows)
        host = np.ascontiguousarray(codes[:, first : first + rows])
        block = jax.device_put(host, places[turn])
        running[turn] = _fold(running[turn], at[turn], block, first, start - first)
        in_flight.append(running[turn].scores)
    best = running[0]
    for other in running[1:]:
        best = merge_top_k(best, jax.device_put(other, places[0]), k)
    return _checked(jax.device_get(best), names)


def _empty(queries: Queries, k: int) -> Ranking:
    return empty_ranking((count_queries(queries),), k)


def _checked(ranking: Ranking, names: Sequence[Any] | None = None) -> Ranking:
    """The ranking, or an error that names the first query without a finite score.

    A score that is not a finite number was marked with ``+inf`` and came first.
    """
    # Under a transformation of JAX there are no numbers to look at yet.
    if isinstance(ranking.scores, jax.core.Tracer):
        return ranking
    infinite = (np.asarray(ranking.scores) == -NEG_INF).any(axis=-1)
    if infinite.any():
        query = int(np.argmax(infinite))
        name = query if names is None else names[query]
        found = "a score that is not a finite number"
        raise InputError(f"query {name}", found, "finite vectors and centroids")
    return ranking


# --- an index's codes -----------------------------------------------------------------


class OpenCodes(NamedTuple):
    """Codes ready to be searched.

    Attributes:
      num_docs: documents.
      search: ``search(vectors, k, names=None) -> Ranking`` of numpy arrays, of any
        number of query vectors ``[B, E]``, not rotated; ``names`` are the queries' in
        an error.
    """

    num_docs: int
    search: Callable[..., Ranking]


def open_codes(
    codec: Codec,
    codes: UInt8[np.ndarray, "P N"],
    bits: int = 8,
    *,
    backend: str = "jax",
    budget: int | None = None,
    block_rows: int | None = None,
    rescore: int = 0,
) -> OpenCodes:
    """Puts codes where they are searched fastest.

    On a CPU they are searched where they lie, without a copy; on accelerators they are
    put into the devices' memory if they fit there, else streamed from the host.

    Args:
      codec: it is searched with.
      codes: ``[M, N]``, or packed ``[M/2, N]`` where ``bits`` is 4; plain or
        memory-mapped.
      bits: of a code.
      backend: ``"jax"``, or ``"faiss"`` (:mod:`jaxir.pq.faiss_search`).
      budget: bytes that the devices may hold; None for ``device_budget()``, and for no
        limit on a CPU.
      block_rows: documents of a block; None for :func:`default_block_rows`.
      rescore: of Faiss's search in codes of 4 bits: how many times ``k`` candidates
        are scored exactly; 0 for its own, approximate scores.

    Raises:
      InputError: an unknown backend, codes of another codec, a codec of NaN, a
        ``rescore`` that nothing reads.
    """
    if backend not in BACKENDS:
        raise InputError("backend", repr(backend), " or ".join(BACKENDS))
    if rescore and backend == "jax":
        raise InputError("rescore", "given with backend 'jax'", "backend 'faiss'")
    check_codec(codec, codes, bits)
    width, batches = codec.spec.width, BATCHES
    if backend == "faiss":
        from jaxir.pq.faiss_search import faiss_search

        search, batches = faiss_search(codec, codes, rescore=rescore), ()
    else:
        search = _jax_search(codec, codes, budget, block_rows)

    def named(vectors: Any, k: int, names: Sequence[Any] | None = None) -> Ranking:
        vectors = np.asarray(vectors, np.float32)
        names, start = range(len(vectors)) if names is None else names, 0
        check_queries(width, vectors, names)
        parts: list[Ranking] = []
        while start < len(vectors):
            left = len(vectors) - start
            size = max((size for size in batches if size <= left), default=left)
            rows = slice(start, start + size)
            parts.append(_checked(search(vectors[rows], k, names[rows]), names[rows]))
            start += size
        if len(parts) == 1:
            return parts[0]
        parts.append(Ranking(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32)))
        return Ranking(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    return OpenCodes(codes.shape[1], named)


def _jax_search(
    codec: Codec, codes: np.ndarray, budget: int | None, block_rows: int | None
) -> Callable[[np.ndarray, int, Sequence[Any]], Ranking]:
    mesh = Mesh(np.array(jax.local_devices()), ("data",))
    platform = mesh.devices.flat[0].platform
    everywhere = NamedSharding(mesh, PartitionSpec())
    codec = jax.device_put(codec, everywhere)
    if budget is None:
        budget = codes.nbytes if platform == "cpu" else device_budget()
    placed = place_codes(codes, mesh=mesh) if codes.nbytes <= budget else None

    def search(vectors: np.ndarray, k: int, names: Sequence[Any]) -> Ranking:
        multiply = multiplies(platform, len(vectors))
        if placed is None:
            queries = make_queries(codec, vectors, multiply=multiply)
            return stream_search(queries, codes, k, block_rows=block_rows, names=names)
        how = (k, block_rows, multiply, *placed[1:])
        return jax.device_get(_from_vectors(codec, vectors, placed.codes, *how))

    return search
