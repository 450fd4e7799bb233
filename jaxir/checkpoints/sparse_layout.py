"""What the files of a sparse encoder say of it: who packs what where.

Beside the weights three things make a sparse encoder: where its masked language model
stands, what is made of the logits, and what a query is.
"""

from pathlib import Path
from typing import NamedTuple

from jaxir.checkpoints.masked_lm import is_masked_lm
from jaxir.checkpoints.weights import read_json
from jaxir.errors import InputError
from jaxir.sparse.idf import IDF_FILE

__all__ = [
    "ACTIVATION_NAMES",
    "OWN_KEY",
    "Parts",
    "activation_of",
    "is_sparse",
    "parts_of",
]

OWN_KEY = "jaxir_sparse"
"""The key of ``config.json`` under which our own configuration stands."""

ACTIVATION_NAMES = {"relu": "log1p", "log1p_relu": "log1p_log1p"}
"""SpladePooling's names, and ours: its ``log1p`` comes on top."""

_ENCODERS = ("MLMTransformer", "Transformer")
_TABLES = ("SparseStaticEmbedding", "IDF")


class Parts(NamedTuple):
    """Where a folder keeps what.

    Attributes:
      encoder: the folder of the masked language model.
      pooling: the folder of SpladePooling, None where nothing says how it is pooled.
      table: the folder of the queries' module, None where there is none.
      query: what a query is, None where nothing says.
    """

    encoder: Path
    pooling: Path | None
    table: Path | None
    query: str | None


def is_sparse(directory: Path) -> bool:
    """Whether a folder's files say that it is a sparse encoder.

    A masked language model alone is none: only whoever trained it knows.

    Args:
      directory: of Hugging Face's layout.
    """
    if (directory / "modules.json").is_file():
        listed = _modules(directory)
        if [name for name, _ in listed] == ["Router"]:
            return "SpladePooling" in _routed(directory).values()
        return "SpladePooling" in dict(listed)
    path = directory / "config.json"
    if not path.is_file():
        return False
    return OWN_KEY in read_json(path) or (
        (directory / IDF_FILE).is_file() and is_masked_lm(directory)
    )


def _modules(directory: Path) -> list[tuple[str, Path]]:
    """Class and folder of each module, in their order."""
    return [
        (str(entry.get("type")).rsplit(".", 1)[-1], directory / str(entry.get("path")))
        for entry in read_json(directory / "modules.json", list)
        if isinstance(entry, dict)
    ]


def _routed(directory: Path) -> dict[str, str]:
    """Class of each folder that a Router sends texts to."""
    path = directory / "router_config.json"
    found = read_json(path).get("types") if path.is_file() else None
    found = found if isinstance(found, dict) else {}
    return {name: str(kind).rsplit(".", 1)[-1] for name, kind in found.items()}


def parts_of(directory: Path) -> Parts:
    """Where a folder keeps what, by its lists of modules.

    Args:
      directory: of Hugging Face's or sentence-transformers' layout.

    Raises:
      InputError: modules that are no sparse encoder.
    """
    path = directory / "modules.json"
    if not path.is_file():
        table = (directory / IDF_FILE).is_file()
        return Parts(directory, None, None, "idf" if table else None)
    routes = {"document": _modules(directory)}
    if [name for name, _ in routes["document"]] == ["Router"]:
        path = directory / "router_config.json"
        kinds, structure = _routed(directory), read_json(path).get("structure") or {}
        routes = {
            side: [(kinds.get(name, "?"), directory / name) for name in names]
            for side, names in structure.items()
        }
    docs = routes.get("document", [])
    names = {side: [name for name, _ in listed] for side, listed in routes.items()}
    queries = names.get("query", names.get("document", []))
    encoder = len(docs) == 2 and docs[0][0] in _ENCODERS
    if not encoder or docs[1][0] != "SpladePooling":
        raise InputError(
            path, "documents by " + ", ".join(names.get("document", ["nothing"])),
            "MLMTransformer, SpladePooling",
        )  # fmt: skip
    if len(queries) == 1 and queries[0] in _TABLES:
        return Parts(docs[0][1], docs[1][1], routes["query"][0][1], "idf")
    if routes.get("query", docs) != docs:
        raise InputError(
            path, "queries by " + ", ".join(queries),
            "SparseStaticEmbedding, or what documents pass",
        )  # fmt: skip
    return Parts(docs[0][1], docs[1][1], None, "encoder")


def activation_of(pooling: Path | None) -> str | None:
    """The activation that SpladePooling's folder says; None where nothing does.

    Args:
      pooling: the folder.

    Raises:
      InputError: pooling that is no maximum, or a name that is not known.
    """
    if pooling is None:
        return None
    path = pooling / "config.json"
    data = read_json(path)
    strategy = data.get("pooling_strategy", "max")
    if strategy != "max":
        raise InputError(path, f"pooling_strategy {strategy!r}", "'max'")
    name = data.get("activation_function")
    if name is not None and name not in ACTIVATION_NAMES:
        expected = " or ".join(map(repr, ACTIVATION_NAMES))
        raise InputError(path, f"activation_function {name!r}", expected)
    return None if name is None else ACTIVATION_NAMES[name]
