"""Every form is read, told apart by content; every malformed line is placed."""

import gzip
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxir.data.formats import (
    Doc,
    read_corpus,
    read_qrels,
    read_queries,
    read_run,
    write_corpus,
    write_qrels,
    write_queries,
    write_run,
)
from jaxir.data.lines import json_field, numbered_lines
from jaxir.errors import InputError


@pytest.fixture
def write(tmp_path):
    def write(text, name="file"):
        path = tmp_path / name
        content = text if isinstance(text, bytes) else text.encode()
        if name.endswith(".gz"):
            content = gzip.compress(content)
        path.write_bytes(content)
        return path

    return write


# ---------------------------------------------------------------- queries


@pytest.mark.parametrize(
    "text",
    [
        '{"_id": "1", "text": "what is a river"}\n{"_id": 2, "text": "bread"}\n',
        '{"query_id": "1", "query": "what is a river"}\n{"id": "2", "text": "bread"}',
        "1\twhat is a river\n2\tbread\n",
        "1\twhat is a river\r\n\r\n2\tbread\r\n",
        "\ufeff1\twhat is a river\n2\tbread\n",
        "<top>\n<num> Number: 1\n<title> Topic:  what is\n a river\n<desc> Descr:\nx\n"
        "</top>\n\n<top>\n<num> Number: 2\n<title> bread\n",
        '<?xml version="1.0"?><topics><topic number="1"><query>what is a river</query>'
        '<question>?</question></topic><topic number="2"><title>bread</title></topic>'
        "</topics>",
    ],
    ids=["beir", "keys", "msmarco", "crlf", "bom", "trec", "xml"],
)
@pytest.mark.parametrize("name", ["plain", "packed.gz"])
def test_queries_in_every_form(write, text, name):
    assert read_queries(write(text, name)) == {"1": "what is a river", "2": "bread"}


def test_xml_entities_are_text(write):
    path = write('<topics><topic number="1"><query>r&amp;d</query></topic></topics>')
    assert read_queries(path) == {"1": "r&d"}


def test_unicode_separators_do_not_end_a_line(write):
    text = "a\u2028b\x85c"
    path = write(json.dumps({"_id": "1", "text": text}, ensure_ascii=False))
    assert read_queries(path) == {"1": text}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"_id": "1", "text": "a"}\n{"_id": "2"', r"file:2: broken JSON at column"),
        ('{"_id": ' + "9" * 5000 + "}", r"file:1: broken JSON at column 1 \(Exceeds"),
        ('{"_id": ' + "[" * 200_000, r"file:1: broken JSON at column 1 \(maximum rec"),
        ('{"_id": "1", "text": "a"}\n[1]', r"file:2: a JSON list; expected one JSON"),
        ('{"_id": "1", "txt": "a"}', r"file:1: no key 'text' \(keys: '_id', 'txt'\)"),
        ("{}", r"no key '_id' \(keys: none\)"),
        ('{"_id": "1", "text": 7}', r"file:1: 'text' is 7; expected a string"),
        ('{"_id": true, "text": "a"}', r"'_id' is true; expected a string"),
        ('{"_id": " 1", "text": "a"}', r"'_id' is ' 1'; expected an id without tab"),
        ('{"_id": "", "text": "a"}', r"'_id' is ''; expected an id"),
        ('{"_id": "1", "text": "\\ud800"}', r"file:1: 'text' has half of a surrogate"),
        ("1\ta\n\n1\tb", r"file:3: query id '1' again, first in line 1"),
        ("1\ta\n2\t ", r"file:2: query '2' has empty text; expected a text"),
        ("1\ta\n2", r"file:2: no tab; expected query id, tab, text"),
        ("\ta", r"file:1: 'query id' is ''"),
        ("only words", r"file:1: 'only words'; expected JSON lines, `id<TAB>text`, or"),
        ("", r"file: the file is empty"),
        (b"1\tcaf\xe9\n", r"file:1: byte 0xe9 is not UTF-8.*iconv"),
        (b"1\ta\n2\t\xff\n", r"file:2: byte 0xff is not UTF-8"),
        ("<html>", r"no <top> or <topic>"),
        ("<top>\n<title> a\n</top>", r"file:1: a topic without number"),
        ("<top>\n<num> 1\n</top>\n<top>\n<num>2", r"file:1: query '1' has empty text"),
        (
            "<top>\n<num> 1\n<title> a\n</top>\n\n<top>\n<title> b",
            r"file:6: a topic without number",
        ),
    ],
)
def test_malformed_queries(write, text, message):
    with pytest.raises(InputError, match=message):
        read_queries(write(text))


def test_missing_damaged_and_forbidden_files(write, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such file"):
        read_queries(tmp_path / "absent.tsv")
    packed = gzip.compress(b"1\ta\n" * 1000)
    with pytest.raises(InputError, match=r"the gzip stream is damaged"):
        list(numbered_lines(write(packed[: len(packed) // 2])))
    broken = packed[:-8] + bytes(8)
    with pytest.raises(InputError, match=r"the gzip stream is damaged"):
        list(numbered_lines(write(broken)))

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr("jaxir.data.lines.open_text", refuse)
    with pytest.raises(InputError, match="cannot be read; check its rights"):
        list(numbered_lines(tmp_path / "x"))


def test_identifier_whole_numbers_only():
    assert json_field("f:1", {"_id": 7}, ("_id",), identifier=True) == "7"
    with pytest.raises(InputError, match=r"'_id' is 7\.5"):
        json_field("f:1", {"_id": 7.5}, ("_id",), identifier=True)


# -------------------------------------------------------------- documents


@pytest.mark.parametrize(
    ("text", "docs"),
    [
        (
            '{"_id": "a", "title": "T", "text": "x", "metadata": {}}\n'
            '{"_id": "b", "title": null, "text": "y"}',
            [Doc("a", "T", "x"), Doc("b", "", "y")],
        ),
        ('{"id": "a", "contents": "x"}', [Doc("a", "", "x")]),
        ('{"docid": 3, "text": "x"}', [Doc("3", "", "x")]),
        ("0\tfirst passage\n1\tsecond", [Doc("0", "", "first passage"),
                                         Doc("1", "", "second")]),
        ("D1\thttp://u\tT\tbody", [Doc("D1", "T", "body")]),
        (
            "<DOC>\n<DOCNO> FT-1 </DOCNO>\n<HEADLINE>\nA <b>B</b>\n</HEADLINE>\n"
            "<DATE>1991</DATE><TEXT>\nx &amp;\n<P>y</P>\n</TEXT>\n<TEXT>z</TEXT>"
            "</DOC>\n"
            "<doc><DOCNO>WT-2</DOCNO><DOCHDR>http://u\n</DOCHDR><html>plain <i>w</i>"
            "</html></doc>",
            [Doc("FT-1", "A B", "x & y z"), Doc("WT-2", "", "plain w")],
        ),
    ],
    ids=["beir", "pyserini", "docid", "passages", "msdocs", "trec"],
)  # fmt: skip
def test_documents_in_every_form(write, text, docs):
    assert list(read_corpus(write(text))) == docs
    assert list(read_corpus(write(text, "c.gz"))) == docs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"_id": "1", "text": "a"}\n{"text": "b"}', r"file:2: no key '_id'"),
        ('{"_id": "1", "title": 3, "text": "a"}', r"file:1: 'title' is 3"),
        ("1\ta\n2\tb\tc", r"file:2: 3 columns; expected 2 columns .* as in line 1"),
        ("1\ta\n \tb", r"file:2: 'document id' is ' '"),
        ("a\tb\tc", r"file:1: 'a\\tb\\tc'; expected JSON lines"),
        ("<DOC>\n<DOCNO>1</DOCNO>\nx", r"file:1: a <DOC> that does not end"),
        ("<DOC>x</DOC>", r"file:1: a <DOC> without <DOCNO>"),
        ("<DOC><DOCNO>1</DOCNO>x\n<DOC>", r"file:2: <DOC> inside the one of line 1"),
        ("<DOC><DOCNO>1</DOCNO>x</DOC>\nstray", r"file:2: 'stray' outside a <DOC>"),
    ],
)
def test_malformed_documents(write, text, message):
    with pytest.raises(InputError, match=message):
        list(read_corpus(write(text)))


# ------------------------------------------------------------------ qrels


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq 1\td\t2\nq2\te\t-1\n",
        "q 1\t0\td\t2\nq2\t0\te\t-1\n",
        "q 1\td\t2\nq2\te\t-1\nq2\te\t-1\n",
    ],
    ids=["beir", "trec", "repeated"],
)
def test_qrels(write, text):
    assert read_qrels(write(text)) == {"q 1": {"d": 2}, "q2": {"e": -1}}


def test_a_number_sign_begins_an_id_below_the_header(write):
    path = write("query-id\tcorpus-id\tscore\n#q\t#d\t1\n")
    assert read_qrels(path) == {"#q": {"#d": 1}}


def test_trec_qrels_with_comments(write):
    path = write("# made by hand\n301 0  CR#1 1\n  # more\n301 0 CR2 0\n")
    assert read_qrels(path) == {"301": {"CR#1": 1, "CR2": 0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q d", r"file:1: 2 columns; expected 3 \(BEIR\) or 4 \(TREC\) columns"),
        ("q 0 d 1\nq d 1", r"file:2: 3 columns; expected 4 columns"),
        ("query-id\tcorpus-id\tscore\nq\t0\td\t1", r"file:2: 4 columns; expected 3"),
        ("q 0 d 1.5", r"file:1: relevance '1.5'; expected a whole number"),
        ("q 0 d high", r"file:1: relevance 'high'"),
        ("q 0 d 1\nq 0 d 0", r"file:2: document 'd' of query 'q' judged 1 and 0"),
        ("q\t0\t\t1", r"file:1: 'document id' is ''"),
        ("\t0\td\t1", r"file:1: 'query id' is ''"),
        ("# nothing\n", r"file: no judgments"),
    ],
)
def test_malformed_qrels(write, text, message):
    with pytest.raises(InputError, match=message):
        read_qrels(write(text))


# ------------------------------------------------------------------- runs


def test_run_is_ordered_by_score_and_ties_keep_their_order(write):
    path = write("q Q0 a 1 1.0 t\nq Q0 b 2 2.0 t\nq Q0 c 3 1.0 a longer tag\n")
    assert list(read_run(path)["q"].items()) == [("b", 2.0), ("a", 1.0), ("c", 1.0)]


def test_msmarco_run(write):
    assert read_run(write("q\td\t1\nq\te\t2\n")) == {"q": {"d": -1.0, "e": -2.0}}


def test_run_with_tabs_and_spaces_mixed(write):
    path = write("q\tQ0\tGeneva Durben\t1\t0.5\tt\nq Q0 d\t2 0.25 t\n")
    assert read_run(path) == {"q": {"Geneva Durben": 0.5, "d": 0.25}}


@pytest.mark.parametrize("doc_id", ["Geneva Durben", "a\u00a0b", "a\u3000b", "a\x0bb"])
def test_run_of_ids_with_any_white_space(tmp_path, doc_id):
    run = {"q": {doc_id: 1.0, "d": 0.5}}
    write_run(tmp_path / "run", run)
    assert read_run(tmp_path / "run") == run


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\u2028", "\x85"])
def test_columns_of_other_tools_end_at_ascii_white_space_alone(write, space):
    run = write(f"q{space}1 Q0 d{space}1 7 2.5 t \r\n")
    assert read_run(run) == {f"q{space}1": {f"d{space}1": 2.5}}
    qrels = write(f"q{space}1 0  d{space}1 1\n")
    assert read_qrels(qrels) == {f"q{space}1": {f"d{space}1": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 d 1 0.5", r"file:1: 5 columns; expected 6 columns"),
        ("q\td\t1\nq\td", r"file:2: 2 columns; expected 3 columns"),
        ("q Q0 d one 0.5 t", r"file:1: rank 'one'; expected a whole number"),
        ("q Q0 d 1 nan t", r"file:1: score 'nan'; expected a finite number; run the"),
        ("q Q0 d 1 inf t", r"file:1: score 'inf'"),
        ("q Q0 d 1 high t", r"file:1: score 'high'"),
        ("q Q0 d 1 2 t\nq Q0 d 2 1 t", r"file:2: document 'd' again for query 'q'"),
    ],
)
def test_malformed_runs(write, text, message):
    with pytest.raises(InputError, match=message):
        read_run(write(text))


ids = st.text(
    st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8
) | st.just("Geneva Durben")
scores = st.floats(allow_nan=False, allow_infinity=False)
run_strategy = st.dictionaries(
    ids, st.dictionaries(ids, scores, min_size=1, max_size=6), max_size=5
)


@given(run=run_strategy)
def test_run_round_trip(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("run") / "run.trec"
    write_run(path, run)
    again = read_run(path) if any(run.values()) else {}
    assert again == run
    for query_id, results in again.items():
        ordered = sorted(run[query_id].items(), key=lambda item: -item[1])
        assert list(results.items()) == ordered
    for line in path.read_text().splitlines():
        assert len(line.split("\t" if "\t" in line else " ")) == 6


def test_written_run_gives_trec_eval_our_order(tmp_path):
    """Distinct float32 scores stay distinct; ranks count from 1."""
    import numpy as np

    close = np.nextafter(np.float32(1), np.float32(2))
    write_run(tmp_path / "r", {"q": {"a": np.float32(1), "b": close}}, tag="x")
    lines = [line.split() for line in (tmp_path / "r").read_text().splitlines()]
    assert [line[2:4] for line in lines] == [["b", "1"], ["a", "2"]]
    assert np.float32(lines[0][4]) > np.float32(lines[1][4])


def test_write_run_refuses(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(InputError, match=r"score nan of document 'd', query 'q'"):
        write_run(path, {"q": {"d": float("nan")}})
    with pytest.raises(InputError, match=r"'query id' is 'q\\tx'"):
        write_run(path, {"q\tx": {"d": 1.0}})
    with pytest.raises(InputError, match=r"'document id' is 'd\\n'"):
        write_run(path, {"q": {"d\n": 1.0}})
    with pytest.raises(InputError, match=r"tag: 'two words'; expected one word"):
        write_run(path, {"q": {"d": 1.0}}, tag="two words")
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------- other round trips


@given(
    qrels=st.dictionaries(
        ids, st.dictionaries(ids, st.integers(-2, 9), min_size=1), min_size=1
    ),
    queries=st.dictionaries(ids, st.text().filter(str.strip), min_size=1),
    docs=st.lists(st.builds(Doc, ids, st.text(), st.text()), min_size=1),
)
def test_collection_round_trip(tmp_path_factory, qrels, queries, docs):
    folder = tmp_path_factory.mktemp("beir")
    write_qrels(folder / "qrels.tsv.gz", qrels)
    write_queries(folder / "queries.jsonl", queries)
    assert write_corpus(folder / "corpus.jsonl", docs) == len(docs)
    assert read_qrels(folder / "qrels.tsv.gz") == qrels
    assert read_queries(folder / "queries.jsonl") == queries
    assert list(read_corpus(folder / "corpus.jsonl")) == docs


def test_write_qrels_refuses(tmp_path):
    with pytest.raises(InputError, match=r"'query id' is ''"):
        write_qrels(tmp_path / "q", {"": {"d": 1}})
    with pytest.raises(InputError, match=r"'document id' is 'a\\tb'"):
        write_qrels(tmp_path / "q", {"q": {"a\tb": 1}})


# ---------------------------------------------------------------- real files


@pytest.mark.shared
def test_trec_evals_own_files(shared_data):
    folder = shared_data / "trec_eval"
    judged = read_qrels(folder / "qrels.test")
    assert [len(docs) for docs in judged.values()] == [1708, 1061, 912]
    commented = read_qrels(folder / "qrels.test.with-comments")
    assert commented["301"]["CR#93E-1860"] == 0
    run = read_run(folder / "results.test")
    assert [len(results) for results in run.values()] == [500, 500, 500]
    assert all(list(r.values()) == sorted(r.values(), reverse=True)
               for r in run.values())  # fmt: skip
    assert len(read_run(folder / "results.trunc")) == 2  # words after the tag


@pytest.mark.shared
def test_a_peers_run_of_cacm(shared_data):
    run = read_run(shared_data / "cacm" / "golden" / "cacm-bm25.run.txt")
    assert next(iter(run["1"].items())) == ("CACM-1938", 12.033)
