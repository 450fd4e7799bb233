"""The gin reference: a page a folder of ``gin/``, read off the files' own text.

Every file is told with its header, the files it includes, and every macro it sets with
value and comment; an experiment also with the values that its whole run has.
"""

import re
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import NamedTuple

FOLDERS = {
    "experiments": "Experiments: a model, a task and a run with a paper's values, or a "
    "machine's. They are what `jaxir train --gin_file` is given.",
    "models": "Models: where the weights come from, and how they are changed. They "
    "define `MODEL`.",
    "tasks": "Tasks: the losses. They define `TASK`.",
    "runs": "Runs: the loop, from lists or from documents alone.",
    "search": "Settings of a search, for `jaxir search --gin_file`.",
    "t5x": "For training inside T5X ([its guide](../t5x.md)).",
}
"""The folders of ``gin/`` in the order of the pages, with what they hold."""


class Macro(NamedTuple):
    """A macro that a file sets: name, value as it is written, comment."""

    name: str
    value: str
    comment: str


class GinFile(NamedTuple):
    """What a file says: its header in three parts, includes, macros, whole text."""

    name: str
    about: str
    required: str
    overridden: str
    includes: list[str]
    macros: list[Macro]
    text: str


def statements(text: str) -> Iterator[tuple[str, str]]:
    """Each logical line of a gin file, brackets closed, with the comment behind it."""
    words: list[str] = []
    comment, end = "", (1, 0)
    for token in tokenize.generate_tokens(StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if words:
                said = token.string.lstrip("# ").rstrip()
                comment = f"{comment}; {said}" if comment else said
        elif token.type == tokenize.NEWLINE:
            yield "".join(words), comment
            words, comment = [], ""
        elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            if words and token.start[0] == end[0]:
                words.append(" " * (token.start[1] - end[1]))
            words.append(token.string)
        end = token.end


def _header(text: str) -> dict[str, str]:
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    whole = " ".join(lines)
    parts = re.split(r"\s*(Required|Commonly overridden):\s*", whole)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def read_gin(root: Path, name: str) -> GinFile:
    """One file of ``gin/``.

    Args:
      root: the folder ``gin/``.
      name: the file's path in it.
    """
    text = (root / name).read_text()
    header = _header(text)
    includes, macros = [], []
    for statement, comment in statements(text):
        include = re.fullmatch(r"include '(.*)'", statement)
        if include:
            includes.append(include[1])
        macro = re.fullmatch(r"([A-Z][A-Z0-9_]*) = (.*)", statement, re.S)
        if macro:
            macros.append(Macro(macro[1], macro[2], comment))
    about = re.sub(r"^\w+(?: run)?: ", "", header.get("", ""))
    return GinFile(
        name, about, header.get("Required", ""), header.get("Commonly overridden", ""),
        includes, macros, text,
    )  # fmt: skip


def read_all(root: Path) -> dict[str, GinFile]:
    """Every file of ``gin/`` by its path in it."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*.gin"))
    return {name: read_gin(root, name) for name in names}


def whole_run(name: str, files: dict[str, GinFile]) -> dict[str, tuple[Macro, str]]:
    """The macros of a file and of all it includes: the last one set, and where."""
    found: dict[str, tuple[Macro, str]] = {}
    for other in files[name].includes:
        if other in files:
            for key, value in whole_run(other, files).items():
                found.pop(key, None)
                found[key] = value
    for macro in files[name].macros:
        comment = macro.comment or (
            found[macro.name][0].comment if macro.name in found else ""
        )
        found.pop(macro.name, None)
        found[macro.name] = (macro._replace(comment=comment), name)
    return found


def anchor(name: str) -> str:
    """The anchor of a file, the same from every page."""
    return "gin-" + re.sub(r"[/_]", "-", name.removesuffix(".gin"))


def page_of(name: str) -> str:
    """The page that a file stands on."""
    return f"gin/{name.partition('/')[0]}.md"


def _cell(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([|*\[\]$])", r"\\\1", text)


def _prose(text: str, page: str, files: dict[str, GinFile]) -> str:
    """A header's words: files become links, macros code."""
    macros = {macro.name for file in files.values() for macro in file.macros}

    def span(match: re.Match[str]) -> str:
        if match[2]:
            return _link(match[2], page, files) if match[2] in files else match[2]
        if match[3]:
            return f"`{match[3]}`" if match[3] in macros else match[3]
        return match[1]

    names = r"(`[^`]*`)|((?:\w+/)+\w+\.gin)|\b([A-Z][A-Z0-9_]+)\b"
    return re.sub(names, span, _cell(text))


def _code(text: str) -> str:
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
    return f"<code>{text.replace('$', '&#36;').replace('*', '&#42;')}</code>"


def _link(name: str, page: str, files: dict[str, GinFile]) -> str:
    if name not in files:
        return f"`{name}` (T5X's own)"
    other = "" if page_of(name) == page else Path(page_of(name)).name
    return f"[`{name}`]({other}#{anchor(name)})"


def _table(rows: list[str], head: str) -> list[str]:
    columns = head.count("|") + 1
    return [f"| {head} |", "|" + "---|" * columns, *rows, ""]


def _section(file: GinFile, files: dict[str, GinFile], page: str) -> list[str]:
    lines = [
        f"## `{file.name}` {{ #{anchor(file.name)} }}",
        "",
        _prose(file.about, page, files),
        "",
    ]
    lines += [f"**Required**: {_prose(file.required, page, files)}", ""]
    lines += [f"**Commonly overridden**: {_prose(file.overridden, page, files)}", ""]
    if file.includes:
        links = ", ".join(_link(name, page, files) for name in file.includes)
        lines += [f"**Includes** {links}", ""]
    if file.macros:
        rows = [
            f"| `{m.name}` | {_code(m.value)} | {_cell(m.comment)} |"
            for m in file.macros
        ]
        lines += _table(rows, "macro | value | ")
    if file.includes and file.name.startswith("experiments/"):
        run = whole_run(file.name, files).values()
        rows = [
            f"| `{m.name}` | {_code(m.value)} | {_link(place, page, files)} |"
            for m, place in run
        ]
        lines += ['??? note "Every macro of this run, and the file that sets it"', ""]
        lines += [f"    {row}" for row in _table(rows, "macro | value | set in")]
    lines += ['??? quote "The file"', "", "    ```python"]
    lines += [f"    {row}".rstrip() for row in file.text.splitlines()]
    return [*lines, "    ```", ""]


def gin_pages(root: Path) -> dict[str, str]:
    """The pages by their names: ``gin/index.md`` and one a folder.

    Args:
      root: the folder ``gin/``.
    """
    files = read_all(root)
    index = [
        "# The gin files", "",
        "A run is a model x a task x a run, joined by `include`. Names in capitals are "
        "macros: `--gin.NAME=VALUE` overrides any of them, and a name that no file "
        "defines or uses is refused. What a user must choose is `%gin.REQUIRED`. "
        "Files are found by these names, in your own folder first "
        "(`--gin_search_paths` names more).", "",
    ]  # fmt: skip
    pages = {"gin/index.md": ""}
    for folder, about in FOLDERS.items():
        page = f"gin/{folder}.md"
        names = [name for name in files if name.startswith(f"{folder}/")]
        lines = [f"# gin: {folder}", "", about, ""]
        index += [f"## {folder}", "", about, ""]
        rows = []
        for name in names:
            lines += _section(files[name], files, page)
            first = re.split(r"(?<=[a-z)])[.:;] ", files[name].about)[0]
            rows.append(f"| {_link(name, 'gin/index.md', files)} | {_cell(first)} |")
        index += _table(rows, "file | ")
        pages[page] = "\n".join(lines)
    left = set(files) - {n for f in FOLDERS for n in files if n.startswith(f"{f}/")}
    if left:
        raise ValueError(f"gin files of no known folder: {sorted(left)}")
    pages["gin/index.md"] = "\n".join(index)
    return pages
