"""Exact top-k: selection by group maxima, and merging under one tie rule.

The rule, everywhere: higher score first, equal scores by the **lower document row**,
also at the boundary between the last result kept and the first one dropped.  ``-0.0``
equals ``0.0``.  A score of ``-inf`` or NaN means that there is no such document: it is
never returned.  Results that do not exist have id -1 and score ``-inf``.

Selection by group maxima: cut the scores into consecutive groups, keep the maximum of
each, take the ``k`` best groups (ties: the lower group), and look for the ``k`` best
scores among their members only.  It is exact.  Let ``e`` be a score in a group that
was not kept; each of the ``k`` kept groups has a maximum that is larger than ``e``, or
equal to it in an earlier group and hence at a lower row; so ``k`` scores precede ``e``.
A sort of all ``N`` scores is replaced by a vectorised maximum and two small selections.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxir.numerics import INVALID_ID, NEG_INF
from jaxir.types import Ranking, Size

__all__ = [
    "empty_ranking",
    "merge_top_k",
    "sharded_top_k",
    "streaming_top_k",
    "top_k",
]

_LARGEST_GROUP = 64
_SMALLEST_GROUP = 8

_WIDTHS = (8, 32)
"""Groups that a running top-k looks into where those are enough."""


def _canonical(scores: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """NaN becomes -inf and -0.0 becomes 0.0: XLA's total order separates them."""
    scores = scores.astype(jnp.float32)
    return jnp.where(scores == 0, 0.0, jnp.where(jnp.isnan(scores), NEG_INF, scores))


def _finish(
    scores: Float[Array, "*batch m"], doc_ids: Int[Array, "*batch m"], k: int
) -> Ranking:
    """Pads to ``k`` results and takes the ids away from those that do not exist."""
    doc_ids = jnp.where(scores == NEG_INF, INVALID_ID, doc_ids.astype(jnp.int32))
    missing = k - scores.shape[-1]
    if missing > 0:
        widths = [(0, 0)] * (scores.ndim - 1) + [(0, missing)]
        scores = jnp.pad(scores, widths, constant_values=NEG_INF)
        doc_ids = jnp.pad(doc_ids, widths, constant_values=INVALID_ID)
    return Ranking(doc_ids, scores)


def _take(
    values: Int[Array, "*batch n"], at: Int[Array, "*batch m"]
) -> Int[Array, "*batch m"]:
    return jnp.take_along_axis(values, at, axis=-1, mode="promise_in_bounds")


def marked(scores: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Scores with ``+inf`` for what is not a finite number: it comes first."""
    return jnp.where(jnp.abs(scores) < -NEG_INF, scores, -NEG_INF)


def _group_maxima(
    grouped: Float[Array, "*batch groups size"], mark: bool = False
) -> Float[Array, "*batch groups"]:
    """Maxima of groups, NaN left out or marked."""
    # XLA's maximum on a CPU neither spreads nor skips NaN: none may reach it.
    left = marked(grouped) if mark else jnp.where(grouped > NEG_INF, grouped, NEG_INF)
    return _canonical(jnp.max(left, axis=-1))


def _group_size(num_scores: int, k: int) -> int:
    """Members of a group; 1 where a plain selection is faster.

    Both selections are small when ``k`` groups hold well under half of the scores.
    """
    size = _LARGEST_GROUP
    while size >= _SMALLEST_GROUP:
        if 4 * k * size <= num_scores:
            return size
        size //= 2
    return 1


@partial(jax.jit, static_argnames=("k", "group_size"))
def top_k(
    scores: Float[Array, "*batch n"], k: int, *, group_size: int | None = None
) -> Ranking:
    """The ``k`` best scores of the last axis, exactly, best first.

    Args:
      scores: float ``[..., N]``; computed and returned in float32.
      k: number of results; may exceed ``N``.
      group_size: members of a group; by default chosen from ``N`` and ``k``.

    Returns:
      ``doc_ids`` (positions in the last axis) and ``scores``, both ``[..., k]``; the
      tie rule and the padding of the module's docstring.

    Example::

      >>> ranking = top_k(jnp.array([1.0, 3.0, 3.0, float("nan")]), 4)
      >>> ranking.doc_ids.tolist(), ranking.scores.tolist()
      ([1, 2, 0, -1], [3.0, 3.0, 1.0, -inf])
    """
    *batch, num_scores = scores.shape
    size = _group_size(num_scores, k) if group_size is None else group_size
    num_groups = -(-num_scores // size)
    if size == 1 or num_groups <= k:
        best, doc_ids = jax.lax.top_k(_canonical(scores), min(k, num_scores))
        return _finish(best, doc_ids, k)
    if num_groups * size > num_scores:
        widths = [(0, 0)] * len(batch) + [(0, num_groups * size - num_scores)]
        scores = jnp.pad(scores, widths, constant_values=NEG_INF)
    grouped = scores.reshape(*batch, num_groups, size)
    candidates, rows = _candidates(grouped, _group_maxima(grouped), k)
    best, at = jax.lax.top_k(candidates, k)
    return _finish(best, _take(rows, at), k)


def _candidates(
    grouped: Float[Array, "*batch groups size"],
    maxima: Float[Array, "*batch groups"],
    width: int,
    mark: bool = False,
) -> tuple[Float[Array, "*batch m"], Int[Array, "*batch m"]]:
    """Scores and positions of the members of the ``width`` best groups, in order."""
    *batch, _, size = grouped.shape
    _, groups = jax.lax.top_k(maxima, width)
    # Ascending groups make the position among the candidates follow the row, so that
    # the next selection, which prefers lower positions, prefers lower rows.
    groups = jnp.expand_dims(jnp.sort(groups, axis=-1), -1)
    # [..., width] groups -> [..., width, size] candidates
    scores = jnp.take_along_axis(grouped, groups, axis=-2, mode="promise_in_bounds")
    members = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    rows = jnp.broadcast_to(groups.astype(jnp.int32) * size, scores.shape) + members
    flat = (*batch, width * size)
    scores = marked(scores) if mark else scores
    return _canonical(scores).reshape(flat), rows.reshape(flat)


def _offset(ranking: Ranking, first_row: Int[Array, ""] | int) -> Ranking:
    """Positions in a block as rows of the corpus."""
    missing = ranking.doc_ids == INVALID_ID
    doc_ids = jnp.where(missing, INVALID_ID, ranking.doc_ids + first_row)
    return Ranking(doc_ids, ranking.scores)


def empty_ranking(batch: tuple[Size, ...], k: int) -> Ranking:
    """``k`` results that do not exist for each query: where a running top-k begins."""
    return Ranking(
        jnp.full((*batch, k), INVALID_ID, jnp.int32),
        jnp.full((*batch, k), NEG_INF, jnp.float32),
    )


@partial(jax.jit, static_argnames=("k",))
def merge_top_k(first: Ranking, second: Ranking, k: int) -> Ranking:
    """The ``k`` best of two rankings of different documents.

    Args:
      first: ``[..., K1]``.
      second: ``[..., K2]``; no document of ``first`` occurs here.
      k: number of results.

    Example::

      >>> a = Ranking(jnp.array([7, 2]), jnp.array([2.0, 1.0]))
      >>> b = Ranking(jnp.array([5, -1]), jnp.array([2.0, float("-inf")]))
      >>> merge_top_k(a, b, 3).doc_ids.tolist()
      [5, 7, 2]
    """
    scores = _canonical(jnp.concatenate([first.scores, second.scores], axis=-1))
    doc_ids = jnp.concatenate([first.doc_ids, second.doc_ids], axis=-1)
    # Two keys, because the documents of either may precede those of the other.
    negated, doc_ids = jax.lax.sort((-scores, doc_ids), dimension=-1, num_keys=2)
    keep = min(k, scores.shape[-1])
    return _finish(-negated[..., :keep], doc_ids[..., :keep], k)


def merge_after(earlier: Ranking, later: Ranking) -> Ranking:
    """As ``merge_top_k`` where every row of ``earlier`` is below those of ``later``."""
    scores = jnp.concatenate([earlier.scores, later.scores], axis=-1)
    doc_ids = jnp.concatenate([earlier.doc_ids, later.doc_ids], axis=-1)
    best, at = jax.lax.top_k(scores, earlier.scores.shape[-1])
    return Ranking(_take(doc_ids, at), best)


def update_top_k(
    running: Ranking,
    scores: Float[Array, "*batch n"],
    first_row: Int[Array, ""] | int,
    *,
    mark: bool = False,
) -> Ranking:
    """Folds the scores of the next block of rows into a running top-k.

    Only groups whose maximum beats the running ``k``-th score can hold a result, and
    after the first blocks those are few: as many groups as needed are looked into.

    Args:
      running: ``[..., K]`` best of the rows below ``first_row``.
      scores: ``[..., N]`` of rows ``first_row`` and on; ``-inf`` where there is none.
      first_row: row of the block's first document.
      mark: every row exists, and a score that is not a finite number counts as
        ``+inf`` instead of as no document: the caller will see it and refuse.
    """
    *batch, num_scores = scores.shape
    kept = running.scores.shape[-1]
    # Smaller groups than alone: most blocks need few of them.
    size = max(_group_size(num_scores, max(kept // 4, 1)), 1)
    if size == 1 or num_scores % size:
        scores = marked(scores) if mark else scores
        return merge_after(running, _offset(top_k(scores, kept), first_row))
    grouped = scores.reshape(*batch, num_scores // size, size)
    maxima = _group_maxima(grouped, mark)
    beating = jnp.sum(maxima > running.scores[..., -1:], axis=-1)
    full = min(kept, maxima.shape[-1])
    widths = [width for width in _WIDTHS if width < full] + [full]

    def unchanged(running: Ranking, *_: Array) -> Ranking:
        return running

    def look_into(width: int) -> Callable[..., Ranking]:
        def branch(
            running: Ranking,
            grouped: Float[Array, "*batch groups size"],
            maxima: Float[Array, "*batch groups"],
        ) -> Ranking:
            candidates, rows = _candidates(grouped, maxima, width, mark)
            return merge_after(running, Ranking(rows + first_row, candidates))

        return branch

    # The narrowest width that holds all groups that matter, of any query; 0 if none.
    needed = jnp.max(beating, initial=0)
    choice = jnp.sum(needed > jnp.array([0, *widths[:-1]]))
    branches = [unchanged, *map(look_into, widths)]
    merged = jax.lax.switch(choice, branches, running, grouped, maxima)
    missing = merged.scores == NEG_INF
    return Ranking(jnp.where(missing, INVALID_ID, merged.doc_ids), merged.scores)


def streaming_top_k(
    score_block: Callable[[Int[Array, ""]], Float[Array, "*batch n"]],
    num_blocks: int,
    k: int,
    *,
    first_row: Int[Array, ""] | int = 0,
) -> Ranking:
    """The ``k`` best over blocks that are scored one after another, under one scan.

    Only one block's scores exist at a time; nothing is as large as the corpus.

    Args:
      score_block: ``score_block(i) -> [..., N]`` scores of rows ``i * N`` to
        ``(i + 1) * N`` (plus ``first_row``), ``-inf`` for rows that do not exist.
      num_blocks: number of blocks, at least 1.
      k: number of results.
      first_row: row of the first document of block 0.

    Example::

      >>> scores = jnp.array([[1.0, 9.0], [9.0, 4.0]])
      >>> streaming_top_k(lambda block: scores[block], 2, 3).doc_ids.tolist()
      [1, 2, 3]
    """
    shape = jax.eval_shape(score_block, jax.ShapeDtypeStruct((), jnp.int32)).shape

    def body(running: Ranking, block: Int[Array, ""]) -> tuple[Ranking, None]:
        start = first_row + block * shape[-1]
        return update_top_k(running, score_block(block), start), None

    blocks = jnp.arange(num_blocks, dtype=jnp.int32)
    # Blocks scored inside a shard_map differ by device, and so must the carry's type.
    start = _vary_like(empty_ranking(shape[:-1], k), first_row)
    return jax.lax.scan(body, start, blocks)[0]


def _vary_like(ranking: Ranking, value: Int[Array, ""] | int) -> Ranking:
    """Marks a constant as differing between devices where ``value`` does."""
    axes: frozenset = getattr(jax.typeof(value), "vma", frozenset())
    if not axes:
        return ranking
    return jax.tree.map(lambda x: jax.lax.pcast(x, tuple(axes), to="varying"), ranking)


def gather_top_k(local: Ranking, k: int, axis_name: str) -> Ranking:
    """Inside ``shard_map``: the ``k`` best over the devices of an axis.

    Only ``[..., K]`` results travel.  Devices must hold ascending ranges of rows.
    """
    stacked = jax.lax.all_gather(local, axis_name)  # [P, ..., K]
    joined = jax.tree.map(
        lambda x: jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1), stacked
    )
    best, at = jax.lax.top_k(joined.scores, min(k, joined.scores.shape[-1]))
    return _finish(best, _take(joined.doc_ids, at), k)


@partial(jax.jit, static_argnames=("k", "mesh", "axis_name"))
def sharded_top_k(
    scores: Float[Array, "*batch n"], k: int, *, mesh: Mesh, axis_name: str = "data"
) -> Ranking:
    """``top_k`` of scores whose last axis is split over the devices of a mesh.

    Each device selects from its own rows and sends ``k`` results: the scores themselves
    never travel.  Equal to ``top_k`` on one device.

    Args:
      scores: ``[..., N]``, ``N`` a multiple of the devices (pad with ``-inf``).
      k: number of results.
      mesh: devices.
      axis_name: the mesh axis that splits the rows.
    """
    num_local = scores.shape[-1] // mesh.shape[axis_name]

    def select(local_scores: Float[Array, "*batch m"]) -> Ranking:
        local = top_k(local_scores, min(k, num_local))
        first_row = jax.lax.axis_index(axis_name) * num_local
        return gather_top_k(_offset(local, first_row), k, axis_name)

    split = PartitionSpec(*[None] * (scores.ndim - 1), axis_name)
    return jax.shard_map(
        select, mesh=mesh, in_specs=split, out_specs=PartitionSpec(), check_vma=False
    )(scores)
