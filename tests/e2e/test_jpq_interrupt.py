"""JPQ's training, stopped and started again; its index, killed at any touch."""

import signal
import subprocess
import sys

import pytest
from e2e.test_interrupt import ENVIRONMENT, STOPS, check_stopped_training
from tiny_jpq import tiny_jpq_index


@pytest.fixture
def index(tiny_collection, make_tiny_model, tmp_path):
    return tiny_jpq_index(make_tiny_model(), tiny_collection, tmp_path / "index")


@pytest.mark.slow
def test_train_interrupted(tiny_collection, index, tmp_path):
    words = (
        "--gin_file", "experiments/jpq_small.gin",
        f"--gin.COLLECTION={str(tiny_collection)!r}", f"--gin.INDEX={str(index)!r}",
        "--gin.BATCH_SIZE=3", "--gin.NUM_NEGATIVES=8",
    )  # fmt: skip
    check_stopped_training(words, tmp_path, signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it takes two steps")
def test_an_index_stands_wherever_its_change_is_killed(index, tmp_path):
    """Old or new, whole and in its place, and free for who comes next."""
    words = [
        sys.executable,
        STOPS,
        "delete",
        index,
        tmp_path / "copies" / "i",
        "river1",
    ]
    done = subprocess.run(
        [*map(str, words)], env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) > 30
    assert {code for code, *_ in found[:-1]} == {"9"}
    sizes = [int(size) for _, size, _ in found]  # a size, not an error's words
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) == {12, 11}
    assert found[-1] == ["0", "11", "11"]
    assert {last for *_, last in found} == {"11"}
