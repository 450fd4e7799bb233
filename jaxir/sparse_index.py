"""Indexes of kind ``sparse``: posting lists, and what becomes of a query.

============== =======================================================================
``postings/``  of each token its documents and weights; see ``sparse/postings.py``
``ids.*``      the documents' own ids
``query/``     tokenizer, token weights and settings: all that a query needs
``model/``     in its place where a model encodes queries too
============== =======================================================================

The model that encoded the documents is not in the index otherwise: its path is, for
documents that come later.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxir.errors import InputError
from jaxir.index_job import BuildOptions, Job, remembered_path, worth_keeping, writing
from jaxir.sparse_query import QUERY, write_query

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model
    from jaxir.data.collection import Collection
    from jaxir.sparse_corpus import SparseCorpus

__all__ = ["build_sparse", "row_details", "sparse_encoded"]


def build_sparse(job: Job) -> None:
    """Writes an index of kind ``sparse``: encodes, prunes, turns rows into postings.

    Args:
      job: its model is of kind ``sparse``; None for BM25 over the tokens of
        ``options.sparse.tokenizer``.

    Raises:
      InputError: as ``encode_sparse_corpus``; an option that would be ignored.
    """
    if job.model is None:
        from jaxir.sparse_bm25 import build_token_bm25

        build_token_bm25(job)
        return
    from jaxir.checkpoints.model_dir import save_model
    from jaxir.sparse.postings import build_postings

    model, options = job.model, job.options
    encoder = model.config.query == "encoder"
    if not (encoder or options.self_contained):
        raise InputError(
            "self_contained", "False for an index that no model is kept in", "True",
            "leave --without_model out: queries need none",
        )  # fmt: skip
    vocab_size = model.config.backbone.vocab_size
    partial = job.directory.with_name(f"{job.directory.name}.partial")
    with sparse_encoded(model, job.collection, partial, options) as corpus:
        details = {
            "vocab_size": vocab_size,
            "query": model.config.query,
            "tokenizer": model.tokenizer.fingerprint,
            "dtype": options.dtype,
            "max_length": options.max_length,
            "prune_ratio": options.sparse.prune_ratio or 0.0,
            **row_details(corpus),
            "model_kind": model.kind,
            "model_path": remembered_path(model.path),
            "self_contained": options.self_contained,
        }
        with writing(job, "sparse", details) as folder:
            build_postings(corpus.open(), vocab_size, folder, dtype=options.dtype)
            if not encoder:
                write_query(folder / QUERY, model)
            elif options.self_contained:
                save_model(folder / "model", model)


def row_details(corpus: "SparseCorpus") -> dict[str, Any]:
    """What the manifest says of the documents' rows.

    ``tokens_per_doc`` is the mean number of weights above 0; ``expansion_rate`` how
    many of them are of tokens that do not stand in the text, for each different token
    that does.

    Args:
      corpus: the rows.
    """
    return {
        "postings": corpus.postings,
        "tokens_per_doc": round(corpus.postings / corpus.num_docs, 3),
        "empty_docs": corpus.empty,
        "text_tokens": corpus.words,
        "expanded_tokens": corpus.expanded,
        "expansion_rate": round(corpus.expanded / max(corpus.words, 1), 4),
    }


@contextlib.contextmanager
def sparse_encoded(
    model: "Model", collection: "Collection", place: Path, options: BuildOptions
) -> "Iterator[SparseCorpus]":
    """Rows of documents, for as long as an index is made of them.

    As ``index_job.encoded`` has it for vectors: they are removed when the block ends
    well, and gone on with otherwise.

    Args:
      model: of kind ``sparse``.
      collection: the documents.
      place: for the rows, beside the index.
      options: batches, lengths, pruning and shards.

    Raises:
      InputError: as ``encode_sparse_corpus``.
    """
    from jaxir.encode import SHARD_ROWS
    from jaxir.sparse_corpus import encode_sparse_corpus

    with worth_keeping(place):
        found = encode_sparse_corpus(
            model, collection, place,
            batch_tokens=options.batch_tokens,
            shard_rows=options.shard_rows or SHARD_ROWS,
            max_length=options.max_length,
            prune_ratio=options.sparse.prune_ratio or 0.0,
        )  # fmt: skip
    yield found
    shutil.rmtree(place)
