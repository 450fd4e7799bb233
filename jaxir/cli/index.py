"""Encode a collection and build an index; interrupted runs go on where they stopped.

jaxir index --model DIR|hf:ID|bm25 --collection C --index I
"""

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, help="model directory, hf:ID, or bm25"
    )
    parser.add_argument("--collection", required=True, help="folder or irds:NAME")
    parser.add_argument("--index", required=True, help="directory to write")
    parser.add_argument("--kind", help="kind of index; by default the model's own")
    parser.add_argument(
        "--batch_tokens", type=int, help="tokens of a batch, padding included"
    )
    parser.add_argument("--max_length", type=int, help="cut documents to these tokens")
    parser.add_argument(
        "--dtype", default="float32", help="of stored vectors: float32 or float16"
    )
    parser.add_argument(
        "--without_model",
        action="store_true",
        help="remember where the model is instead of keeping a copy of it",
    )
    parser.add_argument("--k1", type=float, default=0.9, help="of BM25 (0.9)")
    parser.add_argument("--b", type=float, default=0.4, help="of BM25 (0.4)")
    parser.add_argument(
        "--stemmer", default="porter", help="of BM25: porter, english, german, …, none"
    )
    parser.add_argument(
        "--stop_words", default="lucene", help="of BM25: lucene or none"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    import json
    import time

    from jaxir.bm25 import Bm25Config
    from jaxir.index import BuildOptions, build_index
    from jaxir.progress import say

    if args.model != "bm25":
        from jaxir.mesh import use_cpu_cores

        use_cpu_cores()
    options = BuildOptions(
        batch_tokens=args.batch_tokens,
        max_length=args.max_length,
        dtype=args.dtype,
        self_contained=not args.without_model,
        bm25=Bm25Config(args.k1, args.b, args.stemmer, args.stop_words),
    )
    start = time.perf_counter()
    manifest = build_index(
        args.model, args.collection, args.index, kind=args.kind, options=options
    )
    seconds = time.perf_counter() - start
    size = sum(entry["bytes"] for entry in manifest.files.values())
    docs = manifest.counts["docs"]
    if args.json:
        result = {
            "index": args.index,
            "kind": manifest.kind,
            "docs": docs,
            "bytes": size,
            "seconds": round(seconds, 3),
            "model_fingerprint": manifest.model_fingerprint,
        }
        print(json.dumps(result))
    else:
        say(
            f"{args.index}: {manifest.kind} index of {docs} documents, "
            f"{size / 1e6:.1f} MB, {seconds:.1f} s"
        )
    return 0
