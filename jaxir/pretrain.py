"""Language modelling on a collection's documents: no queries, no judgments.

Adapts a model to the texts it will rank, or trains a small one from nothing where no
weights can be had.  T5 learns by span corruption, BERT by masked language modelling;
the loop, its checkpoints and its habits are those of :func:`jaxir.fit.fit`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from jaxir.checkpoints import masked_lm as masked_lm_checkpoint
from jaxir.checkpoints.model_dir import (
    Model,
    load_model,
    model_from_parts,
)
from jaxir.checkpoints.weights import resolve
from jaxir.data.collection import Collection
from jaxir.data.masking import MaskConfig, make_mask_batches
from jaxir.data.packing import RowBatches, open_chunks
from jaxir.data.spans import SpanConfig, chunk_length_of, make_span_batches
from jaxir.errors import InputError
from jaxir.families import check_losses, family
from jaxir.fit import Fit, PartitionConfig, place, with_changes
from jaxir.lm import masked
from jaxir.mesh import put_batch
from jaxir.progress import say
from jaxir.run_directory import check_run, save_trained, whole_or_absent
from jaxir.text import Tokenizer, load_tokenizer
from jaxir.train.config import TrainConfig, check_settings
from jaxir.train.loop import train
from jaxir.train.optimizers import OptimizerConfig
from jaxir.types import Params, Task

__all__ = ["OBJECTIVES", "Objective", "load_masked_lm", "masked_lm_of", "pretrain"]


class Objective(NamedTuple):
    """How one kind of model learns from plain text.

    Attributes:
      config_class: the frozen dataclass that says how batches are made.
      chunk_length: ``chunk_length(config, tokenizer) -> tokens`` of a text at most.
      make_batches: ``make_batches(chunks, tokenizer, config, ...) -> RowBatches``.
    """

    config_class: Any
    chunk_length: Callable[[Any, Tokenizer], int]
    make_batches: Callable[..., RowBatches]


def _span_chunk(config: SpanConfig, tokenizer: Tokenizer) -> int:
    del tokenizer  # sentinels and EOS are counted by the configuration
    return chunk_length_of(config)


def _mask_chunk(config: MaskConfig, tokenizer: Tokenizer) -> int:
    frame = tokenizer.frame
    return config.input_length - len(frame.prefix) - len(frame.suffix)


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        "t5": Objective(SpanConfig, _span_chunk, make_span_batches),
        "masked_lm": Objective(MaskConfig, _mask_chunk, make_mask_batches),
    }
)
"""The objective of each kind of model."""

_ADAFACTOR = OptimizerConfig(name="adafactor", learning_rate=1e-2, weight_decay=0.0)
_ONE_EPOCH, _WHOLE = TrainConfig(epochs=1), PartitionConfig()


def masked_lm_of(model: Model, *, tied: bool = True, seed: int = 0) -> Model:
    """A BERT with a head over the vocabulary, of the encoder of another model.

    Args:
      model: a masked language model, which comes back as it is, or a bi-encoder of one
        tower, as every encoder is read.
      tied: whether the head's last matrix is the word table.
      seed: of the fresh head.

    Raises:
      InputError: the model has no encoder of this sort, or two.
    """
    if model.kind == "masked_lm":
        return model
    if model.kind != "dense":
        raise InputError(
            model.path or "model", f"a model of kind {model.kind!r}", "a BERT"
        )
    if "shared" not in model.params:
        raise InputError(
            model.path or "model", "a bi-encoder of two towers", "one encoder",
            "name one of the encoders it was made of",
        )  # fmt: skip
    config = masked.MaskedLMConfig(model.config.backbone, tied)
    params = masked.params_from_backbone(
        config, model.params["shared"]["backbone"], jax.random.key(seed)
    )
    return model_from_parts(
        "masked_lm", config, params, model.tokenizer, path=model.path
    )


def load_masked_lm(
    path: str,
    *,
    tied: bool = True,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Model:
    """A BERT to go on with masked language modelling, of any encoder's weights.

    Args:
      path: what ``load_model`` takes.  A masked language model in Hugging Face's layout
        brings its head, any other encoder gets a fresh one.
      tied: whether a fresh head's last matrix is the word table.
      changes: fields of the configuration to replace, such as ``{"backbone.dropout":
        0.0}``.
      seed: of a fresh head.

    Raises:
      InputError: as :func:`masked_lm_of`, or a field that does not exist.
    """
    model = masked_lm_of(_pretrained(path), tied=tied, seed=seed)
    config = with_changes(model.config, changes or {})
    params = masked.adapt_params(model.config, model.params, config)
    return model_from_parts(
        model.kind, config, params, model.tokenizer, path=model.path
    )


def _pretrained(path: str) -> Model:
    """A model with the head over the vocabulary that stands beside its encoder."""
    if not path.startswith(("dpr:", "jpq:", "t5x:")):
        folder = resolve(path)
        own = any((folder / name).is_file() for name in ("model.json", "modules.json"))
        if not own and masked_lm_checkpoint.is_masked_lm(folder):
            found = masked_lm_checkpoint.load_masked_lm(folder)
            tokenizer = load_tokenizer(folder)
            return model_from_parts("masked_lm", *found, tokenizer, path=path)
    return load_model(path)


def _evaluation(
    task: Task, batches: RowBatches, mesh: Any
) -> Callable[[Params], dict[str, float]]:
    """``evaluate(params)`` over one epoch of batches, compiled once."""

    @jax.jit
    def compute(params: Params, batch: Any) -> dict[str, Any]:
        loss, metrics = task.loss(params, batch, None)
        return {**metrics, "loss": loss}

    def evaluate(params: Params) -> dict[str, float]:
        totals = {"loss": 0.0, "accuracy": 0.0}
        count = 0.0
        for position in range(batches.steps_per_epoch):
            batch = put_batch(batches.batch(position), mesh)
            values = {k: float(v) for k, v in compute(params, batch).items()}
            count += values["tokens"]
            for name in totals:
                totals[name] += values["tokens"] * values[name]
        return {f"held_out_{name}": total / count for name, total in totals.items()}

    return evaluate


def pretrain(
    model: Model,
    collections: str | Collection | Sequence[str | Collection],
    *,
    model_dir: str | Path,
    loss: Any = None,
    data: Any = None,
    holdout: int | float | None = 0.01,
    optimizer: OptimizerConfig = _ADAFACTOR,
    loop: TrainConfig = _ONE_EPOCH,
    partition: PartitionConfig = _WHOLE,
    operative_config: str | Callable[[], str] = "",
    command: str = "",
) -> Fit:
    """Trains a language model on documents and writes a model directory.

    Interrupted and called again with the same arguments it continues, and ends with the
    parameters of an uninterrupted run.  With ``holdout`` the parameters that are kept
    are those of the lowest loss on documents that were not trained on.

    Args:
      model: to start from, of kind ``t5`` or ``masked_lm``: ``fit.initialized(...)``
        for a fresh one, ``fit.pretrained(path)`` to adapt one.
      collections: a folder, ``irds:ID``, an opened collection, or several of them.
      model_dir: where everything goes; also ``checkpoints/`` and ``metrics.jsonl``.
      loss: the family's losses, as ``lm.t5.SpanLoss()``.
      data: how texts become batches: a ``SpanConfig`` for T5, a ``MaskConfig`` for
        BERT.
      holdout: documents kept back for the loss that is reported: a fraction (float) or
        a number (int); None keeps none back.
      optimizer: its configuration.
      loop: how long, and how often to evaluate and save.
      partition: how the parameters lie on the devices.
      operative_config: gin text that repeats the run, or a function that gives it.
      command: how the run was started, for the model card.

    Returns:
      The model, and ``held_out_loss`` and ``held_out_accuracy`` among the metrics.

    Raises:
      InputError: a kind of model that has no such objective, an input that cannot be
        used, or a directory of another run.
      TrainingInterrupted: a signal came; what was done is saved.
    """
    work_dir = Path(model_dir)
    if model.kind not in OBJECTIVES:
        raise InputError(
            model.path or "model", f"a model of kind {model.kind!r}",
            "one of " + ", ".join(OBJECTIVES),
            "pretrain learns from documents alone; train rerankers and encoders with "
            "fit",
        )  # fmt: skip
    objective = OBJECTIVES[model.kind]
    data = objective.config_class() if data is None else data
    if not isinstance(data, objective.config_class):
        raise InputError(
            "data", type(data).__name__,
            f"{objective.config_class.__name__} for a model of kind {model.kind!r}",
        )  # fmt: skip
    check_losses(model.kind, loss)
    # Mistakes are told before the texts are tokenized, which may take an hour.
    check_settings(loop, optimizer)
    task = family(model.kind).make_task(model.config, loss)
    mesh, rule = place(family(model.kind), model.config, partition)
    if isinstance(collections, str | Collection):
        collections = (collections,)
    names = ", ".join(
        item.name if isinstance(item, Collection) else Path(item).name
        for item in collections
    )
    chunks = open_chunks(
        collections,
        model.tokenizer,
        chunk_length=objective.chunk_length(data, model.tokenizer),
        min_tokens=data.min_tokens,
    )
    processes = {
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    evaluate = None
    if holdout is not None:
        chunks, held = chunks.hold_out(holdout, data.seed)
        evaluate = _evaluation(
            task,
            objective.make_batches(
                held, model.tokenizer, data, every_row=True, **processes
            ),
            mesh,
        )
        if loop.metric is None:
            loop = dataclasses.replace(loop, metric="held_out_loss", mode="min")
    batches = objective.make_batches(chunks, model.tokenizer, data, **processes)
    say(
        f"{chunks.num_docs:,} documents, {int(chunks.lengths.sum()):,} tokens, "
        f"{batches.steps_per_epoch:,} steps an epoch, rows {100 * batches.fill:.0f} % "
        "full"
    )
    with whole_or_absent(work_dir):
        check_run(work_dir, model, loss)
        result = train(
            task, batches, loop, optimizer=optimizer, work_dir=work_dir, mesh=mesh,
            sharding_rule=rule, initial_params=model.params, evaluate=evaluate,
        )  # fmt: skip
    trained = save_trained(
        model, result, work_dir, operative_config=operative_config,
        training_data=f"the documents of {names}", command=command,
    )  # fmt: skip
    say(f"{work_dir}: trained {result.step} steps, best at {result.best_step}")
    return Fit(trained, result.step, result.metrics, result.compilations)
