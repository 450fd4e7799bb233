"""Weights of query tokens: counted, read, written, and what they make of a query."""

import json
import math

import numpy as np
import pytest

from jaxir.data.collection import open_collection
from jaxir.errors import InputError
from jaxir.sparse import idf
from jaxir.sparse.idf import (
    compute_idf,
    document_frequencies,
    idf_from_frequencies,
    idf_to_file,
    query_terms,
    read_idf,
    vocabulary_of,
)
from jaxir.text import load_tokenizer

VOCABULARY = {"[PAD]": 0, "ny": 1, "weather": 2, "the": 3}


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return load_tokenizer(tiny_tokenizer)


def test_the_formula():
    frequencies = np.array([0, 1, 5, 10])
    found = idf_from_frequencies(frequencies, 10)
    assert found.dtype == np.float32
    wanted = [1.0] + [math.log(1 + (10 - n + 0.5) / (n + 0.5)) for n in (1, 5, 10)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    # The largest weight of the released table: one passage of MS MARCO's 8,841,823.
    rare = idf_from_frequencies(np.array([1, 91_728]), 8_841_823)
    np.testing.assert_allclose(rare, [15.5895385, 4.568416], rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_of_a_collection(tiny_collection, tokenizer, chunk, monkeypatch):
    monkeypatch.setattr(idf, "_CHUNK", chunk)
    collection = open_collection(str(tiny_collection))
    found = compute_idf(collection, tokenizer)
    assert found.shape == (tokenizer.vocab_size,)
    # Twelve documents in three topics of four, in which all words of a topic stand.
    river, sea = (tokenizer.token_to_id(word) for word in ("river", "sea"))
    of_topic = math.log(1 + (12 - 4 + 0.5) / (4 + 0.5))
    np.testing.assert_allclose(found[[river, sea]], of_topic, rtol=1e-6)
    every = [
        set(tokenizer.pieces([collection.docs.text(row)])[0].tolist())
        for row in range(12)
    ]
    for token in range(tokenizer.vocab_size):
        df = sum(token in ids for ids in every)
        wanted = math.log(1 + (12 - df + 0.5) / (df + 0.5)) if df else 1.0
        assert math.isclose(found[token], wanted, rel_tol=1e-6)
    assert found[list(tokenizer.special_ids)].tolist() == [1.0] * 5
    wide = compute_idf(str(tiny_collection), tokenizer, tokenizer.vocab_size + 3)
    np.testing.assert_array_equal(wide[:-3], found)
    assert wide[-3:].tolist() == [1.0] * 3


def test_whole_documents_are_counted(tmp_path, tokenizer):
    text = "river " * 600 + "bread"  # no model reads so far
    for name, rows in (
        ("corpus", [{"_id": "a", "title": "", "text": text}, {"_id": "b", "text": ""}]),
        ("queries", [{"_id": "q", "text": "river"}]),
    ):
        lines = [json.dumps({"title": ""} | row) + "\n" for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    collection = open_collection(str(tmp_path), allow_empty=True)
    found = compute_idf(collection, tokenizer)
    one_of_one = math.log(1 + 0.5 / 1.5)  # the empty document does not count
    bread, river = (tokenizer.token_to_id(word) for word in ("bread", "river"))
    np.testing.assert_allclose(found[[bread, river]], one_of_one, rtol=1e-6)


def test_a_collection_without_words_has_no_table(tmp_path, tokenizer):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "title": "", "text": ""}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "river"}\n')
    collection = open_collection(str(tmp_path), allow_empty=True)
    with pytest.raises(InputError, match="no document with a token"):
        compute_idf(collection, tokenizer)


def test_out_and_in_again_is_the_same_table(tokenizer, tmp_path):
    names = tokenizer.tokens(range(tokenizer.vocab_size))
    table = np.random.default_rng(0).uniform(0, 16, len(names)).astype(np.float32)
    idf_to_file(table, names, tmp_path / "idf.json")
    found = read_idf(tmp_path / "idf.json", vocabulary_of(tokenizer))
    np.testing.assert_array_equal(found, table)
    wide = read_idf(tmp_path / "idf.json", vocabulary_of(tokenizer), len(names) + 2)
    assert wide[-2:].tolist() == [1.0, 1.0]


def test_ids_without_a_name_are_left_out(tmp_path):
    weights = np.array([1, 2, 3], np.float32)
    idf_to_file(weights, ["a", "", "b"], tmp_path / "idf.json")
    back = read_idf(tmp_path / "idf.json", {"a": 0, "b": 2})
    assert back.tolist() == [1, 1, 3]


def test_tokens_that_are_not_named_weigh_one(tmp_path):
    (tmp_path / "idf.json").write_text('{"ny": 5.772862, "the": 0}')
    found = read_idf(tmp_path / "idf.json", VOCABULARY)
    np.testing.assert_allclose(found, [1.0, 5.772862, 1.0, 0.0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"ny": 1', "not JSON"),
        ("[1, 2]", r'list; expected \{"token": weight'),
        ("{}", r'dict; expected \{"token": weight'),
        (
            '{"ny": 1, "_ny": 1, "_la": 2}',
            "2 tokens, as '_ny', that the tokenizer does not have; expected a table of "
            "the model's own tokenizer",
        ),
        ('{"ny": -1}', "'ny': -1; expected a finite number from 0"),
        ('{"ny": 1e39}', r"'ny': 1e\+39; expected a finite number from 0"),
        (f'{{"ny": {10**400}}}', "expected a finite number from 0"),
        ('{"ny": NaN}', "'ny': nan; expected a finite number"),
        ('{"ny": Infinity}', "'ny': inf; expected a finite number"),
        ('{"ny": "1"}', "'ny': '1'; expected a finite number"),
        ('{"ny": true}', "'ny': True; expected a finite number"),
    ],
)
def test_what_is_no_table_is_refused(content, message, tmp_path):
    (tmp_path / "idf.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_idf(tmp_path / "idf.json", VOCABULARY)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="no table of token weights; expected a file"):
        read_idf(tmp_path / "idf.json", VOCABULARY)


def test_query_terms():
    weights = np.array([9.0, 9.0, 5.8, 4.6, 0.0, 0.1], np.float32)
    ids, found = query_terms([0, 3, 5, 3, 4, 2, 1], weights, (0, 1))
    assert ids.tolist() == [2, 3, 5]
    np.testing.assert_array_equal(found, weights[ids])
    for nothing in ([], [0, 1], [4]):
        ids, found = query_terms(nothing, weights, (0, 1))
        assert (ids.tolist(), found.tolist()) == ([], [])


def test_frequencies_of_arrays_and_lists():
    texts = [np.array([1, 1, 3], np.int32), [3], [], [0, 1]]
    counts, num_texts = document_frequencies(texts, 5)
    assert counts.tolist() == [1, 2, 0, 2, 0]
    assert num_texts == 3
