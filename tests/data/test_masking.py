"""Masking: what is hidden is known, and as often as BERT's paper says."""

import numpy as np
import pytest
from tiny_rerankers import bert_tokenizer, t5_tokenizer

from jaxir.data.masking import (
    MaskConfig,
    choose_masked,
    make_mask_batches,
    word_starts,
)
from jaxir.data.packing import open_chunks
from jaxir.errors import InputError
from jaxir.text import load_tokenizer

SMALL = MaskConfig(batch_size=4, input_length=32, min_tokens=2)


@pytest.fixture
def tokenizer(tmp_path):
    return bert_tokenizer(tmp_path / "bert")


@pytest.fixture
def chunks(tokenizer, tiny_collection):
    return open_chunks(str(tiny_collection), tokenizer, chunk_length=30, min_tokens=2)


def test_rows_come_back_when_the_targets_are_put_in(tokenizer, chunks):
    for packed in (True, False):
        config = MaskConfig(batch_size=4, input_length=32, min_tokens=2, packed=packed)
        batches = make_mask_batches(chunks, tokenizer, config, every_row=True)
        texts = []
        for i in range(batches.steps_per_epoch):
            batch = batches.batch(i)
            assert batch.ids.shape == (4, 32)
            assert batch.positions.shape == (4, config.slots)
            for row in range(4):
                ids, used = batch.ids[row].copy(), batch.where[row]
                places = batch.positions[row][used]
                assert (np.diff(places) > 0).all()
                ids[places] = batch.targets[row][used]
                ids = ids[batch.mask[row]].tolist()
                if not ids:
                    continue
                assert ids[0] == 2
                assert ids[-1] == 3
                ends = [at for at, token in enumerate(ids) if token == 3]
                for start, end in zip([0, *ends[:-1]], ends, strict=True):
                    texts.append(tuple(ids[start + 1 : end]))
                maskable = len(ids) - 1 - len(ends)
                assert used.sum() == max(1, round(0.15 * maskable))
        wanted = [tuple(chunks.tokens(i).tolist()) for i in range(chunks.num_chunks)]
        assert sorted(texts) == sorted(wanted)


def test_what_becomes_of_the_chosen(tokenizer, chunks):
    batches = make_mask_batches(chunks, tokenizer, SMALL)
    hidden, kept, other, count = 0, 0, 0, 0
    for _ in range(400):
        batch = next(batches)
        shown = np.take_along_axis(batch.ids, batch.positions, 1)[batch.where]
        targets = batch.targets[batch.where]
        assert (shown > 3).all()  # [MASK] or a word, never another special token
        hidden += (shown == 4).sum()
        kept += (shown == targets).sum()
        other += ((shown != targets) & (shown != 4)).sum()
        count += len(shown)
    assert hidden / count == pytest.approx(0.8, abs=0.02)
    # a random word is now and then the word itself
    assert kept / count == pytest.approx(0.1, abs=0.02)
    assert other / count == pytest.approx(0.1, abs=0.02)


def test_whole_words():
    starts = np.array([1, 1, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1], bool)
    candidates = np.ones(14, bool)
    candidates[[0, 13]] = False
    groups = np.cumsum(starts)
    some = set()
    for seed in range(200):
        places = choose_masked(starts, candidates, 0.3, np.random.default_rng(seed))
        assert 1 <= len(places) <= round(0.3 * 12)
        assert candidates[places].all()
        for group in set(groups[places]):
            word = np.flatnonzero((groups == group) & candidates)
            assert set(word) <= set(places)
        some |= set(places.tolist())
    assert some == set(range(1, 13))
    # one word longer than the budget: its beginning
    one = np.array([True, False, False, False])
    places = choose_masked(one, np.ones(4, bool), 0.5, np.random.default_rng(0))
    assert places.tolist() == [0, 1]
    nothing = choose_masked(one, np.zeros(4, bool), 0.5, np.random.default_rng(0))
    assert len(nothing) == 0


def test_word_starts(tokenizer, tmp_path):
    assert word_starts(tokenizer).all()  # no token continues a word
    folder = tmp_path / "pieces"
    folder.mkdir()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "bake", "##s"]
    (folder / "vocab.txt").write_text("\n".join(names) + "\n")
    assert word_starts(load_tokenizer(folder)).tolist() == [True] * 6 + [False]
    t5 = t5_tokenizer(tmp_path / "t5")
    starts = dict(zip(t5.tokens(range(t5.vocab_size)), word_starts(t5), strict=True))
    assert starts["▁river"]
    assert not starts["a"]


def test_whole_word_batches(tokenizer, chunks):
    config = MaskConfig(batch_size=4, input_length=32, min_tokens=2, whole_words=True)
    batch = next(make_mask_batches(chunks, tokenizer, config))
    assert batch.where.any()


def test_mistakes(chunks, tokenizer, tmp_path):
    for change, message in (
        ({"batch_size": 0}, "batch_size: 0; expected at least 1"),
        ({"input_length": 4}, "input_length: 4; expected at least 8"),
        ({"mask_rate": 0.0}, "mask_rate: 0.0; expected within 0 and 1"),
    ):
        with pytest.raises(InputError, match=message):
            MaskConfig(**change)
    with pytest.raises(InputError, match=r"no token .MASK. or <mask>"):
        make_mask_batches(chunks, t5_tokenizer(tmp_path / "t5"), SMALL)


@pytest.mark.parametrize("packed", [True, False])
def test_texts_that_do_not_fit_a_row(tokenizer, chunks, packed):
    config = MaskConfig(batch_size=4, input_length=8, packed=packed)
    with pytest.raises(InputError, match=r"input_length: 8 for a text .* shorter"):
        make_mask_batches(chunks, tokenizer, config)
