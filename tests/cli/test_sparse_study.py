"""``jaxir bench sparse-study``: sparse indexes of one's own data, beside each other."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from tiny_sparse import tiny_sparse

import jaxir
from jaxir.checkpoints.model_dir import save_model
from jaxir.cli.main import main
from jaxir.sparse.postings import open_postings
from jaxir.text import load_tokenizer


def bench(*words):
    return main(["bench", "sparse-study", *map(str, words)])


@pytest.fixture
def indexes(tiny_collection, tmp_path):
    """Two encoders' indexes, of which one weighs queries by IDF."""
    for name, changes in (("aware", {}), ("binary", {"query": "binary"})):
        model = str(tmp_path / f"{name}.model")
        save_model(model, tiny_sparse(tmp_path / f"{name}.words", **changes))
        jaxir.build_index(model, tiny_collection, tmp_path / name)
    return [tmp_path / "aware", tmp_path / "binary"]


def test_figures_of_two_indexes(indexes, tiny_collection, tmp_path, capsys):
    figure, queries = tmp_path / "figure.svg", f"{tiny_collection}:test"
    words = ("--index", *indexes, "--queries", queries, "--output", figure)
    assert bench(*words, "--json") == 0
    cases = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [case["query"] for case in cases] == ["idf", "binary"]
    collection = jaxir.open_collection(str(tiny_collection))
    texts, qrels = collection.queries("test"), collection.qrels("test")
    for case, index in zip(cases, indexes, strict=True):
        searcher = jaxir.open_index(index)
        found = searcher.search(texts, k=10)
        gain = 0.0
        for query, judged in qrels.items():
            grades = [judged.get(doc, 0) for doc in found[query]]
            ideal = sorted(judged.values(), reverse=True)
            gain += _dcg(grades) / _dcg(ideal) / len(qrels)
        np.testing.assert_allclose(case["nDCG@10"], gain, rtol=1e-6)
        assert case["flops"] == searcher.flops > 0
        common, paid = _by_hand(index, collection)
        np.testing.assert_allclose(case["kept_common"], common, rtol=1e-5)
        np.testing.assert_allclose(case["paid_by_common"], paid, rtol=1e-5)
    drawn = ElementTree.fromstring(figure.read_text())
    told = {element.text for element in drawn.iter() if element.tag.endswith("text")}
    assert {"nDCG@10", "aware", "binary"} <= told
    assert bench(*words) == 0
    assert "kept weight of common tokens" in capsys.readouterr().out


def _dcg(grades):
    return sum(grade / np.log2(i + 2) for i, grade in enumerate(grades[:10]))


def _by_hand(index, collection):
    """Mean kept weight of common tokens, and their part of the penalty, by loops."""
    postings = open_postings(index, len(collection.docs))
    tokenizer = load_tokenizer(str(index / "query" / "tokenizer"))
    weights = np.zeros((postings.num_docs, postings.vocab_size))
    for token in range(postings.vocab_size):
        part = slice(postings.offsets[token], postings.offsets[token + 1])
        weights[postings.docs[part], token] = postings.weights[part]
    inside = np.zeros(weights.shape, bool)
    texts = collection.docs.texts(range(postings.num_docs))
    for row, ids in enumerate(tokenizer.pieces(texts)):
        inside[row, ids] = True
    frequency, num_docs = inside.sum(0), postings.num_docs
    idf = np.log(1 + (num_docs - frequency + 0.5) / (frequency + 0.5))
    idf[frequency == 0] = 1
    kept = [
        weights[inside[:, token], token].mean()
        for token in np.flatnonzero((frequency > 0) & (idf <= 2))
    ]
    penalty = weights.mean(0) ** 2
    return np.mean(kept), penalty[idf <= 2].sum() / penalty.sum()


def test_mistakes(indexes, tiny_collection, tiny_model, tmp_path, capsys):
    def refused(match, *words):
        assert bench(*words) == 2
        assert match in capsys.readouterr().err

    dense = tmp_path / "dense"
    jaxir.build_index(str(tiny_model), tiny_collection, dense)
    place = ("--output", tmp_path / "f.svg", "--queries", f"{tiny_collection}:test")
    refused("--index: missing for sparse-study", *place)
    refused("'dense'; expected one of kind 'sparse'", "--index", dense, *place)
    twice = ("--index", indexes[0], tmp_path / "else" / "aware")
    refused("index: aware more than once", *twice, *place)
    refused("--rule: given for sparse-study", "--index", dense, *place, "--rule", "p")
    refused("no --index, --queries and --output")
    manifest = indexes[1] / "manifest.json"
    told = manifest.read_text()
    tokenizer = json.loads(told)["details"]["tokenizer"]
    manifest.write_text(told.replace(tokenizer, "0" * 64))
    for index in (indexes[1], indexes[0]):
        assert bench("--index", index, indexes[1], *place) == 2
    assert "tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "f.svg").exists()
