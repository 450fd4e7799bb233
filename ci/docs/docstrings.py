"""Docstrings as they stand in the code, for mkdocstrings: a griffe extension.

They have code in double backticks, ``::`` before a block of code, and Sphinx's roles.
Markdown has fences and links; sections such as ``Args:`` griffe reads itself.
"""

import re
from pathlib import Path
from typing import Any

import griffe
from api_reference import known_names

PACKAGE = Path(__file__).parent.parent.parent / "jaxir"
_ROLE = re.compile(r":(?:class|func|mod|data|attr|meth|exc):`(~?)([^`]+)`")
_CODE = re.compile(r"(``.+?``|(?<!`)`[^`\n]+`(?!`)|\x00.*?\x00)", re.S)


def _link(match: re.Match[str], scope: Any) -> str:
    name = match[2]
    shown = name.rpartition(".")[2] if match[1] else name
    target = name
    if not name.startswith("jaxir"):
        try:
            target = scope.resolve(name)
        except griffe.NameResolutionError:
            target = f"{scope.path}.{name}"
    if target not in known_names(PACKAGE):
        return f"`{shown}`"
    return f"\x00[`{shown}`][{target}]\x00"


def _prose(text: str, scope: Any) -> str:
    """Text without blocks: roles become links, marks of Markdown are shown as such."""
    text = _ROLE.sub(lambda match: _link(match, scope), text)
    parts = _CODE.split(text)
    for i in range(0, len(parts), 2):
        part = re.sub(r"([\[\]$|]|(?<!\S)#|\*)", r"\\\1", parts[i])
        parts[i] = part.replace("<", "&lt;")
    done = "".join(parts).replace("\x00", "")
    # the name of an argument is no prose
    return re.sub(r"^(\s+)(?:\\(\*)){1,2}(?=\w+:)", _stars, done, flags=re.M)


def _stars(match: re.Match[str]) -> str:
    return match[0].replace("\\", "")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def markdown(text: str, scope: Any) -> str:
    """A docstring in Markdown.

    Args:
      text: the docstring, its own indentation taken off.
      scope: the griffe object that it belongs to, in which short names are resolved.
    """
    lines, done, plain = text.splitlines(), [], []
    at = 0

    def flush() -> None:
        if plain:
            done.append(_prose("\n".join(plain), scope))
            plain.clear()

    while at < len(lines):
        line = lines[at]
        at += 1
        if not line.rstrip().endswith("::"):
            plain.append(line)
            continue
        margin = _indent(line)
        block: list[str] = []
        while at < len(lines) and (
            not lines[at].strip() or _indent(lines[at]) > margin
        ):
            block.append(lines[at])
            at += 1
        while block and not block[-1].strip():
            block.pop()
        while block and not block[0].strip():
            block.pop(0)
        if not block:
            plain.append(line)
            continue
        said = line.rstrip().removesuffix(":")
        plain.append(said if said.strip() != "Example:" else " " * margin + "Example:")
        flush()
        inner = min(_indent(row) for row in block if row.strip())
        language = "pycon" if block[0].lstrip().startswith(">>>") else "text"
        pad = " " * margin
        done += ["", f"{pad}```{language}"]
        done += [pad + row[inner:] if row.strip() else "" for row in block]
        done += [f"{pad}```", ""]
    flush()
    return "\n".join(done)


class Docstrings(griffe.Extension):
    """Rewrites each docstring when its object is found."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """When all modules are read, so that names resolve.

        Args:
          pkg: the package.
          **kwargs: what else griffe gives.
        """
        self._visit(pkg)

    def _visit(self, thing: Any) -> None:
        if thing.is_alias:
            return
        if thing.docstring is not None:
            text = thing.docstring.value
            if thing.is_class and any("Module" in str(base) for base in thing.bases):
                # a linen module's arguments are its fields
                text = re.sub(r"^Args:$", "Attributes:", text, flags=re.M)
            thing.docstring.value = markdown(text, thing)
        for member in thing.members.values():
            self._visit(member)
