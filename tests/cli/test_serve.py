"""The command line of the service: what is refused before anything is opened."""

import sys

import pytest

from jaxir.cli import serve
from jaxir.cli.main import main, make_parser


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--index: missing; expected an index, --rerank or --model"),
        (["--index", "a", "--index", "b/a"], "--index: the name 'a' twice"),
        (["--texts", "c", "--model", "m"], "--texts: given without an index"),
        (["--index", "a", "--queue", "0"], "--queue: 0; expected more than 0"),
        (["--index", "a", "--max_k", "-1"], "--max_k: -1; expected more than 0"),
        (["--index", "a", "--deadline", "nan"], "--deadline: nan; expected more than"),
        (["--index", "a", "--watch", "-1"], "--watch: -1.0; expected seconds from 0"),
        (["--index", "a", "--grace", "inf"], "--grace: inf; expected seconds from 0"),
        (["--index", "a", "--api_keys", "none"], "none: not a readable file"),
        (["--index", "a", "--port", "70000"], "127.0.0.1:70000: cannot listen here"),
    ],
)
def test_mistakes(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["serve", *words]) == 2
    err = capsys.readouterr().err
    assert f"jaxir serve: {said}" in err
    assert err.count("\n") == 1


def test_without_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--index", "a"]) == 2
    assert "pip install 'jaxir[serve]'" in capsys.readouterr().err


def plans(*words):
    return serve._plans(make_parser("serve").parse_args(words))


def test_texts_of_one_and_of_all():
    one, two = plans("--index", "a=x", "--index", "y", "--texts", "c", "--texts", "y=d")
    assert (one.name, one.directory, one.texts) == ("a", "x", "c")
    assert (two.name, two.directory, two.texts) == ("y", "y", "d")
    (one,) = plans("--index", "a=x", "--texts", "c=d")  # no index c: a path
    assert one.texts == "c=d"


def models(*words):
    return serve._models(make_parser("serve").parse_args(words))


def test_models():
    assert models("--index", "a") == (None, None)
    assert models("--index", "a", "--model", "a") == (None, ("a", None))
    assert models("--model", "m/a") == (None, ("a", "m/a"))
    assert models("--rerank", "r=x", "--model", "e=y") == (("r", "x"), ("e", "y"))
