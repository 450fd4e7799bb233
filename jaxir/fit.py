"""Training as one call: a model, a collection and its lists give a model directory.

The parts stay apart: ``checkpoints`` loads the model, ``data`` makes the batches, the
family makes the :class:`jaxir.types.Task`, ``train`` runs the loop.  This file joins
them for the command line, for ``jaxir demo`` and for notebooks.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxir.checkpoints.model_dir import (
    Model,
    load_model,
    model_from_parts,
)
from jaxir.data.collection import Collection, open_collection
from jaxir.data.formats import read_run
from jaxir.data.lists import sample_lists
from jaxir.data.pipeline import PipelineConfig, make_batches
from jaxir.data.tfds_lists import prepare_lists
from jaxir.errors import InputError
from jaxir.families import Family, check_losses, family
from jaxir.files import sha256_file
from jaxir.mesh import make_mesh
from jaxir.nn.partitioning import FULLY_SHARDED, TENSOR_PARALLEL, sharding_rule
from jaxir.progress import say
from jaxir.run_directory import (
    check_record,
    check_run,
    has_checkpoint,
    save_trained,
    whole_or_absent,
    write_record,
)
from jaxir.text import load_tokenizer
from jaxir.train.config import TrainConfig, check_settings
from jaxir.train.loop import train
from jaxir.train.optimizers import OptimizerConfig
from jaxir.train.step import ShardingRule
from jaxir.validate import ValidationConfig, make_validation

__all__ = [
    "Fit",
    "ListSource",
    "PartitionConfig",
    "fit",
    "given",
    "initialized",
    "place",
    "prepared_lists",
    "pretrained",
    "with_changes",
]


def with_changes(config: Any, changes: Mapping[str, Any]) -> Any:
    """A frozen dataclass with some fields replaced; dots reach into nested ones.

    All fields are replaced at once, so that only what comes out must be valid.

    Raises:
      InputError: a name that is not a field, or a field and a part of it as well.

    Example::

      >>> from jaxir.train.loop import TrainConfig
      >>> with_changes(TrainConfig(total_steps=5), {"total_steps": 7}).total_steps
      7
    """
    fields = [field.name for field in dataclasses.fields(config)]
    values: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        head, _, rest = name.partition(".")
        if head not in fields:
            raise InputError(name, "no such field", f"one of {', '.join(fields)}")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            values[head] = value
    for head, inner in nested.items():
        if head in values:
            raise InputError(head, "given as a whole and in part", "either")
        values[head] = with_changes(getattr(config, head), inner)
    return dataclasses.replace(config, **values)


def given(changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The changes that are some: None leaves a field as the model has it.

    Example::

      >>> given({"pooling": None, "doc_length": 64})
      {'doc_length': 64}
    """
    return {n: value for n, value in (changes or {}).items() if value is not None}


def pretrained(path: str, changes: Mapping[str, Any] | None = None) -> Model:
    """A model to start from: a folder, ``hf:ID`` or ``package:NAME/FOLDER``.

    Args:
      path: what ``load_model`` takes.
      changes: fields of the configuration to replace, such as ``{"doc_length": 128,
        "backbone.dropout": 0.0}``.

    Raises:
      InputError: the model cannot be read, or a field does not exist.
    """
    model = load_model(path)
    try:
        config = with_changes(model.config, changes or {})
    except InputError as error:
        found = f"a model of kind {model.kind!r} does not take all changes ({error})"
        raise InputError(
            path, found, remedy="leave the change out, or name a model of another kind"
        ) from error
    params = family(model.kind).adapt_params(model.config, model.params, config)
    return model_from_parts(
        model.kind, config, params, model.tokenizer, path=model.path
    )


def initialized(kind: str, config: Any, tokenizer: str, seed: int = 0) -> Model:
    """A model with fresh parameters.

    Args:
      kind: a family's name, as in ``dense``.
      config: the family's configuration.
      tokenizer: a folder or ``hf:ID``.
      seed: of the initial parameters.

    Raises:
      InputError: no such kind or tokenizer, or one with more tokens than the model.
    """
    row, loaded = family(kind), load_tokenizer(tokenizer)
    size = getattr(config, "backbone", config).vocab_size
    if loaded.vocab_size > size:
        raise InputError(
            tokenizer, f"token ids up to {loaded.vocab_size - 1:,}",
            f"at most {size - 1:,}, as the model's table has {size:,} rows",
            "raise the model's vocab_size (VOCAB_SIZE) or take another tokenizer",
        )  # fmt: skip
    params = row.init(config, jax.random.key(seed))
    return model_from_parts(kind, config, params, loaded)


@dataclasses.dataclass(frozen=True)
class ListSource:
    """Where training lists come from.

    Attributes:
      path: lists made by ``jaxir mine`` or ``jaxir label``, or a prepared directory;
        None samples lists from the split's judgments.  Lists without a positive are
        left out and counted, unless a teacher scored them and the loss asks no more.
      candidates: a TREC run to sample negatives from; None draws them uniformly from
        the corpus.  Lists of one document have no negatives of their own.
      skip_top: candidates passed over, best first.
      depth: last rank that negatives are drawn from.
      per: a list for each ``positive``, or for each ``query``.
      positives: of a list for each query: ``all`` of them that fit, or ``one``, as
        RankT5 draws lists.
    """

    path: str | None = None
    candidates: str | None = None
    skip_top: int = 0
    depth: int = 1000
    per: str = "positive"
    positives: str = "all"


@dataclasses.dataclass(frozen=True)
class PartitionConfig:
    """How the parameters lie on the devices; batches are split over them in any case.

    Attributes:
      model_parallel: devices that share one copy of the parameters; the batch is split
        over the groups of so many devices.
      fully_sharded: split every parameter over the other devices as well.
    """

    model_parallel: int = 1
    fully_sharded: bool = False


def place(
    row: Family, config: Any, partition: PartitionConfig
) -> tuple[Mesh, ShardingRule | None]:
    """The mesh of all devices, and where the parameters lie on it.

    Args:
      row: the model's family.
      config: the model's configuration.
      partition: what is wished.

    Raises:
      InputError: parameters of this kind cannot be split, or the devices not so.
    """
    mesh = make_mesh(model=partition.model_parallel)
    if partition == PartitionConfig():
        return mesh, None
    if row.logical_axes is None:
        raise InputError(
            "partition", f"to be split: a model of kind {row.kind!r}", "a T5",
            "leave model_parallel at 1 and fully_sharded at False",
        )  # fmt: skip
    table = FULLY_SHARDED if partition.fully_sharded else TENSOR_PARALLEL
    return mesh, sharding_rule(row.logical_axes(config), table)


_SAMPLED, _BATCHES, _WHOLE = ListSource(), PipelineConfig(), PartitionConfig()
_LISTS, _CONTENT = "lists.json", "content of candidates"
_ADAMW, _ONE_EPOCH = OptimizerConfig(), TrainConfig(epochs=1)


class Fit(NamedTuple):
    """What :func:`fit` leaves.

    Attributes:
      model: the trained model, as saved.
      step: updates done.
      metrics: the validation of the saved parameters; empty without one.
      compilations: shapes for which the step was compiled.
      cut_docs: pairs trained on that lost the end of their document, over all epochs;
        0 where texts of query and document are apart, which are not counted.
      cut_queries: pairs whose query was too long itself.
    """

    model: Model
    step: int
    metrics: dict[str, float]
    compilations: int
    cut_docs: int = 0
    cut_queries: int = 0


def prepared_lists(
    source: ListSource, collection: Collection, split: str, list_size: int, seed: int,
    work_dir: Path,
) -> str:  # fmt: skip
    """A path :func:`make_batches` reads; sampled lists are prepared in ``work_dir``.

    Args:
      source: where the lists come from.
      collection: that they are about.
      split: whose judgments they are sampled from.
      list_size: documents of a list.
      seed: of the draws.
      work_dir: of the run.

    Raises:
      InputError: lists and candidates, candidates of another split, or a run that has
        begun with other lists.
    """
    if source.path is not None:
        if source.candidates is not None:
            raise InputError(
                "ListSource", "both lists and a run to sample them from", "one of them",
                "leave candidates (CANDIDATES) out",
            )  # fmt: skip
        return source.path
    place, judged = work_dir / "lists", collection.qrels(split)
    record = dataclasses.asdict(source) | {
        "collection": collection.docs.fingerprint, "split": split,
        "list_size": list_size, "seed": seed, _CONTENT: None,
    }  # fmt: skip
    if source.candidates is not None and Path(source.candidates).is_file():
        record[_CONTENT] = sha256_file(source.candidates)
    if place.is_dir() and has_checkpoint(work_dir):
        # The run may have moved, or be gone: its name or its content must agree.
        passed = _CONTENT if record[_CONTENT] is None else "candidates"
        names = [name for name in record if name != passed]
        check_record(work_dir / _LISTS, record, names, what="lists sampled with")
        return str(place)
    candidates = read_run(source.candidates) if source.candidates else None
    if candidates is not None and not candidates.keys() & judged.keys():
        raise InputError(
            source.candidates, f"no candidates for queries of the split {split!r}",
            "a run of this split", "search with its queries (jaxir search)",
        )  # fmt: skip
    lists = sample_lists(
        judged,
        list_size=list_size,
        seed=seed,
        candidates=candidates,
        doc_ids=collection.docs.doc_ids() if list_size > 1 else None,
        queries=collection.queries(split),
        skip_top=source.skip_top,
        depth=source.depth,
        per=source.per,
        positives=source.positives,
    )
    prepare_lists(lists, collection, split, place)
    write_record(work_dir / _LISTS, record)
    return str(place)


def fit(
    model: Model,
    collection: str | Collection,
    *,
    model_dir: str | Path,
    loss: Any = None,
    split: str = "train",
    lists: ListSource = _SAMPLED,
    pipeline: PipelineConfig = _BATCHES,
    optimizer: OptimizerConfig = _ADAMW,
    loop: TrainConfig = _ONE_EPOCH,
    validation: ValidationConfig | None = None,
    partition: PartitionConfig = _WHOLE,
    operative_config: str | Callable[[], str] = "",
    command: str = "",
) -> Fit:
    """Trains a model on a collection and writes a model directory.

    The directory also keeps ``run.json`` (what the run began with), ``lists/``,
    ``lists.json`` (what they were sampled with), ``checkpoints/`` and
    ``metrics.jsonl``.
    Interrupted and called again with the same arguments it continues, and ends with the
    parameters of an uninterrupted run.

    Args:
      model: to start from; its configuration decides lengths and templates.
      collection: a folder, ``irds:ID``, or an opened collection.
      model_dir: where everything goes.
      loss: the family's losses, as ``dense.task.DenseLoss()``.
      split: whose judgments are learned from.
      lists: where training lists come from.
      pipeline: batch and list size; lengths and templates are taken from the model.
      optimizer: its configuration.
      loop: how long, and how often to evaluate and save.
      validation: what to evaluate while training; None for nothing.
      partition: how the parameters lie on the devices.
      operative_config: gin text that repeats the run, or a function that gives it.
      command: how the run was started, for the model card.

    Raises:
      InputError: an input that cannot be used, a loss of another family, or a directory
        of another run.
      TrainingInterrupted: a signal came; what was done is saved.
    """
    work_dir = Path(model_dir)
    if isinstance(collection, str):
        collection = open_collection(collection)
    row = family(model.kind)
    if row.texts is None:
        raise InputError(
            model.path or "model", f"a model of kind {model.kind!r}, which does not "
            "learn from lists", "a retriever or a reranker",
            "make one of it with reranker.load_reranker, as gin/models/t5 does",
        )  # fmt: skip
    check_losses(model.kind, loss)
    check_settings(loop, optimizer)  # before any text is tokenized
    pipeline = row.texts(model.config, pipeline)
    mesh, rule = place(row, model.config, partition)
    evaluate = None
    if validation is not None and validation.split is not None:
        evaluate = make_validation(model, collection, validation)
    with whole_or_absent(work_dir):
        check_run(work_dir, model, loss)
        path = prepared_lists(
            lists, collection, split, pipeline.list_size, pipeline.seed, work_dir
        )
        batches = make_batches(
            path, collection, model.tokenizer, pipeline, split=split,
            need_positive=row.needs_positive(loss),
            process_index=jax.process_index(), process_count=jax.process_count(),
        )  # fmt: skip
        result = train(
            row.make_task(model.config, loss), batches, loop, optimizer=optimizer,
            work_dir=work_dir, mesh=mesh, sharding_rule=rule,
            initial_params=model.params, evaluate=evaluate,
        )  # fmt: skip
    trained = save_trained(
        model, result, work_dir, operative_config=operative_config,
        training_data=f"{collection.name}:{split}", command=command,
    )  # fmt: skip
    say(f"{work_dir}: trained {result.step} steps, best at {result.best_step}")
    cut = batches.cut_docs, batches.cut_queries
    if any(cut):
        say(
            f"{cut[0]:,} pairs were cut at the document, {cut[1]:,} at the query, to "
            f"{pipeline.doc_length} tokens"
        )
    return Fit(trained, result.step, result.metrics, result.compilations, *cut)
