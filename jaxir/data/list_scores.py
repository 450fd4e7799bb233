"""Scores that a teacher gave the documents of training lists, read from a file.

What `jaxir label` writes is a teacher too: it can be mixed with models, or with other
files, so that a costly teacher runs once.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxir.data.lists import ListReader, TrainingList, read_lists
from jaxir.errors import InputError

__all__ = ["ListScores", "ScoreFile", "is_score_file"]


class ScoreFile(NamedTuple):
    """A file of lists with scores that stands where a teacher stands.

    Attributes:
      path: JSON lines, as `jaxir label` writes them.
    """

    path: str | os.PathLike


def is_score_file(spec: str | os.PathLike) -> bool:
    """Whether a teacher is named by a file of scores: JSON lines, plain or gzip.

    Example::

      >>> is_score_file("models/teacher"), is_score_file("labelled.jsonl.gz")
      (False, True)
    """
    name = Path(spec).name
    return name.removesuffix(".gz").endswith(".jsonl")


class ListScores:
    """Scores of one list after another, the file being read along.

    It has the lists in their order, and may have others between them: those of queries
    that were left out since.  A list's documents may stand in another order, or be
    fewer.

    Args:
      path: JSON lines, as `jaxir label` writes them.

    Example::

      >>> import pathlib, tempfile
      >>> from jaxir.data.lists import write_lists
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "scores.jsonl"
      >>> scored = TrainingList("q1", ("d1", "d2"), (1.0, 0.0), (0.5, 0.25))
      >>> _ = write_lists(path, [scored])
      >>> ListScores(path)(TrainingList("q1", ("d2", "d1"), (1.0, 0.0)))
      array([0.25, 0.5 ])
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self._path = path
        self._reader: ListReader = read_lists(path)

    def __call__(self, item: TrainingList) -> Float[np.ndarray, " L"]:
        """Scores of a list's documents.

        Raises:
          InputError: the file ends without them, naming what it lacks; a list of it
            has no scores, or one that is not finite.
        """
        lacking = None
        for scored in self._reader:
            if scored.scores is None:
                raise InputError(
                    self._reader.place, f"no scores in the list of {scored.query_id!r}",
                    "a score of each document", "label these lists first (jaxir label)",
                )  # fmt: skip
            if scored.query_id != item.query_id:
                continue
            known = dict(zip(scored.doc_ids, scored.scores, strict=True))
            missing = [doc for doc in item.doc_ids if doc not in known]
            if not missing:
                return np.array([known[doc] for doc in item.doc_ids], np.float64)
            lacking = missing[0] if lacking is None else lacking
        found = f"no scores of query {item.query_id!r}"
        if lacking is not None:
            found = f"no score of document {lacking!r} for query {item.query_id!r}"
        raise InputError(
            self._path, found, "scores of the lists that are labelled, in their order",
            "label these lists with that teacher, too",
        )  # fmt: skip
