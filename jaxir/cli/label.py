"""Score training lists with one or several teachers; resumes when interrupted.

  jaxir label --teachers D1 D2 --lists lists.jsonl --collection C --output out.jsonl

Several teachers are averaged after min-max normalisation within each list.  One may be
a file of an earlier `jaxir label` over the same lists.  A plain T5 is read as RankT5,
as a line says; a monoT5 is first made a reranker that says what it is, by
`jaxir convert --target_token ▁true --contrast_token ▁false`.
"""

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--teachers",
        nargs="+",
        required=True,
        help="bi-, sparse or cross-encoders, a T5 being read as RankT5; or labelled "
        "lists (.jsonl), whose scores are taken",
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
    from jaxir.label import label_lists, load_teachers
    from jaxir.progress import say

    place, _ = split_spec(args.collection)
    collection = open_collection(place)
    teachers, identity = load_teachers(args.teachers)
    report = label_lists(
        teachers, args.lists, collection, args.output,
        normalization=args.normalization, weights=args.weights, scale=args.scale,
        first=args.first, batch_size=args.batch_size, identity=identity,
    )  # fmt: skip
    if args.json:
        print(json.dumps({"output": args.output, **report._asdict()}))
    else:
        say(
            f"{args.output}: {report.lists} lists, {report.pairs} pairs scored by "
            f"{report.teachers} teacher{'s' if report.teachers > 1 else ''}"
        )
    return 0
