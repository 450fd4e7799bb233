"""Sparse indexes over one's own data: quality against cost, and which tokens weigh.

Two figures of arXiv 2411.04403 for the user's collection, one above the other:

* Figure 4: nDCG@10 against FLOPS, the products of a question and a document, of every
  index.
* Figure 1: what a document's token keeps of its weight, and what share of the FLOPS
  penalty falls to it, against how rare the token is: its IDF over whole documents.

Nothing is timed: the cases are figures of quality and size.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

NAME = "sparse-study"
PANEL_HEIGHT = 300.0
COMMON, RARE = 2.0, 6.0
"""Tokens of an IDF up to the first are in more than a tenth of the documents, of one
from the second in fewer than one of 400."""


class TokenWeights(NamedTuple):
    """What an index makes of the tokens, ``[V]`` each.

    Attributes:
      kept: mean weight of a token in the documents whose text has it, 0 where the
        document's vector has none; NaN for a token that is in no text.
      penalty: the token's part of FLOPS, the square of its mean weight in all documents
        (eq. 3).
    """

    kept: np.ndarray
    penalty: np.ndarray


def token_weights(postings: Any, texts: Any) -> TokenWeights:
    """Weights of an index by token, against the texts they come from.

    Args:
      postings: a ``jaxir.sparse.postings.Postings`` of ``N`` documents.
      texts: which tokens stand in which text, a scipy matrix ``[N, V]`` of zeros and
        ones.
    """
    from scipy.sparse import csc_array

    weights = np.asarray(postings.weights, np.float32)
    if postings.scales is not None:
        weights = weights * np.repeat(postings.scales, np.diff(postings.offsets))
    shape = (postings.num_docs, postings.vocab_size)
    parts = weights, np.asarray(postings.docs), np.asarray(postings.offsets)
    stored = csc_array(parts, shape=shape)
    frequency = np.asarray(texts.sum(axis=0)).reshape(-1)
    inside = np.asarray(stored.multiply(texts).sum(axis=0)).reshape(-1)
    kept = np.divide(
        inside, frequency, where=frequency > 0, out=np.full(len(inside), np.nan)
    )
    mean = np.asarray(stored.sum(axis=0)).reshape(-1) / postings.num_docs
    return TokenWeights(kept, mean**2)


def _text_tokens(docs: Any, tokenizer: Any, vocab_size: int) -> Any:
    """Which tokens stand in which document, ``[N, V]``."""
    from scipy.sparse import csr_array

    rows = []
    for start in range(0, len(docs), 1000):
        part = range(start, min(start + 1000, len(docs)))
        rows += [np.unique(ids) for ids in tokenizer.pieces(docs.texts(part))]
    offsets = np.cumsum([0, *map(len, rows)])
    columns = np.concatenate(rows).astype(np.int32)
    ones = np.ones(len(columns), np.float32)
    return csr_array((ones, columns, offsets), shape=(len(rows), vocab_size))


def _mean(values: np.ndarray) -> float | None:
    """Of the values that are there; None where none is."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def by_idf(values: np.ndarray, idf: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Means of the values of the tokens between two edges each; NaN where are none."""
    places = np.digitize(idf, edges) - 1
    means = [_mean(values[places == place]) for place in range(len(edges) - 1)]
    return np.array(means, float)  # of None, NaN


def study(*, index: Sequence[str], queries: str, output: str) -> Iterator[dict]:
    """Yields a case for each index and draws the figures.

    Args:
      index: of kind ``sparse``, all of the collection's documents and of one tokenizer.
      queries: ``COLLECTION:SPLIT`` with judgments.
      output: the SVG file.

    Raises:
      InputError: an index of another kind, collection or tokenizer; no judged query.
    """
    from jaxir.data.collection import judged_queries
    from jaxir.errors import InputError
    from jaxir.evaluate import evaluate
    from jaxir.files import atomic_file
    from jaxir.search import open_index
    from jaxir.sparse.idf import idf_from_frequencies
    from jaxir.sparse.postings import open_postings
    from jaxir.text import load_tokenizer

    names = [Path(place).name for place in index]
    if len(set(names)) < len(names):
        found = ", ".join(sorted({name for name in names if names.count(name) > 1}))
        raise InputError("index", f"{found} more than once", "names that differ")
    collection, texts, qrels = judged_queries(queries)
    opened = {name: open_index(at) for name, at in zip(names, index, strict=True)}
    for searcher in opened.values():
        _check(searcher, next(iter(opened.values())), len(collection.docs))
    first = next(iter(opened.values())).directory
    tokenizer = load_tokenizer(str(first / "query" / "tokenizer"))
    postings = {
        label: open_postings(searcher.directory, searcher.num_docs)
        for label, searcher in opened.items()
    }
    vocab_size = next(iter(postings.values())).vocab_size
    inside = _text_tokens(collection.docs, tokenizer, vocab_size)
    frequency = np.asarray(inside.sum(axis=0)).reshape(-1).astype(np.int64)
    idf = idf_from_frequencies(frequency, int((inside.sum(axis=1) > 0).sum()))

    found = []
    for label, searcher in opened.items():
        run = searcher.search(texts, k=10)
        quality = evaluate(qrels, {label: run}, metrics=["nDCG@10"], tests=())
        weights = token_weights(postings[label], inside)
        paid = weights.penalty / weights.penalty.sum()
        details = searcher.manifest.details
        case = {
            "name": NAME,
            "case": label,
            "query": "bm25" if "bm25" in details else details["query"],
            "nDCG@10": quality.mean(label, "nDCG@10"),
            "flops": searcher.flops,
            "tokens_per_doc": details["tokens_per_doc"],
            "kept_common": _mean(weights.kept[idf <= COMMON]),
            "kept_rare": _mean(weights.kept[idf >= RARE]),
            "paid_by_common": float(paid[idf <= COMMON].sum()),
        }
        yield case
        found.append((case, weights))
    with atomic_file(output) as out:
        out.write(_figure(found, idf))


def _check(searcher: Any, first: Any, num_docs: int) -> None:
    """Refuses an index that does not go with the others or with the collection."""
    from jaxir.errors import InputError

    details = searcher.manifest.details
    if searcher.kind != "sparse" or details["query"] == "encoder":
        raise InputError(
            searcher.directory, f"an index of kind {searcher.kind!r}",
            "one of kind 'sparse' whose queries need no model",
        )  # fmt: skip
    if details["tokenizer"] != first.manifest.details["tokenizer"]:
        raise InputError(
            searcher.directory, "tokens of another tokenizer",
            f"those of {first.directory}",
        )  # fmt: skip
    if searcher.num_docs != num_docs:
        raise InputError(
            searcher.directory, f"{searcher.num_docs:,} documents",
            f"the collection's {num_docs:,}",
        )  # fmt: skip


def _figure(found: Sequence[tuple[dict, TokenWeights]], idf: np.ndarray) -> str:
    """Three panels, one above the other, as a file that needs no other."""
    from jaxir.plots import color_classes, line_plot
    from jaxir.style import svg_file

    points = {
        case["case"]: ([case["flops"]], [case["nDCG@10"]])
        for case, _ in sorted(found, key=lambda pair: pair[0]["nDCG@10"])
    }
    label = "FLOPS: products of a question and a document"
    colors = color_classes([case["case"] for case, _ in found], None)
    height = PANEL_HEIGHT
    panels = [line_plot("nDCG@10", points, colors, x_label=label, height=height)]
    edges = np.arange(0.0, np.ceil(idf.max()) + 1, 1.0)
    middles = (edges[:-1] + edges[1:]) / 2
    kept, paid = {}, {}
    for case, weights in found:
        means = by_idf(weights.kept, idf, edges)
        there = np.isfinite(means)
        if case["query"] != "bm25":  # whose weights are on another scale
            kept[case["case"]] = (middles[there].tolist(), means[there].tolist())
        sums = np.histogram(idf, edges, weights=weights.penalty)[0]
        shares = 100 * np.cumsum(sums) / sums.sum()
        paid[case["case"]] = (middles.tolist(), shares.tolist())
    titles = {
        "mean weight of a token of the text in its document's vector": kept,
        "FLOPS penalty paid by tokens of this IDF or less, in percent": paid,
    }
    for title, lines in titles.items():
        panel = line_plot(
            title, lines, colors,
            x_label="IDF of the token: rarer to the right", height=PANEL_HEIGHT,
        )  # fmt: skip
        panels.append(panel)
    return svg_file(panels, PANEL_HEIGHT)


def run(*, quick: bool = False) -> Iterator[dict]:
    """Has no case without data.

    Args:
      quick: as every benchmark takes it.

    Raises:
      InputError: always.
    """
    from jaxir.errors import InputError

    del quick
    raise InputError(
        NAME, "no --index, --queries and --output", "indexes of kind 'sparse' to study"
    )
    yield
