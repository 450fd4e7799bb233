"""Steps run once, in order, and again when what decides them has changed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_books import SMALL, make_book

import jaxir
from jaxir.errors import InputError
from jaxir.reproduce.book import Step
from jaxir.reproduce.runner import Workshop, command_line, script


@pytest.fixture
def shop(tmp_path):
    """``shop(text)``: a workshop of a book in one and the same folder."""
    (tmp_path / "data").mkdir()

    def make(text=SMALL):
        book = make_book(tmp_path / "book", text)
        return book, Workshop(book, tmp_path / "out", tmp_path / "data")

    return make


def make_all(book, workshop, names=("small-one", "small-two"), **options):
    """Runs what is left and says what ran."""
    wanted = {name for c in names for name in book.conditions[c].read}
    left = workshop.left(book.steps_of(names), wanted, **options)
    with workshop.open():
        for step in left:
            workshop.run(step)
    return [step.name for step in left]


def test_shared_steps_run_once_and_finished_ones_are_kept(shop, tmp_path):
    book, workshop = shop()
    assert make_all(book, workshop) == [
        "model", "one.run", "one.json", "two.run", "two.json",
    ]  # fmt: skip
    calls = tmp_path / "out" / "calls"
    assert calls.read_text() == "model one two "
    assert workshop.printed("two.json") == [{"share": 0.25, "seconds": 9.0}]
    book, workshop = shop()
    assert make_all(book, workshop) == []
    assert calls.read_text() == "model one two "
    assert len(make_all(*shop(), ("small-one",), again=True)) == 3
    assert calls.read_text() == "model one two model one "


def test_a_changed_command_runs_again_with_all_that_reads_it(shop, tmp_path):
    make_all(*shop())
    assert make_all(*shop(SMALL.replace("0.25", "0.75"))) == ["two.run", "two.json"]
    assert (tmp_path / "out" / "two.run").read_text() == "0.75"
    changed = make_all(*shop(SMALL.replace("0.25", "0.75").replace("model '", "m '")))
    assert changed == ["model", "one.run", "one.json", "two.run", "two.json"]


def test_what_nobody_reads_any_more_is_not_made_again(shop, tmp_path):
    make_all(*shop())
    (tmp_path / "out" / "model").unlink()
    assert make_all(*shop()) == []
    (tmp_path / "out" / "two.run").unlink()
    (tmp_path / "out" / "steps" / "two.json.json").unlink()
    assert make_all(*shop()) == ["model", "two.run", "two.json"]


def test_changed_data_runs_again(shop, tmp_path):
    text = SMALL.replace('" model"""', '" model {data}/words"""')
    (tmp_path / "data" / "words").mkdir(parents=True, exist_ok=True)
    words = tmp_path / "data" / "words" / "corpus.jsonl"
    words.write_text("a")
    assert "model" in make_all(*shop(text))
    assert make_all(*shop(text)) == []
    words.write_text("ab")
    assert "model" in make_all(*shop(text))


def test_another_version_of_jaxir_makes_its_own_numbers(shop, monkeypatch):
    make_all(*shop())
    monkeypatch.setattr(jaxir, "__version__", "99.0")
    assert len(make_all(*shop())) == 5


def test_an_interrupted_step_finds_what_it_had_made(shop, tmp_path):
    fails_at_first = (
        "import os, sys; old = os.path.exists('model'); open('model', 'w').write('m'); "
        "old or sys.exit(5); open("
    )
    stops = SMALL.replace("import sys; open(", fails_at_first)
    book, workshop = shop(stops)
    with pytest.raises(InputError, match=r"step model: exit code 5; expected 0; in "):
        make_all(book, workshop)
    assert (tmp_path / "out" / "model").exists()
    assert make_all(*shop(stops))[0] == "model"  # goes on, and ends well


def test_a_failure_tells_the_last_line_of_the_error(shop):
    text = SMALL.replace("import sys; open(", "import sys; sys.exit('no luck'); open(")
    with pytest.raises(InputError, match="step model: exit code 1: no luck"):
        make_all(*shop(text))


def test_a_step_that_makes_nothing(shop):
    text = SMALL.replace("open(sys.argv[1], 'w').write('m');", "")
    with pytest.raises(InputError, match="step model: has made nothing"):
        make_all(*shop(text))


def test_what_others_made_is_not_touched(shop, tmp_path):
    book, workshop = shop()
    with workshop.open():
        (tmp_path / "out" / "model").write_text("mine")
        with pytest.raises(InputError, match="model: was not made by this verb"):
            workshop.run(book.steps["model"])
    assert (tmp_path / "out" / "model").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(InputError, match="other: holds something else"):
        Workshop(book, tmp_path / "other", tmp_path).check()
    workshop.check()
    Workshop(book, tmp_path / "new", tmp_path).check()


def test_one_process_at_a_time(shop):
    _, workshop = shop()
    with (
        workshop.open(),
        pytest.raises(InputError, match="is being written already"),
        workshop.open(),
    ):
        pass


def test_the_stamp_has_command_and_seconds(shop, tmp_path):
    make_all(*shop())
    stamp = json.loads((tmp_path / "out" / "steps" / "one.run.json").read_text())
    assert stamp["done"] == stamp["started"]
    assert stamp["command"][-2:] == ["model", "one.run"]
    assert stamp["jaxir"] == jaxir.__version__
    assert stamp["seconds"] >= 0


def test_surroundings_of_a_step(shop):
    _, workshop = shop()
    code = "import jaxir, json, os, pathlib; print(json.dumps({" + (
        "'cores': len(os.sched_getaffinity(0)), 'device': os.environ['JAX_PLATFORMS'],"
        " 'here': os.getcwd(), 'package': jaxir.__file__}))"
    )
    before = os.sched_getaffinity(0)
    step = Step("seen", ("python", "-c", code), device="cpu", cores=1)
    with workshop.open():
        workshop.run(step)
    (seen,) = workshop.printed("seen")
    assert (seen["cores"], seen["device"]) == (1, "cpu")
    assert seen["here"].endswith("out")
    assert seen["package"] == jaxir.__file__
    assert os.sched_getaffinity(0) == before
    assert workshop.key(step) != workshop.key(replace(step, name="s", device=""))


def test_ending_us_ends_the_step(shop, tmp_path):
    """SIGTERM: the command does not go on alone, and the stamp says it began."""
    shop(SMALL.replace("import sys; open(", "import sys, time; time.sleep(60); open("))
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from jaxir.reproduce.load import load_book\n"
        "from jaxir.reproduce.runner import Workshop\n"
        "at = Path(sys.argv[1]); book = load_book(at / 'book')\n"
        "shop = Workshop(book, at / 'out', at / 'data')\n"
        "with shop.open(): shop.run(book.steps['model'])\n"
    )
    home = str(Path(jaxir.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": home},
    )
    stamp = tmp_path / "out" / "steps" / "model.out"
    for _ in range(600):
        if stamp.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    stamp = json.loads((tmp_path / "out" / "steps" / "model.json").read_text())
    assert "done" not in stamp


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("jaxir", "x", "--gin.A='{data}/m'"), "jaxir x --gin.A=\"'d/m'\""),
        (("python", "-c", "a b"), 'python -c "a b"'),
        (("jaxir", "{data}/m:dev"), "jaxir d/m:dev"),
        (("jaxir", "$HOME"), "jaxir '$HOME'"),
        (("jaxir", "a" * 80, "--b", "c"), f"jaxir {'a' * 80} \\\n    --b c"),
    ],
)
def test_command_lines(words, line):
    assert command_line(Step("s", words), "d", width=90) == line


def test_script(tmp_path):
    book = make_book(tmp_path)
    steps = [replace(book.steps["model"], cores=2, device="cpu", about="why")]
    text = script(steps, "d", "out folder")
    assert text.startswith('mkdir -p "out folder" && cd "out folder"\n')
    assert (
        "# model: 3 min; why\nJAX_PLATFORMS=cpu taskset --cpu-list 0-1 python" in text
    )
