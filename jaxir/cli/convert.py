"""Convert a model between jaxir and other libraries.

  jaxir convert hf:sentence-transformers/all-MiniLM-L6-v2 jaxir:models/minilm
  jaxir convert hf:ID jaxir:DIR --set pooling=cls --set towers=separate
  jaxir convert dpr:hf:QUESTION_ID,hf:CONTEXT_ID jaxir:models/dpr
  jaxir convert jaxir:models/mine hf:exported

FROM is hf:ID_OR_DIR (sentence-transformers, or a bare BERT, RoBERTa or DistilBERT),
dpr:QUESTION,CONTEXT or jaxir:DIR.  TO is jaxir:DIR or hf:DIR; the latter becomes a
sentence-transformers folder, or two, query/ and document/, for separate towers.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxir.errors import InputError
from jaxir.files import atomic_directory
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
        help="change the model's configuration, as pooling=cls or doc_length=180",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    changes = dict(_change(text) for text in args.changes)
    result = convert(args.source, args.target, changes=changes, command=args.command)
    if args.json:
        print(json.dumps(result))
    else:
        say(f"{args.target}: {result['kind']}, {result['num_parameters']:,} parameters")
    return 0


def convert(
    source: str,
    target: str,
    *,
    changes: Mapping[str, Any] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Reads a model in one format and writes it in another.

    Args:
      source: ``hf:ID_OR_DIR``, ``dpr:QUESTION,CONTEXT``, ``jaxir:DIR`` or a folder.
      target: ``jaxir:DIR`` or ``hf:DIR``.
      changes: values of configuration fields to replace.
      command: how this was started, for the model card.

    Returns:
      ``kind``, ``fingerprint``, ``num_parameters`` and ``path`` of what was written.

    Raises:
      InputError: a format we do not know, a model that cannot be read or written, or a
        target that holds something else.
    """
    scheme, _, path = target.partition(":")
    if scheme not in _WRITERS or not path:
        known = ", ".join(f"{name}:DIR" for name in _WRITERS)
        raise InputError("TO", repr(target), f"one of {known}")
    directory = Path(path).expanduser()
    _check_place(directory)

    import jax

    from jaxir.checkpoints.model_dir import load_model, model_from_parts
    from jaxir.families import config_from_dict, config_to_dict, family

    # A prefix that names another model's layout stays; ours says nothing more.
    model = load_model(source.removeprefix("jaxir:"))
    if changes:
        data = config_to_dict(model.config) | dict(changes)
        config = config_from_dict(model.kind, data, where="--set")
        adapt = family(model.kind).adapt_params
        params = adapt(model.config, model.params, config)
        _check_parameters(model.kind, params, config)
        model = model_from_parts(model.kind, config, params, model.tokenizer)
    _WRITERS[scheme](model, source, directory, command)
    return {
        "kind": model.kind,
        "fingerprint": model.fingerprint,
        "num_parameters": sum(int(x.size) for x in jax.tree.leaves(model.params)),
        "path": str(directory),
    }


def _change(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``; the value is JSON where it can be, else a word."""
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError("--set", repr(text), "KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _check_place(directory: Path) -> None:
    """A target may be absent, empty, or a model that is to be replaced."""
    if not directory.exists():
        return
    marks = ("model.json", "modules.json", "query/modules.json")
    replaceable = directory.is_dir() and (
        not any(directory.iterdir()) or any((directory / m).is_file() for m in marks)
    )
    if not replaceable:
        raise InputError(
            directory,
            "exists and holds something else than a model",
            "a new or empty directory",
            "choose another place; nothing was written",
        )


def _check_parameters(kind: str, params: Any, config: Any) -> None:
    """A change of configuration may ask for nothing that the parameters lack."""
    import jax

    from jaxir.checkpoints.rules import check_shapes
    from jaxir.families import family

    init = family(kind).init
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    check_shapes(params, shapes, where="--set")


def _write_own(model: Any, source: str, directory: Path, command: str) -> None:
    from jaxir.checkpoints.model_dir import save_model

    save_model(
        directory,
        model,
        command=command,
        training_data=f"None by jaxir; converted from `{source}`.",
    )


def _write_sentence_transformer(
    model: Any, source: str, directory: Path, command: str
) -> None:
    from jaxir.checkpoints.sentence_transformers import export_sentence_transformer

    del source, command
    if model.kind != "dense":
        raise InputError("FROM", f"a model of kind {model.kind!r}", "'dense'")
    with atomic_directory(directory) as place:
        if model.config.towers == "shared":
            export_sentence_transformer(
                model.config, model.params, model.tokenizer, place
            )
            return
        one_tower = dataclasses.replace(model.config, towers="shared")
        for side, name in (("query", "query"), ("doc", "document")):
            export_sentence_transformer(
                one_tower, {"shared": model.params[side]}, model.tokenizer, place / name
            )


_WRITERS: dict[str, Callable[[Any, str, Path, str], None]] = {
    "jaxir": _write_own,
    "hf": _write_sentence_transformer,
}
