"""Stored vectors scored by q-nets: the rules that every search keeps.

Exhaustive and graph search multiply in the same type and refuse the same weights and
vectors, so that a document has one score, however it was come by.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxir.errors import InputError
from jaxir.hyper.qnet import QNetSpec, QNetWeights

__all__ = [
    "QueryError",
    "check_finite",
    "finite_weights",
    "product_dtype",
    "score_stored",
]


def product_dtype(stored: DTypeLike, platform: str) -> str:
    """The type of products with stored vectors: theirs, or float32 if that is faster.

    Args:
      stored: type of the vectors.
      platform: of the device; on ``"cpu"`` only float32 is fast.
    """
    return "float32" if platform == "cpu" else jnp.dtype(stored).name


def score_stored(
    score: Callable[[QNetSpec, QNetWeights, Array], Array],
    spec: QNetSpec,
    weights: QNetWeights,
    docs: Float[Array, "*shape W"],
    dtype: str,
) -> Float[Array, "B N"]:
    """Scores of stored vectors; NaN for one that is not finite.

    An activation or a ReLU may turn infinity into an ordinary number again.

    Args:
      score: :func:`apply_all` or :func:`apply_own`.
      spec: the shape.
      weights: of queries ``[B, ...]``.
      docs: document vectors as ``score`` takes them.
      dtype: of the products; weights and documents are cast to it.
    """
    scores = score(spec, weights, docs.astype(dtype))
    whole = jnp.all(jnp.isfinite(docs), axis=-1)
    return jnp.where(jnp.broadcast_to(whole, scores.shape), scores, jnp.nan)


@jax.jit
def finite_weights(weights: QNetWeights) -> Bool[Array, " B"]:
    """Which queries' weights ``[B, ...]`` are all finite."""

    def each(leaf: Float[Array, "B ..."]) -> Bool[Array, " B"]:
        return jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))

    return jnp.all(jnp.stack(jax.tree.leaves(jax.tree.map(each, weights))), axis=0)


class QueryError(InputError):
    """What is wrong with one query of a batch.

    Attributes:
      query: its number in the batch.
    """

    def __init__(self, query: int, *text: str, name: str | None = None) -> None:
        super().__init__(f"query {query if name is None else name}", *text)
        self.query, self._text = query, text

    def named(self, name: str) -> "QueryError":
        """The same of a query known by another name than its number in the batch."""
        return QueryError(self.query, *self._text, name=name)


def check_finite(weights: QNetWeights, first: int = 0) -> None:
    """Refuses q-nets that are not finite.

    Args:
      weights: of queries ``[B, ...]``.
      first: number of the first one.

    Raises:
      QueryError: NaN or infinity; the number is that of the first such query.
    """
    finite = finite_weights(weights)
    if isinstance(finite, jax.core.Tracer):
        return  # there are no numbers to look at yet
    if not np.asarray(finite).all():
        raise QueryError(
            first + int(np.argmin(finite)),
            "NaN or infinity in its q-net",
            "finite weights",
            "the model that made it may have diverged in training",
        )
