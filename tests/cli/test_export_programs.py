"""``jaxir export`` of models and searchers: formats, flags, one line for a mistake."""

import json
import sys
from types import SimpleNamespace

import pytest
from tiny_jpq import tiny_jpq_index
from tiny_programs import tiny_dense
from tiny_sparse import tiny_sparse

from jaxir.checkpoints.model_dir import load_model, save_model
from jaxir.cli.main import main
from jaxir.export import saved_model, stablehlo
from jaxir.index import build_index


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "model", tiny_dense(tmp_path))
    return tmp_path / "model"


@pytest.fixture
def index(model, tiny_collection, tmp_path):
    build_index(model, tiny_collection, tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def written(monkeypatch):
    """What the writers of programs are called with; they write nothing."""
    calls = SimpleNamespace(exportable=None, options=None)

    def write(exportable, directory, **options):
        calls.exportable, calls.options = exportable, options
        return {
            "path": str(directory), "programs": ["a"], "bytes": 2_000_000,
            "differences": {"a/x": 2e-7, "a/y": 3e-6},
        }  # fmt: skip

    monkeypatch.setattr(saved_model, "write_saved_model", write)
    monkeypatch.setattr(stablehlo, "write_stablehlo", write)
    return calls


def run(*words):
    return main([str(word) for word in words])


def export(name, target, *words):
    return run("export", "--format", name, "--output", target, *words)


def test_stablehlo(model, tmp_path, capsys):
    pytest.importorskip("flatbuffers", reason="jax.export's files need flatbuffers")
    assert export("stablehlo", tmp_path / "out", "--model", model, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["programs"] == ["encode_query", "encode_document"]
    assert told["platforms"] == ["cpu", "cuda"]
    assert max(told["differences"].values()) < 1e-4
    assert (tmp_path / "out" / "load.py").is_file()


def test_flags_reach_the_writers(model, index, tmp_path, written, capsys):
    words = ["--platforms", "cpu, tpu", "--target", "1.8.0"]
    assert export("stablehlo", tmp_path / "out", "--model", model, *words) == 0
    assert written.options == {"platforms": ["cpu", "tpu"], "target": "1.8.0"}
    line = capsys.readouterr().err.strip()
    assert line == (
        f"{tmp_path / 'out'}: a, 2.0 MB; another process computes the same, to 3e-06"
    )
    more = ["--index", index, "--k", 3, "--model_version", 4]
    assert export("saved_model", tmp_path / "out", *more) == 0
    assert written.options == {"target": "1.9.0", "version": 4}
    assert written.exportable.details == {"docs": 12, "k": 3}
    assert export("stablehlo", tmp_path / "out", "--index", index) == 0
    assert written.exportable.details == {"docs": 12, "k": 12}  # 100, of 12


def test_safetensors(model, tmp_path, capsys):
    target = tmp_path / "st"
    assert export("safetensors", target, "--model", model, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "dense"
    assert (target / "modules.json").is_file()
    assert (target / "model.safetensors").is_file()
    assert load_model(target).kind == "dense"
    assert export("safetensors", target, "--model", model) == 0
    assert capsys.readouterr().err.strip().endswith("st: dense")


def test_faiss(tiny_collection, tmp_path, capsys):
    pytest.importorskip("faiss")
    index = tiny_jpq_index(tiny_dense(tmp_path), tiny_collection, tmp_path / "index")
    target = tmp_path / "a.faiss"
    assert export("faiss", target, "--index", index, "--layout", "ivf") == 0
    assert capsys.readouterr().err.strip().endswith("a.faiss: 12 documents")
    assert (tmp_path / "a.faiss.ids.txt").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["saved_model"], "--model: missing; expected it or --index"),
        (["safetensors"], "--model: missing; expected with safetensors"),
        (["faiss"], "--index: missing; expected with faiss"),
        (["opensearch"], "--index: missing; expected with opensearch"),
        (["safetensors", "--index", "i"], "--index: given with safetensors"),
        (["faiss", "--model", "m"], "--model: given with faiss"),
        (["jsonl", "--index", "i", "--model", "m"], "--model: given with jsonl"),
        (["stablehlo", "--model", "m", "--layout", "ivf"], "--layout: given with stab"),
        (["stablehlo", "--model", "m", "--model_version", 2], "--model_version: given"),
        (["stablehlo", "--model", "m", "--scale", 2], "--scale: given with stablehlo"),
        (
            ["onnx", "--model", "m"],
            "format: 'onnx'; expected one of opensearch, jsonl,",
        ),
        (["stablehlo", "--model", "nowhere"], "nowhere: "),
    ],
)
def test_one_line(words, said, tmp_path, capsys):
    assert export(words[0], tmp_path / "out", *words[1:]) == 2
    line = capsys.readouterr().err.strip()
    assert said in line
    assert "\n" not in line
    assert not (tmp_path / "out").exists()


def test_one_line_of_what_is_there(model, tiny_collection, tmp_path, capsys):
    assert export("stablehlo", tmp_path / "out", "--model", model, "--k", 3) == 2
    assert "--k: given with a model; expected with --index" in capsys.readouterr().err
    assert export("stablehlo", tmp_path / "out", "--model", model, "--target", "") == 2
    assert "target: ''; expected a version such as 1.9.0" in capsys.readouterr().err
    words = ["--model", model, "--platforms", "abacus"]
    assert export("stablehlo", tmp_path / "out", *words) == 2
    assert "platforms: abacus; expected some of cpu" in capsys.readouterr().err
    save_model(tmp_path / "sparse", tiny_sparse(tmp_path / "words"))
    build_index(tmp_path / "sparse", tiny_collection, tmp_path / "lists")
    assert export("stablehlo", tmp_path / "out", "--index", tmp_path / "lists") == 2
    assert "jaxir export --format opensearch" in capsys.readouterr().err


def test_tensorflow_is_not_needed_before_it_is_asked_for(model, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow", None)
        assert export("saved_model", tmp_path / "out", "--model", model) == 2
    assert 'pip install "jaxir[export]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
