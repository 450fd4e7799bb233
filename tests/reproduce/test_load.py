"""Files of conditions: what they give, and how their mistakes are told."""

from itertools import pairwise

import pytest
from small_books import SMALL, make_book

from jaxir.cli.main import VERBS, make_parser
from jaxir.errors import InputError
from jaxir.files import resource_directory
from jaxir.reproduce.load import load_book

STEP = "[steps.a]\nrun = 'jaxir search --output a'\n"
CONDITION = STEP + "[conditions.c]\nsection = 'S'\nread = 'a'\nexpect = { x = '1' }\n"


def test_lists_of_each_go_together(tmp_path):
    book = make_book(tmp_path)
    assert [*book.conditions] == ["small-one", "small-two"]
    two = book.conditions["small-two"]
    assert two.about == "Small numbers: two"
    assert (two.family, two.read) == ("small", ("two.json",))
    share, seconds = two.expected
    assert (share.text, share.row, share.column) == (
        "0.40 [0.1, 0.9]",
        "two",
        "share",
    )
    assert share.measures[0].tolerance == 0.01
    assert not seconds.measures[0].judged
    assert book.steps["two.run"].words[-2:] == ("model", "two.run")
    assert book.steps["model"].minutes == 3


def test_a_command_waits_for_the_steps_that_it_names(tmp_path):
    book = make_book(tmp_path)
    names = [step.name for step in book.steps_of(["small-two", "small-one"])]
    assert names == ["model", "two.run", "two.json", "one.run", "one.json"]
    assert book.steps["model"].makes
    assert not book.steps["one.json"].makes


def test_evaluation_is_a_step_of_its_own(tmp_path):
    text = STEP + (
        "[steps.'b.trec']\nrun = 'jaxir search --index a --output b.trec'\n"
        "[conditions.c]\nsection = 'S'\nevaluate = 'a'\nagainst = 'b.trec'\n"
        "qrels = '{data}/x:dev'\nexpect = { 'AP' = '.1', 'AP difference' = '.2' }\n"
    )
    book = make_book(tmp_path, text)
    step = book.steps["c.measures"]
    assert " ".join(step.words) == (
        "jaxir evaluate --qrels {data}/x:dev --runs a b.trec --metrics AP "
        "--baseline b --json"
    )
    assert step.needs == ("a", "b.trec")
    assert step.data == ("x",)
    assert book.steps["b.trec"].needs == ("a",)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[steps", "small.toml: .*expected TOML"),
        ("[step.a]", "unknown key 'step'"),
        ("[steps.a]\nrun = 'jaxir x'\nminute = 3", "a: unknown key 'minute'"),
        ("[steps.a]\nminutes = 3", "a: without 'run'"),
        ("[steps.a]\nrun = 'rm x'", "runs 'rm'; expected jaxir, python"),
        ("[steps.a]\nrun = 'jaxir {b}'", "unknown variable {b}; expected each"),
        ("[steps.'../a']\nrun = 'jaxir x'", "a name for a file; expected letters"),
        (
            "[steps.'{n}']\neach = { n = ['a', 'a'] }\nrun = 'jaxir x'",
            "a: a step of this name is there",
        ),
        (
            "[steps.'{n}']\neach = { n = ['a', 'b'], m = ['c'] }\nrun = 'jaxir x'",
            "lists of each differ in length",
        ),
        ("[conditions.c]\nsection = 'S'", "c: without 'expect'"),
        (CONDITION + "colour = 'red'", "c: unknown key 'colour'"),
        (CONDITION.replace("read = 'a'", "read = 'b'"), "reads 'b'; expected what a"),
        (CONDITION.replace("read", "evaluate"), "c: without 'qrels'"),
        (CONDITION.replace("'1'", "'none'"), "0 numbers in 'none'; expected 1, of x"),
        (CONDITION.replace("'1'", "'1; 2'"), "2 numbers in '1; 2'; expected 1, of x"),
        (CONDITION + "case = ['u', 'v', 'w']\ncolumn = 'k'\n", ""),
        (
            CONDITION.replace("'1'", "'1; 2'") + "case = ['u', 'v', 'w']",
            "expected 3, of x",
        ),
        ("[measures.x]\nbest = 'more'", "x: unknown key 'best'"),
    ],
)
def test_mistakes_of_a_file(tmp_path, text, match):
    if not match:  # one number for several cases: their mean
        assert make_book(tmp_path, text).conditions["c"].cases == ("u", "v", "w")
        return
    with pytest.raises(InputError, match=match):
        make_book(tmp_path, text)


def test_conditions_of_one_name(tmp_path):
    make_book(tmp_path)
    (tmp_path / "more.toml").write_text(CONDITION.replace("s.c]", "s.small-one]"))
    with pytest.raises(InputError, match="small-one: a condition of this name"):
        load_book(tmp_path)


def test_steps_that_wait_for_each_other(tmp_path):
    text = SMALL.replace('" model"""', '" model two.run"""')
    book = make_book(tmp_path, text)
    with pytest.raises(InputError, match=r"two.run -> model -> two.run"):
        book.steps_of(["small-two"])


BOOK = load_book()


@pytest.mark.parametrize("name", list(BOOK.steps))
def test_commands_of_our_own_book_parse(name):
    """The verb knows every option, and gin files that are named are there."""
    step = BOOK.steps[name]
    if step.words[0] == "python":
        assert step.words[:3] == ("python", "-m", "jaxir.reproduce.tools")
        return
    verb, *words = step.words[1:]
    assert verb in VERBS
    files = [b for a, b in pairwise(words) if a == "--gin_file"]
    for file in files:
        assert (resource_directory("gin") / file).is_file(), file
    words = [word for word in words if not word.startswith("--gin.")]
    make_parser(verb).parse_args(words)


def test_what_a_step_makes_is_what_it_writes():
    """Names of steps stand where commands write, not only somewhere in them."""
    writing = {
        "search": "--output", "rerank": "--output", "fuse": "--output",
        "mine": "--output", "label": "--output", "index": "--index",
        "train": "--model_dir", "bench": "--output", "demo": "--output",
    }  # fmt: skip
    for step in BOOK.steps.values():
        verb = step.words[1] if step.words[0] == "jaxir" else ""
        if not step.makes:
            assert step.name.startswith("bench-") or step.name.endswith(
                (".measures", ".overlap")
            ), step.name
        elif verb in writing:
            place = step.words.index(writing[verb]) + 1
            assert step.words[place] == step.name


def test_our_own_book_has_no_circle_and_reads_known_collections():
    steps = BOOK.steps_of(BOOK.conditions)
    assert {step.name for step in steps} == set(BOOK.steps), "a step nobody reads"
    folders = {name for step in steps for name in step.data}
    assert folders - set(BOOK.collections) == {"tokenizers/t5"}
    assert set(BOOK.collections) <= folders
    modules = {name for step in steps for name in step.modules}
    assert modules <= set(BOOK.modules)
