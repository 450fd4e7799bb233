"""Search an index with a collection's queries and write a TREC run, or ask one query.

  jaxir search --index I --query "how do rivers carry clay" [--texts C] [--k 10]
  jaxir search --index I --queries C:split --output run.trec [--k 1000]
  jaxir search --index I --queries C:split --output run.trec --mode graph \\
      --gin_file search/hyper_efficient1.gin
  jaxir search --index I --queries C:split --output run.trec --backend faiss
  jaxir search --index I --queries C:split --output run.trec \\
      --engine opensearch --url https://HOST:9200 --name NAME

A Hypencoder's index is searched exhaustively, or along the graph of neighbors that
jaxir index --neighbors put into it; it is then said how many documents were scored.
A sparse index is searched exactly, by blocks of its posting lists, or in OpenSearch's
two phases; --explain prints the tokens that query and document share.

  jaxir search --index I --queries C:split --output run.trec --k 10 --explain
  jaxir search --index I --queries C:split --output run.trec --method two_phase

The codes of an index of kind pq are searched by JAX, or by Faiss, which is several
times faster in codes of 4 bits on a CPU, and approximate there unless told to rescore.
"""

import argparse
from typing import TYPE_CHECKING, Any

from jaxir.cli.answers import QUERY_ID, answers, asked, format_answers
from jaxir.cli.engine import add_engine_arguments, engine_search

if TYPE_CHECKING:
    from jaxir.data.store import DocStore
    from jaxir.hyper.graph import GraphSearchConfig
    from jaxir.search import Searcher
    from jaxir.sparse.search import TwoPhase

__all__ = ["add_arguments", "read_query_texts", "run"]

# flag -> field of GraphSearchConfig
_GRAPH = {
    "entry_points": "entry_points",
    "explore": "explore",
    "iterations": "iterations",
    "rule": "rule",
    "graph_seed": "seed",
}


_TWO_PHASE = ("prune_type", "prune_ratio", "expansion_rate", "max_window_size")

_TOKENS = 5  # of an explanation in text: the rest is in --json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", required=True, help="what jaxir index wrote")
    parser.add_argument("--query", metavar="TEXT", help="one query; prints its results")
    parser.add_argument(
        "--texts", metavar="COLLECTION", help="print their titles and texts as well"
    )
    parser.add_argument(
        "--queries", help="COLLECTION, COLLECTION:SPLIT or a query file"
    )
    parser.add_argument("--output", help="where the run of --queries goes")
    parser.add_argument(
        "--k", type=int, help="results a query (1000, or 10 of --query)"
    )
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
    add_engine_arguments(parser, loading=False)
    group = parser.add_argument_group("posting lists (kind sparse)")
    group.add_argument(
        "--method",
        help="block_max, exhaustive (both exact, on a CPU), scan (exact, by JAX; the "
        "default where it has an accelerator) or two_phase",
    )
    group.add_argument(
        "--prune_type",
        help="of two_phase, the tokens that choose documents: max_ratio (default), "
        "abs_value, alpha_mass, top_k or none",
    )
    group.add_argument("--prune_ratio", type=float, help="of that type (0.4)")
    group.add_argument(
        "--expansion_rate", type=float, help="times k documents are rescored (5)"
    )
    group.add_argument(
        "--max_window_size", type=int, help="the most that may be rescored (10000)"
    )
    group.add_argument(
        "--explain", type=int, nargs="?", const=3, metavar="N",
        help="print the tokens behind the first N (3) results of each query",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.epilog = "--gin.NAME=VALUE overrides a macro or a parameter of --gin_file."
    parser.set_defaults(gin_bindings=[])


def read_query_texts(spec: str) -> dict[str, str]:
    """Texts by id of a collection, of one of its splits, or of a file of queries."""
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


def _two_phase(args: argparse.Namespace) -> "TwoPhase | None":
    """Parameters of the two phases, or None where none is given.

    Raises:
      InputError: parameters that nothing would read.
    """
    from jaxir.errors import InputError

    values = {name: getattr(args, name) for name in _TWO_PHASE}
    values = {name: value for name, value in values.items() if value is not None}
    if not values:
        return None
    if args.method != "two_phase":
        raise InputError(
            f"--{next(iter(values))}", f"given with --method {args.method}",
            "--method two_phase",
        )  # fmt: skip
    from jaxir.sparse.search import TwoPhase

    return TwoPhase(**values)


def _check_explain(args: argparse.Namespace, kind: str) -> None:
    from jaxir.errors import InputError

    if kind != "sparse":
        raise InputError("--explain", f"given for an index of kind {kind!r}", "sparse")
    if args.explain < 1:
        raise InputError("--explain", str(args.explain), "at least 1")


def _explained(
    searcher: "Searcher", queries: dict[str, str], found: dict, most: int
) -> dict[str, list[dict]]:
    """Of each query the first results, and the tokens that each shares with it."""
    return {
        name: [
            {
                "doc": doc_id,
                "score": score,
                "tokens": [
                    match._asdict() for match in searcher.explain(queries[name], doc_id)
                ],
            }
            for doc_id, score in list(scored.items())[:most]
        ]
        for name, scored in found.items()
    }


def _print_explained(queries: dict[str, str], explained: dict[str, list]) -> None:
    for name, results in explained.items():
        print(f"{name}: {queries[name]}")
        for result in results:
            print(f"  {result['doc']}  {result['score']:.4f}")
            for match in result["tokens"][:_TOKENS]:
                print(
                    f"    {match['token']:<20} {match['query_weight']:8.4f} x "
                    f"{match['doc_weight']:.4f} = {match['score']:.4f}"
                )
            more = len(result["tokens"]) - _TOKENS
            if more > 0:
                rest = sum(match["score"] for match in result["tokens"][_TOKENS:])
                print(f"    {f'{more} more':<20} {'':8}          = {rest:.4f}")


def _answered(
    args: argparse.Namespace,
    searcher: "Searcher",
    found: dict[str, float],
    docs: "DocStore | None",
) -> int:
    """Prints the results of ``--query``."""
    import json

    hits, explained = answers(found, docs), {}
    if args.explain is not None:
        queries = {QUERY_ID: args.query}
        explained = _explained(searcher, queries, {QUERY_ID: found}, args.explain)
    if args.json:
        result = {"index": args.index, "query": args.query, "hits": hits}
        print(json.dumps(result | ({"explained": explained} if explained else {})))
        return 0
    print(format_answers(hits) if hits else "nothing found")
    if explained:
        _print_explained({QUERY_ID: args.query}, explained)
    return 0


def run(args: argparse.Namespace) -> int:
    import json
    import time

    from jaxir.data.collection import open_collection
    from jaxir.data.formats import write_run
    from jaxir.errors import InputError
    from jaxir.files import check_output
    from jaxir.manifest import read_manifest
    from jaxir.progress import say
    from jaxir.search import open_index

    typed = asked(args)
    if typed:
        queries = {QUERY_ID: args.query}
    else:
        queries = read_query_texts(args.queries)
        if not queries:
            raise InputError(args.queries, "no queries", "at least one")
        check_output(args.output)  # before the search, not after it
    args.k = (10 if typed else 1000) if args.k is None else args.k
    two_phase = args.method == "two_phase"
    if (code := engine_search(args, queries, two_phase=two_phase)) is not None:
        return code
    kind = read_manifest(args.index).kind
    if args.explain is not None:
        _check_explain(args, kind)
    if kind in ("dense", "pq"):  # a q-net's products are large: they share the cores
        from jaxir.mesh import use_cpu_cores

        use_cpu_cores()
    searcher = open_index(
        args.index, model=args.model, mode=args.mode, graph=_graph_config(args),
        backend=args.backend, rescore=args.rescore, method=args.method,
        two_phase=_two_phase(args),
    )  # fmt: skip
    docs = open_collection(args.texts).docs if args.texts else None
    start = time.perf_counter()
    found = searcher.search(queries, k=args.k)
    seconds = time.perf_counter() - start
    if typed:
        return _answered(args, searcher, found[QUERY_ID], docs)
    write_run(args.output, found, tag=args.tag or searcher.kind)
    explained = {}
    if args.explain is not None:
        explained = _explained(searcher, queries, found, args.explain)
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
        if kind == "sparse":
            result["flops"] = round(searcher.flops, 6)
            result["query_tokens"] = round(searcher.query_tokens / len(found), 3)
        if explained:
            result["explained"] = explained
        print(json.dumps(result))
        return 0
    _print_explained(queries, explained)
    say(
        f"{args.output}: {results} results of {len(found)} queries, "
        f"{1e3 * seconds / len(found):.1f} ms a query"
    )
    if kind == "sparse":
        say(
            f"{searcher.query_tokens / len(found):.1f} tokens a query, "
            f"{searcher.flops:.3f} products a query and a document (FLOPS)"
        )
    if kind in ("hypencoder", "sparse"):
        share = scored / searcher.num_docs
        say(
            f"scored {scored:,.0f} of {searcher.num_docs:,} documents a query "
            f"({share:.1%})".replace("%", " %")
        )
    return 0
