"""Every kind's programs with symbolic sizes, by JAX alone."""

import re

import jax
import numpy as np
import pytest
from tiny_programs import EXPORTABLES, tiny_dense

from jaxir.errors import InputError
from jaxir.export import lower as lowering
from jaxir.export.lower import TARGET, check_platforms, lower
from jaxir.export.programs import model_programs, parameters_of
from jaxir.export.verify import compare, expected_outputs, fresh_inputs


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return model_programs(tiny_dense(tmp_path_factory.mktemp("dense")))


@pytest.mark.parametrize("kind", EXPORTABLES)
def test_any_shape(kind, tmp_path):
    exportable = EXPORTABLES[kind](tmp_path)
    for program in exportable.programs:
        found = lower(program, exportable.params)
        assert found.version == TARGET
        assert found.exported.platforms == ("cpu", "cuda")
        params = parameters_of(exportable.params, program)
        inputs = fresh_inputs(program, 3, 60)
        outputs = jax.tree.map(np.asarray, found.exported.call(params, inputs))
        wanted = expected_outputs(program, exportable.params, inputs)
        compare(kind, program.name, outputs, wanted)
        text = found.exported.mlir_module()
        # What a reader may not know: composites, and calls of this or that machine's.
        assert "composite" not in text
        assert set(re.findall(r"custom_call @([\w.]+)", text)) <= {"shape_assertion"}
        # Parameters are arguments: no constant is as large as the smallest matrix.
        sizes = re.findall(r"constant dense<[^>]*> : tensor<([\dx]*)x[a-z]", text)
        numbers = [np.prod([int(n) for n in size.split("x")]) for size in sizes]
        assert max(numbers, default=0) <= 257  # T5's distances
        assert found.kept


def test_no_place_of_this_machine(dense):
    found = lower(dense.programs[0], dense.params)
    assert b".py" not in found.exported.mlir_module_serialized


def test_too_long_a_text(dense):
    program = dense.programs[0]
    found = lower(program, dense.params)
    inputs = fresh_inputs(program, 1, 65)
    with pytest.raises(ValueError, match="length <= 64"):
        found.exported.call(parameters_of(dense.params, program), inputs)


def test_only_what_is_read(dense, tmp_path):
    towers = model_programs(tiny_dense(tmp_path, towers="separate"))
    query, doc = (lower(program, towers.params) for program in towers.programs)
    assert {name.partition("/")[0] for name in query.kept} == {"query"}
    assert {name.partition("/")[0] for name in doc.kept} == {"doc"}
    assert query.kept_inputs == ("attention_mask", "input_ids")


def test_platforms():
    assert check_platforms(["tpu", "cpu", "cpu"]) == ("cpu", "tpu")
    with pytest.raises(InputError, match=r"platforms: abacus; expected some of cpu"):
        check_platforms(["cpu", "abacus"])
    with pytest.raises(InputError, match="platforms: none"):
        check_platforms([])


def test_tpu(dense):
    found = lower(dense.programs[0], dense.params, platforms=("cpu", "tpu"))
    assert found.exported.platforms == ("cpu", "tpu")


@pytest.mark.parametrize("target", ["0.1.0", "9.9.9", "new", "1.9"])
def test_target(dense, target):
    with pytest.raises(InputError, match="target: "):
        lower(dense.programs[0], dense.params, target=target)


def test_a_jax_that_cannot_choose(dense, monkeypatch, capsys):
    monkeypatch.delattr(
        "jaxlib.mlir.dialects.stablehlo.serialize_portable_artifact_str"
    )
    found = lower(dense.programs[0], dense.params)
    assert found.version == ""
    assert "cannot choose StableHLO's version" in capsys.readouterr().err
    assert lowering.TARGET not in found.exported.mlir_module()
