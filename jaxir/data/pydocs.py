"""The embedded collection: the documented Python code of this installation.

A *query* is the first sentence of a docstring, in the words of whoever wrote the
function; its relevant *document* is that function, method or class: qualified name,
signature and body, with every docstring taken out.  Matching the two is code search
(as in CoSQA or CodeSearchNet) on real text, and needs no download.

Sources are parsed with :mod:`ast`, never imported.  The result is the same for the same
installation: modules are walked in sorted order, and every choice (split, subsample)
hangs on a hash of a name.  Splits are by top module, such as ``json`` or
``scipy.optimize``, so that no module has queries in two splits.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import re
import sysconfig
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxir.errors import InputError
from jaxir.files import atomic_directory, sha256_file
from jaxir.progress import progress_bar

__all__ = ["DEFAULT_PACKAGES", "SPLITS", "write_pydocs"]

DEFAULT_PACKAGES = (
    "stdlib", "numpy", "scipy", "jax", "flax", "optax", "matplotlib", "orbax",
    "grain", "numba", "huggingface_hub", "rax", "tqdm",
)  # fmt: skip
"""What is read when nothing is named; those that are not installed are passed over."""

SPLITS = (("train", 0.76), ("dev", 0.12), ("test", 0.12))
"""Names of the splits and the share of top modules that each is given."""

MAX_TEXT = 2000  # characters of signature and body
MIN_TEXT = 60
MAX_SHARED = 5  # a sentence on more documents than this is boilerplate

_SKIPPED_FOLDERS = {
    "test", "tests", "testing", "_testing", "__pycache__", "site-packages",
    "dist-packages", "idlelib", "lib2to3", "turtledemo", "ensurepip", "vendored",
    "_vendor", "_vendored", "vendor", "deprecated", "examples", "benchmarks",
    "pydoc_data", "_generated",
}  # fmt: skip
_SKIPPED_SENTENCE = re.compile(
    r"^(see |same as |like |as |alias|not implemented|todo|fixme|xxx|copyright|test"
    r"|helper for|parameters|returns?:|args:|internal|dummy|base class for|mixin"
    r"|implements? [`:\w.]+$|docstring|wrapper (for|around)|overrid|inherit|subclass)"
    r"|\bimplementation of [`:\w.]*\.\w+|deprecated|do not use|for backwards?.compat",
    re.IGNORECASE,
)
_TEST_FILE = re.compile(r"(^|_)test(s|ing)?(_|\b)")
_SIGNATURE = re.compile(r"^[\w.*, =]+\([^)]*\)?(\s*->.*)?")
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\bcf)[.!?:](?=\s|$)")
_ROLE = re.compile(r":[a-z:+-]+:`~?!?([^`<]*?)\s*(?:<[^`]*>)?`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`]*>`_*")
_MARKS = re.compile(r"``|(?<!\w)[`*|]+(?=\w)|(?<=\w)[`*|]+(?!\w)|`|~\.?(?=\w)")


class _Source(NamedTuple):
    """One file: where it is, its module, and the top module that decides the split."""

    path: Path
    module: str
    group: str


class _Entry(NamedTuple):
    """One documented object."""

    name: str
    group: str
    query: str
    text: str


def write_pydocs(
    directory: str | os.PathLike,
    *,
    packages: Sequence[str] | None = None,
    max_docs: int | None = 5000,
) -> Path:
    """Writes the embedded collection as a BEIR folder.

    Beside ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/{train,dev,test}.tsv`` stands
    ``manifest.json`` with the Python version, the packages with their versions, the
    counts and the sha256 of every file.  Sentences that several documents share make
    one query with several relevant documents; those that modules of different splits
    share make none, but their documents stay in the corpus.

    Args:
      directory: the folder to write; an existing one is replaced as a whole.
      packages: top-level packages to read, ``"stdlib"`` for the standard library; by
        default those of :data:`DEFAULT_PACKAGES` that are installed.
      max_docs: the most documents; more are thinned by a hash of their names.  None
        keeps all.

    Returns:
      The path of the folder.

    Raises:
      InputError: a named package is not installed or has no documented Python code, or
        ``directory`` cannot be written.

    Example::

      >>> import tempfile
      >>> folder = write_pydocs(
      ...     tempfile.mkdtemp() + "/docs", packages=["tqdm"], max_docs=50)
      >>> sorted(path.name for path in folder.iterdir())
      ['corpus.jsonl', 'manifest.json', 'qrels', 'queries.jsonl']
    """
    if max_docs is not None and max_docs < 1:
        raise InputError("max_docs", str(max_docs), "at least 1")
    sources: list[_Source] = []
    versions: dict[str, str] = {}
    for package in DEFAULT_PACKAGES if packages is None else sorted(set(packages)):
        found = list(_sources(package))
        if found:
            sources += found
            versions[package] = _version(package)
        elif packages is not None:
            raise InputError(
                "packages", f"no Python sources of {package!r}",
                "an installed package", "install it or leave it out",
            )  # fmt: skip
    entries = _read_entries(sources)
    if max_docs is not None and len(entries) > max_docs:
        kept = sorted(entries, key=lambda entry: _digest(entry.name))[:max_docs]
        entries = sorted(kept)
    if not entries:
        raise InputError(
            "packages", "no documented functions or classes", "some",
            "name other packages",
        )  # fmt: skip
    queries, qrels = _judge(entries)
    qrels = {split: rows for split, rows in qrels.items() if rows}  # of few modules
    if not qrels:
        raise InputError(
            "packages", "no sentence that can be a query", "some",
            "name other packages",
        )  # fmt: skip
    with atomic_directory(directory) as folder:
        _write_folder(folder, entries, queries, qrels)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest = {
            "kind": "pydocs",
            "format_version": 1,
            "python": platform.python_version(),
            "packages": versions,
            "counts": {
                "docs": len(entries),
                "queries": {name: len(rows) for name, rows in qrels.items()},
            },
            "files": {
                path.relative_to(folder).as_posix(): sha256_file(path) for path in files
            },
        }
        text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
        (folder / "manifest.json").write_text(text, encoding="utf-8")
    return Path(directory)


def _digest(text: str) -> str:
    """A name's hash: the only source of choice in this file."""
    return hashlib.sha256(text.encode()).hexdigest()


def _version(package: str) -> str:
    """The version of the distribution that carries ``package``."""
    if package == "stdlib":
        return platform.python_version()
    names = importlib.metadata.packages_distributions().get(package, [package])
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def _sources(package: str) -> Iterator[_Source]:
    """The Python files of a package, without importing it."""
    if package == "stdlib":
        roots, prefix = [Path(sysconfig.get_path("stdlib"))], ""
    else:
        if not package.isidentifier():
            raise InputError("packages", repr(package), "the name of a package")
        spec = importlib.util.find_spec(package)
        roots = [Path(p) for p in (spec and spec.submodule_search_locations) or []]
        prefix = package
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
            for name in sorted(names):
                if not name.endswith(".py") or re.search(
                    r"(^|_)test(s|ing)?(_|\b)", name
                ):
                    continue
                path = Path(folder, name)
                parts = list(path.relative_to(root).with_suffix("").parts)
                if parts[-1] == "__init__":
                    parts.pop()
                # private modules of the standard library are another's machinery;
                # elsewhere (scipy, jax._src) they are where public functions live
                if prefix == "" and any(part.startswith("_") for part in parts):
                    continue
                module = ".".join([prefix, *parts] if prefix else parts)
                yield _Source(path, module, _group(module, depth=2 if prefix else 1))


def _group(module: str, *, depth: int) -> str:
    """The top module that decides the split: ``json``, ``scipy.optimize``.

    ``jax._src`` is passed over, since the whole of jax lives in it.
    """
    parts = [part.lstrip("_") for part in module.split(".") if part != "_src"]
    return ".".join(parts[:depth])


def _split(group: str) -> str:
    """The split of a top module, drawn by its hash."""
    share = int(_digest("split " + group)[:12], 16) / 16**12
    for name, width in SPLITS:
        share -= width
        if share < 0:
            return name
    return SPLITS[-1][0]


def _read_entries(sources: Sequence[_Source]) -> list[_Entry]:
    """All documented objects, sorted by name, no name and no text twice."""
    entries: dict[str, _Entry] = {}
    texts: set[str] = set()
    for source in progress_bar(sources, label="reading Python sources", unit="file"):
        try:
            code = source.path.read_text(encoding="utf-8")
            if '"""' not in code and "'''" not in code:
                continue
            with warnings.catch_warnings():  # of others' stray escapes
                warnings.simplefilter("ignore", SyntaxWarning)
                tree = ast.parse(code)
        except (UnicodeDecodeError, SyntaxError, ValueError):
            continue  # not all that ends in .py is Python, as templates are not
        lines = code.split("\n")  # as ast counts: a form feed ends no line
        for name, query, text in _objects(tree, lines, source.module):
            if name not in entries and text not in texts:
                entries[name] = _Entry(name, source.group, query, text)
                texts.add(text)
    return sorted(entries.values())


def _objects(
    tree: ast.Module, lines: list[str], module: str
) -> Iterator[tuple[str, str, str]]:
    """Yields (qualified name, first sentence, text) of a module's public objects."""
    quotes = _docstring_lines(tree)
    pending: list[tuple[ast.AST, str]] = [(tree, module)]
    while pending:
        parent, prefix = pending.pop()
        for node in ast.iter_child_nodes(parent):
            if not isinstance(
                node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            ):
                continue
            if node.name.startswith("_") or node.name.lower().startswith("test"):
                continue
            name = f"{prefix}.{node.name}" if prefix else node.name
            if isinstance(node, ast.ClassDef):
                pending.append((node, name))
            docstring = ast.get_docstring(node, clean=False)
            if docstring is None:
                continue
            query = _first_sentence(docstring)
            text = _text(node, lines, quotes)
            if query and len(text) >= MIN_TEXT:
                yield name, query, text


def _docstring_lines(tree: ast.Module) -> set[int]:
    """The line numbers (from 1) of every docstring in a file.

    Walks statements only, a tenth of what :func:`ast.walk` would visit.
    """
    found: set[int] = set()
    pending: list[Any] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                found.update(range(first.lineno, (first.end_lineno or 0) + 1))
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            pending += getattr(node, name, ())
    return found


def _text(node: ast.AST, lines: list[str], quotes: set[int]) -> str:
    """Signature and body in the author's own lines, without docstrings."""
    start, end = node.lineno, node.end_lineno  # type: ignore[attr-defined]
    if start in quotes:  # "def f(): 'says so'": nothing is left
        return ""
    kept = [lines[i - 1] for i in range(start, end + 1) if i not in quotes]
    text = textwrap.dedent("\n".join(line for line in kept if line.strip()))
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT].rsplit("\n", 1)[0]
    return text


def _first_sentence(docstring: str) -> str | None:
    """The first sentence in plain words, or None where it says too little."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    if len(paragraphs) > 1 and _SIGNATURE.fullmatch(paragraphs[0].strip()):
        paragraphs = paragraphs[1:]
    text = " ".join(paragraphs[0].split())
    text = _MARKS.sub("", _LINK.sub(r"\1", _ROLE.sub(r"\1", text)))
    end = _SENTENCE_END.search(text)
    text = (text[: end.start()] if end else text).strip(" .-")
    words = re.findall(r"[A-Za-z]{2,}", text)
    if not 4 <= len(words) <= 50 or len(text) > 300 or _SKIPPED_SENTENCE.search(text):
        return None
    if _SIGNATURE.fullmatch(text) or sum(map(len, words)) < 0.6 * len(text):
        return None
    return text


def _judge(
    entries: Sequence[_Entry],
) -> tuple[dict[str, str], dict[str, dict[str, list[str]]]]:
    """Queries by id, and per split the relevant documents of each."""
    shared: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        shared[" ".join(re.findall(r"\w+", entry.query.lower()))].append(entry)
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, list[str]]] = {name: {} for name, _ in SPLITS}
    for key, group in sorted(shared.items()):
        splits = {_split(entry.group) for entry in group}
        if len(splits) > 1 or len(group) > MAX_SHARED:
            continue
        query_id = "q" + _digest(key)[:12]
        queries[query_id] = group[0].query
        qrels[splits.pop()][query_id] = [entry.name for entry in group]
    return queries, qrels


def _write_folder(
    folder: Path,
    entries: Sequence[_Entry],
    queries: dict[str, str],
    qrels: dict[str, dict[str, list[str]]],
) -> None:
    """The files of a BEIR collection."""
    (folder / "qrels").mkdir()
    with (folder / "corpus.jsonl").open("w", encoding="utf-8", newline="\n") as out:
        for entry in entries:
            row = {"_id": entry.name, "title": entry.name, "text": entry.text}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    with (folder / "queries.jsonl").open("w", encoding="utf-8", newline="\n") as out:
        for query_id, text in queries.items():
            row = {"_id": query_id, "text": text}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    for split, rows in qrels.items():
        lines = ["query-id\tcorpus-id\tscore"]
        lines += [f"{query}\t{doc}\t1" for query, docs in rows.items() for doc in docs]
        text = "\n".join(lines) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
