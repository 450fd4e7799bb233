"""The parts of the road that ``jaxir demo`` goes, each some stages and their runs."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxir.checkpoints.model_dir import Model, load_model
from jaxir.cli.stages import Stages, experiment_text
from jaxir.cli.train import train_from_gin
from jaxir.data.collection import Collection
from jaxir.data.formats import Run, read_run, write_run
from jaxir.files import atomic_file
from jaxir.fit import pretrained
from jaxir.fuse import fuse
from jaxir.hyper.graph import GraphSearchConfig
from jaxir.index import BuildOptions, build_index
from jaxir.index_job import PqOptions
from jaxir.manifest import read_manifest
from jaxir.rerank import rerank
from jaxir.search import open_index

__all__ = [
    "BASELINE",
    "CENTROIDS",
    "NEIGHBORS",
    "Road",
    "baseline",
    "compressed",
    "fusion",
    "hypencoder",
    "reranker",
    "retriever",
    "sparse",
]

BASELINE = "BM25"
"""What all systems are compared with."""

RERANKED = 20  # documents of a query that the cross-encoder reads
RERANKED_LENGTH = 96  # tokens of query and document
NEIGHBORS = 16
"""Of a document, in the graph that a Hypencoder walks along."""

CENTROIDS = 256
"""Of a byte of the compressed index, each of which wants a document."""

SPARSE_LENGTH = 48  # tokens of a document that the sparse encoder reads
PART_WIDTH = 16  # numbers of a vector that one of its bytes stands for
LENGTHS = ("query_length", "doc_length")


@dataclasses.dataclass(frozen=True)
class Road:
    """What all parts know, and what they leave.

    Attributes:
      out: everything is kept here: ``runs/``, ``indexes/`` and models.
      collection: what is searched, with a split ``train``.
      split: whose queries are searched with.
      model: the retriever to start from.
      stages: runs what is not there yet.
      bindings: of every training.
      retriever_bindings: of the retriever's, from the command line.
      command: how the demo was started.
      runs: by the names of the systems, as they come.
    """

    out: Path
    collection: Collection
    split: str
    model: str
    stages: Stages
    bindings: tuple[str, ...]
    retriever_bindings: tuple[str, ...]
    command: str
    runs: dict[str, Run] = dataclasses.field(default_factory=dict)

    @property
    def queries(self) -> Mapping[str, str]:
        """Of the split that is evaluated."""
        return self.collection.queries(self.split)

    @property
    def trained(self) -> Path:
        """The retriever after its training."""
        return self.out / "model"

    @property
    def candidates(self) -> Path:
        """BM25's documents for the queries that are trained on."""
        return self.out / "runs" / "bm25-train.trec"

    def run_of(self, stem: str) -> Path:
        """A run by its file's name."""
        return self.out / "runs" / f"{stem}.trec"

    def index_of(self, stem: str) -> Path:
        """An index by its folder's name."""
        return self.out / "indexes" / stem

    def train(
        self, label: str, experiment: str, start: str, place: Path, *more: str
    ) -> None:
        """A stage that trains a model as a gin file says."""
        # The last of several bindings of a name counts.
        chosen = [*self.bindings, f"MODEL_PATH = {start!r}", *more]
        file = f"experiments/{experiment}.gin"
        content = hashlib.sha256(experiment_text(file).encode()).hexdigest()
        self.stages(
            f"training {label}", [*chosen, content], place,
            lambda: train_from_gin([file], chosen, str(place), command=self.command),
        )  # fmt: skip

    def search(
        self,
        name: str,
        load: Callable[[], Model | str],
        settings: object,
        options: BuildOptions | None = None,
        kind: str | None = None,
    ) -> None:
        """Two stages that index the collection and search it."""
        stem = name.lower().replace(" ", "-")
        index, trec = self.index_of(stem), self.run_of(stem)
        self.stages(
            f"{name}: index {len(self.collection.docs):,} documents", settings, index,
            lambda: build_index(
                load(), self.collection, index, kind=kind, options=options
            ),
        )  # fmt: skip
        self.stages(
            f"{name}: search {len(self.queries):,} queries", self.split, trec,
            lambda: write_run(trec, open_index(index).search(self.queries, k=100)),
        )  # fmt: skip
        self.runs[name] = read_run(trec)


def baseline(road: Road) -> None:
    """BM25, and its candidates for the training."""
    identity = [road.collection.docs.fingerprint, road.split]
    road.search(BASELINE, lambda: "bm25", identity)
    queries, index = road.collection.queries("train"), road.index_of("bm25")
    road.stages(
        f"{BASELINE}: mine {len(queries):,} training queries",
        "train", road.candidates,
        lambda: write_run(
            road.candidates, open_index(index).search(queries, k=100)
        ),
    )  # fmt: skip


def retriever(road: Road) -> None:
    """A bi-encoder before and after training."""

    def zero_shot() -> Model:
        config = load_model(str(road.trained)).config  # to be comparable
        return pretrained(road.model, {name: getattr(config, name) for name in LENGTHS})

    road.train(
        "a retriever", "demo", road.model, road.trained, *road.retriever_bindings
    )
    road.search("Zero-shot", zero_shot, road.model)
    road.search("Fine-tuned", lambda: str(road.trained), "")


def reranker(road: Road) -> None:
    """A cross-encoder that reads the first documents of BM25."""
    place, trec = road.out / "reranker", road.run_of("bm25-reranked")
    # of DPR's two encoders the one that reads questions
    start = road.model.removeprefix("dpr:").partition(",")[0]
    positions = load_model(str(road.trained)).config.backbone.max_length
    length = f"MAX_LENGTH = {min(RERANKED_LENGTH, positions)}"
    road.train("a cross-encoder", "demo_rerank", start, place, length)
    road.stages(
        f"{BASELINE} + reranker: the first {RERANKED} documents of each query",
        [road.split, RERANKED], trec,
        lambda: rerank(
            load_model(str(place)), road.run_of("bm25"), road.collection,
            output=trec, k=RERANKED, queries=road.queries, keep_rest=True,
        ),
    )  # fmt: skip
    road.runs[f"{BASELINE} + reranker"] = read_run(trec)


def hypencoder(road: Road) -> str:
    """Queries as small networks; says how many documents the walk scored."""
    place, name = road.out / "hypencoder", "Hypencoder"
    config = load_model(str(road.trained)).config
    same = ("towers", "pooling", "similarity", *LENGTHS)  # as its bi-encoder
    towers = [f"{field.upper()} = {getattr(config, field)!r}" for field in same]
    road.train(
        "a Hypencoder", "demo_hypencoder", str(road.trained), place, *towers,
        *_dev_split(road),
    )  # fmt: skip
    road.search(name, lambda: str(place), NEIGHBORS, BuildOptions(neighbors=NEIGHBORS))
    docs = len(road.collection.docs)
    walk = GraphSearchConfig(entry_points=max(docs // 10, 1), explore=32, iterations=8)
    index, trec = road.index_of("hypencoder"), road.run_of("graph")
    note = road.out / "runs" / "graph.json"

    def search() -> None:
        searcher = open_index(index, mode="graph", graph=walk)
        write_run(trec, searcher.search(road.queries, k=100))
        with atomic_file(note) as file:
            json.dump({"scored": searcher.docs_scored / len(road.queries)}, file)

    road.stages(
        f"{name}: search {len(road.queries):,} queries along the graph",
        [road.split, repr(walk)], note, search,
    )  # fmt: skip
    road.runs[f"{name}, graph"] = read_run(trec)
    scored: Any = json.loads(note.read_text())["scored"]
    return f"scored {scored:,.0f} of {docs:,} documents a query"


def compressed(road: Road) -> str:
    """The retriever's index in a byte for 16 numbers; says what that saves and costs.

    Empty where there are fewer documents than centroids.
    """
    if len(road.collection.docs) < CENTROIDS:
        return ""
    dense, whole, place = road.index_of("fine-tuned"), "Fine-tuned", road.out / "jpq"
    width = int(read_manifest(dense).details["width"])
    most = max(1, width // PART_WIDTH)
    parts = next(count for count in range(most, 0, -1) if width % count == 0)
    chosen = BuildOptions(pq=PqOptions(subvectors=parts, vectors=dense))
    road.search("OPQ", lambda: str(road.trained), parts, chosen, kind="pq")
    opq = road.index_of("opq")
    road.train(
        "JPQ", "demo_jpq", str(opq), place, f"INDEX = {str(opq)!r}",
        "CANDIDATES = None", *_dev_split(road),
    )  # fmt: skip
    taken = BuildOptions(pq=PqOptions(codes=opq))
    road.search("JPQ", lambda: str(place), parts, taken)
    note = road.out / "runs" / "jpq.json"

    def measure() -> None:
        seconds = {}
        for name in (whole, "JPQ"):
            searcher = open_index(road.index_of(name.lower()))
            searcher.search(road.queries, k=100)  # compiles
            start = time.perf_counter()
            searcher.search(road.queries, k=100)
            seconds[name] = (time.perf_counter() - start) / len(road.queries)
        with atomic_file(note) as file:
            json.dump(seconds, file)

    road.stages("JPQ: time of a query beside the vectors'", road.split, note, measure)
    before, after = (1000 * json.loads(note.read_text())[n] for n in (whole, "JPQ"))
    return (
        f"{parts} bytes a document for {4 * width} ({4 * width // parts} times fewer), "
        f"{after:.1f} ms a query for {before:.1f}, its encoding included"
    )


def sparse(road: Road) -> str:
    """Documents as weights of tokens, queries without a model; says how sparse."""
    place, name = road.out / "sparse", "Sparse"
    start = road.model.removeprefix("dpr:").partition(",")[0]
    positions = load_model(str(road.trained)).config.backbone.max_length
    limits = {"QUERY_LENGTH": 32, "DOC_LENGTH": SPARSE_LENGTH}
    lengths = [f"{key} = {min(size, positions)}" for key, size in limits.items()]
    road.train("a sparse encoder", "demo_sparse", start, place, *lengths)
    road.search(name, lambda: str(place), "")
    details = read_manifest(road.index_of("sparse")).details
    return (
        f"{details['tokens_per_doc']:.0f} tokens a document, "
        f"{details['expansion_rate']:.1f} added for each that stands in it"
    )


def fusion(road: Road) -> None:
    """BM25 and the retriever in one ranking."""
    trec = road.run_of("fusion")
    both = [road.runs[BASELINE], road.runs["Fine-tuned"]]
    road.stages(
        "Fusion of BM25 and Fine-tuned by reciprocal ranks", "rrf", trec,
        lambda: write_run(trec, fuse(both, depth=100)),
    )  # fmt: skip
    road.runs["Fusion"] = read_run(trec)


def _dev_split(road: Road) -> list[str]:
    """All retrievers choose their step on the same split."""
    return [text for text in road.retriever_bindings if text.startswith("DEV_SPLIT")]
