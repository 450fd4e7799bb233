"""Search an index with a collection's queries and write a TREC run.

  jaxir search --index I --queries C:split --output run.trec [--k 1000]
  jaxir search --index I --queries C:split --output run.trec --mode graph \\
      --gin_file search/hyper_efficient1.gin
  jaxir search --index I --queries C:split --output run.trec --backend faiss

A Hypencoder's index is searched exhaustively, or along the graph of neighbors that
jaxir index --neighbors put into it; it is then said how many documents were scored.
The codes of an index of kind pq are searched by JAX, or by Faiss, which is several
times faster in codes of 4 bits on a CPU, and approximate there unless told to rescore.
"""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxir.hyper.graph import GraphSearchConfig

__all__ = ["add_arguments", "run"]

# flag -> field of GraphSearchConfig
_GRAPH = {
    "entry_points": "entry_points",
    "explore": "explore",
    "iterations": "iterations",
    "rule": "rule",
    "graph_seed": "seed",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", required=True, help="what jaxir index wrote")
    parser.add_argument(
        "--queries", required=True, help="COLLECTION, COLLECTION:SPLIT or a query file"
    )
    parser.add_argument("--output", required=True, help="where the run goes")
    parser.add_argument("--k", type=int, default=1000, help="results a query (1000)")
    parser.add_argument("--model", help="the model that encoded the index, if moved")
    parser.add_argument("--tag", help="last column of the run; by default the kind")
    parser.add_argument(
        "--mode", default="exhaustive",
        help="of a Hypencoder's index: exhaustive (default) or graph",
    )  # fmt: skip
    parser.add_argument(
        "--backend", default="jax",
        help="what searches codes (kind pq): jax (default) or faiss",
    )  # fmt: skip
    parser.add_argument(
        "--rescore", type=int, default=0,
        help="of faiss in codes of 4 bits: score this many times k exactly (0)",
    )  # fmt: skip
    group = parser.add_argument_group("graph search (Algorithm 1 of the paper)")
    group.add_argument(
        "--entry_points", type=int, help="random documents to begin from (10000)"
    )
    group.add_argument(
        "--explore", type=int, help="documents to go on from in an iteration (64)"
    )
    group.add_argument("--iterations", type=int, help="at most so many (16)")
    group.add_argument(
        "--rule", help="which documents are gone on from: paper (default) or released"
    )
    group.add_argument(
        "--no_early_stop", action="store_true",
        help="of rule released: always do all iterations",
    )  # fmt: skip
    group.add_argument("--graph_seed", type=int, help="of the entry points (43)")
    group.add_argument(
        "--gin_file", action="append", default=[], metavar="FILE",
        help="settings of the graph search, as search/hyper_efficient1.gin",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.epilog = "--gin.NAME=VALUE overrides a macro or a parameter of --gin_file."
    parser.set_defaults(gin_bindings=[])


def _read_queries(spec: str) -> dict[str, str]:
    from pathlib import Path

    from jaxir.data.collection import open_collection, split_spec
    from jaxir.data.formats import read_queries

    if Path(spec).is_file():
        return read_queries(spec)
    name, split = split_spec(spec)
    return open_collection(name).queries(split)


def _graph_config(args: argparse.Namespace) -> "GraphSearchConfig | None":
    """The settings of files, then bindings, then flags; None outside graph search.

    Raises:
      InputError: settings that nothing would read.
    """
    from jaxir.errors import InputError

    flags: dict[str, Any] = {
        field: getattr(args, flag)
        for flag, field in _GRAPH.items()
        if getattr(args, flag) is not None
    }
    if args.no_early_stop:
        flags["early_stop"] = False
    if args.mode != "graph":
        given = [flag for flag in _GRAPH if getattr(args, flag) is not None]
        given += ["no_early_stop"] * args.no_early_stop
        given += ["gin_file"] * bool(args.gin_file)
        given += [f"gin.{text.partition(' =')[0]}" for text in args.gin_bindings]
        if given:
            raise InputError(
                f"--{given[0]}", f"given with --mode {args.mode}", "--mode graph"
            )
        return None
    import dataclasses

    from jaxir.hyper.graph import GraphSearchConfig

    values: dict[str, Any] = {}
    if args.gin_file or args.gin_bindings:
        from jaxir.cli.config import configured_from

        found = configured_from(args.gin_file, args.gin_bindings, GraphSearchConfig)
        values = dataclasses.asdict(found)
    config = GraphSearchConfig(**(values | flags))
    if args.no_early_stop and config.rule != "released":
        raise InputError(
            "--no_early_stop", f"given with rule {config.rule!r}, which it does not "
            "change", "--rule released",
        )  # fmt: skip
    return config


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
    kind = read_manifest(args.index).kind
    if kind in ("dense", "pq"):  # a q-net's products are large: they share the cores
        from jaxir.mesh import use_cpu_cores

        use_cpu_cores()
    searcher = open_index(
        args.index, model=args.model, mode=args.mode, graph=_graph_config(args),
        backend=args.backend, rescore=args.rescore,
    )  # fmt: skip
    start = time.perf_counter()
    found = searcher.search(queries, k=args.k)
    seconds = time.perf_counter() - start
    write_run(args.output, found, tag=args.tag or searcher.kind)
    results = sum(len(scored) for scored in found.values())
    scored = searcher.docs_scored / len(found)
    if args.json:
        result = {
            "output": args.output,
            "index": args.index,
            "mode": searcher.mode,
            "queries": len(found),
            "results": results,
            "docs": searcher.num_docs,
            "docs_scored": round(scored, 1),
            "seconds": round(seconds, 3),
        }
        print(json.dumps(result))
        return 0
    say(
        f"{args.output}: {results} results of {len(found)} queries, "
        f"{1e3 * seconds / len(found):.1f} ms a query"
    )
    if kind == "hypencoder":
        share = scored / searcher.num_docs
        say(
            f"scored {scored:,.0f} of {searcher.num_docs:,} documents a query "
            f"({share:.1%})".replace("%", " %")
        )
    return 0
