"""What is exported of each kind of model and of index: pure functions with names.

A :class:`Program` computes named outputs of parameters by path and of named inputs,
whose batch and length are symbolic: one program serves every shape.  Nothing is baked
into it, neither weights nor an index's vectors.  Writers of formats
(``export/saved_model.py``, ``export/stablehlo.py``) know programs and nothing of
models.

============ ================== ==================================================
kind         program            outputs
============ ================== ==================================================
dense        encode_query       ``embeddings [B, E]``
\\            encode_document    ``embeddings [B, E]``
hypencoder   encode_query       ``kernel_0 [B, in, out]``, ``bias_0 [B, out]`` and
                                so on, ``output [B, out]``, perhaps ``gates``
\\            encode_document    ``embeddings [B, W]``
\\            score              ``scores [B, N]`` of vectors of documents ``[N, W]``
jpq          encode_query       ``embeddings [B, E]``, ``tables [B, M, C]``
\\            encode_document    ``codes [B, M]``
sparse       encode_query       ``weights [B, V]``
\\            encode_document    ``weights [B, V]``
rank_*       score              ``scores [B]`` of pairs
an index     search             ``positions [B, K]``, ``scores [B, K]``
============ ================== ==================================================
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxir.checkpoints.model_dir import Model, load_model
from jaxir.checkpoints.rules import flatten, unflatten
from jaxir.errors import InputError
from jaxir.families import family
from jaxir.nn.tower import tower_name
from jaxir.reranker import load_scoring_model
from jaxir.text import Tokenizer
from jaxir.types import TokenBatch

__all__ = [
    "KINDS",
    "Exportable",
    "Input",
    "Program",
    "is_coarse",
    "load_programs",
    "model_programs",
    "parameters_of",
    "read_tokens",
    "token_inputs",
]

Arrays = Mapping[str, Any]


class Input(NamedTuple):
    """An argument of a program.

    Attributes:
      name: such as ``input_ids``.
      shape: numbers, and the names of symbolic sizes.
      dtype: numpy's name.
      below: integers are from 0 to below this; 0 for floats.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "int32"
    below: int = 0


class Program(NamedTuple):
    """A function to export.

    Attributes:
      name: of the signature.
      function: ``function(params, inputs) -> outputs``, all three by name; parameters
        by their path in ``Exportable.params``.
      parts: the beginnings of the paths that it reads.
      inputs: what it is called with.
      max_length: the most that the size ``length`` may be.
      tokens: the most tokens that the model was made for, at most ``max_length``.
      template: how a text is written, or empty where a caller has its own.
    """

    name: str
    function: Callable[[Arrays, Arrays], dict[str, Any]]
    parts: tuple[str, ...]
    inputs: tuple[Input, ...]
    max_length: int
    tokens: int
    template: str = ""


class Exportable(NamedTuple):
    """All that is exported of a model or of an index.

    Attributes:
      kind: of the model or the index.
      source: where it came from.
      params: arrays by path, of all programs.
      programs: at least one, of different names.
      default: the name of the program that a caller means who names none.
      tokenizer: what makes ``input_ids``.
      fingerprint: of the model.
      doc_ids: of an index, its documents' ids by position; else None.
      details: what else a reader may want to know, of JSON's own types.
      coarse: products are of bfloat16, so that no two compilers agree to 1e-4.
    """

    kind: str
    source: str
    params: Mapping[str, np.ndarray]
    programs: tuple[Program, ...]
    default: str
    tokenizer: Tokenizer
    fingerprint: str
    doc_ids: Any = None
    details: Mapping[str, Any] = MappingProxyType({})
    coarse: bool = False


def parameters_of(params: Arrays, program: Program) -> dict[str, Any]:
    """The parameters that a program reads, by path.

    Example::

      >>> program = Program("f", lambda params, inputs: {}, ("a", "b/c"), (), 1, 1)
      >>> sorted(parameters_of({"a/x": 1, "ab/x": 2, "b/c": 3, "b/d": 4}, program))
      ['a/x', 'b/c']
    """
    starts = tuple(f"{part}/" for part in program.parts)
    return {
        path: value
        for path, value in params.items()
        if path.startswith(starts) or path in program.parts
    }


def token_inputs(vocab_size: int, *, typed: bool = False) -> tuple[Input, ...]:
    """``input_ids`` and ``attention_mask``, and ``token_type_ids`` where wanted.

    Args:
      vocab_size: of the model.
      typed: whether the model reads texts of two segments.
    """
    names = {"input_ids": vocab_size, "attention_mask": 2}
    if typed:
        names["token_type_ids"] = 2
    shape = ("batch", "length")
    return tuple(Input(name, shape, below=below) for name, below in names.items())


def load_programs(spec: str | os.PathLike) -> Exportable:
    """Loads a model and says what is exported of it.

    Args:
      spec: what ``load_model`` takes; a T5 language model is read as a reranker, as
        ``jaxir.reranker.load_scoring_model`` reads it.

    Raises:
      InputError: no such model, or a kind that no program is known of.
    """
    model = load_model(spec)
    if model.kind == "t5":
        model = load_scoring_model(spec)
    return model_programs(model)


def model_programs(model: Model) -> Exportable:
    """What is exported of a model.

    Args:
      model: from ``load_model``.

    Raises:
      InputError: a kind that no program is known of.
    """
    if model.kind not in KINDS:
        raise InputError(
            model.path or "model", f"a model of kind {model.kind!r}",
            "one of " + ", ".join(KINDS), "train it first (jaxir train)",
        )  # fmt: skip
    programs = KINDS[model.kind](model)
    # Queries are what comes to a server; those of a sparse encoder need no server.
    first = "encode_document" if model.kind == "sparse" else programs[0].name
    return Exportable(
        model.kind, model.path, flatten(model.params), programs, first,
        model.tokenizer, model.fingerprint, coarse=is_coarse(model),
    )  # fmt: skip


def is_coarse(model: Model) -> bool:
    """Whether a model's products are of bfloat16."""
    return model.config.backbone.dtype == "bfloat16"


def read_tokens(inputs: Arrays) -> TokenBatch:
    """The named inputs as a batch of tokens."""
    mask = inputs["attention_mask"] != 0
    return TokenBatch(inputs["input_ids"], mask, inputs.get("token_type_ids"))


def _encoder(
    model: Model,
    side: str,
    parts: tuple[str, ...],
    name_outputs: Callable[[Any], dict[str, Any]],
) -> Program:
    """One side of a bi-encoder."""
    config, row = model.config, family(model.kind)
    encode: Any = row.encode_query if side == "query" else row.encode_doc

    def function(params: Arrays, inputs: Arrays) -> dict[str, Any]:
        return name_outputs(encode(config, unflatten(params), read_tokens(inputs)))

    return Program(
        "encode_query" if side == "query" else "encode_document",
        function,
        parts,
        token_inputs(config.backbone.vocab_size),
        config.backbone.max_length,
        getattr(config, f"{side}_length"),
        getattr(config, f"{side}_template"),
    )


def _named(name: str, value: Any) -> dict[str, Any]:
    return {name: value}


def _dense(model: Model) -> tuple[Program, ...]:
    named = partial(_named, "embeddings")
    query, doc = (tower_name(model.config, side) for side in ("query", "doc"))
    return (
        _encoder(model, "query", (query,), named),
        _encoder(model, "doc", (doc,), named),
    )


def _leaves(weights: Any) -> dict[str, Any]:
    """The weights of q-nets by name."""
    named = {"output": weights.output}
    for i, kernel in enumerate(weights.kernels):
        named |= {f"kernel_{i}": kernel, f"bias_{i}": weights.biases[i]}
    return named if weights.gates is None else named | {"gates": weights.gates}


def _hypencoder(model: Model) -> tuple[Program, ...]:
    config, row = model.config, family("hypencoder")
    query, doc = (tower_name(config, side) for side in ("query", "doc"))
    encode_query: Any = row.encode_query
    match: Any = row.match

    def score(params: Arrays, inputs: Arrays) -> dict[str, Any]:
        nets = encode_query(config, unflatten(params), read_tokens(inputs))
        return {"scores": match(config, nets, inputs["embeddings"])}

    by_query = _encoder(model, "query", (query, "head"), _leaves)
    documents = Input("embeddings", ("documents", config.qnet.row_width), "float32")
    return (
        by_query,
        _encoder(model, "doc", (doc,), partial(_named, "embeddings")),
        by_query._replace(
            name="score", function=score, inputs=(*by_query.inputs, documents)
        ),
    )


def _jpq(model: Model) -> tuple[Program, ...]:
    from jaxir.pq.codec import tables
    from jaxir.pq.model import query_vectors, searching_codec

    config = model.config

    def function(params: Arrays, inputs: Arrays) -> dict[str, Any]:
        tree = unflatten(params)
        vectors = query_vectors(config, tree, read_tokens(inputs))
        return {
            "embeddings": vectors,
            "tables": tables(searching_codec(tree), vectors),
        }

    codec = ("codec/rotation", "codec/centroids")
    by_doc = ("doc", "codec/rotation", "codec/assignment")
    query = _encoder(model, "query", ("query", *codec), dict)
    return (
        query._replace(function=function),
        _encoder(model, "doc", by_doc, partial(_named, "codes")),
    )


def _sparse(model: Model) -> tuple[Program, ...]:
    named, network = partial(_named, "weights"), ("backbone", "head", "prior")
    of_query = {"idf": ("idf",), "binary": (), "encoder": network}
    return (
        _encoder(model, "query", of_query[model.config.query], named),
        _encoder(model, "doc", network, named),
    )


def _reranker(model: Model) -> tuple[Program, ...]:
    from jaxir.pairs import pair_format

    config, score = model.config, family(model.kind).score
    template = getattr(config, "template", "")
    backbone = config.backbone
    typed = not template and pair_format(model.tokenizer, template=None).typed

    def function(params: Arrays, inputs: Arrays) -> dict[str, Any]:
        assert score is not None  # a row of rerankers has one
        return {"scores": score(config, unflatten(params), read_tokens(inputs))}

    return (
        Program(
            "score",
            function,
            tuple(model.params),
            token_inputs(backbone.vocab_size, typed=typed),
            backbone.max_length,
            config.max_length,
            template,
        ),
    )


KINDS: Mapping[str, Callable[[Model], tuple[Program, ...]]] = MappingProxyType(
    {
        "dense": _dense,
        "hypencoder": _hypencoder,
        "jpq": _jpq,
        "sparse": _sparse,
        "rank_bert": _reranker,
        "rank_t5": _reranker,
    }
)
"""The programs of a model of each kind; a family that can be exported adds a row."""
