"""A run's best documents scored anew: streaming, resumable, checked before the work.

Queries go through in windows, each of a few thousand pairs: enough for batches of equal
length, and all that is in memory.  While the devices score a window the next one is
read and tokenized.  Windows are the same whenever the work begins, so that one that was
interrupted and resumed has the scores, to the last bit, of one that was not.
"""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxir.bucketing import default_batch_tokens
from jaxir.checkpoints.model_dir import Model
from jaxir.data.collection import Collection
from jaxir.data.formats import run_lines
from jaxir.data.resumable import mappings_fingerprint, resumable_lines
from jaxir.errors import InputError
from jaxir.families import family
from jaxir.files import check_output, sha256_file
from jaxir.progress import progress_bar
from jaxir.scorers import make_scorer, scores_identity

__all__ = ["RerankReport", "rerank"]

_BATCHES = 64  # in a window of full-length pairs: the last, half empty one costs little
_LEAST = 1024  # pairs of a window: short of that, shapes would be compiled for little


class RerankReport(NamedTuple):
    """What :func:`rerank` did.

    Attributes:
      queries: queries of the run.
      pairs: query-document pairs scored.
      cut_docs: pairs that lost the end of their document; None for a bi-encoder, which
        does not count them.
      cut_queries: queries that were too long themselves; None for a bi-encoder.
      missing_queries: queries left out, the collection not having them.
      missing_docs: results left out, the collection not having their documents.
    """

    queries: int
    pairs: int
    cut_docs: int | None
    cut_queries: int | None
    missing_queries: int
    missing_docs: int


class _Candidates(NamedTuple):
    """One query of the run."""

    query_id: str
    doc_ids: list[str]  # to be scored, best first
    rows: list[int]
    rest: list[str]  # below them, in the run's order
    missing: int  # documents left out
    known: bool = True  # false: the query has no text


class _Survey(NamedTuple):
    """What a first reading of the run tells."""

    queries: int
    pairs: int
    missing_queries: int
    spaced: bool  # an id contains white space


def rerank(
    model: Model,
    run: str | os.PathLike,
    collection: Collection,
    *,
    output: str | os.PathLike,
    k: int = 100,
    queries: Mapping[str, str] | None = None,
    keep_rest: bool = False,
    skip_missing: bool = False,
    tag: str = "jaxir",
    mesh: Mesh | None = None,
    batch_tokens: int | None = None,
    max_length: int | None = None,
) -> RerankReport:
    """Scores the best ``k`` documents of each query anew and writes a TREC run.

    The run is read twice: once for mistakes, which are told before anything is
    computed, once for the work.  Interrupted and called again with the same arguments,
    it goes on where it stopped; with others, the model's tokenizer among them, it
    begins anew.

    Args:
      model: from ``jaxir.reranker.load_scoring_model``.
      run: the run to read, the lines of a query together.
      collection: holds the documents, and the queries unless they are given.
      output: the run to write; it appears when all is done.
      k: documents of a query that are scored.
      queries: texts by query id; the collection's by default.
      keep_rest: also write the documents below the ``k``, in the run's order and below
        all that were scored; their scores are the lowest one less 1, 2, 3, ….
      skip_missing: leave out documents and queries that the collection lacks, and count
        them, instead of refusing the run.
      tag: the run's last column.
      mesh: devices that share each batch; by default all of this process.
      batch_tokens: tokens of a batch; None for ``bucketing.default_batch_tokens()``.
      max_length: most tokens of a pair; None for the model's own.

    Raises:
      InputError: an empty or malformed run, a query or document that the collection
        lacks, an option out of range, a model that cannot score, or that gives values
        which are not finite.
    """
    if k < 1:
        raise InputError("k", str(k), "at least 1")
    if tag.split() != [tag]:
        raise InputError("tag", f"{tag!r}", "one word", "choose another")
    check_output(output)
    if batch_tokens is not None and batch_tokens < 1:
        raise InputError("batch_tokens", str(batch_tokens), "at least 1")
    if Path(run).resolve() == Path(output).resolve():
        raise InputError(output, "the run that is read", "another name for the output")
    prepare, score = _stages(model, mesh, batch_tokens, max_length)
    texts = collection.queries(None) if queries is None else queries

    def candidates() -> Iterator[_Candidates]:
        return _candidates(run, texts, collection, k, skip_missing)

    survey = _survey(run, candidates())
    tokens = batch_tokens or default_batch_tokens()
    size = _window_size(tokens, model.config, max_length)
    settings = {
        "model": scores_identity(model), "run": sha256_file(run), "k": k,
        "collection": collection.docs.fingerprint,
        "queries": mappings_fingerprint(texts), "keep_rest": keep_rest,
        "skip_missing": skip_missing, "tag": tag, "max_length": max_length,
        "window": size, "batch_tokens": tokens,
    }  # fmt: skip

    def prepared(window: list[_Candidates]) -> tuple[list[_Candidates], Any]:
        asked = [texts[item.query_id] for item in window]
        return window, prepare(asked, [collection.docs.texts(i.rows) for i in window])

    with resumable_lines(output, settings) as out:
        windows = (
            window
            for window in _windows(candidates(), size)
            # a window begun is scored whole again: other batches, other last digits
            if any(item.query_id not in out.done for item in window)
        )
        bar = progress_bar(
            total=survey.pairs, label="rerank", unit="pair", initial=out.counts["pairs"]
        )
        with bar:
            for window, encoded in _ahead(windows, prepared):
                for item, scores, counts in zip(window, *score(encoded), strict=True):
                    if item.query_id in out.done:
                        continue
                    lines = _lines(item, scores, tag, survey.spaced, keep_rest)
                    done = {"pairs": len(item.rows), "missing_docs": item.missing}
                    out.append(item.query_id, lines, done | counts)
                    bar.update(len(item.rows))
        found = Counter(out.counts)
        counted = family(model.kind).score is not None
        report = RerankReport(
            len(out.done), found["pairs"],
            found["cut_docs"] if counted else None,
            found["cut_queries"] if counted else None,
            survey.missing_queries, found["missing_docs"],
        )  # fmt: skip
    return report


def _window_size(batch_tokens: int, config: Any, max_length: int | None) -> int:
    """Pairs of a window: 64 batches of the longest, and 1024 at least."""
    own = getattr(config, "max_length", None) or config.doc_length
    return max(_LEAST, _BATCHES * batch_tokens // (max_length or own))


_Stages = tuple[
    Callable[[Sequence[str], Sequence[Sequence[str]]], Any],
    Callable[[Any], tuple[list[np.ndarray], list[dict[str, int]]]],
]


def _stages(
    model: Model, mesh: Mesh | None, batch_tokens: int | None, max_length: int | None
) -> _Stages:
    """What is done of a window beforehand on the host, and what on the devices."""
    options: dict[str, Any] = {
        "mesh": mesh, "batch_tokens": batch_tokens, "max_length": max_length
    }  # fmt: skip
    if family(model.kind).score is None:
        scorer = make_scorer(model, role="reranker", **options)

        def scored(lists: Any) -> tuple[list[np.ndarray], list[dict[str, int]]]:
            return scorer(*lists), [{} for _ in lists[0]]

        return lambda queries, docs: (queries, docs), scored
    from jaxir.rank.score import EncodedLists, PairScorer

    pairs = PairScorer(
        model.config, model.params, model.tokenizer, many=True,
        name=model.path or "model", **options,
    )  # fmt: skip

    def paired(lists: EncodedLists) -> tuple[list[np.ndarray], list[dict[str, int]]]:
        counts = [
            {"cut_docs": docs, "cut_queries": int(queries > 0)}
            for docs, queries in zip(lists.cut_docs(), lists.cut_queries(), strict=True)
        ]
        return pairs.score(lists), counts

    return pairs.encode, paired


def _by_query(run: str | os.PathLike) -> Iterator[tuple[str, dict[str, float]]]:
    """Each query's results in the order of the file, one query in memory."""
    seen: set[str] = set()
    lines = itertools.groupby(run_lines(run), key=lambda line: line[1])
    for query_id, group in lines:
        results: dict[str, float] = {}
        for number, _, doc_id, score in group:
            if query_id in seen:
                raise InputError(
                    f"{run}:{number}", f"query {query_id!r} again after others",
                    "each query's lines together", "sort them: `sort -s -k1,1`",
                )  # fmt: skip
            if doc_id in results:
                raise InputError(
                    f"{run}:{number}", f"document {doc_id!r} again for query "
                    f"{query_id!r}", "each document once", "remove one line",
                )  # fmt: skip
            results[doc_id] = score
        seen.add(query_id)
        yield query_id, results


def _candidates(
    run: str | os.PathLike,
    texts: Mapping[str, str],
    collection: Collection,
    k: int,
    skip_missing: bool,
) -> Iterator[_Candidates]:
    """The run's queries in turn; those without text are left out or refused."""
    for query_id, results in _by_query(run):
        # Equal scores keep the order of the file, as in `read_run`.
        ranked = sorted(results, key=lambda doc_id: -results[doc_id])
        if query_id not in texts:
            if not skip_missing:
                raise _lacks(run, f"query {query_id!r} has no text in the collection")
            yield _Candidates(query_id, [], [], [], 0, known=False)
            continue
        wanted = ranked if skip_missing else ranked[:k]
        rows = collection.docs.rows(wanted).tolist()
        here = [(doc, row) for doc, row in zip(wanted, rows, strict=True) if row >= 0]
        missing = len(wanted) - len(here)
        if missing and not skip_missing:
            doc_id = wanted[rows.index(-1)]
            raise _lacks(
                run,
                f"document {doc_id!r} of query {query_id!r} is not in the collection",
            )
        best = here[:k]
        rest = [doc for doc, _ in here[k:]] if skip_missing else ranked[k:]
        yield _Candidates(
            query_id, [doc for doc, _ in best], [row for _, row in best], rest, missing
        )


def _lacks(run: str | os.PathLike, found: str) -> InputError:
    return InputError(
        run, found, "a run over this collection",
        "name the collection that was searched, or give --skip_missing",
    )  # fmt: skip


def _survey(run: str | os.PathLike, candidates: Iterable[_Candidates]) -> _Survey:
    queries = pairs = missing = 0
    spaced = False
    for item in candidates:
        if not item.known:
            missing += 1
            continue
        queries += 1
        pairs += len(item.rows)
        names = (item.query_id, *item.doc_ids, *item.rest)
        spaced = spaced or any(len(name.split()) > 1 for name in names)
    if not pairs:
        found = "no results" if not queries + missing else "nothing to score"
        raise InputError(run, found, "results over this collection", "check the run")
    return _Survey(queries, pairs, missing, spaced)


def _windows(
    candidates: Iterable[_Candidates], size: int
) -> Iterator[list[_Candidates]]:
    """Whole queries, as many as make ``size`` pairs."""
    window: list[_Candidates] = []
    pairs = 0
    for item in candidates:
        if not item.known:
            continue
        window.append(item)
        pairs += len(item.rows)
        if pairs >= size:
            yield window
            window, pairs = [], 0
    if window:
        yield window


def _ahead(items: Iterable[Any], prepare: Callable[[Any], Any]) -> Iterator[Any]:
    """``prepare`` of each item, the next one's under way in a thread beside."""
    with ThreadPoolExecutor(1) as beside:
        upcoming = None
        for item in items:
            following = beside.submit(prepare, item)
            if upcoming is not None:
                yield upcoming.result()
            upcoming = following
        if upcoming is not None:
            yield upcoming.result()


def _lines(
    item: _Candidates, scores: np.ndarray, tag: str, spaced: bool, keep_rest: bool
) -> Iterator[str]:
    """The query's lines as ``write_run`` would write them."""
    values = scores.astype(np.float64)
    order = np.argsort(-values, kind="stable").tolist()
    ranked = [(item.doc_ids[i], float(values[i])) for i in order]
    if keep_rest:
        lowest = ranked[-1][1] if ranked else 0.0
        ranked += [(doc, lowest - i) for i, doc in enumerate(item.rest, 1)]
    gap = "\t" if spaced else " "
    for rank, (doc_id, value) in enumerate(ranked, 1):
        yield gap.join((item.query_id, "Q0", doc_id, str(rank), repr(value), tag))
