"""Pairs: the parts joined are the whole, and only the document gives way."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxir.errors import InputError
from jaxir.pairs import PairFormat, pair_format
from jaxir.text import load_tokenizer

RANKT5 = "Query: {query} Document: {document}"
MONOT5 = RANKT5 + " Relevant:"
TEMPLATES = [
    RANKT5,
    MONOT5,
    "{query} {document}",
    "q:{query} d:{document}. end {{}}",
    "Query:{query}\nDocument:\t{document}\n\nRelevant:",
]
ODD = [
    "", " ", "  a  b ", "a\tb\n", "a\r", "\u00a0x\u2003y\u3000", "\u2028 l",
    "e\u0301 \u0301x", "\ufb01ne …", "½ ™", "日本語 テキスト", "🙂 ok", "\u0600",
    "\u200bz\u200d", "x\u00ad", "\ufeffq", "\x00\x01b", "▁a ▁", "a▁b",
    "<extra_id_0> hi </s>", "[SEP] a [MASK]", "{query} {0} {",
]  # fmt: skip
# of all characters the one that is dropped from an end, and unknown elsewhere
ANY_TEXT = st.text(max_size=12).map(lambda text: text.replace("\x85", ""))
PAIRS = list(itertools.product(ODD, ODD))
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


@pytest.fixture
def tiny(tmp_path):
    words = [*SPECIAL, *"abcd", "##b", "query", "document", "relevant", ":"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    return load_tokenizer(tmp_path)


@pytest.fixture(scope="module", params=["tokenizer.json", "spiece.model"])
def t5(request, shared_data):
    return load_tokenizer(shared_data / "tokenizers" / "t5" / request.param)


def _expect_whole(tokenizer, template, eos, pairs):
    """The parts joined against the whole text tokenized, nothing cut."""
    form = pair_format(tokenizer, template=template, eos=eos)
    queries, docs = zip(*pairs, strict=True)
    texts = [template.format(query=q, document=d) for q, d in pairs]
    closing = 0 if eos else len(tokenizer.frame.suffix)
    for whole, pair in zip(
        tokenizer.encode(texts, 2**20), form.encode(queries, docs, 2**20), strict=True
    ):
        expected = whole[: len(whole) - closing].tolist()
        assert pair.ids.tolist() == expected
        assert pair[1:] == (len(expected), 0, 0)


def _real(shared_data, name):
    """300 questions, each with some document."""

    def texts(file):
        with (shared_data / name / file).open() as lines:
            return [json.loads(line)["text"] for line in itertools.islice(lines, 300)]

    return list(zip(texts("queries.jsonl"), texts("corpus.jsonl"), strict=True))


# ------------------------------------------------- the parts are the whole


@pytest.mark.parametrize("eos", [True, False])
@pytest.mark.parametrize("template", TEMPLATES)
def test_parts_of_wordpiece_are_the_whole(tiny, template, eos):
    _expect_whole(tiny, template, eos, PAIRS)


@pytest.mark.shared
@pytest.mark.parametrize("eos", [True, False])
@pytest.mark.parametrize("template", TEMPLATES)
def test_parts_of_t5_are_the_whole(t5, template, eos):
    _expect_whole(t5, template, eos, PAIRS)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["nfcorpus", "medquad"])
@pytest.mark.parametrize("template", [RANKT5, MONOT5])
def test_parts_of_real_texts_are_the_whole(t5, shared_data, name, template):
    _expect_whole(t5, template, True, _real(shared_data, name))


@pytest.mark.shared
@settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(query=ANY_TEXT, doc=ANY_TEXT)
def test_parts_of_any_text_are_the_whole(t5, query, doc):
    _expect_whole(t5, MONOT5, True, [(query, doc)])


@pytest.mark.shared
@pytest.mark.parametrize("length", [32, 128])
def test_as_transformers(t5, shared_data, length):
    """Hugging Face's own tokenizer, which closes with </s>, whole and cut."""
    transformers = pytest.importorskip("transformers")
    original = transformers.AutoTokenizer.from_pretrained(
        str(shared_data / "tokenizers" / "t5")
    )
    pairs = _real(shared_data, "medquad")[:100]
    texts = [RANKT5.format(query=q, document=d) for q, d in pairs]
    expected = original(texts, truncation=True, max_length=length)["input_ids"]
    form = pair_format(t5, template=RANKT5)
    found = form.encode(*zip(*pairs, strict=True), length)
    kept = [i for i, pair in enumerate(found) if not pair.query_cut]
    assert len(kept) >= 95
    assert sum(found[i].cut > 0 for i in kept) > 30
    for i in kept:
        assert found[i].ids.tolist() == expected[i]
    open_ended = pair_format(t5, template=RANKT5, eos=False)
    for ids, pair in zip(
        original(texts, add_special_tokens=False)["input_ids"],
        open_ended.encode(*zip(*pairs, strict=True), 2**20),
        strict=True,
    ):
        assert pair.ids.tolist() == ids


def test_segments_are_the_tokenizers_own(tiny, tmp_path):
    from tokenizers import Tokenizer

    tiny.save(tmp_path / "saved")
    original = Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    found = pair_format(tiny, template=None).encode(*zip(*PAIRS, strict=True), 2**20)
    for expected, pair in zip(original.encode_batch(PAIRS), found, strict=True):
        assert pair.ids.tolist() == expected.ids
        assert pair.boundary == expected.type_ids.index(1)


@pytest.mark.shared
def test_every_character_may_stand_at_an_end(t5):
    """Unicode's first plane, but for East Asia, at the end and beginning of a part."""
    letters = [chr(i) for i in (*range(0x3100), *range(0xF900, 0x10000))]
    letters.remove("\x85")
    (end,) = t5.pieces(["b"])
    for left, right in (("a", ""), ("a ", ""), ("", "a")):
        parts = t5.pieces([f" {left}{letter}{right}" for letter in letters])
        wholes = t5.pieces([f"b {left}{letter}{right} b" for letter in letters])
        for part, whole in zip(parts, wholes, strict=True):
            assert [*end, *part, *end] == whole.tolist()


# ------------------------------------------------------------ what gives way


def test_the_document_gives_way_and_then_the_query(tiny):
    form = pair_format(tiny, template="query: {query} document: {document} relevant:")
    names = tiny.token_to_id
    marks = [names("document"), names(":")]
    end = [names("relevant"), names(":"), 3]
    a, b = names("a"), names("b")
    for length in range(8, 20):
        (pair,) = form.encode(["a a a"], ["b b b b"], length)
        query = [names("query"), names(":"), a, a, a][: length - 6]
        doc = ([b] * 4)[: max(length - 11, 0)]
        assert pair.ids.tolist() == [2, *query, *marks, *doc, *end]
        assert pair.query_cut == 5 - len(query)
        assert pair.cut == 4 - len(doc)
        assert len(pair.ids) <= length
    # cut before it is joined, and still known to be cut
    (doc,) = form.encode_docs(["b " * 99], 12)
    assert len(doc) == 13
    (query,) = form.encode_queries(["a " * 99])
    assert len(query) == 101
    assert form.join(query[:0], doc, 19).cut == 0
    assert form.join(query[:0], doc, 18).cut == 1


@settings(max_examples=60)
@given(
    query=st.integers(0, 9),
    doc=st.integers(0, 9),
    length=st.integers(1, 24),
    fixed=st.tuples(*[st.integers(0, 3)] * 3),
)
def test_joining(query, doc, length, fixed):
    """Kept and cut tokens add up, whatever stands around the parts."""
    form = PairFormat.__new__(PairFormat)
    form.prefix, form.middle, form.suffix = (
        np.full(count, 90 + i, np.int32) for i, count in enumerate(fixed)
    )
    form.typed = True
    if length <= sum(fixed):
        with pytest.raises(InputError, match=f"max_length: {length} beside "):
            form.room(length)
        return
    pair = form.join(np.full(query, 1, np.int32), np.full(doc, 2, np.int32), length)
    count = Counter(pair.ids.tolist())
    assert len(pair.ids) <= length
    assert (count[1] + pair.query_cut, count[2] + pair.cut) == (query, doc)
    assert pair.query_cut == 0 or (count[2] == 0 and len(pair.ids) == length)
    assert pair.cut == 0 or len(pair.ids) == length
    assert sum(count[90 + i] for i in range(3)) == sum(fixed)
    assert pair.boundary == fixed[0] + count[1] + fixed[1]


def test_a_document_that_is_cut_is_not_kept_whole(tiny):
    form = pair_format(tiny, template=None)
    long, short = form.encode_docs(["rain " * 50, "rain"], 8)
    assert (len(long), len(short)) == (9, 1)
    assert long.base is None  # no view of fifty tokens


def test_many_pairs_of_one_query_tokenize_it_once(tiny, monkeypatch):
    form = pair_format(tiny, template=RANKT5)
    seen = []
    inner = tiny._backend.pieces
    monkeypatch.setattr(
        tiny, "_backend",
        tiny._backend._replace(pieces=lambda texts: seen.extend(texts) or inner(texts)),
    )  # fmt: skip
    assert len(form.encode_queries(["a", "b", "a", "a"])) == 4
    assert seen == ["Query: a", "Query: b"]


# -------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{document} then {query}", r"once and then \{document\} once"),
        ("{query} {query} {document}", r"once and then \{document\} once"),
        ("{query:>9} {document}", r"once and then \{document\} once"),
        ("{query!r} {document}", r"once and then \{document\} once"),
        ("{query}{document}", r"white space between \{query\} and \{document\}"),
        ("{query}-[{document}] x", r"white space between \{query\} and \{document\}"),
        ("Query: {query}", r"pair template: 'Query: \{query\}'; expected"),
    ],
)
def test_templates_that_cannot_be_split(tiny, template, message):
    with pytest.raises(InputError, match=message):
        pair_format(tiny, template=template)


def test_other_mistakes(tiny, tmp_path):
    with pytest.raises(InputError, match="eos: False for texts in segments"):
        pair_format(tiny, template=None, eos=False)
    with pytest.raises(InputError, match="max_length: 3 beside 3 tokens that stand"):
        pair_format(tiny, template=None).encode(["a"], ["b"], 3)
    form = pair_format(tiny, template=RANKT5)
    with pytest.raises(ValueError, match="shorter"):
        form.encode(["a", "b"], ["c"], 9)


def test_pieces_that_cross_white_space_are_refused(tmp_path):
    """A vocabulary of whole phrases, as some BPE models learn."""
    from tokenizers import Tokenizer, models

    vocab = {letter: i for i, letter in enumerate(" \n.,:-%15éabcdeimnortuwhsfyQDC<>")}
    merged = {": ": len(vocab), " D": len(vocab) + 1}
    model = models.BPE(vocab=vocab | merged, merges=[(":", " "), (" ", "D")])
    Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    with pytest.raises(InputError, match="a tokenizer whose pieces cross white space"):
        pair_format(tokenizer, template="{query}: {document}")
