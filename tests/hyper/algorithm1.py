"""Algorithm 1 of Hypencoder in plain Python: the oracle of the graph search.

A transcription line by line (arXiv 2502.05364, section 3.6), the line's number beside
each; and the same loop with what the released code does instead.  Ties: candidates by
higher score, then lower row; of equals at the end of ``T`` the last that came leaves.

One thing is jaxir's own: where every document is an entry point, more than ``explore``
are offered, as many as ``T`` takes.
"""

import bisect
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Found(NamedTuple):
    """The rows best first, how many documents were scored, rounds of scoring."""

    rows: list[int]
    scored: int
    iterations: int


class _Best:
    """``T``: at most ``k`` documents by falling score, equals in order of entry."""

    def __init__(self, k: int) -> None:
        self.k, self.keys, self.rows = k, [], []

    def lowest(self) -> float:
        return -self.keys[-1] if len(self.keys) == self.k else float("-inf")

    def offer(self, score: float, row: int) -> bool:
        if not (score > self.lowest() or len(self.keys) < self.k):  # 12
            return False
        at = bisect.bisect_right(self.keys, -score)
        self.keys.insert(at, -score)  # 13
        self.rows.insert(at, row)
        del self.keys[self.k :], self.rows[self.k :]  # 14, 15
        return True

    def finished(self) -> list[int]:
        return [row for _, row in sorted(zip(self.keys, self.rows, strict=True))]


def algorithm1(
    score: Callable[[int], float],
    neighbors: Sequence[Sequence[int]],
    entry: Sequence[int],
    k: int,
    *,
    explore: int,
    iterations: int,
    early_stop: bool = True,
) -> Found:
    """The paper's rule."""
    candidates = set(entry)
    visited = set(candidates)  # 1
    best = _Best(k)  # 2
    i = scored = rounds = 0  # 3
    while candidates and i < iterations:  # 4
        scores = {row: score(row) for row in candidates}
        scored, rounds = scored + len(scores), rounds + 1
        offered = max(explore, k) if len(entry) == len(neighbors) else explore
        top = sorted(candidates, key=lambda row: (-scores[row], row))[:offered]  # 5
        if early_stop and scores[top[0]] < best.lowest():  # 6, 7
            break  # 8
        candidates = set()  # 9
        for row in top:  # 10
            if best.offer(scores[row], row):  # 11 to 15
                for near in neighbors[row]:  # 16
                    if 0 <= near < len(neighbors) and near not in visited:  # 17
                        candidates.add(near)  # 18
                        visited.add(near)  # 19
        i += 1  # 20
    return Found(best.finished(), scored, rounds)  # 21


def released(
    score: Callable[[int], float],
    neighbors: Sequence[Sequence[int]],
    entry: Sequence[int],
    k: int,
    *,
    explore: int,
    iterations: int,
    early_stop: bool = True,
) -> Found:
    """The rule of the authors' code."""
    candidates = set(entry)
    visited = set(candidates)
    best = _Best(k)
    i = scored = rounds = 0
    while candidates and i < iterations:
        scores = {row: score(row) for row in candidates}
        scored, rounds = scored + len(scores), rounds + 1
        top = sorted(candidates, key=lambda row: (-scores[row], row))
        candidates, entered = set(), 0
        for place, row in enumerate(top[: max(explore, k)]):
            entered += best.offer(scores[row], row)
            if place < explore:
                for near in neighbors[row]:
                    if 0 <= near < len(neighbors) and near not in visited:
                        candidates.add(near)
                        visited.add(near)
        if early_stop and not entered:
            break
        i += 1
    return Found(best.finished(), scored, rounds)


RULES = {"paper": algorithm1, "released": released}
