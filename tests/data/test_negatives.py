"""The miner's knobs by hand."""

from collections import Counter

import numpy as np
import pytest

from jaxir.data.negatives import MineConfig, candidate_range, select_negatives
from jaxir.errors import InputError

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5])


def _select(positives, range_max=5, counts=None, **knobs):
    config = MineConfig(num_negatives=2, **knobs)
    random = np.random.default_rng(0)
    chosen = select_negatives(
        SCORES, np.array(positives), config, range_max=range_max, random=random,
        counts=counts,
    )  # fmt: skip
    return chosen.tolist()


def test_knobs():
    assert _select([0.8]) == [0, 1]
    assert _select([0.8], range_min=2) == [2, 3]
    assert _select([0.8], range_max=3, range_min=2) == [2]
    assert _select([0.8], absolute_margin=0.0) == [1, 2]
    assert _select([0.8], absolute_margin=0.15) == [3, 4]
    assert _select([0.8], relative_margin=0.05) == [2, 3]
    assert _select([0.8], max_score=0.75) == [2, 3]
    assert _select([0.8], max_score=0.75, min_score=0.65) == [2]


def test_the_lowest_positive_sets_the_margin():
    assert _select([0.95, 0.65], absolute_margin=0.0) == [3, 4]
    assert _select([-np.inf], absolute_margin=0.0) == []
    assert _select([-np.inf], relative_margin=0.05) == []


def test_a_relative_margin_is_of_the_size_not_the_sign():
    config = MineConfig(num_negatives=3, relative_margin=0.1)
    chosen = select_negatives(
        np.array([-1.0, -1.05, -1.2]), np.array([-1.0]), config, range_max=3,
        random=np.random.default_rng(0),
    )  # fmt: skip
    assert chosen.tolist() == [2]  # beyond -1.1


def test_range_counts_what_the_bounds_leave():
    # range_min passes over survivors, not over what was dropped already
    assert _select([0.8], relative_margin=0.05, range_min=1) == [3, 4]


def test_counts_and_random():
    counts = Counter()
    _select([0.8], relative_margin=0.05, min_score=0.55, counts=counts)
    assert counts == {"relative_margin": 2, "min_score": 1}
    drawn = _select([9.0], sampling_strategy="random")
    assert len(drawn) == 2
    assert drawn == sorted(drawn)


def test_candidate_range_is_sentence_transformers():
    plain = MineConfig(num_negatives=5, range_min=2)
    assert candidate_range(plain, 3, rescored=False) == 10
    bounded = MineConfig(num_negatives=5, range_min=2, max_score=1.0)
    assert candidate_range(bounded, 3, rescored=False) == 55
    low = MineConfig(num_negatives=5, min_score=0.0)
    assert candidate_range(low, 1, rescored=False) == 6
    assert candidate_range(low, 1, rescored=True) == 51
    assert candidate_range(MineConfig(range_max=7), 1, rescored=False) == 7


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"num_negatives": 0}, "num_negatives: 0; expected at least 1"),
        ({"min_negatives": 0}, "min_negatives: 0; expected at least 1"),
        ({"min_negatives": 4}, "min_negatives: 4 of num_negatives 3, which leaves"),
        ({"batch_size": 0}, "batch_size: 0; expected at least 1"),
        ({"absolute_margin": -0.1}, "absolute_margin: -0.1; expected at least 0"),
        ({"relative_margin": -0.1}, "relative_margin: -0.1; expected at least 0"),
        ({"sampling_strategy": "best"}, "sampling_strategy: 'best'; expected 'top'"),
        ({"per": "list"}, "per: 'list'; expected 'positive' or 'query'"),
        ({"range_min": -1}, "range_min: -1 of range_max"),
        ({"range_min": 8, "range_max": 10}, "leaves no room for 3 negatives"),
    ],
)
def test_mistakes(knobs, message):
    with pytest.raises(InputError, match=message):
        candidate_range(MineConfig(**knobs), 1, rescored=False)
