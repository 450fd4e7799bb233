"""``jaxir fuse`` on files."""

import json

import pytest

from jaxir.cli.main import main
from jaxir.data.formats import read_run, write_run


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "a.trec", {"q": {"a": 9.0, "b": 6.0, "c": 3.0}})
    write_run(tmp_path / "b.trec", {"q": {"c": 0.9, "d": 0.5}})
    return [str(tmp_path / "a.trec"), str(tmp_path / "b.trec")]


def test_fuse(runs, tmp_path, capsys):
    output = tmp_path / "fused.trec"
    words = ["fuse", "--runs", *runs, "--rrf.k", "10", "--output", str(output)]
    assert main([*words, "--depth", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["queries"], result["results"]) == (1, 3)
    fused = read_run(output)["q"]
    assert list(fused) == ["c", "a", "b"]
    assert fused["c"] == pytest.approx(1 / 13 + 1 / 11)


def test_a_mistake_is_one_line_and_writes_nothing(runs, tmp_path, capsys):
    output = tmp_path / "fused.trec"
    words = ["fuse", "--runs", *runs, "--method", "mean", "--output", str(output)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("jaxir fuse: method: 'mean'; expected one of rrf")
    assert said.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--normalization", "z-score"], "--normalization: given with --method rrf; "),
        (
            ["--method", "combsum", "--rrf.k", "9"],
            "--rrf.k: given with --method combsum; expected --method rrf",
        ),
    ],
)
def test_flags_that_the_method_does_not_read(runs, tmp_path, capsys, changes, message):
    output = tmp_path / "fused.trec"
    assert main(["fuse", "--runs", *runs, "--output", str(output), *changes]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_a_run_that_is_read_is_not_written_over(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / "b.trec").read_bytes()
    assert main(["fuse", "--runs", *runs, "--output", "b.trec"]) == 2
    assert "b.trec: a run that is read; expected another" in capsys.readouterr().err
    assert (tmp_path / "b.trec").read_bytes() == before


def test_queries_that_a_run_lacks_are_told(runs, tmp_path, capsys):
    write_run(tmp_path / "c.trec", {"other": {"c": 0.9}})
    words = ["fuse", "--runs", runs[0], str(tmp_path / "c.trec")]
    assert main([*words, "--output", str(tmp_path / "f.trec")]) == 0
    assert "2 of 2 queries are not in every run" in capsys.readouterr().err
