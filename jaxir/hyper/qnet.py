"""The q-net: the small network that a Hypencoder makes of a query.

A q-net reads a document vector and gives a score (Killingback et al. 2025,
"Hypencoder", section 3): blocks of a dense layer, an activation and a normalisation
with a residual, then a product with one vector.  :class:`QNetSpec` decides its shape
once for all queries; :class:`QNetWeights` are one query's numbers, a plain pytree, made
by ``hyper.head`` or by hand; the functions here are pure.

Three ways through one implementation:

- :func:`apply`: one query's weights, documents of any shape; may be vmapped.
- :func:`apply_all`: every query with every document.  The first layer is one product
  over all queries, for they share the documents; later layers are batched.
- :func:`apply_own`: every query with documents of its own.

On a CPU the last two take queries in turn once their blocks outgrow the caches.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxir.errors import InputError
from jaxir.nn.layers import gelu, layer_norm
from jaxir.types import Size

__all__ = [
    "QNET_ACTIVATIONS",
    "QNetSpec",
    "QNetWeights",
    "apply",
    "apply_all",
    "apply_own",
    "flops",
    "standardize",
]

QNET_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "relu": jax.nn.relu,
        "tanh": jnp.tanh,
        "sigmoid": jax.nn.sigmoid,
        "gelu": gelu,
        "leaky_relu": jax.nn.leaky_relu,
    }
)
"""Activations of a block by name; ``leaky_relu`` has the slope 0.01 below zero."""


@dataclasses.dataclass(frozen=True)
class QNetSpec:
    """Shape and rules of a q-net; the defaults are the released six-layer model's.

    A block computes ``x + LN(act(x W + b))``, and ``LN(x + act(x W + b))`` without
    ``norm_before_residual``; LN has no parameters.  The residual stands only where a
    block's two widths agree, and after the last block only with ``residual_on_last``.

    Attributes:
      input_width: width ``E`` of a document vector.
      hidden: width of each block's result; the released models have 2, 4, 6 or 8.
      activation: a name of :data:`QNET_ACTIVATIONS`.
      layer_norm: whether blocks normalise.
      norm_before_residual: whether they do so before the residual is added.
      residual: whether blocks add what they read to what they give.
      residual_on_last: whether the last block does.
      gated: whether a block's contribution is multiplied by a gate of its own, so that
        a q-net can begin as the inner product; needs a residual at every block.
      num_vectors: vectors ``m`` of a document, one after another in a row of
        ``m * input_width``; its score is the largest of theirs (ME-BERT, Luan et al.
        2021).
      norm_eps: added to variances.

    Raises:
      InputError: for an unknown name, a width or number below 1, no block at all, or a
        gate at a block without a residual.

    Example::

      >>> QNetSpec(input_width=384, hidden=(384,) * 2).depth
      2
    """

    input_width: int = 768
    hidden: tuple[int, ...] = (768,) * 6
    activation: str = "relu"
    layer_norm: bool = True
    norm_before_residual: bool = True
    residual: bool = True
    residual_on_last: bool = False
    gated: bool = False
    num_vectors: int = 1
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        """Checks names, numbers and gates."""
        if self.activation not in QNET_ACTIVATIONS:
            expected = "one of " + ", ".join(QNET_ACTIVATIONS)
            raise InputError("QNetSpec.activation", repr(self.activation), expected)
        for name, least in (
            ("input_width", self.input_width),
            ("hidden", min(self.hidden, default=0)),
            ("num_vectors", self.num_vectors),
        ):
            if least < 1:
                found = str(getattr(self, name))
                raise InputError(f"QNetSpec.{name}", found, "numbers above 0")
        if self.norm_eps <= 0:
            found = str(self.norm_eps)
            raise InputError("QNetSpec.norm_eps", found, "a number above 0")
        if self.gated and not all(self.residuals):
            raise InputError(
                "QNetSpec.gated",
                f"block {self.residuals.index(False)} has no residual",
                "one at every block: a closed gate would leave nothing",
                "residual=True, residual_on_last=True, hidden widths of input_width",
            )

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.hidden)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths from a document vector to the last block's result."""
        return (self.input_width, *self.hidden)

    @property
    def residuals(self) -> tuple[bool, ...]:
        """Which blocks add what they read."""
        return tuple(
            self.residual
            and self.widths[i] == self.widths[i + 1]
            and (self.residual_on_last or i < self.depth - 1)
            for i in range(self.depth)
        )

    @property
    def row_width(self) -> int:
        """Width of a document's row: of all its vectors."""
        return self.num_vectors * self.input_width


class QNetWeights(NamedTuple):
    """The weights of one q-net, or with leading axes those of many queries.

    Attributes:
      kernels: ``[..., in, out]`` of each block.
      biases: ``[..., out]`` of each block.
      output: ``[..., out]`` of the last block's width; there is no bias.
      gates: ``[..., depth]`` of a gated q-net, else None.
    """

    kernels: tuple[Any, ...]
    biases: tuple[Any, ...]
    output: Any
    gates: Any = None


def apply(
    spec: QNetSpec, weights: QNetWeights, docs: Float[Array, "*docs W"]
) -> Float[Array, "*docs"]:
    """Scores of documents by one query's q-net, in float32.

    Equation: ``x_0`` is the document's vector, ``x_i = x_{i-1} + LN(act(x_{i-1} W_i +
    b_i))``, the last block without the first summand; the score is ``x_L . w``
    (Hypencoder, section 3.4 and eq. 6, with the released code's rules).

    Products are of the documents' type, to which weights are cast, with float32 sums;
    statistics and scores are float32.

    Args:
      spec: the shape.
      weights: of one query.
      docs: document vectors ``[..., num_vectors * input_width]``.

    Raises:
      InputError: documents of another width, or weights of another shape.

    Example::

      >>> spec = QNetSpec(input_width=2, hidden=(2,), layer_norm=False)
      >>> weights = QNetWeights((jnp.eye(2),), (jnp.zeros(2),), jnp.array([1.0, 10.0]))
      >>> apply(spec, weights, jnp.array([[1.0, 2.0], [3.0, -1.0]])).tolist()
      [21.0, 3.0]
    """
    lead = docs.shape[:-1]
    _check(spec, weights, docs, leading=0)
    own = jax.tree.map(lambda x: x[None], weights)
    rows = docs.reshape(1, -1, spec.input_width)
    return _best(spec, _run(spec, own, rows)).reshape(lead)


def apply_all(
    spec: QNetSpec, weights: QNetWeights, docs: Float[Array, "N W"]
) -> Float[Array, "B N"]:
    """Scores of every document by every query's q-net; see :func:`apply`.

    Args:
      spec: the shape.
      weights: of queries ``[B, ...]``.
      docs: document vectors ``[N, num_vectors * input_width]``.

    Raises:
      InputError: documents of another width, or weights of another shape.
    """
    _check(spec, weights, docs, leading=1)
    rows = docs.reshape(-1, spec.input_width)
    if _in_turn(spec, weights, rows.shape[0]):
        return jax.lax.map(lambda own: apply(spec, own, docs), weights)
    return _best(spec, _run(spec, weights, rows))


def apply_own(
    spec: QNetSpec, weights: QNetWeights, docs: Float[Array, "B n W"]
) -> Float[Array, "B n"]:
    """Scores of each query's own documents; see :func:`apply`.

    Args:
      spec: the shape.
      weights: of queries ``[B, ...]``.
      docs: their document vectors ``[B, n, num_vectors * input_width]``.

    Raises:
      InputError: documents of another width, or weights of another shape.
    """
    _check(spec, weights, docs, leading=1)
    rows = docs.reshape(docs.shape[0], -1, spec.input_width)
    if _in_turn(spec, weights, rows.shape[1]):
        return jax.lax.map(lambda pair: apply(spec, *pair), (weights, docs))
    return _best(spec, _run(spec, weights, rows))


def flops(spec: QNetSpec) -> int:
    """Floating-point operations of the products of one document's score.

    Two for each weight and document vector; the released six-layer model's 7.1 million.

    Example::

      >>> flops(QNetSpec())
      7079424
    """
    pairs = zip(spec.widths[:-1], spec.widths[1:], strict=True)
    return 2 * spec.num_vectors * (sum(a * b for a, b in pairs) + spec.hidden[-1])


def standardize(
    x: Float[Array, "*batch dim"], eps: float
) -> Float[Array, "*batch dim"]:
    """Layer normalisation of the last axis without parameters, in float32.

    Args:
      x: any shape.
      eps: added to the variance.

    Example::

      >>> standardize(jnp.array([1.0, 3.0]), 1e-5).round(2).tolist()
      [-1.0, 1.0]
    """
    width = x.shape[-1]
    one, zero = jnp.ones(width), jnp.zeros(width)
    rows = layer_norm(x.reshape(-1, width).astype(jnp.float32), one, zero, eps)
    return rows.reshape(x.shape)


_einsum = partial(
    jnp.einsum, precision="highest", preferred_element_type=jnp.float32
)  # float32 is not cut to TF32 or bfloat16, as accelerators do unless told


_CPU_CACHE_BYTES = 4 * 2**20
"""Activations that stay near a CPU's cores."""


def _in_turn(spec: QNetSpec, weights: QNetWeights, rows: Size) -> bool:
    """Whether queries are scored one after another rather than together.

    On two cores, eight queries of six blocks of 768 with 512 to 2048 vectors take 1.3
    to 2 times as long together.  What is small is faster together, training steps above
    all: their gradient of weights taken in turn is copied once more.
    """
    batch = weights.output.shape[0]
    size = 4 * batch * rows * max(spec.widths)
    if not isinstance(size, int):  # a symbolic batch of an exported program
        return False
    return jax.default_backend() == "cpu" and batch > 1 and size > _CPU_CACHE_BYTES


def _product(x: Array, kernel: Array) -> Array:
    """``[B, n, in]``, or ``[n, in]`` of all queries, times ``[B, in, out]``."""
    if x.ndim == kernel.ndim:
        return _einsum("Bni,Bio->Bno", x, kernel)
    # One product of the shared rows with all kernels side by side.
    batch, inputs, outputs = kernel.shape
    # [B, in, out] -> [in, B * out]; [n, B * out] -> [B, n, out]
    beside = kernel.transpose(1, 0, 2).reshape(inputs, batch * outputs)
    product = _einsum("ni,io->no", x, beside)
    return product.reshape(x.shape[0], batch, outputs).transpose(1, 0, 2)


def _run(spec: QNetSpec, weights: QNetWeights, x: Array) -> Array:
    """``[B, n]`` scores of vectors ``[n, in]``, or of queries' own ``[B, n, in]``."""
    for i in range(spec.depth):
        kernel = weights.kernels[i].astype(x.dtype)
        bias = weights.biases[i].astype(jnp.float32)[:, None, :]
        gate = None if weights.gates is None else weights.gates[:, i, None, None]
        # [B, n, in] -> [B, n, out]
        x = _finish(spec, i, x, _product(x, kernel) + bias, gate)
    return _einsum("Bni,Bi->Bn", x, weights.output.astype(x.dtype))


def _finish(spec: QNetSpec, i: int, x: Array, y: Array, gate: Array | None) -> Array:
    """A block's result of its input and its affine map: all but the product."""
    y = QNET_ACTIVATIONS[spec.activation](y)
    if spec.layer_norm and spec.norm_before_residual:
        y = standardize(y, spec.norm_eps)
    if gate is not None:
        y = y * gate.astype(y.dtype)
    if spec.residuals[i]:
        y = y + (x if x.ndim == y.ndim else x[None]).astype(y.dtype)
    if spec.layer_norm and not spec.norm_before_residual:
        y = standardize(y, spec.norm_eps)
    return y.astype(x.dtype)


def _best(spec: QNetSpec, scores: Array) -> Array:
    """``[B, N * m]`` scores of vectors to ``[B, N]`` of documents.

    NaN where one of a document's is not finite: the largest would hide ``-inf``, which
    is as broken as in the score of a single vector.
    """
    if spec.num_vectors == 1:
        return scores
    batch, count = scores.shape
    own = scores.reshape(batch, count // spec.num_vectors, spec.num_vectors)
    whole = jnp.all(jnp.isfinite(own), axis=-1)
    return jnp.where(whole, jnp.max(own, axis=-1), jnp.nan)


def _check(spec: QNetSpec, weights: QNetWeights, docs: Array, *, leading: int) -> None:
    """Widths and depth agree; otherwise a product fails somewhere inside."""
    if docs.shape[-1] != spec.row_width:
        raise InputError(
            "docs",
            f"vectors of width {docs.shape[-1]}",
            f"{spec.row_width}, the q-net's {spec.num_vectors} x {spec.input_width}",
        )
    found = [x.shape[leading:] for x in weights.kernels]
    expected = list(zip(spec.widths[:-1], spec.widths[1:], strict=True))
    if found != expected or (weights.gates is None) is spec.gated:
        raise InputError(
            "weights",
            f"kernels of {found}" + ("" if weights.gates is None else " with gates"),
            f"{expected}" + (" with gates" if spec.gated else ""),
            "weights that the spec's own head made",
        )
