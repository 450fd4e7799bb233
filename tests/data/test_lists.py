"""Training lists: files, and what sampling may never do."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxir.data.lists import (
    TrainingList,
    attach_scores,
    in_batch_lists,
    normalise_text,
    positives_by_text,
    read_lists,
    sample_lists,
    write_lists,
)
from jaxir.errors import InputError

DOCS = [f"d{i}" for i in range(30)]
GRADES = st.dictionaries(st.sampled_from(DOCS), st.integers(0, 2), max_size=6)
QRELS = st.dictionaries(st.sampled_from(["q1", "q2", "q3", "q4"]), GRADES, min_size=1)


@settings(max_examples=60)
@given(
    qrels=QRELS,
    list_size=st.integers(1, 12),
    seed=st.integers(0, 5),
    per=st.sampled_from(["positive", "query", "one"]),
    source=st.sampled_from(["run", "corpus", "both"]),
    skip_top=st.integers(0, 4),
)
def test_sampling_rules(qrels, list_size, seed, per, source, skip_top):
    queries = {"q1": "The same", "q2": "the  same", "q3": "other", "q4": "another"}
    run = {q: {doc: 30.0 - i for i, doc in enumerate(DOCS[:20])} for q in queries}
    keywords = {
        "list_size": list_size,
        "seed": seed,
        "queries": queries,
        "candidates": run if source != "corpus" else None,
        "doc_ids": DOCS if source != "run" else None,
        "skip_top": skip_top,
        "depth": 15,
        "per": "query" if per == "one" else per,
        "positives": "one" if per == "one" else "all",
    }
    lists = list(sample_lists(qrels, **keywords))
    union = positives_by_text(qrels, queries)
    count = {q: sum(g > 0 for g in judged.values()) for q, judged in qrels.items()}
    expected = (
        sum(count.values())
        if per == "positive"
        else np.count_nonzero(list(count.values()))
    )
    assert len(lists) == expected
    for item in lists:
        assert item.labels[0] > 0
        assert len(set(item.doc_ids)) == len(item.doc_ids) <= list_size
        for doc, label in zip(item.doc_ids, item.labels, strict=True):
            if label > 0:
                assert qrels[item.query_id][doc] == label
            else:
                assert doc not in union[item.query_id]
                if source == "run":
                    assert doc in DOCS[skip_top:15]
        if source != "run":  # 30 documents minus at most 12 positives always suffice
            assert len(item.doc_ids) == list_size
    # what is drawn for a query does not hang on the others, nor on their order
    alone = [
        item
        for q in reversed(list(qrels))
        for item in sample_lists({q: qrels[q]}, **{**keywords, "queries": {}})
        if union[q] == {d for d, g in qrels[q].items() if g > 0}
    ]
    assert set(alone) <= set(lists)


def test_both_sources_prefer_the_run_and_seeds_differ():
    run = {"q": {doc: float(-i) for i, doc in enumerate(DOCS[:4])}}
    draw = {"list_size": 8, "candidates": run, "doc_ids": DOCS}
    (first,) = sample_lists({"q": {"d9": 1}}, seed=0, **draw)
    (second,) = sample_lists({"q": {"d9": 1}}, seed=1, **draw)
    assert set(first.doc_ids[1:5]) == set(DOCS[:4]) == set(second.doc_ids[1:5])
    assert first.doc_ids != second.doc_ids


def test_uniform_negatives_are_uniform():
    qrels = {f"q{i}": {"d0": 1} for i in range(3000)}
    lists = sample_lists(qrels, list_size=3, seed=0, doc_ids=DOCS)
    counts = dict.fromkeys(DOCS, 0)
    for item in lists:
        for doc in item.doc_ids[1:]:
            counts[doc] += 1
    assert counts.pop("d0") == 0
    expected = 6000 / 29
    spread = np.array(list(counts.values())) - expected
    assert (spread**2).sum() / expected < 60  # chi-squared, 28 degrees: 99.9 % at 57


def test_per_query_keeps_grades_and_room_for_a_negative():
    qrels = {"q": {"a": 1, "b": 2, "c": 1}}
    (item,) = sample_lists(
        qrels, list_size=3, seed=0, doc_ids=["a", "b", "c", "n"], per="query"
    )
    assert item == TrainingList("q", ("b", "a", "n"), (2.0, 1.0, 0.0))


def test_one_positive_of_each_query_as_rankt5_draws(capsys):
    grades = {"a": 1, "b": 2, "c": 1, "n1": 0}
    qrels = {f"q{i}": grades for i in range(600)} | {"none": {"n1": 0}, "empty": {}}
    docs = [f"n{i}" for i in range(50)]
    run = {q: {d: -float(i) for i, d in enumerate([*"abc", *docs])} for q in qrels}
    keywords = {"list_size": 36, "seed": 3, "candidates": run, "depth": 45}
    lists = list(sample_lists(qrels, per="query", positives="one", **keywords))
    message = "2 of 602 judged queries have no positive; left out\n"
    assert capsys.readouterr().err == message
    assert [item.query_id for item in lists] == list(qrels)[:600]
    counts = dict.fromkeys([*"abc", *docs], 0)
    for item in lists:
        assert len(item.doc_ids) == len(set(item.doc_ids)) == 36
        assert item.labels == (float(grades[item.doc_ids[0]]), *[0.0] * 35)
        for doc in item.doc_ids:
            counts[doc] += 1
    heads = np.array([counts.pop(doc) for doc in "abc"]) - 200
    assert (heads**2).sum() / 200 < 14  # chi-squared, 2 degrees: 99.9 % at 13.8
    beyond = [counts.pop(f"n{i}") for i in range(42, 50)]
    assert beyond == [0] * 8  # ranks 46 and on
    expected = 600 * 35 / 42
    spread = np.array(list(counts.values())) - expected
    assert (spread**2).sum() / expected < 80  # without replacement: less than 41
    # each is one of the lists that every positive has
    every = set(sample_lists(qrels, per="positive", positives="one", **keywords))
    assert set(lists) <= every
    assert len(every) == 1800


def test_a_short_run_never_costs_the_positive(capsys):
    keywords = {"list_size": 4, "seed": 0, "per": "query", "positives": "one"}
    lists = sample_lists(
        {"q": {"a": 1, "b": 1}, "r": {"c": 1}}, candidates={"q": {"a": 2.0}}, **keywords
    )
    assert [(item.doc_ids[0] in "abc", item.labels) for item in lists] == [
        (True, (1.0,)),
        (True, (1.0,)),
    ]
    assert capsys.readouterr().err == "1 of 2 judged queries have no candidates\n"
    (single,) = sample_lists({"q": {"a": 2}}, **{**keywords, "list_size": 1})
    assert single == TrainingList("q", ("a",), (2.0,))


def test_in_batch_lists_and_scores():
    lists = list(in_batch_lists({"q": {"d1": 1, "d2": 0}, "r": {"d3": 2}, "s": {}}))
    assert [(item.query_id, item.doc_ids) for item in lists] == [
        ("q", ("d1",)),
        ("r", ("d3",)),
    ]
    scored = list(attach_scores(lists, {"q": {"d1": 3.0}, "r": {"d3": -1.5}}))
    assert [item.scores for item in scored] == [(3.0,), (-1.5,)]
    with pytest.raises(InputError, match="no score for document 'd3' of query 'r'"):
        list(attach_scores(lists, {"q": {"d1": 3.0}}))


def test_same_text_joins_positives():
    assert normalise_text(" What is\tX ?") == normalise_text("what is x?")
    found = positives_by_text(
        {"a": {"d1": 1}, "b": {"d2": 1, "d3": 0}, "c": {"d4": 1}, "text x": {"d5": 1}},
        {"a": "x", "b": "X", "c": "y"},
    )
    assert found["a"] == found["b"] == {"d1", "d2"}
    assert found["c"] == {"d4"}
    assert found["text x"] == {"d5"}


@given(
    st.lists(
        st.builds(
            lambda n, first, scored: TrainingList(
                f"q{n}",
                tuple(DOCS[:n]),
                (first, *(0.0,) * (n - 1)),
                tuple(i / 3 for i in range(n)) if scored else None,
            ),
            st.integers(1, 5),
            st.floats(0.5, 4),
            st.booleans(),
        )
    ),
    st.sampled_from(["lists.jsonl", "lists.jsonl.gz"]),
)
def test_files_round_trip(tmp_path_factory, lists, name):
    path = tmp_path_factory.mktemp("lists") / name
    assert write_lists(path, lists) == len(lists)
    assert list(read_lists(path)) == lists


ITEM = {"doc_id": "d1", "label": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "jsonl:2: broken JSON"),
        ('{"items": []}', "no key 'query_id'"),
        ({"query_id": "q"}, "jsonl:2: 'items' is null"),
        ({"query_id": "q", "items": []}, r"'items' is \[\]"),
        ({"query_id": "q", "items": ["d1"]}, 'item "d1"'),
        ({"query_id": "q", "items": [{"label": 1}]}, "no key 'doc_id'"),
        ({"query_id": "q", "items": [{"doc_id": "d1"}]}, "'label' is null"),
        ({"query_id": "q", "items": [{**ITEM, "label": True}]}, "'label' is true"),
        ({"query_id": "q", "items": [{**ITEM, "score": float("nan")}]}, "is nan"),
        (
            {"query_id": "q", "items": [{**ITEM, "label": 0}, {**ITEM, "doc_id": "d"}]},
            "document of 'q' has label 0, a later one 1; expected a positive first",
        ),
        (
            {"query_id": "q", "items": [{"doc_id": "d", "label": "1", "score": 2}]},
            """'label' is "1"; expected a number""",
        ),
        ({"query_id": "q", "items": [ITEM, ITEM]}, "document 'd1' twice"),
        (
            {"query_id": "q", "items": [ITEM, {"doc_id": "d", "label": 0, "score": 1}]},
            "1 scores for 2 documents",
        ),
    ],
)
def test_malformed_lines(tmp_path, line, message):
    path = tmp_path / "lists.jsonl"
    good = json.dumps({"query_id": "q", "items": [ITEM]})
    path.write_text(f"{good}\n{line if isinstance(line, str) else json.dumps(line)}\n")
    with pytest.raises(InputError, match=message):
        list(read_lists(path))


def test_what_a_teacher_scored_need_not_be_judged(tmp_path):
    path = tmp_path / "lists.jsonl"
    items = [{"doc_id": "d1", "score": 2.5}, {**ITEM, "doc_id": "d2", "label": 0}]
    items[1]["score"] = -1
    path.write_text(json.dumps({"query_id": "q", "items": items}))
    lists = list(read_lists(path))
    assert lists == [TrainingList("q", ("d1", "d2"), (0.0, 0.0), (2.5, -1.0))]
    assert write_lists(path, lists) == 1
    assert list(read_lists(path)) == lists


def test_a_bad_list_is_not_half_written(tmp_path):
    path = tmp_path / "lists.jsonl"
    lists = [TrainingList("q", ("d",), (1.0,)), TrainingList("q", ("d",), ())]
    with pytest.raises(InputError, match="jsonl:2: 0 labels for 1 documents"):
        write_lists(path, lists)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"list_size": 0}, "list_size: 0; expected at least 1"),
        ({"list_size": 2}, "no source of negatives"),
        ({"list_size": 1, "skip_top": 5, "depth": 5}, "skip_top: 5 with depth 5"),
        ({"list_size": 1, "per": "document"}, "per: 'document'; expected 'positive'"),
        ({"list_size": 1, "positives": "two"}, "positives: 'two'; expected 'all' or"),
    ],
)
def test_sampling_mistakes(keywords, message):
    with pytest.raises(InputError, match=message):
        sample_lists({"q": {"d": 1}}, seed=0, **keywords)
