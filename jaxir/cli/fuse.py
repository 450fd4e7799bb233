"""Fuse several runs into one: reciprocal ranks, interpolation, CombSUM or CombMNZ.

jaxir fuse --runs bm25.trec dense.trec --method rrf --output fused.trec
"""

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", nargs="+", required=True, help="TREC run files")
    parser.add_argument("--output", required=True, help="where the fused run goes")
    parser.add_argument(
        "--method", default="rrf", help="rrf, interpolation, combsum or combmnz"
    )
    parser.add_argument(
        "--rrf.k", dest="rrf_k", type=float, help="constant of rrf (60)"
    )
    parser.add_argument(
        "--weights", nargs="+", type=float, help="one for each run; equal by default"
    )
    parser.add_argument(
        "--normalization",
        help="of the other methods: min-max (default), z-score or none",
    )
    parser.add_argument(
        "--depth", type=int, default=1000, help="documents kept for a query (1000)"
    )
    parser.add_argument("--tag", default="fused", help="last column of the run")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _settings(args: argparse.Namespace) -> dict:
    """What was given; what the method does not read is refused."""
    from jaxir.errors import InputError

    given = {name: getattr(args, name) for name in ("rrf_k", "normalization")}
    unread = "normalization" if args.method == "rrf" else "rrf_k"
    if given[unread] is not None:
        flag = unread.replace("_", ".")
        others = "interpolation, combsum or combmnz" if args.method == "rrf" else "rrf"
        raise InputError(
            f"--{flag}", f"given with --method {args.method}", f"--method {others}"
        )
    return {name: value for name, value in given.items() if value is not None}


def _check_output(args: argparse.Namespace) -> None:
    """A run that is read is not written over."""
    from jaxir.errors import InputError

    if Path(args.output).resolve() in [Path(path).resolve() for path in args.runs]:
        found, expected = "a run that is read", "another name for the output"
        raise InputError(args.output, found, expected)


def run(args: argparse.Namespace) -> int:
    import json

    from jaxir.data.formats import read_run, write_run
    from jaxir.fuse import fuse
    from jaxir.progress import progress_bar, say

    settings = _settings(args)
    runs = [read_run(path) for path in progress_bar(args.runs, label="read runs")]
    _check_output(args)
    fused = fuse(
        runs, method=args.method, weights=args.weights, depth=args.depth, **settings
    )
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
