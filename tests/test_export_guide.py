"""docs/export.md: its commands and its programs run, in order."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_readme import blocks, commands
from tiny_jpq import tiny_jpq_index
from tiny_programs import tiny_dense

from jaxir.checkpoints.model_dir import save_model
from jaxir.cli.export import FORMATS
from jaxir.cli.main import main, make_parser
from jaxir.export.lower import TARGET
from jaxir.index import build_index

GUIDE = Path(__file__).parent.parent / "docs" / "export.md"
TOOL = "tensorflow.python.tools.saved_model_cli"


def called(words):
    """Another process's output; it is quiet, and does not see this test's devices."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_commands(tiny_collection, tmp_path, monkeypatch, capfd):
    pytest.importorskip("tensorflow", reason="jaxir[export] is not installed")
    pytest.importorskip("flatbuffers", reason="jax.export's files need flatbuffers")
    monkeypatch.chdir(tmp_path)
    model = tiny_dense(Path("words"))
    save_model("models/mine", model)
    build_index("models/mine", tiny_collection, "indexes/minilm")
    tiny_jpq_index(model, tiny_collection, Path("indexes/jpq"))
    printed, formats = [], set()
    for _, text in blocks(GUIDE, "(?:bash|python)"):
        if re.match("import|from", text):
            printed.append(called([sys.executable, "-c", text]))
            continue
        for line in text.splitlines():
            if line.startswith("saved_model_cli"):
                words = shlex.split(line)[1:]
                printed.append(called([sys.executable, "-m", TOOL, *words]))
                continue
            (words,) = commands(line)
            assert main(words) == 0, f"{words}\n{capfd.readouterr().err}"
            formats.add(words[words.index("--format") + 1])
    assert formats == set(FORMATS) - {"opensearch", "jsonl"}
    shown, run, in_tensorflow, in_jax, tokenized = printed
    assert re.search(r"encode_document[\s\S]*serving_default", shown)
    assert "Result for output key embeddings" in run
    assert in_tensorflow.strip() == in_jax.strip() == "(1, 16)"
    assert re.match(r"\['attention_mask', 'input_ids'\] \(1, \d+\)$", tokenized.strip())


def test_what_is_told():
    text = GUIDE.read_text()
    known = make_parser("export")._option_string_actions
    for option in re.findall(r"`(--\w+)", text):
        assert option in known or option == "--dtype"
    for name in FORMATS:
        assert f"`{name}`" in text
    assert f"StableHLO {TARGET}" in text
