"""Opening an index of any kind, and searching it.

What opens each kind of index stands in ``jaxir/openers.py``; :class:`Searcher` is the
same for all of them.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxir.errors import InputError, refuse_one
from jaxir.manifest import DocIdFile, Manifest, read_manifest
from jaxir.openers import BACKENDS, MODES, OPENERS, Opening, RankTexts
from jaxir.progress import progress_bar, say
from jaxir.sparse_query import METHODS
from jaxir.types import Ranking

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model
    from jaxir.hyper.graph import GraphSearchConfig
    from jaxir.sparse.search import TwoPhase
    from jaxir.sparse_query import MatchedToken

__all__ = ["Searcher", "open_index", "search"]

Run = dict[str, dict[str, float]]


class Searcher:
    """An open index; made by :func:`open_index`.

    Attributes:
      kind: of the index.
      num_docs: documents in it.
      doc_ids: the collection's own ids by row, read on demand.
      manifest: what the index says of itself.
      mode: ``"exhaustive"`` or ``"graph"``.
      docs_scored: documents whose score was computed, over all queries so far; that
        many times ``num_docs`` where every document is scored.
      queries: searched for so far.
      query_tokens: of all of them, where queries are weights of tokens.
      postings: of those tokens: what an exhaustive search multiplies.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        rank: RankTexts,
        *,
        batch: int,
        mode: str = "exhaustive",
    ) -> None:
        self.directory, self.manifest = directory, manifest
        self._rank, self._batch = rank, batch
        self.kind, self.mode, self.docs_scored = manifest.kind, mode, 0
        self.queries = self.query_tokens = self.postings = 0
        self.num_docs = int(manifest.counts["docs"])
        self.doc_ids: Sequence[str] = DocIdFile(directory)

    def __repr__(self) -> str:
        return f"Searcher({str(self.directory)!r}, kind={self.kind!r})"

    def search_texts(self, texts: Sequence[str], k: int) -> Ranking:
        """The ``k`` best documents of each text.

        Args:
          texts: queries.
          k: results of each, at least 1.

        Returns:
          Rows and scores ``[len(texts), k]`` as numpy arrays; ties by the lower row,
          missing results (``k`` above the number of documents, or of those a graph
          search came by) with id -1 and score -inf.  An empty text is a query like any
          other: a model reads its special tokens, BM25 finds nothing.

        Raises:
          InputError: one text for the texts; ``k`` is not positive; vectors or q-nets
            that are not finite.
        """
        refuse_one("texts", texts)
        return self._search(texts, k, [str(i) for i in range(len(texts))])

    def _search(self, texts: Sequence[str], k: int, names: Sequence[str]) -> Ranking:
        if k < 1:
            raise InputError("k", str(k), "at least 1")
        parts = []
        for start in range(0, len(texts), self._batch):
            batch = slice(start, start + self._batch)
            found = self._rank(texts[batch], k, names[batch])
            parts.append(found.ranking)
            self.docs_scored += found.scored
            self.queries += len(texts[batch])
            self.query_tokens += found.tokens
            self.postings += found.postings
        if not parts:
            return Ranking(np.zeros((0, k), np.int32), np.zeros((0, k), np.float32))
        return Ranking(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    @property
    def flops(self) -> float:
        """Of the queries so far, in a sparse index: products a query and a document.

        Equation: ``sum_t p_q(t) p_d(t)`` with the shares of queries and of documents
        that have token ``t`` (Formal et al., "SPLADE" (2021), section 5).
        """
        return self.postings / max(self.queries * self.num_docs, 1)

    def explain(self, query: str, doc_id: str) -> "list[MatchedToken]":
        """The tokens that a query and a document share, what adds most first.

        Args:
          query: a text.
          doc_id: one of the collection's own ids.

        Returns:
          Tokens with both weights and their product; the products add up to the score
          of an exact search.

        Raises:
          InputError: the index is not of kind ``sparse``, or has no such document.
        """
        self._explainer()
        try:
            row = self.doc_ids.index(doc_id)
        except ValueError:
            raise InputError(
                self.directory, f"no document {doc_id!r}", "an id of the index"
            ) from None
        return self.explain_rows(query, [row])[0]

    def explain_rows(
        self, query: str, rows: Sequence[int]
    ) -> "list[list[MatchedToken]]":
        """:meth:`explain` of several documents by their rows; reads the query once.

        Args:
          query: a text.
          rows: of the documents.

        Raises:
          InputError: the index is not of kind ``sparse``, or has no such row.
        """
        return self._explainer()(query, rows)

    def _explainer(self) -> "Callable[[str, Sequence[int]], list[list[MatchedToken]]]":
        explain = getattr(self._rank, "explain", None)
        if explain is None:
            raise InputError(
                self.directory, f"an index of kind {self.kind!r} to explain",
                "one of kind 'sparse', whose scores are sums over tokens",
            )  # fmt: skip
        return explain

    def search(self, queries: Mapping[str, str], *, k: int = 1000) -> Run:
        """A run: the ``k`` best documents of each query by their own ids.

        Args:
          queries: texts by query id.
          k: results of each query, at least 1.

        Returns:
          ``{query_id: {doc_id: score}}``, best first.  A query without results has an
          empty entry.  It is said if a graph search came by fewer than ``k`` documents
          for some queries, where there are as many.

        Raises:
          InputError: texts without ids; as :meth:`search_texts`.
        """
        if not isinstance(queries, Mapping):
            raise InputError(
                "queries", f"a {type(queries).__name__}", "texts by query id",
                "write {'q1': text}, or take search_texts",
            )  # fmt: skip
        names, texts = list(queries), list(queries.values())
        k = min(k, self.num_docs)  # a run has no place for what is missing
        run: Run = {}
        with progress_bar(total=len(names), label="search", unit="query") as bar:
            for start in range(0, len(names), self._batch):
                batch = slice(start, start + self._batch)
                ranking = self._search(texts[batch], k, names[batch])
                for i, name in enumerate(names[batch]):
                    rows = ranking.doc_ids[i].tolist()
                    scores = ranking.scores[i].tolist()
                    run[name] = {
                        self.doc_ids[row]: score
                        for row, score in zip(rows, scores, strict=True)
                        if row >= 0
                    }
                bar.update(len(names[batch]))
        self._say_if_cut(run, k)
        return run

    def _say_if_cut(self, run: Run, wanted: int) -> None:
        few = sum(len(found) < wanted for found in run.values())
        if self.mode == "graph" and few:
            say(
                f"{few:,} of {len(run):,} queries: fewer than {wanted:,} documents "
                "found along the graph; a larger explore, more iterations or rule "
                "released finds more"
            )


def open_index(
    directory: str | os.PathLike,
    *,
    model: "Model | str | None" = None,
    mode: str = "exhaustive",
    graph: "GraphSearchConfig | None" = None,
    backend: str = "jax",
    rescore: int = 0,
    method: str | None = None,
    two_phase: "TwoPhase | None" = None,
) -> Searcher:
    """Opens an index.

    Args:
      directory: what ``build_index`` wrote.
      model: encodes the queries; by default the index's own.
      mode: ``"exhaustive"`` scores every document; ``"graph"`` walks along the graph
        of neighbours of a Hypencoder's index and scores what it comes by.
      graph: settings of the graph search, a ``jaxir.hyper.graph.GraphSearchConfig``.
      backend: what searches the codes of an index of kind ``pq``: ``"jax"``, or
        ``"faiss"``, which is several times faster in codes of 4 bits on a CPU, and
        approximate there.
      rescore: of Faiss in codes of 4 bits: how many times ``k`` candidates are scored
        exactly, of which the ``k`` best stay; 0 for its approximate scores.
      method: how an index of kind ``sparse`` is searched: ``"block_max"`` and
        ``"exhaustive"`` (exact, on a CPU), ``"scan"`` (exact, by JAX) or
        ``"two_phase"`` (OpenSearch's heuristic); by default ``"scan"`` where JAX has an
        accelerator and ``"block_max"`` elsewhere.
      two_phase: its parameters, a ``jaxir.sparse.search.TwoPhase``.

    Raises:
      InputError: no index, a damaged one, one that another model encoded, or one that
        is exchanged at this moment; a mode or
        a backend that its kind does not have; a graph search without a graph, or with
        that of other vectors.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if manifest.kind not in OPENERS:
        raise InputError(
            directory,
            f"an index of kind {manifest.kind!r}",
            "one of " + ", ".join(OPENERS),
            "a newer jaxir may know it",
        )
    if mode not in MODES:
        raise InputError("mode", repr(mode), "one of " + ", ".join(MODES))
    if mode == "graph" and manifest.kind != "hypencoder":
        raise InputError(
            directory, f"an index of kind {manifest.kind!r} in mode 'graph'",
            "one of kind 'hypencoder'", "search it without a mode",
        )  # fmt: skip
    if graph is not None and mode != "graph":
        raise InputError(
            "graph", f"settings of the graph search in mode {mode!r}", "mode 'graph'"
        )
    if backend not in BACKENDS:
        raise InputError("backend", repr(backend), " or ".join(BACKENDS))
    if backend != "jax" and manifest.kind != "pq":
        raise InputError(
            directory, f"an index of kind {manifest.kind!r} with backend {backend!r}",
            "one of kind 'pq'", "search it without a backend",
        )  # fmt: skip
    if rescore and backend != "faiss":
        raise InputError("rescore", f"given with backend {backend!r}", "'faiss'")
    _check_method(directory, manifest.kind, method, two_phase)
    opener, mine = OPENERS[manifest.kind], (model, mode, graph, backend, rescore)
    with _standing(directory, manifest):
        rank = opener.open(Opening(directory, manifest, *mine, method, two_phase))
        return Searcher(directory, manifest, rank, batch=opener.batch, mode=mode)


@contextlib.contextmanager
def _standing(directory: Path, manifest: Manifest) -> Iterator[None]:
    """Refuses files of two indexes, of which one took the other's place meanwhile.

    They do not go together, and may seem damaged: then it is not them that is told of.
    """
    changed = InputError(directory, "changed while it was opened", remedy="try again")
    try:
        yield
    except Exception as error:
        if read_manifest(directory) != manifest:
            raise changed from error
        raise
    if read_manifest(directory) != manifest:
        raise changed


def _check_method(
    directory: Path, kind: str, method: str | None, two_phase: object
) -> None:
    if method is not None and kind != "sparse":
        raise InputError(
            directory, f"an index of kind {kind!r} with method {method!r}",
            "one of kind 'sparse'", "search it without a method",
        )  # fmt: skip
    if method is not None and method not in METHODS:
        raise InputError("method", repr(method), "one of " + ", ".join(METHODS))
    if two_phase is not None and method != "two_phase":
        raise InputError(
            "two_phase", f"parameters with method {method!r}", "method 'two_phase'"
        )


def search(
    index: Searcher | str | os.PathLike, queries: Mapping[str, str], *, k: int = 1000
) -> Run:
    """Searches an index: :func:`open_index` and :meth:`Searcher.search` in one.

    Args:
      index: an open index, or the directory of one to search exhaustively.
      queries: texts by query id.
      k: results of each query.
    """
    searcher = index if isinstance(index, Searcher) else open_index(index)
    return searcher.search(queries, k=k)
