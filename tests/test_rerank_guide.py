"""docs/rerank.md: its commands run, in order, and it leaves no option out."""

import re
import shlex
from pathlib import Path

import pytest
from test_readme import blocks, commands
from tiny_rerankers import t5_tokenizer, tiny_reranker, tiny_t5

from jaxir.checkpoints.model_dir import save_model
from jaxir.checkpoints.t5_huggingface import export_t5
from jaxir.checkpoints.t5x import write_t5x
from jaxir.cli.config import parse_gin, split_gin_flags
from jaxir.cli.convert import convert
from jaxir.cli.main import main, make_parser
from jaxir.files import resource_directory

GUIDE = Path(__file__).parent.parent / "docs" / "rerank.md"

# Folders of the size of this test for what the hub has.
STAND_INS = {
    "hf:cross-encoder/ms-marco-MiniLM-L6-v2": "hf:stand-ins/cross-encoder",
    "hf:Soyoung97/RankT5-base": "hf:stand-ins/t5",
    "hf:castorini/monot5-base-msmarco": "hf:stand-ins/t5",
    "hf:google/t5-v1_1-small": "stand-ins/t5",
    "hf:google-t5/t5-base": "stand-ins/t5-tokenizer",
}
SMALL = {
    "cross_encoder_small": {
        "MODEL_PATH": "stand-ins/bert", "LIST_SIZE": 4, "MAX_LENGTH": 32,
    },
    "rankt5_small": {"LIST_SIZE": 4, "MAX_LENGTH": 32},
    "t5_adapt": {"INPUT_LENGTH": 16, "HOLDOUT": 2, "WARMUP": 1},
    "t5_mini_pretrain": {
        "INPUT_LENGTH": 16, "HOLDOUT": 2, "WARMUP": 1, "EMB_DIM": 8, "NUM_HEADS": 2,
        "HEAD_DIM": 4, "MLP_DIM": 16, "ENCODER_LAYERS": 1, "DECODER_LAYERS": 1,
    },
    "mlm_small": {
        "MODEL_PATH": "stand-ins/bert", "INPUT_LENGTH": 16, "HOLDOUT": 2,
    },
}  # fmt: skip


@pytest.fixture
def workplace(tiny_collection, tiny_model, tmp_path, monkeypatch):
    """A folder as the guide supposes, with stand-ins, entered."""
    monkeypatch.chdir(tmp_path)
    for place in ("my/collection", "other/collection", "checkpoints", "stand-ins"):
        Path(place).mkdir(parents=True)
    Path("my/collection").rmdir()
    Path("other/collection").rmdir()
    tiny_collection.rename("my/collection")
    Path("other/collection").symlink_to("../my/collection")
    tiny_model.rename("stand-ins/bert")
    t5 = tiny_t5(Path("stand-ins/t5-tokenizer"))
    export_t5(t5.config, t5.params, Path("stand-ins/t5"), tokenizer=t5.tokenizer)
    write_t5x(Path("checkpoints/rankt5-base"), t5.params)
    save_model(Path("mine"), tiny_reranker("bert", Path("words"), hidden="tanh"))
    convert("mine", "hf:stand-ins/cross-encoder")
    return tmp_path


def stood_in(text):
    """A command's word, or a program, with the stand-ins for what the hub has."""
    for original, other in STAND_INS.items():
        text = text.replace(original, other)
    return text


def small(words):
    """A command's words, its size that of the stand-ins."""
    words = [stood_in(word) for word in words]
    for name, values in SMALL.items():
        if f"experiments/{name}.gin" in words:
            values = {"TRAIN_STEPS": 2, "BATCH_SIZE": 8} | values
            if name == "t5_mini_pretrain":
                size = t5_tokenizer(Path("words")).vocab_size
                values = values | {"VOCAB_SIZE": size}
            words += [f"--gin.{key}={value!r}" for key, value in values.items()]
    return words


ORDER = ("index", "search", "train", "rerank", "evaluate", "convert")


@pytest.mark.slow
def test_commands_and_programs(workplace, capfd):
    lines = [words for _, text in blocks(GUIDE, "bash") for words in commands(text)]
    # the guide uses further up what it trains further down
    lines.sort(key=lambda words: ORDER.index(words[0]))
    assert {words[0] for words in lines} == set(ORDER)
    for words in lines:
        assert main(small(words)) == 0, f"{words}\n{capfd.readouterr().err}"
    words = [  # what the prose says of MODEL_PATH
        "train", "--gin_file", "experiments/cross_encoder_small.gin",
        "--gin.COLLECTION='my/collection'", "--gin.CANDIDATES='runs/bm25-train.trec'",
        "--model_dir", "models/further",
    ]  # fmt: skip
    assert main([*small(words), "--gin.MODEL_PATH='models/bert-adapted'"]) == 0
    for _, text in blocks(GUIDE, "python"):
        exec(compile(stood_in(text), "rerank.md", "exec"), {})
    assert "[{'corpus_id': " in capfd.readouterr().out


def test_every_option_is_told():
    text = GUIDE.read_text()
    for option in make_parser("rerank")._option_string_actions:
        assert option in ("-h", "--help") or f"`{option}`" in text, option


def test_files_that_are_named_exist():
    root = resource_directory("gin")
    for names in re.findall(
        r"`((?:models|tasks|runs|experiments)/[^`]*\.gin)`", GUIDE.read_text()
    ):
        for name in expanded(names):
            assert (root / name).is_file(), name


def expanded(name):
    """``a/{b,c}.gin`` as a shell reads it."""
    match = re.search(r"\{([^}]*)\}", name)
    if match is None:
        return [name]
    before, after = name[: match.start()], name[match.end() :]
    return [
        whole
        for choice in match[1].split(",")
        for whole in expanded(before + choice + after)
    ]


def inline_overrides():
    """The ``--gin.NAME=VALUE`` of the guide's prose."""
    for text in re.findall(r"`(--gin\.[^`]+)`", GUIDE.read_text()):
        yield from shlex.split(text)


@pytest.mark.parametrize("word", sorted(set(inline_overrides())))
def test_overrides_are_known(word):
    place, required = "rankt5_small", ["COLLECTION", "CANDIDATES", "MODEL_PATH"]
    if "PACKED" in word:
        place, required = "mlm_small", ["COLLECTIONS"]
    if "POOLING" in word:
        place = "cross_encoder_small"
    tasks = ["tasks/rank/enc_pair.gin"] if "LAMBDA" in word else []
    bindings, rest = split_gin_flags([word])
    assert not rest
    given = [f"{name} = 'x'" for name in required]
    parse_gin([f"experiments/{place}.gin", *tasks], [*given, *bindings])
