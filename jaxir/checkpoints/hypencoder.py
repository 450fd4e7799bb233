"""The Hypencoders of the paper's authors, in and out: ``jfkback/hypencoder.6_layer``.

A Hugging Face folder whose ``config.json`` has ``query_encoder_kwargs``, read by
``hypencoder_config``.  Of a q-net of ``L`` blocks, its tensors are

=========================================== ======================================
theirs                                      ours
=========================================== ======================================
``query_encoder.transformer.*``,            ``shared/backbone``, or
``passage_encoder.transformer.*``           ``query/backbone`` and ``doc/backbone``
``hyper_base_matrices.{i}``                 ``base`` of ``head/kernel_{i}``
``hyper_base_vectors.{i}``                  ``base`` of ``head/bias_{i}``
``{weight,bias}_query_embeddings.{i}``      ``query`` of either
``{weight,bias}_hyper_projection.{i}``      ``projection`` of either
``{key,value}_projections.{j}``             ``key`` and ``value``; ``j`` counts the
                                            ``L + 1`` weights, then the biases
=========================================== ======================================

where the weight of number ``L`` is ``head/output``, and all but the encoders stand
under ``query_encoder.`` as well.  A shared encoder has either of its names, or both.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxir.checkpoints.huggingface import (
    backbone_rules,
    backbone_weights,
    export_backbone,
    write_tokenizer_config,
)
from jaxir.checkpoints.hypencoder_config import (
    ENCODER_FOLDER,
    check_expressible,
    config_from_released,
    config_to_released,
    is_bert_base,
)
from jaxir.checkpoints.rules import TRANSPOSE, Rule, Transform, apply_rules, invert
from jaxir.checkpoints.weights import read_json, read_weights, resolve, save_weights
from jaxir.errors import InputError
from jaxir.files import atomic_file
from jaxir.hyper.model import HypencoderConfig, init_params
from jaxir.nn.tower import TOWERS
from jaxir.types import Params

__all__ = [
    "PretrainedHypencoder",
    "export_hypencoder",
    "is_hypencoder",
    "load_hypencoder",
]

_PREFIXES = {
    "query": "query_encoder.transformer.",
    "doc": "passage_encoder.transformer.",
}

_FIRST = Transform(lambda x: x[0], lambda x: x[None], lambda shape: shape[1:])


class PretrainedHypencoder(NamedTuple):
    """A Hypencoder as it comes from a checkpoint.

    Attributes:
      config: the model.
      params: its parameters, float32 arrays in host memory.
    """

    config: HypencoderConfig
    params: Params


def is_hypencoder(directory: Path) -> bool:
    """Whether a folder holds a model of the released code."""
    path = directory / "config.json"
    return path.is_file() and "query_encoder_kwargs" in read_json(path)


def load_hypencoder(spec: str | os.PathLike) -> PretrainedHypencoder:
    """A Hypencoder of the released code, from a folder or ``hf:ID``.

    The poolers of its encoders, which nothing uses, are left behind.

    Args:
      spec: as ``weights.resolve`` takes it.

    Raises:
      InputError: options that the released code does not take, weights that do not
        fit, with the whole difference, or an encoder whose shape nothing tells.
    """
    directory = resolve(spec)
    shared = bool(read_json(directory / "config.json").get("shared_encoder"))
    weights = read_weights(directory)
    encoders = _encoders(weights, shared, directory)
    config = config_from_released(directory, encoders)
    towers = tuple(_PREFIXES.values())
    theirs = {name: x for name, x in weights.items() if not name.startswith(towers)}
    rules = [
        rule._replace(target=f"head/{rule.target}")
        for rule in _head_rules(config.qnet.depth)
    ]
    ignore: list[str] = []
    for tower, arrays in encoders.items():
        inside = _PREFIXES["query" if tower == "query" else "doc"]
        theirs |= {inside + name: array for name, array in arrays.items()}
        of_tower, unused = backbone_rules(
            config.backbone, inside=inside, under=f"{tower}/backbone/"
        )
        rules, ignore = rules + of_tower, ignore + unused
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    tree = apply_rules(theirs, rules, shapes, where=directory, ignore=ignore)
    params = jax.tree.map(lambda x: np.ascontiguousarray(x, np.float32), tree)
    return PretrainedHypencoder(config, params)


def _encoders(
    weights: Mapping[str, np.ndarray], shared: bool, where: Path
) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each tower; a shared one's under whichever name they stand."""
    found: dict[str, dict[str, np.ndarray]] = {
        side: {
            name.removeprefix(prefix): array
            for name, array in weights.items()
            if name.startswith(prefix)
        }
        for side, prefix in _PREFIXES.items()
    }
    missing = [f"no {_PREFIXES[side]}*" for side in _PREFIXES if not found[side]]
    if len(missing) > (1 if shared else 0):
        expected = "an encoder" if shared else "two, for shared_encoder is false"
        raise InputError(where, " and ".join(missing), expected)
    if not shared:
        return found
    query, doc = found["query"], found["doc"]
    differing = [
        name for name in query if name in doc and not _same(query[name], doc[name])
    ]
    if differing:
        raise InputError(
            where,
            f"{len(differing)} of the two encoders' tensors differ, as {differing[0]}",
            "one encoder under two names, for shared_encoder is true",
            "set shared_encoder to false in config.json if they are two",
        )
    return {"shared": query | doc}


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are equal; views of one storage are not read for it."""
    same = a.__array_interface__ == b.__array_interface__
    return same or (a.dtype == b.dtype and np.array_equal(a, b))


def _head_rules(depth: int) -> list[Rule]:
    """The table of the hyperhead of a q-net of ``depth`` blocks."""
    targets = [("weight", i, f"kernel_{i}") for i in range(depth)]
    targets += [("weight", depth, "output")]
    targets += [("bias", i, f"bias_{i}") for i in range(depth)]
    rules = []
    for j, (sort, i, target) in enumerate(targets):
        if sort == "weight":
            rules.append(Rule(f"hyper_base_matrices.{i}", f"{target}/base", _FIRST))
        else:
            rules.append(Rule(f"hyper_base_vectors.{i}", f"{target}/base"))
        rules.append(Rule(f"{sort}_query_embeddings.{i}", f"{target}/query", _FIRST))
        for source, ours in (
            (f"{sort}_hyper_projection.{i}", f"{target}/projection"),
            (f"key_projections.{j}", f"{target}/key"),
            (f"value_projections.{j}", f"{target}/value"),
        ):
            rules.append(Rule(f"{source}.weight", f"{ours}/kernel", TRANSPOSE))
            rules.append(Rule(f"{source}.bias", f"{ours}/bias"))
    return [rule._replace(source=f"query_encoder.{rule.source}") for rule in rules]


def export_hypencoder(
    config: HypencoderConfig,
    params: Params,
    directory: str | os.PathLike,
    *,
    tokenizer: Any = None,
    final: str | os.PathLike | None = None,
) -> None:
    """Writes a folder for the released ``HypencoderDualEncoder.from_pretrained``.

    A shared encoder is written under the passage encoder's name alone, for safetensors
    knows no tensor of two names; Hugging Face's conversions do the same, and the
    released code fills both from it.  Lengths, templates and the encoder's shape are
    kept in ``config.json`` as well, so that :func:`load_hypencoder` gives the same
    model to the last bit.

    The released code makes its encoders by a model's name before it fills them:
    ``google-bert/bert-base-uncased`` for encoders of that shape.  Another is written to
    ``encoder/`` and named by its absolute path, which must be mended in ``config.json``
    when the folder moves.

    Args:
      config: a Hypencoder.
      params: its parameters.
      directory: where to write; made if absent.
      tokenizer: its tokenizer (``save(directory)``), whose files are written as well.
      final: where the folder will stand, if that is not ``directory``.

    Raises:
      InputError: a Hypencoder that the released code cannot compute.
    """
    directory = Path(directory)
    target = directory if final is None else Path(final)
    check_expressible(config, target)
    host = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    weights = invert(host["head"], _head_rules(config.qnet.depth), where=target)
    for tower in TOWERS[config.towers]:
        tree = host[tower]["backbone"]
        prefix = _PREFIXES["query" if tower == "query" else "doc"]
        inner = backbone_weights(config.backbone, tree, where=target)
        weights |= {prefix + name: array for name, array in inner.items()}
    if not is_bert_base(config.backbone):
        # Of two, either: the released code takes the shape alone.
        export_backbone(config.backbone, tree, directory / ENCODER_FOLDER)
    save_weights(directory / "model.safetensors", weights)
    if tokenizer is not None:
        tokenizer.save(directory)
        write_tokenizer_config(directory, config.backbone.max_length)
    data = config_to_released(config, str(target.absolute() / ENCODER_FOLDER))
    with atomic_file(directory / "config.json") as out:
        out.write(json.dumps(data, indent=2) + "\n")
