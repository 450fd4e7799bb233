"""Train a model as a gin file says, and write a model directory.

  jaxir train --gin_file experiments/dense_medquad_small.gin \\
      --gin.COLLECTION="'data/medquad'" --model_dir runs/medquad

Files are looked up as given and then in jaxir's own gin folder.  Their macro RUN names
what is done: fit.fit learns from lists, pretrain.pretrain from documents, jpq.fit_jpq
from the codes of an index.  A run that was interrupted continues where it stopped when
the same command is given again.
"""

import argparse
import json

__all__ = ["add_arguments", "run", "train_from_gin"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gin_file", action="append", required=True, metavar="FILE",
        help="a gin file; may be given several times, later ones win",
    )  # fmt: skip
    parser.add_argument(
        "--gin_search_paths", default="", metavar="DIR,DIR",
        help="further folders for gin files and their includes",
    )  # fmt: skip
    parser.add_argument(
        "--model_dir", required=True, help="where the model and its checkpoints go"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.epilog = "--gin.NAME=VALUE overrides a macro or a parameter."
    parser.set_defaults(gin_bindings=[])


def train_from_gin(
    files: list[str],
    bindings: list[str],
    model_dir: str,
    *,
    search_paths: list[str] | None = None,
    command: str = "",
):
    """Reads gin files and runs the training they configure.

    Args:
      files: gin files; later ones win.
      bindings: statements that override the files, as in ``"TRAIN_STEPS = 10"``.
      model_dir: where the model and its checkpoints go.
      search_paths: further folders for gin files.
      command: how the run was started, for the model card.

    Returns:
      The :class:`jaxir.fit.Fit` of the run: of the function that the macro ``RUN``
      names, :func:`jaxir.fit.fit` where no file sets it.

    Raises:
      InputError: a file or a binding that gin refuses or that nothing reads, or an
        input that cannot be used.
    """
    from jaxir.cli.config import (
        configured_run,
        operative_config,
        parse_gin,
        reject_unused,
    )

    parse_gin(files, bindings, search_paths=search_paths or [])
    from jaxir import fit

    reject_unused(bindings, fit.fit)
    return configured_run(fit.fit)(
        model_dir=model_dir, operative_config=operative_config, command=command
    )


def run(args: argparse.Namespace) -> int:
    result = train_from_gin(
        args.gin_file,
        args.gin_bindings,
        args.model_dir,
        search_paths=[path for path in args.gin_search_paths.split(",") if path],
        command=args.command,
    )
    summary = {
        "model": args.model_dir,
        "step": result.step,
        "compilations": result.compilations,
        "metrics": result.metrics,
    }
    if args.json:
        print(json.dumps(summary))
    else:
        numbers = "  ".join(f"{k} {v:.4f}" for k, v in sorted(result.metrics.items()))
        print(f"{args.model_dir}: trained {result.step} steps  {numbers}")
    return 0
