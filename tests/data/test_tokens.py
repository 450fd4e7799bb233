"""The token store: what was tokenized once is read back the same."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxir.data.tokens import TokenStore, build_token_store
from jaxir.errors import InputError
from jaxir.text import load_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##a", "##b"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocab")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return load_tokenizer(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXIR_CACHE", str(tmp_path))
    return tmp_path


def build(texts, tokenizer, *, max_length=8, key="k"):
    return build_token_store(
        iter(texts), len(texts), tokenizer, max_length=max_length, key=key, label="x"
    )


@given(texts=st.lists(st.text(alphabet="abcz 你", max_size=30), max_size=30))
def test_a_store_gives_what_the_tokenizer_gives(tmp_path_factory, tokenizer, texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        store = build(texts, tokenizer)
    assert len(store) == len(texts)
    expected = tokenizer.encode(texts, 8)
    for row, ids in enumerate(expected):
        np.testing.assert_array_equal(store[row], ids)
        assert store[row].dtype == np.int32
    assert store.lengths.dtype == np.int32
    assert store.lengths.tolist() == [len(ids) for ids in expected]


def test_more_texts_than_a_chunk(tokenizer):
    texts = [" ".join("abcdefgh"[: i % 7]) for i in range(2500)]
    store = build(texts, tokenizer)
    assert store.lengths.tolist() == [
        i % 7 + 2 if i % 7 < 7 else 8 for i in range(2500)
    ]
    assert store[2499].tolist() == tokenizer.encode([texts[2499]], 8)[0].tolist()
    with pytest.raises(IndexError, match="row 2500 of a store of 2500 texts"):
        store[2500]


def test_second_call_opens_and_does_not_tokenize(tokenizer, cache):
    texts = ["a b", "c"]
    first = build(texts, tokenizer)
    assert first.directory.parent == cache / "tokens"

    def untouched():
        raise AssertionError("walked again")
        yield

    again = build_token_store(
        untouched(), 2, tokenizer, max_length=8, key="k", label="x"
    )
    assert again.directory == first.directory
    assert build(texts, tokenizer, max_length=4).directory != first.directory
    assert build(texts, tokenizer, key="other").directory != first.directory


def test_width_follows_the_vocabulary(tokenizer, tmp_path):
    small = build(["a"], tokenizer)
    assert (small.directory / "ids").stat().st_size == 3 * 2
    folder = tmp_path / "large"
    folder.mkdir()
    words = [*WORDS[:5], *(f"w{i}" for i in range(70_000))]
    (folder / "vocab.txt").write_text("\n".join(words))
    large = load_tokenizer(folder)
    store = build(["w69999"], large, key="large")
    assert store[0].tolist() == [2, 70_004, 3]
    assert (store.directory / "ids").stat().st_size == 3 * 4


def test_wrong_count_leaves_nothing(tokenizer, cache):
    with pytest.raises(ValueError, match="2 texts where 3 were announced"):
        build_token_store(
            iter(["a", "b"]), 3, tokenizer, max_length=8, key="k", label="x"
        )
    assert not list(cache.glob("tokens/*"))


def test_damaged_store_is_built_again(tokenizer, capsys):
    store = build(["a b", "c"], tokenizer)
    (store.directory / "ids").write_bytes(b"12")
    with pytest.raises(InputError, match="a damaged or foreign token store"):
        TokenStore(store.directory)
    assert build(["a b", "c"], tokenizer)[0].tolist() == [2, 5, 6, 3]
    assert "damaged; building it again" in capsys.readouterr().err
    with pytest.raises(InputError, match="not a token store"):
        TokenStore(store.directory / "ids")


def test_travels_to_other_processes(tokenizer):
    store = build(["a b", "c"], tokenizer)
    copy = pickle.loads(pickle.dumps(store))
    assert copy[1].tolist() == store[1].tolist()
