"""Packing: every chunk in one row, none too full; streams that resume and split."""

import numpy as np
import pytest
from tiny_rerankers import t5_tokenizer

from jaxir.data.collection import open_collection
from jaxir.data.packing import RowBatches, open_chunks, pack_rows
from jaxir.errors import InputError


@pytest.fixture
def tokenizer(tmp_path):
    return t5_tokenizer(tmp_path / "t5")


class Rows(RowBatches):
    """The chunks of each row and a number drawn for it."""

    def _make(self, rows):
        return [(chunks.tolist(), random.integers(2**30)) for chunks, random in rows]


def stream(count=10, batch_size=3, **how):
    rows = [np.array([2 * i, 2 * i + 1]) for i in range(count)]
    return Rows(rows, batch_size=batch_size, seed=5, fill=1.0, fingerprint="x", **how)


@pytest.mark.parametrize("seed", range(5))
def test_rows_hold_every_chunk_once_and_keep_the_limits(seed):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 60, size=500)
    other = lengths // 4 + 1
    rows = pack_rows(lengths, (lengths, other), (64, 18), seed)
    assert sorted(np.concatenate(rows).tolist()) == list(range(500))
    assert max(lengths[row].sum() for row in rows) <= 64
    assert max(other[row].sum() for row in rows) <= 18
    # a bound that no packing beats is nearly met
    least = max(lengths.sum() / 64, other.sum() / 18)
    assert len(rows) < 1.1 * least + 1


def test_equal_lengths_are_mixed_by_the_seed():
    lengths = np.full(40, 4)
    one, two = (pack_rows(lengths, (lengths,), (8,), seed) for seed in (0, 1))
    assert [row.tolist() for row in one] != [row.tolist() for row in two]


def test_a_chunk_that_fits_no_row():
    with pytest.raises(InputError, match="row: a chunk of 9; expected at most 8"):
        pack_rows(np.array([9]), (np.array([9]),), (8,), 0)


def test_chunks_are_the_documents(tokenizer, tiny_collection):
    collection = open_collection(str(tiny_collection))
    chunks = open_chunks(collection, tokenizer, chunk_length=5, min_tokens=1)
    assert chunks.lengths.max() == 5
    assert chunks.num_docs == 12
    for row in range(12):
        whole = tokenizer.encode([collection.docs.text(row)], 2**20)[0]
        mine = np.flatnonzero(chunks.doc == row)
        parts = np.concatenate([chunks.tokens(i) for i in mine])
        np.testing.assert_array_equal(np.append(parts, 1), whole)
    two = open_chunks(
        [str(tiny_collection)] * 2, tokenizer, chunk_length=5, min_tokens=1
    )
    assert two.num_docs == 24
    assert two.fingerprint != chunks.fingerprint


def test_short_ends_are_left_out(tokenizer, tiny_collection):
    every = open_chunks(str(tiny_collection), tokenizer, chunk_length=5, min_tokens=1)
    kept = open_chunks(str(tiny_collection), tokenizer, chunk_length=5, min_tokens=5)
    assert kept.num_chunks == (every.lengths == 5).sum()
    with pytest.raises(InputError, match="no text long enough to learn from"):
        open_chunks(str(tiny_collection), tokenizer, chunk_length=5, min_tokens=6)


def test_holding_out_splits_documents(tokenizer, tiny_collection):
    chunks = open_chunks(str(tiny_collection), tokenizer, chunk_length=5, min_tokens=1)
    for amount in (3, 0.25):
        train, held = chunks.hold_out(amount, seed=0)
        assert held.num_docs == 3
        assert not set(train.doc) & set(held.doc)
        assert train.num_chunks + held.num_chunks == chunks.num_chunks
    assert chunks.hold_out(3, seed=0)[1].fingerprint == held.fingerprint
    for amount in (0, 12, 1.0):
        with pytest.raises(InputError, match=r"holdout: .* of 12 documents"):
            chunks.hold_out(amount, seed=0)


def test_an_epoch_visits_rows_once_with_masks_of_its_own():
    batches = stream()
    assert batches.steps_per_epoch == 3
    first = [item for _ in range(3) for item in next(batches)]
    second = [item for _ in range(3) for item in next(batches)]
    seen = [chunks[0] for chunks, _ in first]
    assert len(set(seen)) == 9  # of ten rows in batches of three one is left out
    assert seen != [chunks[0] for chunks, _ in second]
    drawn = {chunks[0]: number for chunks, number in first}
    again = {chunks[0]: number for chunks, number in second}
    assert all(drawn[row] != again[row] for row in drawn.keys() & again.keys())


def test_every_row_is_visited_for_validation():
    batches = stream(every_row=True)
    assert batches.steps_per_epoch == 4
    rows = [chunks for i in range(4) for chunks, _ in batches.batch(i)]
    assert sorted(chunk for row in rows for chunk in row) == list(range(20))
    assert stream(count=2, every_row=True).steps_per_epoch == 1


def test_resuming_anywhere():
    whole = stream()
    batches = [next(whole) for _ in range(8)]
    for position in (0, 2, 5):
        part = stream()
        for _ in range(position):
            next(part)
        resumed = stream()
        resumed.restore(part.state())
        assert [next(resumed) for _ in range(8 - position)] == batches[position:]


def test_processes_share_a_batch():
    whole = next(stream(batch_size=4))
    halves = [
        next(stream(batch_size=4, process_index=i, process_count=2)) for i in (0, 1)
    ]
    assert halves[0] + halves[1] == whole


def test_mistakes():
    with pytest.raises(InputError, match="batch_size: 11 with 10 rows of text"):
        stream(batch_size=11)
    with pytest.raises(InputError, match="batch_size: 3 over 2 processes"):
        stream(process_count=2)
    batches = stream()
    with pytest.raises(InputError, match=r"data state: .*; expected what state"):
        batches.restore({})
    with pytest.raises(InputError, match="taken from other documents"):
        batches.restore(batches.state() | {"fingerprint": "y"})
    with pytest.raises(TypeError, match="abstract"):  # it cannot make a batch
        RowBatches([np.array([0])], batch_size=1, seed=0, fill=1.0, fingerprint="")
