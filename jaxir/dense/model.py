"""The dense bi-encoder: query and document each become one vector.

A tower (``nn.tower``) is an encoder, a pooling of its token states, optionally a
projection, and the similarity's normalisation; queries and documents share one tower or
have one each.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxir.nn.tower import (
    TowersConfig,
    adapt_towers,
    apply_tower,
    embedding_size,
    init_towers,
    tower_name,
)
from jaxir.types import Params, TokenBatch

__all__ = [
    "DenseConfig",
    "adapt_params",
    "embedding_size",
    "encode_doc",
    "encode_query",
    "init_params",
    "match",
    "tower_name",
]


@dataclasses.dataclass(frozen=True)
class DenseConfig(TowersConfig):
    """A dense bi-encoder: its towers are all it is; ``TowersConfig`` has the fields."""


def init_params(config: DenseConfig, rng: jax.Array) -> Params:
    """Fresh parameters ``{"shared": tower}`` or ``{"query": tower, "doc": tower}``.

    Separate towers begin equal, as two copies of one pretrained encoder would.

    Args:
      config: the bi-encoder.
      rng: a random key.

    Example::

      >>> from jaxir.nn.bert import BertConfig
      >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2)
      >>> config = DenseConfig(tiny, towers="separate")
      >>> sorted(init_params(config, jax.random.key(0)))
      ['doc', 'query']
    """
    return init_towers(config, rng)


def adapt_params(config: DenseConfig, params: Params, target: DenseConfig) -> Params:
    """Parameters of one configuration for another that starts from them.

    One shared tower becomes two equal ones; everything else stays.

    Args:
      config: what the parameters belong to.
      params: the parameters.
      target: what they shall be for.

    Raises:
      InputError: two towers cannot become one.
    """
    return adapt_towers(params, target.towers)


def encode_query(
    config: DenseConfig,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> Float[Array, "B E"]:
    """Vectors ``[B, E]`` of queries ``[B, T]``.

    Args:
      config: the bi-encoder.
      params: of :func:`init_params`.
      tokens: the queries.
      rng: draws dropout when given.

    Example::

      >>> from jaxir.nn.bert import BertConfig
      >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2)
      >>> config = DenseConfig(tiny)
      >>> params = init_params(config, jax.random.key(0))
      >>> tokens = TokenBatch(jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool))
      >>> encode_query(config, params, tokens).shape
      (2, 8)
    """
    return apply_tower(config, params, tokens, "query", rng=rng)


def encode_doc(
    config: DenseConfig,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> Float[Array, "B E"]:
    """Vectors ``[B, E]`` of documents ``[B, T]``; arguments as :func:`encode_query`."""
    return apply_tower(config, params, tokens, "doc", rng=rng)


def match(
    config: DenseConfig, queries: Float[Array, "B E"], docs: Float[Array, "N E"]
) -> Float[Array, "B N"]:
    """Scores of every query with every document: inner products, in float32.

    Args:
      config: the bi-encoder.
      queries: of :func:`encode_query`.
      docs: of :func:`encode_doc`.

    Example::

      >>> match(DenseConfig(), jnp.eye(2), 3 * jnp.eye(2)).tolist()
      [[3.0, 0.0], [0.0, 3.0]]
    """
    del config  # the similarity's normalisation is in the vectors
    return jnp.einsum("BE,NE->BN", queries, docs, precision="highest")
