"""T5 1.0 and 1.1: an encoder, a decoder, and what a reranker needs of them cheaply.

Pre-norm transformers with root-mean-square norms, no biases, unscaled attention scores
and one table of relative positions for each stack (Raffel et al. 2020), equal to
Hugging Face's PyTorch models to 1e-4 in float32.

======= =================== ==================== =============
version mlp_activations     logits_via_embedding wi
======= =================== ==================== =============
1.0     ("relu",)           True, times D^-0.5   wi
1.1     ("gelu", "linear")  False                wi_0, wi_1
======= =================== ==================== =============

Parameters are T5X's, by name and shape: ``token_embedder/embedding``,
``encoder/{relpos_bias/rel_embedding,layers_{i}/...,encoder_norm/scale}``, the same of
``decoder`` and, in 1.1, ``decoder/logits_dense/kernel``.  With ``scan_layers`` the
layers of a stack are one entry, ``encoder/encoder`` and ``decoder/decoder``, whose
leaves begin with the axis of layers (see :func:`stack_layers`).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxir.errors import InputError
from jaxir.nn.bert import EncoderOutput
from jaxir.nn.layers import Embedding
from jaxir.nn.t5_config import T5Config
from jaxir.nn.t5_stacks import Decoder, Encoder, same_text
from jaxir.types import Params, TokenBatch

__all__ = [
    "T5",
    "T5Config",
    "T5Encoder",
    "init_encoder_params",
    "init_params",
    "logical_axes",
    "stack_layers",
    "unstack_layers",
    "with_layers",
]


class T5(nn.Module):
    """Encoder and decoder over one table of token vectors.

    Args:
      config: the shape of the model.

    Example::

      >>> config = T5Config(9, 8, 2, 4, 16, 1, 1)
      >>> tokens = TokenBatch(jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool))
      >>> variables = {"params": init_params(config, jax.random.key(0))}
      >>> start = jnp.zeros((2, 1), jnp.int32)
      >>> T5(config).apply(variables, tokens, start).shape
      (2, 1, 9)
      >>> encoded = T5(config).apply(variables, tokens, method=T5.encode)
      >>> T5(config).apply(variables, encoded, method=T5.decode_start).shape
      (2, 8)
    """

    config: T5Config

    def setup(self) -> None:
        """Declares the table and the two stacks."""
        self.token_embedder = _token_embedder(self.config)
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)

    def __call__(
        self,
        tokens: TokenBatch,
        decoder_ids: Int[Array, "B S"],
        *,
        segments: Int[Array, "B T"] | None = None,
        decoder_segments: Int[Array, "B S"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B S V"]:
        """Logits of the tokens that follow ``decoder_ids``; see the methods."""
        encoded = self.encode(tokens, segments=segments, deterministic=deterministic)
        states = self.decode(
            decoder_ids,
            encoded,
            segments=decoder_segments,
            encoder_segments=segments,
            deterministic=deterministic,
        )
        return self.logits(states)

    def encode(
        self,
        tokens: TokenBatch,
        *,
        segments: Int[Array, "B T"] | None = None,
        deterministic: bool = True,
    ) -> EncoderOutput:
        """Token states of the encoder.

        Args:
          tokens: ``[B, T]``.
          segments: ``[B, T]`` the number of each token's text, from 1, where texts are
            packed in one row, 0 at padding; attention stays inside a text.
          deterministic: false draws dropout from the rng ``dropout``.
        """
        states = self.token_embedder(jnp.asarray(tokens.ids))
        mask = jnp.asarray(tokens.mask)
        states = self.encoder(states, mask, segments, deterministic)
        return EncoderOutput(states, None, mask)

    def decode(
        self,
        ids: Int[Array, "B S"],
        encoded: EncoderOutput,
        *,
        segments: Int[Array, "B S"] | None = None,
        encoder_segments: Int[Array, "B T"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B S D"]:
        """Normalised states of the decoder; each token sees itself and those before.

        Args:
          ids: ``[B, S]`` decoder inputs: the targets shifted by one, the start token
            ``pad_id`` first.
          encoded: of :meth:`encode`.
          segments: ``[B, S]`` as in :meth:`encode`, where texts are packed.
          encoder_segments: ``[B, T]`` those given to :meth:`encode`.
          deterministic: false draws dropout.

        Raises:
          InputError: segments of one side only.
        """
        if (segments is None) != (encoder_segments is None):
            found = "one side's only"
            raise InputError("segments", found, "those of the encoder and the decoder")
        states = self.token_embedder(ids)
        seen: Array = encoded.mask
        if segments is not None and encoder_segments is not None:
            seen = same_text(segments, encoder_segments) & seen[:, None]
        return self.decoder(states, encoded.states, seen, segments, deterministic)

    def decode_start(
        self, encoded: EncoderOutput, *, deterministic: bool = True
    ) -> Float[Array, "B D"]:
        """:meth:`decode` of the start token alone: ``[B, D]``, the same to rounding.

        A text of one token attends to itself with probability 1, and its
        cross-attention needs no projection of the encoder's tokens (see
        ``nn.t5_layers.Attention.from_one_token``): a decoder step costs a few per cent
        of what it costs otherwise.
        """
        texts = 1 if deterministic else encoded.states.shape[0]
        start = jnp.full((texts,), self.config.pad_id, jnp.int32)
        states = self.token_embedder(start)
        return self.decoder.start(states, encoded.states, encoded.mask, deterministic)

    def logits(self, states: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Float32 scores of every token of the vocabulary."""
        rows = states.reshape(-1, states.shape[-1])
        if self.config.logits_via_embedding:
            table = self.token_embedder.embedding
            scores = jnp.einsum("ND,VD->NV", rows.astype(jnp.float32), table)
            scores = scores * self.config.emb_dim**-0.5
        else:
            scores = self.decoder.logits_dense(rows)
        return scores.reshape(*states.shape[:-1], scores.shape[-1])

    def logits_of(
        self, states: Float[Array, "B D"], ids: tuple[int, ...]
    ) -> Float[Array, "B ids"]:
        """:meth:`logits` of the tokens ``ids`` only, without computing the others.

        Raises:
          InputError: for an id outside the vocabulary.
        """
        size = self.config.vocab_size
        for token in ids:
            if not 0 <= token < size:
                raise InputError("ids", str(token), f"0 to {size - 1}")
        if not self.config.logits_via_embedding:
            return self.decoder.logits_dense.of(states, ids)
        rows = jnp.take(self.token_embedder.embedding, np.array(ids), axis=0)
        scores = jnp.einsum("BD,ND->BN", states.astype(jnp.float32), rows)
        return scores * self.config.emb_dim**-0.5


class T5Encoder(nn.Module):
    """The encoder of a :class:`T5` alone, with its table.

    Args:
      config: the shape of the model; what it says of the decoder is not used.

    Example::

      >>> config = T5Config(9, 8, 2, 4, 16, 1, 1)
      >>> tokens = TokenBatch(jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool))
      >>> params = init_encoder_params(config, jax.random.key(0))
      >>> T5Encoder(config).apply({"params": params}, tokens).states.shape
      (2, 4, 8)
    """

    config: T5Config

    def setup(self) -> None:
        """Declares the table and the stack."""
        self.token_embedder = _token_embedder(self.config)
        self.encoder = Encoder(self.config)

    def __call__(
        self,
        tokens: TokenBatch,
        *,
        segments: Int[Array, "B T"] | None = None,
        deterministic: bool = True,
    ) -> EncoderOutput:
        """As :meth:`T5.encode`."""
        states = self.token_embedder(jnp.asarray(tokens.ids))
        mask = jnp.asarray(tokens.mask)
        states = self.encoder(states, mask, segments, deterministic)
        return EncoderOutput(states, None, mask)


def init_params(config: T5Config, rng: jax.Array) -> Params:
    """Fresh parameters of a :class:`T5`, drawn as T5X draws them.

    Args:
      config: the shape of the model.
      rng: a random key.
    """
    start = jnp.zeros((1, 1), jnp.int32)
    return T5(config).init(rng, _one_token(), start)["params"]


def init_encoder_params(config: T5Config, rng: jax.Array) -> Params:
    """Fresh parameters of a :class:`T5Encoder`."""
    return T5Encoder(config).init(rng, _one_token())["params"]


def _one_token() -> TokenBatch:
    return TokenBatch(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))


def _token_embedder(config: T5Config) -> Embedding:
    return Embedding(
        config.vocab_size,
        config.emb_dim,
        config.dtype,
        nn.initializers.normal(stddev=1.0),
    )


_AXES: dict[str, tuple[str, ...]] = {
    "embedding": ("vocab", "embed"),
    "rel_embedding": ("heads", "relpos_buckets"),
    "scale": ("embed",),
    "query": ("embed", "joined_kv"),
    "key": ("embed", "joined_kv"),
    "value": ("embed", "joined_kv"),
    "out": ("joined_kv", "embed"),
    "wi": ("embed", "mlp"),
    "wi_0": ("embed", "mlp"),
    "wi_1": ("embed", "mlp"),
    "wo": ("mlp", "embed"),
    "logits_dense": ("embed", "vocab"),
}


def logical_axes(config: T5Config) -> Any:
    """T5X's names of the axes of every parameter: a tree like :func:`init_params`'.

    A rule table maps the names to axes of a mesh: ``mlp``, ``heads``, ``joined_kv``
    and ``vocab`` to ``"model"`` is T5X's first form of tensor parallelism.

    Example::

      >>> axes = logical_axes(T5Config(num_encoder_layers=1, num_decoder_layers=1))
      >>> axes["encoder"]["layers_0"]["mlp"]["wi"]["kernel"]
      ('embed', 'mlp')
    """
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))

    def name(path: tuple[Any, ...], leaf: Any) -> tuple[str, ...]:
        keys = [entry.key for entry in path]
        axes = _AXES[keys[-2] if keys[-1] == "kernel" else keys[-1]]
        return axes if len(axes) == len(leaf.shape) else ("layers", *axes)

    return jax.tree_util.tree_map_with_path(name, shapes)


def stack_layers(params: Params, *, axis: int = 0) -> Params:
    """Parameters for ``scan_layers``: each stack's layers as one entry.

    ``encoder/layers_{i}/...`` become ``encoder/encoder/...`` with an axis of layers,
    and so for the decoder: the names of T5X's ``examples/scalable_t5``.

    Args:
      params: of a :class:`T5` or :class:`T5Encoder` without ``scan_layers``.
      axis: where the axis of layers is put: 0 as ``scan_layers`` reads it, 1 as T5X
        writes it by default.
    """
    stacked = dict(params)
    for stack in _stacks(params):
        parts = dict(params[stack])
        count = sum(name.startswith("layers_") for name in parts)
        layers = [parts.pop(f"layers_{i}") for i in range(count)]
        parts[stack] = jax.tree.map(lambda *x: _stacked(x, axis), *layers)
        stacked[stack] = parts
    return stacked


def unstack_layers(params: Params, *, axis: int = 0) -> Params:
    """The inverse of :func:`stack_layers`."""
    plain = dict(params)
    for stack in _stacks(params):
        parts = dict(params[stack])
        layers = parts.pop(stack)
        count = jax.tree.leaves(layers)[0].shape[axis]
        for i in range(count):
            at = (slice(None),) * axis + (i,)
            parts[f"layers_{i}"] = jax.tree.map(lambda x, at=at: x[at], layers)
        plain[stack] = parts
    return plain


def with_layers(params: Params, *, scanned: bool) -> Params:
    """Parameters as ``scan_layers=scanned`` reads them, whichever form they have.

    Args:
      params: those of a T5 or of its encoder; other entries are kept.
      scanned: whether each stack's layers shall be one entry.
    """
    if all((stack in params[stack]) == scanned for stack in _stacks(params)):
        return params
    return stack_layers(params) if scanned else unstack_layers(params)


def _stacked(layers: Sequence[Any], axis: int) -> Any:
    """One array of several, on the host where they are: an 11B fits no device."""
    on_host = all(isinstance(x, np.ndarray) for x in layers)
    return (np if on_host else jnp).stack(layers, axis)


def _stacks(params: Params) -> list[str]:
    return [stack for stack in ("encoder", "decoder") if stack in params]
