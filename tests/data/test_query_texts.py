"""Batches of queries alone: tokens of no document, rows of every known answer."""

import numpy as np
import pytest

from jaxir.data import open_texts
from jaxir.data.collection import open_collection
from jaxir.data.lists import TrainingList, sample_lists
from jaxir.data.pipeline import PipelineConfig, make_batches
from jaxir.errors import InputError
from jaxir.text import load_tokenizer

CONFIG = PipelineConfig(batch_size=3, list_size=1, query_length=8, encode="query")


def lists_of(collection, size, split="train"):
    return list(
        sample_lists(
            collection.qrels(split), list_size=size, seed=0, per="query",
            positives="one", doc_ids=collection.docs.doc_ids(),
        )
    )  # fmt: skip


@pytest.fixture
def collection(tiny_collection):
    return open_collection(str(tiny_collection))


@pytest.fixture
def make(collection, tiny_tokenizer):
    tokenizer = load_tokenizer(tiny_tokenizer)

    def make(lists, **changes):
        config = PipelineConfig(**{**vars(CONFIG), **changes})
        return make_batches(lists, collection, tokenizer, config)

    return make


def test_every_answer_is_there_and_no_document_is_read(collection, make, monkeypatch):
    def store(rows, text, *args, label, **options):
        assert label == "queries"
        return real(rows, text, *args, label=label, **options)

    real = open_texts.store_texts
    monkeypatch.setattr(open_texts, "store_texts", store)
    batches = make(lists_of(collection, 1))
    batch = next(batches)
    assert batch.doc is None
    assert batch.known_positive is None
    assert batch.query.ids.shape == (3, 8)
    assert batches.shapes == [(8, 0)]
    names = list(collection.queries("train"))
    for query, docs, labels, where in zip(
        batch.query_index, batch.doc_index, batch.labels, batch.where, strict=True
    ):
        judged = collection.qrels("train")[names[query]]
        assert {collection.docs.doc_id(row) for row in docs[where]} == set(judged)
        assert (labels[where] == 1).all()
        assert not labels[~where].any()
    batches.close()


def test_the_others_of_a_list_come_after(collection, make):
    batches = make(lists_of(collection, 4), list_size=4)
    batch = next(batches)
    assert batch.doc_index.shape == (3, 4 + 3)  # four answers, three others
    answers, others = batch.doc_index[:, :4], batch.doc_index[:, 4:]
    assert (batch.labels[:, :4] == 1).all()
    assert not batch.labels[:, 4:].any()
    assert (others >= 0).all()
    for mine, rest in zip(answers, others, strict=True):
        assert not np.isin(rest, mine).any()
    batches.close()


def test_an_answer_is_no_negative_whatever_its_list_says(collection, make):
    lists = [
        TrainingList(f"q-{topic}-train", (f"{topic}0", f"{topic}1", other), (1, 0, 0))
        for topic, other in
        [("river", "bread0"), ("engine", "river0"), ("bread", "river1")]
    ]  # fmt: skip
    batches = make(lists, list_size=3)
    batch = next(batches)
    assert batch.where[:, 4:].sum(axis=1).tolist() == [1, 1, 1]
    batches.close()


def test_it_goes_on_where_it_stood(collection, make):
    batches = make(lists_of(collection, 3), list_size=3, batch_size=2)
    for _ in range(3):
        next(batches)
    state, expected = batches.state(), [next(batches) for _ in range(3)]
    batches.restore(state)
    for before, after in zip(expected, batches, strict=False):
        np.testing.assert_array_equal(before.doc_index, after.doc_index)
        np.testing.assert_array_equal(before.query.ids, after.query.ids)
    other = make(lists_of(collection, 2), list_size=2, batch_size=2)
    with pytest.raises(InputError, match="data state: taken from other training"):
        other.restore(state)
    other.close(), batches.close()


def test_processes_share_a_batch(collection, tiny_tokenizer):
    def batch(index, count):
        return make_batches(
            lists_of(collection, 2), collection, load_tokenizer(tiny_tokenizer),
            PipelineConfig(batch_size=2, list_size=2, encode="query"),
            process_index=index, process_count=count,
        ).batch(1)  # fmt: skip

    whole, parts = batch(0, 1), [batch(i, 2) for i in range(2)]
    for name in ("doc_index", "labels", "where", "query_index"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole, name))


def test_groups_are_for_pairs(collection, make):
    with pytest.raises(InputError, match="pair_groups: 3 for query texts; expected 1"):
        make(lists_of(collection, 1), pair_groups=3)
