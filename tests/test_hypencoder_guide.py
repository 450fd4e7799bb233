"""docs/hypencoder.md: its commands run, in order, and it leaves no option out."""

import re
import shlex
from pathlib import Path

import pytest
from test_readme import blocks, commands
from tiny_hypencoders import tiny_hypencoder
from tiny_rerankers import tiny_reranker

from jaxir.checkpoints.hypencoder import export_hypencoder
from jaxir.checkpoints.model_dir import save_model
from jaxir.cli.config import parse_gin, split_gin_flags
from jaxir.cli.convert import convert
from jaxir.cli.main import main, make_parser
from jaxir.cli.search import _GRAPH
from jaxir.files import resource_directory
from jaxir.hyper.graph import GraphSearchConfig
from jaxir.hyper.qnet import QNetSpec, flops

GUIDE = Path(__file__).parent.parent / "docs" / "hypencoder.md"

# Folders of the size of this test for what the hub has.
STAND_INS = {
    "hf:jfkback/hypencoder.6_layer": "hf:stand-ins/hypencoder",
    "hf:cross-encoder/ms-marco-MiniLM-L12-v2": "hf:stand-ins/cross-encoder",
}
SMALL = {
    "TRAIN_STEPS": 2, "BATCH_SIZE": 8, "LIST_SIZE": 4, "QUERY_LENGTH": 16,
    "DOC_LENGTH": 16, "DEV_SPLIT": "test", "WARMUP": 1, "EVAL_EVERY": 2,
    "DTYPE": "float32",
}  # fmt: skip


@pytest.fixture
def workplace(tiny_collection, tiny_model, tmp_path, monkeypatch):
    """A folder as the guide supposes, with stand-ins, entered."""
    monkeypatch.chdir(tmp_path)
    Path("my").mkdir()
    tiny_collection.rename("my/collection")
    Path("stand-ins").mkdir()
    tiny_model.rename("stand-ins/bert")
    released = tiny_hypencoder(Path("words"))
    export_hypencoder(
        released.config, released.params, "stand-ins/hypencoder",
        tokenizer=released.tokenizer,
    )  # fmt: skip
    save_model(Path("cross"), tiny_reranker("bert", Path("words"), hidden="tanh"))
    convert("cross", "hf:stand-ins/cross-encoder")
    return tmp_path


def small(words):
    """A command's words, its size that of the stand-ins."""
    words = [STAND_INS.get(word, word) for word in words]
    if words[0] == "train":
        text = " ".join(words)
        values = dict(SMALL)
        if "MODEL_PATH" not in text:
            values["MODEL_PATH"] = "stand-ins/bert"
        if "hypencoder_hard" not in text and "be_base" not in text:
            values["DEPTH"] = 2
        words += [f"--gin.{key}={value!r}" for key, value in values.items()]
    return words


@pytest.mark.slow
def test_commands_and_programs(workplace, capfd):
    lines = [words for _, text in blocks(GUIDE, "bash") for words in commands(text)]
    timed = [words for words in lines if words[0] == "bench" and "--index" not in words]
    assert timed == [["bench", "qnet"], ["bench", "hyper-graph"]]  # of their own size
    lines = [words for words in lines if words not in timed]
    verbs = ("index", "search", "convert", "mine", "label", "train", "evaluate")
    assert {words[0] for words in lines} == {*verbs, "bench"}
    for words in lines:
        assert main(small(words)) == 0, f"{words}\n{capfd.readouterr().err}"
    said = capfd.readouterr()
    assert re.search(r"scored \d+ of 12 documents a query \(\d+\.\d %\)", said.err)
    assert "entry points: all 12 documents" in said.err
    assert Path("figure.svg").read_text().startswith("<svg")
    for _, text in blocks(GUIDE, "python"):
        exec(compile(text, "hypencoder.md", "exec"), {})
    assert "(2, 16, 16)" in capfd.readouterr().out


def test_options_of_the_graph_search_are_told():
    text = GUIDE.read_text()
    search = make_parser("search")._option_string_actions
    for name in (*_GRAPH, "no_early_stop", "gin_file"):
        assert f"--{name}" in search
        assert f"| `--{name}` |" in text, name
    for option in ("--neighbors", "--graph_backend"):
        assert option in make_parser("index")._option_string_actions
        assert option in text


def test_files_that_are_named_exist():
    text = GUIDE.read_text()
    root = resource_directory("gin")
    names = re.findall(r"((?:experiments|search)/\S*?\.gin)", text)
    assert len(names) >= 8
    for name in names:
        assert (root / name).is_file(), name
    for name in re.findall(r"`jaxir/([^`]*\.py)`", text):
        assert (GUIDE.parent.parent / "jaxir" / name).is_file(), name
    for anchor in re.findall(r"\]\(#([^)]*)\)", text):
        headings = re.findall(r"^#+ (.*)$", text, re.M)
        anchors = [
            re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            for heading in headings
        ]
        assert anchor in anchors


MACROS = {"HEAD_LEARNING_RATE": "1e-4", "GATE_LEARNING_RATE": "1e-4"}


def test_macros_that_are_told_exist():
    told = re.findall(r"^\| (`[A-Z_`, ]+`) \|", GUIDE.read_text(), re.M)
    names = re.findall(r"[A-Z_]+", " ".join(told))
    assert {"MODEL_PATH", "NUM_VECTORS", "GATE_LEARNING_RATE"} <= set(names)
    given = [f"{name} = {MACROS.get(name)}" for name in names]
    required = [f"{name} = 'x'" for name in ("COLLECTION", "LISTS")]
    parse_gin(["experiments/hypencoder_warm_small.gin"], [*required, *given])


def test_overrides_are_known():
    text = GUIDE.read_text()
    found = [
        word
        for inline in re.findall(r"`(--gin\.[^`]+)`", text)
        for word in shlex.split(inline)
    ]
    assert found
    bindings, rest = split_gin_flags(found)
    assert not rest
    required = [f"{name} = 'x'" for name in ("COLLECTION", "LISTS")]
    parse_gin(["experiments/hypencoder_small.gin"], [*required, *bindings])


def test_arithmetic():
    """The table of memory and operations."""
    text, passages = GUIDE.read_text(), 8_841_823
    for column, width in ((0, 768), (1, 384)):
        spec = QNetSpec(width, (width,) * 6)
        numbers = 6 * (width**2 + width) + width
        told = {
            "a q-net": f"{4 * numbers / 1e6:.1f} MB",
            "one document by one query": f"{flops(spec) / 1e6:.1f} M",
            "one query, exhaustively": f"{flops(spec) * passages / 1e12:.1f} T",
            "the passages' vectors": f"{4 * width * passages / 1e9:.1f} GB",
            "their graph": f"{400 * passages / 1e9:.1f} GB",
            "what a walk remembers of a query": f"{passages / 1e6:.1f} MB",
        }
        for name, value in told.items():
            row = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", text, re.M)
            assert row, name
            assert row[1].split("|")[1 + column].strip() == value, name
    paper = GraphSearchConfig()
    most = paper.entry_points + (paper.iterations - 1) * paper.explore * 100
    assert f"{most:,} of" in text
