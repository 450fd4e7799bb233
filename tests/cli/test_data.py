"""``jaxir data``: folders checked and made, mistakes in one line with exit code 2."""

import json

import pytest

from jaxir.cli.main import main
from jaxir.data.collection import open_collection


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXIR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def jaxir(capsys):
    """Runs a command line; returns exit code, standard output and error."""

    def run(*words):
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_check_for_people_and_for_programs(jaxir, tiny_collection):
    code, out, err = jaxir("data", "beir", tiny_collection)
    assert (code, err) == (0, "")
    assert "documents  12" in out
    assert "split train  3 queries, 9 of grade 1, 3 of grade 2" in out
    for words in (["--json", "--quiet"], ["--quiet", "--json"]):
        code, out, err = jaxir("data", "beir", tiny_collection, *words)
        assert code == 0
        assert json.loads(out)["splits"]["test"]["num_judgments"] == 12


def test_absent_documents_are_warned_of_and_counted(jaxir, tiny_collection):
    with (tiny_collection / "qrels" / "test.tsv").open("a") as out:
        out.write("q-river-test\tghost\t1\n")
    code, out, err = jaxir("data", "beir", tiny_collection)
    assert code == 0
    assert "1 documents that the collection does not have, such as 'ghost'" in err
    assert "1 documents and 0 queries that the collection does not have" in out


def spoil_corpus(folder, line):
    with (folder / "corpus.jsonl").open("a") as out:
        out.write(line + "\n")


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("corpus.jsonl", '{"_id": "x", ', "corpus.jsonl:13: broken JSON"),
        ("corpus.jsonl", '{"_id": "x"}', "corpus.jsonl:13: no key 'text'"),
        (
            "corpus.jsonl",
            '{"_id": "bread0", "text": "x"}',
            "13: document id 'bread0' ag",
        ),
        (
            "corpus.jsonl",
            '{"_id": "x", "text": ""}',
            "13: document 'x' has empty title",
        ),
        (
            "queries.jsonl",
            '{"_id": "x", "text": ""}',
            "queries.jsonl:7: query 'x' has e",
        ),
        (
            "qrels/test.tsv",
            "q-river-test\triver0",
            "test.tsv:14: 2 columns; expected 3",
        ),
        ("qrels/test.tsv", "q-river-test\triver0\tx", "test.tsv:14: relevance 'x'"),
    ],
)
def test_a_bad_line_is_one_line_and_nothing_written(
    jaxir, tiny_collection, tmp_path, file, line, message
):
    with (tiny_collection / file).open("a") as out:
        out.write(line + "\n")
    code, out, err = jaxir(
        "data", "beir", tiny_collection, "--output", tmp_path / "out"
    )
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("jaxir data: ")
    assert message in err
    assert "; " in err  # a remedy
    assert not (tmp_path / "out").exists()


def test_allow_empty(jaxir, tiny_collection):
    spoil_corpus(tiny_collection, '{"_id": "void", "text": ""}')
    code, out, _ = jaxir("data", "beir", tiny_collection, "--allow-empty")
    assert code == 0
    assert "documents  13, 1 of them empty" in out


def test_another_kind_of_folder(jaxir, tiny_collection):
    code, _, err = jaxir("data", "msmarco", tiny_collection)
    assert code == 2
    assert "the documents are in the form of 'beir'; expected msmarco" in err
    assert f"run `jaxir data beir {tiny_collection}`" in err
    code, _, err = jaxir("data", "nonsense")
    assert code == 2
    assert "invalid choice: 'nonsense'" in err


def test_msmarco_and_trec_become_beir(jaxir, tmp_path):
    marco, trec = tmp_path / "marco", tmp_path / "trec"
    for folder in (marco, trec):
        folder.mkdir()
    (marco / "collection.tsv").write_text("0\tthe first\n1\tthe second\n")
    (marco / "queries.dev.tsv").write_text("7\tsecond?\n")
    (marco / "qrels.dev.tsv").write_text("7\t0\t1\t1\n")
    (trec / "docs.trec").write_text("<DOC><DOCNO>1</DOCNO>the second</DOC>\n")
    (trec / "topics.dev").write_text("<top>\n<num>7\n<title>second?\n")
    (trec / "qrels.dev").write_text("7 0 1 1\n")
    for form, folder in (("msmarco", marco), ("trec", trec)):
        output = tmp_path / f"{form}-beir"
        code, out, err = jaxir("data", form, folder, "--output", output)
        assert (code, err) == (0, "")
        assert str(output) in out
        written = open_collection(output)
        assert written.kind == "beir"
        assert written.queries("dev") == {"7": "second?"}
        assert written.qrels("dev") == {"7": {"1": 1}}
        assert written.docs[written.docs.row("1")].text == "the second"


def test_only_a_collection_is_overwritten(jaxir, tiny_collection, tmp_path):
    output = tmp_path / "out"
    words = ("data", "beir", tiny_collection, "--output", output)
    for _ in range(2):
        code, _, err = jaxir(*words)
        assert (code, err) == (0, "")
    (output / "thesis.txt").write_text("precious")
    code, _, err = jaxir(*words)
    assert code == 2
    assert "this exists and holds more than a collection; expected a new" in err
    assert (output / "thesis.txt").read_text() == "precious"
    file = output / "thesis.txt"
    code, _, err = jaxir("data", "pydocs", "--output", file)
    assert (code, file.read_text()) == (2, "precious")
    code, _, err = jaxir("data", "beir", tiny_collection, "--output", file / "x")
    assert code == 2
    assert "cannot write here (File exists)" in err
    code, _, err = jaxir("data", "beir", tiny_collection, "--output", tiny_collection)
    assert code == 2
    assert "this is the collection itself; expected another folder" in err


def test_corpus_without_judgments(jaxir, tiny_collection):
    for path in (tiny_collection / "qrels").iterdir():
        path.unlink()
    code, out, _ = jaxir("data", "beir", tiny_collection)
    assert code == 0
    assert "no judgments" in out


def test_unknown_ir_datasets_id(jaxir, tmp_path):
    code, _, err = jaxir("data", "irds", "vaswanix", "--output", tmp_path / "o")
    assert code == 2
    assert "irds:vaswanix: ir_datasets has no such id; expected vaswani" in err


def test_pydocs(jaxir, tmp_path):
    words = ("pydocs", "--output", tmp_path / "p", "--packages", "tqdm", "--limit", 40)
    code, out, _ = jaxir("data", *words, "--json")
    assert code == 0
    summary = json.loads(out)
    assert 0 < summary["num_docs"] <= 40
    assert (tmp_path / "p" / "manifest.json").is_file()


def test_tfds(jaxir, tiny_collection, tmp_path):
    lists = tmp_path / "lists.jsonl"
    items = [{"doc_id": "river0", "label": 2}, {"doc_id": "bread0", "label": 0}]
    record = {"query_id": "q-river-train", "items": items}
    lists.write_text(json.dumps(record) + "\n")
    words = ["tfds", "--lists", lists, "--output", tmp_path / "set", "--collection"]
    code, out, err = jaxir("data", *words, f"{tiny_collection}:train", "--json")
    assert code == 0, err
    assert json.loads(out)["lists"] == 1
    assert (tmp_path / "set").is_dir()
    code, _, err = jaxir("data", *words, tiny_collection)
    assert code == 2
    assert "expected C:split; name the split" in err
    for name, code in (("set", 0), ("cache", 2)):  # its like is replaced, nothing else
        words[4] = tmp_path / name
        assert jaxir("data", *words, f"{tiny_collection}:train")[0] == code
    assert (tmp_path / "cache" / "collections").is_dir()
    assert "holds no prepared lists" in jaxir("data", *words, "x:y")[2]
