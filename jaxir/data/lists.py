"""Training lists: a query, and documents to be told apart.

A *training list* is one query with documents, each with a graded label and, where a
teacher has spoken, a score; a positive comes first.  As a file it is JSON lines over a
collection::

    {"query_id": "q1", "items": [{"doc_id": "d7", "label": 1.0, "score": 4.2},
                                 {"doc_id": "d2", "label": 0.0, "score": -0.7}]}

A list without a positive can be read, labelled and written, and distillation learns
from it where a teacher scored it; other losses cannot, and it is left out and counted
(see :func:`jaxir.data.table.build_table`).

:func:`sample_lists` draws lists from judgments.  What is drawn for a list hangs on the
seed and the ids of its query and positive alone: leaving queries out, or another order
of them, changes no other list.
"""

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxir.data.formats import Qrels, Run
from jaxir.data.lines import json_field, json_object, numbered_lines
from jaxir.data.negatives import draw_uniform, random_of
from jaxir.errors import InputError
from jaxir.files import atomic_file
from jaxir.progress import say

__all__ = [
    "ListReader",
    "TrainingList",
    "attach_scores",
    "in_batch_lists",
    "list_to_json",
    "normalise_text",
    "positives_by_text",
    "read_lists",
    "sample_lists",
    "write_lists",
]


class TrainingList(NamedTuple):
    """A query's documents, the first of them a positive where there is any.

    Attributes:
      query_id: id of the query in its split.
      doc_ids: ids of the documents, each once.
      labels: graded relevance of each document, above 0 for positives.
      scores: a teacher's score of each document, or None.
    """

    query_id: str
    doc_ids: tuple[str, ...]
    labels: tuple[float, ...]
    scores: tuple[float, ...] | None = None


def _number(where: str, item: Mapping, key: str) -> float:
    value = item.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(where, f"{key!r} is {json.dumps(value)[:40]}", "a number")
    if not math.isfinite(value):
        raise InputError(
            where, f"{key!r} is {value}", "a finite number", "label the list again"
        )
    return float(value)


def _parse(where: str, record: Mapping) -> TrainingList:
    query_id = json_field(where, record, ("query_id",), identifier=True)
    items = record.get("items")
    if not isinstance(items, list) or not items:
        raise InputError(
            where, f"'items' is {json.dumps(items)[:40]}",
            'a list [{"doc_id", "label"}, …] of at least one',
        )  # fmt: skip
    doc_ids, labels, scores = [], [], []
    for item in items:
        if not isinstance(item, dict):
            raise InputError(
                where, f"item {json.dumps(item)[:40]}", '{"doc_id", "label"}'
            )
        doc_ids.append(json_field(where, item, ("doc_id",), identifier=True))
        scored = item.get("score") is not None
        if scored:
            scores.append(_number(where, item, "score"))
        # what a teacher scored need not be judged
        unjudged = scored and item.get("label") is None
        labels.append(0.0 if unjudged else _number(where, item, "label"))
    found = TrainingList(
        query_id, tuple(doc_ids), tuple(labels), tuple(scores) if scores else None
    )
    _check(where, found)
    return found


def _check(where: str, item: TrainingList) -> None:
    """Raises where a list breaks its own rules."""
    if len(set(item.doc_ids)) != len(item.doc_ids):
        twice = next(doc for doc in item.doc_ids if item.doc_ids.count(doc) > 1)
        raise InputError(
            where, f"document {twice!r} twice in the list of {item.query_id!r}",
            "each document once", "remove one",
        )  # fmt: skip
    if len(item.labels) != len(item.doc_ids) or not item.doc_ids:
        raise InputError(
            where, f"{len(item.labels)} labels for {len(item.doc_ids)} documents",
            "one label a document, and at least one",
        )  # fmt: skip
    if item.scores is not None and len(item.scores) != len(item.doc_ids):
        raise InputError(
            where, f"{len(item.scores)} scores for {len(item.doc_ids)} documents",
            "a score for every document or for none", "label the list again",
        )  # fmt: skip
    if max(item.labels) > 0 and not item.labels[0] > 0:
        raise InputError(
            where, f"the first document of {item.query_id!r} has label "
            f"{item.labels[0]:g}, a later one {max(item.labels):g}",
            "a positive first", "move one to the front",
        )  # fmt: skip


class ListReader(Iterator[TrainingList]):
    """The lists of a file in turn; made by :func:`read_lists`.

    Attributes:
      place: ``path:line`` of the list last given, for complaints about it.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self._path = path
        self._lines = numbered_lines(path)
        self.place = str(path)

    def __next__(self) -> TrainingList:
        try:
            number, line = next(self._lines)
        except StopIteration:
            self.place = str(self._path)
            raise
        self.place = f"{self._path}:{number}"
        return _parse(self.place, json_object(self._path, number, line))


def read_lists(path: str | os.PathLike) -> ListReader:
    """Reads the lists of a JSON lines file, plain or gzip, one in memory at a time.

    Raises (while they are read):
      InputError: a malformed line: broken JSON, a missing key, a label or score that is
        not a finite number, a document twice, or a positive that is not first.

    Example::

      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "lists.jsonl"
      >>> write_lists(path, [TrainingList("q1", ("d1", "d2"), (1.0, 0.0))])
      1
      >>> next(read_lists(path)).doc_ids
      ('d1', 'd2')
    """
    return ListReader(path)


def list_to_json(item: TrainingList) -> str:
    """The line, without its end, that :func:`read_lists` reads back."""
    scores = item.scores or (None,) * len(item.doc_ids)
    items = [
        {"doc_id": doc, "label": float(label)}
        | ({} if score is None else {"score": float(score)})
        for doc, label, score in zip(item.doc_ids, item.labels, scores, strict=True)
    ]
    record = {"query_id": item.query_id, "items": items}
    return json.dumps(record, ensure_ascii=False)


def write_lists(path: str | os.PathLike, lists: Iterable[TrainingList]) -> int:
    """Writes lists as JSON lines, streaming; returns their number.

    Raises:
      InputError: a list breaks the rules of :class:`TrainingList`; nothing is written.
    """
    count = 0
    with atomic_file(path) as out:
        for item in lists:
            _check(f"{path}:{count + 1}", item)
            out.write(list_to_json(item) + "\n")
            count += 1
    return count


def normalise_text(text: str) -> str:
    """The form in which two query texts count as one: case and spacing set aside.

    Example::

      >>> normalise_text("What is  Glaucoma ?") == normalise_text("what is glaucoma?")
      True
    """
    return "".join(text.casefold().split())


def positives_by_text(
    qrels: Mapping[str, Mapping[str, int]], queries: Mapping[str, str]
) -> dict[str, frozenset[str]]:
    """The positives of each query, joined over queries of the same text.

    Collections ask one question under several ids (medquad, MS MARCO), each judged with
    an answer of its own; every one of those answers is right for all of them.

    Args:
      qrels: judgments.
      queries: texts by query id.

    Returns:
      Document ids by query id, for the queries that have judgments.

    Example::

      >>> found = positives_by_text(
      ...     {"a": {"d1": 1}, "b": {"d2": 1}}, {"a": "What?", "b": "what?"})
      >>> sorted(found["a"])
      ['d1', 'd2']
    """
    joined: dict[str, set[str]] = defaultdict(set)
    keys: dict[str, str] = {}
    for query_id, judged in qrels.items():
        text = queries.get(query_id)
        # the prefix keeps an id from being taken for another query's text
        keys[query_id] = (
            f"id {query_id}" if text is None else f"text {normalise_text(text)}"
        )
        joined[keys[query_id]].update(d for d, grade in judged.items() if grade > 0)
    frozen = {key: frozenset(docs) for key, docs in joined.items()}
    return {query_id: frozen[key] for query_id, key in keys.items()}


def sample_lists(
    qrels: Qrels,
    *,
    list_size: int,
    seed: int,
    candidates: Run | None = None,
    doc_ids: Sequence[str] | None = None,
    queries: Mapping[str, str] | None = None,
    skip_top: int = 0,
    depth: int = 1000,
    per: str = "positive",
    positives: str = "all",
) -> Iterator[TrainingList]:
    """Draws training lists from judgments, streaming.

    RankT5's lists (arXiv 2210.10634, section 5.1) are ``list_size=36, per="query",
    positives="one"`` over a run's best 1000: one relevant document of each query, and
    35 of the others drawn uniformly.

    Positives keep their grades.  Negatives are drawn without replacement: from the
    query's candidates at ranks ``skip_top + 1 .. depth``, and where those do not
    suffice uniformly from ``doc_ids``.  A positive of the query, or of another query of
    the same text, is never a negative; a document judged not relevant may be one.
    Where both sources run dry a list is shorter than ``list_size``.  A list begins with
    a positive, however short it is; queries without one are left out, and their number
    told at the end.

    Args:
      qrels: judgments; queries without a positive give no list.
      list_size: documents of a list, the positives included.
      seed: of every draw.
      candidates: a run, each query's documents best first.
      doc_ids: ids of the corpus, to draw uniformly from.
      queries: texts, by which queries that are the same are known.
      skip_top: candidates passed over, best first, since the very best that are not
        judged are often relevant.
      depth: last rank that is drawn from.
      per: ``"positive"``, a list for each positive (it alone, then negatives), or
        ``"query"``, a list for each query (its positives, best grade first, at most
        ``list_size - 1`` of them so that one negative has room).
      positives: ``"all"`` of the query's, or ``"one"``, drawn uniformly: its list is
        then one of those of ``per="positive"``.

    Raises:
      InputError: a size that makes no list, or no source of negatives.

    Example::

      >>> lists = sample_lists(
      ...     {"q": {"d1": 1}}, list_size=3, seed=0, doc_ids=["d1", "d2", "d3", "d4"])
      >>> [(item.doc_ids[0], len(item.doc_ids), item.labels) for item in lists]
      [('d1', 3, (1.0, 0.0, 0.0))]
    """
    if list_size < 1:
        raise InputError("list_size", str(list_size), "at least 1")
    if not 0 <= skip_top < depth:
        raise InputError("skip_top", f"{skip_top} with depth {depth}", "0 … depth - 1")
    if per not in ("positive", "query"):
        raise InputError("per", repr(per), "'positive' or 'query'")
    if positives not in ("all", "one"):
        raise InputError("positives", repr(positives), "'all' or 'one'")
    if list_size > 1 and candidates is None and doc_ids is None:
        raise InputError(
            "sample_lists", "no source of negatives", "candidates or doc_ids",
            "name one, or ask for list_size=1",
        )  # fmt: skip
    if per == "query" and positives == "one":
        per = "one"
    return _draw_lists(
        qrels, list_size, seed, candidates, doc_ids, queries or {}, skip_top, depth, per
    )


def _draw_lists(
    qrels: Qrels,
    list_size: int,
    seed: int,
    candidates: Run | None,
    doc_ids: Sequence[str] | None,
    queries: Mapping[str, str],
    skip_top: int,
    depth: int,
    per: str,
) -> Iterator[TrainingList]:
    """The generator behind :func:`sample_lists`."""
    positives = positives_by_text(qrels, queries)
    without = strangers = 0
    for query_id, judged in qrels.items():
        graded = sorted(
            ((doc, grade) for doc, grade in judged.items() if grade > 0),
            key=lambda pair: (-pair[1], pair[0]),
        )
        if not graded:
            without += 1
            continue
        if per == "positive":
            heads = [[pair] for pair in graded]
        elif per == "one":
            draw = random_of(seed, query_id).integers(len(graded))
            heads = [[graded[int(draw)]]]
        else:
            heads = [graded[: max(1, list_size - 1)]]
        window: list[str] = []
        if candidates is not None and list_size > 1:
            strangers += query_id not in candidates
            window = list(candidates.get(query_id, ()))[skip_top:depth]
        for head in heads:
            random = random_of(seed, query_id, "" if per == "query" else head[0][0])
            need = list_size - len(head)
            pool = [doc for doc in window if doc not in positives[query_id]]
            order = random.permutation(len(pool))[:need]
            negatives = [pool[i] for i in order]
            if doc_ids is not None and len(negatives) < need:
                banned = positives[query_id] | set(negatives)
                negatives += draw_uniform(
                    random, doc_ids, need - len(negatives), banned
                )
            yield TrainingList(
                query_id,
                (*(doc for doc, _ in head), *negatives),
                (*(float(grade) for _, grade in head), *(0.0 for _ in negatives)),
            )
    if without:
        say(f"{without} of {len(qrels)} judged queries have no positive; left out")
    if strangers:
        say(f"{strangers} of {len(qrels)} judged queries have no candidates")


def in_batch_lists(qrels: Qrels) -> Iterator[TrainingList]:
    """Lists of one positive each, whose negatives are the other lists of a batch.

    Example::

      >>> [item.doc_ids for item in in_batch_lists({"q": {"d1": 1, "d2": 0, "d3": 2}})]
      [('d3',), ('d1',)]
    """
    return sample_lists(qrels, list_size=1, seed=0)


def attach_scores(
    lists: Iterable[TrainingList], run: Mapping[str, Mapping[str, float]]
) -> Iterator[TrainingList]:
    """Lists with a teacher's scores taken from a run.

    Raises:
      InputError: the run has no score for a document of a list.
    """
    for item in lists:
        known = run.get(item.query_id, {})
        missing = [doc for doc in item.doc_ids if doc not in known]
        if missing:
            raise InputError(
                "run", f"no score for document {missing[0]!r} of query "
                f"{item.query_id!r}", f"all {len(item.doc_ids)} of its list",
                "score the lists' documents first",
            )  # fmt: skip
        scores = tuple(float(known[doc]) for doc in item.doc_ids)
        yield item._replace(scores=scores)
