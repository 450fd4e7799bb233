"""SavedModels of every kind, called by a Python that has tensorflow and no jaxir.

TensorFlow takes seconds to start, so one process reads all of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_programs import EXPORTABLES, tiny_dense

from jaxir.errors import InputError
from jaxir.export import saved_model
from jaxir.export.programs import model_programs
from jaxir.export.saved_model import write_saved_model
from jaxir.export.verify import compare, expected_outputs, fresh_inputs

SHAPES = [(batch, length) for batch in (1, 7) for length in (5, 60)]
VARIANTS = ("dense-towers", "hypencoder-vectors", "sparse-encoder", "rank-monot5")
# What makes code fast makes compiling slow.
QUICKLY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
READ_ALL = """
import runpy, sys
for name in ("jaxir", "jax", "jaxlib", "flax"):
    sys.modules[name] = None
main = runpy.run_path(sys.argv[1])["main"]
for line in open(sys.argv[2]):
    main(*line.split())
assert not any(name.startswith(("jaxir.", "jax.")) for name in sys.modules)
"""


def shapes_of(kind):
    """Of what differs little from another kind, one shape."""
    return SHAPES[-1:] if kind in VARIANTS else SHAPES


@pytest.fixture(scope="module")
def tensorflow():
    return pytest.importorskip("tensorflow", reason="jaxir[export] is not installed")


def write_unchecked(*args, **options):
    """Writing without the comparison, where a test compares by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved_model, "verify", lambda *args, **options: {"none": 0.0})
        return write_saved_model(*args, **options)


@pytest.fixture(scope="module")
def answers(tensorflow, tmp_path_factory):
    """Each kind's exportable, its folder, and the outputs of the reading process."""
    del tensorflow
    root = tmp_path_factory.mktemp("exports")
    made, lines = {}, []
    for kind, make in EXPORTABLES.items():
        exportable = make(root / f"{kind}-made")
        told = write_unchecked(exportable, root / kind)
        flat = {
            f"{program.name}/{batch}x{length}/{name}": value
            for program in exportable.programs
            for batch, length in shapes_of(kind)
            for name, value in fresh_inputs(program, batch, length, seed=4).items()
        }
        first = exportable.default
        for name, value in flat.copy().items():
            if name.startswith(f"{first}/7x60/"):
                flat[name.replace(first, "serving_default", 1)] = value
        np.savez(root / f"{kind}-in.npz", **flat)
        names = [told["path"], f"{root / kind}-in.npz", f"{root / kind}-out.npz"]
        lines.append(" ".join(names))
        made[kind] = exportable, Path(told["path"]), Path(names[2])
    (root / "all").write_text("\n".join(lines))
    reader = Path(saved_model.__file__).with_name("saved_model_reader.py")
    words = [sys.executable, "-P", "-c", READ_ALL, str(reader), str(root / "all")]
    subprocess.run(words, check=True, env=os.environ | {"XLA_FLAGS": QUICKLY})
    return made


def outputs_of(path, case):
    with np.load(path) as stored:
        return {
            name.rpartition("/")[2]: stored[name]
            for name in stored.files
            if name.rpartition("/")[0] == case
        }


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPORTABLES)
def test_read_without_jaxir(kind, answers):
    exportable, _, answered = answers[kind]
    for program in exportable.programs:
        for batch, length in shapes_of(kind):
            inputs = fresh_inputs(program, batch, length, seed=4)
            wanted = expected_outputs(program, exportable.params, inputs)
            case = f"{program.name}/{batch}x{length}"
            largest = compare(kind, case, outputs_of(answered, case), wanted)
            assert max(largest.values()) < 1e-4
    default = outputs_of(answered, "serving_default/7x60")
    named = outputs_of(answered, f"{exportable.default}/7x60")
    assert sorted(default) == sorted(named)
    for name, value in named.items():
        assert np.array_equal(default[name], value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "index-pq"])
def test_layout(kind, answers, tensorflow):
    exportable, folder, _ = answers[kind]
    assert folder.name == "1"
    assert (folder / "saved_model.pb").stat().st_size < 400_000  # nothing is baked in
    assets = {path.name for path in (folder / "assets").iterdir()}
    assert {"jaxir.json", "tokenizer.json"} <= assets
    about = json.loads((folder / "assets" / "jaxir.json").read_text())
    assert about["tensorflow_version"] == tensorflow.__version__
    if kind == "index-pq":
        ids = (folder / "assets" / "doc_ids.txt").read_text().split()
        assert ids == list(exportable.doc_ids)
    records = tensorflow.data.TFRecordDataset(
        str(folder / "assets.extra" / "tf_serving_warmup_requests")
    )
    first = next(iter(records)).numpy()
    assert exportable.programs[0].name.encode() in first
    assert b"input_ids" in first
    leftover = [path for path in folder.rglob("*") if path.name.startswith(".")]
    assert leftover == []
    places = [str(folder.parent), str(Path(saved_model.__file__).parent)]
    graph = (folder / "saved_model.pb").read_bytes()
    assert not any(place.encode() in graph for place in places)


@pytest.mark.slow
def test_variables_are_all_that_is_read(answers, tensorflow):
    exportable, folder, _ = answers["dense-towers"]
    names = {
        name
        for name, _ in tensorflow.train.list_variables(
            str(folder / "variables" / "variables")
        )
    }
    stored = {name for name in names if name.startswith("parameters_by_order")}
    assert len(stored) == len(exportable.params)


@pytest.mark.slow
def test_too_long_a_text_is_refused(answers, tensorflow):
    exportable, folder, _ = answers["dense"]
    call = tensorflow.saved_model.load(str(folder)).signatures["encode_query"]
    (program, _) = exportable.programs
    inputs = fresh_inputs(program, 1, 65)
    with pytest.raises(tensorflow.errors.InvalidArgumentError, match="64"):
        call(**{name: tensorflow.constant(x) for name, x in inputs.items()})


@pytest.mark.slow
def test_a_comparison_stands_before_the_export(tensorflow, tmp_path):
    """Written as a user writes it: another process reads it first."""
    del tensorflow
    exportable = model_programs(tiny_dense(tmp_path / "made"))
    told = write_saved_model(exportable, tmp_path / "served", platforms=["tpu"])
    assert told["platforms"] == ["cpu", "tpu"]
    assert sorted(told["differences"]) == [
        "encode_document/embeddings", "encode_query/embeddings",
    ]  # fmt: skip
    assert max(told["differences"].values()) < 1e-4
    # A model that is not what was written: the reader's numbers differ.
    others = {name: 1.01 * x for name, x in exportable.params.items()}
    real = saved_model.verify

    def of_another(exportable, *args, **options):
        return real(exportable._replace(params=others), *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved_model, "verify", of_another)
        with pytest.raises(InputError, match="embeddings that differ by") as error:
            write_saved_model(exportable, tmp_path / "served")
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "served").iterdir()] == ["1"]


@pytest.mark.slow
def test_versions(tensorflow, tmp_path):
    del tensorflow
    exportable = model_programs(tiny_dense(tmp_path / "made"))
    exportable = exportable._replace(programs=exportable.programs[:1])
    place = tmp_path / "served"
    numbers = [
        write_unchecked(exportable, place, version=version)["version"]
        for version in (7, None)
    ]
    assert numbers == [7, 8]
    with pytest.raises(InputError, match="7: stands there"):
        write_saved_model(exportable, place, version=7)


def test_places(tmp_path):
    exportable = model_programs(tiny_dense(tmp_path / "made"))
    with pytest.raises(InputError, match="version: 0; expected a number above 0"):
        write_saved_model(exportable, tmp_path / "served", version=0)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("you")
    with pytest.raises(InputError, match=r"letters: holds dear\.txt"):
        write_saved_model(exportable, tmp_path / "letters")
    with pytest.raises(InputError, match=r"dear\.txt: a file"):
        write_saved_model(exportable, tmp_path / "letters" / "dear.txt")


def test_one_export_at_a_time(tmp_path, monkeypatch):
    """A second one would take the same number, and the first one's place."""
    exportable = model_programs(tiny_dense(tmp_path / "made"))
    exportable = exportable._replace(programs=exportable.programs[:1])
    place, refused = tmp_path / "served", []
    monkeypatch.setattr(
        saved_model, "_tensorflow", lambda: SimpleNamespace(__version__="")
    )
    monkeypatch.setattr(saved_model, "describe", lambda *args: {})
    monkeypatch.setattr(saved_model, "_save", lambda *args: None)

    def meanwhile(*args, **options):
        with pytest.raises(
            InputError, match="next version: is being written already"
        ) as error:
            write_saved_model(exportable, place)
        refused.append(error)
        raise InputError(place, "embeddings that differ by 1")

    monkeypatch.setattr(saved_model, "verify", meanwhile)
    with pytest.raises(InputError, match="differ by 1"):
        write_saved_model(exportable, place)
    assert refused
    assert not place.exists()


def test_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    exportable = model_programs(tiny_dense(tmp_path / "made"))
    with pytest.raises(
        InputError, match=r'not installed.*pip install "jaxir\[export\]'
    ):
        write_saved_model(exportable, tmp_path / "served")
