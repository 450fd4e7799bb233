"""T5's two stacks of layers.

Pre-norm layers: each block adds ``dropout(block(norm(x)))`` to ``x``.  The biases of
relative positions are computed once a stack and shared by its layers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxir.nn.layers import RMSNorm, dropout
from jaxir.nn.t5_config import T5Config
from jaxir.nn.t5_layers import (
    Attention,
    FeedForward,
    RelativePositions,
    Unembedding,
)
from jaxir.numerics import where_score

__all__ = ["Decoder", "Encoder", "same_text"]


class Encoder(nn.Module):
    """Embedded tokens to normalised states.

    Parameters: ``relpos_bias``, ``layers_{i}`` (or ``encoder``, stacked) and
    ``encoder_norm``.

    Args:
      config: the shape of the model.
    """

    config: T5Config

    def setup(self) -> None:
        """Declares the layers."""
        cfg = self.config
        self.relpos_bias = _relative_positions(cfg, bidirectional=True)
        if cfg.scan_layers:
            self.encoder = _EncoderLayer(cfg)
        else:
            self.layers = [_EncoderLayer(cfg) for _ in range(cfg.num_encoder_layers)]
        self.encoder_norm = RMSNorm(cfg.norm_eps, cfg.dtype)

    def __call__(
        self, states: Array, mask: Array, segments: Array | None, deterministic: bool
    ) -> Array:
        """``states`` ``[B, T, D]``, ``mask`` ``[B, T]``, ``segments`` ``[B, T]``."""
        cfg = self.config
        length = states.shape[1]
        if segments is not None:
            # [B, T] -> [B, T, T]
            mask = same_text(segments, segments) & mask[:, None]
        seen = (mask, self.relpos_bias(length, length))
        states = _dropped(self, states, deterministic)

        def step(layer: Any, states: Array, seen: _Seen) -> Array:
            return layer(states, *seen, deterministic)

        stack = self.encoder if cfg.scan_layers else self.layers
        states = _through(stack, cfg, cfg.num_encoder_layers, step, states, seen)
        states = self.encoder_norm(states)
        # T5X draws here, and only here, for each token anew.
        rng = None if deterministic else self.make_rng("dropout")
        return dropout(states, cfg.dropout_rate, rng)


class Decoder(nn.Module):
    """Embedded decoder tokens and encoder states to normalised states.

    Parameters: ``relpos_bias``, ``layers_{i}`` (or ``decoder``, stacked),
    ``decoder_norm`` and, unless the embedding table gives the logits, ``logits_dense``.

    Args:
      config: the shape of the model.
    """

    config: T5Config

    def setup(self) -> None:
        """Declares the layers."""
        cfg = self.config
        self.relpos_bias = _relative_positions(cfg, bidirectional=False)
        if cfg.scan_layers:
            self.decoder = _DecoderLayer(cfg)
        else:
            self.layers = [_DecoderLayer(cfg) for _ in range(cfg.num_decoder_layers)]
        self.decoder_norm = RMSNorm(cfg.norm_eps, cfg.dtype)
        if not cfg.logits_via_embedding:
            self.logits_dense = Unembedding(cfg.vocab_size, cfg.emb_dim)

    def __call__(
        self,
        states: Array,
        encoded: Array,
        mask: Array,
        segments: Array | None,
        deterministic: bool,
    ) -> Array:
        """States ``[B, S, D]``; ``mask`` ``[B, T]`` or ``[B, S, T]`` of the encoder."""
        batch, length, _ = states.shape
        bias = self.relpos_bias(length, length)
        # The future is hidden by the bias: one mask for all texts and heads.
        past = jnp.tril(jnp.ones((length, length), bool))[None]
        bias = where_score(bias, jnp.broadcast_to(past, bias.shape))
        if segments is None:
            own = jnp.ones((batch, length), bool)
        else:
            own = same_text(segments, segments)
        states = _dropped(self, states, deterministic)

        def step(layer: Any, states: Array, seen: _Seen) -> Array:
            return layer(states, *seen, deterministic)

        seen = (own, bias, encoded, mask)
        states = self._through(step, states, seen)
        return _dropped(self, self.decoder_norm(states), deterministic)

    def start(
        self, states: Array, encoded: Array, mask: Array, deterministic: bool
    ) -> Array:
        """One token a text: states ``[B, D]``, or ``[1, D]`` where all are equal."""

        def step(layer: Any, states: Array, seen: _Seen) -> Array:
            return layer.start(states, *seen, deterministic)

        states = _dropped(self, states[:, None], deterministic)[:, 0]
        if self.config.scan_layers:  # the states of a loop keep their shape
            states = jnp.broadcast_to(states, (encoded.shape[0], states.shape[1]))
        states = self._through(step, states, (encoded, mask))
        states = self.decoder_norm(states)
        return _dropped(self, states[:, None], deterministic)[:, 0]

    def _through(self, step: "_Step", states: Array, seen: "_Seen") -> Array:
        cfg = self.config
        stack = self.decoder if cfg.scan_layers else self.layers
        return _through(stack, cfg, cfg.num_decoder_layers, step, states, seen)


def same_text(queries: Array, keys: Array) -> Array:
    """Numbers of texts ``[B, T]`` and ``[B, S]``, 0 at padding: mask ``[B, T, S]``."""
    return (queries[:, :, None] == keys[:, None]) & (keys > 0)[:, None]


_Seen = tuple[Any, ...]  # arrays that every layer of a stack is given alike
_Step = Callable[[Any, Array, _Seen], Array]


def _through(
    layers: nn.Module | Sequence[nn.Module],
    config: T5Config,
    count: int,
    step: _Step,
    states: Array,
    seen: _Seen,
) -> Array:
    """``states`` through ``step`` of each layer: a loop here or in the program."""
    step = nn.remat(step, prevent_cse=not config.scan_layers) if config.remat else step
    if not isinstance(layers, nn.Module):
        for layer in layers:
            states = step(layer, states, seen)
        return states

    def body(layer: nn.Module, states: Array, seen: _Seen) -> tuple[Array, None]:
        return step(layer, states, seen), None

    loop = nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=count,
    )
    return loop(layers, states, seen)[0]


def _relative_positions(config: T5Config, *, bidirectional: bool) -> RelativePositions:
    return RelativePositions(
        config.num_heads,
        config.relpos_buckets,
        config.relpos_max_distance,
        bidirectional,
    )


def _dropped(
    module: "Encoder | Decoder | _EncoderLayer | _DecoderLayer",
    states: Array,
    deterministic: bool,
) -> Array:
    """Dropout of ``[B, T, D]``, one draw for all tokens of a text."""
    rng = None if deterministic else module.make_rng("dropout")
    return dropout(states, module.config.dropout_rate, rng, shared_axis=1)


def _attention(config: T5Config) -> Attention:
    return Attention(
        config.num_heads,
        config.head_dim,
        config.emb_dim,
        config.dropout_rate,
        config.dtype,
    )


def _feed_forward(config: T5Config) -> FeedForward:
    return FeedForward(
        config.mlp_dim, config.mlp_activations, config.dropout_rate, config.dtype
    )


class _EncoderLayer(nn.Module):
    """Self-attention and feed-forward blocks."""

    config: T5Config

    def setup(self) -> None:
        cfg = self.config
        self.pre_attention_layer_norm = RMSNorm(cfg.norm_eps, cfg.dtype)
        self.attention = _attention(cfg)
        self.pre_mlp_layer_norm = RMSNorm(cfg.norm_eps, cfg.dtype)
        self.mlp = _feed_forward(cfg)

    def __call__(
        self, states: Array, mask: Array, bias: Array, deterministic: bool
    ) -> Array:
        normal = self.pre_attention_layer_norm(states)
        update = self.attention(normal, normal, mask, bias, deterministic=deterministic)
        states = states + _dropped(self, update, deterministic)
        update = self.mlp(self.pre_mlp_layer_norm(states), deterministic=deterministic)
        return states + _dropped(self, update, deterministic)


class _DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder, and feed-forward blocks."""

    config: T5Config

    def setup(self) -> None:
        cfg = self.config
        self.pre_self_attention_layer_norm = RMSNorm(cfg.norm_eps, cfg.dtype)
        self.self_attention = _attention(cfg)
        self.pre_cross_attention_layer_norm = RMSNorm(cfg.norm_eps, cfg.dtype)
        self.encoder_decoder_attention = _attention(cfg)
        self.pre_mlp_layer_norm = RMSNorm(cfg.norm_eps, cfg.dtype)
        self.mlp = _feed_forward(cfg)

    def __call__(
        self,
        states: Array,
        own: Array,
        bias: Array,
        encoded: Array,
        mask: Array,
        deterministic: bool,
    ) -> Array:
        normal = self.pre_self_attention_layer_norm(states)
        update = self.self_attention(
            normal, normal, own, bias, deterministic=deterministic
        )
        states = states + _dropped(self, update, deterministic)
        normal = self.pre_cross_attention_layer_norm(states)
        update = self.encoder_decoder_attention(
            normal, encoded, mask, deterministic=deterministic
        )
        states = states + _dropped(self, update, deterministic)
        update = self.mlp(self.pre_mlp_layer_norm(states), deterministic=deterministic)
        return states + _dropped(self, update, deterministic)

    def start(
        self, states: Array, encoded: Array, mask: Array, deterministic: bool
    ) -> Array:
        """The layer over one token a text, ``[A, D]`` to ``[B, D]``; A is B or 1."""

        def add(states: Array, update: Array) -> Array:
            update = _dropped(self, update[:, None], deterministic)[:, 0]
            return jnp.broadcast_to(states, update.shape) + update

        normal = self.pre_self_attention_layer_norm(states)
        update = self.self_attention.to_itself(normal, deterministic=deterministic)
        states = add(states, update)
        normal = self.pre_cross_attention_layer_norm(states)
        update = self.encoder_decoder_attention.from_one_token(
            normal, encoded, mask, deterministic=deterministic
        )
        states = add(states, update)
        normal = self.pre_mlp_layer_norm(states)
        update = self.mlp(normal[:, None], deterministic=deterministic)[:, 0]
        return add(states, update)
