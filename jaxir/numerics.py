"""Masking and reduction: the only home of infinity and of small constants.

Masks are boolean and named ``where`` (true = counts), as in Rax and ``jnp.sum``.  A
reduction over nothing has a defined, finite value with a zero gradient: sums and means
give 0, probabilities give 0.  Statistics are computed in float32 whatever the input.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxir.errors import InputError

__all__ = [
    "EPS",
    "INVALID_ID",
    "NEG_INF",
    "check_finite",
    "l2_normalize",
    "masked_log_softmax",
    "masked_mean",
    "masked_softmax",
    "mean_over_queries",
    "safe_divide",
    "where_score",
]

NEG_INF = float("-inf")
"""Score of what does not exist.  Never enters a softmax: use ``masked_softmax``."""

INVALID_ID = -1
"""Document row of what does not exist."""

EPS = 1e-12
"""Added under square roots and compared with norms, as in PyTorch's ``normalize``."""


def where_score(
    scores: Float[Array, "*shape"], where: Bool[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Scores with -inf where ``where`` is false, ready for a top-k or a maximum."""
    return jnp.where(where, scores, NEG_INF)


def safe_divide(
    numerator: Float[Array, "*a"], denominator: Float[Array, "*b"]
) -> Float[Array, "..."]:
    """``numerator / denominator``, and 0 with a zero gradient where that is 0/0 or x/0.

    Example::

      >>> safe_divide(jnp.array([1.0, 1.0]), jnp.array([2.0, 0.0])).tolist()
      [0.5, 0.0]
    """
    nonzero = denominator != 0
    # The inner where keeps the untaken branch finite, or its gradient would be NaN.
    return jnp.where(nonzero, numerator / jnp.where(nonzero, denominator, 1.0), 0.0)


def masked_mean(
    values: Float[Array, "*shape"],
    where: Bool[Array, "..."] | None = None,
    axis: int | tuple[int, ...] | None = None,
) -> Float[Array, "..."]:
    """Mean over the entries that count; 0 where none does.

    Args:
      values: any shape.
      where: broadcastable to ``values``; None counts everything.
      axis: as in ``jnp.mean``.

    Example::

      >>> float(masked_mean(jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])))
      2.0
    """
    if where is None:
        return jnp.mean(values, axis=axis)
    where = jnp.broadcast_to(where, values.shape)
    total = jnp.sum(jnp.where(where, values, 0.0), axis=axis)
    return safe_divide(total, jnp.sum(where, axis=axis).astype(total.dtype))


def masked_log_softmax(
    scores: Float[Array, "*batch list"],
    where: Bool[Array, "*batch list"] | None = None,
) -> Float[Array, "*batch list"]:
    """Log-probabilities over the last axis among the entries that count; 0 elsewhere.

    ``log p_i = s_i - log sum_j exp(s_j)`` over ``where_j``; float32, stable for scores
    of any size; a row without entries is all 0 with a zero gradient.

    Example::

      >>> where = jnp.array([True, True, False])
      >>> jnp.exp(masked_log_softmax(jnp.array([2.0, 2.0, 9.0]), where)).tolist()
      [0.5, 0.5, 1.0]
    """
    scores = scores.astype(jnp.float32)
    if where is None:
        return jax.nn.log_softmax(scores, axis=-1)
    # A row without entries is computed as a row of zeros and then discarded.
    some = jnp.any(where, axis=-1, keepdims=True)
    kept = jnp.where(where | ~some, jnp.where(some, scores, 0.0), NEG_INF)
    log_probs = jax.nn.log_softmax(kept, axis=-1)
    return jnp.where(where, log_probs, 0.0)


def masked_softmax(
    scores: Float[Array, "*batch list"],
    where: Bool[Array, "*batch list"] | None = None,
) -> Float[Array, "*batch list"]:
    """Probabilities over the last axis among the entries that count; 0 elsewhere."""
    log_probs = masked_log_softmax(scores, where)
    if where is None:
        return jnp.exp(log_probs)
    return jnp.where(where, jnp.exp(log_probs), 0.0)


def l2_normalize(vectors: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Vectors of length 1 along the last axis; a zero vector stays zero.

    Equation: ``v / max(|v|, 1e-12)``, as PyTorch's ``normalize``; the gradient at zero
    is finite.

    Example::

      >>> l2_normalize(jnp.array([0.0, 4.0])).tolist()
      [0.0, 1.0]
    """
    squared = jnp.sum(jnp.square(vectors.astype(jnp.float32)), axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.maximum(squared, EPS**2))
    return (vectors * inverse).astype(vectors.dtype)


def mean_over_queries(
    losses: Float[Array, "..."], where: Bool[Array, "..."] | None = None
) -> Float[Array, ""]:
    """The default ``reduce_fn``: mean over the queries that have something to learn.

    Args:
      losses: one value a query.
      where: true for queries that count; padding queries do not dilute the mean.
    """
    return masked_mean(losses, where)


ReduceFn = Callable[..., jax.Array]
"""``reduce_fn(losses, where) -> scalar``; None in a loss returns one value a query."""


def check_finite(scores: np.ndarray, where: object, what: Callable[[int], str]) -> None:
    """Refuses a model's scores that are NaN or infinite: they rank nothing.

    Args:
      scores: ``[N]``, in host memory.
      where: the model, for the error.
      what: ``what(i)`` tells what the i-th score is of.

    Raises:
      InputError: a score is not finite.
    """
    finite = np.isfinite(scores)
    if not finite.all():
        first = int(finite.argmin())
        raise InputError(
            where, f"the score {scores[first]} of {what(first)}", "a finite number",
            "the model may have diverged: train it anew",
        )  # fmt: skip
