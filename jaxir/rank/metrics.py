"""Rax's metrics of ranked lists, as training reports them."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ["list_metric"]


def list_metric(
    name: Literal["ndcg", "mrr"],
    scores: Float[Array, "*batch list"],
    labels: Float[Array, "*batch list"],
    *,
    where: Bool[Array, "*batch list"],
    topn: int | None = None,
) -> Float[Array, "*batch"]:
    """A metric of each list, equal scores ranked against its first document.

    The first is a list's positive, so that a model that collapses is seen.

    Args:
      name: ``ndcg``, of the grades, or ``mrr``, of whether they are above 0.
      scores: ``[*batch, list]``; what stands at padding does not matter.
      labels: graded relevance; a grade below 0 counts as 0.
      where: false at padding.
      topn: documents that count; None for all.

    Example::

      >>> scores, labels = jnp.array([[1.0, 2.0, 1.0]]), jnp.array([[2.0, 0.0, 0.0]])
      >>> float(list_metric("mrr", scores, labels, where=scores > 0)[0])  # the last
      0.3333333432674408
    """
    import rax

    labels = jnp.maximum(labels, 0.0)
    if name == "mrr":
        labels = (labels > 0).astype(jnp.float32)
    # Rax ranks equal scores by their place: last to first, the positive comes last.
    ranked, grades, valid = (
        jnp.flip(x, axis=-1) for x in (jnp.where(where, scores, 0.0), labels, where)
    )
    metric = {"ndcg": rax.ndcg_metric, "mrr": rax.mrr_metric}[name]
    return metric(ranked, grades, where=valid, topn=topn, reduce_fn=None)
