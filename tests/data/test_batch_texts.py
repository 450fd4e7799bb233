"""Joint texts against the tokenizer's own, and the lengths of batches."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from jaxir.data.batch_texts import few_lengths
from jaxir.data.collection import open_collection
from jaxir.data.lists import TrainingList, sample_lists
from jaxir.data.pipeline import PipelineConfig, make_batches
from jaxir.text import Templates, load_tokenizer

CONFIG = PipelineConfig(batch_size=4, list_size=3, window=2)


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


def test_few_lengths():
    assert few_lengths(256, 4) == (64, 128, 192, 256)
    assert few_lengths(32, 1) == (32,)
    assert few_lengths(8, 4) == (8,)


def _expect_joint(batches, collection, tokenizer, encode, doc_length):
    """The slow way to the joint texts, one pair at a time."""
    queries = list(collection.queries("train").values())
    for batch in itertools.islice(batches, 6):
        assert batch.query is None
        assert batch.known_positive is None
        width = batch.doc.ids.shape[2]
        assert (0, width) in batches.shapes
        for i, row in enumerate(batch.query_index):
            for j, doc in enumerate(batch.doc_index[i]):
                mask = batch.doc.mask[i, j]
                if doc < 0:
                    assert not batch.where[i, j]
                    assert not mask.any()
                    continue
                text = collection.docs.text(doc)
                if encode == "joint":
                    ids, ends = tokenizer.encode_pairs(
                        [queries[row]], [text], doc_length
                    )
                    kinds = np.arange(len(ids[0])) >= ends[0]
                    assert batch.doc.type_ids[i, j][mask].tolist() == kinds.tolist()
                else:
                    joint = Templates().pair.format(query=queries[row], document=text)
                    ids = tokenizer.encode([joint], doc_length)
                    assert batch.doc.type_ids is None
                assert batch.doc.ids[i, j][mask].tolist() == ids[0].tolist()


@pytest.mark.parametrize("encode", ["joint", "template"])
def test_joint_texts_are_the_tokenizers_own(folder, tokenizer, encode):
    collection = open_collection(folder)
    lists = _lists(collection)
    for doc_length in (16, 48):  # 16: some queries leave the document no room
        config = replace(CONFIG, encode=encode, doc_length=doc_length)
        batches = make_batches(lists, collection, tokenizer, config)
        assert {query for query, _ in batches.shapes} == {0}
        _expect_joint(batches, collection, tokenizer, encode, doc_length)
        batches.close()


@pytest.mark.shared
@pytest.mark.parametrize("encode", ["joint", "template"])
@pytest.mark.parametrize("name", ["bert-base-uncased", "t5"])
def test_joint_texts_of_real_tokenizers(folder, shared_data, name, encode):
    collection = open_collection(folder)
    tokenizer = load_tokenizer(shared_data / "tokenizers" / name)
    config = replace(CONFIG, encode=encode, doc_length=64)
    batches = make_batches(_lists(collection), collection, tokenizer, config)
    _expect_joint(batches, collection, tokenizer, encode, 64)
    batches.close()
