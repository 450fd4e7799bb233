"""Make or check a collection folder.

  jaxir data pydocs --output DIR         documented Python of this installation
  jaxir data import PATH --output DIR    your own documents: a folder of .txt and .md
                                         files, a .csv, .tsv, .jsonl or .json file
  jaxir data beir DIR                    check a BEIR folder, every line of it
  jaxir data msmarco DIR                 check a folder of MS MARCO tsv files
  jaxir data trec DIR                    check a folder of TREC documents and topics
  jaxir data irds ID --output DIR        an ir_datasets id as a BEIR folder
  jaxir data tfds --lists FILE --collection C:split --output DIR
                                         training lists as a TFDS set

A check ends with a summary, or with one line that names file, line and remedy.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxir.errors import InputError

if TYPE_CHECKING:
    from jaxir.data.collection import Collection, CollectionCheck

__all__ = ["add_arguments", "run"]

_FORMS = {
    "beir": "corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv",
    "msmarco": "collection.tsv, queries.SPLIT.tsv and qrels.SPLIT.tsv",
    "trec": "docs/, topics.SPLIT.* and qrels.SPLIT.*",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # Options that every form takes; suppressed so that those before the form hold too.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS,
        help="print the summary as one JSON object",
    )  # fmt: skip
    common.add_argument(
        "--quiet", action="store_true", default=argparse.SUPPRESS,
        help="no progress, no remarks",
    )  # fmt: skip
    allow = argparse.ArgumentParser(add_help=False)
    allow.add_argument(
        "--allow_empty", action="store_true",
        help="take documents whose title and text are both empty",
    )  # fmt: skip
    forms = parser.add_subparsers(dest="form", required=True, metavar="FORM")

    pydocs = forms.add_parser("pydocs", parents=[common], help="make the embedded one")
    pydocs.add_argument("--output", required=True, help="the folder to write")
    pydocs.add_argument(
        "--limit", type=int, default=5000, help="most documents (5000); 0 keeps all"
    )
    pydocs.add_argument(
        "--packages", nargs="+", help="top-level packages; `stdlib` is one"
    )
    own = forms.add_parser("import", parents=[common], help="take in your documents")
    own.add_argument("path", help="a folder of texts, a table, or JSON (lines)")
    own.add_argument("--output", required=True, help="the folder to write")
    own.add_argument(
        "--id", help="column or key of the id (the usual names, or a number)"
    )
    own.add_argument("--title", help="column or key of the title (the usual names)")
    own.add_argument(
        "--text", nargs="+", default=[], help="columns or keys of the text (the usual)"
    )
    own.add_argument(
        "--words", type=int,
        help="cut longer texts into passages of at most so many (180 suit MiniLM)",
    )  # fmt: skip
    own.add_argument(
        "--title_queries", action="store_true",
        help="for training without judgments: each title is a query for its text",
    )  # fmt: skip
    for form, files in _FORMS.items():
        check = forms.add_parser(form, parents=[common, allow], help=f"check: {files}")
        check.add_argument("path", help="the folder")
        check.add_argument("--output", help="write it as a BEIR folder here")
    irds = forms.add_parser("irds", parents=[common, allow], help="fetch and convert")
    irds.add_argument("id", help="such as beir/scifact or msmarco-passage/dev/small")
    irds.add_argument("--output", required=True, help="the BEIR folder to write")
    tfds = forms.add_parser("tfds", parents=[common], help="prepare training lists")
    tfds.add_argument("--lists", required=True, help="JSON lines of `jaxir mine`")
    tfds.add_argument("--collection", required=True, help="C:split of the lists")
    tfds.add_argument("--output", required=True, help="the TFDS folder to write")


def run(args: argparse.Namespace) -> int:
    if args.form == "tfds":
        summary = _prepare(args)
        text = f"{summary['output']}: {summary['lists']} training lists"
    else:
        check = _make_or_check(args)
        summary, text = check.to_dict(), _describe(check)
    print(json.dumps(summary) if getattr(args, "json", False) else text)
    return 0


def _make_or_check(args: argparse.Namespace) -> "CollectionCheck":
    from jaxir.data.collection import open_collection, write_beir

    if args.output:
        _require_replaceable(args.output)
    if args.form == "pydocs":
        from jaxir.data.pydocs import write_pydocs

        path = write_pydocs(
            args.output, packages=args.packages, max_docs=args.limit or None
        )
        return open_collection(path).check()
    if args.form == "import":
        return _import(args)
    spec = f"irds:{args.id}" if args.form == "irds" else args.path
    collection = open_collection(spec, allow_empty=args.allow_empty)
    if args.form != "irds":
        _require_form(collection, args.form)
    if not args.output:
        return collection.check()
    if Path(args.output).resolve() == Path(collection.path).resolve():
        raise InputError(args.output, "this is the collection itself", "another folder")
    collection.check()  # before anything is written
    written = write_beir(collection, args.output)
    return open_collection(written, allow_empty=args.allow_empty).check()


def _import(args: argparse.Namespace) -> "CollectionCheck":
    from jaxir.data.collection import open_collection
    from jaxir.data.import_documents import import_documents
    from jaxir.data.own_documents import Fields

    source, output = Path(args.path).resolve(), Path(args.output).resolve()
    if output == source or source in output.parents:
        raise InputError(
            args.output, f"lies in {args.path}", "a place outside what is read",
        )  # fmt: skip
    import_documents(
        args.path, args.output, words=args.words, title_queries=args.title_queries,
        fields=Fields(args.id, args.title, tuple(args.text)),
    )  # fmt: skip
    return open_collection(args.output).check()


_COLLECTION_FILES = {"corpus.jsonl", "queries.jsonl", "qrels", "manifest.json"}


def _require_replaceable(output: str) -> None:
    """What is written takes the place of the folder as a whole: only of its like."""
    path = Path(output)
    if not path.exists():
        return
    names = (
        {p.name.removesuffix(".gz") for p in path.iterdir()} if path.is_dir() else {""}
    )
    if names - _COLLECTION_FILES:
        raise InputError(
            output, "this exists and holds more than a collection",
            "a new or empty folder", "choose another place",
        )  # fmt: skip


def _require_form(collection: "Collection", form: str) -> None:
    if collection.kind != form:
        raise InputError(
            collection.path,
            f"the documents are in the form of {collection.kind!r}",
            f"{form}: {_FORMS[form]}",
            f"run `jaxir data {collection.kind} {collection.path}`",
        )


def _prepare(args: argparse.Namespace) -> dict[str, Any]:
    from jaxir.data.collection import open_collection, split_spec
    from jaxir.data.lists import read_lists
    from jaxir.data.tfds_lists import prepare_lists

    spec, split = split_spec(args.collection)
    if split is None:
        raise InputError("--collection", repr(spec), "C:split", "name the split")
    output = Path(args.output)
    empty = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not empty and not (output / "lists.json").is_file():
        raise InputError(
            output, "this exists and holds no prepared lists",
            "a new or empty folder", "choose another place",
        )  # fmt: skip
    lists = read_lists(args.lists)
    path = prepare_lists(lists, open_collection(spec), split, args.output)
    count = json.loads((path / "lists.json").read_text())["num_lists"]
    return {"output": str(path), "lists": count, "collection": spec, "split": split}


def _describe(check: "CollectionCheck") -> str:
    """The summary as a person reads it."""
    empty = f", {check.num_empty_docs} of them empty" if check.num_empty_docs else ""
    lines = [
        f"{check.path}  ({check.kind})",
        f"  documents  {check.num_docs:,}{empty}; mean words {check.mean_words:g}",
        f"  queries    {check.num_queries:,}",
    ]
    width = max(map(len, check.splits), default=0)
    for name, split in check.splits.items():
        grades = ", ".join(f"{n:,} of grade {g}" for g, n in split.grades.items())
        line = f"  split {name:<{width}}  {split.num_queries:,} queries, {grades}"
        if split.absent_docs or split.absent_queries:
            line += (
                f"; {split.absent_docs} documents and {split.absent_queries} queries "
                "that the collection does not have"
            )
        lines.append(line)
    if not check.splits:
        lines.append("  no judgments")
    lines.append(f"  store      {check.store}")
    return "\n".join(lines)
