"""Pairs of batches against pairs made one at a time, in lists and in groups."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxir.data.collection import open_collection
from jaxir.data.lists import TrainingList, sample_lists
from jaxir.data.pair_texts import plan_groups
from jaxir.data.pipeline import PipelineConfig, make_batches
from jaxir.errors import InputError
from jaxir.pairs import pair_format
from jaxir.text import Templates, load_tokenizer
from jaxir.types import TokenBatch, TokenGroups

CONFIG = PipelineConfig(batch_size=4, list_size=3, window=2, encode="joint")
MONOT5 = Templates(pair="Query: {query} Document: {document} Relevant:")


def _lists(collection):
    """Lists of one, two and three documents."""
    lists = sample_lists(
        collection.qrels("train"),
        list_size=3,
        seed=1,
        doc_ids=collection.docs.doc_ids(),
    )
    return [
        TrainingList(item.query_id, item.doc_ids[:size], item.labels[:size])
        for item, size in zip(lists, [1, 2, 3] * 8, strict=True)
    ]


def _ungrouped(doc, position):
    """Token ids and segments of a pair, wherever it stands."""
    if isinstance(doc, TokenBatch):
        row = TokenBatch(*(None if array is None else array[position] for array in doc))
    else:
        index = int(doc.position[position])
        rows = [len(group.ids) for group in doc.groups]
        assert len(set(rows)) == 1
        group = doc.groups[index // rows[0]]
        row = TokenBatch(
            *(None if array is None else array[index % rows[0]] for array in group)
        )
    length = int(row.mask.sum())
    assert row.mask[:length].all()  # padded on the right
    kinds = None if row.type_ids is None else row.type_ids[:length].tolist()
    return row.ids[:length].tolist(), kinds


def _expect_pairs(batches, collection, tokenizer, config, count=6):
    """Compares some batches with the slow way, one pair at a time."""
    template = config.templates.pair if config.encode == "template" else None
    form = pair_format(tokenizer, template=template, eos=config.eos)
    queries = list(collection.queries("train").values())
    cut_docs = cut_queries = 0
    for batch in itertools.islice(batches, count):
        assert batch.query is None
        assert batch.known_positive is None
        for i, row in enumerate(batch.query_index):
            for j, doc in enumerate(batch.doc_index[i]):
                ids, kinds = _ungrouped(batch.doc, (i, j))
                if doc < 0:
                    assert not batch.where[i, j]
                    assert ids == []
                    continue
                text = collection.docs.text(doc)
                (pair,) = form.encode([queries[row]], [text], config.doc_length)
                assert ids == pair.ids.tolist()
                cut_docs += pair.cut > 0
                cut_queries += pair.query_cut > 0
                if form.typed:
                    assert kinds == [int(k >= pair.boundary) for k in range(len(ids))]
                else:
                    assert kinds is None
    return cut_docs, cut_queries


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("eos", [True, False])
@pytest.mark.parametrize("encode", ["joint", "template"])
def test_pairs_of_batches(folder, tokenizer, encode, eos, groups):
    if encode == "joint" and not eos:
        return
    collection = open_collection(folder)
    lists = _lists(collection)
    for doc_length in (16, 48):  # 16: some queries leave the document no room
        config = replace(
            CONFIG, encode=encode, doc_length=doc_length, eos=eos, pair_groups=groups,
            templates=MONOT5, prefetch=1,
        )  # fmt: skip
        batches = make_batches(lists, collection, tokenizer, config)
        _expect_pairs(batches, collection, tokenizer, config)
        batches.close()


@pytest.mark.shared
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("encode", ["joint", "template"])
@pytest.mark.parametrize("name", ["bert-base-uncased", "t5", "t5/spiece.model"])
def test_pairs_of_real_tokenizers(folder, shared_data, name, encode, groups):
    collection = open_collection(folder)
    tokenizer = load_tokenizer(shared_data / "tokenizers" / name)
    config = replace(CONFIG, encode=encode, doc_length=64, pair_groups=groups)
    batches = make_batches(_lists(collection), collection, tokenizer, config)
    _expect_pairs(batches, collection, tokenizer, config)
    batches.close()


@pytest.mark.parametrize("doc_length", [16, 32, 48, 96])
@pytest.mark.parametrize("encode", ["joint", "template"])
def test_what_is_cut_is_counted(folder, tokenizer, encode, doc_length):
    collection = open_collection(folder)
    config = replace(CONFIG, encode=encode, doc_length=doc_length)
    whole = make_batches(_lists(collection), collection, tokenizer, config)
    counted = _expect_pairs(whole, collection, tokenizer, config)
    assert (whole.cut_docs, whole.cut_queries) == counted
    assert (whole.cut_docs > 0) == (doc_length < 96)
    assert (whole.cut_queries > 0) == (doc_length < 32)
    share = make_batches(
        _lists(collection), collection, tokenizer, config, process_count=2
    )
    for _ in range(6):
        next(share)
    assert (share.cut_docs, share.cut_queries) == counted  # of all processes
    whole.close()
    share.close()


def test_a_batch_is_as_wide_as_its_longest_pair(folder, tokenizer):
    """No token is lost to a shape, and no shorter shape would do."""
    collection = open_collection(folder)
    config = replace(CONFIG, encode="template", doc_length=80, doc_buckets=8)
    batches = make_batches(_lists(collection), collection, tokenizer, config)
    lengths = [length for zero, length in batches.shapes if zero == 0]
    assert len(lengths) == len(batches.shapes) == 5
    seen = set()
    for batch in itertools.islice(batches, 12):
        width = batch.doc.ids.shape[2]
        longest = int(batch.doc.mask.sum(-1).max())
        assert width == min(length for length in lengths if length >= longest)
        seen.add(width)
    assert len(seen) > 1
    batches.close()


# --------------------------------------------------------------------- groups


@pytest.mark.parametrize("groups", [2, 4, 12])
def test_groups_are_sorted_and_planned(folder, tokenizer, groups):
    collection = open_collection(folder)
    config = replace(CONFIG, doc_length=48, pair_groups=groups)
    batches = make_batches(_lists(collection), collection, tokenizer, config)
    assert 1 <= len(batches.shapes) <= 3
    assert batches.shapes[-1][1:] == (batches.shapes[-1][-1],) * groups
    tokens = 0
    for batch in itertools.islice(batches, 12):
        assert isinstance(batch.doc, TokenGroups)
        assert batch.doc.position.dtype == np.int32
        assert sorted(batch.doc.position.ravel().tolist()) == list(range(12))
        widths = tuple(group.ids.shape[1] for group in batch.doc.groups)
        assert (0, *widths) in batches.shapes
        longest = [int(group.mask.sum(1).max()) for group in batch.doc.groups]
        # the first plan that fits
        first = next(
            plan[1:] for plan in batches.shapes
            if all(n <= width for n, width in zip(longest, plan[1:], strict=True))
        )  # fmt: skip
        assert widths == first
        lengths = np.concatenate([group.mask.sum(1) for group in batch.doc.groups])
        assert (np.diff(lengths) >= 0).all()
        tokens += sum(group.ids.size for group in batch.doc.groups)
    assert tokens < 12 * 12 * 48
    batches.close()


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_every_group(folder, tokenizer, processes):
    collection = open_collection(folder)
    config = replace(CONFIG, doc_length=48, pair_groups=3)
    lists = _lists(collection)
    whole = make_batches(lists, collection, tokenizer, config)
    shares = [
        make_batches(
            lists, collection, tokenizer, config, process_index=i,
            process_count=processes,
        )
        for i in range(processes)
    ]  # fmt: skip
    for _ in range(8):
        expected = next(whole).doc
        parts = [next(share).doc for share in shares]
        position = np.concatenate([part.position for part in parts])
        assert np.array_equal(position, expected.position)
        for g, group in enumerate(expected.groups):
            for name, wanted in group._asdict().items():
                found = [getattr(part.groups[g], name) for part in parts]
                assert len({len(array) for array in found}) == 1
                assert np.array_equal(np.concatenate(found), wanted)
    for batches in (whole, *shares):
        batches.close()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 99),
    groups=st.sampled_from([1, 2, 3, 6]),
    count=st.integers(1, 9),
    max_length=st.sampled_from([30, 64, 128]),
)
def test_plans(seed, groups, count, max_length):
    random = np.random.default_rng(seed)
    samples = random.integers(0, max_length + 1, (count, 12))
    longest = int(samples.max())
    plans = plan_groups(samples, groups, longest, max_length)
    assert 1 <= len(set(plans)) == len(plans) <= 3
    assert all(longest <= width <= max_length for width in plans[-1])
    assert all(
        width > 0 and (width % 8 == 0 or width == max_length)
        for plan in plans for width in plan
    )  # fmt: skip
    assert all(list(plan) == sorted(plan) for plan in plans)
    sums = [sum(plan) for plan in plans]
    assert sums == sorted(sums)


def test_plans_are_worth_it():
    """Batches of many pairs need nearly the same widths, and waste little."""
    random = np.random.default_rng(0)
    samples = np.minimum(random.lognormal(4.5, 0.7, (64, 1152)).astype(int) + 8, 384)
    plans = plan_groups(samples, 8, 384, 384)
    assert plans[-1] == (384,) * 8
    assert 8 * samples.mean() > 0.75 * sum(plans[1])
    assert sum(plans[1]) < 0.5 * 8 * 384


def test_mistakes(folder, tokenizer):
    collection = open_collection(folder)
    lists = _lists(collection)
    with pytest.raises(InputError, match="pair_groups: 0; expected at least 1"):
        replace(CONFIG, pair_groups=0)
    with pytest.raises(InputError, match="pair_groups: 2 for separate texts; expec"):
        make_batches(
            lists, collection, tokenizer,
            replace(CONFIG, pair_groups=2, encode="separate", eos=True),
        )  # fmt: skip
    for encode in ("joint", "separate"):
        with pytest.raises(InputError, match=f"eos: False for {encode} texts; expec"):
            PipelineConfig(encode=encode, eos=False)
    message = "5 for 4 lists of 3 over 1 processes; expected a divisor of 12 pairs"
    with pytest.raises(InputError, match=message):
        make_batches(lists, collection, tokenizer, replace(CONFIG, pair_groups=5))
    message = "4 for 4 lists of 3 over 2 processes; expected a divisor of 12 pairs"
    with pytest.raises(InputError, match=message):
        make_batches(
            lists, collection, tokenizer, replace(CONFIG, pair_groups=4),
            process_count=2,
        )  # fmt: skip
    with pytest.raises(InputError, match="max_length: 3 beside 3 tokens that stand"):
        make_batches(lists, collection, tokenizer, replace(CONFIG, doc_length=3))
