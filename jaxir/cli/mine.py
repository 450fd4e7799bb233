"""Mine hard negatives into training lists; interrupt it, and it goes on next time.

  jaxir mine --index I --collection medquad:train --output lists.jsonl \\
      --range_max 50 --relative_margin 0.05 --num_negatives 5

The knobs are those of sentence-transformers' mine_hard_negatives.  --rescore reads a
plain T5 as RankT5, as a line says; a monoT5 is first made a reranker that says what it
is, by `jaxir convert --target_token ▁true --contrast_token ▁false`.
"""

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--index", required=True, help="index directory to search")
    add("--collection", required=True, help="COLLECTION:SPLIT with the judgments")
    add("--output", required=True, help="where the lists go (JSON lines)")
    add("--num_negatives", type=int, default=3, help="negatives of a list (3)")
    add("--range_min", type=int, default=0, help="best candidates passed over (0)")
    add("--range_max", type=int, help="last candidate considered")
    add("--max_score", type=float, help="drop candidates above this score")
    add("--min_score", type=float, help="drop candidates below this score")
    add("--absolute_margin", type=float,
        help="drop candidates within this of the lowest positive")  # fmt: skip
    add("--relative_margin", type=float,
        help="the same, as a part of the positive's score; 0.05 is usual")  # fmt: skip
    add("--sampling_strategy", default="top", help="top or random")
    add("--per", default="positive", help="a list for each positive, or query")
    add("--consistent_top", type=int, metavar="K",
        help="leave out positives that are not among the best K found")  # fmt: skip
    add("--min_negatives", type=int, default=1, help="leave out shorter lists (1)")
    add("--rescore", metavar="MODEL", help="score the candidates anew with this model")
    add("--seed", type=int, default=0, help="of random sampling (0)")
    add("--batch_size", type=int, default=256, help="queries searched at once (256)")
    add("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from jaxir.data.collection import open_collection, split_spec
    from jaxir.data.negatives import MineConfig
    from jaxir.files import sha256_file
    from jaxir.label import make_teacher
    from jaxir.mine import mine_lists
    from jaxir.progress import say
    from jaxir.reranker import load_scoring_model
    from jaxir.scorers import scores_identity
    from jaxir.search import open_index

    config = MineConfig(
        num_negatives=args.num_negatives, range_min=args.range_min,
        range_max=args.range_max, max_score=args.max_score, min_score=args.min_score,
        absolute_margin=args.absolute_margin, relative_margin=args.relative_margin,
        sampling_strategy=args.sampling_strategy, per=args.per,
        consistent_top=args.consistent_top, min_negatives=args.min_negatives,
        seed=args.seed, batch_size=args.batch_size,
    )  # fmt: skip
    place, split = split_spec(args.collection)
    collection = open_collection(place)
    searcher = open_index(args.index)
    identity = sha256_file(Path(args.index) / "manifest.json")
    rescore = None
    if args.rescore:
        model = load_scoring_model(args.rescore)
        rescore = make_teacher(model)
        identity += f" {scores_identity(model)}"
    report = mine_lists(
        searcher, collection, split, args.output, config=config, rescore=rescore,
        identity=identity,
    )  # fmt: skip
    if args.json:
        print(json.dumps({"output": args.output, **report._asdict()}))
        return 0
    say(
        f"{args.output}: {report.lists} lists, {report.negatives} negatives, from "
        f"{report.queries} queries ({report.without} left out)"
    )
    for knob, count in report.dropped.items():
        what = "positives" if knob == "consistent_top" else "candidates"
        say(f"  {knob} {getattr(config, knob):g} dropped {count} {what}")
    return 0
