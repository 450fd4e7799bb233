"""Towers: an encoder, a pooling of its token states, a projection, a similarity.

What the bi-encoder and every family whose documents are vectors have in common.
Queries and documents share one tower or have one each; a configuration says which by
its fields ``backbone``, ``pooling``, ``similarity``, ``projection_size``,
``projection_activation`` and ``towers``.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxir.errors import InputError
from jaxir.nn.bert import BertConfig, BertEncoder, EncoderOutput
from jaxir.nn.heads import POOLING
from jaxir.nn.layers import Dense, LayerNorm
from jaxir.numerics import l2_normalize
from jaxir.text import Templates
from jaxir.types import Params, TokenBatch

__all__ = [
    "PROJECTION_ACTIVATIONS",
    "SIMILARITIES",
    "TOWERS",
    "Tower",
    "TowersConfig",
    "adapt_towers",
    "apply_tower",
    "check_towers",
    "embedding_size",
    "init_towers",
    "tower_name",
]

SIMILARITIES = {"cosine": l2_normalize, "dot": lambda vectors: vectors}
"""What becomes of a vector so that a dot product is the similarity."""

PROJECTION_ACTIVATIONS = {"identity": lambda vectors: vectors, "tanh": jnp.tanh}
"""What follows the projection, by name; ``layer_norm`` does too, and has parameters."""

_LAYER_NORM = "layer_norm"
_NORM_EPS = 1e-5  # PyTorch's, whatever the backbone's

TOWERS = {"shared": ("shared",), "separate": ("query", "doc")}
"""Names of the parameter trees of each arrangement of towers."""


@dataclasses.dataclass(frozen=True)
class TowersConfig:
    """Towers of both sides; the defaults are those of all-MiniLM and its kind.

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
      projection_activation: ``identity``, ``tanh`` or ``layer_norm``.

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
        check_towers(self)


class Tower(nn.Module):
    """One tower: tokens ``[B, T]`` to vectors ``[B, E]`` in float32.

    Parameters: ``backbone`` (a ``BertEncoder``'s) and, with a projection,
    ``projection/{kernel [D, E], bias [E]}``; with ``layer_norm`` behind it
    ``projection_norm/{scale [E], bias [E]}``.

    Args:
      config: of the backbone.
      pooling: a name of ``nn.heads.POOLING``: ``mean``, ``cls``, ``max`` or ``last``.
      similarity: a name of :data:`SIMILARITIES`.
      projection_size: width of the projection after pooling; None for no projection.
      projection_activation: a name of :data:`PROJECTION_ACTIVATIONS`, or
        ``layer_norm``.

    Example::

      >>> tower = Tower(BertConfig(9, hidden_size=8, num_layers=1, num_heads=2))
      >>> tokens = TokenBatch(jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool))
      >>> params = tower.init(jax.random.key(0), tokens)
      >>> tower.apply(params, tokens).shape
      (2, 8)
      >>> tower.apply(params, tokens, 3, method=Tower.first_vectors).shape
      (2, 3, 8)
    """

    config: BertConfig
    pooling: str = "mean"
    similarity: str = "cosine"
    projection_size: int | None = None
    projection_activation: str = "identity"

    def setup(self) -> None:
        """Declares the encoder and the projection."""
        self.backbone = BertEncoder(self.config)
        if self.projection_size is not None:
            self.projection = Dense(self.projection_size)
            if self.projection_activation == _LAYER_NORM:
                self.projection_norm = LayerNorm(_NORM_EPS)

    def __call__(
        self, tokens: TokenBatch, *, deterministic: bool = True
    ) -> Float[Array, "B E"]:
        """Encodes texts; ``deterministic=False`` draws dropout."""
        return self.read(tokens, deterministic=deterministic)[0]

    def read(
        self, tokens: TokenBatch, *, deterministic: bool = True
    ) -> tuple[Float[Array, "B E"], EncoderOutput]:
        """The vectors of texts, and the token states that they were pooled from."""
        # [B, T] -> [B, T, D]
        output = self.backbone(tokens, deterministic=deterministic)
        # [B, T, D] -> [B, D] -> [B, E]
        return self._finish(POOLING[self.pooling](output.states, output.mask)), output

    def first_vectors(
        self, tokens: TokenBatch, count: int, *, deterministic: bool = True
    ) -> Float[Array, "B m E"]:
        """The first ``count`` tokens' states as vectors (ME-BERT, Luan et al. 2021).

        A text of fewer tokens repeats its first vector, which changes no maximum over
        its vectors.
        """
        output = self.backbone(tokens, deterministic=deterministic)
        length = output.mask.shape[1]
        # Of a symbolic length no more is known than that there is one token.
        missing = max(0, count - length) if isinstance(length, int) else count - 1
        # [B, T, D] -> [B, m, D]
        states = jnp.pad(output.states, ((0, 0), (0, missing), (0, 0)))[:, :count]
        real = jnp.pad(output.mask, ((0, 0), (0, missing)))[:, :count, None]
        states = jnp.where(real, states, states[:, :1])
        # [B, m, D] -> [B, m, E]
        return self._finish(states.astype(jnp.float32))

    def _finish(self, vectors: Array) -> Array:
        """Projection and similarity of pooled states."""
        if self.projection_size is not None:
            vectors = self.projection(vectors)
            if self.projection_activation == _LAYER_NORM:
                vectors = self.projection_norm(vectors)
            else:
                vectors = PROJECTION_ACTIVATIONS[self.projection_activation](vectors)
        return SIMILARITIES[self.similarity](vectors.astype(jnp.float32))


def embedding_size(config: Any) -> int:
    """Width ``E`` of the vectors of a configuration's towers.

    Example::

      >>> import types
      >>> backbone = BertConfig(hidden_size=384, num_heads=12)
      >>> config = types.SimpleNamespace(backbone=backbone, projection_size=None)
      >>> embedding_size(config)
      384
    """
    return config.projection_size or config.backbone.hidden_size


def tower_name(config: Any, side: Literal["query", "doc"]) -> str:
    """The parameter tree that encodes this side.

    Args:
      config: says in ``towers`` how many there are.
      side: whose text is encoded.

    Example::

      >>> import types
      >>> tower_name(types.SimpleNamespace(towers="shared"), "query")
      'shared'
    """
    return side if side in TOWERS[config.towers] else "shared"


def check_towers(config: Any) -> None:
    """Checks the names, lengths and templates of a configuration's towers.

    Args:
      config: has the fields that this module's head names, ``query_length``,
        ``doc_length``, ``query_template`` and ``doc_template``.

    Raises:
      InputError: for an unknown name, or lengths that the backbone cannot take.
    """
    where = type(config).__name__
    for name, known in (
        ("pooling", POOLING),
        ("similarity", SIMILARITIES),
        ("towers", TOWERS),
        ("projection_activation", (*PROJECTION_ACTIVATIONS, _LAYER_NORM)),
    ):
        value = getattr(config, name)
        if value not in known:
            expected = "one of " + ", ".join(known)
            raise InputError(f"{where}.{name}", repr(value), expected)
    if config.projection_activation == _LAYER_NORM and config.projection_size is None:
        found = f"{_LAYER_NORM!r} without a projection"
        raise InputError(f"{where}.projection_activation", found, "a projection_size")
    for name in ("query_length", "doc_length"):
        value = getattr(config, name)
        if not 0 < value <= config.backbone.max_length:
            raise InputError(
                f"{where}.{name}",
                f"{value} tokens",
                f"1 to {config.backbone.max_length}, the backbone's positions",
            )
    Templates(query=config.query_template, doc=config.doc_template)  # checks them


def init_towers(config: Any, rng: jax.Array) -> Params:
    """Fresh parameters ``{"shared": tower}`` or ``{"query": tower, "doc": tower}``.

    Separate towers begin equal, as two copies of one pretrained encoder would.

    Args:
      config: has the fields that this module's head names.
      rng: a random key.
    """
    tokens = TokenBatch(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
    tower = _tower(config).init(rng, tokens)["params"]
    # Copies, for a training step that donates its state may not own one array twice.
    return {
        name: jax.tree.map(jnp.array, tower) if number else tower
        for number, name in enumerate(TOWERS[config.towers])
    }


def adapt_towers(params: Params, towers: str) -> Params:
    """The same towers in another arrangement: one shared tower becomes two equal ones.

    Args:
      params: of :func:`init_towers`.
      towers: a name of :data:`TOWERS`.

    Raises:
      InputError: two towers cannot become one.

    Example::

      >>> sorted(adapt_towers({"shared": {}}, "separate"))
      ['doc', 'query']
    """
    if set(params) == set(TOWERS[towers]):
        return params
    if towers == "shared":
        raise InputError(
            "towers", "two trained towers cannot become one", 'towers="separate"'
        )
    return {name: jax.tree.map(jnp.array, params["shared"]) for name in TOWERS[towers]}


def apply_tower(
    config: Any,
    params: Params,
    tokens: TokenBatch,
    side: Literal["query", "doc"],
    *args: Any,
    rng: jax.Array | None = None,
    method: Any = None,
) -> Any:
    """What the tower of one side gives for texts ``[B, T]``.

    Args:
      config: has the fields that this module's head names.
      params: of :func:`init_towers`, other parts beside them or not.
      tokens: the texts.
      side: which tower.
      *args: further arguments of the method.
      rng: draws dropout when given.
      method: a method of :class:`Tower`; None for its vectors ``[B, E]``.
    """
    tower: Any = _tower(config)  # linen's apply promises less than it gives
    return tower.apply(
        {"params": params[tower_name(config, side)]},
        tokens,
        *args,
        deterministic=rng is None,
        rngs={} if rng is None else {"dropout": rng},
        method=method,
    )


def _tower(config: Any) -> Tower:
    return Tower(
        config.backbone,
        config.pooling,
        config.similarity,
        config.projection_size,
        config.projection_activation,
    )
