"""Exports for JAX alone, read by the loader that lies in them."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from tiny_programs import EXPORTABLES, tiny_dense

from jaxir.errors import InputError
from jaxir.export import stablehlo
from jaxir.export.programs import model_programs
from jaxir.export.stablehlo import write_stablehlo
from jaxir.export.verify import compare, expected_outputs, fresh_inputs

ALONE = """
import runpy, sys
for name in ("jaxir", "flax", "tensorflow", "transformers"):
    sys.modules[name] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True)
def _flatbuffers():
    pytest.importorskip("flatbuffers", reason="jax.export's files need flatbuffers")


def loaded(folder):
    spec = importlib.util.spec_from_file_location("exported_load", folder / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(folder)


@pytest.mark.parametrize("kind", ["hypencoder", "rank-encdec", "index-pq"])
def test_any_shape(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo, "verify", lambda *args, **options: {"none": 0.0})
    exportable = EXPORTABLES[kind](tmp_path / "made")
    folder = tmp_path / "exported"
    told = write_stablehlo(exportable, folder, platforms=["cuda", "tpu"])
    assert told["platforms"] == ["cpu", "cuda", "tpu"]
    assert told["bytes"] == sum(x.stat().st_size for x in folder.iterdir())
    programs = loaded(folder)
    assert list(programs) == told["programs"]
    for program in exportable.programs:
        for batch, length in ((1, 5), (7, 60)):
            inputs = fresh_inputs(program, batch, length, seed=2)
            found = {
                k: np.asarray(v) for k, v in programs[program.name](**inputs).items()
            }
            wanted = expected_outputs(program, exportable.params, inputs)
            compare(kind, program.name, found, wanted)


def test_a_process_without_jaxir(tmp_path):
    """Written with its comparison, then called where jaxir cannot be imported."""
    exportable = model_programs(tiny_dense(tmp_path / "made"))
    folder = tmp_path / "exported"
    told = write_stablehlo(exportable, folder)
    assert told["default"] == "encode_query"
    assert max(told["differences"].values()) < 1e-4
    assert len(told["differences"]) == 2
    program = exportable.programs[1]
    inputs = fresh_inputs(program, 2, 11, seed=3)
    asked, answered = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(asked, **{f"{program.name}/0/{name}": x for name, x in inputs.items()})
    words = [sys.executable, "-P", "-c", ALONE, folder / "load.py"]
    words += [folder, asked, answered]
    subprocess.run([str(word) for word in words], check=True)
    with np.load(answered) as stored:
        found = {name.rpartition("/")[2]: stored[name] for name in stored.files}
    wanted = expected_outputs(program, exportable.params, inputs)
    compare("alone", program.name, found, wanted)


def test_description_and_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo, "verify", lambda *args, **options: {"none": 0.0})
    exportable = EXPORTABLES["index-dense"](tmp_path / "made")
    folder = tmp_path / "exported"
    write_stablehlo(exportable, folder)
    about = json.loads((folder / "jaxir.json").read_text())
    assert about["stablehlo_version"] == "1.9.0"
    assert (about["kind"], about["docs"], about["k"]) == ("dense", 150, 20)
    search = about["programs"]["search"]
    assert search["inputs"]["input_ids"] == ["int32", "batch", "length"]
    assert search["outputs"]["positions"] == ["int32", "batch", 20]
    assert (search["tokens"], search["max_length"]) == (16, 64)
    assert (folder / "doc_ids.txt").read_text().split() == list(exportable.doc_ids)
    from jaxir.text import load_tokenizer

    assert load_tokenizer(folder).fingerprint == exportable.tokenizer.fingerprint


def test_wrong_inputs(tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo, "verify", lambda *args, **options: {"none": 0.0})
    folder = tmp_path / "exported"
    write_stablehlo(model_programs(tiny_dense(tmp_path)), folder)
    with pytest.raises(ValueError, match="encode_query takes"):
        loaded(folder)["encode_query"](ids=np.zeros((1, 2)))


def test_places(tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo, "verify", lambda *args, **options: {"none": 0.0})
    exportable = model_programs(tiny_dense(tmp_path / "made"))
    folder = tmp_path / "exported"
    write_stablehlo(exportable, folder)
    write_stablehlo(exportable, folder)  # its own kind is replaced
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(InputError, match="holds something else"):
        write_stablehlo(exportable, tmp_path / "letters")
    with pytest.raises(InputError, match=r"a\.txt: a file"):
        write_stablehlo(exportable, tmp_path / "letters" / "a.txt")


def test_nothing_stands_that_differs(tmp_path, monkeypatch):
    def differs(*args, **options):
        raise InputError(options["place"], "embeddings that differ by 1")

    monkeypatch.setattr(stablehlo, "verify", differs)
    with pytest.raises(InputError, match="differ by 1"):
        write_stablehlo(model_programs(tiny_dense(tmp_path)), tmp_path / "new" / "here")
    assert not (tmp_path / "new").exists()


def test_without_flatbuffers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    for name in [n for n in sys.modules if n.startswith("jax._src.export.seriali")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match="pip install flatbuffers"):
        write_stablehlo(model_programs(tiny_dense(tmp_path)), tmp_path / "exported")
