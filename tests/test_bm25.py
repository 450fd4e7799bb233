"""BM25 against its formula in numpy, and against figures of real collections."""

import math
from collections import Counter

import numpy as np
import pytest

from jaxir.bm25 import Bm25Config, build_bm25, load_bm25, make_analyzer
from jaxir.data.collection import open_collection
from jaxir.data.formats import read_run
from jaxir.errors import InputError

DOCS = [
    "the cat sat on the mat",
    "a cat and a dog; the dog's cat",
    "dogs bark",
    "",
    "cat cat cat mat",
    "cat and a dog a dog cat",
]


def lucene_bm25(query, docs, k1, b):
    """The formula of Lucene since version 8, term by term."""
    average = sum(map(len, docs)) / len(docs)
    scores = np.zeros(len(docs))
    for term in query:
        df = sum(term in doc for doc in docs)
        idf = math.log(1 + (len(docs) - df + 0.5) / (df + 0.5))
        for row, doc in enumerate(docs):
            tf = Counter(doc)[term]
            norm = k1 * (1 - b + b * len(doc) / average)
            scores[row] += idf * tf / (tf + norm) if tf else 0.0
    return scores


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.2, 0.75), (0.0, 0.0), (2.0, 1.0)])
@pytest.mark.parametrize("query", ["cat dog", "cat cat mat", "unknown", "", "the"])
def test_equals_the_formula(tmp_path, k1, b, query):
    config = Bm25Config(k1=k1, b=b)
    build_bm25(DOCS, tmp_path, config)
    index = load_bm25(tmp_path)
    assert index.config == config
    analyze = make_analyzer(config)
    expected = lucene_bm25(analyze(query), [analyze(doc) for doc in DOCS], k1, b)
    np.testing.assert_allclose(index.scores(query), expected, rtol=1e-5, atol=1e-6)


def test_ties_go_to_the_lower_row_and_zero_is_no_result(tmp_path):
    build_bm25(["a1 x", "b1 x", "c1 x", "d1 y"] * 30, tmp_path)
    ranking = load_bm25(tmp_path).search(["x", "y", "z"], 5)
    assert ranking.doc_ids.tolist() == [
        [0, 1, 2, 4, 5],
        [3, 7, 11, 15, 19],
        [-1] * 5,
    ]
    assert (ranking.scores[2] == -np.inf).all()


def test_analyzer():
    analyze = make_analyzer(Bm25Config())
    terms = analyze("Running U.S. dogs’ O'Neil's foo_bar, it 3rd")
    assert terms == ["run", "u", "s", "dog", "o'neil", "foo", "bar", "3rd"]
    plain = make_analyzer(Bm25Config(stemmer="none", stop_words="none"))
    assert plain("The running") == ["the", "running"]
    german = make_analyzer(Bm25Config(stemmer="german", stop_words="none"))
    assert german("Häuser") == ["haus"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k1": -1.0}, "bm25 k1: -1.0; expected a number from 0"),
        ({"b": 1.5}, "bm25 b: 1.5; expected a number from 0 to 1"),
        ({"stop_words": "many"}, "expected lucene or none"),
    ],
)
def test_bad_parameters(changes, message):
    with pytest.raises(InputError, match=message):
        Bm25Config(**changes)


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="bm25 stemmer: 'klingon'; expected porter"):
        make_analyzer(Bm25Config(stemmer="klingon"))
    with pytest.raises(InputError, match="collection: no document has a term"):
        build_bm25(["", "the"], tmp_path)
    with pytest.raises(InputError, match=r"no bm25\.json here"):
        load_bm25(tmp_path)


def real_run(folder, split, tmp_path, k=1000):
    collection = open_collection(str(folder))
    docs = collection.docs
    build_bm25((docs.text(row) for row in range(len(docs))), tmp_path)
    queries = collection.queries(split)
    ranking = load_bm25(tmp_path).search(list(queries.values()), k)
    return collection.qrels(split), {
        name: {
            docs.doc_id(row): float(score)
            for row, score in zip(rows, scores, strict=True)
            if row >= 0
        }
        for name, rows, scores in zip(queries, *ranking, strict=True)
    }


@pytest.mark.shared
def test_vaswani(shared_data, tmp_path):
    import ir_measures
    from ir_measures import AP, nDCG

    qrels, run = real_run(shared_data / "vaswani", "test", tmp_path)
    found = ir_measures.calc_aggregate([nDCG @ 10, AP], qrels, run)
    assert found[AP] == pytest.approx(0.286, abs=0.005)
    assert found[nDCG @ 10] == pytest.approx(0.44, abs=0.01)


@pytest.mark.shared
def test_cacm_agrees_with_a_peer(shared_data, tmp_path):
    import ir_measures
    from ir_measures import P

    qrels, run = real_run(shared_data / "cacm", "test", tmp_path)
    found = ir_measures.calc_aggregate([P @ 30], qrels, run)
    assert found[P @ 30] == pytest.approx(0.1942, abs=0.005)
    peer = read_run(shared_data / "cacm" / "golden" / "cacm-bm25.run.txt")
    overlaps = [
        len(set(list(run[name])[:10]) & set(list(peer[name])[:10])) / 10
        for name in run
        if name in peer
    ]
    assert len(overlaps) >= 50
    assert np.mean(overlaps) >= 0.6
