"""A training run's own directory: whole or absent, and of one run alone.

``run.json`` says what a run began with: the model, its configuration and the loss.  A
run that has saved a step goes on only as the same run; what it may go on with otherwise
(durations, the optimizer, types of numbers) is not in that file.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxir.checkpoints.model_dir import (
    Model,
    model_from_parts,
    params_fingerprint,
    save_model,
)
from jaxir.checkpoints.weights import read_json
from jaxir.errors import InputError
from jaxir.families import config_to_dict
from jaxir.files import atomic_file
from jaxir.train.loop import TrainResult

__all__ = [
    "check_record",
    "check_run",
    "has_checkpoint",
    "save_trained",
    "whole_or_absent",
    "write_record",
]

_RUN = "run.json"

_OF_THE_MACHINE = ("dtype", "remat")
"""Fields of a backbone that change where and how it is computed, not what it learns."""


def has_checkpoint(work_dir: Path) -> bool:
    """Whether a step was saved; the state before the first is made anew in no time."""
    names = [path.name for path in (work_dir / "checkpoints").glob("*")]
    return any(name.isdigit() and int(name) > 0 for name in names)


@contextlib.contextmanager
def whole_or_absent(work_dir: Path) -> Iterator[None]:
    """A refused run leaves what was there before, unless it has saved a step.

    Args:
      work_dir: of the run; what it adds there is removed when an InputError passes.
    """
    existed = work_dir.exists()
    before = set(work_dir.iterdir()) if work_dir.is_dir() else set()
    missing = [folder for folder in work_dir.parents if not folder.exists()]
    try:
        yield
    except InputError:
        if not has_checkpoint(work_dir) and work_dir.is_dir():
            for path in set(work_dir.iterdir()) - before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            with contextlib.suppress(OSError):
                for folder in missing if existed else [work_dir, *missing]:
                    folder.rmdir()
        raise


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Writes what a run began with, by the first process."""
    if jax.process_index() == 0:
        with atomic_file(path) as out:
            json.dump(record, out, indent=1)


def check_record(
    path: Path, record: Mapping[str, Any], names: Sequence[str], *, what: str
) -> None:
    """Checks that a record agrees with the one that a run began with.

    Args:
      path: of the record; where there is none, nothing is known and nothing refused.
      record: what is asked for now.
      names: its entries that must agree.
      what: was made with them, for the error: ``"lists sampled with"``.

    Raises:
      InputError: an entry differs.
    """
    before = read_json(path) if path.is_file() else record
    changed = [name for name in names if before.get(name) != record[name]]
    if changed:
        raise InputError(
            path, f"{what} another {', '.join(changed)}",
            "what the run began with", "restore it, or begin in a new model directory",
        )  # fmt: skip


def check_run(
    work_dir: Path, model: Model, loss: Any, also: Mapping[str, str] | None = None
) -> None:
    """Notes what a run begins with; if it has saved a step, checks that this agrees.

    Args:
      work_dir: of the run.
      model: to start from.
      loss: the family's losses, None for its default.
      also: what else may not change, by name.

    Raises:
      InputError: another model, configuration or loss than the run began with.
    """
    config = config_to_dict(model.config)
    for place in (config, config.get("backbone", {})):
        for name in _OF_THE_MACHINE:
            place.pop(name, None)
    record = {
        "kind of model": model.kind,
        "configuration": config,
        "loss": repr(loss),
        "start": params_fingerprint(model.params),
        **(also or {}),
    }
    # As it is read back: tuples are lists in JSON.
    record = json.loads(json.dumps(record))
    path = work_dir / _RUN
    if has_checkpoint(work_dir):
        check_record(path, record, list(record), what="a run with")
    else:
        write_record(path, record)


def save_trained(
    model: Model,
    result: TrainResult,
    work_dir: Path,
    *,
    operative_config: str | Callable[[], str],
    training_data: str,
    command: str,
) -> Model:
    """Writes the model that a training ended with, and returns it.

    Args:
      model: what the training began with.
      result: what it ended with.
      work_dir: where the model goes.
      operative_config: gin text that repeats the run, or a function that gives it.
      training_data: what was learned from, for the model card.
      command: how the run was started, for the model card.
    """
    trained = model_from_parts(
        model.kind, model.config, result.params, model.tokenizer, path=str(work_dir)
    )
    text = operative_config if isinstance(operative_config, str) else operative_config()
    save_model(
        work_dir, trained, operative_config=text, metrics=result.metrics,
        training_data=training_data, command=command,
    )  # fmt: skip
    return trained
