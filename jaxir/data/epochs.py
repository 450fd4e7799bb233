"""Which lists make which batch of an epoch, and which documents of a list are taken.

Both follow from the seed, the epoch and the number of a list alone.
"""

import numpy as np

from jaxir.data.table import ListTable

__all__ = ["choose_items", "plan_epoch"]


def plan_epoch(
    lengths: np.ndarray, *, batch_size: int, window: int, seed: int, epoch: int
) -> np.ndarray:
    """Which lists make which batch of an epoch.

    Args:
      lengths: ``[lists]``, by which batches shall be alike.
      batch_size: lists of a batch.
      window: batches that are sorted together.
      seed: with ``epoch``, of the order.
      epoch: number of the epoch.

    Returns:
      int64 ``[lists // batch_size, batch_size]``, no list twice.

    Example::

      >>> plan_epoch(np.array([9, 1, 8, 2]), batch_size=2, window=2, seed=0, epoch=0)
      array([[2, 0],
             [1, 3]])
    """
    random = np.random.default_rng([seed, epoch])
    count = len(lengths) // batch_size
    order = random.permutation(len(lengths))[: count * batch_size]
    # within a window by length; windows keep their places: one stable sort of pairs
    windows = np.arange(len(order)) // (window * batch_size)
    order = order[np.lexsort((lengths[order], windows))]
    return order.reshape(count, batch_size)[random.permutation(count)]


def choose_items(
    table: ListTable, lists: np.ndarray, size: int, *, seed: int, epoch: int
) -> np.ndarray:
    """Which items of some lists make a rectangle.

    Of a longer list the first item, a positive, and a random choice of the rest.

    Args:
      table: all lists.
      lists: numbers of the lists.
      size: items of each.
      seed: with ``epoch`` and the list's number, of the choice.
      epoch: number of the epoch.

    Returns:
      int64 ``[lists, size]`` places in the table's items, -1 at padding.
    """
    starts, ends = table.bounds[lists], table.bounds[lists + 1]
    items = starts[:, None] + np.arange(size)[None, :]
    items = np.where(items < ends[:, None], items, -1)
    for i in np.flatnonzero(ends - starts > size).tolist():
        random = np.random.default_rng([seed, epoch, int(lists[i]), 1])
        rest = random.permutation(int(ends[i] - starts[i]) - 1)[: size - 1]
        items[i, 1:] = starts[i] + 1 + np.sort(rest)
    return items
