"""Reranked runs: as pairs scored one at a time; resumed exactly; checked first."""

import json

import numpy as np
import pytest
from tiny_rerankers import tiny_reranker, tiny_t5

from jaxir import rerank as module
from jaxir.checkpoints.model_dir import Model
from jaxir.data.collection import open_collection
from jaxir.data.formats import read_run, write_run
from jaxir.errors import InputError
from jaxir.mesh import make_mesh
from jaxir.rank.score import PairScorer
from jaxir.rerank import RerankReport, rerank
from jaxir.scorers import make_scorer
from jaxir.text import load_tokenizer


@pytest.fixture
def collection(tiny_collection):
    return open_collection(str(tiny_collection))


@pytest.fixture
def model(tmp_path):
    return tiny_reranker("bert", tmp_path / "model")


@pytest.fixture
def first(collection, tmp_path):
    """A run of all twelve documents for each of six queries, in an order of its own."""
    random = np.random.default_rng(0)
    ids = list(collection.docs.doc_ids())
    run = {
        query_id: {ids[i]: float(20 - r) for r, i in enumerate(random.permutation(12))}
        for query_id in collection.queries()
    }
    write_run(tmp_path / "first.trec", run)
    return tmp_path / "first.trec"


def work(model, run, collection, tmp_path, name="out.trec", **options):
    options = {"mesh": make_mesh(1), "batch_tokens": 256} | options
    output = tmp_path / name
    return rerank(model, run, collection, output=output, **options), output


def expected_run(model, run, collection, k=100):
    """Each pair scored alone."""
    score = make_scorer(model, mesh=make_mesh(1))
    texts, found = collection.queries(), {}
    for query_id, results in read_run(run).items():
        ids = list(results)[:k]
        docs = collection.docs.texts(collection.docs.rows(ids))
        scores = [score([texts[query_id]], [[doc]])[0][0] for doc in docs]
        found[query_id] = dict(zip(ids, map(float, scores), strict=True))
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for query_id, scores in expected.items():
        assert found[query_id].keys() == scores.keys()
        for doc_id, score in scores.items():
            assert found[query_id][doc_id] == pytest.approx(score, abs=1e-5)
        values = list(found[query_id].values())
        assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("k", [5, 100])
def test_each_pair_as_if_alone(model, first, collection, tmp_path, k):
    report, output = work(model, first, collection, tmp_path, k=k)
    pairs = 6 * min(k, 12)
    assert report == RerankReport(6, pairs, 0, 0, 0, 0)
    found = read_run(output)
    assert_same(found, expected_run(model, first, collection, k))
    assert list(found) == list(read_run(first))  # queries in the run's order
    write_run(tmp_path / "again.trec", found, tag="jaxir")
    assert output.read_bytes() == (tmp_path / "again.trec").read_bytes()


def test_a_bi_encoder_reranks(make_tiny_model, first, collection, tmp_path):
    model = make_tiny_model()
    report, output = work(model, first, collection, tmp_path, tag="dense")
    assert report == RerankReport(6, 72, None, None, 0, 0)
    assert_same(read_run(output), expected_run(model, first, collection))
    assert output.read_text().split("\n")[0].endswith(" dense")


def test_order_of_the_run_decides_nothing(model, first, collection, tmp_path):
    turned = tmp_path / "turned.trec"
    write_run(
        turned,
        {
            query_id: {doc: -score for doc, score in results.items()}
            for query_id, results in reversed(read_run(first).items())
        },
    )
    _, a = work(model, first, collection, tmp_path, "a.trec")
    _, b = work(model, turned, collection, tmp_path, "b.trec")
    assert_same(read_run(b), read_run(a))


def test_the_rest_below_keeps_its_order(model, first, collection, tmp_path):
    _, output = work(model, first, collection, tmp_path, k=4, keep_rest=True)
    for query_id, results in read_run(output).items():
        before = list(read_run(first)[query_id])
        after = list(results)
        assert sorted(after[:4]) == sorted(before[:4])
        assert after[4:] == before[4:]
        values = list(results.values())
        np.testing.assert_allclose(-np.diff(values[3:]), 1.0, atol=1e-6)


def test_equal_scores_keep_the_order_of_the_run(model, collection, tmp_path):
    run = tmp_path / "run.trec"
    texts = {"river9": "sea", "river8": "sea", "river7": "sea"}
    with (tmp_path / "tiny" / "corpus.jsonl").open("a") as out:
        for doc_id, text in texts.items():
            out.write(json.dumps({"_id": doc_id, "text": text}) + "\n")
    write_run(run, {"q-river-test": dict.fromkeys(texts, 1.0)})
    again = open_collection(str(tmp_path / "tiny"))
    _, output = work(model, run, again, tmp_path)
    assert list(read_run(output)["q-river-test"]) == list(texts)


def test_ids_with_spaces(model, collection, tmp_path):
    run = tmp_path / "run.trec"
    with (tmp_path / "tiny" / "corpus.jsonl").open("a") as out:
        out.write(json.dumps({"_id": "the sea", "text": "sea"}) + "\n")
    write_run(run, {"q-river-test": {"the sea": 2.0, "river1": 1.0}})
    again = open_collection(str(tmp_path / "tiny"))
    _, output = work(model, run, again, tmp_path)
    assert sorted(read_run(output)["q-river-test"]) == ["river1", "the sea"]


def test_cut_texts_are_counted(model, first, collection, tmp_path):
    report, _ = work(model, first, collection, tmp_path, max_length=12)
    assert (report.cut_docs, report.cut_queries) == (72, 0)
    long = dict.fromkeys(collection.queries(), "sea " * 30)
    report, _ = work(
        model, first, collection, tmp_path, "b", max_length=12, queries=long
    )
    assert (report.cut_docs, report.cut_queries) == (72, 6)


def test_missing_are_left_out_when_asked(model, first, collection, tmp_path):
    run = read_run(first)
    run["q-river-train"]["gone"] = 99.0
    run["q-none"] = {"river0": 1.0}
    run["q-bread-test"] = {"gone": 1.0}
    write_run(tmp_path / "more.trec", run)
    report, output = work(
        model, tmp_path / "more.trec", collection, tmp_path, skip_missing=True, k=12
    )
    assert report == RerankReport(6, 60, 0, 0, 1, 2)
    expected = expected_run(model, first, collection)
    del expected["q-bread-test"]
    assert_same(read_run(output), expected)


def test_missing_below_the_depth_do_not_matter(model, first, collection, tmp_path):
    run = read_run(first)
    for results in run.values():
        results["gone"] = -1.0
    write_run(tmp_path / "more.trec", run)
    report, output = work(
        model, tmp_path / "more.trec", collection, tmp_path, k=12, keep_rest=True
    )
    assert report.pairs == 72
    assert all(list(results)[-1] == "gone" for results in read_run(output).values())


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(module, "_LEAST", 24)  # two queries
    monkeypatch.setattr(module, "_BATCHES", 1)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_resumed_is_uninterrupted(
    model, first, collection, tmp_path, monkeypatch, small_windows, stop_after
):
    whole, a = work(model, first, collection, tmp_path, "a.trec")
    real, appended = module._lines, []

    def stopping(item, *args):
        if len(appended) == stop_after:
            raise KeyboardInterrupt
        appended.append(item.query_id)
        return real(item, *args)

    monkeypatch.setattr(module, "_lines", stopping)
    with pytest.raises(KeyboardInterrupt):
        work(model, first, collection, tmp_path, "b.trec")
    assert not (tmp_path / "b.trec").exists()
    monkeypatch.setattr(module, "_lines", real)
    scored, real_score = [], PairScorer.score

    def counted(self, lists):
        scored.append(len(lists.sizes))
        return real_score(self, lists)

    monkeypatch.setattr(PairScorer, "score", counted)
    resumed, b = work(model, first, collection, tmp_path, "b.trec")
    assert resumed == whole
    assert a.read_bytes() == b.read_bytes()
    assert sum(scored) == 6 - stop_after // 2 * 2  # whole windows only
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("change", ["model", "tokenizer", "batch_tokens"])
def test_work_of_others_is_not_resumed(
    change, model, first, collection, tmp_path, monkeypatch, small_windows, capsys
):
    real = module._lines

    def stopping(item, *args):
        if item.query_id.startswith("q-bread"):
            raise KeyboardInterrupt
        return real(item, *args)

    monkeypatch.setattr(module, "_lines", stopping)
    with pytest.raises(KeyboardInterrupt):
        work(model, first, collection, tmp_path, "b.trec")
    monkeypatch.setattr(module, "_lines", real)
    other, options = model, {}
    if change == "model":
        other = tiny_reranker("bert", tmp_path / "model", seed=1)
    elif change == "tokenizer":  # other words in other places, as many as before
        vocab = (tmp_path / "model" / "vocab.txt").read_text().split()
        (tmp_path / "vocab.txt").write_text("\n".join([*vocab[:5], *vocab[:4:-1]]))
        other = model._replace(tokenizer=load_tokenizer(tmp_path / "vocab.txt"))
        assert other.fingerprint == model.fingerprint
    else:  # windows are of as many pairs
        options = {"batch_tokens": 128}
    _, a = work(other, first, collection, tmp_path, "a.trec", **options)
    _, b = work(other, first, collection, tmp_path, "b.trec", **options)
    assert a.read_bytes() == b.read_bytes()
    assert "b.trec.partial: of other settings" in capsys.readouterr().err


def test_windows_change_nothing(model, first, collection, tmp_path, small_windows):
    _, a = work(model, first, collection, tmp_path, "a.trec")
    module._LEAST = 1000
    _, b = work(model, first, collection, tmp_path, "b.trec")
    assert_same(read_run(a), read_run(b))


def test_only_a_window_is_in_memory(
    model, first, collection, tmp_path, monkeypatch, small_windows
):
    """Before a window's scores are written, two more at most have been read."""
    read, written, ahead = [0], [0], []
    real_rows, real_lines = type(collection.docs).texts, module._lines

    def rows(self, wanted):
        read[0] += 1
        return real_rows(self, wanted)

    def lines(*args):
        ahead.append(read[0] - written[0])
        written[0] += 1
        return real_lines(*args)

    monkeypatch.setattr(type(collection.docs), "texts", rows)
    monkeypatch.setattr(module, "_lines", lines)
    work(model, first, collection, tmp_path)
    assert written[0] == 6
    assert max(ahead) <= 4  # queries: this window's and the next one's


GOOD = "q-river-test Q0 river0 1 2.0 a\n"


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("", {}, "run.trec: no results; expected results over this collection"),
        (GOOD, {"k": 0}, "k: 0; expected at least 1"),
        (GOOD, {"tag": "two words"}, "tag: 'two words'; expected one word"),
        (GOOD, {"max_length": 999}, "max_length: 999 tokens; expected 4 to 64"),
        (
            GOOD + "q-river-test Q0 gone 2 1.0 a\n", {},
            "run.trec: document 'gone' of query 'q-river-test' is not in the coll",
        ),
        (
            "q-none Q0 river0 1 2.0 a\n", {},
            "run.trec: query 'q-none' has no text in the collection; .*skip_missing",
        ),
        (
            "q-none Q0 river0 1 2.0 a\n", {"skip_missing": True},
            "run.trec: nothing to score",
        ),
        (
            GOOD + "q-bread-test Q0 river0 1 2.0 a\n" + GOOD, {},
            "run.trec:3: query 'q-river-test' again after others; .*sort -s -k1,1",
        ),
        (GOOD + GOOD, {}, "run.trec:2: document 'river0' again for query"),
        (GOOD + "q-river-test Q0 river1 2 nan a\n", {}, "run.trec:2: score 'nan'"),
    ],
)  # fmt: skip
def test_mistakes_before_the_work(
    model, collection, tmp_path, monkeypatch, text, changes, message
):
    run = tmp_path / "run.trec"
    run.write_text(text)
    monkeypatch.setattr(PairScorer, "score", lambda *args: pytest.fail("work"))
    with pytest.raises(InputError, match=message):
        work(model, run, collection, tmp_path, **changes)
    assert not list(tmp_path.glob("out*"))


def test_output_over_input(model, first, collection):
    with pytest.raises(InputError, match="the run that is read; expected another"):
        rerank(model, first, collection, output=first)


def test_a_kind_that_cannot_score(first, collection, tmp_path):
    model = tiny_t5(tmp_path / "t5")
    assert isinstance(model, Model)
    with pytest.raises(InputError, match="a model of kind 't5' as a reranker"):
        work(model, first, collection, tmp_path)


def test_scores_that_are_not_finite(model, first, collection, tmp_path):
    head = {"dense": {"kernel": np.full((16, 1), np.nan), "bias": np.zeros(1)}}
    broken = model._replace(params=model.params | {"score_head": head})
    with pytest.raises(InputError, match=r"model: the score nan of '.*'; expected"):
        work(broken, first, collection, tmp_path)
    assert not list(tmp_path.glob("out*"))
