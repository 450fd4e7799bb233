"""Layers every backbone is made of: dense, norms, embedding, activations.

Parameters are float32 whatever the compute ``dtype``; statistics are float32.  Kernels
are ``[in, out]``.  Dense layers see tokens as rows of one matrix: on a CPU the weight
gradient of a ``[B * T, D]`` matrix is 1.4 times as fast as that of ``[B, T, D]``.
"""

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxir.types import Size

__all__ = [
    "ACTIVATIONS",
    "Dense",
    "Embedding",
    "LayerNorm",
    "RMSNorm",
    "dropout",
    "dropout_mask",
    "gelu",
    "layer_norm",
    "rms_norm",
]

Initializer = jax.nn.initializers.Initializer

_kernel_init = nn.initializers.normal(stddev=0.02)


@jax.custom_vjp
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact Gaussian error linear unit of BERT, to 1e-6.

    Equation: ``x Phi(x) = x (1 + erf(x / sqrt 2)) / 2`` (Hendrycks and Gimpel 2016),
    computed in float32.  The backward pass keeps ``x`` only.

    Example::

      >>> [f"{y:.4f}" for y in gelu(jnp.array([-1.0, 0.0, 1.0]))]
      ['-0.1587', '0.0000', '0.8413']
    """
    wide = x.astype(jnp.float32)
    # Left of -5.5 the value is below 1e-6, but rounding of 1 + erf grows with |x|.
    return jnp.where(wide <= -5.5, 0.0, wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x: Array) -> Array:
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return gelu(x), x


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(wide)) * (1.0 / math.sqrt(2.0 * math.pi))
    slope = _normal_cdf(wide) + wide * density
    return ((gradient * slope).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "gelu": gelu,
        "gelu_new": jax.nn.gelu,
        "gelu_pytorch_tanh": jax.nn.gelu,
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
        "tanh": jnp.tanh,
    }
)
"""Activations by the name that a Hugging Face configuration gives them."""


class Dense(nn.Module):
    """Affine map of the last axis, ``x @ kernel + bias``.

    Parameters: ``kernel`` ``[in, out]`` and, with ``use_bias``, ``bias`` ``[out]``.

    Args:
      features: width of the result.
      use_bias: whether a bias is added.
      dtype: type of the product; the parameters are float32.
      kernel_init: draws the kernel; normal of deviation 0.02 (BERT's) by default.

    Example::

      >>> layer = Dense(features=3)
      >>> params = layer.init(jax.random.key(0), jnp.ones((2, 5, 4)))
      >>> layer.apply(params, jnp.ones((2, 5, 4))).shape
      (2, 5, 3)
    """

    features: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = _kernel_init

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch out"]:
        inputs = x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (inputs, self.features))
        # [..., inputs] -> [rows, inputs] -> [rows, features] -> [..., features]
        rows = x.reshape(-1, inputs).astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            rows = rows + bias.astype(self.dtype)[None, :]
        return rows.reshape(*x.shape[:-1], self.features)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "rows dim"],
    scale: Float[Array, " dim"],
    bias: Float[Array, " dim"],
    eps: float,
) -> Float[Array, "rows dim"]:
    """Layer normalisation of each row (Ba et al. 2016), in float32.

    Equation: ``(x - mean) / sqrt(var + eps) * scale + bias``; ``var`` is the biased
    variance.  The backward pass keeps ``x`` and two numbers a row, and reads the row
    twice; automatic differentiation would write five arrays of the size of ``x``.

    Args:
      x: ``[rows, dim]`` of any float type.
      scale: ``[dim]``.
      bias: ``[dim]``.
      eps: added to the variance.

    Example::

      >>> one = jnp.ones(2)
      >>> layer_norm(jnp.array([[1.0, 3.0]]), one, one, 1e-5).round(2).tolist()
      [[0.0, 2.0]]
    """
    return _layer_norm_forward(x, scale, bias, eps)[0]


def _layer_norm_forward(
    x: Array, scale: Array, bias: Array, eps: float
) -> tuple[Array, tuple[Array, ...]]:
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    centred = wide - mean
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + eps)
    normal = centred * inverse
    return normal * scale[None, :] + bias[None, :], (x, mean, inverse, scale)


def _layer_norm_backward(
    eps: float, kept: tuple[Array, ...], gradient: Array
) -> tuple[Array, Array, Array]:
    del eps  # it is in the inverse
    x, mean, inverse, scale = kept
    normal = (x.astype(jnp.float32) - mean) * inverse
    slope = gradient * scale[None, :]
    # The gradient is orthogonal to shifting and to stretching the row.
    shift = jnp.mean(slope, axis=-1, keepdims=True)
    stretch = jnp.mean(slope * normal, axis=-1, keepdims=True)
    d_x = inverse * (slope - shift - normal * stretch)
    d_scale = jnp.sum(gradient * normal, axis=0)
    return d_x.astype(x.dtype), d_scale, jnp.sum(gradient, axis=0)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


class LayerNorm(nn.Module):
    """:func:`layer_norm` of the last axis, with its parameters.

    Parameters: ``scale`` and ``bias``, ``[dim]``.

    Args:
      eps: added to the variance: 1e-12 in BERT, 1e-5 in RoBERTa.
      dtype: type of the result; statistics are float32.

    Example::

      >>> layer = LayerNorm(eps=1e-5)
      >>> params = layer.init(jax.random.key(0), jnp.ones((1, 2)))
      >>> layer.apply(params, jnp.array([[1.0, 3.0]])).round(2).tolist()
      [[-1.0, 1.0]]
    """

    eps: float = 1e-12
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        bias = self.param("bias", nn.initializers.zeros, (width,))
        rows = layer_norm(x.reshape(-1, width), scale, bias, self.eps)
        return rows.reshape(x.shape).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(
    x: Float[Array, "rows dim"], scale: Float[Array, " dim"], eps: float
) -> Float[Array, "rows dim"]:
    """Root-mean-square normalisation of each row (Zhang and Sennrich 2019), float32.

    Equation: ``x / sqrt(mean(x^2) + eps) * scale``.  T5's layer norm: nothing is
    subtracted and nothing added.  The backward pass keeps ``x`` and a number a row.

    Args:
      x: ``[rows, dim]`` of any float type.
      scale: ``[dim]``.
      eps: added to the mean square.

    Example::

      >>> rms_norm(jnp.array([[3.0, -3.0]]), jnp.ones(2), 1e-6).round(2).tolist()
      [[1.0, -1.0]]
    """
    return _rms_norm_forward(x, scale, eps)[0]


def _rms_norm_forward(
    x: Array, scale: Array, eps: float
) -> tuple[Array, tuple[Array, ...]]:
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return wide * inverse * scale[None, :], (x, inverse, scale)


def _rms_norm_backward(
    eps: float, kept: tuple[Array, ...], gradient: Array
) -> tuple[Array, Array]:
    del eps  # it is in the inverse
    x, inverse, scale = kept
    normal = x.astype(jnp.float32) * inverse
    slope = gradient * scale[None, :]
    # The gradient is orthogonal to stretching the row.
    stretch = jnp.mean(slope * normal, axis=-1, keepdims=True)
    d_x = inverse * (slope - normal * stretch)
    return d_x.astype(x.dtype), jnp.sum(gradient * normal, axis=0)


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


class RMSNorm(nn.Module):
    """:func:`rms_norm` of the last axis, with its parameter.

    Parameters: ``scale`` ``[dim]``.

    Args:
      eps: added to the mean square: 1e-6 in T5.
      dtype: type of the result; statistics are float32.

    Example::

      >>> layer = RMSNorm()
      >>> params = layer.init(jax.random.key(0), jnp.ones((1, 2)))
      >>> layer.apply(params, jnp.array([[3.0, -3.0]])).round(2).tolist()
      [[1.0, -1.0]]
    """

    eps: float = 1e-6
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,))
        rows = rms_norm(x.reshape(-1, width), scale, self.eps)
        return rows.reshape(x.shape).astype(self.dtype)


def dropout_mask(
    rng: PRNGKeyArray, rate: float, shape: tuple[int, ...]
) -> Bool[Array, "..."]:
    """True where dropout keeps: independent draws, true with probability ``1 - rate``.

    One 32-bit draw serves two entries, so the rate is met to 2^-16; drawing is what
    dropout costs on a CPU.

    Args:
      rng: a random key.
      rate: probability of false, in [0, 1).
      shape: of the result.
    """
    count = math.prod(shape)
    words = jax.random.bits(rng, ((count + 1) // 2,), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:count]
    return (halves >= round(rate * 2**16)).reshape(shape)


def dropout(
    x: Float[Array, "*shape"],
    rate: float,
    rng: PRNGKeyArray | None,
    *,
    shared_axis: int | None = None,
) -> Float[Array, "*shape"]:
    """Zeroes entries at ``rate`` and scales the rest up (Srivastava et al. 2014).

    Args:
      x: any shape.
      rate: probability that an entry is zeroed.
      rng: drives the draw; None drops nothing.
      shared_axis: axis whose entries share one draw (T5: the tokens of a text, so
        that a text loses whole dimensions); None draws for each entry.

    Example::

      >>> float(dropout(jnp.ones(10_000), 0.1, jax.random.key(0)).mean().round(1))
      1.0
    """
    if rng is None or rate == 0:
        return x
    shape = list(x.shape)
    if shared_axis is not None:
        shape[shared_axis] = 1
    kept = dropout_mask(rng, rate, tuple(shape))
    return jnp.where(kept, x / (1.0 - rate), 0.0)


class Embedding(nn.Module):
    """A table of vectors, looked up by id.

    Parameters: ``embedding`` ``[num_embeddings, features]``.  Ids outside the table
    are the caller's fault and give the nearest row.

    Args:
      num_embeddings: rows of the table.
      features: width of a row.
      dtype: type of the result.
      embedding_init: draws the table; normal of deviation 0.02 (BERT's) by default.

    Example::

      >>> layer = Embedding(num_embeddings=10, features=4)
      >>> params = layer.init(jax.random.key(0), jnp.array([[1, 2, 3]]))
      >>> layer.apply(params, jnp.array([[1, 2, 3]])).shape
      (1, 3, 4)
    """

    num_embeddings: int
    features: int
    dtype: DTypeLike = jnp.float32
    embedding_init: Initializer = _kernel_init

    def setup(self) -> None:
        """Declares the table."""
        shape = (self.num_embeddings, self.features)
        self.embedding = self.param("embedding", self.embedding_init, shape)

    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch features"]:
        return jnp.take(self.embedding, ids, axis=0, mode="clip").astype(self.dtype)

    def by_product(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch features"]:
        """The look-up as a product with one-hot rows, for tables of few rows.

        The gradient of a look-up is a scatter-add, which into a small table is up to
        2000 times slower on a GPU (jax#38806); that of a product is a product.
        """
        one_hot = jax.nn.one_hot(ids, self.num_embeddings, dtype=self.dtype)
        return one_hot @ self.embedding.astype(self.dtype)

    def first(self, start: int, length: Size) -> Float[Array, "length features"]:
        """Rows ``start`` to ``start + length``: positions, without a look-up."""
        return self.embedding[start : start + length].astype(self.dtype)
