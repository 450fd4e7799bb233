"""Building and opening posting lists: what they hold, and what is refused."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_postings import built, draw

import jaxir
from jaxir.errors import InputError
from jaxir.manifest import write_index
from jaxir.sparse.postings import (
    DTYPES,
    FOLDER,
    SparseRows,
    build_postings,
    open_postings,
)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    seed=st.integers(0, 2**31), num_docs=st.integers(0, 60), vocab=st.integers(1, 20),
    shards=st.integers(1, 4), block_size=st.sampled_from([1, 4, 16, 1 << 16]),
)  # fmt: skip
def test_lists_are_the_columns_of_the_rows(
    tmp_path, seed, num_docs, vocab, shards, block_size
):  # fmt: skip
    rng = np.random.default_rng(seed)
    docs = np.where(
        rng.random((num_docs, vocab)) < 0.4, rng.random((num_docs, vocab)), 0
    )
    docs = docs.astype(np.float32)
    found = built(tmp_path, docs, shards=shards, block_size=block_size)
    columns = sp.csc_array(docs)
    columns.sort_indices()
    np.testing.assert_array_equal(found.offsets, columns.indptr)
    np.testing.assert_array_equal(found.docs, columns.indices)
    np.testing.assert_array_equal(found.weights, columns.data)
    assert found.scales is None
    assert (found.num_docs, found.block_size) == (num_docs, block_size)
    assert found.vocab_size == vocab
    check_blocks(found)


def check_blocks(found):
    """Blocks of the lists that have them, worked out posting by posting."""
    num_blocks = -(-found.num_docs // found.block_size)
    for token in range(found.vocab_size):
        start, stop = found.offsets[token : token + 2]
        own = slice(*found.block_offsets[token : token + 2])
        long = stop > start and stop - start >= 6 * num_blocks
        assert (own.stop > own.start) == long
        if not long:
            continue
        blocks = found.docs[start:stop] // found.block_size
        listed, first = np.unique(blocks, return_index=True)
        np.testing.assert_array_equal(found.blocks[own], listed)
        np.testing.assert_array_equal(found.block_starts[own], first)
        weights = found.weights[start:stop].astype(np.float32)
        largest = [weights[blocks == block].max() for block in listed]
        np.testing.assert_array_equal(found.block_maxima[own], largest)


def test_some_lists_have_blocks(tmp_path):
    docs = draw(np.random.default_rng(0), 300, 30, 9)
    for dtype in DTYPES:
        found = built(tmp_path, docs, dtype=dtype, block_size=16)
        assert len(found.blocks) > 0
        check_blocks(found)


def test_what_is_stored_of_weights(tmp_path):
    docs = draw(np.random.default_rng(0), 80, 12, 6)
    docs[3, 4], docs[5, 4] = 1e-9, 50.0
    order = np.argsort(np.nonzero(docs)[1], kind="stable")
    weights = docs[np.nonzero(docs)][order]
    half = built(tmp_path, docs, dtype="float16")
    np.testing.assert_allclose(half.weights, weights, 2**-11, atol=2**-24)
    assert half.weights.min() > 0
    codes = built(tmp_path, docs, dtype="uint8")
    token = np.repeat(np.arange(12), np.diff(codes.offsets))
    largest = docs.max(0)[token]
    np.testing.assert_allclose(codes.scales[token] * 255, largest, 1e-6)
    restored = codes.weights * codes.scales[token]
    assert (np.abs(restored - weights) <= largest / 255 * 1.001).all()
    assert codes.weights.min() == 1
    assert codes.weights.max() == 255


def test_the_order_of_a_rows_tokens_is_free(tmp_path):
    rows = SparseRows(
        np.array([0, 3, 4]), np.array([2, 0, 1]), np.array([1, 2, 3], np.float32)
    )
    rows = rows._replace(offsets=np.array([0, 0, 3]))
    build_postings([rows], 3, tmp_path)
    found = open_postings(tmp_path, 2)
    assert found.weights.tolist() == [2, 3, 1]
    assert found.docs.tolist() == [1, 1, 1]


# --- what is refused ------------------------------------------------------------------


def rows(offsets, tokens, weights):
    return SparseRows(
        np.array(offsets), np.array(tokens, np.int32), np.array(weights, np.float32)
    )


GOOD = rows([0, 1], [1], [1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (rows([0, 0, 1], [3], [1]), "document 2: token 3; expected 0 to 2"),
        (rows([0, 1], [-1], [1]), "document 1: token -1; expected 0 to 2"),
        (rows([0, 2], [1, 2], [1, 0]), "document 1: weight 0.0 of token 2; expected a"),
        (rows([0, 1], [1], [np.nan]), "document 1: weight nan of token 1"),
        (rows([0, 1], [1], [np.inf]), "document 1: weight inf of token 1"),
        (rows([0, 1], [1], [-2]), "document 1: weight -2.0 of token 1"),
        (
            rows([0, 3], [1, 2, 1], [1, 1, 1]),
            "document 1: token 1 twice; expected each",
        ),
        (
            rows([0, 2], [1], [1]),
            "documents from 1: offsets that are not those of rows",
        ),
        (rows([1, 1], [1], [1]), "offsets that are not those of rows"),
        (rows([0, 2, 1, 2], [1, 2], [1, 1]), "offsets that are not those of rows"),
        (rows([], [], []), "offsets that are not those of rows"),
    ],
)
def test_refuses_rows(tmp_path, wrong, message):
    with pytest.raises(InputError, match=message):
        build_postings([GOOD, wrong], 3, tmp_path)


def test_refuses_options(tmp_path):
    with pytest.raises(InputError, match="dtype: 'int4'; expected one of float32"):
        build_postings([GOOD], 3, tmp_path, dtype="int4")
    for size in (0, 3, -4, 1 << 17):
        with pytest.raises(InputError, match=f"block_size: {size}; expected a power"):
            build_postings([GOOD], 3, tmp_path, block_size=size)
    large = rows([0, 1, 2], [1, 1], [1, 70_000])
    with pytest.raises(InputError, match="document 2: weight 70000; expected at most"):
        build_postings([GOOD, large], 3, tmp_path, dtype="float16")


class Changing(list):
    """Shards that are others at each reading."""

    def __init__(self, *readings):
        super().__init__(readings[0])
        self.readings = list(readings)

    def __iter__(self):
        return iter(self.readings.pop(0))


TWO, MORE = rows([0, 2], [0, 1], [1, 1]), rows([0, 3], [0, 1, 2], [1] * 3)


@pytest.mark.parametrize(
    "readings",
    [([TWO], [GOOD]), ([GOOD], [TWO]), ([GOOD], [GOOD, GOOD]), ([TWO], [MORE])],
)
def test_refuses_documents_that_change_between_the_readings(tmp_path, readings):
    with pytest.raises(InputError, match="other documents at the second reading"):
        build_postings(Changing(*readings), 3, tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("blocks", np.array([0, 2], np.uint16)),
        ("block_maxima", np.array([1, 2], np.float32)),
        ("block_starts", np.array([0, 7], np.int32)),
        ("block_starts", np.array([0, -1], np.int32)),
    ],
)
def test_refuses_damaged_blocks(tmp_path, name, content):
    docs = np.ones((16, 2), np.float32)
    docs[8, 0], docs[0, 1] = 3, 0
    docs[1:, 1] = 0
    postings = built(tmp_path, docs, block_size=8)
    assert len(getattr(postings, name)) == 2
    np.save(tmp_path / FOLDER / f"{name}.npy", content)
    with pytest.raises(InputError, match="a block that the postings do not have"):
        open_postings(tmp_path, 16)


def test_a_full_disk_is_an_error_and_leaves_no_index(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    place = tmp_path / "index"
    with (
        pytest.raises(InputError, match="no space left on the device"),
        write_index(place, kind="sparse", counts={"docs": 1}) as folder,
    ):
        build_postings([GOOD], 3, folder)
    assert not place.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("docs", None, "docs.npy: no such file; expected postings of an index"),
        ("docs", b"", "docs.npy: not an array"),
        ("docs", np.zeros(4), "docs.npy: float64 .*; expected int32"),
        ("docs", np.zeros((2, 2), np.int32), "docs.npy: int32 .2, 2.; expected int32"),
        ("docs", np.array([0, 1, 0, 2], np.int32), "row 2 at posting 3; expected rows"),
        ("docs", np.array([0, 1, 0, -1], np.int32), "row -1 at posting 3"),
        ("docs", np.array([1, 1, 0, 1], np.int32), "row 1 at posting 1"),
        ("docs", np.zeros(3, np.int32), "offsets.npy: offsets that are not those"),
        ("offsets", np.array([0, 3, 2, 4]), "offsets.npy: offsets that are not those"),
        ("offsets", np.array([1, 2, 4, 4]), "offsets.npy: offsets that are not those"),
        ("offsets", np.zeros(0, np.int64), "offsets.npy: offsets that are not those"),
        ("offsets", np.array([0, 2, 4]), "block_offsets.npy: 4 entries; expected 3"),
        (
            "block_offsets",
            np.array([0, 0, 0, 1]),
            "block_offsets.npy: offsets that are",
        ),
        ("shape", np.array([3, 64]), "shape.npy: of 3 documents; expected 2"),
        ("shape", np.array([2]), "shape.npy: of 2 documents"),
        ("shape", np.zeros(0, np.int64), "shape.npy: empty; expected 2"),
        ("shape", np.array([2, 0]), "shape.npy: blocks of 0 documents; expected a pow"),
        ("shape", np.array([2, 63]), "shape.npy: blocks of 63 documents"),
        ("scales", np.array([1, 0, 1], np.float32), "scales.npy: not a number above 0"),
        ("scales", np.ones(2, np.float32), "scales.npy: not a number above 0"),
        ("weights", np.array([1, 2, 0, 1], np.uint8), "0 at posting 2; expected a fin"),
        ("weights", np.array([1, 2, np.nan, 1], np.float32), "nan at posting 2"),
        ("weights", np.array([1, 2, -1, 1], np.float32), "-1.0 at posting 2"),
        ("weights", np.array([1, np.inf, 1, 1], np.float16), "inf at posting 1"),
        ("weights", np.array([1, 0, 1, 1], np.float16), "0.0 at posting 1"),
    ],
)
def test_refuses_damaged_files(tmp_path, name, content, message):
    build_postings([rows([0, 2, 4], [0, 1, 0, 1], [1] * 4)], 3, tmp_path, dtype="uint8")
    path = tmp_path / FOLDER / f"{name}.npy"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(InputError, match=message):
        open_postings(tmp_path, 2)


def test_content_need_not_be_read_at_opening(tmp_path):
    build_postings([rows([0, 1, 2], [0, 0], [1, 1])], 3, tmp_path)
    np.save(tmp_path / FOLDER / "weights.npy", np.array([1, np.nan], np.float32))
    assert open_postings(tmp_path, 2, check=False).num_docs == 2
    with pytest.raises(InputError, match="nan at posting 1"):
        open_postings(tmp_path, 2)


# --- where nothing can be written -----------------------------------------------------

_SEARCH = """
import sys, tempfile
import numpy as np
from jaxir.sparse.postings import SparseRows, build_postings, open_postings
from jaxir.sparse.search import SparseQueries, search
one = np.ones(1, np.float32)
place = tempfile.mkdtemp()
build_postings([SparseRows(np.array([0, 1]), np.array([1], np.int32), one)], 3, place)
query = SparseQueries(np.array([0, 1]), np.array([1], np.int32), one)
print(search(open_postings(place, 1), query, 1, method="exhaustive").scores)
print([name for name in ("jax", "transformers", "torch") if name in sys.modules])
"""


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["a folder", "none"])
def test_a_package_that_cannot_be_written(tmp_path, cache):
    """The compiled loops are cached elsewhere, or not at all; search needs no JAX."""
    copy = tmp_path / "packages" / "jaxir"
    (copy / "sparse").mkdir(parents=True)
    package = Path(jaxir.__file__).parent
    for name in ("__init__", "errors", "files", "types"):
        shutil.copy(package / f"{name}.py", copy)
    for path in (package / "sparse").glob("*.py"):
        shutil.copy(path, copy / "sparse")
    # A file in the place of each directory: not even root can write a cache there.
    (copy / "sparse" / "__pycache__").write_text("")
    home = tmp_path / "home"
    home.mkdir() if cache == "a folder" else home.write_text("")
    surroundings = {
        name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"
    }
    surroundings |= {
        "PYTHONPATH": os.fspath(tmp_path / "packages"), "HOME": os.fspath(home),
        "XDG_CACHE_HOME": os.fspath(home / "cache"), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", _SEARCH], capture_output=True, text=True, check=True,
        env=surroundings, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["[[1.]]", "[]"]
    assert any(home.rglob("*.nbi")) == (cache == "a folder")
