"""Encode a collection and build an index; interrupted runs go on where they stopped.

  jaxir index --model DIR|hf:ID|bm25 --collection C --index I
  jaxir index --index I --neighbors 100

The second form adds a graph of neighbours to a Hypencoder's index that stands, so that
jaxir search --mode graph can walk along it; beside --model it is built at once.

A bi-encoder's index of a few bytes a document (kind pq): OPQ's or PQ's codes, which
jaxir train then learns with, and the index of the model that was trained so, which has
the same codes.

  jaxir index --kind pq --model DIR --collection C --index I --subvectors 24
  jaxir index --kind pq --model DIR --collection C --index I --vectors DENSE_INDEX
  jaxir index --model TRAINED --codes I --index J
  jaxir index --model TRAINED --collection C --index J

A sparse encoder's index (kind sparse) holds posting lists, and of the model no more
than queries need; BM25 over the tokens of a model is one, too, to compare with:

  jaxir index --model DIR --collection C --index I --dtype uint8 --prune_ratio 0.1
  jaxir index --model bm25 --tokenizer DIR --collection C --index J

Documents come and go, without the others being encoded again (kinds pq and sparse):

  jaxir index --index I --add COLLECTION
  jaxir index --index I --delete ids.txt

An index of kind sparse that stands is loaded into a cluster, or goes on being loaded:

  jaxir index --index I --engine opensearch --url https://HOST:9200 --name NAME
"""

import argparse
from typing import TYPE_CHECKING

from jaxir.cli.engine import add_engine_arguments, engine_index

if TYPE_CHECKING:
    from jaxir.manifest import Manifest

__all__ = ["add_arguments", "run"]

_BM25 = ("k1", "b", "stemmer", "stop_words")
_OPTIONS = ("batch_tokens", "max_length", "dtype", "neighbors", "graph_backend")
_PQ = (
    "subvectors", "bits", "rotation", "train_size", "seed", "vectors", "codes"
)  # fmt: skip

_SPARSE = ("prune_ratio", "tokenizer")

_CHANGES = {
    "neighbors": (("graph_backend",), "only neighbors are added"),
    "add": (("batch_tokens", "model"), "documents are added"),
    "delete": ((), "documents are deleted"),
}
"""What changes an index that stands: the flags beside it, and what is then done."""


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
        "--dtype",
        help="of what is stored: float32 (default) or float16; kind sparse: or uint8",
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
    parser.add_argument(
        "--subvectors", type=int, metavar="M",
        help="kind pq: parts of a vector, each a byte or half of one (24)",
    )  # fmt: skip
    parser.add_argument(
        "--bits", type=int, help="kind pq: of a part's code, 8 (default) or 4"
    )
    parser.add_argument(
        "--rotation",
        help="kind pq: of vectors before they are cut: opq (default), none",
    )
    parser.add_argument(
        "--train_size", type=int, metavar="N",
        help="kind pq: documents that rotation and centroids are trained on (65536)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="kind pq: of that training (0)")
    parser.add_argument(
        "--vectors", metavar="INDEX",
        help="kind pq: take the vectors of the same model's dense index",
    )  # fmt: skip
    parser.add_argument(
        "--codes", metavar="INDEX",
        help="kind pq: take the codes that the model was trained with",
    )  # fmt: skip
    parser.add_argument(
        "--prune_ratio", type=float, metavar="R",
        help="kind sparse: keep weights above R times the document's largest (0: all)",
    )  # fmt: skip
    parser.add_argument(
        "--tokenizer", metavar="MODEL",
        help="of BM25: make its index of kind sparse, over this model's tokens",
    )  # fmt: skip
    parser.add_argument(
        "--add", metavar="COLLECTION",
        help="kinds pq and sparse: add its documents to the index",
    )  # fmt: skip
    parser.add_argument(
        "--delete", metavar="FILE",
        help="kinds pq and sparse: delete documents, an id a line",
    )  # fmt: skip
    parser.add_argument("--k1", type=float, help="of BM25 (0.9)")
    parser.add_argument("--b", type=float, help="of BM25 (0.4)")
    parser.add_argument(
        "--stemmer", help="of BM25: porter (default), english, german, …, none"
    )
    parser.add_argument("--stop_words", help="of BM25: lucene (default) or none")
    add_engine_arguments(parser, loading=True)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _given(args: argparse.Namespace, names: tuple[str, ...]) -> dict:
    values = {name: getattr(args, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _change(args: argparse.Namespace) -> str | None:
    """What is done to an index that stands; None where one is built."""
    for name in ("add", "delete"):
        if getattr(args, name) is not None:
            return name
    adding = args.neighbors is not None
    bare = args.model is args.collection is args.codes is None
    return "neighbors" if adding and bare else None


def _check(args: argparse.Namespace, change: str | None) -> None:
    """What would be ignored is refused, and what is missing named."""
    from jaxir.errors import InputError

    if change is not None:
        beside, done = _CHANGES[change]
        names = (
            "model",
            "collection",
            "kind",
            *_OPTIONS,
            *_PQ,
            *_SPARSE,
            "add",
            "delete",
            *_BM25,
        )
        others = tuple(name for name in names if name not in (change, *beside))
        other = [*_given(args, others), *["without_model"] * args.without_model]
        if other:
            alone = ", ".join(f"--{name}" for name in ("index", change, *beside))
            raise InputError(
                f"--{other[0]}", f"given where {done}", alone,
                "give --model and --collection to build the index again",
            )  # fmt: skip
        return
    for name in ("model", "collection"):
        if getattr(args, name) is None and (name == "model" or args.codes is None):
            raise InputError(
                f"--{name}", "not given", "what to index",
                "an index that stands needs only --neighbors, --add or --delete",
            )  # fmt: skip
    if args.graph_backend is not None and args.neighbors is None:
        raise InputError("--graph_backend", "given without --neighbors", "--neighbors")
    if args.model != "bm25" and (bm25 := _given(args, _BM25)):
        name = next(iter(bm25))
        raise InputError(f"--{name}", f"given for {args.model!r}", "--model bm25")
    made = "codes" if args.codes is not None else "vectors"
    encoding = _given(args, ("batch_tokens", "max_length", "dtype"))
    if getattr(args, made) is not None and encoding:
        name = next(iter(encoding))
        raise InputError(
            f"--{name}", f"given with --{made}, where nothing is encoded",
            "to be left out",
        )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    import json
    import time

    from jaxir.progress import say

    building = (
        "model", "collection", "kind", "without_model", *_OPTIONS, *_PQ, *_SPARSE,
        *_CHANGES, *_BM25,
    )  # fmt: skip
    if (code := engine_index(args, building)) is not None:
        return code
    change = _change(args)
    _check(args, change)
    start = time.perf_counter()
    manifest = _built(args) if change is None else _changed(args, change)
    seconds = time.perf_counter() - start
    size = sum(entry["bytes"] for entry in manifest.files.values())
    docs, neighbors = manifest.counts["docs"], manifest.details.get("neighbors")
    figures = _FIGURES[manifest.kind](manifest) if manifest.kind in _FIGURES else {}
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
        print(json.dumps(result | figures))
        return 0
    graph = f" with {neighbors} neighbors each" if neighbors else ""
    text = f"{args.index}: {manifest.kind} index of {docs} documents{graph}, "
    if manifest.kind == "sparse":
        text += (
            f"{figures['tokens_per_doc']:.1f} tokens each, "
            f"{figures['expansion_rate']:.2f} added for each in the text; postings "
            f"{figures['postings_bytes'] / 1e6:.1f} MB, in all "
        )
    elif figures:
        text += (
            f"{figures['doc_bytes']} bytes each, {figures['compression']:.4g} times "
            f"smaller than vectors; codes {figures['codes_bytes'] / 1e6:.1f} MB, ids "
            f"{figures['ids_bytes'] / 1e6:.1f} MB, with the model "
        )
    say(f"{text}{size / 1e6:.1f} MB, {seconds:.1f} s")
    return 0


def _sizes(manifest: "Manifest", *parts: str) -> dict:
    """Bytes of the files whose names begin so."""
    return {
        f"{part}_bytes": sum(
            entry["bytes"]
            for name, entry in manifest.files.items()
            if name.startswith(part)
        )
        for part in parts
    }


def _sparse_figures(manifest: "Manifest") -> dict:
    names = ("postings", "tokens_per_doc", "expansion_rate", "empty_docs")
    known = {name: manifest.details[name] for name in names}
    return known | _sizes(manifest, "postings", "ids", "query", "model")


def _pq_figures(manifest: "Manifest") -> dict:
    details = manifest.details
    doc_bytes = details["subvectors"] * details["bits"] // 8
    return {
        "doc_bytes": doc_bytes,
        "compression": 4 * details["width"] / doc_bytes,
        "relative_error": details.get("relative_error"),
        **_sizes(manifest, "codes", "ids", "model"),
    }


_FIGURES = {"pq": _pq_figures, "sparse": _sparse_figures}
"""What is told of some kinds beyond what is told of every index."""


def _built(args: argparse.Namespace) -> "Manifest":
    from jaxir.bm25 import Bm25Config
    from jaxir.index import BuildOptions, build_index
    from jaxir.index_job import PqOptions, SparseOptions

    if args.model != "bm25":
        from jaxir.mesh import use_cpu_cores

        use_cpu_cores()
    options = BuildOptions(
        **_given(args, _OPTIONS),
        self_contained=not args.without_model,
        bm25=Bm25Config(**_given(args, _BM25)),
        pq=PqOptions(**_given(args, _PQ)),
        sparse=SparseOptions(**_given(args, _SPARSE)),
    )
    return build_index(
        args.model, args.collection, args.index, kind=args.kind, options=options
    )


def _changed(args: argparse.Namespace, change: str) -> "Manifest":
    if change == "delete":
        from jaxir.pq_change import delete_documents, read_ids

        return delete_documents(args.index, read_ids(args.delete))
    from jaxir.mesh import use_cpu_cores

    use_cpu_cores()
    if change == "add":
        from jaxir.pq_change import add_documents

        return add_documents(
            args.index, args.add, batch_tokens=args.batch_tokens, model=args.model
        )
    from jaxir.index import add_neighbors

    backend = args.graph_backend or "jax"
    return add_neighbors(args.index, args.neighbors, backend=backend)
