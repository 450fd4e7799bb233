"""BERT, RoBERTa and DistilBERT encoders: one module, the differences by configuration.

Post-norm transformer encoders (Devlin et al. 2019, Liu et al. 2019, Sanh et al. 2019),
equal to Hugging Face's PyTorch models to 1e-4 in float32 at every real token.

========== ================= ============== ======== ===============
family     position_offset   token types    norm_eps max_positions
========== ================= ============== ======== ===============
bert       0                 2              1e-12    512
roberta    2 (pad_id + 1)    1              1e-5     514
distilbert 0                 0 (no table)   1e-12    512
========== ================= ============== ======== ===============

Parameters: ``embeddings/{word,position,token_type}/embedding``, ``embeddings/norm``,
``layer_{i}/attention/{query,key,value,out}``, ``layer_{i}/attention_norm``,
``layer_{i}/mlp/{wi,wo}``, ``layer_{i}/mlp_norm`` and, with ``pooler``, ``pooler``.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxir.errors import InputError
from jaxir.nn.attention import SelfAttention
from jaxir.nn.layers import ACTIVATIONS, Dense, Embedding, LayerNorm, dropout
from jaxir.types import Params, TokenBatch

__all__ = ["BertConfig", "BertEncoder", "EncoderOutput", "init_params"]


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Shape and numerics of a BERT-like encoder; the defaults are BERT-base's.

    Attributes:
      vocab_size: rows of the word table.
      hidden_size: width of a token state.
      num_layers: transformer layers.
      num_heads: attention heads; divides ``hidden_size``.
      intermediate_size: width of the feed-forward layer.
      max_positions: rows of the position table, ``position_offset`` included.
      type_vocab_size: rows of the segment table; 0 for none (DistilBERT).
      position_offset: row of the first token's position; RoBERTa counts from 2.
      activation: a name of ``nn.layers.ACTIVATIONS``.
      norm_eps: added to variances.
      dropout: rate on embeddings and on the output of each block.
      attention_dropout: rate on attention probabilities.
      family: ``bert``, ``roberta`` or ``distilbert``: whose weights these are.
      pad_id: id of the padding token.
      pooler: whether the dense-tanh pooler over the first token exists.
      dtype: compute type, ``float32`` or ``bfloat16``; parameters are float32.
      remat: recompute each layer in the backward pass, to save memory.

    Raises:
      InputError: for sizes that do not fit together or an unknown name.

    Example::

      >>> BertConfig(hidden_size=384, num_heads=12, num_layers=6).head_size
      32
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_positions: int = 512
    type_vocab_size: int = 2
    position_offset: int = 0
    activation: str = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    family: str = "bert"
    pad_id: int = 0
    pooler: bool = False
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        """Checks what would otherwise fail deep inside a trace."""
        if self.num_heads < 1 or self.hidden_size % self.num_heads:
            raise InputError(
                "BertConfig.num_heads",
                f"{self.num_heads} heads for a width of {self.hidden_size}",
                "a divisor of hidden_size",
            )
        for name, value, known in (
            ("activation", self.activation, tuple(ACTIVATIONS)),
            ("family", self.family, ("bert", "roberta", "distilbert")),
            ("dtype", self.dtype, ("float32", "bfloat16")),
        ):
            if value not in known:
                expected = "one of " + ", ".join(known)
                raise InputError(f"BertConfig.{name}", repr(value), expected)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def max_length(self) -> int:
        """The most tokens that a text may have."""
        return self.max_positions - self.position_offset


class EncoderOutput(NamedTuple):
    """What an encoder says about a batch of texts.

    Attributes:
      states: ``[B, T, D]`` one vector a token; meaningless where ``mask`` is false.
      pooled: ``[B, D]`` the pooler's vector, or None without a pooler.
      mask: bool ``[B, T]`` true at real tokens.
    """

    states: Float[Array, "B T D"]
    pooled: Float[Array, "B D"] | None
    mask: Bool[Array, "B T"]


class BertEncoder(nn.Module):
    """Token ids to token states.

    Args:
      config: the shape of the model.

    Example::

      >>> config = BertConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2)
      >>> tokens = TokenBatch(jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool))
      >>> params = init_params(config, jax.random.key(0))
      >>> BertEncoder(config).apply({"params": params}, tokens).states.shape
      (2, 4, 8)
    """

    config: BertConfig

    @nn.compact
    def __call__(
        self, tokens: TokenBatch, *, deterministic: bool = True
    ) -> EncoderOutput:
        """Encodes ``[B, T]`` tokens; ``deterministic=False`` draws dropout.

        Raises:
          InputError: for texts longer than the position table.
        """
        cfg = self.config
        mask = jnp.asarray(tokens.mask)
        # [B, T] -> [B, T, D]
        states = _Embeddings(cfg, name="embeddings")(tokens, deterministic)
        # deterministic (argument 3 counting the module) selects code: static
        layer = nn.remat(_Layer, static_argnums=(3,)) if cfg.remat else _Layer
        for i in range(cfg.num_layers):
            states = layer(cfg, name=f"layer_{i}")(states, mask, deterministic)
        pooled = None
        if cfg.pooler:
            # [B, T, D] -> [B, D]
            pooler = Dense(cfg.hidden_size, dtype=cfg.dtype, name="pooler")
            pooled = jnp.tanh(pooler(states[:, 0]))
        return EncoderOutput(states, pooled, mask)


def init_params(config: BertConfig, rng: jax.Array) -> Params:
    """Fresh parameters: normal kernels of deviation 0.02, zero biases, unit scales.

    Args:
      config: the shape of the model.
      rng: a random key.
    """
    tokens = TokenBatch(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
    return BertEncoder(config).init(rng, tokens)["params"]


def _dropout_rng(module: nn.Module, deterministic: bool) -> jax.Array | None:
    """A fresh key of the rng ``dropout``, or None when nothing is to be dropped."""
    return None if deterministic else module.make_rng("dropout")


class _Embeddings(nn.Module):
    """Sum of word, position and segment vectors, normalised."""

    config: BertConfig

    @nn.compact
    def __call__(self, tokens: TokenBatch, deterministic: bool) -> Array:
        cfg = self.config
        ids = jnp.asarray(tokens.ids)
        length = ids.shape[-1]
        if length > cfg.max_length:
            raise InputError(
                "tokens",
                f"texts of {length} tokens",
                f"at most {cfg.max_length}",
                "truncate them or use a model with more positions",
            )

        def table(rows: int, name: str) -> Embedding:
            return Embedding(rows, cfg.hidden_size, dtype=cfg.dtype, name=name)

        states = table(cfg.vocab_size, "word")(ids)
        positions = table(cfg.max_positions, "position")
        # Padding stands on the right, so position = offset + index at real tokens.
        states = states + positions.first(cfg.position_offset, length)[None]
        if cfg.type_vocab_size:
            segments = table(cfg.type_vocab_size, "token_type")
            if tokens.type_ids is None:
                states = states + segments.first(0, 1)[None]
            else:
                states = states + segments.by_product(jnp.asarray(tokens.type_ids))
        states = LayerNorm(cfg.norm_eps, cfg.dtype, name="norm")(states)
        return dropout(states, cfg.dropout, _dropout_rng(self, deterministic))


class _Layer(nn.Module):
    """Attention and feed-forward blocks, each followed by residual and norm."""

    config: BertConfig

    @nn.compact
    def __call__(self, states: Array, mask: Array, deterministic: bool) -> Array:
        cfg = self.config
        attention = SelfAttention(
            cfg.num_heads, cfg.attention_dropout, cfg.dtype, name="attention"
        )
        update = attention(states, mask, deterministic=deterministic)
        update = dropout(update, cfg.dropout, _dropout_rng(self, deterministic))
        norm = LayerNorm(cfg.norm_eps, cfg.dtype, name="attention_norm")
        states = norm(states + update)
        update = _FeedForward(cfg, name="mlp")(states)
        update = dropout(update, cfg.dropout, _dropout_rng(self, deterministic))
        norm = LayerNorm(cfg.norm_eps, cfg.dtype, name="mlp_norm")
        return norm(states + update)


class _FeedForward(nn.Module):
    """Dense, activation, dense."""

    config: BertConfig

    @nn.compact
    def __call__(self, states: Array) -> Array:
        cfg = self.config
        hidden = Dense(cfg.intermediate_size, dtype=cfg.dtype, name="wi")(states)
        hidden = ACTIVATIONS[cfg.activation](hidden)
        return Dense(cfg.hidden_size, dtype=cfg.dtype, name="wo")(hidden)
