"""The parts of T5: relative positions, attention, feed-forward, unembedding.

Names and shapes of parameters are those of T5X's ``examples/t5`` (Roberts et al. 2022),
and so are the initialisers and the places where dropout is drawn: T5X draws once for
all tokens of a text, which also makes the draw cheap.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxir.errors import InputError
from jaxir.nn.attention import attend
from jaxir.nn.layers import Dense, dropout
from jaxir.numerics import masked_softmax
from jaxir.types import Size

__all__ = [
    "MLP_ACTIVATIONS",
    "Attention",
    "FeedForward",
    "RelativePositions",
    "Unembedding",
    "relative_position_buckets",
]


def _identity(x: Array) -> Array:
    return x


MLP_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "gelu": jax.nn.gelu,  # the tanh form, as flax.linen.gelu: T5X's "gelu"
        "linear": _identity,
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
        "swish": jax.nn.silu,
    }
)
"""Activations by the name that T5X gives them; "gelu" is the tanh form."""

_attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
_mlp_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
_relpos_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def relative_position_buckets(
    distance: Int[np.ndarray, "*shape"],
    *,
    bidirectional: bool,
    num_buckets: int = 32,
    max_distance: int = 128,
) -> Int[np.ndarray, "*shape"]:
    """The bucket of each distance, key position minus query position.

    Half of the buckets are single distances, the other half grow logarithmically to
    ``max_distance`` (Raffel et al. 2020, section 2.1).  In the bidirectional form keys
    to the right have buckets of their own; otherwise they share bucket 0.

    Args:
      distance: integers, any shape.
      bidirectional: true in encoders.
      num_buckets: rows of the table of biases.
      max_distance: from here on all distances share the last bucket.

    Example::

      >>> distance = np.array([-200, -8, -1, 0, 1, 8, 200])
      >>> relative_position_buckets(distance, bidirectional=True).tolist()
      [15, 8, 1, 0, 17, 24, 31]
      >>> relative_position_buckets(distance, bidirectional=False).tolist()
      [31, 8, 1, 0, 0, 0, 0]
    """
    if bidirectional:
        num_buckets //= 2
        first = np.where(distance > 0, num_buckets, 0)
        away = np.abs(distance)
    else:
        first = np.zeros_like(distance)
        away = np.maximum(-distance, 0)
    single = num_buckets // 2
    # float32 with T5X's epsilon: the end of a bucket must not depend on rounding
    ratio = np.maximum(away, 1).astype(np.float32) / single + np.finfo(np.float32).eps
    steps = np.log(ratio) / np.log(max_distance / single) * (num_buckets - single)
    coarse = np.minimum(single + steps.astype(np.int32), num_buckets - 1)
    return (first + np.where(away < single, away, coarse)).astype(np.int32)


class RelativePositions(nn.Module):
    """One bias for each head and each bucket of distances.

    Parameters: ``rel_embedding`` ``[H, num_buckets]``.

    Args:
      num_heads: heads.
      num_buckets: see :func:`relative_position_buckets`.
      max_distance: see :func:`relative_position_buckets`.
      bidirectional: true in encoders.

    Example::

      >>> layer = RelativePositions(num_heads=2, bidirectional=True)
      >>> layer.apply(layer.init(jax.random.key(0), 3, 4), 3, 4).shape
      (2, 3, 4)
    """

    num_heads: int
    num_buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True

    @nn.compact
    def __call__(self, queries: Size, keys: Size) -> Float[Array, "H T S"]:
        """The bias ``[H, T, S]`` of ``T`` query and ``S`` key positions, float32."""
        shape = (self.num_heads, self.num_buckets)
        table = self.param("rel_embedding", _relpos_init, shape)
        if not (isinstance(queries, int) and isinstance(keys, int)):
            return self._looked_up(table, queries, keys)
        # A bias depends on the distance only: look up T + S - 1 distances by a product
        # with one-hot rows (the gradient of a look-up is a scatter, slow on a GPU).
        distance = np.arange(queries + keys - 1) - (queries - 1)
        one_hot = jax.nn.one_hot(self._buckets(distance), self.num_buckets, axis=0)
        row = jnp.dot(table, one_hot, precision=jax.lax.Precision.HIGHEST)
        return _shifted_rows(row, queries, keys)

    def _buckets(self, distance: np.ndarray) -> np.ndarray:
        return relative_position_buckets(
            distance,
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )

    def _looked_up(self, table: Array, queries: Size, keys: Size) -> Array:
        """The bias of symbolic lengths: distances are numbers of the program's own."""
        farthest = self.max_distance
        row = table[:, self._buckets(np.arange(-farthest, farthest + 1))]
        distance = jnp.arange(keys)[None, :] - jnp.arange(queries)[:, None]
        return row[:, jnp.clip(distance, -farthest, farthest) + farthest]


def _shifted_rows(row: Array, queries: int, keys: int) -> Array:
    """``[H, T + S - 1]`` to ``[H, T, S]``: entry ``(t, s)`` is ``row[s - t + T - 1]``.

    Rows of width ``W`` cut from copies of width ``W + 1`` shift by one each; no gather.
    """
    heads, width = row.shape
    copies = jnp.pad(row, ((0, 0), (0, 1)))[:, None]
    copies = jnp.broadcast_to(copies, (heads, queries, width + 1))
    flat = copies.reshape(heads, queries * (width + 1))[:, : queries * width]
    return flat.reshape(heads, queries, width)[:, :, queries - 1 :]


class Attention(nn.Module):
    """T5's attention: no biases, scores not divided by ``sqrt C``.

    Parameters: ``query``, ``key``, ``value`` ``[D, H * C]`` and ``out`` ``[H * C, D]``,
    each a ``kernel``.

    Args:
      num_heads: heads.
      head_dim: width of a head; ``H * C`` need not be ``D``.
      features: width ``D`` of the result.
      dropout_rate: rate on the attention probabilities, one draw for all queries.
      dtype: compute type.
    """

    num_heads: int
    head_dim: int
    features: int
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Declares the four projections."""
        joined = self.num_heads * self.head_dim
        # T5 folds the scores' 1 / sqrt C into the query's initial values.
        query_init = nn.initializers.variance_scaling(
            1.0 / self.head_dim, "fan_in", "normal"
        )
        self.query = Dense(joined, False, self.dtype, query_init)
        self.key = Dense(joined, False, self.dtype, _attention_init)
        self.value = Dense(joined, False, self.dtype, _attention_init)
        self.out = Dense(self.features, False, self.dtype, _attention_init)

    def __call__(
        self,
        states: Float[Array, "B T D"],
        others: Float[Array, "B S D"],
        mask: Bool[Array, "B S"] | Bool[Array, "B T S"],
        bias: Float[Array, "H T S"] | None = None,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B T D"]:
        """Attends from ``states`` to ``others`` (the same for self-attention)."""
        # [B, T, D] -> [B, T, H, C]
        query = self._heads(self.query(states))
        key = self._heads(self.key(others))
        value = self._dropped(self._heads(self.value(others)), deterministic)
        context = attend(query, key, value, mask, bias=bias, scale=1.0)
        # [B, T, H, C] -> [B, T, D]
        return self.out(context.reshape(*states.shape[:2], -1))

    def to_itself(
        self, states: Float[Array, "B D"], *, deterministic: bool = True
    ) -> Float[Array, "B D"]:
        """Self-attention of texts of one token: it sees itself with probability 1."""
        value = self._dropped(self._heads(self.value(states)), deterministic)
        return self.out(value.reshape(states.shape[0], -1))

    def from_one_token(
        self,
        states: Float[Array, "A D"],
        others: Float[Array, "B S D"],
        mask: Bool[Array, "B S"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "B D"]:
        """Attention of one token a text, without projecting every key and value.

        The products are taken in another order, ``q . (x_s W_k) = (q W_k') . x_s`` and
        ``sum_s a_s (x_s W_v) = (sum_s a_s x_s) W_v`` in each head, so that the cost of
        a key falls from ``4 D H C`` to ``4 D H`` operations.  Exact.

        Args:
          states: ``[A, D]`` with ``A`` the batch, or 1 where it is the same for all.
          others: ``[B, S, D]``.
          mask: ``[B, S]`` true at real tokens.
          deterministic: whether nothing is dropped.
        """
        key, value = (
            self._heads(dense.get_variable("params", "kernel").astype(self.dtype))
            for dense in (self.key, self.value)
        )
        others = others.astype(self.dtype)
        # [A, H, C] x [D, H, C] -> [A, H, D] -> [B, H, D]
        query = jnp.einsum("AHC,DHC->AHD", self._heads(self.query(states)), key)
        query = jnp.broadcast_to(query, (others.shape[0], *query.shape[1:]))
        scores = jnp.einsum(
            "BHD,BSD->BHS", query, others, preferred_element_type=jnp.float32
        )
        probs = masked_softmax(scores, jnp.broadcast_to(mask[:, None], scores.shape))
        if not deterministic:
            rng = self.make_rng("dropout")
            probs = dropout(probs, self.dropout_rate, rng)
        # [B, H, S] x [B, S, D] -> [B, H, D] x [D, H, C] -> [B, H, C]
        mean = jnp.einsum("BHS,BSD->BHD", probs.astype(self.dtype), others)
        context = jnp.einsum("BHD,DHC->BHC", mean, value)
        return self.out(context.reshape(others.shape[0], -1))

    def _heads(self, x: Array) -> Array:
        """``[..., H * C]`` to ``[..., H, C]``."""
        return x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)

    def _dropped(self, value: Array, deterministic: bool) -> Array:
        """Dropout of probabilities, drawn once for all queries: that of value rows."""
        if deterministic:
            return value
        rng = self.make_rng("dropout")
        return dropout(value, self.dropout_rate, rng, shared_axis=-1)


class FeedForward(nn.Module):
    """Dense layers side by side, the product of their activations, a dense layer.

    One activation is the plain form, ``act(x wi) wo``; two the gated one of T5 1.1,
    ``(gelu(x wi_0) * (x wi_1)) wo`` (Shazeer 2020).

    Parameters: ``wi`` ``[D, F]``, or ``wi_0`` and ``wi_1``; ``wo`` ``[F, D]``.

    Args:
      mlp_dim: the inner width ``F``.
      activations: names of :data:`MLP_ACTIVATIONS`.
      dropout_rate: rate on the inner activations, one draw for all tokens.
      dtype: compute type.
    """

    mlp_dim: int
    activations: tuple[str, ...] = ("relu",)
    dropout_rate: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, states: Float[Array, "B T D"], *, deterministic: bool = True
    ) -> Float[Array, "B T D"]:
        hidden: Array | None = None
        for i, activation in enumerate(self.activations):
            name = "wi" if len(self.activations) == 1 else f"wi_{i}"
            part = Dense(self.mlp_dim, False, self.dtype, _mlp_init, name=name)(states)
            part = MLP_ACTIVATIONS[activation](part)
            hidden = part if hidden is None else hidden * part
        if hidden is None:
            raise InputError("activations", "none", "at least one name")
        rng = None if deterministic else self.make_rng("dropout")
        hidden = dropout(hidden, self.dropout_rate, rng, shared_axis=1)
        wo = Dense(states.shape[-1], False, self.dtype, _mlp_init, name="wo")
        return wo(hidden)


class Unembedding(nn.Module):
    """States to float32 logits by a matrix of its own (T5 1.1).

    Parameters: ``kernel`` ``[D, V]``.

    Args:
      vocab_size: columns.
      features: width of a state.
    """

    vocab_size: int
    features: int

    def setup(self) -> None:
        """Declares the matrix."""
        shape = (self.features, self.vocab_size)
        self.kernel = self.param("kernel", _mlp_init, shape)

    def __call__(self, states: Float[Array, "N D"]) -> Float[Array, "N V"]:
        return states.astype(jnp.float32) @ self.kernel

    def of(
        self, states: Float[Array, "N D"], ids: tuple[int, ...]
    ) -> Float[Array, "N ids"]:
        """The columns ``ids`` only."""
        columns = jnp.take(self.kernel, np.array(ids), axis=1)
        return states.astype(jnp.float32) @ columns
