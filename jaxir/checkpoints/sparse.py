"""Learned sparse encoders of others, in and out: OpenSearch's and Naver's SPLADE.

A folder of Hugging Face's with a masked language model, whose packaging says what is
made of the logits:

- sentence-transformers' ``SparseEncoder``: ``modules.json`` with SpladePooling, alone
  (both sides pass the model) or in a Router (queries are a table of token weights);
- ``idf.json`` beside the model: OpenSearch's inference-free ones of before that;
- ``jaxir_sparse`` in ``config.json``: our own, which has all of this too.

Once or twice ``log1p`` is the difference between good and useless vectors, and the
weights do not tell: where no file does, it must be given.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxir.checkpoints.huggingface import write_tokenizer_config
from jaxir.checkpoints.masked_lm import (
    PretrainedMaskedLM,
    export_masked_lm,
    load_masked_lm,
)
from jaxir.checkpoints.sentence_transformers import prompt_of, read_length, template_of
from jaxir.checkpoints.sparse_layout import (
    ACTIVATION_NAMES,
    OWN_KEY,
    Parts,
    activation_of,
    parts_of,
)
from jaxir.checkpoints.weights import read_json, read_weights, resolve, save_weights
from jaxir.errors import InputError
from jaxir.families import config_from_dict, config_to_dict
from jaxir.files import atomic_file
from jaxir.lm.masked import MaskedLMConfig
from jaxir.progress import say
from jaxir.sparse.idf import IDF_FILE, idf_to_file, read_idf, vocabulary_of
from jaxir.sparse.model import SparseConfig
from jaxir.text import Tokenizer, load_tokenizer
from jaxir.types import Params

__all__ = [
    "PretrainedSparse",
    "export_sparse",
    "load_sparse",
]

_SETTINGS = "config_sentence_transformers.json"
_POOLING = "document_1_SpladePooling"
_TABLE = "query_0_SparseStaticEmbedding"


class PretrainedSparse(NamedTuple):
    """A sparse encoder as it comes from a checkpoint.

    Attributes:
      config: the model.
      params: its parameters, float32 arrays in host memory.
      tokenizer_path: the folder with its tokenizer.
    """

    config: SparseConfig
    params: Params
    tokenizer_path: Path


def load_sparse(
    spec: str | os.PathLike,
    *,
    activation: str | None = None,
    query: str | None = None,
    tokenizer: Tokenizer | None = None,
) -> PretrainedSparse:
    """A sparse encoder out of a folder or ``hf:ID``.

    The states of special tokens take part in its pooling, and special tokens get no
    weight, as in the recipes of the released models.

    Args:
      spec: as ``weights.resolve`` takes it.
      activation: a name of ``sparse.pool.ACTIVATIONS``, for files that do not say it.
      query: a name of ``sparse.model.QUERIES``, for files that do not say it.
      tokenizer: the one to take instead of the folder's.

    Raises:
      InputError: something is neither said nor given, or both and differently; pooling
        that is no maximum; weights that do not fit, with the whole difference; a table
        of token weights of another tokenizer.
    """
    directory = resolve(spec)
    parts = parts_of(directory)
    own = read_json(parts.encoder / "config.json").get(OWN_KEY)
    if own is None:
        said = activation_of(parts.pooling), parts.query
    else:
        said = own.get("activation"), own.get("query")
    activation = _one("activation", said[0], activation, directory)
    query = _one("query", said[1], query, directory)
    words = load_tokenizer(parts.encoder) if tokenizer is None else tokenizer
    found = load_masked_lm(parts.encoder)
    if own is None:
        config = _config(directory, parts, found, words, activation, query)
    else:
        backbone = config_to_dict(found.config.backbone)
        config = config_from_dict(
            "sparse", own | {"backbone": backbone, "tied": found.config.tied},
            where=parts.encoder / "config.json",
        )  # fmt: skip
    if own is not None:  # whose table is whole in idf.json alone
        parts = parts._replace(table=None)
    table = _table(directory, parts, words, config)
    params = {**found.params, "idf": {"scale": table}}
    return PretrainedSparse(config, params, parts.encoder)


def _one(name: str, said: str | None, given: str | None, where: Path) -> str:
    """What the files say, or what is given where they say nothing."""
    if said is None and given is None:
        choices = {
            "activation": "'log1p' (SPLADE, OpenSearch v1 and v2) or 'log1p_log1p' "
            "(OpenSearch v3)",
            "query": "'idf', 'binary' or 'encoder'",
        }
        raise InputError(
            where, f"no file that says the {name} of its model", choices[name],
            f"give it: {name}=… to load_sparse_encoder, or jaxir convert hf:… jaxir:… "
            f"--set {name}=…",
        )  # fmt: skip
    if None not in (said, given) and said != given:
        raise InputError(
            where, f"{name} {said!r} in its files, {given!r} asked for", "one of them",
            "leave it out: what the model was trained with is in its files",
        )  # fmt: skip
    return str(given if said is None else said)


def _config(
    directory: Path,
    parts: Parts,
    found: PretrainedMaskedLM,
    words: Tokenizer,
    activation: str,
    query: str,
) -> SparseConfig:
    longest = found.config.backbone.max_length
    path = directory / _SETTINGS
    settings = read_json(path) if parts.pooling is not None and path.is_file() else {}
    return SparseConfig(
        backbone=found.config.backbone,
        tied=found.config.tied,
        activation=activation,
        query=query,
        special_ids=words.special_ids,
        pool_special=True,
        query_length=read_length(parts.table or parts.encoder, longest),
        doc_length=read_length(parts.encoder, longest),
        query_template=template_of(settings, "query"),
        doc_template=template_of(settings, "doc"),
    )


def _table(
    directory: Path, parts: Parts, words: Tokenizer, config: SparseConfig
) -> np.ndarray:
    """The weights of query tokens; 1 where there is no table."""
    rows = config.backbone.vocab_size
    named = directory / IDF_FILE
    if parts.table is not None and (parts.table / "model.safetensors").is_file():
        weights = read_weights(parts.table)
        if set(weights) != {"weight"}:
            raise InputError(
                parts.table, "arrays " + ", ".join(sorted(weights)), "'weight' alone"
            )
        table = np.asarray(weights["weight"], np.float32)
        if table.ndim != 1 or not words.vocab_size <= len(table) <= rows:
            raise InputError(
                parts.table, f"a table of token weights of shape {list(table.shape)}",
                f"[{words.vocab_size}], one for each token",
                "take the table of the model's own tokenizer",
            )  # fmt: skip
        if not np.all(np.isfinite(table)) or table.min() < 0:
            raise InputError(parts.table, "a weight that is no finite number from 0")
        return np.pad(table, (0, rows - len(table)), constant_values=1.0)
    if parts.table is not None and not named.is_file():
        raise InputError(
            parts.table, "no table of token weights", f"model.safetensors or {IDF_FILE}"
        )
    if not named.is_file():
        return np.ones(rows, np.float32)
    return read_idf(named, vocabulary_of(words), rows)


def export_sparse(
    config: SparseConfig,
    params: Params,
    directory: str | os.PathLike,
    *,
    tokenizer: Tokenizer,
    final: str | os.PathLike | None = None,
) -> None:
    """Writes a folder for ``AutoModelForMaskedLM`` and for ``SparseEncoder``.

    Beside the model stand ``idf.json``, which OpenSearch takes, and the modules of
    sentence-transformers.  The configuration is kept in ``config.json`` as well, so
    that :func:`load_sparse` gives the same model to the last bit.

    Args:
      config: a sparse encoder.
      params: its parameters.
      directory: where to write; made if absent.
      tokenizer: its tokenizer.
      final: where the folder will stand, if that is not ``directory``.

    Raises:
      InputError: a lexical prior, which other code has not, or a template that is more
        than a prompt.
    """
    place = Path(directory)
    target = place if final is None else Path(final)
    if config.lexical_prior:
        raise InputError(
            target, "a sparse encoder with a lexical prior", "one without",
            "other libraries add nothing for a document's own tokens",
        )  # fmt: skip
    prompts = {
        "query": prompt_of(config.query_template, "query_template"),
        "document": prompt_of(config.doc_template, "doc_template"),
    }
    if not config.pool_special:
        say(
            f"{target}: other code pools the states of special tokens too, where ours "
            "does not"
        )
    own = config_to_dict(config)
    del own["backbone"], own["tied"]
    model = MaskedLMConfig(config.backbone, config.tied)
    parts = {name: params[name] for name in ("backbone", "head")}
    export_masked_lm(model, parts, place, extra={OWN_KEY: own})
    tokenizer.save(place)
    write_tokenizer_config(place, config.doc_length)
    asked = config.query == "encoder"
    if not asked:
        _write_table(config, params, place, tokenizer)
    theirs = {ours: name for name, ours in ACTIVATION_NAMES.items()}[config.activation]
    pooling = "1_SpladePooling" if asked else _POOLING
    _write(
        place / pooling / "config.json",
        {
            "pooling_strategy": "max",
            "activation_function": theirs,
            "word_embedding_dimension": config.backbone.vocab_size,
        },
    )
    _write_modules(place, pooling, asked)
    _write(
        place / "sentence_bert_config.json",
        {"max_seq_length": config.doc_length, "do_lower_case": False},
    )
    _write(
        place / _SETTINGS,
        {
            "model_type": "SparseEncoder",
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "dot",
        },
    )


def _write_table(
    config: SparseConfig, params: Params, place: Path, tokenizer: Tokenizer
) -> None:
    size = tokenizer.vocab_size
    table = np.array(params["idf"]["scale"], np.float32)[:size]
    if config.query == "binary":
        table[:] = 1.0
    if config.query == "idf":
        idf_to_file(table, tokenizer.tokens(range(size)), place / IDF_FILE)
    # Theirs leaves out no token by itself.
    table[list(config.special_ids)] = 0.0
    folder = place / _TABLE
    save_weights(folder / "model.safetensors", {"weight": table})
    tokenizer.save(folder)
    write_tokenizer_config(folder, config.query_length)
    _write(folder / "config.json", {"frozen": True})


def _write_modules(place: Path, pooling: str, asked: bool) -> None:
    ours = "sentence_transformers.sparse_encoder.models."
    kinds = {"": ours + "MLMTransformer", pooling: ours + "SpladePooling"}
    if not asked:
        kinds |= {_TABLE: ours + "SparseStaticEmbedding"}
        _write(
            place / "router_config.json",
            {
                "types": kinds,
                "structure": {"query": [_TABLE], "document": ["", pooling]},
                "parameters": {"default_route": "document", "allow_empty_key": True},
            },
        )
        kinds = {"": "sentence_transformers.models.Router"}
    _write(
        place / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": kind}
            for number, (path, kind) in enumerate(kinds.items())
        ],
    )


def _write(path: Path, data: Mapping[str, Any] | list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as out:
        out.write(json.dumps(data, indent=2) + "\n")
