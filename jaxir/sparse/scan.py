"""Search of batches on accelerators: every document's tokens are looked up in a table.

Posting lists are read by few threads in an order that the data decides; accelerators
want many, in an order known before.  Here the index is turned around: a document is the
row of its tokens and weights, padded, and a query a table of the vocabulary::

    s(q, d) = sum_j weight[d, j] * table[q, token[d, j]]

Documents of like numbers of tokens form a group, padded to one width.  A block of a
group is scored for all queries of a batch and folded into a running top-k, so that
nothing of size queries x documents exists.  Over a mesh each device has a range of
documents.  Sums are those of :mod:`jaxir.sparse.search` in another order: scores agree
to rounding.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxir.errors import InputError
from jaxir.numerics import NEG_INF
from jaxir.sparse.postings import Postings, loop_weights
from jaxir.sparse.search import SparseQueries, check_queries
from jaxir.topk import empty_ranking, gather_top_k, merge_top_k, update_top_k
from jaxir.types import Ranking

__all__ = [
    "BATCHES",
    "ForwardGroup",
    "ForwardIndex",
    "OpenScan",
    "forward_index",
    "open_scan",
    "scan_search",
]

BATCHES: tuple[int, ...] = (1, 4, 16, 64)
"""Queries searched together: each number is compiled once for each ``k``."""

_GROUPS = 8  # widths, at most
_ROWS = 64  # documents of a group are padded to a multiple, which the top-k cuts up


class ForwardGroup(NamedTuple):
    """Documents of like numbers of tokens; on each device ``n`` of them.

    Attributes:
      rows: int32 ``[n]`` of the index, rising.
      tokens: uint16 or int32 ``[n, W]``.
      weights: as they are stored, ``[n, W]``, 0 at padding.
    """

    rows: Int[Array, " n"]
    tokens: Int[Array, "n W"]
    weights: Array


class ForwardIndex(NamedTuple):
    """An index turned around, on the devices of a mesh.

    Attributes:
      groups: by width.
      scales: float32 ``[V]`` where weights are codes.
      num_docs: ``N``.
      vocab_size: ``V``.
      mesh: the devices; its first axis splits the documents.
    """

    groups: tuple[ForwardGroup, ...]
    scales: Float[np.ndarray, " V"] | None
    num_docs: int
    vocab_size: int
    mesh: Mesh


def _plan(counts: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Widths of groups, and the group of each document, -1 of those without a token."""
    some = counts[counts > 0]
    if not len(some):
        return [], np.full(len(counts), -1)
    marks = np.quantile(some, np.linspace(0, 1, _GROUPS + 1)[1:], method="higher")
    widths = np.unique(-(-marks.astype(np.int64) // 8) * 8)
    return widths.tolist(), np.where(counts > 0, np.searchsorted(widths, counts), -1)


def forward_index(postings: Postings, mesh: Mesh | None = None) -> ForwardIndex:
    """Turns posting lists into rows of documents, on devices.

    Args:
      postings: of :func:`jaxir.sparse.postings.open_postings`.
      mesh: devices of this process; None for all of them.  The first axis splits the
        documents.
    """
    from jaxir.sparse.posting_loops import fill_rows

    if mesh is None:
        mesh = Mesh(np.array(jax.local_devices()), ("data",))
    parts, num_docs = mesh.shape[mesh.axis_names[0]], postings.num_docs
    span = max(1, -(-num_docs // parts))
    counts = np.bincount(postings.docs, minlength=num_docs)
    widths, group_of = _plan(counts)
    at = np.zeros(num_docs, np.int64)  # of a document's first token in what follows
    shapes: list[tuple[int, int]] = []
    members: list[tuple[np.ndarray, np.ndarray]] = []
    start = 0
    for group, width in enumerate(widths):
        docs = np.flatnonzero(group_of == group)
        part = docs // span
        each = np.bincount(part, minlength=parts)
        room = -(-int(each.max()) // _ROWS) * _ROWS
        before = np.cumsum(each) - each
        place = part * room + np.arange(len(docs)) - before[part]
        at[docs] = start + place * width
        shapes.append((parts * room, width))
        members.append((docs, place))
        start += parts * room * width
    stored = loop_weights(postings.weights)
    small = postings.vocab_size <= 1 << 16
    tokens = np.zeros(start, np.uint16 if small else np.int32)
    weights = np.zeros(start, stored.dtype)
    fill_rows(postings.offsets, postings.docs, stored, at, tokens, weights)
    weights = weights.view(postings.weights.dtype)
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    groups, start = [], 0
    for shape, (docs, place) in zip(shapes, members, strict=True):
        rows, stop = np.zeros(shape[0], np.int32), start + shape[0] * shape[1]
        rows[place] = docs
        own = (
            rows,
            tokens[start:stop].reshape(shape),
            weights[start:stop].reshape(shape),
        )
        groups.append(ForwardGroup(*jax.device_put(own, split)))
        start = stop
    sizes = (num_docs, postings.vocab_size)
    return ForwardIndex(tuple(groups), postings.scales, *sizes, mesh)


# --- what is compiled -----------------------------------------------------------------


def _block_rows(platform: str, batch: int, width: int) -> int:
    """Documents of a block, at most, such that its products are not many."""
    products = 1 << (18 if platform == "cpu" else 24)
    return max(_ROWS, products // (batch * width) // _ROWS * _ROWS)


def _scan(
    table: Float[Array, "V B"], group: ForwardGroup, k: int, block_rows: int
) -> Ranking:
    """The best of a group, by the rows of the index."""
    num_docs, batch = group.tokens.shape[0], table.shape[1]
    num_blocks = -(-num_docs // block_rows)
    rows = -(-num_docs // (num_blocks * _ROWS)) * _ROWS
    last = num_docs - rows

    def body(running: Ranking, block: Int[Array, ""]) -> tuple[Ranking, None]:
        # The last block reaches back over documents already seen instead of padding.
        at = jnp.minimum(block * rows, last)
        tokens = jax.lax.dynamic_slice_in_dim(group.tokens, at, rows)
        weights = jax.lax.dynamic_slice_in_dim(group.weights, at, rows)
        found = table.at[tokens.astype(jnp.int32)].get(mode="promise_in_bounds")
        scores = jnp.sum(found * weights.astype(jnp.float32)[:, :, None], axis=1).T
        new = at + jnp.arange(rows) >= block * rows
        scores = jnp.where((scores > 0) & new[None, :], scores, NEG_INF)
        return update_top_k(running, scores, at), None

    start = empty_ranking((batch,), k)
    found = jax.lax.scan(body, start, jnp.arange(num_blocks, dtype=jnp.int32))[0]
    exists = found.scores > NEG_INF
    at = jnp.where(exists, found.doc_ids, 0)
    return Ranking(jnp.where(exists, group.rows[at], -1), found.scores)


@partial(jax.jit, static_argnames=("k", "vocab_size", "mesh"))
def _search(
    groups: tuple[ForwardGroup, ...],
    tokens: Int[Array, "B T"],
    factors: Float[Array, "B T"],
    k: int,
    vocab_size: int,
    mesh: Mesh,
) -> Ranking:
    axis, platform = mesh.axis_names[0], mesh.devices.flat[0].platform
    batch = tokens.shape[0]

    def local(
        groups: tuple[ForwardGroup, ...],
        tokens: Int[Array, "B T"],
        factors: Float[Array, "B T"],
    ) -> Ranking:
        # Padding adds 0 to token 0.
        query = jnp.broadcast_to(jnp.arange(batch)[:, None], tokens.shape)
        table = jnp.zeros((vocab_size, batch)).at[tokens, query].add(factors)
        best = empty_ranking((batch,), k)
        for group in groups:
            rows = _block_rows(platform, batch, group.tokens.shape[1])
            best = merge_top_k(best, _scan(table, group, k, rows), k)
        return gather_top_k(best, k, axis)

    whole = PartitionSpec()
    return jax.shard_map(
        local, mesh=mesh, in_specs=(PartitionSpec(axis), whole, whole), out_specs=whole,
        check_vma=False,
    )(groups, tokens, factors)  # fmt: skip


# --- the search -----------------------------------------------------------------------


def _padded(
    queries: SparseQueries, factors: np.ndarray, first: int, stop: int, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and factors ``[batch, T]``; few different ``T``."""
    bounds = queries.offsets[first : stop + 1]
    lengths = np.diff(bounds)
    width = max(8, 1 << (int(lengths.max(initial=1)) - 1).bit_length())
    where = np.arange(width) < np.pad(lengths, (0, batch - len(lengths)))[:, None]
    tokens, padded = np.zeros(where.shape, np.int32), np.zeros(where.shape, np.float32)
    tokens[where] = queries.tokens[bounds[0] : bounds[-1]]
    padded[where] = factors[bounds[0] : bounds[-1]]
    return tokens, padded


def scan_search(index: ForwardIndex, queries: SparseQueries, k: int) -> Ranking:
    """The ``k`` best documents of each query: as ``search`` finds, but for rounding.

    Args:
      index: of :func:`forward_index`.
      queries: any number.
      k: results of a query.

    Returns:
      numpy arrays ``[B, k]``; the tie rule and padding of ``jaxir.topk``.

    Raises:
      InputError: queries that are not those of the index; see ``search``.
    """
    if k < 1:
        raise InputError("k", str(k), "at least 1")
    queries = check_queries(queries, index.vocab_size)
    factors = queries.weights
    if index.scales is not None:
        factors = factors * index.scales[queries.tokens]
    count, first = len(queries.offsets) - 1, 0
    parts = [Ranking(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32))]
    while first < count:
        left = count - first
        batch = next((size for size in BATCHES if size >= left), BATCHES[-1])
        stop = min(first + batch, count)
        asked = _padded(queries, factors, first, stop, batch)
        found = _search(index.groups, *asked, k, index.vocab_size, index.mesh)
        parts.append(jax.tree.map(lambda x, n=stop - first: np.asarray(x)[:n], found))
        first = stop
    return Ranking(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class OpenScan(NamedTuple):
    """Documents ready to be scanned.

    Attributes:
      num_docs: documents.
      search: ``search(queries, k) -> Ranking`` of numpy arrays.
    """

    num_docs: int
    search: Callable[[SparseQueries, int], Ranking]


def open_scan(postings: Postings, mesh: Mesh | None = None) -> OpenScan:
    """Puts an index on the devices, once, for many searches.

    Args:
      postings: of :func:`jaxir.sparse.postings.open_postings`.
      mesh: see :func:`forward_index`.
    """
    index = forward_index(postings, mesh)
    return OpenScan(index.num_docs, partial(scan_search, index))
