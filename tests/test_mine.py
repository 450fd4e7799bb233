"""Mining with a searcher over given vectors; equality with sentence-transformers."""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxir.data.collection import open_collection
from jaxir.data.lists import read_lists
from jaxir.data.negatives import MineConfig
from jaxir.errors import InputError
from jaxir.mine import mine, mine_lists
from jaxir.types import Ranking


class VectorSearcher:
    """Exact inner products of vectors given by text: a stand-in for an index."""

    def __init__(self, collection, vectors):
        self.vectors = vectors
        self.doc_ids = [collection.docs.doc_id(i) for i in range(len(collection.docs))]
        self.texts = collection.docs.texts(range(len(collection.docs)))
        self.calls = 0

    def search_texts(self, texts, k):
        self.calls += 1
        docs = np.stack([self.vectors[text] for text in self.texts])
        scores = np.stack([self.vectors[text] for text in texts]) @ docs.T
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
        return Ranking(rows, np.take_along_axis(scores, rows, 1))


@pytest.fixture
def example(tmp_path):
    """Forty documents, ten queries (two of the same text), one to three positives."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "c"
    (folder / "qrels").mkdir(parents=True)
    docs = [{"_id": f"d{i}", "title": "", "text": f"doc {i}"} for i in range(40)]
    texts = [f"query {i}" for i in range(9)] + ["query 0"]
    queries = [{"_id": f"q{i}", "text": text} for i, text in enumerate(texts)]
    for name, rows in (("corpus", docs), ("queries", queries)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    lines = ["query-id\tcorpus-id\tscore"]
    for i in range(10):
        for doc in rng.permutation(40)[: 1 + i % 3]:
            lines.append(f"q{i}\td{doc}\t{1 + int(rng.integers(2))}")
    lines.append("q3\td39\t0")
    (folder / "qrels" / "train.tsv").write_text("\n".join(lines) + "\n")
    vectors = {}
    for text in [row["text"] for row in docs] + texts:
        vector = rng.normal(size=4)
        vectors.setdefault(text, (vector / np.linalg.norm(vector)).astype(np.float32))
    collection = open_collection(str(folder))
    return VectorSearcher(collection, vectors), collection, vectors


def test_positives_of_namesakes_are_never_negatives(example):
    searcher, collection, _ = example
    lists = list(
        mine(searcher, collection, "train", config=MineConfig(num_negatives=30))
    )
    qrels = collection.qrels("train")
    judged = {q: {d for d, g in docs.items() if g > 0} for q, docs in qrels.items()}
    union = judged["q0"] | judged["q9"]
    for item in lists:
        positives = union if item.query_id in ("q0", "q9") else judged[item.query_id]
        assert item.doc_ids[0] in judged[item.query_id]
        assert not positives & set(item.doc_ids[1:])
        assert item.labels[0] == qrels[item.query_id][item.doc_ids[0]]
        assert set(item.labels[1:]) == {0.0}
        assert item.scores is None
    assert len(lists) == sum(map(len, judged.values()))


def test_one_list_for_each_query(example):
    searcher, collection, _ = example
    config = MineConfig(per="query", num_negatives=2)
    lists = list(mine(searcher, collection, "train", config=config))
    assert len(lists) == 10
    assert all(sorted(i.labels, reverse=True) == list(i.labels) for i in lists)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_change_nothing(example, batch_size):
    searcher, collection, _ = example
    knobs = {"sampling_strategy": "random", "range_max": 20, "seed": 5}
    whole = list(mine(searcher, collection, "train", config=MineConfig(**knobs)))
    config = MineConfig(batch_size=batch_size, **knobs)
    assert list(mine(searcher, collection, "train", config=config)) == whole
    other = MineConfig(**{**knobs, "seed": 6})
    assert list(mine(searcher, collection, "train", config=other)) != whole


def _rescore_by(vectors):
    def rescore(queries, docs):
        return [
            np.array([-float(vectors[query] @ vectors[doc]) for doc in group])
            for query, group in zip(queries, docs, strict=True)
        ]

    return rescore


def test_rescoring_reorders_and_scores_every_item(example):
    searcher, collection, vectors = example
    config = MineConfig(num_negatives=3, range_max=36)
    rescore = _rescore_by(vectors)
    for item in mine(searcher, collection, "train", config=config, rescore=rescore):
        query = collection.queries("train")[item.query_id]
        rows = collection.docs.rows(item.doc_ids).tolist()
        expected = rescore([query], [collection.docs.texts(rows)])[0]
        np.testing.assert_allclose(item.scores, expected)
        assert list(item.scores[1:]) == sorted(item.scores[1:], reverse=True)


@pytest.mark.parametrize("per", ["positive", "query"])
@pytest.mark.parametrize("rescored", [False, True])
def test_positives_that_are_not_found_are_left_out(example, per, rescored):
    """The consistency filter, by the rank of each positive in the whole order."""
    searcher, collection, vectors = example
    rescore = _rescore_by(vectors) if rescored else None
    top = 12
    config = MineConfig(
        num_negatives=3, per=per, consistent_top=top, range_max=39 if rescored else None
    )
    lists = mine(searcher, collection, "train", config=config, rescore=rescore)
    found = {}
    for item in lists:
        positives = item.doc_ids[: sum(label > 0 for label in item.labels)]
        found.setdefault(item.query_id, set()).update(positives)
        assert not any(item.labels[len(positives) :])
    queries, qrels = collection.queries("train"), collection.qrels("train")
    docs = [f"d{i}" for i in range(40)]
    expected, lost = {}, 0
    for query_id, judged in qrels.items():
        scores = {
            doc: vectors[queries[query_id]] @ vectors[f"doc {doc[1:]}"] for doc in docs
        }
        best = sorted(docs, key=lambda doc: scores[doc], reverse=not rescored)[:top]
        kept = {doc for doc, grade in judged.items() if grade > 0 and doc in best}
        lost += sum(grade > 0 for grade in judged.values()) - len(kept)
        if kept:
            expected[query_id] = kept
    assert found == expected
    assert 0 < len(expected) < len(qrels)
    assert lost > 0


def test_left_out_positives_are_counted_and_never_negatives(example, tmp_path):
    searcher, collection, _ = example
    config = MineConfig(num_negatives=30, consistent_top=10)
    report = mine_lists(searcher, collection, "train", tmp_path / "a", config=config)
    lists = list(read_lists(tmp_path / "a"))
    qrels = collection.qrels("train")
    judged = {q: {d for d, g in docs.items() if g > 0} for q, docs in qrels.items()}
    kept = sum(label > 0 for item in lists for label in item.labels)
    assert report.dropped == {"consistent_top": sum(map(len, judged.values())) - kept}
    assert report.without == 10 - len({item.query_id for item in lists}) > 0
    assert report.queries == 10
    for item in lists:
        assert not judged[item.query_id] & set(item.doc_ids[1:])
    with pytest.raises(InputError, match="consistent_top: 0; expected at least 1"):
        list(mine(searcher, collection, "train", config=MineConfig(consistent_top=0)))


def test_a_lost_positive_sets_no_margin(example):
    """Where it scores -inf a relative margin would drop every candidate."""
    searcher, collection, _ = example
    config = MineConfig(num_negatives=1, relative_margin=0.05, consistent_top=3)
    lists = list(mine(searcher, collection, "train", config=config))
    plain = MineConfig(num_negatives=1, relative_margin=0.05, range_max=3)
    with_all = {i.query_id for i in mine(searcher, collection, "train", config=plain)}
    assert {item.query_id for item in lists} - with_all


def test_resume_is_uninterrupted(example, tmp_path):
    searcher, collection, _ = example
    config = MineConfig(batch_size=2, max_score=0.9)
    whole = mine_lists(searcher, collection, "train", tmp_path / "a", config=config)
    search = searcher.search_texts

    def failing(texts, k):
        if searcher.calls == stop:
            raise KeyboardInterrupt
        return search(texts, k)

    searcher.search_texts = failing
    for after in (0, 2):
        stop = searcher.calls + after
        with pytest.raises(KeyboardInterrupt):
            mine_lists(searcher, collection, "train", tmp_path / "b", config=config)
        assert not (tmp_path / "b").exists()
    searcher.search_texts = search
    resumed = mine_lists(searcher, collection, "train", tmp_path / "b", config=config)
    assert resumed == whole
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    lists = list(read_lists(tmp_path / "a"))
    assert whole.lists == len(lists)
    assert whole.negatives == sum(i.labels.count(0.0) for i in lists)
    assert (whole.queries, whole.without) == (10, 0)
    assert whole.dropped["max_score"] > 0


def test_queries_left_with_too_few_are_counted(example, tmp_path):
    searcher, collection, _ = example
    config = MineConfig(max_score=-2.0)
    report = mine_lists(searcher, collection, "train", tmp_path / "a", config=config)
    assert (report.lists, report.without) == (0, 10)
    assert (tmp_path / "a").read_text() == ""


def test_no_positive(example):
    searcher, collection, _ = example

    class Nothing:
        docs = collection.docs

        def queries(self, split):
            return {"q": "query"}

        def qrels(self, split):
            return {"q": {"d1": 0}}

    with pytest.raises(InputError, match="split dev: no query with a positive"):
        list(mine(searcher, Nothing(), "dev"))


KNOBS = [
    {"num_negatives": 4},
    {"num_negatives": 2, "range_min": 3, "range_max": 9},
    {"num_negatives": 3, "relative_margin": 0.05},
    {"num_negatives": 3, "relative_margin": 0.3, "range_min": 1},
    {"num_negatives": 3, "absolute_margin": 0.1},
    {"num_negatives": 5, "max_score": 0.6, "min_score": -0.2},
    {"num_negatives": 5, "min_score": 0.3, "range_max": 12},
]


class Table:
    """What the miner asks of a ``datasets.Dataset``, which need not be installed."""

    def __init__(self, columns):
        self.columns, self.column_names = columns, list(columns)

    from_dict = classmethod(lambda cls, columns: cls(columns))

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name):
        return self.columns[name]

    def to_pandas(self):
        return self

    groupby = count = lambda self, *_: self

    def to_dict(self):
        first, second = self.column_names
        return {second: Counter(self.columns[first])}


class Model:
    """What the miner asks of a SentenceTransformer or a CrossEncoder."""

    device = "cpu"

    def __init__(self, torch, vectors):
        self.torch, self.vectors = torch, vectors

    def encode_document(self, texts, **_):
        return np.stack([self.vectors[text] for text in texts])

    encode_query = encode_document

    def similarity(self, a, b):
        return self.torch.as_tensor(a) @ self.torch.as_tensor(b).T

    def similarity_pairwise(self, a, b):
        return (self.torch.as_tensor(a) * self.torch.as_tensor(b)).sum(-1)

    def predict(self, pairs, **_):
        scores = [-float(self.vectors[q] @ self.vectors[d]) for q, d in pairs]
        return self.torch.tensor(scores, dtype=self.torch.float32)


def _their_lists(example, knobs, rescored, monkeypatch):
    """Negatives by query text and positive, as sentence-transformers mines them."""
    util = pytest.importorskip("sentence_transformers.util")
    torch = pytest.importorskip("torch")
    module = sys.modules[util.mine_hard_negatives.__module__]
    monkeypatch.setattr(module, "is_datasets_available", lambda: True)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(Dataset=Table))
    _, collection, vectors = example
    qrels, queries = collection.qrels("train"), collection.queries("train")
    pairs = [
        (queries[q], f"doc {doc.removeprefix('d')}")
        for q, judged in qrels.items()
        for doc, grade in judged.items()
        if grade > 0
    ]
    model = Model(torch, vectors)
    mined = util.mine_hard_negatives(
        Table({"query": [q for q, _ in pairs], "answer": [d for _, d in pairs]}),
        model, corpus=collection.docs.texts(range(40)), output_format="labeled-list",
        verbose=False, cross_encoder=model if rescored else None, **knobs,
    )  # fmt: skip
    answers = zip(mined["query"], mined["answer"], strict=True)
    return {f"{query} -> {docs[0]}": docs[1:] for query, docs in answers}


def _our_lists(example, knobs, rescored):
    searcher, collection, vectors = example
    queries = collection.queries("train")
    rescore = _rescore_by(vectors) if rescored else None
    config = MineConfig(**knobs)
    found = {}
    for item in mine(searcher, collection, "train", config=config, rescore=rescore):
        docs = collection.docs.texts(collection.docs.rows(item.doc_ids).tolist())
        found[f"{queries[item.query_id]} -> {docs[0]}"] = docs[1:]
    return found


# Recorded with sentence-transformers 6.2.0 by
#   JAXIR_RECORD=1 python -m pytest tests/test_mine.py -k recorded
GOLDEN = Path(__file__).parent / "goldens" / "mine_sentence_transformers.json"
CASES = [
    (knobs, rescored)
    for knobs in KNOBS
    for rescored in (False, True)
    # sentence-transformers rescores under a margin or bound alone
    if not rescored or set(knobs) & {"relative_margin", "absolute_margin", "max_score"}
]


def test_equal_to_recorded_sentence_transformers(example, monkeypatch):
    if os.environ.get("JAXIR_RECORD"):
        answers = [_their_lists(example, *case, monkeypatch) for case in CASES]
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(answers, indent=0) + "\n")
    for (knobs, rescored), expected in zip(
        CASES, json.loads(GOLDEN.read_text()), strict=True
    ):
        found = _our_lists(example, knobs, rescored)
        assert found == expected, (knobs, rescored)
        assert len(found) > 5


@pytest.mark.slow
@pytest.mark.parametrize(("knobs", "rescored"), CASES)
def test_equal_to_sentence_transformers(example, knobs, rescored, monkeypatch):
    expected = _their_lists(example, knobs, rescored, monkeypatch)
    assert _our_lists(example, knobs, rescored) == expected
