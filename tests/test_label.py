"""Teacher scores: ensembles by hand, resuming, and every mistake."""

import numpy as np
import pytest

from jaxir.data.collection import open_collection
from jaxir.data.lists import TrainingList, read_lists, write_lists
from jaxir.errors import InputError
from jaxir.label import (
    combine_scores,
    label,
    label_lists,
    load_teacher,
    make_teacher,
)

LISTS = [
    TrainingList("q-river-train", ("river0", "bread1", "engine2"), (2.0, 0.0, 0.0)),
    TrainingList("q-bread-train", ("bread0", "river1"), (1.0, 0.0), (9.0, 8.0)),
    TrainingList("q-engine-train", ("engine0", "engine1"), (1.0, 0.0)),
]


def by_length(queries, docs):
    return [np.array([len(text) / 10 for text in group]) for group in docs]


def by_shared_words(queries, docs):
    return [
        np.array([len(set(query.split()) & set(text.split())) for text in group], float)
        for query, group in zip(queries, docs, strict=True)
    ]


@pytest.fixture
def collection(tiny_collection):
    return open_collection(str(tiny_collection))


def test_combination_by_hand():
    a, b = np.array([4.0, 2.0, 0.0]), np.array([10.0, 30.0, 20.0])
    np.testing.assert_allclose(
        combine_scores([a, b], weights=[3.0, 1.0], scale=30.0),
        30 * (3 * np.array([1, 0.5, 0]) + np.array([0, 1, 0.5])) / 4,
    )
    np.testing.assert_allclose(
        combine_scores([a, b], normalization="none"), [7, 16, 10]
    )


def test_one_teacher_keeps_its_scores(collection):
    labelled = list(label([by_length], LISTS, collection))
    for before, after in zip(LISTS, labelled, strict=True):
        texts = collection.docs.texts(collection.docs.rows(before.doc_ids).tolist())
        assert after.scores == tuple(len(text) / 10 for text in texts)
        assert after._replace(scores=before.scores) == before


def test_several_teachers_are_normalised_within_each_list(collection):
    labelled = label([by_length, by_shared_words], LISTS, collection, scale=2.0)
    for item in labelled:
        assert 0 <= min(item.scores) <= max(item.scores) <= 2
    raw = label([by_length, by_shared_words], LISTS, collection, normalization="none")
    assert max(next(raw).scores) > 2


def test_the_teachers_best_may_lead(collection):
    def by_place(queries, docs):  # the last document of every list
        return [np.arange(len(group), dtype=float) for group in docs]

    labelled = list(label([by_place], LISTS, collection, first="best"))
    assert labelled[0] == TrainingList(
        "q-river-train",
        ("engine2", "river0", "bread1"),
        (1.0, 2.0, 0.0),
        (2.0, 0.0, 1.0),
    )
    assert labelled[1].doc_ids == ("river1", "bread0")
    assert labelled[1].labels == (1.0, 1.0)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batches_change_nothing(collection, batch_size):
    teachers = [by_length, by_shared_words]
    whole = list(label(teachers, LISTS, collection))
    assert list(label(teachers, LISTS, collection, batch_size=batch_size)) == whole


def test_resume_is_uninterrupted(collection, tmp_path):
    source = tmp_path / "lists.jsonl"
    write_lists(source, LISTS)
    whole = label_lists([by_length], source, collection, tmp_path / "a")
    calls = []

    def failing(queries, docs):
        calls.append(len(queries))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return by_length(queries, docs)

    with pytest.raises(KeyboardInterrupt):
        label_lists([failing], source, collection, tmp_path / "b", batch_size=1)
    assert not (tmp_path / "b").exists()
    resumed = label_lists([failing], source, collection, tmp_path / "b", batch_size=1)
    assert resumed == whole == (3, 7, 1)
    assert len(calls) == 4  # the first list was not scored again
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert [item.query_id for item in read_lists(tmp_path / "b")] == [
        item.query_id for item in LISTS
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": []}, "teachers: none; expected at least one model"),
        ({"normalization": "l2"}, "normalization: 'l2'; expected one of min-max"),
        ({"weights": [1.0, 2.0]}, "weights: 2 for 1 teachers"),
        ({"weights": [0.0]}, "weights: .*; expected at least 0, and not all 0"),
        ({"first": "worst"}, "first: 'worst'; expected one of kept, best"),
        ({"batch_size": 0}, "batch_size: 0; expected at least 1"),
        ({"lists": [LISTS[0]._replace(query_id="x")]}, "query 'x' is not in the coll"),
        (
            {"lists": [LISTS[2]._replace(doc_ids=("engine0", "x"))]},
            "document 'x' is not in the collection",
        ),
        (
            {"teachers": [lambda queries, docs: [np.array([1.0, np.nan])]]},
            "teacher 1: score of 'engine1' for 'q-engine-train' is not finite",
        ),
        (
            {"teachers": [lambda queries, docs: [np.zeros(3)]]},
            r"teacher 1: scores of shape \(3,\); expected 2 scores",
        ),
    ],
)
def test_mistakes(collection, changes, message):
    given = {"teachers": [by_length], "lists": LISTS[2:]} | changes
    with pytest.raises(InputError, match=message):
        list(label(given.pop("teachers"), given.pop("lists"), collection, **given))


def test_output_over_input(collection, tmp_path):
    write_lists(tmp_path / "lists.jsonl", LISTS)
    with pytest.raises(InputError, match="the file that is read; expected another"):
        label_lists(
            [by_length], tmp_path / "lists.jsonl", collection, tmp_path / "lists.jsonl"
        )


def test_a_kind_that_cannot_teach(monkeypatch):
    from jaxir import reranker
    from jaxir.checkpoints.model_dir import Model

    model = Model("hyper", None, {}, None, "", "somewhere")
    with pytest.raises(InputError, match="kind 'hyper' as a teacher; expected one of"):
        make_teacher(model)
    monkeypatch.setattr(reranker, "load_model", lambda spec: model)
    with pytest.raises(InputError, match="somewhere: a model of kind 'hyper', which"):
        load_teacher("somewhere")
