"""Encode a collection and build an index; interrupted runs go on where they stopped.

  jaxir index --model DIR|hf:ID|bm25 --collection C --index I
  jaxir index --index I --neighbors 100

The second form adds a graph of neighbours to a Hypencoder's index that stands, so that
jaxir search --mode graph can walk along it; beside --model it is built at once.
"""

import argparse

__all__ = ["add_arguments", "run"]

_BM25 = ("k1", "b", "stemmer", "stop_words")
_OPTIONS = ("batch_tokens", "max_length", "dtype", "neighbors", "graph_backend")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="model directory, hf:ID, or bm25")
    parser.add_argument("--collection", help="folder or irds:NAME")
    parser.add_argument("--index", required=True, help="directory to write")
    parser.add_argument("--kind", help="kind of index; by default the model's own")
    parser.add_argument(
        "--batch_tokens", type=int, help="tokens of a batch, padding included"
    )
    parser.add_argument("--max_length", type=int, help="cut documents to these tokens")
    parser.add_argument(
        "--dtype", help="of stored vectors: float32 (default) or float16"
    )
    parser.add_argument(
        "--without_model",
        action="store_true",
        help="remember where the model is instead of keeping a copy of it",
    )
    parser.add_argument(
        "--neighbors", type=int, metavar="N",
        help="of each document in the graph for jaxir search --mode graph (Hypencoder)",
    )  # fmt: skip
    parser.add_argument(
        "--graph_backend", help="what finds the neighbors: jax (default) or faiss"
    )
    parser.add_argument("--k1", type=float, help="of BM25 (0.9)")
    parser.add_argument("--b", type=float, help="of BM25 (0.4)")
    parser.add_argument(
        "--stemmer", help="of BM25: porter (default), english, german, …, none"
    )
    parser.add_argument("--stop_words", help="of BM25: lucene (default) or none")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _given(args: argparse.Namespace, names: tuple[str, ...]) -> dict:
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _check(args: argparse.Namespace, adding: bool) -> None:
    """What would be ignored is refused, and what is missing named."""
    from jaxir.errors import InputError

    if adding:
        names = ("kind", "batch_tokens", "max_length", "dtype", *_BM25)
        other = [*_given(args, names), *["without_model"] * args.without_model]
        if other:
            raise InputError(
                f"--{other[0]}", "given where only neighbors are added",
                "--index, --neighbors and --graph_backend",
                "give --model and --collection to build the index again",
            )  # fmt: skip
        return
    for name in ("model", "collection"):
        if getattr(args, name) is None:
            raise InputError(
                f"--{name}", "not given", "what to index",
                "an index that stands needs only --neighbors",
            )  # fmt: skip
    if args.graph_backend is not None and args.neighbors is None:
        raise InputError("--graph_backend", "given without --neighbors", "--neighbors")
    if args.model != "bm25" and (bm25 := _given(args, _BM25)):
        name = next(iter(bm25))
        raise InputError(f"--{name}", f"given for {args.model!r}", "--model bm25")


def run(args: argparse.Namespace) -> int:
    import json
    import time

    from jaxir.bm25 import Bm25Config
    from jaxir.index import BuildOptions, add_neighbors, build_index
    from jaxir.progress import say

    adding = args.neighbors is not None and args.model is args.collection is None
    _check(args, adding)
    if args.model != "bm25":
        from jaxir.mesh import use_cpu_cores

        use_cpu_cores()
    start = time.perf_counter()
    if adding:
        manifest = add_neighbors(
            args.index, args.neighbors, backend=args.graph_backend or "jax"
        )
    else:
        options = BuildOptions(
            **_given(args, _OPTIONS),
            self_contained=not args.without_model,
            bm25=Bm25Config(**_given(args, _BM25)),
        )
        manifest = build_index(
            args.model, args.collection, args.index, kind=args.kind, options=options
        )
    seconds = time.perf_counter() - start
    size = sum(entry["bytes"] for entry in manifest.files.values())
    docs, neighbors = manifest.counts["docs"], manifest.details.get("neighbors")
    if args.json:
        result = {
            "index": args.index,
            "kind": manifest.kind,
            "docs": docs,
            "neighbors": neighbors,
            "bytes": size,
            "seconds": round(seconds, 3),
            "model_fingerprint": manifest.model_fingerprint,
        }
        print(json.dumps(result))
    else:
        graph = f" with {neighbors} neighbors each" if neighbors else ""
        say(
            f"{args.index}: {manifest.kind} index of {docs} documents{graph}, "
            f"{size / 1e6:.1f} MB, {seconds:.1f} s"
        )
    return 0
