"""Span corruption: nothing is lost, and the numbers are T5's."""

import itertools
from collections import Counter

import numpy as np
import pytest
from tiny_rerankers import bert_tokenizer, t5_tokenizer

from jaxir.data.packing import open_chunks
from jaxir.data.spans import (
    SpanConfig,
    chunk_length_of,
    corrupt_spans,
    make_span_batches,
    noise_mask,
    sentinel_ids,
    span_lengths,
)
from jaxir.errors import InputError

SENTINELS = np.arange(32099, 31999, -1)
SMALL = SpanConfig(batch_size=4, input_length=16, min_tokens=2)


@pytest.fixture
def tokenizer(tmp_path):
    return t5_tokenizer(tmp_path / "t5")


@pytest.fixture
def chunks(tokenizer, tiny_collection):
    return open_chunks(
        str(tiny_collection), tokenizer, chunk_length=chunk_length_of(SMALL),
        min_tokens=2,
    )  # fmt: skip


def reassemble(inputs, targets, sentinels):
    """The text that inputs and targets were made of: an oracle that knows no mask."""
    names = set(sentinels.tolist())
    assert inputs[-1] == targets[-1] == 1
    spans, current = {}, None
    for token in targets[:-1].tolist():
        if token in names:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    text = []
    for token in inputs[:-1].tolist():
        text += spans.pop(token) if token in names else [token]
    assert not spans
    return text


@pytest.mark.parametrize("length", [2, 3, 7, 20, 100, 568])
def test_inputs_and_targets_hold_the_text(length):
    config = SpanConfig()
    sizes = span_lengths(length, config)
    for seed in range(20):
        random = np.random.default_rng(seed)
        ids = random.integers(10, 30000, length).astype(np.int32)
        mask = noise_mask(length, config, random)
        inputs, targets = corrupt_spans(ids, mask, SENTINELS, 1)
        assert (len(inputs), len(targets)) == (sizes.inputs, sizes.targets)
        assert reassemble(inputs, targets, SENTINELS) == ids.tolist()
        used = [token for token in targets if token in SENTINELS]
        assert used == SENTINELS[: sizes.spans].tolist()
        assert [token for token in inputs if token in SENTINELS] == used


def test_density_and_span_length_are_the_paper_s():
    config, random = SpanConfig(), np.random.default_rng(0)
    masks = np.stack([noise_mask(512, config, random) for _ in range(200)])
    assert (masks.sum(1) == round(0.15 * 512)).all()
    begins = masks & ~np.pad(masks, ((0, 0), (1, 0)))[:, :-1]
    spans = begins.sum(1)
    assert (spans == round(77 / 3)).all()
    assert masks.sum() / begins.sum() == pytest.approx(3.0, abs=0.05)
    assert not masks[:, 0].any()
    assert masks[:, -1].all()
    # beyond the edges every place is as likely to be cut out
    assert np.abs(masks[:, 30:-30].mean(0) - 0.15).max() < 0.12


def test_each_way_to_cut_is_equally_likely():
    config = SpanConfig(noise_density=0.5, mean_span_length=2.0)
    random = np.random.default_rng(0)
    draws = Counter(tuple(noise_mask(8, config, random).tolist()) for _ in range(9000))
    # four tokens as two spans in three ways, for either kind
    ways = [(a, 4 - a) for a in (1, 2, 3)]
    wanted = {
        tuple([False] * k1 + [True] * c1 + [False] * k2 + [True] * c2)
        for (k1, k2), (c1, c2) in itertools.product(ways, ways)
    }
    assert set(draws) == wanted
    assert max(abs(count - 1000) for count in draws.values()) < 150


def test_lengths_are_t5_s():
    # random_spans_helper(512, .15, 3): 568 tokens become 512 and 114
    for length, raw, targets in ((512, 568, 114), (256, 284, 58), (128, 141, 29)):
        config = SpanConfig(input_length=length)
        assert chunk_length_of(config) == raw
        assert span_lengths(raw, config).targets == targets
        assert config.row_targets >= targets
        assert config.row_targets % 8 == 0
    assert SpanConfig(target_length=120).row_targets == 120


def test_packed_rows(tokenizer, chunks):
    batches = make_span_batches(chunks, tokenizer, SMALL, every_row=True)
    sentinels = sentinel_ids(tokenizer)
    assert len(sentinels) == 12
    texts = []
    for i in range(batches.steps_per_epoch):
        batch = batches.batch(i)
        assert batch.inputs.shape == (4, 16)
        assert batch.targets.shape == (4, SMALL.row_targets)
        for row in range(4):
            count = batch.input_segments[row].max()
            assert count == batch.target_segments[row].max()
            for segment in range(1, count + 1):
                inputs = batch.inputs[row][batch.input_segments[row] == segment]
                targets = batch.targets[row][batch.target_segments[row] == segment]
                texts.append(tuple(reassemble(inputs, targets, sentinels)))
        assert not batch.inputs[batch.input_segments == 0].any()
    wanted = [tuple(chunks.tokens(i).tolist()) for i in range(chunks.num_chunks)]
    assert sorted(texts) == sorted(wanted)
    assert 0.5 < batches.fill <= 1


def test_masks_differ_by_epoch_and_not_by_process(tokenizer, chunks):
    # a text of one span always ends with it: more spans
    config = SpanConfig(4, 16, 16, noise_density=0.4, mean_span_length=1.5)

    def stream(**how):
        return make_span_batches(chunks, tokenizer, config, **how)

    def rows(batch):
        return {tuple(row) for row in batch.inputs.tolist()}

    whole = stream()
    epoch = whole.steps_per_epoch
    first = set().union(*(rows(whole.batch(i)) for i in range(epoch)))
    second = set().union(*(rows(whole.batch(epoch + i)) for i in range(epoch)))
    assert len(first & second) < len(first) / 2
    halves = [stream(process_index=i, process_count=2).batch(1) for i in (0, 1)]
    for part, *pieces in zip(whole.batch(1), *halves, strict=True):
        np.testing.assert_array_equal(part, np.concatenate(pieces))


def test_mistakes(tokenizer, chunks, tmp_path):
    for change, message in (
        ({"batch_size": 0}, "batch_size: 0; expected at least 1"),
        ({"min_tokens": 1}, "min_tokens: 1; expected at least 2"),
        ({"noise_density": 1.0}, "noise_density: 1.0; expected within"),
        ({"mean_span_length": 0.5}, "mean_span_length: 0.5; expected 1 or more"),
        ({"input_length": 7}, "input_length: 7; expected at least 8"),
        ({"seed": -1}, "seed: -1; expected at least 0"),
        ({"target_length": 113}, "target_length: 113; expected at least 114"),
    ):
        with pytest.raises(InputError, match=message):
            SpanConfig(**change)
    with pytest.raises(InputError, match="no token <extra_id_0>; expected the token"):
        make_span_batches(chunks, bert_tokenizer(tmp_path / "bert"), SMALL)
    many = SpanConfig(batch_size=1, input_length=64, min_tokens=2, noise_density=0.6,
                      mean_span_length=1.0)  # fmt: skip
    long = chunks._replace(lengths=np.array([40]))
    with pytest.raises(InputError, match="spans in a text; expected at most the 12 se"):
        make_span_batches(long, tokenizer, many)


@pytest.mark.shared
def test_real_documents(shared_data):
    from jaxir.text import load_tokenizer

    tokenizer = load_tokenizer(shared_data / "tokenizers" / "t5")
    assert sentinel_ids(tokenizer).tolist() == list(range(32099, 31999, -1))
    config = SpanConfig(batch_size=8, input_length=256)
    chunks = open_chunks(
        str(shared_data / "cacm"), tokenizer, chunk_length=chunk_length_of(config)
    )
    batches = make_span_batches(chunks, tokenizer, config)
    assert batches.fill > 0.85
    batch = next(batches)
    assert (batch.target_segments > 0).mean() > 0.6


def test_a_text_of_one_token_has_no_span(tokenizer, chunks):
    short = chunks._replace(lengths=np.ones_like(chunks.lengths))
    with pytest.raises(InputError, match="min_tokens: a text of one token; expected 2"):
        make_span_batches(short, tokenizer, SMALL)
