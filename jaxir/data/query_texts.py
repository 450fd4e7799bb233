"""Batches of queries alone, for models whose documents are encoded once and for all.

A batch has the tokens of its queries and, in the place of texts, rows of documents:
first every document that is known to answer the query, whatever its list says, since a
model that searches for its own negatives must know all of them; then the list's other
documents.
"""

from typing import NamedTuple

import numpy as np

from jaxir.data.batch_texts import StoredTexts
from jaxir.data.table import ListTable, Positives
from jaxir.text import bucket_of, pad_batch
from jaxir.types import RankBatch

__all__ = ["QueryTexts", "StoredQueries"]


class StoredQueries(NamedTuple):
    """Tokens of queries, and how they are padded.

    Attributes:
      texts: their tokens.
      buckets: lengths that they are padded to, rising.
      pad_id: what stands at padding.
    """

    texts: StoredTexts
    buckets: tuple[int, ...]
    pad_id: int


class QueryTexts:
    """Queries, and the rows of their documents.

    Args:
      queries: of the queries that lists ask.
      positives: the documents that answer them.
      list_size: documents of a list, of which one is a positive.
    """

    def __init__(
        self, queries: StoredQueries, positives: Positives, list_size: int
    ) -> None:
        self._queries, self._positives = queries, positives
        self._most = int(np.diff(positives.bounds).max())
        self._width = self._most + list_size - 1

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Every (query length, 0)."""
        return [(length, 0) for length in self._queries.buckets]

    def list_lengths(self, table: ListTable) -> np.ndarray:
        """Tokens of the query of each list."""
        texts = self._queries.texts
        return texts.lengths[texts.places(table.query_rows)]

    def batch(
        self, table: ListTable, lists: np.ndarray, items: np.ndarray, own: slice
    ) -> RankBatch:
        """Own rows of a batch: ``doc`` is None, positives have the label 1.

        Args:
          table: all lists.
          lists: numbers of the batch's lists.
          items: ``[batch, list]`` places in the table, -1 at padding.
          own: of this process.
        """
        query_rows = table.query_rows[lists]
        places = self._queries.texts.places(query_rows)
        longest = int(self._queries.texts.lengths[places].max())
        query = pad_batch(
            [self._queries.texts.store[place] for place in places[own].tolist()],
            length=bucket_of(longest, self._queries.buckets),
            pad_id=self._queries.pad_id,
        )
        docs = np.full((len(places[own]), self._width), -1, np.int32)
        labels = np.zeros(docs.shape, np.float32)
        asked = query_rows[own].tolist()
        for i, (row, chosen) in enumerate(zip(asked, items[own], strict=True)):
            answers = self._positives.of(row)
            docs[i, : len(answers)] = answers
            labels[i, : len(answers)] = 1.0
            others = table.doc_rows[chosen[chosen >= 0]]
            others = others[~np.isin(others, answers)]
            docs[i, self._most : self._most + len(others)] = others
        return RankBatch(
            query=query, doc=None, labels=labels, where=docs >= 0,
            query_index=query_rows[own].astype(np.int32), doc_index=docs,
        )  # fmt: skip
