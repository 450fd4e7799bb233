"""``jaxir export``, and ``--engine`` of ``jaxir index`` and ``jaxir search``."""

import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from fake_opensearch import FakeOpenSearch, serving
from tiny_exports import QUERIES, WORDS, sparse_index

from jaxir.cli.main import main
from jaxir.data.formats import read_run
from jaxir.errors import InputError
from jaxir.export.opensearch import stored_weights
from jaxir.export.sparse_source import check_names, open_source, sparse_documents
from jaxir.manifest import DocIdFile


@pytest.fixture
def index(tmp_path):
    return sparse_index(tmp_path / "index")


@pytest.fixture
def queries(tmp_path):
    path = tmp_path / "queries.tsv"
    kept = {name: text for name, text in QUERIES.items() if text}
    path.write_text("".join(f"{name}\t{text}\n" for name, text in kept.items()))
    return path


@pytest.fixture
def texts(index, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    lines = [
        json.dumps({"_id": doc_id, "text": f"text {doc_id}"})
        for doc_id in DocIdFile(index)
    ]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def run(*words):
    return main([str(word) for word in words])


def documents(folder):
    """Ids and fields of the bulk files, each of them checked for its form."""
    found = {}
    for path in sorted((folder / "bulk").iterdir()):
        text = path.read_bytes()
        assert text.endswith(b"\n")
        lines = [json.loads(line) for line in text[:-1].split(b"\n")]
        for action, fields in zip(lines[::2], lines[1::2], strict=True):
            assert action == {"index": {"_id": fields["id"]}}
            assert fields["id"] not in found
            found[fields["id"]] = fields
    return found


def test_opensearch(index, queries, texts, tmp_path, capsys):
    target = tmp_path / "export"
    code = run(
        "export", "--format", "opensearch", "--index", index, "--output", target,
        "--queries", queries, "--k", 7, "--texts", texts, "--max_bytes", "2kB",
        "--two_phase", "prune_ratio=0.3", "--name", "mine", "--json",
    )  # fmt: skip
    assert code == 0
    told = json.loads(capsys.readouterr().out)
    assert {path.name for path in target.iterdir()} == {
        "index.json", "pipeline.json", "loaded.json", "bulk", "queries.jsonl",
        "export.json",
    }  # fmt: skip
    files = {f"bulk/{path.name}": path for path in (target / "bulk").iterdir()}
    assert len(files) > 3
    assert told["files"].keys() == files.keys()
    assert all(path.stat().st_size <= 2000 for path in files.values())
    found = documents(target)
    assert list(found) == list(DocIdFile(index))
    assert found["d5"]["text_sparse"] == {}
    for doc in sparse_documents(open_source(index)):
        fields = found[doc.doc_id]["text_sparse"]
        expected = dict(zip(doc.tokens.tolist(), doc.weights.tolist(), strict=True))
        assert {WORDS.index(key) for key in fields} == expected.keys()
        for key, weight in fields.items():
            assert np.float32(weight) == np.float32(expected[WORDS.index(key)])
        assert found[doc.doc_id]["text"] == f"text {doc.doc_id}"
    settings = json.loads((target / "index.json").read_text())["settings"]["index"]
    assert settings["search.default_pipeline"] == "mine-two-phase"
    pipeline = json.loads((target / "pipeline.json").read_text())
    assert '"prune_ratio": 0.3' in json.dumps(pipeline)
    lines = [json.loads(line) for line in (target / "queries.jsonl").open()]
    assert [line["id"] for line in lines] == [
        name for name in QUERIES if name != "empty"
    ]
    assert {line["body"]["size"] for line in lines} == {7}
    tokens = lines[1]["body"]["query"]["neural_sparse"]["text_sparse"]["query_tokens"]
    assert tokens.keys() == {"river", "clay", "bread"}


def test_the_files_make_a_cluster_that_answers(index, queries, tmp_path, capsys):
    target = tmp_path / "export"
    words = ("export", "--format", "opensearch", "--index", index, "--output", target)
    assert run(*words, "--queries", queries, "--two_phase", "--json") == 0
    with serving(FakeOpenSearch()) as url:

        def send(method, path, file, kind="application/json"):
            data = file.read_bytes()
            request = urllib.request.Request(
                url + path, data, {"Content-Type": kind}, method=method
            )
            with urllib.request.urlopen(request) as reply:
                return json.load(reply)

        send("PUT", "/_search/pipeline/jaxir-two-phase", target / "pipeline.json")
        send("PUT", "/jaxir", target / "index.json")
        for path in sorted((target / "bulk").iterdir()):
            reply = send("POST", "/jaxir/_bulk", path, "application/x-ndjson")
            assert reply["errors"] is False
        send("PUT", "/jaxir/_settings", target / "loaded.json")
        send("POST", "/jaxir/_refresh", Path("/dev/null"))
        run_path = tmp_path / "run.trec"
        asked = ("search", "--index", index, "--queries", queries, "--k", 5)
        engine = ("--engine", "opensearch", "--url", url, "--name", "jaxir")
        assert run(*asked, "--output", run_path, *engine) == 0
    assert set(read_run(run_path)) <= set(QUERIES)


def test_what_rounding_costs_is_told(index, queries, tmp_path, capsys):
    target = tmp_path / "export"
    words = ("export", "--format", "opensearch", "--index", index, "--output", target)
    assert run(*words, "--queries", queries) == 0
    assert "weights of 9 bits lower scores by at most" in capsys.readouterr().err
    told = json.loads((target / "export.json").read_text())
    table = np.load(index / "query" / "idf.npy")
    largest = 0.0
    for doc in sparse_documents(open_source(index)):
        losses = dict(
            zip(
                doc.tokens.tolist(),
                (doc.weights - stored_weights(doc.weights)).tolist(),
                strict=True,
            )
        )
        for text in QUERIES.values():
            tokens = {WORDS.index(word) for word in text.split() if word in WORDS}
            total = sum(losses.get(token, 0) * table[token] for token in tokens)
            largest = max(largest, total) if "." not in text else largest
    assert told["largest_score_difference"] == pytest.approx(largest, rel=1e-4)
    assert 0 < told["largest_relative_difference"] < 1 / 256


def test_sparse_vectors(index, tmp_path):
    target = tmp_path / "export"
    words = ("export", "--format", "opensearch", "--index", index, "--output", target)
    assert run(*words, "--field", "sparse_vector", "--seismic", "n_postings=4000") == 0
    fields = documents(target)["d0"]["text_sparse"]
    assert all(key.isdigit() for key in fields)
    text = (target / "index.json").read_text()
    assert '"n_postings": 4000' in text
    assert json.loads(text)["settings"]["index"]["sparse"] is True


def test_jsonl(index, texts, tmp_path):
    target = tmp_path / "export"
    words = ("export", "--format", "jsonl", "--index", index, "--output", target)
    assert run(*words, "--texts", texts, "--scale", 50) == 0
    (path,) = (target / "docs").iterdir()
    lines = [json.loads(line) for line in path.open()]
    assert [line["id"] for line in lines] == list(DocIdFile(index))
    for doc, line in zip(sparse_documents(open_source(index)), lines, strict=True):
        numbers = np.rint(doc.weights * 50).astype(int)
        kept = [(WORDS[t], n) for t, n in zip(doc.tokens, numbers, strict=True) if n]
        assert line["vector"] == dict(kept)
        assert line["contents"] == f"text {doc.doc_id}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "lucene"], "format: 'lucene'; expected one of opensearch, jsonl"),
        (["--format", "jsonl", "--k", 3], "--k: given with jsonl"),
        (["--format", "opensearch", "--scale", 3], "--scale: given with opensearch"),
        (
            ["--format", "opensearch", "--two_phase", "ratio=3"],
            "--two_phase: 'ratio'; expected one of prune_type, prune_ratio",
        ),
        (
            ["--format", "opensearch", "--max_bytes", "many"],
            "bytes: 'many'; expected a",
        ),
        (
            ["--format", "opensearch", "--max_bytes", "0"],
            "bytes: '0'; expected at least",
        ),
        (["--format", "opensearch", "--max_bytes", "100"], "raise --max_bytes"),
        (
            ["--format", "opensearch", "--two_phase", "--name", "Docs"],
            "name: 'Docs'; expected lower",
        ),
        (
            ["--format", "opensearch", "--name", "docs"],
            "--name: given; expected with --two_phase",
        ),
        (["--format", "opensearch", "--k", 3], "--k: given; expected with --queries"),
        (
            ["--format", "opensearch", "--seismic", "x"],
            "--seismic: 'x'; expected NAME=",
        ),
        (["--format", "jsonl", "--scale", 0], "scale: 0; expected at least 1"),
        (["--format", "jsonl", "--scale", 10**20], "expected whole numbers of 31 bits"),
    ],
)
def test_one_line(index, tmp_path, capsys, words, message):
    target = tmp_path / "export"
    assert run("export", "--index", index, "--output", target, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not target.exists()


def test_only_sparse_indexes_and_only_exports(index, tmp_path, capsys):
    words = ("export", "--format", "jsonl", "--output", tmp_path, "--index", index)
    assert run(*words) == 2
    assert "not an export" in capsys.readouterr().err
    manifest = json.loads((index / "manifest.json").read_text())
    (index / "manifest.json").write_text(json.dumps(manifest | {"kind": "dense"}))
    assert run(*words[:3], "--output", tmp_path / "e", "--index", index) == 2
    assert "an index of kind 'dense'; expected kind 'sparse'" in capsys.readouterr().err


def test_an_export_replaces_an_export(index, tmp_path):
    words = ("--index", index, "--output", tmp_path / "export")
    assert run("export", "--format", "jsonl", *words) == 0
    assert run("export", "--format", "opensearch", *words) == 0
    assert not (tmp_path / "export" / "docs").exists()


def test_a_text_that_is_missing(index, texts, tmp_path, capsys):
    corpus = texts / "corpus.jsonl"
    corpus.write_text("".join(corpus.read_text().splitlines(True)[1:]))
    words = ("--index", index, "--output", tmp_path / "export", "--texts", texts)
    assert run("export", "--format", "opensearch", *words) == 2
    assert "no document 'd0'; expected the index's own" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()


def test_tokens_without_a_name_of_their_own(index):
    source = open_source(index)
    for twice in ("", source.names[6]):
        names = [*source.names[:7], twice, *source.names[8:]]
        with pytest.raises(InputError, match=r"token 7 has no name of its own"):
            check_names(source._replace(names=names))


# ------------------------------------------------------------------ --engine


@pytest.fixture
def cluster():
    fake = FakeOpenSearch()
    with serving(fake) as url:
        yield fake, ("--engine", "opensearch", "--url", url, "--name", "docs")


def test_index_and_search(index, queries, texts, tmp_path, cluster, capsys):
    fake, engine = cluster
    words = ("index", "--index", index, *engine)
    assert run(*words, "--texts", texts, "--two_phase", "--replicas", 0, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["docs"], told["sent"], told["version"]) == (40, 40, "2.19.1")
    held = fake.indexes["docs"]
    assert held["settings"]["number_of_replicas"] == 0
    assert "docs-two-phase" in fake.pipelines
    assert run("index", "--index", index, *engine, "--texts", texts) == 0
    said = capsys.readouterr().err
    assert "holds these 40 documents already" in said
    assert "40 documents, 0 sent" in said
    asked = ("search", "--index", index, "--queries", queries, "--k", 3)
    assert run(*asked, "--output", tmp_path / "theirs.trec", *engine, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["queries"] == 5
    phases = ("--method", "two_phase", "--prune_ratio", 0.8)
    assert run(*asked, "--output", tmp_path / "two.trec", *engine, *phases) == 0
    body = json.loads(fake.sent("_search")[-1][4])
    assert "two_phase_processor" in json.dumps(body["search_pipeline"])
    text = (tmp_path / "theirs.trec").read_text()
    assert text.splitlines()[0].endswith(" opensearch")
    assert len(text.splitlines()) == told["results"] == 12


def test_flags_of_an_engine(index, queries, cluster, capsys, tmp_path):
    _, engine = cluster
    load = ("index", "--index", index)
    cases = [
        ([*load, "--engine", "solr"], "--engine: 'solr'; expected one of opensearch"),
        ([*load, *engine[:2]], "--url: not given; expected with --engine opensearch"),
        ([*load, "--url", "http://x"], "--url: given without --engine"),
        ([*load, "--field", "rank_features"], "--field: given without --engine"),
        ([*load, "--model", "bm25", "--two_phase"], "--two_phase: given without --eng"),
        ([*load, *engine, "--collection", "c"], "--collection: given with --engine"),
        ([*load, *engine, "--shards", 0], "shards: 0; expected a positive number"),
        (
            ["search", "--index", index, "--queries", queries, "--output", "o",
             "--prune_ratio", 0.2, *engine],
            "--prune_ratio: given; expected --method two_phase beside it",
        ),
        (
            ["search", "--index", index, "--queries", queries, "--output", "o",
             "--name", "docs"],
            "--name: given without --engine",
        ),
        (
            ["search", "--index", index, "--queries", queries, "--output", "o",
             "--explain", *engine],
            "--explain: given with --engine opensearch; expected to be left out",
        ),
        ([*load, *engine, "--prune_ratio", 0.2], "--prune_ratio: given with --engine"),
        (
            ["search", "--index", index, "--queries", queries, "--output", "o",
             "--explore", 5, *engine],
            "--explore: given with --engine opensearch; expected to be left out",
        ),
        (
            ["search", "--index", index, "--queries", queries, "--output", "o",
             "--gin_file", "search/hyper_efficient1.gin", *engine],
            "--gin_file: given with --engine opensearch; expected to be left out",
        ),
        (
            [*load, *engine, "--two_phase", "max_window_size=inf"],
            "max_window_size: inf; expected a whole number",
        ),
        (
            [*load, *engine, "--two_phase", "prune_ratio"],
            "--two_phase: 'prune_ratio'; expected NAME=NUMBER",
        ),
    ]  # fmt: skip
    for words, message in cases:
        assert run(*words) == 2, words
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
