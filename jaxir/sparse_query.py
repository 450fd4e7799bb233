"""Queries of an index of kind ``sparse``: from texts to tokens, weights and results.

Nothing here needs JAX where the documents' model is inference-free: a query is read by
a tokenizer and a table, and searched for by compiled loops.  Two ways ask for it: a
query encoder, and the scan of all documents on an accelerator.
"""

import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxir.errors import InputError
from jaxir.files import atomic_file
from jaxir.sparse.idf import query_terms
from jaxir.text import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model
    from jaxir.manifest import Manifest
    from jaxir.openers import Found, Opening
    from jaxir.sparse.postings import Postings
    from jaxir.sparse.search import SparseQueries, TwoPhase

__all__ = [
    "METHODS",
    "QUERY",
    "MatchedToken",
    "QuerySettings",
    "SparseRanker",
    "TermQueries",
    "check_tokenizer",
    "default_method",
    "encoded_queries",
    "open_queries",
    "open_ranker",
    "write_query",
    "write_query_files",
]

METHODS = ("exhaustive", "block_max", "two_phase", "scan")
"""Ways to search posting lists; all but ``two_phase`` find the same."""

QUERY = "query"
"""Folder of what a query needs, where it needs no model."""

_REBUILD = "build the index again with `jaxir index`"


class MatchedToken(NamedTuple):
    """A token that a query and a document have in common.

    Attributes:
      token: of the vocabulary.
      query_weight: in the query.
      doc_weight: in the document, as the index stores it.
      score: their product, what the token adds to the document's score.
    """

    token: str
    query_weight: float
    doc_weight: float
    score: float


class QuerySettings(NamedTuple):
    """What a query is besides its tokens' weights.

    Attributes:
      query: ``idf`` or ``binary``, as ``SparseConfig`` has it.
      query_length: the most tokens of a query.
      query_template: how it is written.
      special_ids: tokens that are no words.
    """

    query: str
    query_length: int
    query_template: str
    special_ids: tuple[int, ...]


def write_query(folder: Path, model: "Model") -> None:
    """Writes what the queries of an inference-free model need.

    Args:
      folder: ``query/`` of an index.
      model: of kind ``sparse``, without a query encoder.
    """
    config = model.config
    idf = np.asarray(model.params["idf"]["scale"], np.float32)
    settings = QuerySettings(
        config.query, config.query_length, config.query_template, config.special_ids
    )
    weights = np.ones_like(idf) if config.query == "binary" else idf
    write_query_files(folder, model.tokenizer, weights, settings)


def write_query_files(
    folder: Path,
    tokenizer: Tokenizer,
    weights: Float[np.ndarray, " V"],
    settings: QuerySettings,
) -> None:
    """Writes tokenizer, table and settings.

    Args:
      folder: ``query/`` of an index.
      tokenizer: of the documents.
      weights: of each token of the vocabulary.
      settings: the rest.
    """
    (folder / "tokenizer").mkdir(parents=True)
    tokenizer.save(folder / "tokenizer")
    with atomic_file(folder / "idf.npy", "wb") as stream:
        np.save(stream, weights.astype(np.float32))
    with atomic_file(folder / "query.json") as out:
        json.dump(settings._asdict(), out, indent=1)


class TermQueries:
    """Queries as their tokens, weighted by a table; made by :func:`open_queries`.

    Attributes:
      tokenizer: reads the texts.
      weights: float32 ``[V]`` of the tokens.
      settings: see :class:`QuerySettings`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        weights: Float[np.ndarray, " V"],
        settings: QuerySettings,
    ) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        # A token that is no word weighs nothing: one look-up decides both.
        self.weights = np.array(weights, np.float32)
        self.weights[list(settings.special_ids)] = 0.0

    def __call__(self, texts: Sequence[str], names: Sequence[str]) -> "SparseQueries":
        """Rows of a sparse matrix; an empty query has an empty one."""
        del names  # nothing in a table is not finite
        settings = self.settings
        if settings.query_template != "{text}":
            texts = [settings.query_template.format(text=text) for text in texts]
        ids = self.tokenizer.encode(texts, settings.query_length)
        return _joined([query_terms(text, self.weights) for text in ids])


def _joined(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> "SparseQueries":
    from jaxir.sparse.search import SparseQueries

    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(tokens) for tokens, _ in rows], out=offsets[1:])
    tokens = np.concatenate([np.zeros(0, np.int32), *(row[0] for row in rows)])
    weights = np.concatenate([np.zeros(0, np.float32), *(row[1] for row in rows)])
    return SparseQueries(offsets, tokens, weights)


def open_queries(folder: Path, vocab_size: int, fingerprint: str) -> TermQueries:
    """Opens what :func:`write_query` wrote.

    Args:
      folder: ``query/`` of an index.
      vocab_size: tokens of the postings.
      fingerprint: of the documents' tokenizer.

    Raises:
      InputError: a file is missing or damaged, a table of another vocabulary, or
        another tokenizer than the documents'.
    """
    path = folder / "query.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        settings = QuerySettings(
            str(found["query"]), int(found["query_length"]),
            str(found["query_template"]), tuple(map(int, found["special_ids"])),
        )  # fmt: skip
    except OSError as error:
        raise InputError(path, "no such file", remedy=_REBUILD) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path, "not settings of queries", remedy=_REBUILD) from error
    path = folder / "idf.npy"
    try:
        weights = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(path, "not a numpy file", remedy=_REBUILD) from error
    if weights.shape != (vocab_size,) or weights.dtype != np.float32:
        raise InputError(
            path, f"{weights.dtype} {list(weights.shape)}",
            f"float32 weights of {vocab_size:,} tokens, the index's", _REBUILD,
        )  # fmt: skip
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise InputError(path, "negative or not finite", "weights from 0", _REBUILD)
    if any(not 0 <= token < vocab_size for token in settings.special_ids):
        raise InputError(
            folder / "query.json", f"special_ids {list(settings.special_ids)}",
            f"0 to {vocab_size - 1:,}", _REBUILD,
        )  # fmt: skip
    tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer.fingerprint != fingerprint or tokenizer.vocab_size > vocab_size:
        raise InputError(
            folder / "tokenizer",
            f"a tokenizer of {tokenizer.vocab_size:,} tokens that did not read the "
            "documents", "the documents'", _REBUILD,
        )  # fmt: skip
    return TermQueries(tokenizer, weights, settings)


AskTexts = Callable[[Sequence[str], Sequence[str]], "SparseQueries"]
"""``ask(texts, names) -> SparseQueries``; an error calls a query by its name."""


def encoded_queries(model: "Model") -> AskTexts:
    """Queries as a model with a query encoder weights them.

    Args:
      model: of kind ``sparse``.

    Raises:
      InputError: a model of another kind; of a query, weights that are not finite.
    """
    from jaxir.mesh import make_mesh
    from jaxir.sparse.search import SparseQueries
    from jaxir.sparse_corpus import SparseTextEncoder

    encoder = SparseTextEncoder(model, side="query", mesh=make_mesh(1))

    def encode(texts: Sequence[str], names: Sequence[str]) -> SparseQueries:
        name = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        rows = encoder.rows(encoder.tokenize(texts), where=f"query {name}")
        return SparseQueries(*rows)

    return encode


def check_tokenizer(model: "Model", manifest: "Manifest") -> None:
    """Refuses the index's own model with another tokenizer: its tokens mean others.

    Args:
      model: whose parameters are the index's.
      manifest: of the index.

    Raises:
      InputError: its tokenizer did not read the documents.
    """
    if model.tokenizer.fingerprint != manifest.details["tokenizer"]:
        raise InputError(
            model.path or "model", "a tokenizer that did not read the documents of the "
            "index", "the documents'", "restore it, or build the index again",
        )  # fmt: skip


def default_method() -> str:
    """How an index is searched where nobody says.

    ``scan`` where JAX has an accelerator, ``block_max`` elsewhere; both are exact.
    JAX is asked only where it could have one: a plugin for it is installed, and
    ``JAX_PLATFORMS`` does not say ``cpu``.
    """
    if os.environ.get("JAX_PLATFORMS", "").strip() == "cpu":
        return "block_max"
    if not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu"))):
        return "block_max"
    import jax

    return "block_max" if jax.default_backend() == "cpu" else "scan"


class SparseRanker:
    """What ranks texts in an index of kind ``sparse``; made by :func:`open_ranker`.

    Attributes:
      postings: of the documents.
      ask: makes queries of texts.
      method: a name in :data:`METHODS`.
      two_phase: parameters of that method.
    """

    def __init__(
        self,
        postings: "Postings",
        ask: AskTexts,
        tokenizer: Tokenizer,
        method: str,
        two_phase: "TwoPhase | None" = None,
    ) -> None:
        self.postings, self.ask, self._tokenizer = postings, ask, tokenizer
        self.method, self.two_phase = method, two_phase
        if method == "scan":
            from jaxir.sparse.scan import open_scan

            self._scan = open_scan(postings)

    def __call__(self, texts: Sequence[str], k: int, names: Sequence[str]) -> "Found":
        """The ``k`` best documents of each text; as ``openers.RankTexts``."""
        from jaxir.openers import Found
        from jaxir.sparse.search import search_counted

        queries = self.ask(texts, names)
        if self.method == "scan":
            ranking = self._scan.search(queries, k)
            scored = len(texts) * self.postings.num_docs
        else:
            ranking, counts = search_counted(
                self.postings, queries, k, method=self.method, two_phase=self.two_phase
            )
            scored = int(counts.sum())
        ends = self.postings.offsets[queries.tokens + 1]
        listed = int((ends - self.postings.offsets[queries.tokens]).sum())
        return Found(ranking, scored, len(queries.tokens), listed)

    def explain(self, text: str, rows: Sequence[int]) -> list[list[MatchedToken]]:
        """The tokens that a text and each document share, what adds most first.

        Args:
          text: of the query, which is read once.
          rows: of the documents.
        """
        from jaxir.sparse.explain import explain

        query = self.ask([text], ["to explain"])
        explained = []
        for row in rows:
            found = explain(self.postings, query.tokens, query.weights, row)
            tokens = self._tokenizer.tokens([match.token_id for match in found])
            explained.append(
                [
                    MatchedToken(token, *match[1:])
                    for token, match in zip(tokens, found, strict=True)
                ]
            )
        return explained


def open_ranker(opening: "Opening") -> SparseRanker:
    """Opens an index of kind ``sparse``.

    Args:
      opening: see ``openers.Opening``.

    Raises:
      InputError: damaged files, another tokenizer or table than the index's, or a model
        for an index that needs none.
    """
    from jaxir.openers import model_of
    from jaxir.sparse.postings import open_postings

    directory, manifest = opening.directory, opening.manifest
    vocab_size = int(manifest.details["vocab_size"])
    ask: AskTexts
    if manifest.details["query"] == "encoder":
        model = model_of(opening)
        check_tokenizer(model, manifest)
        ask, tokenizer = encoded_queries(model), model.tokenizer
    elif opening.model is not None:
        raise InputError(
            "model", "given for an index whose queries need none", "no model"
        )
    else:
        folder = directory / QUERY
        ask = open_queries(folder, vocab_size, manifest.details["tokenizer"])
        tokenizer = ask.tokenizer
    postings = open_postings(directory, int(manifest.counts["docs"]))
    if postings.vocab_size != vocab_size:
        raise InputError(
            directory, f"postings of {postings.vocab_size:,} tokens",
            f"{vocab_size:,}, the index's", _REBUILD,
        )  # fmt: skip
    method = opening.method or default_method()
    return SparseRanker(postings, ask, tokenizer, method, opening.two_phase)
