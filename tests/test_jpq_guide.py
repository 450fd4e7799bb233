"""docs/jpq.md: its commands run, in order, and it leaves no option out."""

import itertools
import re
from pathlib import Path

import jax
import pytest
from grown import grow
from test_readme import blocks, commands
from tiny_rerankers import tiny_reranker
from tiny_roberta import byte_level_tokenizer

from jaxir.checkpoints.jpq import export_jpq
from jaxir.checkpoints.model_dir import load_model, save_model
from jaxir.cli.config import parse_gin, split_gin_flags
from jaxir.cli.main import main, make_parser
from jaxir.data.formats import read_run
from jaxir.export.faiss_io import read_faiss
from jaxir.files import resource_directory
from jaxir.index_job import PqOptions
from jaxir.jpq import centroid_rate
from jaxir.manifest import read_manifest
from jaxir.nn.bert import BertConfig
from jaxir.pq.codec import CodecSpec
from jaxir.pq.model import JpqConfig, init_params
from jaxir.pq.task import JpqLoss
from jaxir.pq_index import TRAIN_SIZE

GUIDE = Path(__file__).parent.parent / "docs" / "jpq.md"

# What is of the size of this test, for 24 parts of 8 bits and what the hub has.
STAND_INS = {
    "--subvectors 24": "--subvectors 4 --bits 4",
    "subvectors=24": "subvectors=4, bits=4",
    "hf:FacebookAI/roberta-base": "stand-ins/roberta",
}
SMALL = {
    "TRAIN_STEPS": 2, "BATCH_SIZE": 8, "QUERY_LENGTH": 16, "NUM_NEGATIVES": 8,
    "DEV_SPLIT": "test",
}  # fmt: skip


def small(text):
    """A command, or a program, with the stand-ins."""
    for original, other in STAND_INS.items():
        text = text.replace(original, other)
    return text


def their_encoders(place):
    """Two JPQTowers, as the authors' folders are named."""
    backbone = BertConfig(
        family="roberta", vocab_size=340, hidden_size=16, num_layers=1, num_heads=2,
        intermediate_size=24, max_positions=40, type_vocab_size=1, pad_id=1,
        position_offset=2, norm_eps=1e-5,
    )  # fmt: skip
    config = JpqConfig(
        backbone, query_length=16, doc_length=32, subvectors=4, bits=4, pooling="cls",
        similarity="dot", projection_size=16, projection_activation="layer_norm",
    )  # fmt: skip
    export_jpq("jpq", config, init_params(config, jax.random.key(0)), place)
    for side in ("query", "doc"):
        (place / f"m4.{side}.encoder").rename(f"m96.marcopass.{side}.encoder")


@pytest.fixture
def workplace(tiny_collection, tiny_model, tmp_path, monkeypatch):
    """A folder as the guide supposes, with stand-ins, entered."""
    monkeypatch.chdir(tmp_path)
    for place in ("my", "models", "more/documents"):
        Path(place).mkdir(parents=True)
    grow(tiny_collection, 12).rename("my/collection")  # 16 centroids want as many
    tiny_model.rename("models/mine")
    new = '{"_id": "new", "text": "a river carries clay to the delta"}\n'
    Path("more/documents/corpus.jsonl").write_text(new)
    Path("ids.txt").write_text("new\n")
    reranker = tiny_reranker("bert", Path("words"), hidden="tanh")
    save_model(Path("models/reranker"), reranker)
    byte_level_tokenizer(Path("stand-ins/roberta"))
    their_encoders(Path("towers"))
    return tmp_path


@pytest.mark.slow
def test_commands_and_programs(workplace, capfd):
    texts = [small(text) for _, text in blocks(GUIDE, "bash")]
    lines = [words for text in texts for words in commands(text)]
    verbs = ("index", "train", "search", "rerank", "convert")
    assert {words[0] for words in lines} == set(verbs)
    sizes = []
    for words in lines:
        if words[0] == "train":
            words += [f"--gin.{key}={value!r}" for key, value in SMALL.items()]
        assert main(words) == 0, f"{words}\n{capfd.readouterr().err}"
        if "--add" in words or "--delete" in words:
            sizes.append(read_manifest("indexes/jpq").counts["docs"])
    assert sizes == [25, 24]
    for name in ("jpq", "reranked"):
        assert len(read_run(Path(f"runs/{name}.trec"))) == 3
    ids = Path("jpq.faiss.ids.txt").read_text().splitlines()
    assert len(ids) == len(read_faiss("jpq.faiss").ids) == 24
    back, jpq = (read_manifest(f"indexes/{name}") for name in ("back", "jpq"))
    assert back.files["codes.npy"] == jpq.files["codes.npy"]
    assert back.model_fingerprint == jpq.model_fingerprint
    assert load_model("models/theirs").kind == "jpq"
    capfd.readouterr()
    for _, text in blocks(GUIDE, "python"):
        exec(compile(small(text), "jpq.md", "exec"), {})
    found = re.search(r"^\{'q': \{(.*)\}\}$", capfd.readouterr().out, re.M)
    assert found[1].count(": ") == 10


def test_options_of_the_index_are_told():
    text = GUIDE.read_text()
    told = re.findall(r"^\| (`--.*?) \| (\S+(?:, \S+)*) \|", text, re.M)
    told = {
        name: value
        for names, values in told
        for name, value in zip(
            re.findall(r"--(\w+)", names), values.split(", "), strict=True
        )
    }
    assert told == {
        "subvectors": "24", "bits": "8", "rotation": "`opq`",
        "train_size": str(TRAIN_SIZE), "seed": "0",
    }  # fmt: skip
    options = make_parser("index")._option_string_actions
    for name in PqOptions(subvectors=1, bits=8, rotation="opq", train_size=1, seed=0,
                          vectors="v", codes="c").given():  # fmt: skip
        assert f"--{name}" in options
        assert f"--{name}" in text, name
    for option in ("--add", "--delete"):
        assert option in options
        assert option in text
    for option in ("--backend", "--rescore"):
        assert option in make_parser("search")._option_string_actions
        assert option in text
    assert "--layout" in make_parser("convert")._option_string_actions


def test_files_that_are_named_exist():
    text = GUIDE.read_text()
    root = resource_directory("gin")
    names = re.findall(r"((?:experiments|tasks)/\S*?\.gin)", text)
    assert {f"tasks/pq/{path.name}" for path in (root / "tasks/pq").iterdir()} <= set(
        names
    )
    for name in names:
        assert (root / name).is_file(), name
    for name in re.findall(r"`jaxir/([^`]*\.py)`", text):
        assert (GUIDE.parent.parent / "jaxir" / name).is_file(), name
    for page, anchor in re.findall(r"\]\(([a-z]*(?:\.md)?)#([^)]*)\)", text):
        headings = (GUIDE.parent / (page or GUIDE.name)).read_text()
        anchors = [
            re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)$", headings, re.M)
        ]
        assert anchor in anchors


def test_macros_that_are_told_exist():
    told = re.findall(r"^\| (`[A-Z_`, ]+`) \|", GUIDE.read_text(), re.M)
    names = re.findall(r"[A-Z_]+", " ".join(told))
    assert {"INDEX", "NUM_NEGATIVES", "CENTROID_LEARNING_RATE"} <= set(names)
    values = {"INDEX": "'x'", "DEV_SPLIT": "'x'"}
    given = [f"{name} = {values.get(name, 1)}" for name in names]
    for experiment in ("jpq_small", "jpq_msmarco"):
        parse_gin([f"experiments/{experiment}.gin"], ["COLLECTION = 'x'", *given])


def test_rungs_are_second_files():
    for words in (w for _, t in blocks(GUIDE, "bash") for w in commands(t)):
        if words[0] == "train":
            bindings, rest = split_gin_flags(words[1:])
            files = [b for a, b in itertools.pairwise(rest) if a == "--gin_file"]
            parse_gin(files, bindings)


def test_numbers():
    text = GUIDE.read_text()
    losses, spec = JpqLoss(), CodecSpec(384, 24)
    assert f"best {losses.num_negatives} of each query (`NUM_NEGATIVES`)" in text
    assert "1,536 bytes a document for MiniLM, 27 GB for MS MARCO" in text
    assert 4 * spec.width == 1536
    assert round(4 * 768 * 8_841_823 / 1e9) == 27
    assert "5e-6 for 16 and 24 parts, 2e-5 for 32, 1e-4 beyond" in text
    rates = [centroid_rate(m) for m in (16, 24, 32, 48)]
    assert rates == [5e-6, 5e-6, 2e-5, 1e-4]
    row = re.search(r"^\| `NUM_NEGATIVES`, `LAMBDA_CUT` \| (.*?) \|", text, re.M)
    assert row[1] == f"{losses.num_negatives}, {losses.cut}"
    row = re.search(r"^\| `TEMPERATURE` \| (.*?) \|", text, re.M)
    assert float(row[1]) == losses.temperature
