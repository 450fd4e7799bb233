"""Write a model, or a whole searcher, for those who do not have jaxir.

  jaxir export --format saved_model --model M --output O
  jaxir export --format saved_model --index I --output O --k 100
  jaxir export --format stablehlo --model M --output O --platforms cpu,cuda,tpu
  jaxir export --format safetensors --model M --output O
  jaxir export --format faiss --index I --output O.faiss
  jaxir export --format opensearch --index I --output O
  jaxir export --format opensearch --index I --output O --two_phase \\
      --texts COLLECTION --queries COLLECTION:split --k 100
  jaxir export --format opensearch --index I --output O --field sparse_vector
  jaxir export --format jsonl --index I --output O --texts COLLECTION

saved_model is what TensorFlow Serving loads, O/1, O/2 and so on; it needs the extra
"export".  stablehlo needs JAX alone to be called.  Both take tokens of any batch and
length, and are called by another process and compared before they stand.  An index
(dense, hypencoder or pq) becomes one function from tokens to positions and scores.
safetensors is a folder that sentence-transformers or transformers opens, faiss the
index of a codec's codes (jaxir convert says more of both).

opensearch is a folder of requests of an index of kind sparse: the index's mapping and
settings, a search pipeline, bulk files, and the queries' bodies, as the --version of
the cluster takes them.  jsonl is what Anserini and Pyserini index as a
JsonVectorCollection.  To load a cluster without files in between: jaxir index
--engine opensearch.
"""

import argparse
from typing import Any

from jaxir.cli.engine import add_field_arguments, field_config

__all__ = ["FORMATS", "add_arguments", "run"]

_OF_PROGRAMS = ("model", "index", "k", "platforms", "target")
_OF_FIELDS = (
    "field", "texts", "shards", "replicas", "max_bytes", "two_phase", "seismic"
)  # fmt: skip

FORMATS = {
    "opensearch": ("index", "version", "name", "queries", "k", *_OF_FIELDS),
    "jsonl": ("index", "scale", "texts", "max_bytes"),
    "saved_model": (*_OF_PROGRAMS, "model_version"),
    "stablehlo": _OF_PROGRAMS,
    "safetensors": ("model",),
    "faiss": ("index", "layout"),
}
"""Every format, and the flags that it reads beside ``--output``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", help="to export, or what encoded --index's documents"
    )
    parser.add_argument("--index", help="to export")
    parser.add_argument(
        "--output", required=True, help="folder to write, or faiss's file"
    )
    parser.add_argument("--format", required=True, help="one of " + ", ".join(FORMATS))
    parser.add_argument(
        "--platforms", help="of saved_model and stablehlo, beside cpu (cpu,cuda)"
    )
    parser.add_argument("--target", help="StableHLO's version, for older readers")
    parser.add_argument(
        "--model_version", type=int, help="of saved_model: its folder (the next number)"
    )
    parser.add_argument(
        "--layout", choices=("flat", "ivf"), help="of faiss, as of jaxir convert (flat)"
    )
    parser.add_argument(
        "--version", help="of OpenSearch (2.19, or 3.3 for a sparse_vector)"
    )
    parser.add_argument(
        "--name", help="of the index in the cluster, for --two_phase's pipeline (jaxir)"
    )
    parser.add_argument(
        "--queries", help="COLLECTION, COLLECTION:SPLIT or a file, for their bodies"
    )
    parser.add_argument(
        "--k", type=int, help="results of those queries (10), or of a searcher (100)"
    )
    parser.add_argument(
        "--scale", type=int, help="of jsonl: weights are whole numbers of 1/100 (100)"
    )
    add_field_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    import json

    _check_flags(args)
    if args.format in ("opensearch", "jsonl"):
        told = _for_engine(args)
    elif args.format in ("saved_model", "stablehlo"):
        told = _programs(args)
    else:
        told = _converted(args)
    if args.json:
        print(json.dumps({"output": args.output, **told}))
    else:
        _say(args, told)
    return 0


def _check_flags(args: argparse.Namespace) -> None:
    from jaxir.errors import InputError

    if args.format not in FORMATS:
        expected = "one of " + ", ".join(FORMATS)
        raise InputError("format", repr(args.format), expected)
    every = dict.fromkeys(name for names in FORMATS.values() for name in names)
    for name in every:
        given = getattr(args, name) is not None
        if given and name not in FORMATS[args.format]:
            raise InputError(f"--{name}", f"given with {args.format}", "to be left out")
    if "model" not in FORMATS[args.format] and args.index is None:
        raise InputError("--index", "missing", f"with {args.format}")
    if "index" not in FORMATS[args.format] and args.model is None:
        raise InputError("--model", "missing", f"with {args.format}")
    if args.model is None and args.index is None:
        raise InputError("--model", "missing", "it or --index")


def _for_engine(args: argparse.Namespace) -> dict[str, Any]:
    from jaxir.cli.search import read_query_texts
    from jaxir.data.collection import open_collection
    from jaxir.errors import InputError
    from jaxir.export.opensearch_files import ExportOptions, byte_count, export_index

    if args.k is not None and args.queries is None:
        raise InputError("--k", "given", "with --queries, whose results it is of")
    if args.name is not None and args.two_phase is None:
        raise InputError("--name", "given", "with --two_phase, whose pipeline has it")
    given = {"name": args.name, "k": args.k, "scale": args.scale}
    if args.max_bytes is not None:
        given["max_bytes"] = byte_count(args.max_bytes)
    if args.texts is not None:
        given["collection"] = open_collection(args.texts)
    if args.queries is not None:
        given["queries"] = read_query_texts(args.queries)
    options = ExportOptions(
        opensearch=field_config(args, version=args.version),
        **{name: value for name, value in given.items() if value is not None},
    )
    return export_index(args.index, args.output, options, format=args.format)


def _programs(args: argparse.Namespace) -> dict[str, Any]:
    from jaxir.errors import InputError
    from jaxir.export.index_programs import index_programs
    from jaxir.export.lower import TARGET
    from jaxir.export.programs import load_programs

    if args.index is not None:
        k = 100 if args.k is None else args.k
        exportable = index_programs(args.index, model=args.model, k=k)
    elif args.k is not None:
        raise InputError("--k", "given with a model", "with --index")
    else:
        exportable = load_programs(args.model)
    options: dict[str, Any] = {"target": TARGET if args.target is None else args.target}
    if args.platforms is not None:
        options["platforms"] = [x.strip() for x in args.platforms.split(",")]
    if args.format == "stablehlo":
        from jaxir.export.stablehlo import write_stablehlo

        return write_stablehlo(exportable, args.output, **options)
    from jaxir.export.saved_model import write_saved_model

    version = args.model_version
    return write_saved_model(exportable, args.output, version=version, **options)


def _converted(args: argparse.Namespace) -> dict[str, Any]:
    from jaxir.cli.convert import convert

    if args.format == "faiss":
        source, target = f"jaxir:{args.index}", f"faiss:{args.output}"
        return convert(source, target, layout=args.layout)
    return convert(args.model, f"hf:{args.output}")


def _say(args: argparse.Namespace, told: dict[str, Any]) -> None:
    from jaxir.progress import say

    if "differences" in told:
        names = ", ".join(told.get("signatures") or told["programs"])
        worst = max(told["differences"].values())
        say(
            f"{told['path']}: {names}, {told['bytes'] / 1e6:.1f} MB; another process "
            f"computes the same, to {worst:.1g}"
        )
    elif "files" not in told:
        docs = told.get("num_docs")
        size = f"{docs:,} documents" if docs is not None else told["kind"]
        say(f"{args.output}: {size}")
    else:
        size = sum(file["bytes"] for file in told["files"].values())
        say(
            f"{args.output}: {told['docs']:,} documents in {len(told['files'])} files, "
            f"{size / 1e6:.1f} MB"
        )
    if told.get("queries_compared"):
        say(
            f"weights of 9 bits lower scores by at most "
            f"{told['largest_score_difference']:.3g} "
            f"({told['largest_relative_difference']:.2%})".replace("%", " %")
        )
