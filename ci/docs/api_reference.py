"""The API reference: a page a module, filled by mkdocstrings; found without imports.

The public names are those of each module's ``__all__``, and the members of its classes.
"""

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

HIDDEN = ("cli", "benchmarks", "gin")
"""Rooms without a page: the commands and gin files have references of their own."""

ROOMS = {
    "data": "Collections, formats, training lists, the pipeline.",
    "nn": "Backbones, heads, towers, gradient caching.",
    "dense": "Bi-encoders.",
    "rank": "Cross-encoders: RankT5, monoT5, BERT.",
    "lm": "Language modelling on documents.",
    "hyper": "Hypencoder.",
    "pq": "Product quantization and JPQ.",
    "sparse": "Learned sparse retrieval.",
    "train": "The loop, optimizers, writers.",
    "checkpoints": "Reading and writing models.",
    "export": "Indexes and models for other engines.",
    "serve": "The HTTP service.",
    "reproduce": "The conditions behind the results.",
}
"""Packages of ``jaxir`` with what they hold; another one stands under its own name."""


class Module(NamedTuple):
    """A module: dotted name, its docstring's first sentence, public names, members."""

    name: str
    summary: str
    names: tuple[str, ...]
    members: tuple[str, ...]
    firsts: dict[str, str]


def _first(docstring: str | None) -> str:
    paragraph = " ".join((docstring or "").strip().partition("\n\n")[0].split())
    return paragraph.removesuffix("::").rstrip(":")


def _assigned(node: ast.stmt) -> list[str]:
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [target.id for target in targets if isinstance(target, ast.Name)]


def read_module(path: Path, name: str) -> Module:
    """What a file makes public, by its syntax tree.

    Args:
      path: the file.
      name: its dotted name.
    """
    tree = ast.parse(path.read_text())
    names: tuple[str, ...] = ()
    members, firsts = [], {}
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            firsts[node.name] = _first(ast.get_docstring(node))
        for target in _assigned(node):
            if target == "__all__" and isinstance(node, ast.Assign):
                names = tuple(
                    part.value
                    for part in getattr(node.value, "elts", [])
                    if isinstance(part, ast.Constant)
                )
            elif isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                firsts[target] = _first(str(after.value.value))
        if isinstance(node, ast.ClassDef):
            inner = [
                part.name for part in node.body if isinstance(part, ast.FunctionDef)
            ] + [target for part in node.body for target in _assigned(part)]
            members += [f"{node.name}.{m}" for m in inner if not m.startswith("_")]
    own = {name for name in firsts if not name.startswith("_")}
    # a name of another module is documented where it is defined
    names = tuple(n for n in names if n in own)
    kept = tuple(m for m in members if m.partition(".")[0] in names)
    return Module(name, _first(ast.get_docstring(tree)), names, kept, firsts)


@cache
def modules(package: Path) -> dict[str, Module]:
    """Every module with public names, by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[0] in HIDDEN or parts[-1] in ("__init__", "__main__"):
            continue
        name = ".".join((package.name, *parts))
        module = read_module(path, name)
        if module.names:
            found[name] = module
    return found


@cache
def known_names(package: Path) -> frozenset[str]:
    """Every identifier that a page of the reference has an anchor for."""
    return frozenset(
        name
        for module in modules(package).values()
        for name in (
            module.name,
            *(f"{module.name}.{part}" for part in (*module.names, *module.members)),
        )
    )


def page_of(name: str) -> str:
    """The page of a module, below the docs."""
    return f"api/{name}.md"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("``", "`").replace("[", "\\[")


def _rows(found: list[Module]) -> list[str]:
    rows = [f"| [`{m.name}`][{m.name}] | {_cell(m.summary)} |" for m in found]
    return ["| module | |", "|---|---|", *rows, ""]


def _room(module: Module) -> str:
    parts = module.name.split(".")
    return parts[1] if len(parts) > 2 else ""


def api_pages(package: Path) -> dict[str, str]:
    """The pages by their names: ``api/index.md`` and one a module."""
    import jaxir

    found = modules(package)
    lines = [
        "# Python", "",
        "`import jaxir` imports neither JAX nor a model; a name is loaded when it is "
        "first used. The verbs are functions named like their modules: "
        "`from jaxir.search import search`.", "",
        "## Names of `jaxir`", "", "| name | |", "|---|---|",
    ]  # fmt: skip
    for name, home in sorted(jaxir._HOME.items(), key=lambda item: item[0].lower()):
        first = found[home].firsts.get(name, "")
        lines.append(f"| [`jaxir.{name}`][{home}.{name}] | {_cell(first)} |")
    lines += ["", "## Modules", ""]
    lines += _rows([module for module in found.values() if not _room(module)])
    for room in rooms(package):
        lines += [f"### jaxir.{room}", "", ROOMS.get(room, ""), ""]
        lines += _rows([module for module in found.values() if _room(module) == room])
    pages = {"api/index.md": "\n".join(lines)}
    for module in found.values():
        head = f"# {module.name} {{ #{module.name} }}"
        title = f"{head}\n\n::: {module.name}\n"
        # what mkdocstrings takes from __all__, without names of other modules
        chosen = "".join(f"        - {name}\n" for name in module.names)
        pages[page_of(module.name)] = f"{title}    options:\n      members:\n{chosen}"
    return pages


def rooms(package: Path) -> list[str]:
    """The packages that have pages, in the order of :data:`ROOMS`."""
    found = {_room(module) for module in modules(package).values()} - {""}
    return [r for r in ROOMS if r in found] + sorted(found - set(ROOMS))


def api_nav(package: Path) -> list:
    """The part of the navigation: modules of the top, then a section a room."""
    found = list(modules(package).values())

    def items(room: str) -> list:
        return [
            {m.name.rpartition(".")[2]: page_of(m.name)}
            for m in found
            if _room(m) == room
        ]

    rest = [{f"jaxir.{room}": items(room)} for room in rooms(package)]
    return ["api/index.md", {"jaxir": items("")}, *rest]
