"""The nouns of jaxir, and the letters that stand for their axes.

Host code fills these with numpy arrays and device code with JAX arrays; importing this
file imports neither JAX nor a model.  All are NamedTuples, hence pytrees.

Letters in shapes, docstrings and einsums:

====== ===========================================================================
letter axis
====== ===========================================================================
``B``  queries of a batch
``L``  documents of a list (one query's candidates, padded with ``where=False``)
``T``  tokens of a text (``S`` where attention needs a second token axis)
``D``  model width; ``F`` the feed-forward width; ``H`` heads; ``C`` width of a head
``E``  width of an embedding
``V``  vocabulary
``N``  documents of a corpus or of a block of it
``K``  results kept
====== ===========================================================================
"""

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = [
    "Metrics",
    "Params",
    "RankBatch",
    "Ranking",
    "Size",
    "Task",
    "TokenBatch",
    "TokenGroups",
]

Params = Any
"""A pytree of arrays that training changes."""

Metrics = dict[str, Any]
"""Scalars by name, logged beside the loss."""

Size = Any
"""A number, or a symbolic one of ``jax.export``: the length of an exported program."""

Array = Any  # numpy on the host, jax.Array on a device


class TokenBatch(NamedTuple):
    """Token ids of texts, padded on the right.

    Attributes:
      ids: int32 ``[..., T]``.
      mask: bool ``[..., T]``, true at real tokens, special tokens included.
      type_ids: int32 ``[..., T]`` segment of each token (0 query, 1 document of a
        joint text), or None when every token belongs to segment 0.
    """

    ids: Array
    mask: Array
    type_ids: Array | None = None


class TokenGroups(NamedTuple):
    """The texts of a batch sorted by length into groups, each padded to its own length.

    Attributes:
      groups: each ``[rows, T]`` with a ``T`` of its own; equal rows in every group.
      position: int32 ``[B, L]`` row of each text in the groups put one after another.
    """

    groups: tuple[TokenBatch, ...]
    position: Array


class RankBatch(NamedTuple):
    """Queries, each with a list of documents to be told apart.

    Bi-encoders read ``query`` and ``doc`` as separate texts.  Cross-encoders read
    query and document as one text: then ``query`` is None and ``doc`` holds the joint
    text of each pair.  Where documents are known by their rows alone ``doc`` is None.

    Attributes:
      query: ``[B, T]`` tokens of the queries, or None (see above).
      doc: ``[B, L, T]`` tokens of the documents, or of the pairs; or the pairs in
        groups of like length; or None (see above).
      labels: float32 ``[B, L]`` graded relevance, 0 for not relevant.  The first item
        of a list is a positive.
      where: bool ``[B, L]``, false at padding.
      teacher_scores: float32 ``[B, L]`` scores to imitate, or None.
      query_index: int32 ``[B]`` row of each query in its split.
      doc_index: int32 ``[B, L]`` row of each document in its collection; -1 at
        padding.  Equal rows are the same document, also across lists.
      known_positive: bool ``[B, B * L]``, true where the flattened document is a
        judged positive of the query; None when nothing is known.  Contrastive losses
        neither reward nor punish such a document outside its own list.
    """

    query: TokenBatch | None
    doc: TokenBatch | TokenGroups | None
    labels: Array
    where: Array
    teacher_scores: Array | None = None
    query_index: Array | None = None
    doc_index: Array | None = None
    known_positive: Array | None = None


class Ranking(NamedTuple):
    """The best documents of each query, best first.

    Equal scores are ordered by the lower document row.  Results that do not exist
    (fewer documents than ``K``) have id -1 and score -inf.

    Attributes:
      doc_ids: int32 ``[..., K]`` rows of documents.
      scores: float32 ``[..., K]``.
    """

    doc_ids: Array
    scores: Array


class Task(NamedTuple):
    """What the training loop knows of a model: how to begin, and what to reduce.

    Attributes:
      init: ``init(rng, batch) -> params``.
      loss: ``loss(params, batch, rng) -> (scalar, metrics)``; pure, differentiable in
        ``params``; ``rng`` drives dropout and sampling.
      constants: arrays that never change and are too large to be part of a compiled
        program, such as the codes of a corpus; not saved with the state.  Unless None
        they are the loss's fourth argument: ``loss(params, batch, rng, constants)``.
      stepwise: the loss depends on how far training is: it then takes the keyword
        ``step``, an int32 scalar, the updates done before this one.
    """

    init: Callable[[Any, Any], Params]
    loss: Callable[..., tuple[Any, Metrics]]
    constants: Any = None
    stepwise: bool = False
