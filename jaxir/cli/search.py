"""Search an index with a collection's queries and write a TREC run.

jaxir search --index I --queries C:split --output run.trec [--k 1000]
"""

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", required=True, help="what jaxir index wrote")
    parser.add_argument(
        "--queries", required=True, help="COLLECTION, COLLECTION:SPLIT or a query file"
    )
    parser.add_argument("--output", required=True, help="where the run goes")
    parser.add_argument("--k", type=int, default=1000, help="results a query (1000)")
    parser.add_argument("--model", help="the model that encoded the index, if moved")
    parser.add_argument("--tag", help="last column of the run; by default the kind")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _read_queries(spec: str) -> dict[str, str]:
    from pathlib import Path

    from jaxir.data.collection import open_collection, split_spec
    from jaxir.data.formats import read_queries

    if Path(spec).is_file():
        return read_queries(spec)
    name, split = split_spec(spec)
    return open_collection(name).queries(split)


def run(args: argparse.Namespace) -> int:
    import json
    import time

    from jaxir.data.formats import write_run
    from jaxir.errors import InputError
    from jaxir.manifest import read_manifest
    from jaxir.progress import say
    from jaxir.search import open_index

    queries = _read_queries(args.queries)
    if not queries:
        raise InputError(args.queries, "no queries", "at least one")
    if read_manifest(args.index).kind != "bm25":
        from jaxir.mesh import use_cpu_cores

        use_cpu_cores()
    searcher = open_index(args.index, model=args.model)
    start = time.perf_counter()
    found = searcher.search(queries, k=args.k)
    seconds = time.perf_counter() - start
    write_run(args.output, found, tag=args.tag or searcher.kind)
    results = sum(len(scored) for scored in found.values())
    if args.json:
        result = {
            "output": args.output,
            "index": args.index,
            "queries": len(found),
            "results": results,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(result))
    else:
        say(
            f"{args.output}: {results} results of {len(found)} queries, "
            f"{1e3 * seconds / len(found):.1f} ms a query"
        )
    return 0
