"""A reader that fails, or that computes something else, lets nothing stand."""

from pathlib import Path

import numpy as np
import pytest
from tiny_programs import tiny_dense

from jaxir.errors import InputError
from jaxir.export.programs import model_programs
from jaxir.export.verify import compare, expected_outputs, fresh_inputs, verify

READER = """
import sys
import numpy as np
answers = np.load({answers!r})
np.savez(sys.argv[3], **{{name: answers[name] for name in answers.files}})
"""


@pytest.fixture(scope="module")
def exportable(tmp_path_factory):
    found = model_programs(tiny_dense(tmp_path_factory.mktemp("dense")))
    return found._replace(programs=found.programs[:1])


def reader(folder: Path, text: str) -> Path:
    path = folder / "reader.py"
    path.write_text(text)
    return path


def check(exportable, script):
    return verify(
        exportable, script.parent, script, place=Path("there"), needs="patience"
    )


def answers(exportable, folder, change=0.0):
    (program,) = exportable.programs
    flat = {}
    for i, (batch, length) in enumerate(((1, 5), (3, 24))):
        inputs = fresh_inputs(program, batch, length)
        for name, x in expected_outputs(program, exportable.params, inputs).items():
            flat[f"{program.name}/{i}/{name}"] = x + np.float32(change * i)
    np.savez(folder / "answers.npz", **flat)
    return reader(folder, READER.format(answers=str(folder / "answers.npz")))


def test_the_same(exportable, tmp_path):
    largest = check(exportable, answers(exportable, tmp_path))
    assert largest == {"encode_query/embeddings": 0.0}


def test_another(exportable, tmp_path):
    script = answers(exportable, tmp_path, change=0.01)
    with pytest.raises(
        InputError, match=r"there: encode_query/1: embeddings that differ by 0.01; exp"
    ) as error:
        check(exportable, script)
    assert "\n" not in str(error.value)
    coarse = exportable._replace(coarse=True)
    assert 0.009 < check(coarse, script)["encode_query/embeddings"] < 0.011


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise ValueError('no such operation')", "ValueError: no such operation"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("pass", "exit code 0"),  # and no answer
        ("import os; os.kill(os.getpid(), 9)", "the system killed it, .* memory ends"),
    ],
)
def test_a_reader_that_fails(exportable, tmp_path, text, reason):
    with pytest.raises(InputError, match=rf"another process \({reason}.*patience"):
        check(exportable, reader(tmp_path, text))


def test_fresh_inputs(exportable):
    (program,) = exportable.programs
    inputs = fresh_inputs(program, 7, 60)
    mask = inputs["attention_mask"]
    assert mask.shape == (7, 60)
    assert mask.dtype == np.int32
    assert mask[0].all()
    assert (np.diff(mask, axis=1) <= 0).all()  # padding on the right
    assert mask.sum(axis=1).min() >= 1
    other = fresh_inputs(program, 7, 60, seed=1)
    assert (inputs["input_ids"] != other["input_ids"]).any()


def one(**arrays):
    return {name: np.array(value) for name, value in arrays.items()}


def test_positions_of_equal_scores_may_change_places():
    scores = np.array([[3.0, 2.0, 2.0, 1.0]], np.float32)
    wanted = {"positions": np.array([[4, 7, 9, 1]]), "scores": scores}
    swapped = {"positions": np.array([[4, 9, 7, 1]]), "scores": scores}
    beyond = {"positions": np.array([[4, 7, 9, 2]]), "scores": scores}
    assert compare("there", "search/0", swapped, wanted)["positions"] == 0
    assert compare("there", "search/0", beyond, wanted)["positions"] == 0
    wrong = {"positions": np.array([[7, 4, 9, 1]]), "scores": scores}
    with pytest.raises(InputError, match=r"positions that differ by 0\.333"):
        compare("there", "search/0", wrong, wanted)
    twice = {"positions": np.array([[4, 7, 7, 1]]), "scores": scores}
    with pytest.raises(InputError, match="positions that differ by inf"):
        compare("there", "search/0", twice, wanted)


def test_codes_may_differ_in_one_of_a_hundred():
    wanted = {"codes": np.zeros((2, 100), np.uint8)}
    found = {"codes": wanted["codes"].copy()}
    found["codes"][0, :2] = 1
    assert compare("there", "encode_document/0", found, wanted) == {"codes": 0.0}
    found["codes"][0, :3] = 1
    with pytest.raises(InputError, match="codes that differ"):
        compare("there", "encode_document/0", found, wanted)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (one(scores=[1.0]), r"scores float64 \[1\]; expected scores float64 \[2\]"),
        (one(scores=[1, 2]), "scores int64"),
        (one(others=[1.0, 2.0]), r"outputs \['others'\]; expected \['scores'\]"),
        (one(scores=[1.0, np.nan]), "scores that differ by nan"),
    ],
)
def test_other_outputs(found, said):
    with pytest.raises(InputError, match=said):
        compare("there", "score/0", found, one(scores=[1.0, 2.0]))
