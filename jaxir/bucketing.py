"""Texts of mixed length through a compiled function, in batches of fixed shapes.

Texts are sorted by length and packed into batches of about as many tokens each, in a
fixed set of ``(rows, length)`` shapes, so that a model is compiled once for each shape
and little is computed for padding.  The next batches are under way on the devices
before the host fetches the previous one.
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxir.mesh import cpu_cores, num_shards, put_batch
from jaxir.text import bucket_lengths, bucket_of, pad_batch
from jaxir.types import TokenBatch

__all__ = [
    "BATCH_TOKENS",
    "Batch",
    "default_batch_tokens",
    "fine_lengths",
    "plan_batches",
    "run_batches",
    "start_batch",
]

BATCH_TOKENS = 1024
"""Tokens of a batch where nobody says: two CPU cores work within their caches."""


class Batch(NamedTuple):
    """Which texts form a batch, and its shape.

    Attributes:
      rows: positions of the texts.
      shape: ``(rows, length)`` of the padded batch.
    """

    rows: np.ndarray
    shape: tuple[int, int]


def default_batch_tokens() -> int:
    """Tokens of a batch: 512 for each CPU core, 32 768 for each accelerator.

    A CPU core is fastest while a layer's activations stay in its cache (a third faster
    than with 4096 tokens, MiniLM on two cores); an accelerator wants long products.
    """
    if jax.default_backend() != "cpu":
        return 32_768 * jax.local_device_count()
    return BATCH_TOKENS // 2 * cpu_cores()


def fine_lengths(max_length: int) -> tuple[int, ...]:
    """Lengths to pad to where the work is worth twice the compilations.

    Multiples of 8 up to 128, of 16 up to 256, of 32 up to 512, and so on: half the
    steps of ``text.bucket_lengths``.  Pairs of a query and a document, batches of 1024
    tokens, cut at 128 and at 512 tokens: padding adds 0 to 6 % and 3 to 6 % on SciFact,
    NFCorpus, medquad, CoSQA and Vaswani (BERT's and T5's vocabularies), where the
    coarser lengths add 0 to 12 % and 6 to 13 %.

    Example::

      >>> fine_lengths(40)
      (8, 16, 24, 32, 40)
      >>> fine_lengths(300)[-6:]
      (208, 224, 240, 256, 288, 300)
    """
    lengths, length, step = [], 8, 8
    while length < max_length:
        lengths.append(length)
        if length == 16 * step:
            step *= 2
        length += step
    return (*lengths, max_length)


def plan_batches(
    lengths: np.ndarray,
    max_length: int,
    *,
    batch_tokens: int = BATCH_TOKENS,
    multiple: int = 1,
    fill: bool = True,
    fine: bool = False,
) -> list[Batch]:
    """Packs texts into batches of fixed shapes, longest texts first.

    Args:
      lengths: tokens of each text, none above ``max_length``.
      max_length: the longest bucket; see ``text.bucket_lengths``.
      batch_tokens: rows times length of a batch, at most (but for one row a device).
      multiple: rows are a multiple of this, the number of devices.
      fill: every batch of a length has the same rows, the last one padded; otherwise
        the last one may take a quarter, a sixteenth, … of them, for few texts.
      fine: pad to :func:`fine_lengths`, for many texts.

    Example::

      >>> [batch.shape for batch in plan_batches(np.array([3, 60, 9]), 64,
      ...                                        batch_tokens=64)]
      [(1, 64), (4, 16)]
    """
    buckets = (fine_lengths if fine else bucket_lengths)(max_length)
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        length = bucket_of(int(lengths[order[start]]), buckets)
        rows = max(batch_tokens // length // multiple, 1) * multiple
        left = len(order) - start
        while (
            not fill and rows // 4 >= max(left, multiple) and rows // 4 % multiple == 0
        ):
            rows //= 4
        batches.append(Batch(order[start : start + rows], (rows, length)))
        start += rows
    return batches


def start_batch(
    compute: Callable[[TokenBatch], Any],
    ids: Sequence[np.ndarray],
    batch: Batch,
    *,
    pad_id: int,
    mesh: Mesh,
    boundaries: np.ndarray | None = None,
) -> Any:
    """Enqueues a batch; a result ``[rows, ...]`` is fetched by ``np.asarray``.

    Args:
      compute: of the padded texts, on the devices.
      ids: token ids of all texts, of which the batch names some.
      batch: from :func:`plan_batches`.
      pad_id: what stands at padding.
      mesh: devices that share the rows.
      boundaries: where segment 1 of each text begins; None for one segment.
    """
    tokens = pad_batch(
        [ids[row] for row in batch.rows],
        length=batch.shape[1],
        pad_id=pad_id,
        rows=batch.shape[0],
        type_boundaries=None if boundaries is None else boundaries[batch.rows],
    )
    return compute(put_batch(tokens, mesh))


def run_batches(
    compute: Callable[[TokenBatch], Any],
    ids: Sequence[np.ndarray],
    *,
    max_length: int,
    pad_id: int,
    mesh: Mesh,
    batch_tokens: int,
    fill: bool = False,
    fine: bool = False,
    boundaries: np.ndarray | None = None,
    finish: Callable[[list], Sequence[Any]] = list,
    group: int = 1,
) -> Iterator[tuple[np.ndarray, Any]]:
    """Yields ``(rows, results)`` of each batch, two other groups being under way.

    Args:
      compute: of the padded texts ``[rows, length]``, on the devices; compiled once for
        each shape.
      ids: token ids of each text.
      max_length: no text is longer; see :func:`plan_batches`.
      pad_id: what stands at padding.
      mesh: devices that share each batch.
      batch_tokens: tokens of a batch, padding included.
      fill: see :func:`plan_batches`.
      fine: see :func:`plan_batches`.
      boundaries: where segment 1 of each text begins; None for one segment.
      finish: makes the results of each batch of a group, on the devices, from what
        ``compute`` gives for them; what is left over at the end is not fetched.
      group: at most so many batches, of one shape, are finished together.

    Example::

      >>> from jaxir.mesh import make_mesh
      >>> ids = [np.array([7, 8, 9]), np.array([5])]
      >>> for rows, sums in run_batches(
      ...     lambda tokens: tokens.ids.sum(axis=1), ids,
      ...     max_length=16, pad_id=0, mesh=make_mesh(1), batch_tokens=32):
      ...     print(rows.tolist(), sums.tolist())
      [0, 1] [24, 5]
    """
    plan = plan_batches(
        np.fromiter(map(len, ids), np.int64, len(ids)),
        max_length,
        batch_tokens=batch_tokens,
        multiple=num_shards(mesh),
        fill=fill,
        fine=fine,
    )
    under_way: collections.deque[tuple[list[Batch], Sequence[Any]]]
    under_way = collections.deque()
    for batches in _groups(plan, group):
        started = [
            start_batch(
                compute, ids, batch, pad_id=pad_id, mesh=mesh, boundaries=boundaries
            )
            for batch in batches
        ]
        under_way.append((batches, finish(started)))
        if len(under_way) > 2:
            yield from _fetch(*under_way.popleft())
    while under_way:
        yield from _fetch(*under_way.popleft())


def _groups(plan: Sequence[Batch], most: int) -> Iterator[list[Batch]]:
    for _, alike in itertools.groupby(plan, key=lambda batch: batch.shape):
        batches = list(alike)
        for start in range(0, len(batches), most):
            yield batches[start : start + most]


def _fetch(
    batches: Sequence[Batch], results: Sequence[Any]
) -> Iterator[tuple[np.ndarray, Any]]:
    # Only now does the host wait, with later batches already on the device.
    for batch, values in zip(batches, results, strict=False):
        yield batch.rows, _cut(values, len(batch.rows))


def _cut(values: Any, rows: int) -> Any:
    """The first rows of each array, in host memory."""
    return jax.tree.map(lambda x: np.asarray(x)[:rows], values)
