"""Sentence-transformers folders and DPR's pair of encoders, in and out.

A folder's ``modules.json`` lists Transformer, Pooling, at most one Dense, and
Normalize.  Layouts of versions 2 to 6 are read; what is written loads in all of them.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxir.checkpoints.huggingface import (
    backbone_config,
    backbone_params,
    export_backbone,
    load_backbone,
    write_tokenizer_config,
)
from jaxir.checkpoints.rules import TRANSPOSE, Rule, apply_rules, invert
from jaxir.checkpoints.weights import read_json, read_weights, resolve, save_weights
from jaxir.dense.model import DenseConfig
from jaxir.errors import InputError
from jaxir.files import atomic_file
from jaxir.progress import say
from jaxir.text import load_tokenizer
from jaxir.types import Params

__all__ = [
    "ImportedDense",
    "export_sentence_transformer",
    "is_sentence_transformer",
    "load_dpr",
    "load_plain_encoder",
    "load_sentence_transformer",
    "prompt_of",
    "read_length",
    "template_of",
]

_QUERY_LENGTH = 64  # where nothing says how long a query may be; few exceed it

# Version 2's keys, and version 6's names, for the pooling functions that we have.
_POOLING_NAMES = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}
_OLD_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
}
_SIMILARITIES = {"cosine": "cosine", "dot": "dot", "dot_score": "dot"}
# Names under which prompts are kept, in the order sentence-transformers asks for them.
_PROMPT_NAMES = {"query": ("query",), "doc": ("document", "passage", "corpus")}

_PROJECTION_RULES = (
    Rule("linear.weight", "kernel", TRANSPOSE),
    Rule("linear.bias", "bias"),
)


class ImportedDense(NamedTuple):
    """A bi-encoder out of somebody else's folder.

    Attributes:
      config: the model.
      params: its parameters, float32 arrays in host memory.
      tokenizer_path: the folder with its tokenizer.
    """

    config: DenseConfig
    params: Params
    tokenizer_path: Path


def is_sentence_transformer(directory: Path) -> bool:
    """Whether a folder is a sentence-transformers model."""
    return (directory / "modules.json").is_file()


def load_sentence_transformer(spec: str | os.PathLike) -> ImportedDense:
    """A sentence-transformers folder, or ``hf:ID``, as a bi-encoder with one tower.

    ``max_seq_length`` becomes the length of documents and of queries, as there.  A
    Normalize module means cosine; without one,
    ``similarity_fn_name`` decides, whose default is cosine as well: such vectors come
    out normalised here, which sentence-transformers does when it compares them.

    Args:
      spec: the folder or id.

    Raises:
      InputError: modules, pooling, similarity or activation that we do not compute.
    """
    directory = resolve(spec)
    modules = _read_modules(directory)
    folder = modules["Transformer"]
    config_path = folder / "config.json"
    backbone = backbone_config(read_json(config_path), where=config_path)
    tower: dict[str, Any] = {
        "backbone": backbone_params(backbone, read_weights(folder), where=folder)
    }
    fields: dict[str, Any] = {"pooling": _read_pooling(modules["Pooling"])}
    if "Dense" in modules:
        projection, activation = _read_projection(modules["Dense"], backbone)
        tower["projection"] = projection
        fields["projection_size"] = int(projection["bias"].shape[0])
        fields["projection_activation"] = activation
    length = read_length(folder, backbone.max_length)
    settings = _read_settings(directory)
    config = DenseConfig(
        backbone=backbone,
        similarity=_read_similarity(directory, settings, "Normalize" in modules),
        query_length=length,
        doc_length=length,
        query_template=template_of(settings, "query"),
        doc_template=template_of(settings, "doc"),
        **fields,
    )
    return ImportedDense(config, {"shared": tower}, folder)


def load_plain_encoder(spec: str | os.PathLike) -> ImportedDense:
    """A bare BERT, RoBERTa or DistilBERT as a bi-encoder: one tower, mean, cosine.

    Raises:
      InputError: as ``huggingface.load_backbone``.
    """
    directory = resolve(spec)
    if read_json(directory / "config.json").get("model_type") == "dpr":
        expected = "dpr:QUESTION_FOLDER,CONTEXT_FOLDER"
        raise InputError(spec, "one encoder of DPR's two", expected, "name both")
    backbone, params = load_backbone(directory)
    say(f"{spec}: a bare encoder; taken with mean pooling and cosine similarity")
    longest = backbone.max_length
    config = DenseConfig(
        backbone=backbone,
        query_length=min(_QUERY_LENGTH, longest),
        doc_length=min(256, longest),
    )
    return ImportedDense(config, {"shared": {"backbone": params}}, directory)


def load_dpr(question: str | os.PathLike, context: str | os.PathLike) -> ImportedDense:
    """DPR's question and context encoders as separate towers: CLS and dot.

    A DPR passage is written ``title [SEP] text`` in its authors' code; here, as in
    every collection, title and text stand side by side.

    Source: Karpukhin et al., "Dense Passage Retrieval for Open-Domain Question
    Answering" (2020).

    Args:
      question: folder or ``hf:ID`` of the question encoder.
      context: folder or ``hf:ID`` of the context encoder.

    Raises:
      InputError: other models, encoders of different shapes, or a projection.
    """
    towers, configs = {}, {}
    for side, spec in (("query", question), ("doc", context)):
        directory = resolve(spec)
        data = read_json(directory / "config.json")
        if data.get("model_type") != "dpr":
            found = f"model_type {data.get('model_type')!r}"
            raise InputError(directory / "config.json", found, "'dpr'")
        if data.get("projection_dim"):
            found = f"projection_dim {data['projection_dim']}"
            raise InputError(directory / "config.json", found, "0")
        configs[side], params = load_backbone(directory)
        towers[side] = {"backbone": params}
    if configs["query"] != configs["doc"]:
        raise InputError(context, "an encoder of another shape than the question's")
    backbone = configs["query"]
    config = DenseConfig(
        backbone=backbone,
        pooling="cls",
        similarity="dot",
        towers="separate",
        query_length=min(_QUERY_LENGTH, backbone.max_length),
        doc_length=min(256, backbone.max_length),
    )
    return ImportedDense(config, towers, resolve(question))


def _read_modules(directory: Path) -> dict[str, Path]:
    """The folder of each module by its class's name; their order checked."""
    path = directory / "modules.json"
    listed = [
        (str(entry.get("type")).rsplit(".", 1)[-1], directory / str(entry.get("path")))
        for entry in read_json(path, list)
        if isinstance(entry, dict)
    ]
    names = [name for name, _ in listed]
    known = [n for n in ("Transformer", "Pooling", "Dense", "Normalize") if n in names]
    if names != known or names[:2] != ["Transformer", "Pooling"]:
        expected = "Transformer, Pooling, then optionally one Dense and Normalize"
        raise InputError(path, "modules " + ", ".join(names), expected)
    return dict(listed)


def _read_pooling(folder: Path) -> str:
    path = folder / "config.json"
    data = read_json(path)
    modes = data.get("pooling_mode")
    if modes is None:
        modes = [name for key, name in _OLD_POOLING_KEYS.items() if data.get(key)]
    modes = [modes] if isinstance(modes, str) else list(modes or ["mean"])
    if len(modes) != 1 or modes[0] not in _POOLING_NAMES:
        found = "pooling " + " + ".join(modes)
        raise InputError(path, found, "one of " + ", ".join(_POOLING_NAMES))
    if not data.get("include_prompt", True):
        expected = "pooling over the prompt as well"
        raise InputError(path, "include_prompt false", expected)
    return _POOLING_NAMES[modes[0]]


def _read_projection(folder: Path, backbone: Any) -> tuple[dict[str, Any], str]:
    """The Dense module's parameters and activation."""
    path = folder / "config.json"
    data = read_json(path)
    activation = data.get("activation_function", "torch.nn.modules.activation.Tanh")
    if activation not in _ACTIVATIONS:
        expected = "one of " + ", ".join(_ACTIVATIONS)
        raise InputError(path, f"activation_function {activation}", expected)
    inputs, outputs = data.get("in_features"), data.get("out_features")
    if data.get("use_residual") or inputs != backbone.hidden_size:
        raise InputError(path, "a Dense module that is no plain projection")
    weights = dict(read_weights(folder))
    if not data.get("bias", True):
        weights["linear.bias"] = np.zeros(outputs, np.float32)
    shapes = {"kernel": (inputs, outputs), "bias": (outputs,)}
    tree = apply_rules(weights, _PROJECTION_RULES, shapes, where=folder)
    kept = jax.tree.map(lambda x: np.ascontiguousarray(x, np.float32), tree)
    return kept, _ACTIVATIONS[activation]


def read_length(folder: Path, longest: int) -> int:
    """``max_seq_length``, from whichever file of whichever version states it."""
    for name, key in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        path = folder / name
        settings = read_json(path) if path.is_file() else {}
        if settings.get("do_lower_case") and name.startswith("sentence"):
            small, large = load_tokenizer(folder).encode(["a", "A"], 16)
            if small.tolist() != large.tolist():
                raise InputError(path, "do_lower_case over a cased tokenizer", "false")
        length = settings.get(key)
        # Tokenizers without a limit say 10^30.
        if length and length <= longest:
            return int(length)
    return longest


def _read_settings(directory: Path) -> Mapping[str, Any]:
    path = directory / "config_sentence_transformers.json"
    settings = read_json(path) if path.is_file() else {}
    kind = settings.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise InputError(path, f"model_type {kind}", "SentenceTransformer")
    return settings


def _read_similarity(
    directory: Path, settings: Mapping[str, Any], normalized: bool
) -> str:
    name = settings.get("similarity_fn_name") or "cosine"
    if name not in _SIMILARITIES:
        path = directory / "config_sentence_transformers.json"
        raise InputError(path, f"similarity_fn_name {name!r}", "'cosine' or 'dot'")
    # Of normalised vectors, dot and cosine are the same.
    return "cosine" if normalized else _SIMILARITIES[name]


def template_of(settings: Mapping[str, Any], side: str) -> str:
    """The prompt that sentence-transformers puts before this side's texts."""
    prompts = settings.get("prompts") or {}
    names = (*_PROMPT_NAMES[side], settings.get("default_prompt_name"))
    # An empty prompt for queries is a choice too: it outdoes the default prompt.
    prompt = next((prompts[name] for name in names if name in prompts), "") or ""
    return prompt.replace("{", "{{").replace("}", "}}") + "{text}"


def prompt_of(template: str, where: str) -> str:
    """The prompt of a template that only puts something before the text."""
    prompt, _, rest = template.partition("{text}")
    if rest:
        found = f"template {template!r}"
        raise InputError(where, found, "{text} at the end: a prompt stands before it")
    return prompt.replace("{{", "{").replace("}}", "}")


def export_sentence_transformer(
    config: DenseConfig, params: Params, tokenizer: Any, directory: str | os.PathLike
) -> None:
    """Writes a folder that ``SentenceTransformer(directory)`` loads.

    Its ``encode_query`` and ``encode_document`` give our vectors; ``encode`` puts no
    prompt before the text.

    Args:
      config: a bi-encoder with one tower.
      params: its parameters.
      tokenizer: its tokenizer (``save(directory)``).
      directory: where to write; made if absent.

    Raises:
      InputError: separate towers, a projection that their Dense has not, or a template
        that is more than a prompt.
    """
    directory = Path(directory)
    if config.towers != "shared":
        found, expected = "a model with separate towers", "one tower"
        remedy = "a sentence-transformers folder holds one encoder"
        raise InputError(directory, found, expected, remedy)
    if config.projection_activation not in _ACTIVATIONS.values():
        found = f"a projection with {config.projection_activation!r}"
        raise InputError(directory, found, " or ".join(_ACTIVATIONS.values()))
    prompts = {
        "query": prompt_of(config.query_template, "query_template"),
        "document": prompt_of(config.doc_template, "doc_template"),
    }
    # Its files say no more than one length.
    length = max(config.query_length, config.doc_length)
    tower = params["shared"]
    export_backbone(config.backbone, tower["backbone"], directory)
    tokenizer.save(directory)
    write_tokenizer_config(directory, length)
    modules = ["Transformer", "Pooling"]
    size = config.backbone.hidden_size
    theirs = {ours: name for name, ours in _POOLING_NAMES.items()}[config.pooling]
    pooling = {key: name == theirs for key, name in _OLD_POOLING_KEYS.items()}
    _write_json(
        directory / "1_Pooling" / "config.json",
        {"word_embedding_dimension": size, **pooling, "include_prompt": True},
    )
    if config.projection_size is not None:
        modules.append("Dense")
        _write_projection(config, tower["projection"], directory / "2_Dense")
    if config.similarity == "cosine":
        modules.append("Normalize")
        (directory / f"{len(modules) - 1}_Normalize").mkdir(exist_ok=True)
    _write_json(
        directory / "modules.json",
        [
            {
                "idx": number,
                "name": str(number),
                "path": f"{number}_{name}" if number else "",
                "type": f"sentence_transformers.models.{name}",
            }
            for number, name in enumerate(modules)
        ],
    )
    _write_json(
        directory / "sentence_bert_config.json",
        {"max_seq_length": length, "do_lower_case": False},
    )
    _write_json(
        directory / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": config.similarity,
        },
    )


def _write_projection(config: DenseConfig, projection: Params, folder: Path) -> None:
    activation = config.projection_activation
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    host = jax.tree.map(lambda x: np.asarray(x, np.float32), projection)
    weights = invert(host, _PROJECTION_RULES, where=folder)
    save_weights(folder / "model.safetensors", weights)
    _write_json(
        folder / "config.json",
        {
            "in_features": config.backbone.hidden_size,
            "out_features": config.projection_size,
            "bias": True,
            "activation_function": names[activation],
        },
    )


def _write_json(path: Path, data: Any) -> None:
    with atomic_file(path) as out:
        out.write(json.dumps(data, indent=2) + "\n")
