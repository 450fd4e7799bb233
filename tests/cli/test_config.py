"""gin behind one door: what is refused, and how it is said."""

import sys
import types

import pytest

from jaxir.cli import config
from jaxir.errors import InputError


def go(x=1, y=2):
    if x == 3:
        raise InputError("x", "is 3")
    return x, y


go.__module__ = "gin_target"
# One function for all tests: gin remembers what it has registered.
MODULE = types.ModuleType("gin_target")
MODULE.go = go
MODULE.other = lambda z=0: z
MODULE.other.__module__, MODULE.other.__name__ = "gin_target", "other"


@pytest.fixture
def target(monkeypatch):
    monkeypatch.setitem(sys.modules, "gin_target", MODULE)
    return go


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "a.gin"
        path.write_text(
            f"from __gin__ import dynamic_registration\nimport gin_target\n{text}\n"
        )
        return [str(path)]

    return write


def test_bindings_win(target, write):
    file = write("STEPS = 5\ngin_target.go.x = %STEPS")
    config.parse_gin(file)
    assert config.configured(target)() == (5, 2)
    config.parse_gin(file, ["STEPS = 7", "gin_target.go.y = 8"])
    assert config.configured(target)() == (7, 8)
    assert "STEPS = 7" in config.operative_config()


@pytest.mark.parametrize(
    ("text", "bindings", "message"),
    [
        ("STEPS = %gin.REQUIRED\ngin_target.go.x = %STEPS", [], "STEPS has no value; "),
        ("gin_target.go.z = 3", [], r"a\.gin:3: .*no|doesn't have a parameter"),
        ("gin_target.gone.x = 3", [], r"a\.gin:3: Couldn't resolve selector"),
        ("import no_such_module", [], r"a\.gin:3: No module named"),
        ("gin_target.go.x = %UNDEFINED", [], "No bindings specified for 'UNDEFINED"),
        ("gin_target.go.x = = 2", [], "Unable to parse value"),
        ('include "nothing.gin"', [], r"a\.gin:3: Unable to open file: nothing.gin"),
        ("STEPS = 3", ["STEP = 4"], "--gin.STEP: no such macro.*one of STEPS"),
        ("", ["STEP = 4"], "--gin.STEP: no such macro.*name the file with --gin_file"),
        ("STEPS = 3", ["gin_target.go.q = 4"], "doesn't have a parameter named 'q'"),
    ],
)
def test_refused(target, write, text, bindings, message):
    with pytest.raises(InputError, match=message) as caught:
        config.parse_gin(write(text), bindings)
        config.configured(target)()
    assert "\n" not in str(caught.value)


def test_what_nothing_reads_is_refused(target, write):
    file = write("STEPS = 5\nIDLE = 1\ngin_target.go.x = %STEPS\nRUN = @gin_target.go")
    good = ["STEPS = 2", "gin_target.go.y = 3", "go.y = 4"]
    config.parse_gin(file, good)
    config.reject_unused(good, target)
    config.parse_gin(file, ["IDLE = 2"])
    with pytest.raises(InputError, match=r"--gin\.IDLE: nothing of this run reads it"):
        config.reject_unused(["IDLE = 2"], target)
    config.parse_gin(write("gin_target.other.z = 1\nRUN = @gin_target.go"))
    with pytest.raises(InputError, match=r"--gin\.gin_target\.other\.z: nothing of"):
        config.reject_unused(["gin_target.other.z = 1"], target)


def test_a_folder_named_as_one_of_ours_hides_nothing(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    config.parse_gin(["runs/train.gin"], ["COLLECTION = 1", "TRAIN_STEPS = 1",
                                          "MODEL = 1", "TASK = 1"])  # fmt: skip
    wrapper = tmp_path / "mine.gin"
    wrapper.write_text("include 'tasks/rank/enc_softmax.gin'\n")
    (tmp_path / "tasks" / "rank").mkdir(parents=True)
    config.parse_gin([str(wrapper)])


def test_missing_file():
    with pytest.raises(InputError, match="no such gin file"):
        config.parse_gin(["nowhere.gin"])


def test_input_errors_keep_their_first_line(target, write):
    config.parse_gin(write("gin_target.go.x = 3"))
    with pytest.raises(InputError) as caught:
        config.configured(target)()
    assert str(caught.value).splitlines()[0] == "x: is 3"


def test_flags():
    bindings, others = config.split_gin_flags(["--gin.A=1", "b", "--gin.m.f.x='s=t'"])
    assert bindings == ["A = 1", "m.f.x = 's=t'"]
    assert others == ["b"]
    with pytest.raises(InputError, match="no value"):
        config.split_gin_flags(["--gin.A"])
