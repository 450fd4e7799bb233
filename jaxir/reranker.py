"""Cross-encoders to start training from, and to use: rank documents, score pairs."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import jax
import numpy as np
from jax.sharding import Mesh

from jaxir.checkpoints.model_dir import Model, load_model, model_from_parts
from jaxir.errors import InputError, refuse_one
from jaxir.families import family
from jaxir.fit import given, with_changes
from jaxir.progress import say
from jaxir.rank.model import (
    CrossEncoderConfig,
    RankT5Config,
    adapt_params,
    params_from_backbone,
)
from jaxir.rank.tokens import token_changes
from jaxir.scorers import SCORERS, make_scorer
from jaxir.types import Params

__all__ = [
    "Document",
    "Ranked",
    "Reranker",
    "load_reranker",
    "load_scoring_model",
]

Document = str | Mapping[str, str | None]
"""A text, or ``{"title": …, "text": …}``, read as a collection's documents are."""


def load_reranker(
    spec: str | os.PathLike,
    *,
    head: str | None = None,
    target_token: str | None = None,
    contrast_token: str | None = None,
    tokenizer: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Model:
    """A cross-encoder to train, of whatever its weights are.

    ====================== ==========================================================
    weights                become
    ====================== ==========================================================
    a cross-encoder        itself
    a T5                   ``rank_t5``: EncDec without a new parameter, or Enc with a
                           fresh score head
    a BERT, RoBERTa, …     ``rank_bert`` with a fresh score head over the encoder of a
                           bi-encoder of one tower or of a masked language model
    ====================== ==========================================================

    Args:
      spec: what ``load_model`` takes.
      head: ``"encdec"`` or ``"enc"``, for T5; None for the model's own, EncDec of a T5.
      target_token: EncDec's token, None for the model's own, ``<extra_id_10>`` of a T5.
      contrast_token: a second token, for monoT5's score; a T5 then reads monoT5's
        template, unless ``changes`` has another.  Its tokens are ``▁true`` and
        ``▁false``.
      tokenizer: where the tokenizer is, for weights that come without one.
      changes: fields of the configuration to replace, as ``{"max_length": 384,
        "backbone.dtype": "bfloat16"}``; None leaves a field as the model has it.
      seed: of the fresh parameters.

    Raises:
      InputError: no such model, one that cannot become a cross-encoder, a token that is
        not in the vocabulary, a change that does not fit, or one that would drop a
        layer under a trained score.
    """
    model = _load(spec, tokenizer)
    tokens = token_changes(model, head, target_token, contrast_token)
    return _as_reranker(model, tokens | given(changes), seed)


def load_scoring_model(
    spec: str | os.PathLike,
    *,
    head: str | None = None,
    target_token: str | None = None,
    contrast_token: str | None = None,
    tokenizer: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Model:
    """A model that can score as it is: nothing in it is fresh.

    Cross-encoders, retrievers, and T5 language models, which are read as EncDec (the
    released RankT5 and monoT5 are such); as which, a line on standard error says, since
    their files do not.  Arguments as :func:`load_reranker`.

    Raises:
      InputError: as :func:`load_reranker`, or a model that was not trained to score.
    """
    model = _load(spec, tokenizer)
    tokens = token_changes(model, head, target_token, contrast_token)
    wanted = tokens | given(changes)
    if model.kind == "t5":
        if "decoder" not in model.params:
            raise InputError(
                model.path or os.fspath(spec), "a T5's encoder without a score head",
                "a model that was trained to score", "train it on lists first, with a "
                "task of the head 'enc' (jaxir train --gin_file tasks/rank/enc_*.gin)",
            )  # fmt: skip
        if tokens["head"] != "encdec":
            raise InputError(
                "head", f"{head!r} over a T5 without a score head", "'encdec'",
                "train it on lists first (jaxir train)",
            )  # fmt: skip
        scorer = _as_reranker(model, wanted, 0)
        say(_read_as(scorer))
        return scorer
    if model.kind not in SCORERS:
        raise InputError(
            model.path or os.fspath(spec),
            f"a model of kind {model.kind!r}, which does not score pairs",
            "one of " + ", ".join([*SCORERS, "t5"]),
            "train it on lists first (jaxir train)",
        )
    if family(model.kind).score is None:
        return _changed(model, wanted)
    scorer = _as_reranker(model, wanted, 0)
    fresh = sorted(_parts(scorer.params) - _parts(model.params))
    if fresh:
        raise InputError(
            model.path or os.fspath(spec), f"no {fresh[0]}, which the changes ask for",
            "changes that make nothing fresh", "train it on lists first (jaxir train)",
        )  # fmt: skip
    return scorer


def _read_as(model: Model) -> str:
    """What a T5 is taken for, in one line."""
    config = model.config
    ids = [i for i in (config.target_id, config.contrast_id) if i is not None]
    tokens = " against ".join(map(repr, model.tokenizer.tokens(ids)))
    return (
        f"{model.path or 'model'}: a T5, read as a reranker: head {config.head}, token "
        f"{tokens}, template {config.template!r}, max_length {config.max_length}, "
        f"eos {config.eos}"
    )


def _parts(params: Params) -> set[str]:
    """The parts of a reranker, whatever its layers are."""
    inner = params.get("backbone", {})
    return {*params, *(f"backbone/{name}" for name in inner)}


def _load(spec: str | os.PathLike, tokenizer: str | None) -> Model:
    if tokenizer is None:
        return load_model(spec)
    return load_model(spec, tokenizer=tokenizer)


def _changed(model: Model, changes: Mapping[str, Any]) -> Model:
    """Another configuration of the same parameters; a compute type, say."""
    if not changes:
        return model
    config = with_changes(model.config, changes)
    params = family(model.kind).adapt_params(model.config, model.params, config)
    return model_from_parts(
        model.kind, config, params, model.tokenizer, path=model.path
    )


def _as_reranker(model: Model, changes: dict[str, Any], seed: int) -> Model:
    rng = jax.random.key(seed)
    kind, config, params = model.kind, model.config, model.params
    if kind == "t5":
        named = {
            name: changes.pop(name)
            for name in ("head", "target_id", "contrast_id", "template")
            if name in changes
        }
        kind, config = "rank_t5", RankT5Config(backbone=config, **named)
        params = params_from_backbone(config, params, rng)
    elif kind in ("dense", "masked_lm"):
        config, tree = _encoder(model)
        kind, params = "rank_bert", params_from_backbone(config, tree, rng)
    elif kind not in ("rank_t5", "rank_bert"):
        raise InputError(
            model.path or "model", f"a model of kind {kind!r}",
            "a T5, a BERT or a cross-encoder",
        )  # fmt: skip
    elif not changes:
        return model
    wanted = with_changes(config, changes)
    if kind == "rank_t5" and wanted.head == "encdec" and wanted.pooling != "cls":
        raise InputError(
            "pooling", f"{wanted.pooling!r} for the head 'encdec', which pools nothing",
            "the head 'enc'", "leave it out",
        )  # fmt: skip
    if kind == "rank_t5" and config.head == "encdec" and wanted.head == "enc":
        config = dataclasses.replace(config, head="enc")
        params = params_from_backbone(config, params, rng)  # a head of this seed
    if wanted != config:
        before, params = params, adapt_params(config, params, wanted)
        lost = sorted(_parts(before) - _parts(params))
        if model.kind == "rank_bert" and lost:
            raise InputError(
                model.path or "model", f"changes that drop {lost[0]} under the score "
                "trained over it", "the layers that the model has", "leave them out",
            )  # fmt: skip
    return model_from_parts(kind, wanted, params, model.tokenizer, path=model.path)


def _encoder(model: Model) -> tuple[CrossEncoderConfig, Any]:
    """The cross-encoder that a BERT becomes, and the encoder's parameters."""
    backbone, pooling = model.config.backbone, "cls"
    if model.kind == "dense":
        if "shared" not in model.params:
            raise InputError(
                model.path or "model", "a bi-encoder of two towers", "one encoder",
                "name one of the encoders it was made of",
            )  # fmt: skip
        tree = model.params["shared"]["backbone"]
        pooling = "mean" if model.config.pooling == "mean" else "cls"
    else:
        tree = model.params["backbone"]
    config = CrossEncoderConfig(
        backbone=dataclasses.replace(
            backbone, pooler=backbone.pooler and pooling == "cls"
        ),
        pooling=pooling,
        dropout=backbone.dropout,
        max_length=min(CrossEncoderConfig.max_length, backbone.max_length),
    )
    return config, tree


class Ranked(TypedDict, total=False):
    """A document of :meth:`Reranker.rank`.

    Attributes:
      corpus_id: its place among the documents given.
      score: higher for more relevant.
      text: what was read; absent without ``return_documents``.
    """

    corpus_id: int
    score: float
    text: str


class Reranker:
    """Ranks documents for a query; names as in sentence-transformers' ``CrossEncoder``.

    Scores are the network's own: no sigmoid is taken of them.

    Args:
      model: from :func:`load_reranker` or ``load_model``, or what
        :func:`load_scoring_model` takes.
      mesh: devices that share each batch; by default all devices of this process.
      batch_tokens: tokens of a batch; None for ``bucketing.default_batch_tokens()``.
      max_length: most tokens of a pair (of a document, for a bi-encoder).

    Raises:
      InputError: the model cannot score.

    Example::

      >>> import pathlib, tempfile
      >>> from jaxir.nn.bert import BertConfig
      >>> from jaxir.rank.model import init_params
      >>> from jaxir.text import load_tokenizer
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> words = "[PAD] [UNK] [CLS] [SEP] why is the sky blue rain".split()
      >>> _ = (folder / "vocab.txt").write_text("\\n".join(words))
      >>> config = CrossEncoderConfig(
      ...     BertConfig(vocab_size=10, hidden_size=8, num_layers=1, num_heads=2))
      >>> params = init_params(config, jax.random.key(0))
      >>> model = model_from_parts("rank_bert", config, params, load_tokenizer(folder))
      >>> best = Reranker(model).rank("why rain", ["the sky", "rain"], top_k=1)
      >>> len(best), sorted(best[0])
      (1, ['corpus_id', 'score', 'text'])
    """

    def __init__(
        self,
        model: Model | str | os.PathLike,
        *,
        mesh: Mesh | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
    ) -> None:
        if not isinstance(model, Model):
            model = load_scoring_model(model)
        self.model = model
        self._scorer = make_scorer(
            model, mesh=mesh, batch_tokens=batch_tokens, max_length=max_length
        )

    def rank(
        self,
        query: str,
        documents: Sequence[Document],
        top_k: int | None = None,
        return_documents: bool = True,
    ) -> list[Ranked]:
        """The documents, best first; equal scores in the order given.

        Args:
          query: its text.
          documents: texts, or mappings with ``text`` and perhaps ``title``; either
            may be None, which is an empty text.
          top_k: how many to return; all if None.
          return_documents: whether each result carries its ``text``.

        Raises:
          InputError: one text for the documents, a document without ``text``, ``top_k``
            below 1, or a score that is not finite.
        """
        refuse_one("documents", documents)
        if top_k is not None and top_k < 1:
            raise InputError("top_k", str(top_k), "at least 1")
        texts = [_text(i, document) for i, document in enumerate(documents)]
        (scores,) = self._scorer([query], [texts])
        order = np.argsort(-scores, kind="stable")[:top_k].tolist()
        ranked = [Ranked(corpus_id=i, score=float(scores[i])) for i in order]
        if return_documents:
            for result in ranked:
                result["text"] = texts[result["corpus_id"]]
        return ranked

    def predict(self, pairs: Sequence[tuple[str, Document]]) -> np.ndarray:
        """Scores float32 ``[len(pairs)]`` of ``(query, document)`` pairs.

        Raises:
          InputError: one pair for the pairs, a document without ``text``, or a score
            that is not finite.
        """
        if len(pairs) and isinstance(pairs[0], str):
            raise InputError("pairs", "one pair", "a list of pairs", "write [pair]")
        places: dict[str, list[int]] = {}
        for i, (query, _) in enumerate(pairs):
            places.setdefault(query, []).append(i)
        docs = [[_text(i, pairs[i][1]) for i in group] for group in places.values()]
        scores = np.empty(len(pairs), np.float32)
        found = self._scorer(list(places), docs)
        for group, values in zip(places.values(), found, strict=True):
            scores[group] = values
        return scores


def _text(place: int, document: Document) -> str:
    """A document as one text: title, a space, and text, stripped."""
    if isinstance(document, str):
        return document
    if "text" not in document:
        raise InputError(
            f"document {place}", f"keys {', '.join(document) or 'none'}",
            "'text', and 'title' where there is one",
        )  # fmt: skip
    return f"{document.get('title') or ''} {document['text'] or ''}".strip()
