"""JPQ's training as one call: codes and a collection give a model directory.

``jaxir index --kind pq`` makes the index, this trains the query tower and centroids of
its model, ``jaxir index --model D --codes I`` joins the trained model with the codes.
The loop, its checkpoints and its habits are those of :func:`jaxir.fit.fit`; no document
is read.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxir.checkpoints.model_dir import (
    Model,
    load_model,
    model_from_parts,
)
from jaxir.data.collection import Collection, open_collection
from jaxir.data.pipeline import PipelineConfig, make_batches
from jaxir.encode import TextEncoder, as_bi_encoder
from jaxir.errors import InputError
from jaxir.evaluate import evaluate
from jaxir.families import check_losses, family
from jaxir.fit import Fit, ListSource, given, prepared_lists, with_changes
from jaxir.manifest import Manifest, read_manifest
from jaxir.mesh import make_mesh
from jaxir.openers import Opening, model_of
from jaxir.pq.codec import Codec, quantize, unpack
from jaxir.pq.model import JpqConfig, searching_codec
from jaxir.pq.score import check_codec
from jaxir.pq.search import open_codes
from jaxir.pq.task import JpqLoss, make_task
from jaxir.pq_index import CODES, read_pq
from jaxir.progress import say
from jaxir.run_directory import check_run, save_trained, whole_or_absent
from jaxir.train.config import TrainConfig, check_settings
from jaxir.train.loop import train
from jaxir.train.optimizers import OptimizerConfig, ParamGroup
from jaxir.types import Params
from jaxir.validate import ValidationConfig, draw_sample

__all__ = ["centroid_rate", "fit_jpq", "joint_optimizer", "load_jpq"]

_DEPTH = 100  # results of a query in validation
_COMPARED = 256  # documents whose vectors are compared with their codes
_A_LIST_A_QUERY = ListSource(per="query", positives="one")
_BATCHES, _ADAMW, _ONE_EPOCH = (
    PipelineConfig(list_size=1),
    OptimizerConfig(),
    TrainConfig(epochs=1),
)

_FROZEN = ParamGroup("^doc/|^codec/(rotation|assignment)$", 0.0, clip=False)
"""What codes were made with: as long as it stays, they stay true."""


def load_jpq(
    index: str | os.PathLike, *, changes: Mapping[str, Any] | None = None
) -> Model:
    """A JPQ model to train: that of an index, or one that goes on.

    Args:
      index: an index of kind ``pq``, or a model directory of kind ``jpq``.
      changes: fields of the configuration to replace, such as ``{"query_length": 32,
        "backbone.dropout": 0.1}``; None leaves a field.

    Raises:
      InputError: neither is there, or a change that does not fit.
    """
    place = Path(index)
    if (place / "manifest.json").is_file():
        manifest = read_pq(place, "holds a model to train with its codes")
        model = model_of(Opening(place, manifest))
    else:
        model = load_model(index, kind="jpq")
    config = with_changes(model.config, given(changes))
    params = family("jpq").adapt_params(model.config, model.params, config)
    return model_from_parts("jpq", config, params, model.tokenizer, path=model.path)


def centroid_rate(subvectors: int) -> float:
    """The paper's learning rate of centroids: the more parts, the higher.

    Source: Zhan et al. 2021, section 4.3, which has it for 16, 24, 32, 48, 64 and 96
    parts; other numbers take the rate of the next larger one.

    Example::

      >>> [centroid_rate(m) for m in (24, 32, 48)]
      [5e-06, 2e-05, 0.0001]
    """
    if subvectors <= 24:
        return 5e-6
    return 2e-5 if subvectors <= 32 else 1e-4


def joint_optimizer(
    optimizer: OptimizerConfig,
    config: JpqConfig,
    loss: JpqLoss,
    rate: float | None = None,
) -> OptimizerConfig:
    """An optimizer that leaves alone what codes were made with.

    Document tower, rotation and assignment are frozen.  Centroids have a rate of their
    own, do not decay, and neither count in the norm of the gradients nor are clipped.

    Args:
      optimizer: of the query tower.
      config: the model.
      loss: says whether centroids are trained.
      rate: of the centroids; None for :func:`centroid_rate`.

    Example::

      >>> joint = joint_optimizer(OptimizerConfig(), JpqConfig(), JpqLoss())
      >>> [group.learning_rate for group in joint.groups]
      [0.0, 5e-06]
    """
    if not loss.train_centroids:
        rate = 0.0
    elif rate is None:
        rate = centroid_rate(config.subvectors)
    centroids = ParamGroup("^codec/centroids$", rate, weight_decay=0.0, clip=False)
    groups = (_FROZEN, centroids, *optimizer.groups)
    return dataclasses.replace(optimizer, groups=groups)


def fit_jpq(
    model: Model,
    index: str | os.PathLike,
    collection: str | Collection,
    *,
    model_dir: str | Path,
    loss: Any = None,
    split: str = "train",
    lists: ListSource = _A_LIST_A_QUERY,
    pipeline: PipelineConfig = _BATCHES,
    optimizer: OptimizerConfig = _ADAMW,
    centroid_learning_rate: float | None = None,
    loop: TrainConfig = _ONE_EPOCH,
    validation: ValidationConfig | None = None,
    vectors: str | os.PathLike | None = None,
    operative_config: str | Callable[[], str] = "",
    command: str = "",
) -> Fit:
    """Trains query tower and centroids on the codes of an index.

    Interrupted and called again with the same arguments it continues, and ends with the
    parameters of an uninterrupted run.  Validation searches all documents, as the index
    would be searched with the parameters of that step.

    Args:
      model: to start from, of :func:`load_jpq`.
      index: of kind ``pq``; its codes are those of the model.
      collection: that the index was built of: a folder, ``irds:ID``, or an opened one.
      model_dir: where everything goes, as in :func:`jaxir.fit.fit`.
      loss: what is learned from; the paper's by default.
      split: whose judgments are learned from.
      lists: which queries are asked, and with ``negatives="given"`` their negatives.
      pipeline: batch size and seed; lengths and templates are taken from the model,
        the size of lists from the loss.
      optimizer: of the query tower; see :func:`joint_optimizer`.
      centroid_learning_rate: of the centroids; None for the paper's.
      loop: how long, and how often to evaluate and save.
      validation: split, metrics and number of queries; None for nothing.
      vectors: a dense index of the same documents, for ``scores="vectors"``.
      operative_config: gin text that repeats the run, or a function that gives it.
      command: how the run was started, for the model card.

    Raises:
      InputError: an input that cannot be used, an index of another collection or of
        other codes than the model's, vectors that the codes are not of, or a directory
        of another run.
      TrainingInterrupted: a signal came; what was done is saved.
    """
    work_dir, index = Path(model_dir), Path(index)
    if isinstance(collection, str):
        collection = open_collection(collection)
    if model.kind != "jpq":
        raise InputError(
            model.path or "model", f"a model of kind {model.kind!r}", "kind 'jpq'",
            "begin with jpq.load_jpq(index)",
        )  # fmt: skip
    loss = JpqLoss() if loss is None else loss
    check_losses(model.kind, loss)
    optimizer = joint_optimizer(optimizer, model.config, loss, centroid_learning_rate)
    check_settings(loop, optimizer)  # before any text is tokenized
    live = loss.negatives == "live"
    if live and lists.candidates is not None:
        raise InputError(
            "ListSource.candidates", f"{lists.candidates} with live negatives", "None",
            "choose a task with given negatives",
        )  # fmt: skip
    manifest = read_pq(index, "a JPQ model is trained with")
    _check_collection(index, manifest, collection)
    _check_codec(index, model_of(Opening(index, manifest)), model)
    codes = np.load(index / CODES, mmap_mode="r")
    check_codec(searching_codec(model.params), codes, model.config.bits)
    stored = None
    if vectors is not None:
        stored = _vectors(Path(vectors), loss, manifest.details["width"], collection)
        _check_vectors(Path(vectors), stored, model, codes)
    row, mesh = family(model.kind), make_mesh()
    assert row.texts is not None
    size = 1 if live else 1 + loss.num_negatives
    pipeline = row.texts(model.config, dataclasses.replace(pipeline, list_size=size))
    measure = None
    if validation is not None and validation.split is not None:
        measure = _validation(model, codes, collection, validation)
    task = make_task(model.config, loss, codes, vectors=stored, mesh=mesh)
    with whole_or_absent(work_dir):
        check_run(work_dir, model, loss, {"index": manifest.files[CODES]["sha256"]})
        path = prepared_lists(
            lists, collection, split, pipeline.list_size, pipeline.seed, work_dir
        )
        batches = make_batches(
            path, collection, model.tokenizer, pipeline, split=split,
            process_index=jax.process_index(), process_count=jax.process_count(),
        )  # fmt: skip
        result = train(
            task, batches, loop, optimizer=optimizer, work_dir=work_dir, mesh=mesh,
            initial_params=model.params, evaluate=measure,
        )  # fmt: skip
    trained = save_trained(
        model, result, work_dir, operative_config=operative_config,
        training_data=f"{collection.name}:{split}", command=command,
    )  # fmt: skip
    say(
        f"{work_dir}: trained {result.step} steps, best at {result.best_step}; its "
        f"index: jaxir index --model {work_dir} --codes {index} --index NEW"
    )
    return Fit(trained, result.step, result.metrics, result.compilations)


def _check_collection(where: Path, manifest: Manifest, collection: Collection) -> None:
    """Rows of the index must be rows of the collection."""
    docs = collection.docs
    known = manifest.details.get("collection_fingerprint")
    if known != docs.fingerprint or manifest.counts["docs"] != len(docs):
        raise InputError(
            where, f"{manifest.counts['docs']:,} documents of "
            f"{manifest.details.get('collection')!r} as it was", f"the {len(docs):,} "
            f"documents of {collection.path}", "build an index of this collection",
        )  # fmt: skip


def _check_codec(where: Path, own: Model, model: Model) -> None:
    """Codes mean something only with the codec that assigned them."""
    for name in ("rotation", "assignment"):
        old, new = (np.asarray(x.params["codec"][name]) for x in (own, model))
        if not np.array_equal(old, new):
            raise InputError(
                where, f"codes of a model with another {name}", "those of the model",
                "train it with the index that it began with",
            )  # fmt: skip


def _vectors(
    place: Path, loss: JpqLoss, width: int, collection: Collection
) -> np.ndarray:
    """What the codes stand for, ``[N, E]``."""
    if loss.scores != "vectors":
        raise InputError(
            place, "vectors for a loss that compares the codes' scores", "none",
            "leave vectors (VECTORS) out",
        )  # fmt: skip
    manifest = read_manifest(place, kind="dense")
    _check_collection(place, manifest, collection)
    if manifest.details["width"] != width:
        raise InputError(
            place, f"vectors of width {manifest.details['width']}", f"width {width}"
        )
    names = manifest.details["shards"]
    return np.concatenate([np.load(place / name, mmap_mode="r") for name in names])


def _check_vectors(
    place: Path, vectors: np.ndarray, model: Model, codes: np.ndarray
) -> None:
    """Vectors of another model would be compared with queries in vain."""
    some = np.unique(np.linspace(0, len(vectors) - 1, _COMPARED, dtype=int))
    own, codec = codes[:, some], jax.tree.map(jnp.asarray, model.params["codec"])
    if len(own) != model.config.subvectors:
        own = np.asarray(unpack(own))
    assigned = quantize(
        Codec(codec["rotation"], codec["assignment"]),
        jnp.asarray(vectors[some], jnp.float32),
    )
    # Not all: float16 or other machines may have taken the next nearest.
    if np.mean(own == np.asarray(assigned).T) < 0.5:
        raise InputError(
            place, "vectors that do not have the codes of the index", "those that the "
            "codes were made from", "name the dense index of the same model",
        )  # fmt: skip


def _validation(
    model: Model, codes: np.ndarray, collection: Collection, config: ValidationConfig
) -> Callable[[Params], dict[str, float]]:
    """``evaluate(params)``: a search of all documents with these parameters."""
    # The queries of other trainings' validation; of the corpus nothing is left out.
    sample = draw_sample(collection, dataclasses.replace(config, max_docs=0))
    names, texts = list(sample.queries), list(sample.queries.values())
    depth = min(_DEPTH, codes.shape[1])

    def measure(params: Params) -> dict[str, float]:
        codec = jax.device_get(searching_codec(params))
        opened = open_codes(codec, codes, model.config.bits)
        tower = as_bi_encoder(model._replace(params={"query": params["query"]}))
        queries = TextEncoder(tower, side="query")(texts)
        found = opened.search(queries, depth, names=names)
        run = {
            name: {
                collection.docs.doc_id(int(row)): float(score)
                for row, score in zip(rows, scores, strict=True)
            }
            for name, rows, scores in zip(names, *found, strict=True)
        }
        result = evaluate(sample.qrels, {"model": run}, metrics=config.metrics)
        return {name: result.mean("model", name) for name in result.metrics}

    return measure
