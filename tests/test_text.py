"""Tokenizers against their originals, templates, length buckets, padding."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxir.errors import InputError
from jaxir.pairs import pair_format
from jaxir.text import (
    Templates,
    bucket_lengths,
    bucket_of,
    load_tokenizer,
    pad_batch,
)

TEXTS = [
    "A query, with punctuation!",
    "  spaces\tand\nlines  ",
    "Ünïcödé and 日本語 and 😀",
    "",
    "word " * 400,
    "[SEP] <pad> </s> ##ing <extra_id_3>",
]


@pytest.fixture(scope="session")
def bert(shared_data):
    return load_tokenizer(shared_data / "tokenizers" / "bert-base-uncased")


@pytest.fixture(scope="session")
def t5(shared_data):
    return load_tokenizer(shared_data / "tokenizers" / "t5")


@pytest.fixture
def tiny(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "A", "##b"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    return tmp_path


# ----------------------------------------------------------------- WordPiece


@pytest.mark.shared
@pytest.mark.parametrize("name", ["fiqa", "nfcorpus"])
def test_wordpiece_is_the_peers(shared_data, bert, name):
    folder = shared_data / "tokenizers" / "bert-base-uncased" / "golden"

    def table(kind):
        path = folder / f"beir-v1.0.0-{name}.test.{kind}.tsv"
        lines = path.open(newline="\n").read().splitlines()
        return dict(line.split("\t", 1) for line in lines)

    texts, pieces = table("text"), table("wp")
    assert texts.keys() == pieces.keys()
    encoded = bert.encode(list(texts.values()), 512)
    ours = [" ".join(bert.tokens(ids[1:-1])) for ids in encoded]
    assert ours == [pieces[query_id] for query_id in texts]


@pytest.mark.shared
def test_vocab_txt_is_the_same_as_tokenizer_json(bert, minilm_path):
    other = load_tokenizer(minilm_path)
    assert (other.pad_id, other.vocab_size) == (bert.pad_id, bert.vocab_size)
    assert other.vocab_size == 30522
    assert other.special_ids == bert.special_ids == (0, 100, 101, 102, 103)
    for ours, theirs in zip(
        bert.encode(TEXTS, 64), other.encode(TEXTS, 64), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_as_transformers(minilm_path):
    """Singles and pairs, cut and whole, equal AutoTokenizer's, type ids included."""
    transformers = pytest.importorskip("transformers")
    original = transformers.AutoTokenizer.from_pretrained(str(minilm_path))
    ours = load_tokenizer(minilm_path)
    for length in (16, 512):
        expected = original(TEXTS, truncation=True, max_length=length)["input_ids"]
        assert [ids.tolist() for ids in ours.encode(TEXTS, length)] == expected
        firsts = ["what is it"] * 3 + ["why", "", "who"]
        expected = original(firsts, TEXTS, truncation="only_second", max_length=length)
        pairs = pair_format(ours, template=None).encode(firsts, TEXTS, length)
        ids, boundaries, _, _ = zip(*pairs, strict=True)
        assert [pair.tolist() for pair in ids] == expected["input_ids"]
        batch = pad_batch(ids, length=length, pad_id=0, type_boundaries=boundaries)
        for row, types in enumerate(expected["token_type_ids"]):
            assert batch.type_ids[row, : len(types)].tolist() == types
            assert not batch.type_ids[row, len(types) :].any()


def test_only_newlines_separate_the_vocabulary(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2028", "\x85", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.token_to_id("a"), tokenizer.vocab_size) == (6, 7)


def test_settings_decide_about_case(tiny):
    assert load_tokenizer(tiny).encode(["A ab"], 9)[0].tolist() == [2, 5, 5, 9, 3]
    (tiny / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_tokenizer(tiny).encode(["A ab"], 9)[0].tolist() == [2, 8, 5, 9, 3]
    # tokenizer.json beside settings that differ: the settings win, as in transformers
    load_tokenizer(tiny).save(tiny / "saved")
    settings = tiny / "saved" / "tokenizer_config.json"
    settings.write_text('{"do_lower_case": true}')
    assert load_tokenizer(tiny / "saved").encode(["A"], 9)[0].tolist() == [2, 5, 3]
    settings.write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config.json: broken JSON"):
        load_tokenizer(tiny / "saved")


def test_no_room(tiny):
    tokenizer = load_tokenizer(tiny)
    with pytest.raises(
        InputError, match="max_length 2 leaves no room beside 2 special"
    ):
        tokenizer.encode(["a"], 2)


def test_many_texts_keep_their_order(tiny):
    tokenizer = load_tokenizer(tiny)
    texts = ["abc"[i % 3] for i in range(2500)]
    got = [ids[1] - 5 for ids in tokenizer.encode(texts, 4)]
    assert got == [i % 3 for i in range(2500)]


def test_pieces_stand_inside_the_frame(tiny):
    tokenizer = load_tokenizer(tiny)
    texts = ["a b", "", "c a a"] * 700
    frame = tokenizer.frame
    for pieces, ids in zip(
        tokenizer.pieces(texts), tokenizer.encode(texts, 9), strict=True
    ):
        assert [*frame.prefix, *pieces.tolist(), *frame.suffix] == ids.tolist()
        assert pieces.dtype == np.int32
    assert tokenizer.pair_frame[:3] == ([2], [3], [3])
    assert tokenizer.pair_frame.typed
    assert tokenizer.pieces([]) == []


def test_tokens_ids_and_text(tiny):
    tokenizer = load_tokenizer(tiny)
    assert tokenizer.token_to_id("##b") == 9
    assert tokenizer.token_to_id("nothing") is None
    assert tokenizer.tokens([2, 9, 77]) == ["[CLS]", "##b", ""]
    assert tokenizer.decode(np.array([2, 5, 9, 3, 0])) == "ab"
    assert "vocab_size=10" in repr(tokenizer)


# ------------------------------------------------------------------------- T5


@pytest.mark.shared
def test_t5_ids(shared_data, t5):
    bare = load_tokenizer(shared_data / "tokenizers" / "t5" / "spiece.model")
    for tokenizer in (t5, bare):
        assert tokenizer.encode(["true false"], 8)[0].tolist() == [1176, 6136, 1]
        assert tokenizer.token_to_id("▁true") == 1176
        assert tokenizer.token_to_id("<extra_id_10>") == 32089
        assert tokenizer.token_to_id("<unk>") == 2
        assert tokenizer.token_to_id("no such piece") is None
        assert tokenizer.tokens([32089, 1176]) == ["<extra_id_10>", "▁true"]
        assert (tokenizer.pad_id, tokenizer.vocab_size) == (0, 32100)
        assert len(tokenizer.special_ids) == 103
        assert tokenizer.decode([1176, 6136, 1, 0, 32089]) == "true false"


@pytest.mark.shared
def test_t5_from_either_file_and_as_transformers(shared_data, t5):
    transformers = pytest.importorskip("transformers")
    bare = load_tokenizer(shared_data / "tokenizers" / "t5" / "spiece.model")
    original = transformers.AutoTokenizer.from_pretrained(
        str(shared_data / "tokenizers" / "t5")
    )
    texts = TEXTS[:5]  # the last has sentinels, which a bare model spells out
    for length in (16, 512):
        expected = original(texts, truncation=True, max_length=length)["input_ids"]
        assert [ids.tolist() for ids in t5.encode(texts, length)] == expected
        assert [ids.tolist() for ids in bare.encode(texts, length)] == expected
        firsts = ["why"] * 5
        expected = original(firsts, texts, truncation="only_second", max_length=length)[
            "input_ids"
        ]
        for tokenizer in (t5, bare):
            pairs = pair_format(tokenizer, template=None).encode(firsts, texts, length)
            assert [pair.ids.tolist() for pair in pairs] == expected
            # one segment only
            assert all(pair.boundary == len(pair.ids) for pair in pairs)


@pytest.mark.shared
def test_t5_sentinels_in_a_text(t5):
    assert t5.encode(["a <extra_id_0>"], 8)[0][-2:].tolist() == [32099, 1]


# ------------------------------------------------------------ saving, loading


@pytest.mark.shared
@pytest.mark.parametrize(
    "name", ["bert-base-uncased", "t5", "t5/spiece.model", "minilm"]
)
def test_saved_and_loaded_again(shared_data, minilm_path, tmp_path, name):
    path = minilm_path if name == "minilm" else shared_data / "tokenizers" / name
    tokenizer = load_tokenizer(path)
    tokenizer.save(tmp_path / "t")
    again = load_tokenizer(tmp_path / "t")
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.pad_id, again.vocab_size, again.special_ids) == (
        tokenizer.pad_id, tokenizer.vocab_size, tokenizer.special_ids,
    )  # fmt: skip
    for ours, theirs in zip(
        again.encode(TEXTS, 32), tokenizer.encode(TEXTS, 32), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_saved_tokenizer_opens_in_transformers(tiny, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = load_tokenizer(tiny)
    ours.save(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "saved"))
    (pair,) = pair_format(ours, template=None).encode(["a b"], ["c"], 9)
    assert theirs("a b", "c")["input_ids"] == pair.ids.tolist()


def test_places_where_a_tokenizer_stands(tiny, tmp_path):
    for name in ("tokenizer", "0_Transformer"):
        (tmp_path / "m" / name).mkdir(parents=True)
        shutil.copy(tiny / "vocab.txt", tmp_path / "m" / name)
        assert load_tokenizer(tmp_path / "m").vocab_size == 10
        shutil.rmtree(tmp_path / "m")
    assert load_tokenizer(str(tiny / "vocab.txt")).vocab_size == 10


def test_the_rest_goes_through_transformers(tmp_path):
    """A byte-level vocabulary as RoBERTa's folders carry it."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = sorted(ByteLevel.alphabet())
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet]
    vocab = {word: i for i, word in enumerate(words)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.pad_id == 1
    assert tokenizer.encode(["ab"], 8)[0].tolist() == [0, vocab["a"], vocab["b"], 2]
    (pair,) = pair_format(tokenizer, template=None).encode(["a"], ["b"], 8)
    assert pair.ids.tolist() == [0, vocab["a"], 2, 2, vocab["b"], 2]
    assert pair.boundary == 6  # one segment only
    tokenizer.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.pad_id == 1
    assert again.fingerprint == tokenizer.fingerprint


def test_no_tokenizer(tmp_path, tiny):
    with pytest.raises(InputError, match="no such folder or file; check the path"):
        load_tokenizer(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no tokenizer here .*; expected a fo"):
        load_tokenizer(tmp_path / "empty")
    (tiny / "vocab.txt").write_text("a\nb\n[PAD]\n")
    with pytest.raises(InputError, match=r"vocab.txt: no \[UNK\], \[CLS\], \[SEP\]"):
        load_tokenizer(tiny)
    (tiny / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer.json: not a tokenizer"):
        load_tokenizer(tiny)
    (tmp_path / "empty" / "spiece.model").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a sentencepiece model"):
        load_tokenizer(tmp_path / "empty")


def test_slow_tokenizers_are_refused(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda name: object()
    )
    with pytest.raises(InputError, match=r"object has no tokenizer.json form"):
        load_tokenizer("hf:some/model")


def test_loading_imports_neither_transformers_nor_jax(tiny):
    code = (
        "import sys; from jaxir.text import load_tokenizer; "
        f"load_tokenizer({str(tiny)!r}).encode(['a'], 8); "
        "print([m for m in ('transformers', 'jax', 'torch') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


# ------------------------------------------- templates, buckets and padding


def test_templates():
    templates = Templates(query="query: {text}", doc="passage: {text}")
    assert templates.query.format(text="{x}") == "query: {x}"
    assert templates.pair.format(query="q", document="{query}") == (
        "Query: q Document: {query}"
    )
    for wrong in (
        {"query": "no place"}, {"doc": "{text} {other}"}, {"query": "{text"},
        {"pair": "{query}"}, {"pair": "{text}"},
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"template: .*; expected {.*braces"):
            Templates(**wrong)


def test_buckets_up_to_512():
    assert bucket_lengths(512)[-5:] == (256, 320, 384, 448, 512)
    assert bucket_lengths(512)[:-4] == bucket_lengths(256)
    assert bucket_lengths(7) == (7,)
    with pytest.raises(ValueError, match="max_length 0 is not positive"):
        bucket_lengths(0)
    with pytest.raises(ValueError, match="33 tokens exceed the longest bucket, 32"):
        bucket_of(33, (16, 32))


@given(max_length=st.integers(1, 5000), length=st.integers(1, 5000))
def test_a_bucket_holds_its_texts_and_little_else(max_length, length):
    buckets = bucket_lengths(max_length)
    assert list(buckets) == sorted(set(buckets))
    assert buckets[-1] == max_length
    assert len(buckets) <= 40
    length = min(length, max_length)
    bucket = bucket_of(length, buckets)
    assert bucket >= length
    if length > 64:
        assert bucket < 1.25 * length


@given(
    lengths=st.lists(st.integers(0, 9), max_size=8),
    spare=st.integers(0, 3),
    cut=st.integers(0, 9),
)
def test_padding_is_the_loop(lengths, spare, cut):
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 99, n).astype(np.int32) for n in lengths]
    rows = len(ids) + spare
    cuts = np.minimum(cut, lengths).astype(np.int32)
    batch = pad_batch(ids, length=9, pad_id=7, rows=rows, type_boundaries=cuts)
    assert batch.ids.shape == batch.mask.shape == batch.type_ids.shape == (rows, 9)
    assert (batch.ids.dtype, batch.mask.dtype) == (np.int32, np.bool_)
    for row in range(rows):
        text = ids[row] if row < len(ids) else np.zeros(0, np.int32)
        boundary = cuts[row] if row < len(ids) else 9
        for t in range(9):
            inside = t < len(text)
            assert batch.ids[row, t] == (text[t] if inside else 7)
            assert batch.mask[row, t] == inside
            assert batch.type_ids[row, t] == (inside and t >= boundary)


def test_padding_refuses_what_does_not_fit():
    text = np.arange(5, dtype=np.int32)
    assert pad_batch([text], length=5, pad_id=0).type_ids is None
    with pytest.raises(ValueError, match="a text of 5 tokens for length 4"):
        pad_batch([text], length=4, pad_id=0)
    with pytest.raises(ValueError, match="2 texts for 1 rows"):
        pad_batch([text, text], length=5, pad_id=0, rows=1)
