"""Compare runs with judgments: metrics, intervals, significance tests, a report.

  jaxir evaluate --qrels scifact:test --runs bm25.trec dense.trec --baseline bm25 \\
      --report report.html

Judged queries that a run lacks count as 0 (trec_eval -c).  Metrics are spelled as in
ir-measures (nDCG@10, RR@10, R@1000, AP, Judged@10) or trec_eval (ndcg_cut.10, map).
"""

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--qrels", required=True, help="COLLECTION:SPLIT, or a file of judgments")
    add("--runs", nargs="+", required=True, help="TREC run files")
    add("--names", nargs="+", help="one for each run; by default the files' names")
    add("--metrics", nargs="+", help="what to measure (nDCG@10 RR@10 R@1000)")
    add("--baseline", help="name of the run to test the others against")
    add("--tests", nargs="+", help="paired tests: t, wilcoxon, permutation (all)")
    add("--correction", help="holm (default), bonferroni or none")
    add("--alpha", type=float, help="significance level (0.05)")
    add("--seed", type=int, default=0, help="of resampling (0)")
    add("--report", help="write an HTML report here")
    add("--title", help="heading of the report")
    add("--curves", nargs="+", metavar="NAME=FILE",
        help="metrics.jsonl of trained models, for the report")  # fmt: skip
    add("--per_query", help="write every value here, as CSV")
    add("--markdown", help="write the table here, as Markdown")
    add("--latex", help="write the table here, as LaTeX")
    add("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from jaxir.data.formats import read_run
    from jaxir.evaluate import evaluate
    from jaxir.files import atomic_file
    from jaxir.measures import DEFAULT_METRICS, parse_metrics
    from jaxir.progress import progress_bar, say
    from jaxir.tables import (
        format_table,
        latex_table,
        markdown_table,
        write_per_query,
    )

    names, settings = _names(args), _settings(args)
    parse_metrics(args.metrics or DEFAULT_METRICS)  # before minutes of reading
    curves = _curves(args)
    qrels, collection = _judgments(args.qrels)
    files = zip(names, args.runs, strict=True)
    bar = progress_bar(files, total=len(names), label="read runs", unit="run")
    runs = {name: read_run(path) for name, path in bar}
    evaluation = evaluate(
        qrels, runs, metrics=args.metrics or DEFAULT_METRICS, baseline=args.baseline,
        seed=args.seed, **settings,
    )  # fmt: skip
    if args.per_query:
        write_per_query(evaluation, args.per_query)
    for path, table in ((args.markdown, markdown_table), (args.latex, latex_table)):
        if path:
            with atomic_file(path) as out:
                out.write(table(evaluation) + "\n")
    if args.report:
        _report(args, evaluation, qrels, runs, collection, curves)
    print(json.dumps(evaluation.to_dict()) if args.json else format_table(evaluation))
    if len(runs) > 1 and args.baseline is None and not args.json:
        say(f"--baseline {names[0]} would test the differences for significance")
    for kind, path in (("report", args.report), ("per query", args.per_query)):
        if path:
            say(f"{kind}: {Path(path).resolve()}")
    return 0


def _names(args: argparse.Namespace) -> list[str]:
    from collections import Counter
    from pathlib import Path

    from jaxir.errors import InputError

    names = args.names or [
        Path(path).name.removesuffix(".gz").rsplit(".", 1)[0] for path in args.runs
    ]
    if len(names) != len(args.runs):
        raise InputError(
            "--names", f"{len(names)} for {len(args.runs)} runs", "one for each run"
        )
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(
                "--runs", f"{count} runs are called {name!r}", "names that differ",
                "give --names",
            )  # fmt: skip
    if args.baseline is not None and args.baseline not in names:
        raise InputError(
            "--baseline", f"no run is named {args.baseline!r}",
            "one of " + ", ".join(names),
        )  # fmt: skip
    return names


def _settings(args: argparse.Namespace) -> dict:
    """What was given of the tests; flags that nothing would read are refused."""
    from jaxir.errors import InputError

    tests = ("tests", "correction", "alpha")
    for needed, names in (("baseline", tests), ("report", ("title", "curves"))):
        for name in names if getattr(args, needed) is None else ():
            if getattr(args, name) is not None:
                raise InputError(f"--{name}", f"given without --{needed}", "both")
    given = {name: getattr(args, name) for name in tests}
    return {name: value for name, value in given.items() if value is not None}


def _judgments(spec: str):
    """Judgments of a file or of a collection's split, and the collection if any."""
    from pathlib import Path

    from jaxir.data.collection import open_collection, split_spec
    from jaxir.data.formats import read_qrels
    from jaxir.errors import InputError

    if Path(spec).is_file():
        return read_qrels(spec), None
    place, split = split_spec(spec)
    if split is None:
        raise InputError(
            "--qrels", f"{spec!r} is no file and names no split",
            "COLLECTION:SPLIT or a file of judgments", "add :test, for example",
        )  # fmt: skip
    collection = open_collection(place)
    return collection.qrels(split), collection


def _curves(args: argparse.Namespace) -> dict[str, str]:
    """Files of training curves by name, each of them read once to be sure of it."""
    from jaxir.errors import InputError
    from jaxir.report import read_curves

    curves = {}
    for given in args.curves or []:
        name, equals, path = given.partition("=")
        if not equals:
            raise InputError("--curves", f"{given!r}", "NAME=FILE")
        read_curves(path)
        curves[name] = path
    return curves


def _report(
    args: argparse.Namespace, evaluation, qrels, runs, collection, curves
) -> None:
    from pathlib import Path

    from jaxir.report import write_report

    details, queries = {"judgments": args.qrels}, None
    title = Path(args.qrels).name
    if collection is not None:
        queries = collection.queries(None)
        title = f"{collection.name}, {args.qrels.rpartition(':')[2]}"
        details["collection"] = f"{collection.name}, {len(collection.docs):,} documents"
    write_report(
        evaluation, args.report,
        title=args.title or title,
        qrels=qrels, runs=runs, queries=queries,
        training_curves=curves, details=details,
        commands=[args.command],
    )  # fmt: skip
