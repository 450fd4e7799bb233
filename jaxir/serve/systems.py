"""Open indexes by name, exchanged for newer ones while they answer.

An index is opened and warmed on a thread of its own beside the old one, takes its place
in one step, and the old one goes when nothing asks it any more: no request is dropped.
Files that are exchanged on the disk stay readable to whoever has them open.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxir.errors import InputError
from jaxir.serve import warm
from jaxir.serve.batching import Work
from jaxir.serve.fields import Limits
from jaxir.serve.requests import Capabilities
from jaxir.serve.works import embed_work, rerank_work, search_works

if TYPE_CHECKING:
    from jaxir.checkpoints.model_dir import Model
    from jaxir.search import Searcher

__all__ = [
    "Embedder",
    "Plan",
    "Ranker",
    "Stamp",
    "System",
    "Systems",
    "named",
    "open_embedder",
    "open_ranker",
    "open_system",
    "read_stamp",
]

Stamp = tuple[int, int, int]
"""What tells one state of an index's manifest from another: time, inode and size."""


def read_stamp(directory: str | os.PathLike) -> Stamp | None:
    """The stamp of the index that stands at a place; None where there is none."""
    try:
        found = os.stat(Path(directory) / "manifest.json")
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def named(specs: Sequence[str], flag: str) -> dict[str, str]:
    """``NAME=PLACE`` or ``PLACE``, whose name is that of its folder.

    Args:
      specs: as they were given.
      flag: that gave them, for the error.

    Raises:
      InputError: a name twice, or one with other characters than a URL's plain ones.

    Example::

      >>> named(["indexes/bm25", "main=indexes/dense"], "--index")
      {'bm25': 'indexes/bm25', 'main': 'indexes/dense'}
    """
    found: dict[str, str] = {}
    for spec in specs:
        name, equals, place = spec.partition("=")
        if not equals or "/" in name:
            place = spec
            name = Path(spec.rstrip("/")).name.rpartition(":")[2] or spec
        if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise InputError(flag, f"the name {name!r}", "letters, digits, . _ -",
                             f"{flag} NAME={place}")  # fmt: skip
        if name in found:
            raise InputError(
                flag, f"the name {name!r} twice", "another for each",
                f"{flag} NAME={place}",
            )  # fmt: skip
        found[name] = place
    return found


class Plan(NamedTuple):
    """One index as it shall be served.

    Attributes:
      name: that requests call it by.
      directory: where it stands.
      texts: the collection of its documents; None for none.
      model: encodes the queries; None for the index's own.
    """

    name: str
    directory: str
    texts: str | None = None
    model: str | None = None


@dataclass(frozen=True, eq=False)
class System:
    """An open index.

    Attributes:
      plan: what was asked for.
      searcher: the open index.
      model: that encodes queries, where one does.
      work: of queries for ``k`` results.
      documents: whether hits have texts.
      stamp: of the manifest it was opened from.
    """

    plan: Plan
    searcher: "Searcher"
    model: "Model | None"
    work: Callable[[int], Work]
    documents: bool
    stamp: Stamp | None

    @property
    def explains(self) -> bool:
        """Whether the scores are sums over tokens."""
        return self.searcher.kind == "sparse"

    def info(self, reranker: str | None) -> dict[str, Any]:
        """What ``/indexes`` says of it."""
        manifest = self.searcher.manifest
        path = manifest.details.get("model_path") or ""
        return {
            "name": self.plan.name,
            "kind": self.searcher.kind,
            "docs": self.searcher.num_docs,
            "model": Path(path).name or None,
            "reranker": reranker if self.documents else None,
            "explain": self.explains,
            "documents": self.documents,
        }


def open_system(plan: Plan, limits: Limits, *, tick: warm.Tick | None = None) -> System:
    """Opens an index and compiles what its queries need.

    Args:
      plan: what is opened.
      limits: of the service.
      tick: is called between compilations; None for none beforehand.

    Raises:
      InputError: as :func:`jaxir.search.open_index`; a collection that is not there.
    """
    from jaxir.data.collection import open_collection
    from jaxir.search import open_index

    stamp = read_stamp(plan.directory)
    model = _query_model(plan)
    searcher = open_index(plan.directory, model=model)
    store = None
    if plan.texts is not None:
        store = open_collection(plan.texts).docs
        if searcher.num_docs and store.row(searcher.doc_ids[0]) < 0:
            raise InputError(
                plan.texts, f"no document {searcher.doc_ids[0]!r}, which {plan.name} "
                "has", "the collection that was indexed", "--texts NAME=COLLECTION",
            )  # fmt: skip
    sizes = warm.search_sizes(searcher.kind, limits.batch)
    work = search_works(searcher, store, most_k=limits.k, sizes=sizes)
    system = System(plan, searcher, model, work, store is not None, stamp)
    if tick is not None:
        warm.warm_search(work, model, most_k=limits.k, tick=tick)
    return system


def _query_model(plan: Plan) -> "Model | None":
    """The model of an index's queries, where they need one."""
    from jaxir.manifest import read_manifest
    from jaxir.openers import Opening, model_of

    directory = Path(plan.directory)
    manifest = read_manifest(directory)
    with_tables = manifest.kind == "sparse" and manifest.details["query"] != "encoder"
    if manifest.kind == "bm25" or with_tables:
        return None
    return model_of(Opening(directory, manifest, plan.model))


class Ranker(NamedTuple):
    """A reranker.

    Attributes:
      name: that requests call it by.
      work: of pairs.
    """

    name: str
    work: Work


def open_ranker(name: str, spec: str, *, tick: warm.Tick | None = None) -> Ranker:
    """Opens a model that scores pairs.

    Args:
      name: that requests call it by.
      spec: a folder or ``hf:ID``.
      tick: as :func:`open_system`.

    Raises:
      InputError: as :func:`jaxir.reranker.load_scoring_model`.
    """
    from jaxir.reranker import load_scoring_model
    from jaxir.scorers import make_scorer

    model = load_scoring_model(spec)
    scorer = make_scorer(model, role="reranker")
    if tick is not None:
        warm.warm_scorer(scorer, model, tick)
    return Ranker(name, rerank_work(scorer))


class Embedder(NamedTuple):
    """A model whose vectors are answered.

    Attributes:
      name: that requests call it by.
      width: of a vector.
      works: of texts, ``query`` and ``doc``.
    """

    name: str
    width: int
    works: Mapping[str, Work]


def open_embedder(
    name: str, model: "Model | str", limits: Limits, *, tick: warm.Tick | None = None
) -> Embedder:
    """Opens both sides of a dense model.

    Args:
      name: that requests call it by.
      model: it, or where it is.
      limits: of the service.
      tick: as :func:`open_system`.

    Raises:
      InputError: a model of another kind.
    """
    from jaxir.checkpoints.model_dir import load_model
    from jaxir.encode import TextEncoder

    loaded = load_model(model) if isinstance(model, str) else model
    if loaded.kind != "dense":
        raise InputError(
            loaded.path or name, f"a model of kind {loaded.kind!r} to embed with",
            "one of kind 'dense', whose texts become one vector each",
        )  # fmt: skip
    works = {}
    for side in ("query", "doc"):
        encoder = TextEncoder(loaded, side=side)
        works[side] = embed_work(encoder, name=name, batch=limits.batch)
        if tick is not None:
            warm.warm_encoder(encoder, works[side], tick)
    (first,) = works["query"].run(["a"])
    return Embedder(name, len(first.vector), works)


@dataclass
class Systems:
    """What is open now; only the event loop changes it.

    Attributes:
      open: indexes by name, the first being the default.
      ranker: scores pairs, if anything does.
      embedder: answers vectors, if anything does.
    """

    open: dict[str, System] = field(default_factory=dict)
    ranker: Ranker | None = None
    embedder: Embedder | None = None

    def capabilities(self) -> dict[str, Capabilities]:
        """What can be asked of each index."""
        return {
            name: Capabilities(
                explain=system.explains,
                rerank=self.ranker is not None and system.documents,
            )
            for name, system in self.open.items()
        }

    def infos(self) -> list[dict[str, Any]]:
        """What ``/indexes`` answers."""
        reranker = None if self.ranker is None else self.ranker.name
        return [system.info(reranker) for system in self.open.values()]
