"""What the site adds to the guides as they stand: links, and pages from elsewhere.

A guide reads well on its own, in an editor or on GitHub; names in code such as
``jaxir.fit.fit``, ``jaxir/hyper/qnet.py``, ``experiments/jpq_small.gin`` and
``jaxir search`` become links to the references here.
"""

import json
import os.path
import re
from collections.abc import Callable, Iterator
from pathlib import Path

SOURCE = "https://github.com/jaxir/jaxir/blob/main/"
"""Where a file that has no page stands."""

TOP = {"BUILD.md": "building.md", "CONTRIBUTING.md": "contributing.md",
       "CHANGELOG.md": "changelog.md", "README.md": "index.md"}  # fmt: skip
"""Pages of the repository's top, with their places here."""

FOLDERS = {"gin": "gin/index.md", "jaxir/cli": "commands/index.md",
           "jaxir": "api/index.md", "notebooks": "notebooks/index.md"}  # fmt: skip
"""What a link to a folder of the repository leads to."""

_FENCE = re.compile(r"^\s*(```|~~~)")
_SPAN = re.compile(r"(?<![`\[])`([^`\n]+)`(?!`)")


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with each line that is not code changed."""
    done, fenced, blank, block = [], False, True, False
    for line in text.split("\n"):
        if _FENCE.match(line):
            fenced = not fenced
        indented = line.startswith("    ") and not fenced
        block = indented and (blank or block)
        if fenced or block or _FENCE.match(line):
            done.append(line)
        else:
            done.append(change(line))
        blank = not line.strip()
    return "\n".join(done)


def moved(text: str, place: str, origin: str, pages: set[str]) -> str:
    """Relative links as they hold on the site.

    Args:
      text: a page's Markdown.
      place: where the page stands on the site.
      origin: where its file stands in the repository.
      pages: every page of the site.
    """

    def link(match: re.Match[str]) -> str:
        target, hash_, anchor = match[1].partition("#")
        if "://" in target or not target:
            return match[0]
        file = os.path.normpath(os.path.join(os.path.dirname(origin), target))
        page = TOP.get(file, file.removeprefix("docs/"))
        if file.startswith("notebooks/") and file.endswith(".ipynb"):
            page = file.removesuffix(".ipynb") + ".md"
        page = FOLDERS.get(file, page)
        if page in pages:
            page = os.path.relpath(page, os.path.dirname(place) or ".")
        elif file.startswith("docs/"):
            return match[0]  # mkdocs says whether it is there
        else:
            page = SOURCE + file
        return f"]({page}{hash_}{anchor})"

    return outside_code(text, lambda line: re.sub(r"\]\(([^)\s]+)\)", link, line))


def linked(text: str, find: Callable[[str], str | None]) -> str:
    """Names in code as links, outside headings and links.

    Args:
      text: a page's Markdown.
      find: the target of a name, in brackets as Markdown has it; None where it is
        none of ours.
    """

    def change(line: str) -> str:
        if line.startswith("#"):
            return line
        return _SPAN.sub(span, line)

    def span(match: re.Match[str]) -> str:
        target = find(match[1])
        return match[0] if target is None else f"[{match[0]}]{target}"

    return outside_code(text, change)


def notebook(path: Path) -> str:
    """A notebook as Markdown: its texts and programs, in order."""
    return "\n\n".join(_cells(json.loads(path.read_text()))) + "\n"


def _cells(content: dict) -> Iterator[str]:
    for cell in content["cells"]:
        source = "".join(cell["source"]).strip("\n")
        if cell["cell_type"] == "markdown":
            yield source
        elif cell["cell_type"] == "code" and source.strip():
            yield f"```python\n{source}\n```"
