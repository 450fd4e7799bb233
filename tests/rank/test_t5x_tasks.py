"""Lists of the tiny collection as examples, token for token those of jaxir."""

import numpy as np
import pytest

from jaxir.data.collection import open_collection
from jaxir.data.lists import TrainingList, write_lists
from jaxir.errors import InputError
from jaxir.pairs import pair_format
from jaxir.rank import t5x_tasks
from jaxir.text import load_tokenizer

TEMPLATE = "Query: {query} Document: {document}"


@pytest.fixture
def lists(tmp_path):
    path = tmp_path / "lists.jsonl"
    items = [
        TrainingList("q-river-train", ("river0", "bread1", "engine2"), (2.0, 0.0, 0.0)),
        TrainingList("q-bread-train", ("bread0", "river3"), (1.0, 0.0)),
    ]
    write_lists(path, items)
    return path


def test_examples(tiny_collection, tiny_tokenizer, lists):
    options = {"template": TEMPLATE, "eos": True, "max_length": 14}
    make = t5x_tasks._examples(
        str(lists), tiny_collection, tiny_tokenizer, seed=0, **options
    )
    found = list(make())
    collection = open_collection(tiny_collection)
    form = pair_format(load_tokenizer(tiny_tokenizer), template=TEMPLATE)
    names = [("river0", "bread1", "engine2"), ("bread0", "river3")]
    queries = collection.queries("train")
    for (flat, lengths, labels), docs, query in zip(
        found, names, ("q-river-train", "q-bread-train"), strict=True
    ):
        texts = collection.docs.texts(collection.docs.rows(docs))
        pairs = form.encode([queries[query]] * len(docs), texts, 14)
        expected = sorted(tuple(pair.ids.tolist()) for pair in pairs)
        rows = np.split(flat, np.cumsum(lengths)[:-1])
        assert sorted(tuple(row.tolist()) for row in rows) == expected
        assert max(lengths) <= 14
        best = rows[int(labels.argmax())]
        np.testing.assert_array_equal(best, pairs[0].ids)
    again = list(make())
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_orders_differ_between_lists(tiny_collection, tiny_tokenizer, tmp_path):
    docs = tuple(f"{topic}{i}" for topic in ("river", "bread") for i in range(4))
    item = TrainingList("q-river-train", docs, (1.0,) + (0.0,) * 7)
    write_lists(tmp_path / "many.jsonl", [item] * 8)
    make = t5x_tasks._examples(
        str(tmp_path / "many.jsonl"), tiny_collection, tiny_tokenizer,
        template=TEMPLATE, eos=False, max_length=20, seed=0,
    )  # fmt: skip
    places = {int(labels.argmax()) for _, _, labels in make()}
    assert len(places) > 2


def test_a_task_needs_a_split(monkeypatch):
    monkeypatch.setattr(
        t5x_tasks, "imported", lambda: type("lib", (), {"tf": None, "seqio": None})
    )
    with pytest.raises(InputError, match="lists: none; expected a file"):
        t5x_tasks.list_task("x", "c", {}, tokenizer="t", vocabulary=None)
