"""Fuse several runs into one: reciprocal ranks, interpolation, CombSUM or CombMNZ.

jaxir fuse --runs bm25.trec dense.trec --method rrf --output fused.trec
"""

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", nargs="+", required=True, help="TREC run files")
    parser.add_argument("--output", required=True, help="where the fused run goes")
    parser.add_argument(
        "--method", default="rrf", help="rrf, interpolation, combsum or combmnz"
    )
    parser.add_argument(
        "--rrf.k", dest="rrf_k", type=float, default=60.0, help="constant of rrf (60)"
    )
    parser.add_argument(
        "--weights", nargs="+", type=float, help="one for each run; equal by default"
    )
    parser.add_argument(
        "--normalization", default="min-max", help="min-max, z-score or none"
    )
    parser.add_argument(
        "--depth", type=int, default=1000, help="documents kept for a query (1000)"
    )
    parser.add_argument("--tag", default="fused", help="last column of the run")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    import json

    from jaxir.data.formats import read_run, write_run
    from jaxir.fuse import fuse
    from jaxir.progress import progress_bar, say

    runs = [read_run(path) for path in progress_bar(args.runs, label="read runs")]
    fused = fuse(
        runs, method=args.method, weights=args.weights, rrf_k=args.rrf_k,
        normalization=args.normalization, depth=args.depth,
    )  # fmt: skip
    write_run(args.output, fused, tag=args.tag)
    partly = sum(any(query_id not in run for run in runs) for query_id in fused)
    if partly:
        say(f"{partly} of {len(fused)} queries are not in every run")
    results = sum(len(scored) for scored in fused.values())
    if args.json:
        print(json.dumps({
            "output": args.output, "method": args.method, "runs": args.runs,
            "queries": len(fused), "results": results,
        }))  # fmt: skip
    else:
        say(f"{args.output}: {results} results of {len(fused)} queries")
    return 0
