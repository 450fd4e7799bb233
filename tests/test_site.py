"""The site of docs/: its references leave nothing out, and it reads offline."""

import ast
import importlib
import itertools
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

import jaxir
from gin import config_parser
from jaxir.cli.main import VERBS, make_parser
from jaxir.files import resource_directory

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = Path(jaxir.__file__).parent
sys.path.append(str(ROOT / "ci" / "docs"))

import api_reference  # noqa: E402
import cli_reference  # noqa: E402
import gin_reference  # noqa: E402
import links  # noqa: E402

GIN = resource_directory("gin")
FILES = sorted(str(path.relative_to(GIN)) for path in GIN.rglob("*.gin"))
FAMILIES = sorted((DOCS / "families").glob("*.md"))


class Names(config_parser.ParserDelegate):
    """gin's own parser, for the names alone."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return scoped_configurable_name

    def macro(self, scoped_name):
        return scoped_name


def parsed(file):
    """The macros that a file sets and the files it includes, by gin's parser."""
    macros, includes = [], []
    for statement in config_parser.ConfigParser((GIN / file).read_text(), Names()):
        if isinstance(statement, config_parser.IncludeStatement):
            includes.append(statement.filename)
        elif not getattr(statement, "arg_name", True):  # a macro
            macros.append(statement.selector)
    return macros, includes


@pytest.fixture(scope="module")
def gin_pages():
    return gin_reference.gin_pages(GIN)


def section(pages, file):
    """What a page says of a file."""
    text = pages[gin_reference.page_of(file)]
    start = text.index(f"{{ #{gin_reference.anchor(file)} }}")
    return text[start : start + text[start:].find("\n## ") % len(text[start:])]


@pytest.mark.parametrize("file", FILES)
def test_gin_reference_is_complete(gin_pages, file):
    macros, includes = parsed(file)
    found = gin_reference.read_gin(GIN, file)
    assert [macro.name for macro in found.macros] == macros
    assert found.includes == includes
    assert file in gin_pages["gin/index.md"]
    text = section(gin_pages, file)
    assert found.required
    assert found.overridden
    rows = dict(re.findall(r"^\| `([A-Z][A-Z0-9_]*)` \| (.*)$", text, re.M))
    for macro in found.macros:
        value, comment = rows[macro.name].removesuffix(" |").split("</code> | ")[:2]
        written = unescape(value.removeprefix("<code>"))
        assert written.replace(" ", "") == "".join(macro.value.split())
        assert comment == gin_reference._cell(macro.comment)
    for name in includes:
        assert name in text.partition("**Includes**")[2].partition("\n")[0]
    for line in (GIN / file).read_text().splitlines():
        assert line in text  # the file itself


def test_gin_reference_of_statements():
    text = "A = (1,  # one\n     2)  # two\nb.c.d = %A\nT = 'a # b'\n"
    found = list(gin_reference.statements(text))
    assert [comment for _, comment in found] == ["one; two", "", ""]
    assert found[2][0] == "T = 'a # b'"
    name = "experiments/hypencoder_small.gin"
    run = gin_reference.whole_run(name, gin_reference.read_all(GIN))
    assert run["COLLECTION"][1] == "runs/train.gin"
    assert {"DEPTH", "LISTS", "TASK", "MODEL"} <= set(run)


def test_command_reference_is_complete():
    pages = cli_reference.cli_pages()
    for verb, about in VERBS.items():
        assert f"`jaxir {verb}`" in pages["commands/index.md"]
        assert about in pages["commands/index.md"]
        text = pages[f"commands/{cli_reference.page_of(verb)}"]
        for action in make_parser(verb)._actions:
            for name in action.option_strings or [action.metavar or action.dest]:
                row = re.search(rf"^\|.*`{re.escape(name)}`.*\|$", text, re.M)
                assert row, f"{verb} {name}"
                assert action.option_strings == [] or ("**required**" in row[0]) == (
                    action.required
                )
    assert len(pages) == len(VERBS) + 1


def test_python_reference_is_complete():
    found = api_reference.modules(PACKAGE)
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in api_reference.HIDDEN or parts[-1].startswith("__"):
            continue
        name = ".".join(("jaxir", *parts))
        tree = ast.parse(path.read_text())
        has = [
            n for n in ast.walk(tree) if isinstance(n, ast.Name) and n.id == "__all__"
        ]
        assert (name in found) == bool(has), name
    pages = api_reference.api_pages(PACKAGE)
    index = pages["api/index.md"]
    for name, home in jaxir._HOME.items():
        assert f"[`jaxir.{name}`][{home}.{name}]" in index
        assert f"{home}.{name}" in api_reference.known_names(PACKAGE)
    in_nav = re.findall(r"api/[\w.]+\.md", str(api_reference.api_nav(PACKAGE)))
    assert sorted(in_nav) == sorted(pages)


@pytest.mark.parametrize("name", ["jaxir.losses", "jaxir.hyper.qnet", "jaxir.search"])
def test_public_names_are_those_of_the_module(name):
    module = importlib.import_module(name)
    own = [n for n in module.__all__ if name == _home(getattr(module, n), name)]
    assert set(own) <= set(api_reference.modules(PACKAGE)[name].names)


def _home(value, default):
    return getattr(value, "__module__", default) if callable(value) else default


def named_objects(text):
    return re.findall(r"`(jaxir(?:\.\w+)+)`", text)


@pytest.mark.parametrize("path", FAMILIES, ids=lambda path: path.stem)
def test_equations_have_their_place_in_the_code(path):
    text = path.read_text()
    assert text.startswith("# ")
    for name in named_objects(text):
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            try:
                value = importlib.import_module(".".join(parts[:cut]))
            except ModuleNotFoundError:
                continue
            break
        for part in parts[cut:]:
            value = getattr(value, part)
        assert value is not None
        assert name in api_reference.known_names(PACKAGE), name
    # formulas, then where they are
    blocks = [block for block in re.split(r"\n\s*\n", text) if block.strip()]
    for before, after in itertools.pairwise(blocks):
        if before.startswith("$$"):
            assert after.startswith(("$$", "Code: `jaxir.")), before
    for file in re.findall(r"`((?:\w+/)+\w+\.gin)`", text):
        assert file in FILES
    if path.stem != "index":
        assert text.count("$$") >= 2
        assert text.count("$$") % 2 == 0
        assert f"[{path.stem}]({path.name})" in (path.parent / "index.md").read_text()


def literal(node):
    """A text of the source, with … for what is put in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return literal(node.left) + literal(node.right)
    return "…"


def texts_of_the_code():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                yield " ".join(literal(node).split())


def test_messages_that_are_explained_are_given():
    text = (DOCS / "troubleshooting.md").read_text()
    told = []
    for table in re.split(r"\n\n", text):
        if table.startswith("| message |"):
            told += re.findall(r"^\| `([^`]+)` \|", table, re.M)
    assert len(told) > 40
    sources = set(texts_of_the_code())
    for message in told:
        parts = [re.escape(part.strip()) for part in message.split("…")]
        pattern = re.compile(r"\s*\S*\s*".join(parts))
        assert any(pattern.search(source) for source in sources), message


def test_links_and_names_of_a_guide():
    pages = {"search.md", "building.md", "families/hyper.md", "notebooks/x.md"}
    text = "[a](../BUILD.md#x) [b](../notebooks/x.ipynb) [c](../Makefile) [d](y.md)"
    moved = links.moved(text, "search.md", "docs/search.md", pages)
    assert moved.startswith("[a](building.md#x) [b](notebooks/x.md) [c](https://github")
    assert moved.endswith("/main/Makefile) [d](y.md)")
    code = "```\n`jaxir.fit`\n```\n\n    `jaxir.fit`\n\n"
    code += "`jaxir.fit`, `other` [`jaxir.fit`](z)"
    linked = links.linked(code, {"jaxir.fit": "[jaxir.fit]"}.get)
    assert linked.count("[`jaxir.fit`][jaxir.fit]") == 1
    assert linked.endswith("[`jaxir.fit`][jaxir.fit], `other` [`jaxir.fit`](z)")


def test_formulas_become_mathml():
    equations = pytest.importorskip("equations")
    found = equations.with_mathml(
        '<div class="arithmatex">\\[x_i &lt; \\frac{1}{2} \\tag{3}\\]</div>'
    )
    assert "<mfrac>" in found
    assert "&#x0003C;" in found
    assert '<span class="equation-number">3</span>' in found
    with pytest.raises(ValueError, match="TeX that is not converted"):
        equations.mathml(r"\nosuchcommand x", display=False)


def test_docstrings_become_markdown():
    pytest.importorskip("griffe")
    from docstrings import markdown

    class Scope:
        path = "jaxir.losses"

        def resolve(self, name):
            return f"jaxir.losses.{name}"

    text = markdown(
        "See :func:`flops_loss` and :class:`Nothing` [UNK].\n\n"
        "Equation::\n\n  a * b\n\nArgs:\n  *args: all.\n\nExample::\n\n  >>> 1\n  1\n",
        Scope(),
    )
    assert "[`flops_loss`][jaxir.losses.flops_loss] and `Nothing` \\[UNK\\]" in text
    assert "Equation:\n\n```text\na * b\n```" in text
    assert "  *args: all." in text
    assert "```pycon\n>>> 1\n1\n```" in text


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(place)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return place


@pytest.mark.slow
def test_site_reads_offline(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 200
    outside = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(?:https?:)?//|"
        r"<link[^>]*\shref=\"?(?:https?:)?//"
    )
    for page in pages:
        text = page.read_text()
        assert not outside.search(text), page
        assert 'class="arithmatex"' not in text, page
    for style in (site / "assets").rglob("*.css"):
        assert not re.search(r"url\(\"?(?:https?:)?//|@import", style.read_text()), (
            style
        )
    assert "<math" in (site / "families" / "pq.html").read_text()
    assert (
        'href="../api/jaxir.pq.codec.html'
        in (site / "families" / "pq.html").read_text()
    )
    guide = (site / "hypencoder.html").read_text()
    assert 'href="api/jaxir.hyper.qnet.html#jaxir.hyper.qnet' in guide
    assert 'href="gin/experiments.html#gin-experiments-' in guide
    index = (site / "search" / "search_index.json").read_text()
    for place in ("results.html", "api/jaxir.losses.html", "gin/runs.html"):
        assert f'"location":"{place}' in index


@pytest.mark.slow
def test_every_public_name_has_its_place_on_the_site(site):
    for name, module in api_reference.modules(PACKAGE).items():
        text = (site / "api" / f"{name}.html").read_text()
        for part in module.names:
            assert f'id="{name}.{part}"' in text, f"{name}.{part}"


@pytest.mark.slow
def test_search_and_width_in_a_browser(site):
    from browser import find_chromium, open_browser

    command = find_chromium()
    if command is None:
        pytest.skip("no Chromium on this machine")
    pages = ["index", "results", "families/rank", "gin/runs", "troubleshooting"]
    with open_browser(command) as browser:
        for width in (360, 1440):
            browser.window(width)
            for page in pages:
                browser.open(f"file://{site}/{page}.html")
                found = browser.evaluate("document.scrollingElement.scrollWidth")
                assert found <= width, page
        browser.open(f"file://{site}/index.html")
        browser.evaluate("document.querySelector('[data-md-toggle=search]').click()")
        field = "document.querySelector('[data-md-component=search-query]')"
        browser.evaluate(f"{field}.focus()")
        said = "document.querySelector('.md-search-result__meta').innerText"
        browser.wait(f"!/^(Init|$)/.test({said}.trim())", 60)  # the index is read
        browser.type("warm start")
        browser.press("End", 35)  # a key that is let go is what is listened to
        browser.wait("document.querySelector('.md-search-result__item')", 60)
        text = browser.evaluate("document.querySelector('.md-search-result').innerText")
        assert "Hypencoder" in text
        assert not browser.log
