"""Which documents become negatives.

Hard ones of a query's candidates, by sentence-transformers' rules, and random ones of
the whole corpus.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from jaxir.errors import InputError

__all__ = [
    "MineConfig",
    "candidate_range",
    "draw_uniform",
    "random_of",
    "select_negatives",
]


@dataclass(frozen=True)
class MineConfig:
    """What makes a negative, with sentence-transformers' names and defaults.

    Candidates are the documents found, positives taken out.  Those beyond a margin or a
    bound are dropped; of the rest, best first, ranks ``range_min`` to ``range_max``
    remain, and ``num_negatives`` of them are taken.

    Attributes:
      num_negatives: negatives of a list.
      range_min: candidates passed over, since the best are often unjudged positives.
      range_max: the last candidate considered; by default just enough, or ten times
        that where a margin or bound may drop some.
      max_score: candidates above it are dropped.
      min_score: candidates below it are dropped.
      absolute_margin: candidates above ``p - absolute_margin`` are dropped, with p the
        lowest score of the query's positives.
      relative_margin: candidates above ``p - |p| relative_margin`` are dropped.
      sampling_strategy: ``"top"`` takes the best, ``"random"`` draws.
      per: ``"positive"``, a list for each positive, or ``"query"``, one list with all.
      consistent_top: positives that are not among so many best documents found are left
        out, and with them queries that have no other: such pairs are often no answers
        (consistency filter; Dai et al., "Promptagator", arXiv 2209.11755).
      min_negatives: lists with fewer negatives are left out.
      seed: of ``"random"``, together with the query's id.
      batch_size: queries searched at a time.
    """

    num_negatives: int = 3
    range_min: int = 0
    range_max: int | None = None
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling_strategy: str = "top"
    per: str = "positive"
    consistent_top: int | None = None
    min_negatives: int = 1
    seed: int = 0
    batch_size: int = 256


def candidate_range(config: MineConfig, most_positives: int, *, rescored: bool) -> int:
    """``range_max``, derived as sentence-transformers does where it is not given.

    Args:
      config: the knobs.
      most_positives: positives of the query that has the most.
      rescored: whether candidates are scored anew after the search.

    Raises:
      InputError: a knob is out of its range, or the range leaves no room.

    Example::

      >>> candidate_range(MineConfig(range_min=10), 1, rescored=False)
      14
    """
    for name in ("num_negatives", "min_negatives", "batch_size"):
        if getattr(config, name) < 1:
            raise InputError(name, str(getattr(config, name)), "at least 1")
    if config.min_negatives > config.num_negatives:
        raise InputError(
            "min_negatives", f"{config.min_negatives} of num_negatives "
            f"{config.num_negatives}, which leaves out every list", "at most that",
        )  # fmt: skip
    if config.consistent_top is not None and config.consistent_top < 1:
        raise InputError("consistent_top", str(config.consistent_top), "at least 1")
    for name in ("absolute_margin", "relative_margin"):
        value = getattr(config, name)
        if value is not None and not value >= 0:
            raise InputError(name, str(value), "at least 0")
    if config.sampling_strategy not in ("top", "random"):
        raise InputError(
            "sampling_strategy", repr(config.sampling_strategy), "'top' or 'random'"
        )
    if config.per not in ("positive", "query"):
        raise InputError("per", repr(config.per), "'positive' or 'query'")
    # Scores fall with rank, unless given anew, so that min_score drops only the last.
    may_drop = [config.absolute_margin, config.relative_margin, config.max_score]
    may_drop += [config.min_score] if rescored else []
    spare = 10 if any(limit is not None for limit in may_drop) else 1
    range_max = config.range_max
    if range_max is None:
        range_max = config.range_min + spare * config.num_negatives + most_positives
    if not 0 <= config.range_min <= range_max - config.num_negatives:
        raise InputError(
            "range_min", f"{config.range_min} of range_max {range_max} leaves no room "
            f"for {config.num_negatives} negatives", "a wider range",
            "lower range_min or num_negatives, or raise range_max",
        )  # fmt: skip
    return range_max


def select_negatives(
    scores: np.ndarray,
    positive_scores: np.ndarray,
    config: MineConfig,
    *,
    range_max: int,
    random: np.random.Generator,
    counts: Counter[str] | None = None,
) -> np.ndarray:
    """Which candidates of one query become negatives.

    Args:
      scores: ``[C]`` scores of the candidates, no positive among them.
      positive_scores: ``[P]`` scores of the query's positives; ``-inf`` for one that
        scores below every candidate.
      config: the knobs.
      range_max: the last candidate considered.
      random: drives ``"random"``.
      counts: receives how many candidates each knob dropped.

    Returns:
      int64 positions into ``scores``, best first.

    Example::

      >>> select_negatives(
      ...     np.array([0.9, 0.7, 0.5, 0.3]), np.array([0.8]),
      ...     MineConfig(num_negatives=2, relative_margin=0.05), range_max=4,
      ...     random=np.random.default_rng(0))
      array([1, 2])
    """
    scores = np.asarray(scores, np.float64)
    lowest = float(np.min(positive_scores))
    limits = (
        ("absolute_margin", config.absolute_margin, lambda m: scores + m > lowest),
        (
            "relative_margin", config.relative_margin,
            lambda m: scores > lowest - abs(lowest) * m if np.isfinite(lowest)
            else np.ones(len(scores), bool),
        ),
        ("max_score", config.max_score, lambda bound: scores > bound),
        ("min_score", config.min_score, lambda bound: scores < bound),
    )  # fmt: skip
    alive = np.ones(len(scores), bool)
    for name, value, beyond in limits:
        if value is not None:
            drop = alive & beyond(value)
            alive &= ~drop
            if counts is not None and drop.any():
                counts[name] += int(drop.sum())
    kept = np.flatnonzero(alive)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    window = kept[config.range_min : range_max]
    if config.sampling_strategy == "random" and len(window) > config.num_negatives:
        drawn = random.choice(len(window), config.num_negatives, replace=False)
        return window[np.sort(drawn)]
    return window[: config.num_negatives]


def random_of(seed: int, *names: str) -> np.random.Generator:
    """A stream of its own for each seed and names."""
    digest = hashlib.blake2b("\0".join(names).encode(), digest_size=16).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32).tolist()])


def draw_uniform(
    random: np.random.Generator,
    doc_ids: Sequence[str],
    need: int,
    banned: AbstractSet[str],
) -> list[str]:
    """``need`` documents of the corpus, none twice, none of those banned.

    Fewer where the corpus has no more.
    """
    if len(doc_ids) <= 2 * (need + len(banned)):
        order = random.permutation(len(doc_ids))
        found = [doc_ids[int(row)] for row in order]
        return [doc for doc in found if doc not in banned][:need]
    # more than half of the corpus is free: a draw succeeds at least every other time
    chosen: list[str] = []
    taken = set(banned)
    while len(chosen) < need:
        doc = doc_ids[int(random.integers(len(doc_ids)))]
        if doc not in taken:
            taken.add(doc)
            chosen.append(doc)
    return chosen
