"""mkdocs' hooks: the pages that are made when the site is built, and links to them."""

import os.path
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))  # this checkout's jaxir, whatever is installed

import api_reference  # noqa: E402
import cli_reference  # noqa: E402
import equations  # noqa: E402
import gin_reference  # noqa: E402
import links  # noqa: E402

from jaxir.cli.main import VERBS  # noqa: E402

PACKAGE, GIN = ROOT / "jaxir", ROOT / "gin"

_made: dict[str, str] = {}  # page -> its text
_origin: dict[str, str] = {}  # page -> its file in the repository


def _notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def _make() -> None:
    _made.clear()
    _origin.clear()
    _made.update(gin_reference.gin_pages(GIN))
    _made.update(cli_reference.cli_pages())
    _made.update(api_reference.api_pages(PACKAGE))
    for file, page in links.TOP.items():
        if page != "index.md":
            _made[page], _origin[page] = (ROOT / file).read_text(), file
    for path in _notebooks():
        page = f"notebooks/{path.stem}.md"
        text = links.notebook(path)
        source = f"{links.SOURCE}notebooks/{path.name}"
        text = re.sub(
            r"\A(# .*)", rf"\1\n\nThe notebook is [{path.name}]({source}).", text
        )
        _made[page], _origin[page] = text, f"notebooks/{path.name}"
    rows = [f"| [{_title(p)}]({Path(p).name}) |" for p in _made if "notebooks/" in p]
    head = ["# Notebooks", "", "Each runs in a minute or two, and in the tests.", ""]
    _made["notebooks/index.md"] = "\n".join([*head, "| |", "|---|", *rows])


def _nav(items: list) -> list:
    """The navigation, ``NAME/`` filled with the pages that were made."""
    done = []
    for item in items:
        title, value = (
            next(iter(item.items())) if isinstance(item, dict) else ("", item)
        )
        if isinstance(value, list):
            done.append({title: _nav(value)})
        elif value == "api/":
            done.append({title: api_reference.api_nav(PACKAGE)})
        elif value.endswith("/"):
            pages = [page for page in _made if page.startswith(value)]
            index = [page for page in pages if page.endswith("/index.md")]
            rest = [page for page in pages if not page.endswith("/index.md")]
            done.append({title: index + [{_title(page): page} for page in rest]})
        else:
            done.append(item)
    return done


def _title(page: str) -> str:
    name = Path(page).stem
    if page.startswith("notebooks/"):
        return re.sub(r"^# ", "", _made[page].partition("\n")[0])
    return name.replace("_", " ") if page.startswith("commands/") else name


def on_config(config: Any) -> Any:
    """Makes the pages and puts them into the navigation."""
    _make()
    config.nav = _nav(config.nav)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages to those of ``docs/``."""
    for page, text in _made.items():
        files.append(File.generated(config, page, content=text))
    return files


def _target(name: str, place: str) -> str | None:
    """What a name in code is linked to: a Markdown target in its brackets."""
    bare = re.sub(r"\(.*\)?$", "", name)
    if bare in api_reference.known_names(PACKAGE):
        return f"[{bare}]"
    if bare.startswith("jaxir.") and place.startswith("families/"):
        raise PluginError(f"{place}: `{name}` has no page in the API reference")
    import jaxir

    if bare.removeprefix("jaxir.") in jaxir._HOME and bare.startswith("jaxir."):
        short = bare.removeprefix("jaxir.")
        return f"[{jaxir._HOME[short]}.{short}]"
    path = re.fullmatch(r"(jaxir/[\w/]+)\.py", name)
    module = path[1].replace("/", ".") if path else ""
    if module in api_reference.known_names(PACKAGE):
        return f"[{module}]"
    file = name.removeprefix("gin/")
    if file.endswith(".gin") and (GIN / file).is_file():
        page = os.path.relpath(
            gin_reference.page_of(file), os.path.dirname(place) or "."
        )
        return f"({page}#{gin_reference.anchor(file)})"
    verb = re.fullmatch(r"jaxir (\w+)( .*)?", name)
    if verb and verb[1] in VERBS:
        page = os.path.relpath(
            f"commands/{cli_reference.page_of(verb[1])}", os.path.dirname(place) or "."
        )
        return f"({page})"
    return None


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links of a guide, as they hold here."""
    place = page.file.src_uri
    if place == "index.md":
        page.meta["hide"] = ["navigation"]
    if place in _made and place not in _origin:
        return markdown  # a reference: it has its links
    pages = {file.src_uri for file in files}
    origin = _origin.get(place, f"docs/{place}")
    text = links.moved(markdown, place, origin, pages)
    return links.linked(text, lambda name: _target(name, place))


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Formulas; options that stay in one piece where a line ends."""
    html = re.sub(
        r"<code>(--?[\w-]{1,24})</code>", r'<code class="option">\1</code>', html
    )
    return equations.with_mathml(html)
