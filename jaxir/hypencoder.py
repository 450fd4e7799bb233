"""Hypencoders to start training from, and the bi-encoders they are compared with."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxir.checkpoints.model_dir import Model, load_model, model_from_parts
from jaxir.dense import model as dense_model
from jaxir.dense.model import DenseConfig
from jaxir.errors import InputError
from jaxir.families import family
from jaxir.fit import given, with_changes
from jaxir.hyper.model import HypencoderConfig, params_from_towers
from jaxir.hyper.qnet import QNetSpec
from jaxir.types import Params

__all__ = ["load_bi_encoder", "load_hypencoder"]

_DEPTH = 6  # of the paper's q-nets


def load_hypencoder(
    spec: str | os.PathLike,
    *,
    depth: int | None = None,
    hidden: int | None = None,
    num_vectors: int | None = None,
    warm_start: bool | None = None,
    attention_scale: str | None = None,
    projection_size: int | None = None,
    changes: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    seed: int = 0,
) -> Model:
    """A Hypencoder to train, of whatever its weights are.

    ====================== ==========================================================
    weights                become
    ====================== ==========================================================
    a Hypencoder           itself
    a bi-encoder, a BERT   its towers with a fresh hyperhead; pooling and similarity
                           as it has them (mean and cosine of a bare BERT)
    a masked language      its encoder with a fresh hyperhead; first token and inner
    model                  product, as the released Hypencoders
    ====================== ==========================================================

    A warm start makes q-nets that begin as the bi-encoder's own similarity: gates at 0
    stand before every block, and the query's vector is part of the output weights.

    Args:
      spec: what ``load_model`` takes.
      depth: blocks of the q-net, None for 6.
      hidden: width of every block, None for the width of the document vectors.
      num_vectors: vectors of a document, None for 1.
      warm_start: whether q-nets begin as the bi-encoder's similarity, None for not.
      attention_scale: a name of ``hyper.head.SCALES``, None for ``released``.
      projection_size: width of document vectors, by a fresh projection as in
        :func:`load_bi_encoder`; None for the width that they have.
      changes: fields of the configuration to replace, as ``{"similarity": "dot",
        "qnet.activation": "gelu", "backbone.dropout": 0.0}``; None leaves a field.
      tokenizer: where the tokenizer is, for weights that come without one.
      seed: of the fresh parameters.

    Raises:
      InputError: no such model, one that cannot become a Hypencoder, a change that does
        not fit, or a Hypencoder of another depth, width or start than is asked for.

    Example::

      >>> import pathlib, tempfile
      >>> from jaxir.checkpoints.model_dir import save_model
      >>> from jaxir.nn.bert import BertConfig
      >>> from jaxir.text import load_tokenizer
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> words = "[PAD] [UNK] [CLS] [SEP] why is the sky blue rain".split()
      >>> _ = (folder / "vocab.txt").write_text("\\n".join(words))
      >>> backbone = BertConfig(vocab_size=10, hidden_size=8, num_layers=1, num_heads=2)
      >>> config = DenseConfig(backbone)
      >>> params = dense_model.init_params(config, jax.random.key(0))
      >>> tokenizer = load_tokenizer(folder)
      >>> model = model_from_parts("dense", config, params, tokenizer)
      >>> _ = save_model(folder / "model", model)
      >>> model = load_hypencoder(folder / "model", depth=2, warm_start=True)
      >>> model.kind, model.config.qnet.hidden, sorted(model.params)
      ('hypencoder', (8, 8), ['head', 'shared'])
    """
    model = _load(spec, tokenizer)
    changes = _of_fields(changes)
    asked = {
        "depth": depth, "hidden": hidden, "num_vectors": num_vectors,
        "warm_start": warm_start, "attention_scale": attention_scale,
        "projection_size": projection_size,
    }  # fmt: skip
    if model.kind == "hypencoder":
        return _itself(model, asked, changes)
    names = {field.name for field in dataclasses.fields(DenseConfig)}
    of_towers = {n: v for n, v in changes.items() if n.partition(".")[0] in names}
    of_qnets = {n: v for n, v in changes.items() if n not in of_towers}
    base, towers = _towers(model, projection_size, of_towers, seed)
    width, warm = dense_model.embedding_size(base), bool(warm_start)
    spec_of_qnets = QNetSpec(
        input_width=width,
        hidden=(width if hidden is None else hidden,)
        * (_DEPTH if depth is None else depth),
        num_vectors=1 if num_vectors is None else num_vectors,
        gated=warm,
        residual_on_last=warm,
    )
    config = HypencoderConfig(
        **{name: getattr(base, name) for name in names},
        qnet=spec_of_qnets,
        attention_scale=attention_scale or "released",
        warm_start=warm,
    )
    config = with_changes(config, of_qnets)
    params = params_from_towers(config, towers, jax.random.key(seed))
    return model_from_parts(
        "hypencoder", config, params, model.tokenizer, path=model.path
    )


def load_bi_encoder(
    spec: str | os.PathLike,
    *,
    projection_size: int | None = None,
    changes: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    seed: int = 0,
) -> Model:
    """The bi-encoder that a Hypencoder of the same weights is compared with.

    Where :func:`load_hypencoder` makes a projection, this makes the same: a random one
    that keeps inner products in expectation (Johnson and Lindenstrauss 1984), hence
    vectors to begin with that are as good as their width allows.

    Args:
      spec: what ``load_model`` takes.
      projection_size: width of the vectors, by a fresh projection; None for the width
        that they have.
      changes: fields of the configuration to replace; None leaves a field.
      tokenizer: where the tokenizer is, for weights that come without one.
      seed: of the fresh projection.

    Raises:
      InputError: no such model, no bi-encoder or BERT, or a change that does not fit.
    """
    model = _load(spec, tokenizer)
    config, params = _towers(model, projection_size, _of_fields(changes), seed)
    return model_from_parts("dense", config, params, model.tokenizer, path=model.path)


def _load(spec: str | os.PathLike, tokenizer: str | None) -> Model:
    if tokenizer is None:
        return load_model(spec)
    return load_model(spec, tokenizer=tokenizer)


def _of_fields(changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The changes that are some; a projection, which is made, has its own argument."""
    some = given(changes)
    if "projection_size" in some:
        raise InputError(
            "changes", f"projection_size {some['projection_size']}",
            "the argument projection_size, for a fresh projection",
        )  # fmt: skip
    return some


def _itself(model: Model, asked: dict[str, Any], changes: dict[str, Any]) -> Model:
    """A Hypencoder, if it is the one that is asked for."""
    config = model.config
    own = {
        "depth": config.qnet.depth,
        "hidden": config.qnet.hidden[0],
        "num_vectors": config.qnet.num_vectors,
        "warm_start": config.warm_start,
        "attention_scale": config.attention_scale,
        "projection_size": config.projection_size,
    }
    for name, value in asked.items():
        if value is not None and value != own[name]:
            raise InputError(
                name, f"{value!r} for a Hypencoder of {own[name]!r}",
                "the value that it was made with",
                "leave it out (None), or begin from a bi-encoder",
            )  # fmt: skip
    if not changes:
        return model
    wanted = with_changes(config, changes)
    params = family(model.kind).adapt_params(config, model.params, wanted)
    return model_from_parts(
        model.kind, wanted, params, model.tokenizer, path=model.path
    )


def _towers(
    model: Model, size: int | None, changes: dict[str, Any], seed: int
) -> tuple[DenseConfig, Params]:
    """The bi-encoder that a model is or holds, and its parameters."""
    config, params = model.config, model.params
    if model.kind == "masked_lm":
        longest = config.backbone.max_length
        config = DenseConfig(
            config.backbone,
            pooling="cls",
            similarity="dot",
            query_length=min(HypencoderConfig.query_length, longest),
            doc_length=min(HypencoderConfig.doc_length, longest),
        )
        params = {"shared": {"backbone": params["backbone"]}}
    elif model.kind != "dense":
        raise InputError(
            model.path or "model", f"a model of kind {model.kind!r}",
            "a bi-encoder, a BERT or a masked language model",
        )  # fmt: skip
    config, params = _projected(config, params, size, seed)
    wanted = with_changes(config, changes)
    return wanted, dense_model.adapt_params(config, params, wanted)


def _projected(
    config: DenseConfig, params: Params, size: int | None, seed: int
) -> tuple[DenseConfig, Params]:
    """The same towers, each with the same fresh projection."""
    if size is None or size == config.projection_size:
        return config, params
    if config.projection_size is not None or size < 1:
        raise InputError(
            "projection_size", f"{size} for vectors of {config.projection_size}",
            "a width above 0, and a model without a projection", "leave it out",
        )  # fmt: skip
    # Not the key of the hyperhead, which is drawn from the same seed.
    key = jax.random.fold_in(jax.random.key(seed), 1)
    shape = (config.backbone.hidden_size, size)
    projected = {
        name: {
            **tower,
            "projection": {
                "kernel": jax.random.normal(key, shape) / math.sqrt(size),
                "bias": jnp.zeros(size),
            },
        }
        for name, tower in params.items()
    }
    return dataclasses.replace(config, projection_size=size), projected
