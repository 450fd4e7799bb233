"""The hyperhead: from the token states of a query to the weights of its q-net.

Each tensor of the q-net is generated apart, by one single-head attention of learned
queries over the token states (Killingback et al. 2025, "Hypencoder", section 3.3)::

    K = E A + a,  V = E C + c                                     (2)
    H = softmax(Q K' / scale) V    over the query's real tokens   (3)
    W' = LN(ReLU(H)) P + p + base                             (4), (5)

``E [T, D]`` are the states, ``Q`` and ``base`` are ``[out, in]`` for a kernel and have
one row for a bias and for the output weights; LN has no parameters.  A kernel is the
transpose ``[in, out]`` of what is generated.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxir.errors import InputError
from jaxir.hyper.qnet import QNetSpec, QNetWeights, standardize
from jaxir.numerics import masked_softmax

__all__ = ["SCALES", "HyperHead", "check_head"]

SCALES: Mapping[str, Callable[[int, int], float]] = MappingProxyType(
    {
        "released": lambda rows, width: math.sqrt(rows),
        "paper": lambda rows, width: math.sqrt(width),
    }
)
"""What divides attention logits, from the rows of the tensor and the states' width.

``released``: the authors' code divides by the root of the generated tensor's output
size, hence by 1 for a bias and for the output weights.  ``paper``: equation 3 divides
by the root of the states' width everywhere.
"""

_NORM_EPS = 1e-5

# Scores follow from what is generated: float32 is not cut to TF32 or bfloat16, as
# accelerators do unless told.
_PRECISION = "highest"

# PyTorch's default for a linear layer: uniform within 1 / sqrt(inputs).
_linear_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class _Tensor(nn.Module):
    """Generates one tensor ``[rows, width]`` a query.

    Args:
      rows: learned queries, one for each row.
      width: width of a row.
      scale: a name of :data:`SCALES`.
      is_bias: whether it is a bias; only initial values depend on it.
      dtype: type of the products.
    """

    rows: int
    width: int
    scale: str
    is_bias: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, states: Float[Array, "B T D"], mask: Bool[Array, "B T"]
    ) -> Float[Array, "B rows width"]:
        batch, length, inputs = states.shape
        shape = (self.rows, self.width)
        query = self.param("query", nn.initializers.normal(10.0), shape)
        base_init = nn.initializers.normal(math.sqrt(2 / self.width))
        base_init = nn.initializers.zeros if self.is_bias else base_init
        base = self.param("base", base_init, shape)

        # [B, T, D] -> [B, T, width]
        tokens = states.reshape(-1, inputs)
        keys = self._linear("key", inputs)(tokens).reshape(batch, length, self.width)
        values = self._linear("value", inputs)(tokens).reshape(keys.shape)
        # [B, rows, T]: float32 throughout, for logits of a bias are in the hundreds
        keys = keys.astype(jnp.float32)
        logits = jnp.einsum("rw,BTw->BrT", query, keys, precision=_PRECISION)
        where = jnp.broadcast_to(mask[:, None, :], logits.shape)
        logits = logits / SCALES[self.scale](self.rows, inputs)
        probs = masked_softmax(logits, where).astype(self.dtype)
        # [B, rows, T] -> [B, rows, width]
        mixed = jnp.einsum("BrT,BTw->Brw", probs, values, precision=_PRECISION)
        normal = standardize(jax.nn.relu(mixed), _NORM_EPS).reshape(-1, self.width)
        generated = self._projection()(normal).reshape(batch, *shape)
        return generated.astype(jnp.float32) + base[None]

    def _linear(self, name: str, inputs: int) -> nn.Dense:
        """Keys or values; those of biases keep PyTorch's initial bias."""
        bias_init = _uniform(inputs) if self.is_bias else nn.initializers.zeros
        return nn.Dense(
            self.width,
            dtype=self.dtype,
            precision=_PRECISION,
            kernel_init=_linear_init,
            bias_init=bias_init,
            name=name,
        )

    def _projection(self) -> nn.Dense:
        """The pointwise layer: nearly 0 for weights, PyTorch's for biases."""
        kernel_init = nn.initializers.normal(1 / self.width**2)
        bias_init = nn.initializers.zeros
        if self.is_bias:
            kernel_init, bias_init = _linear_init, _uniform(self.width)
        return nn.Dense(
            self.width,
            dtype=self.dtype,
            precision=_PRECISION,
            kernel_init=kernel_init,
            bias_init=bias_init,
            name="projection",
        )


def _uniform(inputs: int) -> Callable:
    """PyTorch's initial bias of a linear layer."""
    bound = 1 / math.sqrt(inputs)

    def init(
        key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32
    ) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class HyperHead(nn.Module):
    """Token states of queries to the weights of their q-nets.

    Parameters: ``kernel_{i}``, ``bias_{i}`` for each block and ``output``, each
    ``{base, query [rows, width], key, value, projection {kernel, bias}}`` with one row
    for biases and output; with a gated q-net ``gates [depth]``; with ``warm_start``
    ``output_gate []``.

    Initial values are the authors', their 768 read as the width it stands for: base
    kernels normal with variance ``2 / in``, base biases 0, queries normal of deviation
    10; pointwise layers of weights normal of deviation ``1 / in^2``, so that q-nets
    hardly depend on the query at first; all else PyTorch's default for linear layers,
    without a bias where weights are generated.

    A warm start begins as the inner product of the query's vector with the document's:
    the vector is added to the output weights, and gates that begin at 0 stand before
    every block and before the generated output weights.  Training moves the gates
    first.

    Args:
      spec: the q-net.
      scale: a name of :data:`SCALES`.
      warm_start: whether the q-net begins as an inner product; needs a gated spec.
      dtype: type of the products; parameters, softmax, statistics and the generated
        weights are float32.

    Example::

      >>> head = HyperHead(QNetSpec(input_width=4, hidden=(4, 4)))
      >>> states, mask = jnp.ones((3, 5, 6)), jnp.ones((3, 5), bool)
      >>> params = head.init(jax.random.key(0), states, mask)
      >>> head.apply(params, states, mask).kernels[0].shape
      (3, 4, 4)
    """

    spec: QNetSpec
    scale: str = "released"
    warm_start: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        states: Float[Array, "B T D"],
        mask: Bool[Array, "B T"],
        vectors: Float[Array, "B E"] | None = None,
    ) -> QNetWeights:
        """Weights of the q-nets of queries; ``vectors`` are their warm start's.

        A query without real tokens has the base weights, moved by the pointwise bias.

        Raises:
          InputError: what :func:`check_head` refuses, or a warm start without vectors.
        """
        spec = self.spec
        check_head(spec, self.scale, warm_start=self.warm_start)
        pairs = zip(spec.widths[:-1], spec.widths[1:], strict=True)
        kernels = tuple(
            self._tensor(f"kernel_{i}", outputs, inputs)(states, mask).mT
            for i, (inputs, outputs) in enumerate(pairs)
        )
        biases = tuple(
            self._tensor(f"bias_{i}", 1, width, is_bias=True)(states, mask)[:, 0]
            for i, width in enumerate(spec.hidden)
        )
        output = self._tensor("output", 1, spec.hidden[-1])(states, mask)[:, 0]
        gates = None
        if spec.gated:
            init = nn.initializers.zeros if self.warm_start else nn.initializers.ones
            gates = self.param("gates", init, (spec.depth,))
            gates = jnp.broadcast_to(gates[None], (states.shape[0], spec.depth))
        if self.warm_start:
            output_gate = self.param("output_gate", nn.initializers.zeros, ())
            if vectors is None:
                raise InputError("vectors", "None", "the queries' for a warm start")
            output = vectors.astype(jnp.float32) + output_gate * output
        return QNetWeights(kernels, biases, output, gates)

    def _tensor(
        self, name: str, rows: int, width: int, *, is_bias: bool = False
    ) -> Callable[[Array, Array], Array]:
        return _Tensor(rows, width, self.scale, is_bias, self.dtype, name=name)


def check_head(spec: QNetSpec, scale: str, *, warm_start: bool) -> None:
    """Checks that a hyperhead of these attributes can be.

    Args:
      spec: the q-net.
      scale: a name of :data:`SCALES`.
      warm_start: whether the q-net begins as an inner product.

    Raises:
      InputError: for an unknown name, or a warm start of a q-net whose blocks change
        what they read although their gates are closed, or that reads several vectors.
    """
    if scale not in SCALES:
        raise InputError("scale", repr(scale), "one of " + ", ".join(SCALES))
    if warm_start and not spec.gated:
        raise InputError(
            "warm_start",
            "a q-net without gates",
            "gated=True",
            "and residual_on_last=True: closed gates leave the document's vector",
        )
    if warm_start and spec.layer_norm and not spec.norm_before_residual:
        raise InputError(
            "warm_start",
            "a q-net that normalises after the residual",
            "norm_before_residual=True",
            "closed gates must leave the document's vector",
        )
    if warm_start and spec.num_vectors > 1:
        raise InputError(
            "warm_start", f"documents of {spec.num_vectors} vectors",
            "num_vectors=1: the bi-encoder that it begins as has one",
        )  # fmt: skip
