"""Sparse encoders to start training from, or to use as they were released."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxir.checkpoints.masked_lm import is_masked_lm
from jaxir.checkpoints.model_dir import Model, load_model, model_from_parts
from jaxir.checkpoints.sparse import load_sparse
from jaxir.checkpoints.sparse_layout import is_sparse
from jaxir.checkpoints.weights import resolve
from jaxir.data.collection import Collection, open_collection
from jaxir.errors import InputError
from jaxir.fit import given, with_changes
from jaxir.pretrain import masked_lm_of
from jaxir.sparse.idf import compute_idf, read_idf, vocabulary_of
from jaxir.sparse.model import SparseConfig, adapt_params, pooled_logits
from jaxir.text import Tokenizer, bucket_lengths, bucket_of, load_tokenizer, pad_batch
from jaxir.types import Params, TokenBatch

__all__ = ["load_sparse_encoder"]

_OF_COLLECTION = "collection"
# A GELU of so large a number leaves it as it is.
_SHIFT = 4.0
# What a document begins with where its head is fresh: tokens of a weight, about.
_FRESH, _SAMPLE, _LENGTH = 256, 64, 128


def load_sparse_encoder(
    spec: str | os.PathLike,
    *,
    activation: str | None = None,
    query: str | None = None,
    idf: str | os.PathLike | None = None,
    collection: str | Collection | None = None,
    lexical_prior: bool | None = None,
    start_tokens: int | None = None,
    changes: Mapping[str, Any] | None = None,
    tokenizer: str | os.PathLike | None = None,
) -> Model:
    """A sparse encoder, of whatever its weights are.

    ====================== ==========================================================
    weights                become
    ====================== ==========================================================
    a sparse encoder,      itself
    ours or released
    a masked language      a sparse encoder of its head; a folder of Hugging Face's
    model                  may be somebody's sparse encoder, hence must be told the
                           ``activation``
    a bi-encoder, a BERT   its encoder with a fresh head: nearly the identity before
                           the word table, so that the tokens of a text get weights at
                           once
    ====================== ==========================================================

    A softmax does not see a number that is added to all logits, so where 0 lies among a
    masked language model's is an accident: documents may begin with a weight at most
    tokens, and the pressure to become sparse then leaves nothing of them.
    ``start_tokens`` moves the head's bias so that the documents of a ``collection``
    begin with about so many.

    Args:
      spec: what ``load_model`` takes.
      activation: a name of ``sparse.pool.ACTIVATIONS``; None for the model's own, or
        ``log1p`` for weights that were no sparse encoder.
      query: a name of ``sparse.model.QUERIES``; None for the model's own, or ``idf``.
      idf: the weights of query tokens: an ``idf.json``, or ``"collection"`` to compute
        them of its documents; None for the model's own.
      collection: a folder, ``irds:ID``, or an opened collection.
      lexical_prior: a learned bonus for tokens that stand in the document; None for the
        model's own, or none.
      start_tokens: tokens of a weight that a document of ``collection`` begins with;
        None for 256 with a fresh head, and for a masked language model's bias as it is.
        What a sparse encoder gives is never moved.
      changes: fields of the configuration to replace, as ``{"doc_length": 128,
        "backbone.dropout": 0.0}``; None leaves a field.
      tokenizer: the tokenizer to take instead of the model's own.

    Raises:
      InputError: no such model, one that cannot become a sparse encoder, an activation
        that is not the model's or that nothing tells, no table for ``query="idf"``, a
        table of another tokenizer, or a change that does not fit.

    Example::

      >>> import pathlib, tempfile
      >>> from jaxir.checkpoints.model_dir import save_model
      >>> from jaxir.dense.model import DenseConfig, init_params
      >>> from jaxir.nn.bert import BertConfig
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> words = "[PAD] [UNK] [CLS] [SEP] why is the sky blue rain".split()
      >>> _ = (folder / "vocab.txt").write_text("\\n".join(words))
      >>> backbone = BertConfig(vocab_size=10, hidden_size=8, num_layers=1, num_heads=2)
      >>> config = DenseConfig(backbone)
      >>> params = init_params(config, jax.random.key(0))
      >>> model = model_from_parts("dense", config, params, load_tokenizer(folder))
      >>> _ = save_model(folder / "model", model)
      >>> model = load_sparse_encoder(folder / "model", query="binary")
      >>> model.kind, model.config.activation, sorted(model.params)
      ('sparse', 'log1p', ['backbone', 'head', 'idf'])
    """
    if isinstance(collection, str):
        collection = open_collection(collection)
    model, has_table = _start(spec, activation, query, tokenizer)
    fresh = model.kind == "dense"
    if fresh:
        model = _with_fresh_head(model)
    if model.kind == "masked_lm":
        model = _of_masked_lm(model)
    if model.kind != "sparse":
        raise InputError(
            model.path or "model", f"a model of kind {model.kind!r}",
            "a sparse encoder, a masked language model, a bi-encoder or a BERT",
        )  # fmt: skip
    _check_start(start_tokens, collection)
    if fresh and start_tokens is None:
        start_tokens = _FRESH
    if start_tokens is not None and collection is not None and not has_table:
        model = _with_tokens(model, collection, start_tokens)
    if has_table and activation not in (None, model.config.activation):
        raise InputError(
            "activation", f"{activation!r} for a sparse encoder of "
            f"{model.config.activation!r}", "the one that it was trained with",
            "leave it out (None)",
        )  # fmt: skip
    asked = {"activation": activation, "query": query, "lexical_prior": lexical_prior}
    config = with_changes(model.config, given(asked) | given(changes))
    params = adapt_params(model.config, model.params, config)
    table = _table(idf, collection, model.tokenizer, config.backbone.vocab_size)
    if table is not None:
        params = {**params, "idf": {"scale": table}}
    elif config.query == "idf" and not (has_table and _weighs_tokens(model)):
        raise InputError(
            "idf", "no table of token weights for a model without one",
            "a file like idf.json, or 'collection' with a collection",
            "or query='binary', where every token weighs 1",
        )  # fmt: skip
    return model_from_parts("sparse", config, params, model.tokenizer, path=model.path)


def _weighs_tokens(model: Model) -> bool:
    """Whether a sparse encoder's table says anything: SPLADE's is 1 throughout."""
    scale = np.asarray(model.params["idf"]["scale"])
    return model.config.query == "idf" or bool(np.any(scale != 1))


def _start(
    spec: str | os.PathLike,
    activation: str | None,
    query: str | None,
    tokenizer: str | os.PathLike | None,
) -> tuple[Model, bool]:
    """The model that is there, and whether it is a sparse encoder with its table."""
    text = os.fspath(spec)
    if not text.startswith(("dpr:", "jpq:", "t5x:")):
        folder = resolve(text)
        known = (folder / "model.json").is_file()
        packed = (folder / "modules.json").is_file()
        if not known and (is_sparse(folder) or (is_masked_lm(folder) and not packed)):
            return _of_others(folder, text, activation, query, tokenizer)
    model = load_model(spec, tokenizer=tokenizer)
    return model, model.kind == "sparse"


def _of_others(
    folder: Path,
    spec: str,
    activation: str | None,
    query: str | None,
    tokenizer: str | os.PathLike | None,
) -> tuple[Model, bool]:
    words = load_tokenizer(folder) if tokenizer is None else load_tokenizer(tokenizer)
    trained = is_sparse(folder)
    found = load_sparse(
        folder,
        activation=activation,
        # What is said may be changed: it is no part of the encoder.
        query=None if trained else query or "idf",
        tokenizer=words,
    )
    model = model_from_parts("sparse", found.config, found.params, words, path=spec)
    return model, trained


def _table(
    idf: str | os.PathLike | None,
    collection: Collection | None,
    tokenizer: Tokenizer,
    rows: int,
) -> np.ndarray | None:
    """The table that is asked for, None for the model's own."""
    if idf is None:
        return None
    if os.fspath(idf) != _OF_COLLECTION:
        return read_idf(idf, vocabulary_of(tokenizer), rows)
    if collection is None:
        raise InputError(
            "idf", "'collection', and none", "a collection to compute it of",
            "give collection=…",
        )  # fmt: skip
    return compute_idf(collection, tokenizer, rows)


def _of_masked_lm(model: Model) -> Model:
    """A sparse encoder of a masked language model's weights."""
    backbone = model.config.backbone
    longest = backbone.max_length
    config = SparseConfig(
        backbone,
        tied=model.config.tied,
        special_ids=model.tokenizer.special_ids,
        query_length=min(SparseConfig.query_length, longest),
        doc_length=min(SparseConfig.doc_length, longest),
    )
    params = {**model.params, "idf": {"scale": np.ones(backbone.vocab_size)}}
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    return model_from_parts("sparse", config, params, model.tokenizer, path=model.path)


def _with_fresh_head(model: Model) -> Model:
    """A masked language model whose head is nearly the identity.

    Its logits are then inner products of a token's last state and word vectors, which
    are largest for the token itself and its kin: without any training they retrieve,
    where a random layer finds nothing.
    """
    model = masked_lm_of(model)
    width, rows = model.config.backbone.hidden_size, model.config.backbone.vocab_size
    head = {
        **model.params["head"],
        "transform": {
            "kernel": np.eye(width, dtype=np.float32),
            # The norm behind the layer takes the shift away again.
            "bias": np.full(width, _SHIFT, np.float32),
        },
        "bias": np.zeros(rows, np.float32),
    }
    params: Params = {**model.params, "head": head}
    return model_from_parts(
        model.kind, model.config, params, model.tokenizer, path=model.path
    )


def _check_start(start_tokens: int | None, collection: Collection | None) -> None:
    if start_tokens is None:
        return
    if start_tokens < 1:
        raise InputError("start_tokens", str(start_tokens), "at least 1")
    if collection is None:
        raise InputError(
            "start_tokens", "given without a collection", "documents to count them in",
            "give collection=…",
        )  # fmt: skip


def _with_tokens(model: Model, collection: Collection, count: int) -> Model:
    """The model with its head's bias moved, all of it by one number."""
    if not len(collection.docs):
        return model
    pooled = _sampled_logits(model, collection)
    if not pooled.size:  # documents without a word
        return model
    rows = model.config.backbone.vocab_size
    level = np.quantile(pooled, 1 - min(0.5, count / rows)).astype(np.float32)
    head = {**model.params["head"], "bias": model.params["head"]["bias"] - level}
    params = {**model.params, "head": head}
    return model_from_parts(
        "sparse", model.config, params, model.tokenizer, path=model.path
    )


def _sampled_logits(model: Model, collection: Collection) -> np.ndarray:
    """Pooled logits of some documents, spread evenly over the collection."""
    docs = collection.docs
    rows = np.unique(np.linspace(0, len(docs) - 1, _SAMPLE).astype(np.int64))
    length = min(_LENGTH, model.config.doc_length)
    ids = model.tokenizer.encode(docs.texts(rows), length)
    width = bucket_of(max(map(len, ids)), bucket_lengths(length))
    batch = pad_batch(ids, length=width, pad_id=model.tokenizer.pad_id)
    tokens = TokenBatch(jnp.asarray(batch.ids), jnp.asarray(batch.mask))
    compute = jax.jit(lambda params: pooled_logits(model.config, params, tokens))
    found = np.asarray(compute(model.params))
    return found[np.all(np.isfinite(found), axis=1)]
