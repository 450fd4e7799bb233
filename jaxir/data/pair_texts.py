"""The texts of batches as pairs of query and document, for cross-encoders.

Joined from stored tokens by a :class:`~jaxir.pairs.PairFormat`, so that nothing is
tokenized while training and a batch is as wide as its longest pair, not wider.

A list's documents differ in length, and one rectangle is as wide as the longest of
them.  With *groups* the pairs of a batch are sorted by length and cut into groups of
equal rows, each as wide as its own longest pair.  A model is compiled for each
combination of widths, so there are three of them at most, chosen before training from
the lengths that batches turn out to have: :func:`plan_groups`.

Of the tokens of a rectangle, 32 lists of 36 of medquad's BM25 results need (T5's
vocabulary, padding included)::

    longest pair    128    256    384    512
    no padding     0.98   0.88   0.78   0.68
    4 groups       1.00   0.97   0.90   0.81
    8 groups       1.00   0.94   0.86   0.78
    16 groups      1.00   0.93   0.84   0.75

Most of these documents are longer than 128 tokens: there is nothing to gain at that
length.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from jaxir.data.batch_texts import StoredTexts, fold
from jaxir.data.table import ListTable
from jaxir.pairs import PairFormat
from jaxir.text import bucket_of, pad_batch
from jaxir.types import TokenBatch, TokenGroups

__all__ = ["JointTexts", "plan_groups"]

_STEP = 8  # widths of groups are multiples
_QUANTILES = np.linspace(0.1, 1.0, 10)  # of batches that a plan shall fit


def plan_groups(
    samples: np.ndarray, groups: int, longest: int, max_length: int
) -> tuple[tuple[int, ...], ...]:
    """Widths of groups for which a model is compiled.

    A plan is the width of each group, shortest first.  Plans are made at the quantiles
    of the widths that sampled batches need, rounded up to multiples of 8.  Of these the
    two are taken with which the samples cost the fewest tokens, and beside them the
    plan that any batch fits.

    Args:
      samples: ``[batches, pairs]`` lengths of pairs.
      groups: number of groups; divides the pairs.
      longest: tokens of the longest pair there is.
      max_length: most tokens of a pair, and so the widest group.

    Returns:
      At most three plans, the one of fewest tokens first; the last fits every batch.

    Example::

      >>> plan_groups(np.array([[9, 30, 61, 64], [10, 31, 50, 61]]), 2, 90, 128)
      ((32, 64), (96, 96))
    """
    ordered = np.sort(samples, axis=1)
    widths = ordered.reshape(len(samples), groups, -1)[:, :, -1]
    needs = np.quantile(widths, _QUANTILES, axis=0, method="higher")
    full = (_rounded(longest, max_length),) * groups
    found = {tuple(_rounded(int(n), max_length) for n in need) for need in needs}
    plans = sorted(found - {full}, key=lambda plan: (sum(plan), plan))
    pairs = itertools.combinations(plans, min(2, len(plans)))
    choices = [(*pair, full) for pair in pairs]
    return min(choices, key=lambda choice: (_cost(widths, choice), len(choice)))


def _rounded(length: int, max_length: int) -> int:
    return min(-(-max(length, 1) // _STEP) * _STEP, max_length)


def _cost(widths: np.ndarray, plans: Sequence[tuple[int, ...]]) -> int:
    """Widths of all groups, summed, where each batch takes the first plan that fits."""
    table = np.array(plans)
    fits = (widths[:, None, :] <= table[None, :, :]).all(axis=2)
    return int(table.sum(axis=1)[fits.argmax(axis=1)].sum())


class JointTexts:
    """Query and document as one text.

    Args:
      queries: query parts of the queries that lists ask, special tokens around each.
      docs: the same for document parts.  Both are stored with one token more than a
        pair can hold, so that what is cut is known.
      form: how they are joined.
      buckets: lengths that pairs are padded to, rising; the last is the longest.
      groups: number of groups of like length; one for a rectangle of lists.
    """

    def __init__(
        self,
        queries: StoredTexts,
        docs: StoredTexts,
        form: PairFormat,
        *,
        buckets: tuple[int, ...],
        groups: int = 1,
    ) -> None:
        self.queries, self.docs, self.form = queries, docs, form
        self._buckets, self._groups, self._max_length = buckets, groups, buckets[-1]
        self._room = form.room(self._max_length)
        frame = form.tokenizer.frame
        self._skip, self._tail = len(frame.prefix), len(frame.suffix)
        self._plans: tuple[tuple[int, ...], ...] = ((self._max_length,) * groups,)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Zero and the length of pairs; with groups, zero and the width of each."""
        if self._groups > 1:
            return [(0, *plan) for plan in self._plans]
        return [(0, length) for length in self._buckets]

    def choose_plans(self, samples: np.ndarray, longest: int) -> None:
        """Settles the widths of groups; see :func:`plan_groups`."""
        self._plans = plan_groups(samples, self._groups, longest, self._max_length)

    # -- lengths -------------------------------------------------------------------

    def _parts(
        self, query_rows: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of the parts before anything is cut; ``[...]`` as the arguments."""
        around = self._skip + self._tail
        asked = self.queries.lengths[self.queries.places(query_rows)] - around
        return asked, self.docs.lengths[places] - around

    def lengths(
        self, query_rows: np.ndarray, places: np.ndarray, where: np.ndarray
    ) -> np.ndarray:
        """int ``[batch, list]`` tokens of each pair as it will be; 0 at padding."""
        query, doc = self._parts(query_rows, places)
        kept = np.minimum(query[:, None] + doc, self._room) + self.form.fixed
        return np.where(where, kept, 0)

    def list_lengths(self, table: ListTable) -> np.ndarray:
        """Tokens of the longest pair of each list."""
        query, doc = self._parts(table.query_rows, self.docs.places(table.doc_rows))
        longest = query + np.maximum.reduceat(doc, table.bounds[:-1])
        return np.minimum(longest, self._room) + self.form.fixed

    def cuts(
        self, query_rows: np.ndarray, places: np.ndarray, where: np.ndarray
    ) -> tuple[int, int]:
        """How many pairs of the batch lose tokens of the document, and of the query."""
        query, doc = self._parts(query_rows, places)
        left = np.maximum(self._room - query, 0)[:, None]
        whole_query = np.broadcast_to((query <= self._room)[:, None], where.shape)
        return int((where & (doc > left)).sum()), int((where & ~whole_query).sum())

    # -- tokens --------------------------------------------------------------------

    def tokens(
        self,
        query_rows: np.ndarray,
        places: np.ndarray,
        where: np.ndarray,
        own: slice,
    ) -> tuple[None, TokenBatch | TokenGroups]:
        """Own pairs: ``[B, L, T]``, or in groups."""
        lengths = self.lengths(query_rows, places, where)
        if self._groups > 1:
            return None, self._grouped(query_rows, places, lengths, own)
        size = places.shape[1]
        width = bucket_of(int(lengths.max()), self._buckets)
        pairs = np.arange(own.start * size, own.stop * size)
        batch = self._join(pairs, query_rows, places, lengths, width)
        return None, fold(batch, size)

    def _grouped(
        self,
        query_rows: np.ndarray,
        places: np.ndarray,
        lengths: np.ndarray,
        own: slice,
    ) -> TokenGroups:
        """This process' share of the rows of every group."""
        batch_size, size = lengths.shape
        share = own.stop - own.start
        index, count = own.start // share, batch_size // share
        order = np.argsort(lengths.ravel(), kind="stable")
        position = np.empty(batch_size * size, np.int32)
        position[order] = np.arange(batch_size * size, dtype=np.int32)
        parts = order.reshape(self._groups, count, -1)  # [group, process, row]
        needed = lengths.ravel()[order].reshape(self._groups, -1)[:, -1]
        plan = next(p for p in self._plans if (needed <= np.array(p)).all())
        groups = tuple(
            self._join(part[index], query_rows, places, lengths, width)
            for part, width in zip(parts, plan, strict=True)
        )
        return TokenGroups(groups, position.reshape(batch_size, size)[own])

    def _join(
        self,
        pairs: np.ndarray,
        query_rows: np.ndarray,
        places: np.ndarray,
        lengths: np.ndarray,
        width: int,
    ) -> TokenBatch:
        """``[pairs, width]``; ``pairs`` are places in the flattened batch."""
        form, size = self.form, places.shape[1]
        asked = self.queries.places(query_rows).tolist()
        flat_places, flat_lengths = places.ravel(), lengths.ravel()
        heads: dict[int, np.ndarray] = {}
        ids: list[np.ndarray] = []
        boundaries: list[int] = []
        for pair in pairs.tolist():
            if not flat_lengths[pair]:
                ids.append(np.zeros(0, np.int32))
                boundaries.append(width)
                continue
            i = pair // size
            if i not in heads:
                heads[i] = self._bare(self.queries.store[asked[i]])
            doc = self._bare(self.docs.store[flat_places[pair]])
            joined = form.join(heads[i], doc, self._max_length)
            ids.append(joined.ids)
            boundaries.append(joined.boundary if form.typed else width)
        return pad_batch(
            ids, length=width, pad_id=form.tokenizer.pad_id,
            type_boundaries=boundaries if form.typed else None,
        )  # fmt: skip

    def _bare(self, ids: np.ndarray) -> np.ndarray:
        """Tokens of a text without the special tokens around it."""
        return ids[self._skip : len(ids) - self._tail]
