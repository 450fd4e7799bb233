"""Score training lists with one or several teachers; resumes when interrupted.

  jaxir label --teachers D1 D2 --lists lists.jsonl --collection C --output out.jsonl

Several teachers are averaged after min-max normalisation within each list.  A plain T5
is read as RankT5, as a line says; a monoT5 is first made a reranker that says what it
is, by `jaxir convert --target_token ▁true --contrast_token ▁false`.
"""

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--teachers",
        nargs="+",
        required=True,
        help="bi- or cross-encoders; a T5 is read as RankT5",
    )
    add("--lists", required=True, help="training lists to read (JSON lines)")
    add("--collection", required=True, help="collection that the lists are over")
    add("--output", required=True, help="where the labelled lists go")
    add("--normalization", help="none, min-max or z-score")
    add("--weights", nargs="+", type=float, help="one for each teacher")
    add("--scale", type=float, default=1.0, help="multiply the result with this (1)")
    add(
        "--first",
        default="kept",
        help="which document leads a list: the one that did (kept), or the teachers' "
        "best, a positive then (best)",
    )
    add("--batch_size", type=int, default=64, help="lists scored at once (64)")
    add("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    import json

    from jaxir.data.collection import open_collection, split_spec
    from jaxir.label import label_lists, make_teacher
    from jaxir.progress import say
    from jaxir.reranker import load_scoring_model
    from jaxir.scorers import scores_identity

    place, _ = split_spec(args.collection)
    collection = open_collection(place)
    models = [load_scoring_model(spec) for spec in args.teachers]
    report = label_lists(
        [make_teacher(model) for model in models], args.lists, collection,
        args.output, normalization=args.normalization, weights=args.weights,
        scale=args.scale, first=args.first, batch_size=args.batch_size,
        identity=scores_identity(*models),
    )  # fmt: skip
    if args.json:
        print(json.dumps({"output": args.output, **report._asdict()}))
    else:
        say(
            f"{args.output}: {report.lists} lists, {report.pairs} pairs scored by "
            f"{report.teachers} teacher{'s' if report.teachers > 1 else ''}"
        )
    return 0
