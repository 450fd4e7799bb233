"""From token states to one vector, one score, or a distribution over the vocabulary.

Pooling functions take ``states [B, T, D]`` and ``mask [B, T]`` and give ``[B, D]`` in
float32; a text without real tokens gives a finite vector with a finite gradient.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxir.nn.layers import ACTIVATIONS, Dense, LayerNorm
from jaxir.numerics import safe_divide, where_score

__all__ = [
    "POOLING",
    "MaskedLanguageModelHead",
    "ScoreHead",
    "cls_pool",
    "last_pool",
    "max_pool",
    "mean_pool",
]


def cls_pool(
    states: Float[Array, "B T D"], mask: Bool[Array, "B T"]
) -> Float[Array, "B D"]:
    """The first token's state ([CLS], or <s>)."""
    del mask  # the first token is always there
    return states[:, 0].astype(jnp.float32)


def mean_pool(
    states: Float[Array, "B T D"], mask: Bool[Array, "B T"]
) -> Float[Array, "B D"]:
    """Mean of the real tokens' states; 0 for a text without tokens.

    Example::

      >>> states = jnp.array([[[1.0], [3.0], [9.0]]])
      >>> mean_pool(states, jnp.array([[True, True, False]])).tolist()
      [[2.0]]
    """
    kept = jnp.where(mask[..., None], states.astype(jnp.float32), 0.0)
    count = jnp.sum(mask, axis=1).astype(jnp.float32)
    return safe_divide(jnp.sum(kept, axis=1), count[:, None])


def max_pool(
    states: Float[Array, "B T D"], mask: Bool[Array, "B T"]
) -> Float[Array, "B D"]:
    """Largest value of each dimension over the real tokens; 0 without tokens."""
    states = states.astype(jnp.float32)
    where = jnp.broadcast_to(mask[..., None], states.shape)
    largest = jnp.max(where_score(states, where), axis=1)
    return jnp.where(jnp.any(mask, axis=1)[:, None], largest, 0.0)


def last_pool(
    states: Float[Array, "B T D"], mask: Bool[Array, "B T"]
) -> Float[Array, "B D"]:
    """The last real token's state; the first token's for a text without tokens."""
    length = states.shape[1]
    last = jnp.max(jnp.where(mask, jnp.arange(length)[None, :], 0), axis=1)
    # A product, for the gradient of a look-up would be a scatter-add.
    one_hot = jax.nn.one_hot(last, length, dtype=jnp.float32)
    return jnp.einsum("BT,BTD->BD", one_hot, states.astype(jnp.float32))


POOLING: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {"cls": cls_pool, "mean": mean_pool, "max": max_pool, "last": last_pool}
)
"""Pooling functions by the name a configuration gives them."""


class ScoreHead(nn.Module):
    """One float32 score a vector: dense to width 1.

    Parameters: ``dense/{kernel [D, 1], bias [1]}``.
    """

    @nn.compact
    def __call__(self, vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
        """Scores ``[...]`` of vectors ``[..., D]``."""
        return Dense(1, name="dense")(vectors.astype(jnp.float32))[..., 0]


class MaskedLanguageModelHead(nn.Module):
    """Logits over the vocabulary, as BERT's, RoBERTa's and DistilBERT's heads.

    Equation: ``LN(act(h W + b)) E' + c``, with ``E`` the word table when the decoder is
    tied, else a kernel of its own.

    Parameters: ``transform``, ``norm``, ``bias [V]`` and, untied, ``decoder/kernel``.

    Args:
      vocab_size: width of the result.
      activation: a name of ``nn.layers.ACTIVATIONS``.
      norm_eps: added to variances.
      dtype: compute type; the logits are float32.

    Example::

      >>> head = MaskedLanguageModelHead(vocab_size=5)
      >>> states = jnp.ones((1, 2, 4))
      >>> table = jnp.ones((5, 4))
      >>> params = head.init(jax.random.key(0), states, table)
      >>> head.apply(params, states, table).shape
      (1, 2, 5)
    """

    vocab_size: int
    activation: str = "gelu"
    norm_eps: float = 1e-12
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        states: Float[Array, "*batch D"],
        embedding: Float[Array, "V D"] | None = None,
        *,
        decode: bool = True,
    ) -> Float[Array, "*batch width"]:
        """Logits of states; ``embedding`` ties the decoder to the word table.

        Without ``decode`` what the decoder reads, ``[..., D]``, of which a caller takes
        products of his own.
        """
        width = states.shape[-1]
        hidden = Dense(width, dtype=self.dtype, name="transform")(states)
        hidden = ACTIVATIONS[self.activation](hidden)
        hidden = LayerNorm(self.norm_eps, self.dtype, name="norm")(hidden)
        if not decode:
            return hidden
        bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,))
        if embedding is None:
            decoder = Dense(
                self.vocab_size, use_bias=False, dtype=self.dtype, name="decoder"
            )
            logits = decoder(hidden).astype(jnp.float32)
        else:
            rows = hidden.reshape(-1, width)
            logits = jnp.einsum(
                "TD,VD->TV",
                rows,
                embedding.astype(self.dtype),
                preferred_element_type=jnp.float32,
            )
        return logits.reshape(*states.shape[:-1], -1) + jnp.expand_dims(
            bias, tuple(range(states.ndim - 1))
        )
