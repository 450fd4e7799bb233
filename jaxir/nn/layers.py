"""Layers every backbone is made of: dense, layer norm, embedding, activations.

Parameters are float32 whatever the compute ``dtype``; statistics are float32.  Kernels
are ``[in, out]``.  Dense layers see tokens as rows of one matrix: on a CPU the weight
gradient of a ``[B * T, D]`` matrix is 1.4 times as fast as that of ``[B, T, D]``.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

__all__ = ["ACTIVATIONS", "Dense", "Embedding", "LayerNorm", "gelu"]

_kernel_init = nn.initializers.normal(stddev=0.02)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact Gaussian error linear unit of BERT.

    Equation: ``x Phi(x) = x (1 + erf(x / sqrt 2)) / 2`` (Hendrycks and Gimpel 2016).

    Example::

      >>> [f"{y:.4f}" for y in gelu(jnp.array([-1.0, 0.0, 1.0]))]
      ['-0.1587', '0.0000', '0.8413']
    """
    return jax.nn.gelu(x, approximate=False)


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

    Example::

      >>> layer = Dense(features=3)
      >>> params = layer.init(jax.random.key(0), jnp.ones((2, 5, 4)))
      >>> layer.apply(params, jnp.ones((2, 5, 4))).shape
      (2, 5, 3)
    """

    features: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch out"]:
        inputs = x.shape[-1]
        kernel = self.param("kernel", _kernel_init, (inputs, self.features))
        # [..., inputs] -> [rows, inputs] -> [rows, features] -> [..., features]
        rows = x.reshape(-1, inputs).astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            rows = rows + bias.astype(self.dtype)[None, :]
        return rows.reshape(*x.shape[:-1], self.features)


class LayerNorm(nn.Module):
    """Layer normalisation of the last axis (Ba et al. 2016), as PyTorch's.

    Equation: ``(x - mean) / sqrt(var + eps) * scale + bias``; ``var`` is the biased
    variance.  Statistics are float32; the result has ``dtype``.

    Args:
      eps: added to the variance: 1e-12 in BERT, 1e-5 in RoBERTa.
      dtype: type of the result.

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
        rows = x.reshape(-1, width).astype(jnp.float32)
        mean = jnp.mean(rows, axis=-1, keepdims=True)
        centred = rows - mean
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        rows = centred * jax.lax.rsqrt(variance + self.eps)
        rows = rows * scale[None, :] + bias[None, :]
        return rows.reshape(x.shape).astype(self.dtype)


class Embedding(nn.Module):
    """A table of vectors, looked up by id.

    Parameters: ``embedding`` ``[num_embeddings, features]``.  Ids outside the table
    are the caller's fault and give the nearest row.

    Args:
      num_embeddings: rows of the table.
      features: width of a row.
      dtype: type of the result.

    Example::

      >>> layer = Embedding(num_embeddings=10, features=4)
      >>> params = layer.init(jax.random.key(0), jnp.array([[1, 2, 3]]))
      >>> layer.apply(params, jnp.array([[1, 2, 3]])).shape
      (1, 3, 4)
    """

    num_embeddings: int
    features: int
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Declares the table."""
        shape = (self.num_embeddings, self.features)
        self.embedding = self.param("embedding", _kernel_init, shape)

    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch features"]:
        return jnp.take(self.embedding, ids, axis=0, mode="clip").astype(self.dtype)

    def by_product(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch features"]:
        """The look-up as a product with one-hot rows, for tables of few rows.

        The gradient of a look-up is a scatter-add, which into a small table is up to
        2000 times slower on a GPU (jax#38806); that of a product is a product.
        """
        one_hot = jax.nn.one_hot(ids, self.num_embeddings, dtype=self.dtype)
        return one_hot @ self.embedding.astype(self.dtype)

    def first(self, start: int, length: int) -> Float[Array, "length features"]:
        """Rows ``start`` to ``start + length``: positions, without a look-up."""
        return self.embedding[start : start + length].astype(self.dtype)
