"""The texts that batches will need, as tokens stored once."""

from typing import TYPE_CHECKING

import numpy as np

from jaxir.data.batch_texts import (
    SeparateTexts,
    StoredTexts,
    few_lengths,
    store_texts,
)
from jaxir.data.collection import Collection
from jaxir.data.pair_texts import JointTexts
from jaxir.data.query_texts import StoredQueries
from jaxir.pairs import pair_format
from jaxir.text import Tokenizer

if TYPE_CHECKING:
    from jaxir.data.pipeline import PipelineConfig

__all__ = ["open_queries", "open_texts"]


def open_texts(
    collection: Collection,
    split: str | None,
    tokenizer: Tokenizer,
    config: "PipelineConfig",
    *,
    query_rows: np.ndarray,
    doc_rows: np.ndarray,
) -> SeparateTexts | JointTexts:
    """Tokenizes, or finds already tokenized, the texts that training will read.

    Args:
      collection: the documents and queries.
      split: of the queries.
      tokenizer: of the model.
      config: lengths, templates, and how query and document are joined.
      query_rows: queries that are asked, rising.
      doc_rows: documents that lists name or that answer their queries, rising.
    """
    templates, doc_length = config.templates, config.doc_length
    doc_buckets = few_lengths(doc_length, config.doc_buckets)
    query_template, doc_template = templates.query, templates.doc
    query_length = config.query_length
    form = None
    if config.encode != "separate":
        pair = templates.pair if config.encode == "template" else None
        form = pair_format(tokenizer, template=pair, eos=config.eos)
        if pair is not None:
            query_template, doc_template = form.query_template, form.doc_template
        # a token more than fits, so that what is cut is known
        around = len(tokenizer.frame.prefix) + len(tokenizer.frame.suffix)
        query_length = doc_length = doc_length + around + 1
    queries = _queries(
        collection, split, tokenizer, query_rows, query_template, query_length
    )
    docs = store_texts(
        doc_rows, collection.docs.text, tokenizer, template=doc_template,
        length=doc_length, content=collection.docs.fingerprint, label="documents",
    )  # fmt: skip
    if form is not None:
        return JointTexts(
            queries, docs, form, buckets=doc_buckets, groups=config.pair_groups
        )
    return SeparateTexts(
        queries, docs, pad_id=tokenizer.pad_id, doc_buckets=doc_buckets,
        query_buckets=few_lengths(query_length, config.query_buckets),
    )  # fmt: skip


def open_queries(
    collection: Collection,
    split: str | None,
    tokenizer: Tokenizer,
    config: "PipelineConfig",
    *,
    rows: np.ndarray,
) -> StoredQueries:
    """As :func:`open_texts` of queries alone; no document is read.

    Args:
      collection: the queries.
      split: theirs.
      tokenizer: of the model.
      config: length and template.
      rows: queries that are asked, rising.
    """
    texts = _queries(
        collection, split, tokenizer, rows, config.templates.query, config.query_length
    )
    buckets = few_lengths(config.query_length, config.query_buckets)
    return StoredQueries(texts, buckets, tokenizer.pad_id)


def _queries(
    collection: Collection,
    split: str | None,
    tokenizer: Tokenizer,
    rows: np.ndarray,
    template: str,
    length: int,
) -> StoredTexts:
    texts = list(collection.queries(split).values())
    return store_texts(
        rows, texts.__getitem__, tokenizer, template=template, length=length,
        content="\0".join(texts), label="queries",
    )  # fmt: skip
