"""The one registry: a model's kind, and the functions that make it work.

A new family adds a row to :data:`FAMILIES` and needs nothing else here.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxir.data.pipeline import PipelineConfig
from jaxir.dense import model as dense_model
from jaxir.dense import task as dense_task
from jaxir.errors import InputError
from jaxir.hyper import model as hyper_model
from jaxir.hyper import task as hyper_task
from jaxir.lm import masked, t5
from jaxir.nn import t5 as t5_model
from jaxir.objective import RetrievalLoss
from jaxir.pq import model as jpq_model
from jaxir.pq import task as jpq_task
from jaxir.rank import model as rank_model
from jaxir.rank import task as rank_task
from jaxir.sparse import model as sparse_model
from jaxir.sparse import task as sparse_task
from jaxir.text import Templates

__all__ = [
    "FAMILIES",
    "Family",
    "check_losses",
    "config_from_dict",
    "config_to_dict",
    "family",
    "family_of_config",
]


class Family(NamedTuple):
    """What the verbs need to know of a kind of model.

    Attributes:
      kind: the name in ``model.json``.
      config_class: the frozen dataclass that describes a model of this kind.
      init: ``init(config, rng) -> params``.
      make_task: ``make_task(config, losses) -> Task``.
      losses_class: the frozen dataclass that ``make_task`` takes.
      adapt_params: ``adapt_params(config, params, target_config) -> params`` of another
        configuration that starts from these.
      texts: ``texts(config, pipeline) -> pipeline`` that makes the texts a model of
        this configuration reads; None where lists of documents are not learned from.
      needs_positive: ``needs_positive(losses) -> bool``, whether a list without a
        positive has nothing to teach; not so where a teacher's scores suffice.
      encode_query: ``encode_query(config, params, tokens) -> array`` or pytree; None
        for models that read query and document together.
      encode_doc: ``encode_doc(config, params, tokens) -> array``, or None.
      match: ``match(config, queries, docs) -> [B, N]`` scores of every query with every
        document, of what the two encoders give; None where there are none.
      score: ``score(config, params, tokens) -> [B]`` of joint texts, or None.
      logical_axes: ``logical_axes(config)``, by which the parameters can be split over
        devices; None where they are always whole.
    """

    kind: str
    config_class: type
    init: Callable
    make_task: Callable
    losses_class: type
    adapt_params: Callable
    texts: Callable[[Any, PipelineConfig], PipelineConfig] | None = None
    needs_positive: Callable[[Any], bool] = lambda losses: True
    encode_query: Callable | None = None
    encode_doc: Callable | None = None
    match: Callable | None = None
    score: Callable | None = None
    logical_axes: Callable | None = None


def _apart(config: Any, pipeline: PipelineConfig) -> PipelineConfig:
    """Query and document as two texts."""
    return dataclasses.replace(
        pipeline,
        encode="separate",
        query_length=config.query_length,
        doc_length=config.doc_length,
        templates=Templates(query=config.query_template, doc=config.doc_template),
    )


def _by_template(config: Any, pipeline: PipelineConfig) -> PipelineConfig:
    """Query and document as one text by T5's template."""
    return dataclasses.replace(
        pipeline,
        encode="template",
        doc_length=config.max_length,
        templates=Templates(pair=config.template),
        eos=config.eos,
    )


def _as_segments(config: Any, pipeline: PipelineConfig) -> PipelineConfig:
    """Query and document as the two segments of a text for BERT."""
    return dataclasses.replace(pipeline, encode="joint", doc_length=config.max_length)


def _asked(config: Any, pipeline: PipelineConfig) -> PipelineConfig:
    """Queries alone: documents are known by their rows."""
    return dataclasses.replace(_apart(config, pipeline), encode="query")


def _by_contrast(losses: RetrievalLoss | None) -> bool:
    """Whether a retriever contrasts positives, besides what a teacher tells it."""
    return losses is None or losses.contrastive > 0


def _by_judgments(losses: rank_task.RankLoss | None) -> bool:
    """Whether a reranker learns from labels, not from a teacher's scores."""
    return losses is None or losses.labels == "judgments"


FAMILIES: Mapping[str, Family] = types.MappingProxyType(
    {
        "dense": Family(
            kind="dense",
            config_class=dense_model.DenseConfig,
            init=dense_model.init_params,
            make_task=dense_task.make_task,
            losses_class=dense_task.DenseLoss,
            adapt_params=dense_model.adapt_params,
            texts=_apart,
            needs_positive=_by_contrast,
            encode_query=dense_model.encode_query,
            encode_doc=dense_model.encode_doc,
            match=dense_model.match,
        ),
        "hypencoder": Family(
            kind="hypencoder",
            config_class=hyper_model.HypencoderConfig,
            init=hyper_model.init_params,
            make_task=hyper_task.make_task,
            losses_class=hyper_task.HyperLoss,
            adapt_params=hyper_model.adapt_params,
            texts=_apart,
            needs_positive=_by_contrast,
            encode_query=hyper_model.encode_query,
            encode_doc=hyper_model.encode_doc,
            match=hyper_model.match,
        ),
        "jpq": Family(
            kind="jpq",
            config_class=jpq_model.JpqConfig,
            init=jpq_model.init_params,
            make_task=jpq_task.make_task,
            losses_class=jpq_task.JpqLoss,
            adapt_params=jpq_model.adapt_params,
            texts=_asked,
            encode_query=jpq_model.encode_query,
            encode_doc=jpq_model.encode_doc,
            match=jpq_model.match,
        ),
        "sparse": Family(
            kind="sparse",
            config_class=sparse_model.SparseConfig,
            init=sparse_model.init_params,
            make_task=sparse_task.make_task,
            losses_class=sparse_task.SparseLoss,
            adapt_params=sparse_model.adapt_params,
            texts=_apart,
            needs_positive=_by_contrast,
            encode_query=sparse_model.encode_query,
            encode_doc=sparse_model.encode_doc,
            match=sparse_model.match,
        ),
        "rank_t5": Family(
            kind="rank_t5",
            config_class=rank_model.RankT5Config,
            init=rank_model.init_params,
            make_task=rank_task.make_task,
            losses_class=rank_task.RankLoss,
            adapt_params=rank_model.adapt_params,
            texts=_by_template,
            needs_positive=_by_judgments,
            score=rank_model.score,
            logical_axes=rank_model.logical_axes,
        ),
        "rank_bert": Family(
            kind="rank_bert",
            config_class=rank_model.CrossEncoderConfig,
            init=rank_model.init_params,
            make_task=rank_task.make_task,
            losses_class=rank_task.RankLoss,
            adapt_params=rank_model.adapt_params,
            texts=_as_segments,
            needs_positive=_by_judgments,
            score=rank_model.score,
        ),
        "t5": Family(
            kind="t5",
            config_class=t5_model.T5Config,
            init=t5_model.init_params,
            make_task=t5.make_task,
            losses_class=t5.SpanLoss,
            adapt_params=t5.adapt_params,
            logical_axes=t5_model.logical_axes,
        ),
        "masked_lm": Family(
            kind="masked_lm",
            config_class=masked.MaskedLMConfig,
            init=masked.init_params,
            make_task=masked.make_task,
            losses_class=masked.MaskedLoss,
            adapt_params=masked.adapt_params,
        ),
    }
)
"""Every kind of model by its name."""


def family(kind: str, *, where: object = "kind") -> Family:
    """The family of this name.

    Args:
      kind: a name in :data:`FAMILIES`.
      where: the place to name in the error, such as the file that says ``kind``.

    Raises:
      InputError: there is no such family.

    Example::

      >>> family("dense").config_class.__name__
      'DenseConfig'
    """
    if kind not in FAMILIES:
        expected = "one of " + ", ".join(FAMILIES)
        remedy = "a newer jaxir may know it"
        raise InputError(where, f"kind of model {kind!r}", expected, remedy)
    return FAMILIES[kind]


def check_losses(kind: str, losses: Any) -> None:
    """Checks that losses are of this family; those of another fail deep inside.

    Args:
      kind: a name in :data:`FAMILIES`.
      losses: what its ``make_task`` shall take; None for its default.

    Raises:
      InputError: they are of another family.
    """
    expected = family(kind).losses_class
    if losses is not None and not isinstance(losses, expected):
        raise InputError(
            "loss", f"{type(losses).__name__} for a model of kind {kind!r}",
            expected.__name__, "choose a task of the model's family",
        )  # fmt: skip


def family_of_config(config: Any) -> Family:
    """The family whose configuration this is.

    Raises:
      InputError: it is no family's.
    """
    for candidate in FAMILIES.values():
        if type(config) is candidate.config_class:
            return candidate
    raise InputError("config", type(config).__name__, "a model's configuration")


def config_to_dict(config: Any) -> dict[str, Any]:
    """A frozen dataclass, with those inside it, as JSON's own types.

    Example::

      >>> from jaxir.dense.task import DenseLoss
      >>> config_to_dict(DenseLoss(margin_mse=1.0))["margin_mse"]
      1.0
    """
    return {
        field.name: _to_plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
    }


def config_from_dict(
    kind: str, data: Mapping[str, Any], *, where: object = "model.json"
) -> Any:
    """The configuration that :func:`config_to_dict` wrote.

    A key that is missing takes its default, so that older directories stay readable;
    an unknown key is an error, for it may change what the model computes.

    Args:
      kind: a name in :data:`FAMILIES`.
      data: the plain form.
      where: the file that holds it, for errors.

    Raises:
      InputError: an unknown key, or a value of another type.
    """
    return _from_plain(family(kind, where=where).config_class, data, where, "")


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_to_dict(value)
    if isinstance(value, (tuple, list)):
        return [_to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    return value


def _from_plain(declared: Any, value: Any, where: object, name: str) -> Any:
    """``value`` as the declared type, dataclasses and tuples rebuilt."""
    origin, inner = typing.get_origin(declared), typing.get_args(declared)
    if dataclasses.is_dataclass(declared) and isinstance(declared, type):
        return _dataclass_from_plain(declared, value, where, name)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in inner:
            return None
        (declared,) = (option for option in inner if option is not type(None))
        return _from_plain(declared, value, where, name)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_from_plain(inner[0], item, where, name) for item in value)
    if declared is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = origin or declared
    # True is an int to Python, and a mistake to a reader of a configuration.
    if not isinstance(value, expected) or isinstance(value, bool) > (expected is bool):
        raise InputError(where, f"{name} = {value!r}", expected.__name__)
    return value


def _dataclass_from_plain(cls: type, value: Any, where: object, name: str) -> Any:
    if not isinstance(value, Mapping):
        raise InputError(where, f"{name or 'config'} = {value!r}", "an object")
    hints = typing.get_type_hints(cls)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise InputError(
            where,
            f"unknown key {', '.join(unknown)} in {name or cls.__name__}",
            "keys among " + ", ".join(fields),
            "it may be from a newer jaxir: upgrade, or remove the key",
        )
    values = {
        key: _from_plain(fields[key], item, where, f"{name}.{key}".lstrip("."))
        for key, item in value.items()
    }
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(where, str(error)) from error
