"""Hypencoder: a query becomes a q-net, a document one vector or a few.

Towers (``nn.tower``) encode both sides; of a query the hyperhead (``hyper.head``) makes
the weights of a q-net (``hyper.qnet``), which scores document vectors (Killingback et
al. 2025, "Hypencoder: Hypernetworks for Information Retrieval").

Parameters: ``{"shared": tower}`` or ``{"query": tower, "doc": tower}``, and ``"head"``.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxir.errors import InputError
from jaxir.hyper.head import HyperHead, check_head
from jaxir.hyper.qnet import QNetSpec, QNetWeights, apply_all
from jaxir.nn.bert import BertConfig
from jaxir.nn.tower import (
    TOWERS,
    Tower,
    adapt_towers,
    apply_tower,
    check_towers,
    embedding_size,
    init_towers,
)
from jaxir.types import Params, TokenBatch

__all__ = [
    "HypencoderConfig",
    "adapt_params",
    "encode_doc",
    "encode_query",
    "init_params",
    "match",
    "params_from_towers",
]


@dataclasses.dataclass(frozen=True)
class HypencoderConfig:
    """A Hypencoder; the defaults are the released six-layer model's.

    Attributes:
      backbone: the encoder of each tower.
      qnet: shape and rules of the q-nets; ``input_width`` is the towers' width.
      pooling: a name of ``nn.heads.POOLING``, of documents and of a warm start's
        queries; documents of several vectors have those of their first tokens instead.
      similarity: ``dot``, or ``cosine`` for document vectors of length 1.
      projection_size: width of the projection after pooling; None for no projection.
      projection_activation: ``identity``, ``tanh`` or ``layer_norm``.
      towers: ``shared`` or ``separate``.
      query_length: the most tokens of a query.
      doc_length: the most tokens of a document.
      query_template: how a query is written, ``{text}`` standing for it.
      doc_template: how a document is written.
      attention_scale: a name of ``hyper.head.SCALES``: ``released`` or ``paper``.
      warm_start: whether q-nets begin as the inner product of the towers' vectors.

    Raises:
      InputError: for an unknown name, lengths that the backbone cannot take, a q-net of
        another width than the towers, or one that cannot have a warm start.
    """

    backbone: BertConfig = dataclasses.field(default_factory=BertConfig)
    qnet: QNetSpec = dataclasses.field(default_factory=QNetSpec)
    pooling: str = "cls"
    similarity: str = "dot"
    projection_size: int | None = None
    projection_activation: str = "identity"
    towers: str = "shared"
    query_length: int = 32
    doc_length: int = 196
    query_template: str = "{text}"
    doc_template: str = "{text}"
    attention_scale: str = "released"
    warm_start: bool = False

    def __post_init__(self) -> None:
        """Checks names, lengths and widths."""
        check_towers(self)
        check_head(self.qnet, self.attention_scale, warm_start=self.warm_start)
        if self.qnet.input_width != embedding_size(self):
            raise InputError(
                "HypencoderConfig.qnet",
                f"input_width={self.qnet.input_width}",
                f"{embedding_size(self)}, the width of the document vectors",
            )


def init_params(config: HypencoderConfig, rng: jax.Array) -> Params:
    """Fresh parameters of towers and hyperhead.

    Args:
      config: the Hypencoder.
      rng: a random key.

    Example::

      >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2)
      >>> config = HypencoderConfig(tiny, QNetSpec(8, (8, 8)), towers="separate")
      >>> sorted(init_params(config, jax.random.key(0)))
      ['doc', 'head', 'query']
    """
    tower_rng, head_rng = jax.random.split(rng)
    return params_from_towers(config, init_towers(config, tower_rng), head_rng)


def params_from_towers(
    config: HypencoderConfig, towers: Params, rng: jax.Array
) -> Params:
    """A bi-encoder's towers with a fresh hyperhead.

    Args:
      config: the Hypencoder.
      towers: ``{"shared": tower}`` or ``{"query": tower, "doc": tower}``; a shared one
        serves separate towers too.
      rng: a random key.

    Raises:
      InputError: two towers cannot become one.
    """
    return dict(adapt_towers(towers, config.towers)) | {"head": _init_head(config, rng)}


def adapt_params(
    config: HypencoderConfig, params: Params, target: HypencoderConfig
) -> Params:
    """Parameters of one configuration for another that starts from them.

    One shared tower becomes two equal ones; everything else stays.

    Args:
      config: what the parameters belong to.
      params: the parameters.
      target: what they shall be for.

    Raises:
      InputError: two towers cannot become one, or the hyperheads differ in shape.
    """
    found, expected = (
        jax.tree.map(
            lambda x: x.shape,
            jax.eval_shape(lambda c=c: _init_head(c, jax.random.key(0))),
            is_leaf=lambda x: hasattr(x, "shape"),
        )
        for c in (config, target)
    )
    if found != expected:
        raise InputError(
            "qnet",
            f"hidden={target.qnet.hidden}, warm_start={target.warm_start} for a head "
            f"of hidden={config.qnet.hidden}, warm_start={config.warm_start}",
            "a q-net of the same shape",
            "start from the bi-encoder for a fresh head",
        )
    towers = {name: params[name] for name in TOWERS[config.towers]}
    return dict(adapt_towers(towers, target.towers)) | {"head": params["head"]}


def encode_query(
    config: HypencoderConfig,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> QNetWeights:
    """The q-nets ``[B, ...]`` of queries ``[B, T]``.

    Args:
      config: the Hypencoder.
      params: of :func:`init_params`.
      tokens: the queries.
      rng: draws dropout when given.

    Example::

      >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2)
      >>> config = HypencoderConfig(tiny, QNetSpec(8, (8, 8)))
      >>> params = init_params(config, jax.random.key(0))
      >>> tokens = TokenBatch(jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool))
      >>> encode_query(config, params, tokens).kernels[0].shape
      (2, 8, 8)
    """
    vectors, output = apply_tower(
        config, params, tokens, "query", rng=rng, method=Tower.read
    )
    head: Any = _head(config)  # linen's apply promises less than it gives
    return head.apply({"params": params["head"]}, output.states, output.mask, vectors)


def encode_doc(
    config: HypencoderConfig,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> Float[Array, "B W"]:
    """Vectors of documents ``[B, T]``, several of one document beside each other.

    ``W`` is ``num_vectors`` times the towers' width; arguments as in
    :func:`encode_query`.
    """
    count = config.qnet.num_vectors
    if count == 1:
        return apply_tower(config, params, tokens, "doc", rng=rng)
    vectors = apply_tower(
        config, params, tokens, "doc", count, rng=rng, method=Tower.first_vectors
    )
    # [B, m, E] -> [B, m * E]
    return vectors.reshape(vectors.shape[0], -1)


def match(
    config: HypencoderConfig, queries: QNetWeights, docs: Float[Array, "N W"]
) -> Float[Array, "B N"]:
    """Scores of every query's q-net for every document, in float32.

    Args:
      config: the Hypencoder.
      queries: of :func:`encode_query`.
      docs: of :func:`encode_doc`.

    Raises:
      InputError: documents of another width.
    """
    return apply_all(config.qnet, queries, docs)


def _head(config: HypencoderConfig) -> HyperHead:
    return HyperHead(
        config.qnet,
        config.attention_scale,
        config.warm_start,
        dtype=jnp.dtype(config.backbone.dtype),
    )


def _init_head(config: HypencoderConfig, rng: jax.Array) -> Params:
    states = jnp.zeros((1, 1, config.backbone.hidden_size))
    vectors = jnp.zeros((1, embedding_size(config)))
    return _head(config).init(rng, states, jnp.ones((1, 1), bool), vectors)["params"]
