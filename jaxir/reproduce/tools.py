"""The small steps between the verbs: samples, a comparison, a fresh model.

sample     --run bm25.trec --queries 250 --output some.trec
judgments  --run some.trec --qrels C:dev --output some.tsv
draw       --lists all.jsonl --count 8000 --output lists.jsonl
overlap    --exact all.trec --run some.trec --k 10
fresh_t5   --tokenizer DIR --output model
parity     --model DIR --index I --queries C:dev --output torch.trec
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxir.errors import InputError

__all__ = ["draw", "fresh_t5", "judgments", "main", "overlap", "parity", "sample"]


def sample(run: str, queries: int, output: str) -> dict[str, Any]:
    """Some queries of a run, the same at every time.

    Args:
      run: a TREC run.
      queries: how many of its queries.
      output: where their run goes.

    Raises:
      InputError: the run has fewer queries.
    """
    from jaxir.data.formats import read_run, write_run

    found = read_run(Path(run))
    if len(found) < queries:
        raise InputError(run, f"{len(found)} queries", f"at least {queries}")
    chosen = random.Random(0).sample(sorted(found), queries)
    write_run(Path(output), {query: found[query] for query in chosen})
    return {"output": output, "queries": len(chosen)}


def judgments(run: str, qrels: str, output: str) -> dict[str, Any]:
    """The judgments of a run's queries.

    Args:
      run: a TREC run.
      qrels: ``COLLECTION:SPLIT``.
      output: the file of judgments.

    Raises:
      InputError: a query without judgments.
    """
    from jaxir.data.collection import open_collection, split_spec
    from jaxir.data.formats import read_run, write_qrels

    place, split = split_spec(qrels)
    judged = open_collection(place).qrels(split)
    queries = list(read_run(Path(run)))
    for query in queries:
        if query not in judged:
            raise InputError(run, f"query {query!r}", f"one that {qrels} judges")
    write_qrels(Path(output), {query: judged[query] for query in queries})
    return {"output": output, "queries": len(queries)}


def draw(lists: str, count: int, output: str) -> dict[str, Any]:
    """Some of many training lists, the same at every time.

    Args:
      lists: JSON lines, as ``jaxir mine`` writes them.
      count: how many.
      output: where they go.

    Raises:
      InputError: there are fewer lists.
    """
    from jaxir.files import atomic_file, open_text

    with open_text(lists) as stream:
        lines = [line.rstrip("\n") for line in stream if line.strip()]
    if len(lines) < count:
        raise InputError(lists, f"{len(lines)} lists", f"at least {count}")
    with atomic_file(output) as out:
        for line in random.Random(0).sample(lines, count):
            out.write(line + "\n")
    return {"output": output, "lists": count}


def overlap(exact: str, run: str, k: int) -> dict[str, Any]:
    """What share of the ``k`` best documents of an exact search another one finds.

    A query for which the other finds nothing counts as 0.

    Args:
      exact: the run of an exact search.
      run: the other.
      k: documents a query.

    Raises:
      InputError: no query has results in both.
    """
    from jaxir.data.formats import read_run

    wanted, found = read_run(Path(exact)), read_run(Path(run))
    if not wanted.keys() & found.keys():
        raise InputError(run, "no query of the exact search", "the same queries")
    shares = []
    for query, scored in wanted.items():
        best = set(list(scored)[:k])
        shares.append(len(best & set(list(found.get(query, {}))[:k])) / len(best))
    return {"overlap": sum(shares) / len(shares), "queries": len(shares), "k": k}


def fresh_t5(tokenizer: str, output: str) -> dict[str, Any]:
    """A T5 of the sizes of ``models/t5/mini.gin`` that has learned nothing.

    Args:
      tokenizer: a T5's.
      output: the model directory.
    """
    from jaxir.checkpoints.model_dir import save_model
    from jaxir.fit import initialized
    from jaxir.nn.t5 import T5Config

    config = T5Config(
        emb_dim=192, num_heads=6, head_dim=32, mlp_dim=384, num_encoder_layers=6,
        num_decoder_layers=2, mlp_activations=("gelu", "linear"),
        logits_via_embedding=False, dropout_rate=0.0,
    )  # fmt: skip
    save_model(Path(output), initialized("t5", config, tokenizer))
    return {"output": output}


def parity(model: str, index: str, queries: str, output: str) -> dict[str, Any]:
    """Embeds all with sentence-transformers, ranks with numpy, and compares vectors.

    Args:
      model: a folder that both libraries open.
      index: the dense index that jaxir built with it.
      queries: ``COLLECTION:SPLIT``.
      output: where the other library's run goes.

    Returns:
      ``largest_difference`` of any number of any document's vector.
    """
    import numpy as np
    from sentence_transformers import SentenceTransformer

    from jaxir.checkpoints.weights import resolve
    from jaxir.data.collection import open_collection, split_spec
    from jaxir.data.formats import write_run
    from jaxir.manifest import read_manifest

    place, split = split_spec(queries)
    collection = open_collection(place)
    theirs = SentenceTransformer(str(resolve(model)), device="cpu")
    texts = [f"{doc.title} {doc.text}".strip() for doc in collection.docs]
    vectors = theirs.encode(texts, show_progress_bar=sys.stderr.isatty())
    shards = read_manifest(index).details["shards"]
    ours = np.concatenate([np.load(Path(index) / shard) for shard in shards])
    asked = collection.queries(split)
    scores = theirs.encode(list(asked.values()), show_progress_bar=False) @ vectors.T
    ids = [doc.doc_id for doc in collection.docs]
    best = np.argsort(-scores, axis=1, kind="stable")[:, :1000]
    run = {
        query: {ids[row]: float(line[row]) for row in rows}
        for query, line, rows in zip(asked, scores, best, strict=True)
    }
    write_run(Path(output), run)
    largest = float(np.max(np.abs(vectors - ours)))
    return {"output": output, "largest_difference": largest}


_TOOLS: dict[str, tuple[Callable[..., dict], dict[str, type]]] = {
    "sample": (sample, {"run": str, "queries": int, "output": str}),
    "judgments": (judgments, {"run": str, "qrels": str, "output": str}),
    "draw": (draw, {"lists": str, "count": int, "output": str}),
    "overlap": (overlap, {"exact": str, "run": str, "k": int}),
    "fresh_t5": (fresh_t5, {"tokenizer": str, "output": str}),
    "parity": (parity, {"model": str, "index": str, "queries": str, "output": str}),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of them and prints what it returns as JSON.

    Args:
      argv: the words after the program; the process's own by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m jaxir.reproduce.tools", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    tools = parser.add_subparsers(dest="tool", required=True)
    for name, (_, options) in _TOOLS.items():
        own = tools.add_parser(name)
        for option, kind in options.items():
            own.add_argument(f"--{option}", type=kind, required=True)
    given: Mapping[str, Any] = vars(parser.parse_args(argv))
    tool, options = _TOOLS[given["tool"]]
    try:
        print(json.dumps(tool(**{option: given[option] for option in options})))
    except InputError as error:
        print(f"{given['tool']}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
