"""Score a run's best documents anew with a model and write a TREC run; resumes.

  jaxir rerank --model D --run run.trec --collection C --output out.trec [--k 100]

The model is a cross-encoder (RankT5, monoT5, BERT), a T5 to be read as one, or a
bi-encoder.  A T5 is read as RankT5, as a line says, and with both tokens (▁true and
▁false) as monoT5.  The output holds the k documents of each query; --keep_rest adds
those below, in the order they had.
"""

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="a folder, hf:ID or t5x:DIR")
    add("--run", required=True, help="the TREC run to rerank")
    add("--collection", required=True, help="COLLECTION or COLLECTION:SPLIT")
    add("--output", required=True, help="where the run goes")
    add("--k", type=int, default=100, help="documents a query that are scored (100)")
    add("--queries", help="query file or COLLECTION:SPLIT; the collection's by default")
    add("--keep_rest", action="store_true", help="also write what is below the k")
    add("--skip_missing", action="store_true", help="leave out what is not there")
    add("--tag", help="last column of the run; by default the model's kind")
    add("--max_length", type=int, help="tokens of a pair; by default the model's own")
    add("--batch_tokens", type=int, help="tokens of a batch; by default the machine's")
    add("--dtype", choices=("float32", "bfloat16"), help="compute type")
    add("--tokenizer", help="for weights without one: a folder or hf:ID")
    add("--head", choices=("encdec", "enc"), help="T5: what reads the score")
    add("--target_token", help="T5: its logit is the score (<extra_id_10>)")
    add("--contrast_token", help="T5: monoT5's second token (▁false)")
    add("--no_eos", action="store_true", help="T5: no </s> at the end of a pair")
    add("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    import json
    import time

    from jaxir.data.collection import open_collection, split_spec
    from jaxir.mesh import use_cpu_cores
    from jaxir.progress import say
    from jaxir.rerank import rerank
    from jaxir.reranker import load_scoring_model

    place, split = split_spec(args.collection)
    collection = open_collection(place)
    queries = collection.queries(None)
    if args.queries is not None:
        queries = _read_queries(args.queries)
    elif split is not None:
        queries |= collection.queries(split)
    use_cpu_cores()
    changes = {} if args.dtype is None else {"backbone.dtype": args.dtype}
    if args.no_eos:
        changes["eos"] = False
    model = load_scoring_model(
        args.model, head=args.head, target_token=args.target_token,
        contrast_token=args.contrast_token, tokenizer=args.tokenizer, changes=changes,
    )  # fmt: skip
    start = time.perf_counter()
    report = rerank(
        model, args.run, collection, output=args.output, k=args.k, queries=queries,
        keep_rest=args.keep_rest, skip_missing=args.skip_missing,
        tag=model.kind if args.tag is None else args.tag,
        batch_tokens=args.batch_tokens, max_length=args.max_length,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if args.json:
        result = {"output": args.output, "run": args.run, "model": args.model}
        result |= {**report._asdict(), "seconds": round(seconds, 3)}
        print(json.dumps(result))
        return 0
    say(
        f"{args.output}: {report.pairs} pairs of {report.queries} queries, "
        f"{report.pairs / max(seconds, 1e-9):.1f} pairs a second"
    )
    for count, what in (
        (report.cut_docs, "documents were cut to the length of a pair"),
        (report.cut_queries, "queries were too long themselves"),
        (report.missing_docs, "documents are not in the collection"),
        (report.missing_queries, "queries are not in the collection"),
    ):
        if count:
            say(f"{count} {what}")
    return 0


def _read_queries(spec: str) -> dict[str, str]:
    from pathlib import Path

    from jaxir.data.collection import open_collection, split_spec
    from jaxir.data.formats import read_queries

    if Path(spec).is_file():
        return read_queries(spec)
    place, split = split_spec(spec)
    return open_collection(place).queries(split)
