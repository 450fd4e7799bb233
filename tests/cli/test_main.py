"""Exit codes and one-line errors of the command line."""

import types

import pytest

from jaxir import progress
from jaxir.cli import main as cli
from jaxir.errors import InputError


def fake_verb(monkeypatch, run):
    module = types.ModuleType("jaxir.cli.fake")
    module.__doc__ = "A verb for the test."
    module.add_arguments = lambda parser: parser.add_argument("--n", type=int)
    module.run = run
    monkeypatch.setitem(__import__("sys").modules, "jaxir.cli.fake", module)
    monkeypatch.setitem(cli.VERBS, "fake", "a verb for the test")


def test_help_lists_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb} " in out for verb in cli.VERBS)
    assert cli.main([]) == 0


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("jaxir 0.")


def test_unknown_verb(capsys):
    assert cli.main(["serach"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "unknown verb 'serach'" in error


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_has_help(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    assert f"usage: jaxir {verb}" in capsys.readouterr().out


def test_bad_flag_is_one_line(monkeypatch, capsys):
    fake_verb(monkeypatch, lambda args: 0)
    assert cli.main(["fake", "--n", "x"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "invalid int value: 'x'" in error


def test_quiet_ends_with_the_verb(monkeypatch):
    seen = []
    fake_verb(monkeypatch, lambda args: seen.append(progress._quiet) or 0)
    assert cli.main(["fake", "--quiet"]) == 0
    assert seen == [True]
    assert not progress._quiet


def test_users_mistake_and_ours(monkeypatch, capsys):
    def mistake(args):
        raise InputError("x.tsv:7", "no tab")

    fake_verb(monkeypatch, mistake)
    assert cli.main(["fake"]) == 2
    assert capsys.readouterr().err == "jaxir fake: x.tsv:7: no tab\n"

    def fault(args):
        raise KeyError("lost")

    fake_verb(monkeypatch, fault)
    assert cli.main(["fake"]) == 1
    assert "a fault of jaxir" in capsys.readouterr().err

    def interrupted(args):
        raise KeyboardInterrupt

    fake_verb(monkeypatch, interrupted)
    assert cli.main(["fake"]) == 130


def test_flags_with_hyphens_or_underscores(monkeypatch):
    seen = []
    fake_verb(monkeypatch, lambda args: seen.append(args) or 0)
    module = __import__("sys").modules["jaxir.cli.fake"]
    module.add_arguments = lambda parser: parser.add_argument("--batch_size")
    for words in (["--batch-size", "a-b"], ["--batch_size=a-b"], ["--batch-size=a-b"]):
        assert cli.main(["fake", *words]) == 0
    assert [args.batch_size for args in seen] == ["a-b"] * 3
    assert seen[0].command == "jaxir fake --batch-size a-b"


def test_flags_of_more_than_one_word_have_underscores():
    for verb in cli.VERBS:
        parsers = [cli.make_parser(verb)]
        for action in parsers[0]._actions:
            if isinstance(action.choices, dict):
                parsers += action.choices.values()
        options = {name for parser in parsers for name in parser._option_string_actions}
        assert not {name for name in options if "-" in name[2:]}
