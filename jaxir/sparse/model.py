"""Learned sparse retrieval: a text becomes weights of the vocabulary's tokens.

Documents pass a masked language model whose logits are max-pooled over their tokens
(SPLADE; Formal et al. 2021, arXiv 2109.10086).  Queries need no model: their tokens,
each with its inverse document frequency (Geng et al. 2024, arXiv 2411.04403, eq. 5), or
with 1, as SPLADE-doc has it (eq. 2).  A query encoder is possible too: then both sides
pass the same model, as SPLADE's own.

Parameters: ``{"backbone": BertEncoder's, "head": MaskedLanguageModelHead's, "idf":
{"scale" [V]}}`` and, with a lexical prior, ``"prior": {"bias" []}``.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxir.errors import InputError
from jaxir.nn import bert
from jaxir.nn.masked_lm import adapt_masked_lm, init_masked_lm, vocabulary_head
from jaxir.sparse.pool import ACTIVATIONS, largest_logits
from jaxir.text import Templates
from jaxir.types import Params, TokenBatch

__all__ = [
    "QUERIES",
    "SparseConfig",
    "adapt_params",
    "encode_doc",
    "encode_query",
    "init_params",
    "match",
    "pooled_logits",
]

QUERIES = ("idf", "binary", "encoder")
"""What a query is: its tokens with their IDF, its tokens, or weights of the model."""


@dataclasses.dataclass(frozen=True)
class SparseConfig:
    """A sparse encoder; the defaults are those of the paper over BERT's vocabulary.

    Attributes:
      backbone: the encoder.
      tied: the head's last matrix is the encoder's word table, as BERT's.
      activation: a name of ``sparse.pool.ACTIVATIONS``: ``log1p`` (SPLADE, and the
        released v1 and v2) or ``log1p_log1p`` (v3 and l0).
      query: a name of :data:`QUERIES`; only ``encoder`` runs the model for queries.
      special_ids: tokens that are no words: neither side ever gives them a weight.
      pool_special: the states of special tokens take part in the pooling too, as in
        released models; otherwise those of words alone.
      lexical_prior: a learned bonus for tokens that stand in the text.
      query_length: the most tokens of a query.
      doc_length: the most tokens of a document.
      query_template: how a query is written, ``{text}`` standing for it.
      doc_template: how a document is written.

    Raises:
      InputError: an unknown name, lengths that the backbone cannot take, or special
        tokens that it does not have.
    """

    backbone: bert.BertConfig = dataclasses.field(default_factory=bert.BertConfig)
    tied: bool = True
    activation: str = "log1p"
    query: str = "idf"
    special_ids: tuple[int, ...] = (0, 100, 101, 102, 103)
    pool_special: bool = False
    lexical_prior: bool = False
    query_length: int = 32
    doc_length: int = 256
    query_template: str = "{text}"
    doc_template: str = "{text}"

    def __post_init__(self) -> None:
        """Checks names and lengths."""
        for name, known in (("activation", ACTIVATIONS), ("query", QUERIES)):
            value = getattr(self, name)
            if value not in known:
                expected = "one of " + ", ".join(known)
                raise InputError(f"SparseConfig.{name}", repr(value), expected)
        for name in ("query_length", "doc_length"):
            value = getattr(self, name)
            if not 0 < value <= self.backbone.max_length:
                raise InputError(
                    f"SparseConfig.{name}", f"{value} tokens",
                    f"1 to {self.backbone.max_length}, the backbone's positions",
                )  # fmt: skip
        size = self.backbone.vocab_size
        if any(not 0 <= token < size for token in self.special_ids):
            raise InputError(
                "SparseConfig.special_ids", str(self.special_ids), f"0 to {size - 1:,}"
            )
        Templates(query=self.query_template, doc=self.doc_template)  # checks them


def init_params(config: SparseConfig, rng: jax.Array) -> Params:
    """Fresh parameters; every token's IDF is 1 until a table says otherwise.

    Args:
      config: the model.
      rng: a random key.

    Example::

      >>> tiny = bert.BertConfig(9, hidden_size=8, num_layers=1, num_heads=2)
      >>> config = SparseConfig(tiny, special_ids=(0,))
      >>> sorted(init_params(config, jax.random.key(0)))
      ['backbone', 'head', 'idf']
    """
    idf = {"scale": jnp.ones(config.backbone.vocab_size)}
    params = {**init_masked_lm(config, rng), "idf": idf}
    return params | _fresh_prior(config)


def _fresh_prior(config: SparseConfig) -> Params:
    # At 1 a token of the text begins with the weight log 2.
    return {"prior": {"bias": jnp.ones(())}} if config.lexical_prior else {}


def adapt_params(config: SparseConfig, params: Params, target: SparseConfig) -> Params:
    """Parameters of one configuration for another that starts from them.

    Args:
      config: what the parameters belong to.
      params: the parameters.
      target: what they shall be for; a head that is no longer tied begins as the word
        table, a lexical prior fresh.

    Raises:
      InputError: sizes that the parameters do not have.
    """
    kept = {**adapt_masked_lm(config, params, target), "idf": params["idf"]}
    prior = {"prior": params["prior"]} if "prior" in params else _fresh_prior(target)
    return kept | (prior if target.lexical_prior else {})


def encode_doc(
    config: SparseConfig,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> Float[Array, "B V"]:
    """Weights of the vocabulary's tokens for documents ``[B, T]``.

    Equation: ``d_v = f(max_t x_tv)`` with ``x`` the masked language model's logits and
    ``f`` the activation; with a lexical prior ``b`` the tokens of the text have
    ``f(relu(max_t x_tv) + relu(b))``.

    Source: Formal et al., "SPLADE v2" (2021), eq. 6; arXiv 2411.04403, section 3.

    Args:
      config: the model.
      params: of :func:`init_params`.
      tokens: the documents.
      rng: draws dropout when given.

    Returns:
      float32, at least 0, and 0 at special tokens.

    Example::

      >>> tiny = bert.BertConfig(9, hidden_size=8, num_layers=1, num_heads=2)
      >>> config = SparseConfig(tiny, special_ids=(0,))
      >>> params = init_params(config, jax.random.key(0))
      >>> tokens = TokenBatch(jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool))
      >>> encode_doc(config, params, tokens).shape
      (2, 9)
    """
    pooled = pooled_logits(config, params, tokens, rng=rng)
    if config.lexical_prior:
        bonus = jax.nn.relu(params["prior"]["bias"])
        pooled = jax.nn.relu(pooled) + bonus * _bag(config, tokens)
    return ACTIVATIONS[config.activation](pooled) * _word_columns(config)


def pooled_logits(
    config: SparseConfig,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> Float[Array, "B V"]:
    """The largest logit of each vocabulary token over the tokens of texts ``[B, T]``.

    Before activation and prior, special tokens among them; -inf for a text without
    tokens that take part.

    Args:
      config: the model.
      params: of :func:`init_params`.
      tokens: the texts.
      rng: draws dropout when given.
    """
    encoder: Any = bert.BertEncoder(config.backbone)
    mode: dict[str, Any] = {"deterministic": rng is None}
    if rng is not None:
        mode["rngs"] = {"dropout": rng}
    states = encoder.apply({"params": params["backbone"]}, tokens, **mode).states
    head = params["head"]
    table = params["backbone"]["embeddings"]["word"]["embedding"]
    if not config.tied:
        table = jnp.transpose(head["decoder"]["kernel"])
    hidden = vocabulary_head(config).apply({"params": head}, states, decode=False)
    where = jnp.asarray(tokens.mask)
    words = where & ~_is_special(config, jnp.asarray(tokens.ids))
    return largest_logits(
        hidden, jnp.asarray(table).astype(hidden.dtype), head["bias"],
        where if config.pool_special else words,
    )  # fmt: skip


def _is_special(config: SparseConfig, ids: Array) -> Array:
    special = jnp.asarray(config.special_ids, jnp.int32)
    apart = jnp.expand_dims(special, tuple(range(ids.ndim)))
    return jnp.any(ids[..., None] == apart, axis=-1)


def _word_columns(config: SparseConfig) -> Array:
    """``[1, V]``: 1 at words, 0 at special tokens."""
    columns = jnp.arange(config.backbone.vocab_size)
    return (~_is_special(config, columns)).astype(jnp.float32)[None, :]


def _bag(config: SparseConfig, tokens: TokenBatch) -> Float[Array, "B V"]:
    """1 at each word that a text has, however often."""
    ids, mask = jnp.asarray(tokens.ids), jnp.asarray(tokens.mask)
    rows = jnp.arange(ids.shape[0])[:, None]
    empty = jnp.zeros((ids.shape[0], config.backbone.vocab_size))
    found = empty.at[rows, ids].max(mask.astype(jnp.float32))
    return found * _word_columns(config)


def encode_query(
    config: SparseConfig,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> Float[Array, "B V"]:
    """Weights of the vocabulary's tokens for queries ``[B, T]``.

    Equation: ``idf(t) q_t`` with ``q_t`` 1 where token ``t`` stands in the query, else
    0 (arXiv 2411.04403, eq. 5); ``q_t`` alone for ``query="binary"`` (eq. 2); what
    :func:`encode_doc` gives for ``query="encoder"``.  The table has no gradient.

    Args:
      config: the model.
      params: of :func:`init_params`.
      tokens: the queries.
      rng: draws dropout when given, of a query encoder.

    Example::

      >>> tiny = bert.BertConfig(5, hidden_size=8, num_layers=1, num_heads=2)
      >>> config = SparseConfig(tiny, special_ids=(0, 1))
      >>> params = init_params(config, jax.random.key(0))
      >>> ids = jnp.array([[1, 3, 3, 4]])
      >>> encode_query(config, params, TokenBatch(ids, ids > 0)).tolist()
      [[0.0, 0.0, 0.0, 1.0, 1.0]]
    """
    if config.query == "encoder":
        return encode_doc(config, params, tokens, rng=rng)
    bag = _bag(config, tokens)
    if config.query == "binary":
        return bag
    return bag * jax.lax.stop_gradient(jnp.asarray(params["idf"]["scale"]))[None, :]


def match(
    config: SparseConfig, queries: Float[Array, "B V"], docs: Float[Array, "N V"]
) -> Float[Array, "B N"]:
    """Scores of every query with every document: inner products, in float32.

    Args:
      config: the model.
      queries: of :func:`encode_query`.
      docs: of :func:`encode_doc`.
    """
    del config  # what a query is stands in its weights
    return jnp.einsum("BV,NV->BN", queries, docs, precision="highest")
