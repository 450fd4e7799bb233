"""Teacher scores: ensembles by hand, resuming, and every mistake."""

import numpy as np
import pytest

from jaxir.data.collection import open_collection
from jaxir.data.list_scores import ScoreFile, is_score_file
from jaxir.data.lists import TrainingList, read_lists, write_lists
from jaxir.errors import InputError
from jaxir.label import (
    combine_scores,
    label,
    label_lists,
    load_teacher,
    load_teachers,
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


@pytest.mark.parametrize("normalization", ["min-max", "z-score"])
def test_rounding_is_no_opinion(normalization):
    equal, other = np.full(2, np.float32(0.7)), np.array([1.0, 2.0])
    noisy = np.array([equal[0], np.nextafter(equal[0], np.float32(1))])
    expected = combine_scores([equal, other], normalization=normalization, scale=30.0)
    found = combine_scores([noisy, other], normalization=normalization, scale=30.0)
    np.testing.assert_array_equal(found, expected)
    # What is more than rounding counts, and raw scores stay as they are.
    close = np.array([0.7, 0.7 + 1e-5])
    found = combine_scores([close], normalization=normalization)
    assert found[1] - found[0] > 0.9
    np.testing.assert_array_equal(combine_scores([noisy], normalization="none"), noisy)


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
        ({"weights": [float("inf")]}, "weights: .*; expected at least 0, and not all"),
        ({"scale": float("nan")}, "scale: nan; expected a finite number above 0"),
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
    for teachers, output in (
        ([by_length], "lists.jsonl"),
        ([ScoreFile(tmp_path / "scored.jsonl")], "scored.jsonl"),
    ):
        with pytest.raises(InputError, match="the file that is read; expected another"):
            label_lists(
                teachers, tmp_path / "lists.jsonl", collection, tmp_path / output
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


# Files of scores ---------------------------------------------------------------


@pytest.fixture
def scored(collection, tmp_path):
    """The lists, as a teacher that led with its best has labelled them."""
    path = tmp_path / "scored.jsonl"
    labelled = label([by_shared_words], LISTS, collection, first="best")
    write_lists(path, labelled)
    return path


def test_a_file_is_the_teacher_that_wrote_it(collection, scored):
    """Also where it has lists between, and documents in another order."""
    mixed = {"weights": [2.0, 1.0], "scale": 30.0}
    for lists in (LISTS, LISTS[::2], [LISTS[0]._replace(doc_ids=LISTS[0].doc_ids)]):
        models = label([by_length, by_shared_words], lists, collection, **mixed)
        files = label([by_length, ScoreFile(scored)], lists, collection, **mixed)
        assert list(files) == list(models)
    fewer = LISTS[0]._replace(doc_ids=("bread1", "river0"), labels=(1.0, 0.0))
    alone = list(label([ScoreFile(scored)], [fewer], collection))
    assert alone == list(label([by_shared_words], [fewer], collection))


def test_files_are_read_along_when_work_goes_on(collection, scored, tmp_path):
    source = tmp_path / "lists.jsonl"
    write_lists(source, LISTS)
    whole = [by_length, ScoreFile(scored)]
    label_lists(whole, source, collection, tmp_path / "a")
    calls = []

    def failing(queries, docs):
        calls.append(len(queries))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return by_length(queries, docs)

    stopped = [failing, ScoreFile(scored)]
    with pytest.raises(KeyboardInterrupt):
        label_lists(stopped, source, collection, tmp_path / "b", batch_size=1)
    label_lists(stopped, source, collection, tmp_path / "b", batch_size=1)
    assert len(calls) == 4
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (LISTS[1:], r"scored.jsonl: no scores of query 'q-river-train'; expected"),
        (LISTS[::-1], r"no scores of query 'q-bread-train'; .* in their order"),
        (
            [LISTS[0]._replace(doc_ids=("river0", "bread1", "bread2")), *LISTS[1:]],
            "no score of document 'engine2' for query 'q-river-train'",
        ),
        ([LISTS[0], *LISTS], None),
    ],
)
def test_a_file_that_lacks_scores(lists, message, collection, tmp_path):
    write_lists(tmp_path / "lists.jsonl", LISTS)
    labelled = label([by_length], lists, collection)
    write_lists(tmp_path / "scored.jsonl", labelled)

    def run():
        teachers = [_never, ScoreFile(tmp_path / "scored.jsonl")]
        label_lists(teachers, tmp_path / "lists.jsonl", collection, tmp_path / "out")

    if message is None:  # more than enough: work begins
        with pytest.raises(KeyboardInterrupt):
            run()
    else:  # before any work
        with pytest.raises(InputError, match=message):
            run()
    assert not (tmp_path / "out").exists()


def _never(queries, docs):
    raise KeyboardInterrupt


def test_a_file_without_scores_or_with_no_numbers(collection, scored, tmp_path):
    write_lists(tmp_path / "bare.jsonl", LISTS)
    with pytest.raises(
        InputError, match=r"bare.jsonl:1: no scores in the list of 'q-r"
    ):
        list(label([ScoreFile(tmp_path / "bare.jsonl")], LISTS, collection))
    lines = scored.read_text().splitlines()
    lines[1] = lines[1].replace('"score": 1.0', '"score": NaN')
    scored.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"scored.jsonl:2: 'score' is nan; expected a"):
        list(label([ScoreFile(scored)], LISTS, collection))


def test_files_are_teachers_by_their_bytes(scored, make_tiny_model, tmp_path):
    from jaxir.checkpoints.model_dir import save_model

    save_model(tmp_path / "model", make_tiny_model())
    teachers, identity = load_teachers([tmp_path / "model", scored])
    assert teachers[1] == ScoreFile(scored)
    _, turned = load_teachers([scored, tmp_path / "model"])
    scored.write_text(scored.read_text() + "\n")
    _, changed = load_teachers([tmp_path / "model", scored])
    assert len({identity, turned, changed}) == 3
    assert not is_score_file(tmp_path / "model")
    with pytest.raises(InputError, match=r"none\.jsonl: no such file; exp"):
        load_teachers([tmp_path / "none.jsonl"])
