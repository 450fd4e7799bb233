"""The house rules that a reader relies on: layers, size, light imports, docstrings."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import jaxir

PACKAGE = Path(jaxir.__file__).parent
FILES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).parts[0] not in ("benchmarks", "gin")
)
FAMILIES = {"dense", "lm", "rank", "hyper", "pq", "sparse"}

# Lowest first: a file imports from its own layer and from lower ones only.
LAYERS = [
    {"__init__", "errors", "files", "progress", "types"},
    {"numerics", "text", "text_backends", "pairs", "data", "manifest"},
    {"topk", "losses", "mesh", "bucketing", "vectors", "blocks"},
    {"nn", "objective"},
    FAMILIES,
    {"families"},
    {"checkpoints", "train"},
    {
        "bm25", "encode", "evaluate", "fit", "fuse", "hypencoder", "index", "index_job",
        "jpq", "label", "measures", "mine", "openers", "plots", "pq_change", "pq_index",
        "pretrain", "report", "rerank", "reranker", "run_directory", "scorers",
        "search", "shards", "significance", "sparse_bm25", "sparse_change",
        "sparse_corpus", "sparse_encoder", "sparse_index", "sparse_query", "style",
        "tables", "validate",
    },
    {"export"},
    {"serve"},
    {"reproduce"},
    {"cli", "__main__"},
]  # fmt: skip
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}

# The host side: data workers import these, and they must stay light.
HOST_ROOMS = {
    "errors", "files", "progress", "types", "text", "text_backends", "pairs", "data",
    "manifest",
}  # fmt: skip


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names.append(node.module or "")
            if node.module == "jaxir":
                names += [f"jaxir.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers(path):
    room = room_of(path)
    assert room in RANK, f"{path} stands in no layer of tests/test_house.py"
    for name in imports_of(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] == "gin":
            assert path == PACKAGE / "cli" / "config.py", (
                "only cli/config.py imports gin"
            )
        if room in HOST_ROOMS:
            assert parts[0] not in ("jax", "flax", "optax"), f"{name} in host code"
        if parts[0] != "jaxir" or len(parts) == 1:
            continue
        other = parts[1]
        if other not in RANK:
            continue  # a name of jaxir/__init__.py, such as __version__
        assert RANK[other] <= RANK[room], f"{room} must not import {other}"
        if room in FAMILIES and other in FAMILIES:
            assert room == other, f"family {room} imports family {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_size(path):
    assert len(path.read_text().splitlines()) <= 400


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = [p for p in FILES if p.name not in ("__init__.py", "__main__.py")]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_names_are_documented(path):
    module = importlib.import_module(module_name(path))
    assert module.__doc__, "a module says what it holds"
    tree = ast.parse(path.read_text())
    documented_values = {
        target.id
        for before, after in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        for target in getattr(before, "targets", [getattr(before, "target", None)])
        if isinstance(target, ast.Name)
    }
    is_verb_module = room_of(path) == "cli"
    for name in getattr(module, "__all__", []):
        value = getattr(module, name)
        if is_verb_module and name in ("add_arguments", "run"):
            continue
        if callable(value) and getattr(value, "__module__", "").startswith("jaxir"):
            assert value.__doc__, f"{name} has no docstring"
        else:
            assert name in documented_values, f"{name} has no docstring below it"


def test_facade_names_exist():
    for name in jaxir.__all__:
        assert getattr(jaxir, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = jaxir.nothing


HEAVY = ("jax", "jaxlib", "flax", "tensorflow", "transformers", "torch", "numpy")


@pytest.mark.parametrize(
    "statement",
    [
        "import jaxir",
        "from jaxir.cli.main import main; main(['--help'])",
        "from jaxir.cli.main import main; main(['--version'])",
        "from jaxir.cli.main import main; main(['nonsense'])",
    ],
)
def test_light_start(statement):
    code = f"{statement}\nimport sys\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_verb_help_imports_no_jax():
    code = (
        "import sys\nfrom jaxir.cli import main as m\n"
        "for verb in m.VERBS:\n    m.make_parser(verb)\n"
        f"print(sorted(set({HEAVY[:6]!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_gin_folder_does_not_shadow_gin_config():
    import gin

    assert hasattr(gin, "parse_config")


def test_no_pickle_is_loaded():
    for path in FILES:
        text = path.read_text()
        for forbidden in ("pickle.load", "allow_pickle=True", "torch.load("):
            assert forbidden not in text, f"{path} uses {forbidden}"
