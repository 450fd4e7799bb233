"""Convert a model, or an index of codes, between jaxir and other libraries.

  jaxir convert hf:sentence-transformers/all-MiniLM-L6-v2 jaxir:models/minilm
  jaxir convert hf:ID jaxir:DIR --set pooling=cls --set towers=separate
  jaxir convert dpr:hf:QUESTION_ID,hf:CONTEXT_ID jaxir:models/dpr
  jaxir convert hf:jfkback/hypencoder.6_layer jaxir:models/hypencoder
  jaxir convert t5x:checkpoint_1050700 hf:rankt5-large --tokenizer hf:google-t5/t5-large
  jaxir convert jaxir:models/mine hf:exported
  jaxir convert hf:castorini/monot5-base-msmarco jaxir:models/monot5 \\
      --target_token ▁true --contrast_token ▁false --set max_length=512
  jaxir convert jpq:QUERY_ID,DOC_ID jaxir:models/jpq --tokenizer hf:roberta-base
  jaxir convert hf:opensearch-project/opensearch-neural-sparse-encoding-doc-v1 \\
      jaxir:models/doc-v1 --set activation=log1p
  jaxir convert jaxir:indexes/jpq faiss:jpq.faiss
  jaxir convert faiss:OPQ24,IVF1,PQ24x8.index jaxir:indexes/theirs \\
      --model models/jpq --collection msmarco/passage

FROM is hf:ID_OR_DIR (sentence-transformers, a bare BERT, RoBERTa or DistilBERT, one of
them as a classifier with one label, a T5, a Hypencoder of the paper's authors, a sparse
encoder of OpenSearch's or SPLADE's, one or both encoders of JPQ's authors), t5x:DIR (a
T5X checkpoint), dpr:QUESTION,CONTEXT, jpq:QUERY,DOC, faiss:FILE (an IndexPQ or an
IndexIVFPQ of one list, rotated or not) or jaxir:DIR.  TO is one of

  jaxir:DIR  any model
  hf:DIR     a bi-encoder as a sentence-transformers folder, or two, query/ and
             document/, for separate towers; those of JPQ's authors for their code; a
             BERT cross-encoder as a sequence classifier; a T5 or an EncDec reranker as
             T5ForConditionalGeneration; an Enc reranker as T5EncoderModel and
             score_head.safetensors; a Hypencoder for its authors' code; a sparse
             encoder as SparseEncoder and AutoModelForMaskedLM, with idf.json
  t5x:DIR    a T5 or a RankT5 as DIR/checkpoint_0 in T5X's native layout, and its
             tokenizer
  faiss:FILE an index of kind pq for any Faiss; FILE.ids.txt has the documents' ids
"""

import argparse
import dataclasses
import importlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxir.errors import InputError
from jaxir.files import STAGING, atomic_directory
from jaxir.progress import say

__all__ = ["add_arguments", "convert", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    parser.add_argument("source", metavar="FROM", help="what to read, see above")
    parser.add_argument("target", metavar="TO", help="what to write, see above")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="changes",
        help="change the model's configuration, as pooling=cls or backbone.dropout=0.0",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="the tokenizer to take, for a model that comes without one (hf:ID or DIR)",
    )
    parser.add_argument(
        "--target_token",
        metavar="TOKEN",
        help="make a T5 a reranker whose score is this token's logit",
    )
    parser.add_argument(
        "--contrast_token", metavar="TOKEN", help="monoT5's second token (▁false)"
    )
    parser.add_argument("--model", help="what encoded the documents of faiss:FILE")
    parser.add_argument("--collection", help="the documents of faiss:FILE, in order")
    parser.add_argument(
        "--layout",
        choices=("flat", "ivf"),
        help="of the file that is written: OPQ{M},PQ{M}x8 (flat, the default), or "
        "OPQ{M},IVF1,PQ{M}x8, which JPQ's authors have (ivf)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    changes = dict(_change(text) for text in args.changes)
    result = convert(
        args.source,
        args.target,
        changes=changes,
        tokenizer=args.tokenizer,
        target_token=args.target_token,
        contrast_token=args.contrast_token,
        model=args.model,
        collection=args.collection,
        layout=args.layout,
        command=args.command,
    )
    if args.json:
        print(json.dumps(result))
        return 0
    docs = result.get("num_docs")
    size = f"{docs:,} documents" if docs is not None else ""
    size = size or f"{result['num_parameters']:,} parameters"
    say(f"{args.target}: {result['kind']}, {size}")
    return 0


def convert(
    source: str,
    target: str,
    *,
    changes: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    target_token: str | None = None,
    contrast_token: str | None = None,
    model: str | None = None,
    collection: str | None = None,
    layout: str | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Reads a model or an index in one format and writes it in another.

    Args:
      source: ``hf:ID_OR_DIR``, ``t5x:DIR``, ``dpr:QUESTION,CONTEXT``,
        ``jpq:QUERY,DOC``, ``faiss:FILE``, ``jaxir:DIR`` or a folder.
      target: ``jaxir:DIR``, ``hf:DIR``, ``t5x:DIR`` or ``faiss:FILE``.
      changes: values of configuration fields to replace.
      tokenizer: the tokenizer to take, for a model that comes without one.
      target_token: makes a T5 an EncDec reranker whose score is this token's logit.
      contrast_token: monoT5's second token; with it the template is monoT5's.
      model: what encoded the documents of ``faiss:FILE``.
      collection: the documents of ``faiss:FILE``.
      layout: of the file of Faiss that is written, ``flat`` or ``ivf``.
      command: how this was started, for the model card.

    Returns:
      ``kind``, ``fingerprint``, ``num_parameters`` (``num_docs`` of an index) and
      ``path`` of what was written.

    Raises:
      InputError: a format we do not know, a model that cannot be read or written, or a
        target that holds something else.
    """
    scheme, _, path = target.partition(":")
    if scheme not in (*_WRITERS, "faiss") or not path:
        known = ", ".join(f"{name}:DIR" for name in _WRITERS)
        raise InputError("TO", repr(target), f"one of {known}, faiss:FILE")
    of_index = {"model": model, "collection": collection, "layout": layout}
    tokens = {"target_token": target_token, "contrast_token": contrast_token}
    if "faiss" in (scheme, source.partition(":")[0]):
        from jaxir.export.faiss_index import convert_index

        _refuse(tokens | {"set": changes or None}, "a file of Faiss")
        return convert_index(source, target, tokenizer=tokenizer, **of_index)
    _refuse(of_index, "a model; for faiss:FILE alone")
    directory = Path(path).expanduser()
    _check_place(directory, scheme)

    import jax

    from jaxir.checkpoints.model_dir import load_model, model_from_parts
    from jaxir.families import config_from_dict, config_to_dict, family
    from jaxir.reranker import load_reranker
    from jaxir.sparse_encoder import load_sparse_encoder

    # A prefix that names another model's layout stays; ours says nothing more.
    spec = source.removeprefix("jaxir:")
    unsaid = {n: x for n, x in (changes or {}).items() if n in _UNSAID}
    if _UNSAID[0] in unsaid:
        found = load_sparse_encoder(spec, **unsaid, tokenizer=tokenizer)
    elif target_token is None and contrast_token is None:
        found = load_model(spec, tokenizer=tokenizer)
    else:
        found = load_reranker(
            spec, target_token=target_token, contrast_token=contrast_token,
            tokenizer=tokenizer,
        )  # fmt: skip
    origin = Path(re.sub(r"^(hf|t5x):", "", found.path)).expanduser().resolve()
    if scheme != "jaxir" and directory.resolve() in (origin, *origin.parents):
        raise InputError(directory, "the model that is read", "another place for TO")
    if changes:
        data = _merged(config_to_dict(found.config), changes)
        config = config_from_dict(found.kind, data, where="--set")
        adapt = family(found.kind).adapt_params
        params = adapt(found.config, found.params, config)
        _check_parameters(found.kind, params, config, "--set")
        found = model_from_parts(found.kind, config, params, found.tokenizer)
    _WRITERS[scheme](found, source, directory, command)
    return {
        "kind": found.kind,
        "fingerprint": found.fingerprint,
        "num_parameters": sum(int(x.size) for x in jax.tree.leaves(found.params)),
        "path": str(directory),
    }


def _refuse(options: Mapping[str, Any], what: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(f"--{given[0]}", f"given with {what}", "to be left out")


def _change(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``; the value is JSON where it can be, else a word."""
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError("--set", repr(text), "KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _merged(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with some values replaced; dots reach into nested ones."""
    merged = dict(data)
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        inner = merged.get(head)
        if rest and isinstance(inner, Mapping):
            merged[head] = _merged(inner, {rest: value})
        else:  # what does not exist is told by the configuration
            merged[name] = value
    return merged


# What the files of a sparse encoder may not say; the first is no other's.
_UNSAID = ("activation", "query")
_JAXIR_MARKS = ("model.json", "modules.json", "query/modules.json")
# What stands in a model's folder, which may be replaced.
_MARKS = {
    "jaxir": _JAXIR_MARKS,
    "hf": (*_JAXIR_MARKS, "model.safetensors", "*query.encoder/model.safetensors"),
}
# A T5X folder with other steps is somebody's training, and is never replaced.
_T5X_FOLDERS = {"checkpoint_0", "tokenizer"}
_DECODERS = {"logits_via_embedding", "num_decoder_layers"}


def _check_place(directory: Path, scheme: str) -> None:
    """A target may be absent, empty, or a model that is to be replaced."""
    if not directory.exists():
        return
    names = {x.name for x in directory.iterdir()} if directory.is_dir() else {"a file"}
    names = {name for name in names if not name.startswith(STAGING)}
    replaceable = any(any(directory.glob(mark)) for mark in _MARKS.get(scheme, ()))
    if scheme == "t5x":
        replaceable = names <= _T5X_FOLDERS
    # Replaced as a whole; only our own writer leaves a training's checkpoints alone.
    training = scheme != "jaxir" and "checkpoints" in names
    if names and (training or not replaceable):
        raise InputError(
            directory,
            "exists and holds "
            + ("a training" if training else "something else than a model"),
            "a new or empty directory",
            "choose another place; nothing was written",
        )


def _check_parameters(kind: str, params: Any, config: Any, where: str) -> None:
    """A configuration may ask for nothing that the parameters lack."""
    import jax

    from jaxir.checkpoints.rules import check_shapes
    from jaxir.families import family

    init = family(kind).init
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    check_shapes(params, shapes, where=where)


def _write_own(model: Any, source: str, directory: Path, command: str) -> None:
    from jaxir.checkpoints.model_dir import save_model

    # An encoder alone is a T5 for others; of ours, only a reranker is without decoder.
    _check_parameters(model.kind, model.params, model.config, source)
    save_model(
        directory,
        model,
        command=command,
        training_data=f"None by jaxir; converted from `{source}`.",
    )


def _write_huggingface(model: Any, source: str, directory: Path, command: str) -> None:
    del source, command
    _check_kind(model, _HUGGINGFACE)
    with atomic_directory(directory) as place:
        _HUGGINGFACE[model.kind](model, place, directory)


def _write_t5x(model: Any, source: str, directory: Path, command: str) -> None:
    from jaxir.checkpoints.t5x import write_t5x

    del source, command
    _check_kind(model, _T5)
    with atomic_directory(directory) as place:
        write_t5x(place, model.params)
        model.tokenizer.save(place / "tokenizer")
    lost = _not_in_t5x(model)
    if lost:
        say(f"{directory}: T5X keeps parameters alone; set anew what was {lost}")


def _not_in_t5x(model: Any) -> str:
    """What of a configuration is not what reading the T5X checkpoint gives."""
    from jaxir.checkpoints.t5x import t5_config_of
    from jaxir.families import config_to_dict

    ours, read = config_to_dict(model.config), t5_config_of(model.params)
    defaults = {field.name: field.default for field in dataclasses.fields(model.config)}
    backbone = ours.pop("backbone", None)
    # the tree itself tells an encoder, and nothing of the decoder that it has not
    passed = {"head"} | (set() if "decoder" in model.params else _DECODERS)
    theirs = config_to_dict(read) if backbone is None else defaults
    pairs = [(ours, theirs), (backbone or {}, config_to_dict(read))]
    return ", ".join(
        f"{name}={value!r}"
        for mine, other in pairs
        for name, value in mine.items()
        if name not in passed and value != other[name]
    )


def _check_kind(model: Any, kinds: Iterable[str]) -> None:
    if model.kind not in kinds:
        expected = "one of " + ", ".join(map(repr, kinds))
        raise InputError("FROM", f"a model of kind {model.kind!r}", expected)


def _encoders(model: Any, place: Path, final: Path) -> None:
    """Of a bi-encoder or of a JPQ model: for whose code there is for such towers."""
    from jaxir.checkpoints.jpq import check_expressible, export_jpq
    from jaxir.checkpoints.sentence_transformers import export_sentence_transformer
    from jaxir.dense.model import DenseConfig

    if model.config.projection_activation == "layer_norm":
        check_expressible(model.config, final)
        export_jpq(
            model.kind, model.config, model.params, place, tokenizer=model.tokenizer
        )
        return
    if model.kind == "jpq":
        say(f"{final}: encoders alone; an index carries the codec (faiss:FILE)")
    if model.config.towers == "shared":
        export_sentence_transformer(model.config, model.params, model.tokenizer, place)
        return
    names = [field.name for field in dataclasses.fields(DenseConfig)]
    fields = {name: getattr(model.config, name) for name in names}
    one_tower = DenseConfig(**fields | {"towers": "shared"})
    for side, name in (("query", "query"), ("doc", "document")):
        export_sentence_transformer(
            one_tower, {"shared": model.params[side]}, model.tokenizer, place / name
        )


def _exporter(
    module: str, name: str, *, told: bool = False
) -> Callable[[Any, Path, Path], None]:
    """A family's own writer, imported when it is wanted; some are told the place."""

    def write(model: Any, place: Path, final: Path) -> None:
        export = getattr(importlib.import_module(f"jaxir.checkpoints.{module}"), name)
        there = {"final": final} if told else {}
        export(model.config, model.params, place, tokenizer=model.tokenizer, **there)

    return write


_T5 = ("t5", "rank_t5")
# Each writes at a temporary place what will stand at its final one.
_HUGGINGFACE: dict[str, Callable[[Any, Path, Path], None]] = {
    "dense": _encoders,
    "jpq": _encoders,
    "t5": _exporter("t5_huggingface", "export_t5"),
    "rank_t5": _exporter("rank_t5", "export_rank_t5"),
    "rank_bert": _exporter("cross_encoder", "export_cross_encoder"),
    "hypencoder": _exporter("hypencoder", "export_hypencoder", told=True),
    "sparse": _exporter("sparse", "export_sparse", told=True),
}
_WRITERS: dict[str, Callable[[Any, str, Path, str], None]] = {
    "jaxir": _write_own,
    "hf": _write_huggingface,
    "t5x": _write_t5x,
}
