"""Collections of every kind, and the memory-mapped store beneath them."""

import gzip
import json
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jaxir.data import store as store_module
from jaxir.data.collection import (
    Collection,
    judged_queries,
    open_collection,
    split_spec,
    write_beir,
)
from jaxir.data.formats import Doc
from jaxir.data.store import DocStore, build_store
from jaxir.errors import InputError
from jaxir.files import cache_root

# the counts of the collections' README
REAL = {
    "nfcorpus": (3633, {"train": 2590, "dev": 324}),
    "scifact": (5183, {"train": 809}),
    "medquad": (16407, {"train": 14735, "dev": 738}),
    "cosqa": (6267, {"dev": 500}),
    "vaswani": (11429, {"test": 93}),
    "cacm": (3204, {"test": 52, "test_ids_fixed": 52}),
    "limit-small": (46, {"test": 1000}),
    "xquad/en": (240, {"test": 1190}),
    "xquad/de": (240, {"test": 1190}),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("JAXIR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ------------------------------------------------------------------ opening


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_real_collections_open_with_the_counts_of_their_readme(shared_data, name):
    collection = open_collection(shared_data / name)
    num_docs, splits = REAL[name]
    check = collection.check()
    assert check.num_docs == len(collection.docs) == num_docs
    assert {s: c.num_queries for s, c in check.splits.items()} == splits
    absent = {s: c.absent_docs for s, c in check.splits.items() if c.absent_docs}
    # the id mismatch that its README names
    assert absent == ({"test": 46} if name == "cacm" else {})
    assert all(c.absent_queries == 0 for c in check.splits.values())
    for split, count in splits.items():
        assert len(collection.queries(split)) == count
    first = json.loads((shared_data / name / "corpus.jsonl").open().readline())
    assert collection.docs[0] == Doc(first["_id"], first["title"], first["text"])
    assert collection.docs.text(0) == f"{first['title']} {first['text']}".strip()


def test_tiny(tiny_collection):
    collection = open_collection(tiny_collection)
    assert (collection.name, collection.kind) == ("tiny", "beir")
    assert collection.path == str(tiny_collection)
    assert collection.splits == ["test", "train"]
    assert list(collection.queries("train")) == [
        "q-river-train", "q-engine-train", "q-bread-train",
    ]  # fmt: skip
    assert len(collection.queries()) == 6
    assert collection.qrels("test")["q-bread-test"] == {
        "bread0": 2, "bread1": 1, "bread2": 1, "bread3": 1,
    }  # fmt: skip
    assert "tiny" in repr(collection)
    assert len(os.listdir(tiny_collection)) == 3  # nothing was added


def test_judged_queries(tiny_collection):
    collection, texts, qrels = judged_queries(f"{tiny_collection}:test")
    topics = ("river", "engine", "bread")
    assert list(texts) == list(qrels) == [f"q-{topic}-test" for topic in topics]
    assert texts["q-river-test"] == collection.queries()["q-river-test"]
    path = tiny_collection / "qrels" / "test.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nunknown\triver0\t1\n")
    with pytest.raises(InputError, match="no judged queries; expected at least one"):
        judged_queries(f"{tiny_collection}:test")


def test_gzip_and_plain_are_the_same_collection(tiny_collection, tmp_path):
    packed = tmp_path / "packed"
    for path in sorted(tiny_collection.rglob("*")):
        if path.is_file():
            target = packed / path.relative_to(tiny_collection)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.with_name(f"{path.name}.gz").write_bytes(
                gzip.compress(path.read_bytes())
            )
    plain, other = open_collection(tiny_collection), open_collection(packed)
    assert other.docs.fingerprint == plain.docs.fingerprint
    assert other.queries() == plain.queries()
    assert other.splits == plain.splits
    assert other.qrels("test") == plain.qrels("test")


def test_msmarco_folder(tmp_path):
    folder = tmp_path / "marco"
    folder.mkdir()
    (folder / "collection.tsv").write_text("0\tthe first\n1\tthe second\n")
    (folder / "queries.dev.small.tsv").write_text("7\tsecond?\n8\tnot judged\n")
    (folder / "queries.train.tsv").write_text("9\tfirst?\n")
    (folder / "qrels.dev.small.tsv").write_text("7\t0\t1\t1\n")
    (folder / "qrels.train.tsv").write_text("9\t0\t0\t1\n")
    collection = open_collection(folder)
    assert collection.kind == "msmarco"
    assert collection.splits == ["dev.small", "train"]
    assert collection.queries("dev.small") == {"7": "second?"}
    assert collection.queries("train") == {"9": "first?"}
    assert set(collection.queries()) == {"7", "8", "9"}
    assert collection.docs[1] == Doc("1", "", "the second")
    (folder / "queries.train.tsv").write_text("7\tanother text\n")
    assert collection.queries("train") == {"9": "first?"}  # read once
    with pytest.raises(InputError, match="query '7' has two texts in two files"):
        open_collection(folder).queries()


def test_trec_folder(tmp_path):
    folder = tmp_path / "trec"
    (folder / "docs" / "ft").mkdir(parents=True)
    for n, name in enumerate(("ft/ft1", "la1.gz")):
        record = f"<DOC>\n<DOCNO> D{n} </DOCNO>\n<TEXT>\ntext {n}\n</TEXT>\n</DOC>\n"
        content = record.encode()
        path = folder / "docs" / name
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    (folder / "topics.robust.txt").write_text("<top>\n<num> Number: 301\n<title> one\n")
    (folder / "qrels.robust.txt").write_text("301 0 D1 1\n301 0 D0 0\n")
    collection = open_collection(folder)
    assert collection.kind == "trec"
    assert list(collection.docs) == [Doc("D0", "", "text 0"), Doc("D1", "", "text 1")]
    assert collection.queries("robust") == {"301": "one"}
    assert collection.qrels() == {"301": {"D1": 1, "D0": 0}}
    (folder / "docs" / "la2").write_text("<DOC>\n<DOCNO>D0</DOCNO>\nagain</DOC>\n")
    with pytest.raises(
        InputError, match=r"la2:1: document id 'D0' .* first in .*ft1:1"
    ):
        len(open_collection(folder).docs)


def test_unnamed_qrels_are_the_split_test(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "corpus.jsonl").write_text('{"_id": "d", "text": "x"}')
    (tmp_path / "c" / "topics.tsv").write_text("q\tx\n")
    (tmp_path / "c" / "qrels.txt").write_text("q 0 d 1\n")
    collection = open_collection(tmp_path / "c")
    assert collection.splits == ["test"]
    assert collection.queries("test") == {"q": "x"}


def test_ir_datasets(tmp_path, monkeypatch):
    """A data set registered with ir_datasets' own interface; nothing is fetched."""
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "irds"))
    import ir_datasets
    from ir_datasets.datasets.base import Dataset
    from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries
    from ir_datasets.util import LocalDownload

    def local(name, text):
        (tmp_path / name).write_text(text)
        return LocalDownload(tmp_path / name)

    docs = TsvDocs(local("docs", "a\tfirst\nb\tsecond\n"), namespace="jaxirtest")
    definitions = {0: "not", 1: "relevant"}
    for part in ("train", "dev/small"):
        word = part[0]
        queries = TsvQueries(local(f"q{word}", f"{word}1\tquery {word}\n"))
        qrels = TrecQrels(local(f"r{word}", f"{word}1 0 b 1\n"), definitions)
        name = f"jaxirtest/{part}"
        monkeypatch.delitem(ir_datasets.registry._registered, name, raising=False)
        ir_datasets.registry.register(name, Dataset(docs, queries, qrels))
    monkeypatch.delitem(ir_datasets.registry._registered, "jaxirtest", raising=False)
    ir_datasets.registry.register("jaxirtest", Dataset(docs))

    whole = open_collection("irds:jaxirtest")
    assert (whole.kind, whole.path) == ("irds", "irds:jaxirtest")
    assert whole.splits == ["dev.small", "train"]
    assert whole.queries("train") == {"t1": "query t"}
    assert whole.queries() == {"t1": "query t", "d1": "query d"}
    assert list(whole.docs) == [Doc("a", "", "first"), Doc("b", "", "second")]
    one = open_collection("irds:jaxirtest/dev/small")
    assert one.splits == ["dev.small"]
    assert one.qrels() == {"d1": {"b": 1}}
    assert one.docs.directory == whole.docs.directory
    folder = write_beir(whole, tmp_path / "beir")
    again = open_collection(folder)
    assert again.qrels("dev.small") == {"d1": {"b": 1}}
    assert again.docs.fingerprint == whole.docs.fingerprint
    with pytest.raises(InputError, match="irds:jaxirtes: ir_datasets has no such id"):
        open_collection("irds:jaxirtes")

    def no_self():
        raise TypeError("takes 0 positional arguments but 1 was given")

    with monkeypatch.context() as patch:
        patch.setattr(docs, "docs_namespace", no_self)
        assert open_collection("irds:jaxirtest").splits == ["dev.small", "train"]

    def broken():
        raise OSError("no route to host")

    monkeypatch.setattr(docs, "docs_iter", broken)
    shutil.rmtree(whole.docs.directory)
    with pytest.raises(InputError, match=r"could not provide it \(no route to host\)"):
        len(open_collection("irds:jaxirtest").docs)


def test_ir_datasets_without_documents_or_text(tmp_path, monkeypatch):
    import ir_datasets
    from ir_datasets.datasets.base import Dataset
    from ir_datasets.formats import TsvDocs, TsvQueries
    from ir_datasets.util import LocalDownload

    (tmp_path / "q").write_text("1\t \n")
    queries = TsvQueries(LocalDownload(tmp_path / "q"))
    (tmp_path / "d").write_text("1\tx\n")
    docs = TsvDocs(LocalDownload(tmp_path / "d"), namespace="jaxirempty")
    for name, parts in (("jaxirqueries", [queries]), ("jaxirempty", [docs, queries])):
        monkeypatch.delitem(ir_datasets.registry._registered, name, raising=False)
        ir_datasets.registry.register(name, Dataset(*parts))
    with pytest.raises(InputError, match="this id has no documents"):
        open_collection("irds:jaxirqueries")
    with pytest.raises(InputError, match="query '1' has empty text"):
        open_collection("irds:jaxirempty").queries()


def test_split_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:name").mkdir()
    assert split_spec("C:dev") == ("C", "dev")
    assert split_spec("a/b") == ("a/b", None)
    assert split_spec("odd:name") == ("odd:name", None)
    assert split_spec("odd:name:test") == ("odd:name", "test")
    assert split_spec("D:\\data") == ("D:\\data", None)
    assert split_spec("irds:a/b:c") == ("irds:a/b", "c")
    assert split_spec(":x") == (":x", None)


# ------------------------------------------------------------- bad collections


def test_wrong_places(tmp_path, tiny_collection):
    with pytest.raises(InputError, match="no such folder; expected a folder with"):
        open_collection(tmp_path / "absent")
    with pytest.raises(InputError, match="not a folder"):
        open_collection(tiny_collection / "corpus.jsonl")
    with pytest.raises(InputError, match=r"qrels: no documents; expected corpus.jsonl"):
        open_collection(tiny_collection / "qrels")
    collection = open_collection(tiny_collection)
    with pytest.raises(InputError, match=r"no split 'dev'; expected one of: test, tr"):
        collection.qrels("dev")
    with pytest.raises(InputError, match=r"no split named; expected one of: test, tra"):
        collection.qrels()
    (tiny_collection / "queries.jsonl").unlink()
    with pytest.raises(InputError, match=r"no queries; expected queries.jsonl"):
        open_collection(tiny_collection).queries()


def test_duplicate_ids_name_both_lines_and_leave_nothing(tiny_collection, cache):
    corpus = tiny_collection / "corpus.jsonl"
    lines = corpus.read_text().splitlines()
    corpus.write_text("\n".join(["", *lines, lines[2]]) + "\n")
    with pytest.raises(InputError, match=r"jsonl:14: document id 'river2' again, firs"
                                         r"t in line 4"):  # fmt: skip
        len(open_collection(tiny_collection).docs)
    assert list(cache.glob("collections/*")) == []


def test_empty_documents_and_the_way_out(tiny_collection):
    with (tiny_collection / "corpus.jsonl").open("a") as out:
        out.write('{"_id": "void", "title": "", "text": " "}\n')
    message = r"corpus.jsonl:13: document 'void' has empty title and text; .*--allow-em"
    with pytest.raises(InputError, match=message):
        len(open_collection(tiny_collection).docs)
    allowed = open_collection(tiny_collection, allow_empty=True)
    assert allowed.check().num_empty_docs == 1
    assert allowed.docs.text(12) == ""
    # allowed once, the folder opens everywhere
    assert len(open_collection(tiny_collection).docs) == 13


def test_judgments_of_absent_documents_and_queries_are_counted(tiny_collection, capsys):
    with (tiny_collection / "qrels" / "test.tsv").open("a") as out:
        out.write("q-river-test\tghost\t1\nq-ghost\triver0\t1\nq-ghost\tghost\t1\n")
    collection = open_collection(tiny_collection)
    qrels = collection.qrels("test")
    assert qrels["q-ghost"] == {"river0": 1, "ghost": 1}
    error = capsys.readouterr().err
    assert "split 'test' name 1 queries that the collection does not have" in error
    assert "name 1 documents that the collection does not have, such as 'gh" in error
    collection.qrels("test")
    assert capsys.readouterr().err == ""  # told once
    assert "q-ghost" not in collection.queries("test")
    check = collection.check().splits["test"]
    assert (check.absent_queries, check.absent_docs) == (1, 1)
    assert (check.num_judgments, check.num_relevant) == (15, 15)


def test_check_as_json(tiny_collection):
    check = open_collection(tiny_collection).check()
    read = json.loads(json.dumps(check.to_dict()))
    assert read["splits"]["train"]["grades"] == {"1": 9, "2": 3}
    assert read["num_docs"] == 12
    assert read["fingerprint"] == open_collection(tiny_collection).docs.fingerprint
    assert 10 < read["mean_words"] < 20


# ------------------------------------------------------------------ the store


def test_store_lives_in_the_cache_and_follows_its_file(tiny_collection, cache):
    for path in (tiny_collection, tiny_collection / "qrels"):
        path.chmod(0o555)  # a collection may be read-only
    first = open_collection(tiny_collection).docs
    for path in (tiny_collection, tiny_collection / "qrels"):
        path.chmod(0o755)
    assert first.directory.parent == cache_root() / "collections"
    written = (first.directory / "meta.json").stat().st_mtime_ns
    again = open_collection(tiny_collection).docs
    assert again.directory == first.directory
    assert (again.directory / "meta.json").stat().st_mtime_ns == written
    with (tiny_collection / "corpus.jsonl").open("a") as out:
        out.write('{"_id": "new", "text": "more"}\n')
    changed = open_collection(tiny_collection).docs
    assert changed.directory != first.directory
    assert len(changed) == 13
    assert changed.row("new") == 12
    assert changed.fingerprint != first.fingerprint


def test_damaged_store_is_built_again(tiny_collection, capsys):
    docs = open_collection(tiny_collection).docs
    texts = docs.texts(range(12))
    path = docs.directory / "texts.bin"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="damaged or foreign document store"):
        DocStore(docs.directory)
    assert open_collection(tiny_collection).docs.texts(range(12)) == texts
    assert "damaged; building it again" in capsys.readouterr().err
    with pytest.raises(InputError, match="not a document store"):
        DocStore(docs.directory / "nothing")


def test_failure_while_building_leaves_nothing(tiny_collection, cache, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module._Writer, "add", full)
    with pytest.raises(InputError, match="no space left on the device"):
        len(open_collection(tiny_collection).docs)
    assert list(cache.glob("collections/*")) == []


def test_store_and_collection_travel_to_other_processes(tiny_collection):
    collection = open_collection(tiny_collection)
    copy = pickle.loads(pickle.dumps(collection.docs))
    assert copy[3] == collection.docs[3]
    again = pickle.loads(pickle.dumps(collection))
    assert isinstance(again, Collection)
    assert again.queries() == collection.queries()


def test_builders_started_together_build_one_store(tiny_collection, monkeypatch):
    built = []

    def counted(*args, **keywords):
        built.append(args)
        return build_store(*args, **keywords)

    monkeypatch.setattr("jaxir.data.collection.build_store", counted)
    with ThreadPoolExecutor(4) as pool:
        sizes = pool.map(lambda _: len(open_collection(tiny_collection).docs), range(8))
        assert list(sizes) == [12] * 8
    assert len(built) == 1
