"""Teachers' scores for training lists: one teacher, or an ensemble of unlike ones.

Scores of unlike teachers are made comparable within each list before they are averaged,
as the ensembles of learned sparse retrieval do (Geng et al., "Towards Competitive
Search Relevance For Inference-Free Learned Sparse Retrievers", arXiv 2411.04403:
min-max within the list, mean, times a constant).
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxir.data.list_scores import ListScores, ScoreFile, is_score_file
from jaxir.data.lists import TrainingList, list_to_json, read_lists
from jaxir.data.resumable import mappings_fingerprint, resumable_lines
from jaxir.errors import InputError
from jaxir.files import check_output, sha256_file
from jaxir.fuse import NORMALIZATIONS
from jaxir.progress import progress_bar
from jaxir.scorers import Scorer, make_scorer, scores_identity

__all__ = [
    "LabelReport",
    "Teacher",
    "combine_scores",
    "label",
    "label_lists",
    "load_teacher",
    "load_teachers",
    "make_teacher",
]

_FIRST = ("kept", "best")

Teacher = Scorer
"""``teacher(queries, docs)``: scores ``[L]`` of each query text's document texts."""


class LabelReport(NamedTuple):
    """What :func:`label_lists` did.

    Attributes:
      lists: lists labelled.
      pairs: query-document pairs scored.
      teachers: number of teachers.
    """

    lists: int
    pairs: int
    teachers: int


def load_teacher(spec: str | os.PathLike) -> Teacher:
    """The teacher that a model is, wherever it lies.

    Raises:
      InputError: there is no such model, or its kind cannot teach.
    """
    from jaxir.reranker import load_scoring_model

    return make_teacher(load_scoring_model(spec))


def make_teacher(model: Any) -> Teacher:
    """The teacher that a loaded model is.

    Raises:
      InputError: its kind cannot teach.
    """
    return make_scorer(model, role="teacher")


def load_teachers(
    specs: Sequence[str | os.PathLike],
) -> tuple[list[Teacher | ScoreFile], str]:
    """Models and files of scores as teachers, and what names them all.

    Args:
      specs: what ``load_scoring_model`` takes, or a file of lists with scores
        (``.jsonl``, ``.jsonl.gz``).

    Returns:
      The teachers in their order, and an identity for :func:`label_lists`: of
      parameters and tokenizers, and of the files' bytes.

    Raises:
      InputError: there is no such model or file, or its kind cannot teach.
    """
    from jaxir.reranker import load_scoring_model

    teachers: list[Teacher | ScoreFile] = []
    names = []
    for spec in specs:
        if is_score_file(spec):
            if not Path(spec).is_file():
                raise InputError(
                    spec, "no such file", "labelled lists, or a model's folder or id"
                )
            teachers.append(ScoreFile(spec))
            names.append(f"scores {sha256_file(spec)}")
            continue
        model = load_scoring_model(spec)
        teachers.append(make_teacher(model))
        names.append(scores_identity(model))
    return teachers, " ".join(names)


def combine_scores(
    scores: Sequence[np.ndarray],
    *,
    normalization: str = "min-max",
    weights: Sequence[float] | None = None,
    scale: float = 1.0,
) -> np.ndarray:
    """One score for each document of a list from several teachers'.

    ``scale * sum_i w_i n(s_i) / sum_i w_i``, with n the normalisation within the list.
    Scores that differ by float32's rounding alone are equal to it: stretched to [0, 1]
    noise would be a teacher's firmest opinion.

    Args:
      scores: for each teacher, ``[L]``.
      normalization: a name from :data:`jaxir.fuse.NORMALIZATIONS`.
      weights: one for each teacher; equal by default.
      scale: what the mean is multiplied with.

    Returns:
      float64 ``[L]``.

    Example::

      >>> combine_scores([np.array([9.0, 5.0, 1.0]), np.array([0.8, 0.9, 0.7])])
      array([0.75, 0.75, 0.  ])
    """
    shares = np.ones(len(scores)) if weights is None else np.asarray(weights)
    normalize = NORMALIZATIONS[normalization]
    parts = [np.asarray(one, np.float64) for one in scores]
    if normalization != "none":
        parts = [normalize(_without_noise(one)) for one in parts]
    total = sum(share * part for share, part in zip(shares, parts, strict=True))
    return np.asarray(scale * total / shares.sum())


def _without_noise(scores: np.ndarray) -> np.ndarray:
    """One score for all where their span is within a few roundings of float32."""
    low, high = scores.min(), scores.max()
    rounding = 4 * np.finfo(np.float32).eps * max(abs(low), abs(high))
    # Halved first: the span of finite scores may itself be infinite.
    return np.full_like(scores, high) if high / 2 - low / 2 <= rounding / 2 else scores


def label(
    teachers: Sequence[Teacher | ScoreFile],
    lists: Iterable[TrainingList],
    collection: Any,
    *,
    normalization: str | None = None,
    weights: Sequence[float] | None = None,
    scale: float = 1.0,
    first: str = "kept",
    batch_size: int = 64,
    skip: int = 0,
) -> Iterator[TrainingList]:
    """Yields lists with the teachers' scores, streaming.

    Args:
      teachers: functions of texts, which :func:`load_teacher` makes of a model, and
        files of scores.
      lists: training lists over the collection.
      collection: holds the texts of queries and documents.
      normalization: a name from :data:`jaxir.fuse.NORMALIZATIONS`; by default raw
        scores of one teacher, and min-max for several, whose scales differ.
      weights: one for each teacher; equal by default.
      scale: what the combined scores are multiplied with.
      first: which document leads each list: the one that did (``kept``), or the one
        the teachers score highest (``best``), a positive then whatever was judged, as
        Hypencoder was trained (Killingback et al. 2025, section 4.2.1).
      batch_size: lists scored at a time.
      skip: lists passed over, being labelled already.

    Raises:
      InputError: no teacher, weights that do not fit, a list that names a query or
        document the collection does not hold, a score that is not finite, or one that
        a file does not have.
    """
    normalization = _check(teachers, normalization, weights, scale, first, batch_size)
    queries = collection.queries(None)
    files = _files(teachers)
    stream = iter(lists)
    for item in islice(stream, skip):
        for scores_of in files.values():  # files are read along
            scores_of(item)
    while batch := list(islice(stream, batch_size)):
        texts = [_texts("lists", item, queries, collection) for item in batch]
        asked = [query for query, _ in texts]
        groups = [docs for _, docs in texts]
        every = []
        for place, teacher in enumerate(teachers):
            if isinstance(teacher, ScoreFile):
                every.append([files[place](item) for item in batch])
            else:
                every.append(teacher(asked, groups))
        for i, item in enumerate(batch):
            scores = combine_scores(
                [_finite(item, given[i], t) for t, given in enumerate(every)],
                normalization=normalization, weights=weights, scale=scale,
            )  # fmt: skip
            labelled = item._replace(scores=tuple(scores.tolist()))
            yield _best_first(labelled) if first == "best" else labelled


def _files(teachers: Sequence[Teacher | ScoreFile]) -> dict[int, ListScores]:
    """Those teachers that are files, opened, by their place."""
    return {
        place: ListScores(teacher.path)
        for place, teacher in enumerate(teachers)
        if isinstance(teacher, ScoreFile)
    }


def _best_first(item: TrainingList) -> TrainingList:
    """The document of the highest score as the list's positive, before any judged."""
    assert item.scores is not None  # they were just given
    best = int(np.argmax(item.scores))
    labels = list(item.labels)
    labels[best] = max(labels[best], 1.0)
    # Positives stand first in a list; otherwise the order stays.
    order = sorted(range(len(labels)), key=lambda i: (i != best, not labels[i] > 0))
    return item._replace(
        doc_ids=tuple(item.doc_ids[i] for i in order),
        labels=tuple(labels[i] for i in order),
        scores=tuple(item.scores[i] for i in order),
    )


def _check(
    teachers: Sequence[object],
    normalization: str | None,
    weights: Sequence[float] | None,
    scale: float,
    first: str,
    batch_size: int,
) -> str:
    """The normalisation to use."""
    if not teachers:
        raise InputError("teachers", "none", "at least one model")
    if normalization is None:
        normalization = "min-max" if len(teachers) > 1 else "none"
    if normalization not in NORMALIZATIONS:
        expected = "one of " + ", ".join(NORMALIZATIONS)
        raise InputError("normalization", repr(normalization), expected)
    if weights is not None and len(weights) != len(teachers):
        raise InputError(
            "weights", f"{len(weights)} for {len(teachers)} teachers",
            "one for each teacher",
        )  # fmt: skip
    if weights is not None and not (min(weights) >= 0 and 0 < sum(weights) < math.inf):
        raise InputError("weights", str(list(weights)), "at least 0, and not all 0")
    if not 0 < scale < math.inf:
        raise InputError("scale", str(scale), "a finite number above 0")
    if first not in _FIRST:
        raise InputError("first", repr(first), "one of " + ", ".join(_FIRST))
    if batch_size < 1:
        raise InputError("batch_size", str(batch_size), "at least 1")
    return normalization


def _texts(
    where: str, item: TrainingList, queries: Mapping[str, str], collection: Any
) -> tuple[str, list[str]]:
    if item.query_id not in queries:
        raise InputError(
            where, f"query {item.query_id!r} is not in the collection",
            "lists over this collection", "name the collection they were made from",
        )  # fmt: skip
    rows = collection.docs.rows(item.doc_ids)
    if (rows < 0).any():
        absent = item.doc_ids[int((rows < 0).argmax())]
        raise InputError(
            where, f"document {absent!r} is not in the collection",
            "lists over this collection", "name the collection they were made from",
        )  # fmt: skip
    return queries[item.query_id], collection.docs.texts(rows.tolist())


def _finite(item: TrainingList, scores: np.ndarray, teacher: int) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(item.doc_ids),):
        raise InputError(
            f"teacher {teacher + 1}", f"scores of shape {scores.shape}",
            f"{len(item.doc_ids)} scores",
        )  # fmt: skip
    if not np.isfinite(scores).all():
        bad = item.doc_ids[int((~np.isfinite(scores)).argmax())]
        raise InputError(
            f"teacher {teacher + 1}", f"score of {bad!r} for {item.query_id!r} is not "
            "finite", "finite numbers", "check the teacher's weights",
        )  # fmt: skip
    return scores


def label_lists(
    teachers: Sequence[Teacher | ScoreFile],
    lists: str | os.PathLike,
    collection: Any,
    path: str | os.PathLike,
    *,
    normalization: str | None = None,
    weights: Sequence[float] | None = None,
    scale: float = 1.0,
    first: str = "kept",
    batch_size: int = 64,
    identity: str = "",
) -> LabelReport:
    """Labels a file of lists into another; resumes where it was interrupted.

    Args:
      teachers: see :func:`label`.
      lists: the JSON lines file to read.
      collection: see :func:`label`.
      path: the JSON lines file to write; it appears when all lists are done.
      normalization: see :func:`label`.
      weights: see :func:`label`.
      scale: see :func:`label`.
      first: see :func:`label`.
      batch_size: see :func:`label`.
      identity: names the teachers; work done by others is not resumed.

    Raises:
      InputError: see :func:`label`; or a file cannot be read or written.
    """
    read = [lists, *(t.path for t in teachers if isinstance(t, ScoreFile))]
    if Path(path).resolve() in [Path(place).resolve() for place in read]:
        raise InputError(path, "the file that is read", "another name for the output")
    check_output(path)
    normalization = _check(teachers, normalization, weights, scale, first, batch_size)
    queries, total, reader = collection.queries(None), 0, read_lists(lists)
    files = _files(teachers)
    for item in reader:  # a bad line is found before the work
        _texts(reader.place, item, queries, collection)
        for scores_of in files.values():
            scores_of(item)
        total += 1
    if not total:
        raise InputError(lists, "no training list", "at least one", "check the file")
    settings = {
        "lists": sha256_file(lists), "collection": collection.docs.fingerprint,
        "queries": mappings_fingerprint(queries), "scale": scale,
        "normalization": normalization, "weights": weights and list(weights),
        "first": first, "identity": identity,
    }  # fmt: skip
    with resumable_lines(path, settings) as out:
        done = len(out.done)
        labelled = label(
            teachers, read_lists(lists), collection, normalization=normalization,
            weights=weights, scale=scale, first=first, batch_size=batch_size,
            skip=done,
        )  # fmt: skip
        bar = progress_bar(total=total, label="label", unit="list", initial=done)
        with bar:
            for number, item in enumerate(labelled, done):
                pairs = {"pairs": len(item.doc_ids)}
                out.append(str(number), [list_to_json(item)], pairs)
                bar.update()
        report = LabelReport(len(out.done), out.counts["pairs"], len(teachers))
    return report
