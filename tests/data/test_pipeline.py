"""Batches: their content against a slow oracle, and that they can be gone back to."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxir.data.collection import open_collection
from jaxir.data.epochs import plan_epoch
from jaxir.data.lists import TrainingList, in_batch_lists, sample_lists, write_lists
from jaxir.data.pipeline import PipelineConfig, make_batches
from jaxir.data.tfds_lists import prepare_lists
from jaxir.errors import InputError
from jaxir.text import load_tokenizer

CONFIG = PipelineConfig(
    batch_size=4, list_size=3, query_length=16, doc_length=48, seed=5, window=2
)


def _lists(collection, *, list_size=3, scored=False):
    lists = sample_lists(
        collection.qrels("train"),
        list_size=list_size,
        seed=1,
        doc_ids=collection.docs.doc_ids(),
    )
    if not scored:
        return list(lists)
    return [
        item._replace(scores=tuple(float(i) - 1 for i in range(len(item.doc_ids))))
        for item in lists
    ]


def _same(first, second) -> bool:
    """Whether two batches agree bit by bit."""
    if first is None or second is None:
        return first is second
    if isinstance(first, tuple):
        return all(_same(a, b) for a, b in zip(first, second, strict=True))
    return first.dtype == second.dtype and np.array_equal(first, second)


def _copy(batches, count):
    return [next(batches) for _ in range(count)]


def test_content_of_batches(folder, tokenizer):
    collection = open_collection(folder)
    lists = _lists(collection)
    batches = make_batches(lists, collection, tokenizer, CONFIG)
    assert batches.steps_per_epoch == 6
    queries = list(collection.queries("train").items())
    seen = []
    for batch in _copy(batches, 6):
        assert (batch.query.ids.shape[1], batch.doc.ids.shape[2]) in batches.shapes
        assert batch.query.mask[:, 0].all()
        assert batch.query.type_ids is None
        assert batch.teacher_scores is None
        for i, row in enumerate(batch.query_index):
            query_id, text = queries[row]
            (wanted,) = tokenizer.encode([text], 16)
            assert batch.query.ids[i][batch.query.mask[i]].tolist() == wanted.tolist()
            assert not batch.query.ids[i][~batch.query.mask[i]].any()
            ids = tuple(collection.docs.doc_id(d) for d in batch.doc_index[i])
            (item,) = [x for x in lists if (x.query_id, x.doc_ids) == (query_id, ids)]
            assert batch.labels[i].tolist() == list(item.labels)
            seen.append(item)
            encoded = tokenizer.encode(collection.docs.texts(batch.doc_index[i]), 48)
            for j, tokens in enumerate(encoded):
                mask = batch.doc.mask[i, j]
                assert batch.doc.ids[i, j][mask].tolist() == tokens.tolist()
                assert mask.sum() == len(tokens)
        # no shorter bucket would do
        longest = int(batch.doc.mask.sum(-1).max())
        assert longest <= batch.doc.ids.shape[2]
        assert all(
            b < longest or b >= batch.doc.ids.shape[2] for _, b in batches.shapes
        )
    assert sorted(seen) == sorted(lists)  # an epoch visits each list once
    batches.close()


def test_known_positives_against_a_slow_oracle(folder, tokenizer):
    collection = open_collection(folder)
    # q0's list has the other question's answers and its own answer's twin as negatives
    crafted = TrainingList("q0", ("d0", "d39", "d4"), (1.0, 0.0, 0.0))
    lists = [crafted, *_lists(collection)[1:]]
    batches = make_batches(lists, collection, tokenizer, CONFIG)
    qrels, queries = collection.qrels("train"), collection.queries("train")
    names, masked = list(queries), 0
    for batch in _copy(batches, 12):
        flat = batch.doc_index.ravel()
        for i, row in enumerate(batch.query_index):
            text = queries[names[row]].casefold().split()
            twins = [q for q in queries if queries[q].casefold().split() == text]
            positives = {d for q in twins for d in qrels[q]}
            texts = {collection.docs.text(collection.docs.row(d)) for d in positives}
            expected = [collection.docs.text(doc) in texts for doc in flat]
            assert batch.known_positive[i].tolist() == expected
            own = expected[3 * i : 3 * i + 3]
            for j, label in enumerate(batch.labels[i]):
                assert batch.where[i, j] == (label > 0 or not own[j])
            masked += int((~batch.where[i]).sum())
    assert masked >= 2 * 2  # both epochs met the crafted list, at least twice masked
    batches.close()


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=200),
    batch_size=st.integers(1, 9),
    window=st.integers(1, 6),
    seed=st.integers(0, 3),
)
def test_plans(lengths, batch_size, window, seed):
    lengths = np.array(lengths)
    keywords = {"batch_size": batch_size, "window": window, "seed": seed}
    plan = plan_epoch(lengths, **keywords, epoch=0)
    assert plan.shape == (len(lengths) // batch_size, batch_size)
    assert len(np.unique(plan)) == plan.size  # no list twice
    assert np.array_equal(plan, plan_epoch(lengths, **keywords, epoch=0))
    assert (np.diff(lengths[plan], axis=1) >= 0).all()


def test_plan_pads_little_and_epochs_differ():
    lengths = np.random.default_rng(0).integers(1, 257, 20_000)
    plans = [
        plan_epoch(lengths, batch_size=32, window=64, seed=0, epoch=epoch)
        for epoch in range(2)
    ]
    assert not np.array_equal(*plans)
    padded = lengths[plans[0]].max(1).sum() * 32
    assert lengths.sum() / padded > 0.95
    # the order of batches does not follow their length
    means = lengths[plans[0]].mean(1)
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.1


@pytest.mark.parametrize("encode", ["separate", "joint", "template", "groups"])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 11])
def test_resumed_is_uninterrupted_over_an_epoch(folder, tokenizer, count, encode):
    collection = open_collection(folder)
    config = replace(CONFIG, list_size=2)  # lists of 3: random choices
    if encode == "groups":
        config = replace(config, encode="template", pair_groups=4)
    else:
        config = replace(config, encode=encode)
    lists = _lists(collection)
    whole = make_batches(lists, collection, tokenizer, config)
    assert whole.steps_per_epoch == 6
    expected = _copy(whole, count + 7)
    first = make_batches(lists, collection, tokenizer, config)
    for batch, wanted in zip(_copy(first, count), expected, strict=False):
        assert _same(batch, wanted)
    state = json.loads(json.dumps(first.state()))
    assert state["position"] == count
    ahead = replace(config, prefetch=9)  # changes no batch
    second = make_batches(lists, collection, tokenizer, ahead)
    next(second)
    second.restore(state)
    for batch, wanted in zip(_copy(second, 7), expected[count:], strict=True):
        assert _same(batch, wanted)
    assert (second.cut_docs, second.cut_queries) == (whole.cut_docs, whole.cut_queries)
    assert not _same(expected[0], expected[1])
    for batches in (whole, first, second):
        batches.close()


def test_epochs_choose_other_negatives_and_keep_the_positive(folder, tokenizer):
    collection = open_collection(folder)
    lists = _lists(collection, list_size=10)
    config = replace(CONFIG, batch_size=24)
    batches = make_batches(lists, collection, tokenizer, config)
    chosen = []
    for batch in _copy(batches, 2):
        order = np.lexsort((batch.doc_index[:, 0], batch.query_index))
        chosen.append(batch.doc_index[order])
        assert (batch.labels[:, 0] > 0).all()
        assert all(len(set(row.tolist())) == 3 for row in batch.doc_index)
    assert np.array_equal(chosen[0][:, 0], chosen[1][:, 0])
    assert (chosen[0][:, 1:] != chosen[1][:, 1:]).mean() > 0.5
    batches.close()


@pytest.mark.parametrize("encode", ["separate", "joint", "template"])
def test_processes_share_the_global_batch(folder, tokenizer, encode):
    collection = open_collection(folder)
    config = replace(CONFIG, encode=encode)
    lists = _lists(collection, scored=True)
    whole = make_batches(lists, collection, tokenizer, config)
    shares = [
        make_batches(
            lists, collection, tokenizer, config, process_index=i, process_count=2
        )
        for i in range(2)
    ]
    for _ in range(8):
        expected = next(whole)
        parts = [next(share) for share in shares]

        def joined(*arrays):
            return None if arrays[0] is None else np.concatenate(arrays)

        for name in expected._fields:
            wanted = getattr(expected, name)
            found = [getattr(part, name) for part in parts]
            if name in ("query", "doc") and wanted is not None:
                assert _same(type(wanted)(*map(joined, *found)), wanted)
            else:
                assert _same(joined(*found), wanted)
    shares[1].restore(whole.state())  # a state fits any number of processes
    for batches in (whole, *shares):
        batches.close()


def test_teacher_scores_keep_what_they_score(folder, tokenizer):
    collection = open_collection(folder)
    scores = (3.0, 2.5, -1.0)
    crafted = TrainingList("q0", ("d0", "d39", "d4"), (1.0, 0.0, 0.0), scores)
    lists = [crafted, *_lists(collection, scored=True)[1:]]
    batch = next(
        make_batches(lists, collection, tokenizer, replace(CONFIG, batch_size=24))
    )
    (row,) = np.flatnonzero(
        (batch.query_index == 0) & (batch.doc_index[:, 1] == collection.docs.row("d39"))
    )
    assert batch.where[row].all()
    assert batch.teacher_scores[row].tolist() == list(scores)


def test_in_batch_only_lists(folder, tokenizer):
    collection = open_collection(folder)
    config = replace(CONFIG, batch_size=8, list_size=1)
    lists = in_batch_lists(collection.qrels("train"))
    batches = make_batches(lists, collection, tokenizer, config)
    batch = next(batches)
    assert batch.doc.ids.shape[:2] == (8, 1)
    assert batch.known_positive.shape == (8, 8)
    assert batch.known_positive.diagonal().all()
    assert batch.where.all()


def test_three_sources_give_one_stream(folder, tokenizer, tmp_path):
    collection = open_collection(folder)
    lists = _lists(collection)
    write_lists(tmp_path / "lists.jsonl", lists)
    prepare_lists(lists, collection, "train", tmp_path / "prepared")
    streams = [
        make_batches(source, collection, tokenizer, CONFIG)
        for source in (lists, tmp_path / "lists.jsonl", tmp_path / "prepared")
    ]
    for _ in range(3):
        first, *others = [next(stream) for stream in streams]
        assert all(_same(first, other) for other in others)
    assert len({json.dumps(stream.state()) for stream in streams}) == 1


def test_what_is_made_ahead_does_not_count(folder, tokenizer):
    collection = open_collection(folder)
    config = replace(CONFIG, encode="joint", doc_length=16, prefetch=9)
    batches = make_batches(_lists(collection), collection, tokenizer, config)
    alone = make_batches(_lists(collection), collection, tokenizer, config)
    counts = [(0, 0)]
    for _ in range(5):
        next(batches)
        counts.append((batches.cut_docs, batches.cut_queries))
        batches.batch(7)  # to look at one is not to be given it
        time.sleep(0.05)
        assert counts[-1] == (batches.cut_docs, batches.cut_queries)
    assert counts[1][0] > 0
    assert sorted(counts) == counts
    state = batches.state()
    next(batches)
    batches.restore(state)  # back, and forward again
    assert (batches.cut_docs, batches.cut_queries) == counts[-1]
    del state["cut"]  # of an older checkpoint
    alone.restore(state)
    assert (alone.cut_docs, alone.cut_queries) == (0, 0)
    batches.close()
    alone.close()


def test_lists_without_a_positive(folder, tokenizer, tmp_path, capsys):
    collection = open_collection(folder)
    lists = [
        item._replace(labels=(0.0,) * 3) if i % 4 == 1 else item
        for i, item in enumerate(_lists(collection, scored=True))
    ]
    write_lists(tmp_path / "lists.jsonl", lists)
    prepare_lists(lists, collection, "train", tmp_path / "prepared")
    assert capsys.readouterr().err == ""
    places = {tmp_path / "lists.jsonl", tmp_path / "prepared", "lists"}
    for need, count in ((True, 18), (False, 24)):
        states = set()
        for place in places:
            source = lists if place == "lists" else place
            config = replace(CONFIG, batch_size=count)  # the whole epoch
            batches = make_batches(
                source, collection, tokenizer, config, need_positive=need
            )
            batch = next(batches)
            assert (batch.labels > 0).any(axis=1).sum() == 18
            assert batch.where.all()
            told = f"{place}: 6 of 24 training lists have no positive"
            assert capsys.readouterr().err.count(told) == int(need)
            states.add(json.dumps(batches.state()))
            batches.close()
        assert len(states) == 1
    plain = [item._replace(scores=None) for item in lists]
    prepare_lists(plain, collection, "train", tmp_path / "plain")
    assert "lists: 6 of 24 training lists have" in capsys.readouterr().err
    assert (
        make_batches(tmp_path / "plain", collection, tokenizer, CONFIG).steps_per_epoch
        == 4
    )


def test_queries_that_nothing_answers(folder, tokenizer, tmp_path):
    """Neither a judgment nor a label: a teacher alone knows what is good."""
    copy = tmp_path / "unjudged"
    shutil.copytree(folder, copy)
    judged = "".join(f"q{i}\td{i}\t0\n" for i in range(8))
    head = "query-id\tcorpus-id\tscore\n"
    (copy / "qrels" / "train.tsv").write_text(head + judged)
    collection = open_collection(copy)
    lists = [
        TrainingList(f"q{i}", (f"d{i}", f"d{i + 12}"), (0.0, 0.0), (1.0, 0.5))
        for i in range(8)
    ]
    path = tmp_path / "lists.jsonl"
    write_lists(path, lists)
    with pytest.raises(InputError, match=r"jsonl: no positive in any of 8 training l"):
        make_batches(path, collection, tokenizer, CONFIG)
    batches = make_batches(path, collection, tokenizer, CONFIG, need_positive=False)
    batch = next(batches)
    assert not batch.labels.any()
    assert not batch.known_positive.any()
    assert batch.where[:, :2].all()
    batches.close()


def test_mistakes(folder, tokenizer):
    collection = open_collection(folder)
    lists = _lists(collection)
    with pytest.raises(InputError, match="batch_size: 0; expected at least 1"):
        PipelineConfig(batch_size=0)
    with pytest.raises(InputError, match="seed: -1; expected at least 0"):
        PipelineConfig(seed=-1)
    with pytest.raises(InputError, match="encode: 'both'; expected one of 'separate'"):
        PipelineConfig(encode="both")
    with pytest.raises(InputError, match="32 with 24 training lists; expected at most"):
        make_batches(lists, collection, tokenizer, replace(CONFIG, batch_size=32))
    with pytest.raises(InputError, match="4 over 3 processes; expected a multiple"):
        make_batches(lists, collection, tokenizer, CONFIG, process_count=3)
    batches = make_batches(lists, collection, tokenizer, CONFIG)
    other = make_batches(lists[1:], collection, tokenizer, CONFIG)
    with pytest.raises(InputError, match="taken from other training lists"):
        batches.restore(other.state())
    with pytest.raises(InputError, match=r"data state: \[\]; expected what state"):
        batches.restore({})


def test_import_is_light():
    code = (
        "import sys, jaxir.data.pipeline\n"
        "heavy = {'jax', 'grain', 'tensorflow', 'tensorflow_datasets'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2]
    )


@pytest.mark.shared
@pytest.mark.slow
def test_medquad_duplicates_are_masked(shared_data):
    collection = open_collection(shared_data / "medquad")
    tokenizer = load_tokenizer(shared_data / "tokenizers" / "bert-base-uncased")
    config = PipelineConfig(batch_size=256, list_size=1, doc_length=64)
    lists = in_batch_lists(collection.qrels("train"))
    batches = make_batches(lists, collection, tokenizer, config)
    names = list(collection.queries("train"))
    queries, qrels = collection.queries("train"), collection.qrels("train")
    beside = 0
    for _ in range(3):
        batch = next(batches)
        known = batch.known_positive
        assert known.diagonal().all()
        beside += int(known.sum()) - 256
        for i, j in zip(*np.nonzero(~known), strict=True):
            # what is not masked is not judged for this query, nor for one of its text
            first, second = names[batch.query_index[i]], names[batch.query_index[j]]
            doc = collection.docs.doc_id(batch.doc_index[j, 0])
            assert doc not in qrels[first]
            if queries[first] == queries[second]:
                assert doc not in qrels[second]
    assert beside > 3
    batches.close()
