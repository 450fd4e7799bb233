"""The embedded collection: made from a small package by hand, and from tqdm."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxir.data.collection import open_collection
from jaxir.data.pydocs import SPLITS, write_pydocs
from jaxir.errors import InputError
from jaxir.files import sha256_file

# Form feeds, as the oldest modules have them, end no line for the parser.
MODULE = '''
"""Module docstring, which is not a document."""
\f
SEPARATORS = "\x1c"


def area(width, height):
    """Computes the area of a :class:`~shapes.Rectangle` in ``metres``. More words.

    See elsewhere.
    """
    # sides must have one unit
    product = width * height
    return product if product > 0 else abs(product)


class Circle:
    """A closed curve around one centre point.

    Long tale.
    """

    def grow(self, factor):
        """Multiply the radius by a positive factor."""
        if factor <= 0:
            raise ValueError("a factor must be positive, e.g. 2")
        self.radius *= factor

    def _hidden(self):
        """Private names are left out of the collection."""
        return "a private method with a long enough body to be kept otherwise"


def undocumented(argument):
    return argument * argument + argument * argument + argument * argument


def short(argument):
    """Too short."""
    return argument * argument + argument * argument + argument * argument


def old(argument):
    """Deprecated since the last release of everything."""
    return argument * argument + argument * argument + argument * argument
'''
SHARED = '''
def {name}(value):
    """Gives back what it was given at first."""
    {name}_result = value  # {name} has a text of its own
    return {name}_result, "{name}"
'''


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _judgments(folder: Path, split: str) -> list[tuple[str, str]]:
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():  # no module of that split
        return []
    lines = path.read_text().splitlines()
    assert lines[0] == "query-id\tcorpus-id\tscore"
    return [tuple(line.split("\t")[:2]) for line in lines[1:]]


@pytest.fixture
def package(tmp_path, monkeypatch) -> str:
    root = tmp_path / "site" / "geometric"
    (root / "tests").mkdir(parents=True)
    (root / "__init__.py").write_text("raise RuntimeError('never imported')\n")
    (root / "shapes.py").write_text(MODULE)
    (root / "broken.py").write_text("def broken(:\n    '''\n")
    (root / "tests" / "more.py").write_text(SHARED.format(name="in_tests"))
    for i in range(8):  # one sentence in eight top modules
        (root / f"part{i}.py").write_text(SHARED.format(name=f"identity{i}"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    return "geometric"


def test_documents_are_bodies_and_queries_first_sentences(tmp_path, package):
    folder = write_pydocs(tmp_path / "out", packages=[package])
    corpus = {row["_id"]: row for row in _rows(folder / "corpus.jsonl")}
    queries = {row["_id"]: row["text"] for row in _rows(folder / "queries.jsonl")}
    assert sorted(name for name in corpus if "shapes" in name) == [
        "geometric.shapes.Circle",
        "geometric.shapes.Circle.grow",
        "geometric.shapes.area",
    ]
    area = corpus["geometric.shapes.area"]
    assert area["title"] == "geometric.shapes.area"
    assert area["text"].startswith("def area(width, height):\n    # sides must")
    assert area["text"].endswith("else abs(product)")
    assert "Multiply the radius" not in corpus["geometric.shapes.Circle"]["text"]
    assert "def grow(self, factor):" in corpus["geometric.shapes.Circle"]["text"]
    relevant = {
        doc: queries[query]
        for split, _ in SPLITS
        for query, doc in _judgments(folder, split)
    }
    assert relevant["geometric.shapes.area"] == (
        "Computes the area of a shapes.Rectangle in metres"
    )
    assert relevant["geometric.shapes.Circle.grow"] == (
        "Multiply the radius by a positive factor"
    )
    # shared across splits: documents stay, the query goes
    assert {f"geometric.part{i}.identity{i}" for i in range(8)} <= set(corpus)
    assert "Gives back what it was given at first" not in queries.values()


def test_installed_package_splits_by_module_and_records_itself(tmp_path):
    folder = write_pydocs(tmp_path / "out", packages=["stdlib", "tqdm"], max_docs=600)
    corpus = {row["_id"]: row["text"] for row in _rows(folder / "corpus.jsonl")}
    queries = {row["_id"] for row in _rows(folder / "queries.jsonl")}
    assert len(corpus) == 600
    groups, seen = {}, set()
    for split, _ in SPLITS:
        pairs = _judgments(folder, split)
        assert pairs
        seen |= {query for query, _ in pairs}
        groups[split] = {
            ".".join(doc.split(".")[: 2 if doc.startswith("tqdm.") else 1])
            for _, doc in pairs
        }
        assert {doc for _, doc in pairs} <= set(corpus)
    assert seen == queries
    assert not groups["train"] & groups["dev"] | groups["train"] & groups["test"]
    assert not groups["dev"] & groups["test"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["counts"]["docs"] == 600
    assert set(manifest["packages"]) == {"stdlib", "tqdm"}
    for name, digest in manifest["files"].items():
        assert sha256_file(folder / name) == digest
    assert len(manifest["files"]) == 5


def test_two_processes_write_the_same_bytes(tmp_path):
    code = (
        "import sys; from jaxir.data.pydocs import write_pydocs\n"
        f"write_pydocs({str(tmp_path / 'a')!r}, packages=['optax'], max_docs=100)\n"
        "assert not {'jax', 'optax'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2]
    )
    write_pydocs(tmp_path / "b", packages=["optax"], max_docs=100)
    first = json.loads((tmp_path / "a" / "manifest.json").read_text())
    second = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert first == second


def test_no_docstring_is_left_in_a_document(tmp_path):
    folder = write_pydocs(tmp_path / "out", packages=["tqdm"])
    whole = 0
    for row in _rows(folder / "corpus.jsonl"):
        try:
            tree = ast.parse(row["text"])
        except SyntaxError:  # cut at the length limit, or a body that was docstring
            continue
        whole += 1
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert ast.get_docstring(node) is None
    assert whole > 20


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"packages": ["no_such_package_anywhere"]}, "no Python sources of 'no_such"),
        ({"packages": ["a-b"]}, "'a-b'; expected the name of a package"),
        ({"packages": ["tqdm"], "max_docs": 0}, "max_docs: 0; expected at least 1"),
        ({"packages": []}, "no documented functions or classes"),
    ],
)
def test_mistakes_say_what_to_do(tmp_path, keywords, message):
    with pytest.raises(InputError, match=message):
        write_pydocs(tmp_path / "out", **keywords)
    assert not (tmp_path / "out").exists()


def test_a_split_without_queries_is_left_out(tmp_path):
    """One small package has modules for some of the splits only."""
    folder = write_pydocs(tmp_path / "docs", packages=["json"])
    splits = open_collection(folder).splits
    assert splits
    assert set(splits) < {"train", "dev", "test"}
    assert open_collection(folder).check().num_docs > 0
