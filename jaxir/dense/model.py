"""The dense bi-encoder: query and document each become one vector.

A tower is an encoder, a pooling of its token states, optionally a projection, and the
similarity's normalisation; queries and documents share one tower or have one each.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxir.errors import InputError
from jaxir.nn.bert import BertConfig, BertEncoder
from jaxir.nn.heads import POOLING
from jaxir.nn.layers import Dense
from jaxir.numerics import l2_normalize
from jaxir.text import Templates
from jaxir.types import Params, TokenBatch

__all__ = [
    "PROJECTION_ACTIVATIONS",
    "SIMILARITIES",
    "TOWERS",
    "DenseConfig",
    "DenseTower",
    "adapt_params",
    "embedding_size",
    "encode_doc",
    "encode_query",
    "init_params",
    "tower_name",
]

SIMILARITIES = {"cosine": l2_normalize, "dot": lambda vectors: vectors}
"""What becomes of a vector so that a dot product is the similarity."""

PROJECTION_ACTIVATIONS = {"identity": lambda vectors: vectors, "tanh": jnp.tanh}
"""What follows the projection, by name."""

TOWERS = {"shared": ("shared",), "separate": ("query", "doc")}
"""Names of the parameter trees of each arrangement of towers."""


@dataclasses.dataclass(frozen=True)
class DenseConfig:
    """A dense bi-encoder; the defaults are those of all-MiniLM and its kind.

    Attributes:
      backbone: the encoder of each tower.
      pooling: a name of ``nn.heads.POOLING``: ``mean``, ``cls``, ``max`` or ``last``.
      similarity: ``cosine`` (vectors of length 1) or ``dot``.
      towers: ``shared`` or ``separate``.
      query_length: the most tokens of a query.
      doc_length: the most tokens of a document.
      query_template: how a query is written, ``{text}`` standing for it.
      doc_template: how a document is written.
      projection_size: width of the projection after pooling; None for no projection.
      projection_activation: ``identity`` or ``tanh``.

    Raises:
      InputError: for an unknown name, or lengths that the backbone cannot take.
    """

    backbone: BertConfig = dataclasses.field(default_factory=BertConfig)
    pooling: str = "mean"
    similarity: str = "cosine"
    towers: str = "shared"
    query_length: int = 32
    doc_length: int = 256
    query_template: str = "{text}"
    doc_template: str = "{text}"
    projection_size: int | None = None
    projection_activation: str = "identity"

    def __post_init__(self) -> None:
        """Checks names and lengths."""
        for name, known in (
            ("pooling", POOLING),
            ("similarity", SIMILARITIES),
            ("towers", TOWERS),
            ("projection_activation", PROJECTION_ACTIVATIONS),
        ):
            value = getattr(self, name)
            if value not in known:
                expected = "one of " + ", ".join(known)
                raise InputError(f"DenseConfig.{name}", repr(value), expected)
        for name in ("query_length", "doc_length"):
            value = getattr(self, name)
            if not 0 < value <= self.backbone.max_length:
                raise InputError(
                    f"DenseConfig.{name}",
                    f"{value} tokens",
                    f"1 to {self.backbone.max_length}, the backbone's positions",
                )
        Templates(query=self.query_template, doc=self.doc_template)  # checks them


class DenseTower(nn.Module):
    """One tower: tokens ``[B, T]`` to vectors ``[B, E]`` in float32.

    Parameters: ``backbone`` (a ``BertEncoder``'s) and, with a projection,
    ``projection/{kernel [D, E], bias [E]}``.

    Args:
      config: the bi-encoder.
    """

    config: DenseConfig

    @nn.compact
    def __call__(
        self, tokens: TokenBatch, *, deterministic: bool = True
    ) -> Float[Array, "B E"]:
        """Encodes texts; ``deterministic=False`` draws dropout."""
        cfg = self.config
        encoder = BertEncoder(cfg.backbone, name="backbone")
        # [B, T] -> [B, T, D]
        output = encoder(tokens, deterministic=deterministic)
        # [B, T, D] -> [B, D]
        vectors = POOLING[cfg.pooling](output.states, output.mask)
        if cfg.projection_size is not None:
            # [B, D] -> [B, E]
            vectors = Dense(cfg.projection_size, name="projection")(vectors)
            vectors = PROJECTION_ACTIVATIONS[cfg.projection_activation](vectors)
        return SIMILARITIES[cfg.similarity](vectors.astype(jnp.float32))


def embedding_size(config: DenseConfig) -> int:
    """Width ``E`` of the vectors.

    Example::

      >>> embedding_size(DenseConfig(projection_size=64))
      64
    """
    return config.projection_size or config.backbone.hidden_size


def tower_name(config: DenseConfig, side: Literal["query", "doc"]) -> str:
    """The parameter tree that encodes this side.

    Example::

      >>> tower_name(DenseConfig(), "query")
      'shared'
    """
    return side if side in TOWERS[config.towers] else "shared"


def init_params(config: DenseConfig, rng: jax.Array) -> Params:
    """Fresh parameters ``{"shared": tower}`` or ``{"query": tower, "doc": tower}``.

    Separate towers begin equal, as two copies of one pretrained encoder would.

    Args:
      config: the bi-encoder.
      rng: a random key.

    Example::

      >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2)
      >>> config = DenseConfig(tiny, towers="separate")
      >>> sorted(init_params(config, jax.random.key(0)))
      ['doc', 'query']
    """
    tokens = TokenBatch(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
    tower = DenseTower(config).init(rng, tokens)["params"]
    # Copies, for a training step that donates its state may not own one array twice.
    return {
        name: jax.tree.map(jnp.array, tower) if number else tower
        for number, name in enumerate(TOWERS[config.towers])
    }


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
    if TOWERS[config.towers] == TOWERS[target.towers]:
        return params
    if target.towers == "shared":
        raise InputError(
            "towers", "two trained towers cannot become one", 'towers="separate"'
        )
    return {
        name: jax.tree.map(jnp.array, params["shared"])
        for name in TOWERS[target.towers]
    }


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

      >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2)
      >>> config = DenseConfig(tiny)
      >>> params = init_params(config, jax.random.key(0))
      >>> tokens = TokenBatch(jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool))
      >>> encode_query(config, params, tokens).shape
      (2, 8)
    """
    return _encode(config, params, tokens, "query", rng)


def encode_doc(
    config: DenseConfig,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> Float[Array, "B E"]:
    """Vectors ``[B, E]`` of documents ``[B, T]``; arguments as :func:`encode_query`."""
    return _encode(config, params, tokens, "doc", rng)


def _encode(
    config: DenseConfig,
    params: Params,
    tokens: TokenBatch,
    side: Literal["query", "doc"],
    rng: jax.Array | None,
) -> Array:
    variables = {"params": params[tower_name(config, side)]}
    tower: Any = DenseTower(config)  # linen's apply promises less than it gives
    if rng is None:
        return tower.apply(variables, tokens)
    return tower.apply(variables, tokens, deterministic=False, rngs={"dropout": rng})
