"""T5X checkpoints of T5 1.0 and 1.1 as our parameters, and back.

Our trees have T5X's names and shapes, so that nothing is renamed: what a checkpoint
holds is compared with what its sizes imply, strictly both ways.  ``t5x_native`` knows
the layouts on disk.  Scanned checkpoints (``examples/scalable_t5``) are taken apart
into layers.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxir.checkpoints.rules import check_shapes, flatten, unflatten
from jaxir.checkpoints.t5x_native import read_arrays, write_native
from jaxir.errors import InputError
from jaxir.nn.t5 import T5Config, init_encoder_params, init_params, with_layers
from jaxir.types import Params

__all__ = [
    "PretrainedT5",
    "load_t5x",
    "one_by_one",
    "read_t5x",
    "t5_config_of",
    "t5_shapes",
    "write_t5x",
]

_STACKS = ("encoder", "decoder")
_TABLE = "relpos_bias/rel_embedding"


class PretrainedT5(NamedTuple):
    """A T5 as it comes from a checkpoint.

    Attributes:
      config: its shape.
      params: its parameters, float32 arrays in host memory; of an encoder alone,
        ``token_embedder`` and ``encoder``, and of RankT5's Enc, as T5X saves it,
        ``score_head`` as well.
    """

    config: T5Config
    params: Params


def read_t5x(path: str | os.PathLike) -> Params:
    """The parameters of a T5X checkpoint of any model, as they are named there.

    Args:
      path: a folder ``checkpoint_N`` or one of such folders (the last is taken), a
        legacy file, or an Orbax folder.

    Returns:
      Nested dictionaries of arrays of the type they are stored in.

    Raises:
      InputError: no checkpoint, a damaged one, or one with arrays missing.
    """
    return unflatten(read_arrays(Path(path).expanduser()))


def load_t5x(path: str | os.PathLike) -> PretrainedT5:
    """A T5 of a T5X checkpoint; version and sizes are told from the tree.

    Args:
      path: as :func:`read_t5x` takes it.

    Raises:
      InputError: as :func:`read_t5x`; or another architecture, with the whole
        difference.
    """
    flat = read_arrays(Path(path).expanduser())
    params = unflatten(_one_table(_layers_apart(flat), path))
    config = t5_config_of(params)
    check_shapes(params, t5_shapes(config, params), where=path)
    kept = jax.tree.map(lambda x: np.ascontiguousarray(x, np.float32), params)
    return PretrainedT5(config, kept)


def t5_config_of(params: Mapping[str, Any]) -> T5Config:
    """The configuration that a T5's parameters imply.

    Heads are the rows of ``relpos_bias``, a head's width is what is left of the query
    kernel.  Two inner kernels (``wi_0``, ``wi_1``) mean the gated GELU of T5 1.1, a
    ``logits_dense`` its untied logits.  What no parameter shows is T5's default: the
    relative positions' maximum distance, the rate of dropout.

    Args:
      params: a T5's tree, or an encoder's; layers one by one, or stacked as
        ``scan_layers`` has them.  What it lacks counts as of T5 1.0 base.

    Example::

      >>> config = T5Config(vocab_size=50, emb_dim=8, num_heads=2, head_dim=3)
      >>> shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
      >>> t5_config_of(shapes) == config
      True
    """
    flat = {path: tuple(leaf.shape) for path, leaf in flatten(params).items()}
    base = T5Config()
    scanned = any(path.startswith("encoder/encoder/") for path in flat)
    layer = "encoder/encoder" if scanned else "encoder/layers_0"

    def sizes(path: str, default: tuple[int, int]) -> tuple[int, int]:
        shape = flat.get(path, default)[-2:]
        return (shape[0], shape[1]) if len(shape) == 2 and min(shape) > 0 else default

    vocab_size, emb_dim = sizes(
        "token_embedder/embedding", (base.vocab_size, base.emb_dim)
    )
    heads, buckets = sizes(f"encoder/{_TABLE}", (base.num_heads, base.relpos_buckets))
    joined = sizes(f"{layer}/attention/query/kernel", (0, heads * base.head_dim))[1]
    gated = f"{layer}/mlp/wi_0/kernel" in flat
    inner = f"{layer}/mlp/{'wi_0' if gated else 'wi'}/kernel"
    counts = [_count(flat, stack) for stack in _STACKS]
    return T5Config(
        vocab_size=vocab_size,
        emb_dim=emb_dim,
        num_heads=heads,
        head_dim=max(joined // heads, 1),
        mlp_dim=sizes(inner, (0, base.mlp_dim))[1],
        num_encoder_layers=counts[0] or base.num_encoder_layers,
        # Of an encoder alone nothing says what its decoder was: as deep, as in T5.
        num_decoder_layers=counts[1] or counts[0] or base.num_decoder_layers,
        mlp_activations=("gelu", "linear") if gated else ("relu",),
        logits_via_embedding="decoder/logits_dense/kernel" not in flat,
        relpos_buckets=buckets,
        scan_layers=scanned,
    )


def t5_shapes(config: T5Config, params: Mapping[str, Any]) -> Any:
    """What ``params`` should be: a T5, or an encoder, perhaps with a score head."""
    whole = "decoder" in params or not {"encoder", "token_embedder"} <= set(params)
    init = init_params if whole else init_encoder_params
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    if "score_head" in params and not whole:
        dense = {"kernel": (config.emb_dim, 1), "bias": (1,)}
        return dict(shapes) | {"score_head": {"dense": dense}}
    return shapes


def write_t5x(directory: str | os.PathLike, params: Params, *, step: int = 0) -> Path:
    """Writes ``directory/checkpoint_{step}`` as T5X's own reader takes it.

    The layout is T5X's native one, layers one by one as in its ``examples/t5``.  There
    are no optimizer slots: T5X infers and evaluates from it, and trains from it with
    ``fallback_to_scratch=True`` in its ``RestoreCheckpointConfig``.

    Args:
      directory: T5X's ``MODEL_DIR``; made if absent.
      params: a T5's tree, or any other.
      step: the number of steps that the parameters were trained for.

    Returns:
      The checkpoint's folder.

    Raises:
      InputError: the place cannot be written.
    """
    return write_native(Path(directory).expanduser(), one_by_one(params), step=step)


def one_by_one(params: Params) -> Params:
    """Parameters with layers one by one, whether they were stacked or not."""
    return with_layers(params, scanned=False)


def _count(flat: Mapping[str, tuple[int, ...]], stack: str) -> int:
    """Layers of a stack, from the highest number or from the axis of layers."""
    for path, shape in flat.items():
        if path.startswith(f"{stack}/{stack}/"):
            return shape[0]
    numbers = (re.match(rf"{stack}/layers_(\d+)/", path) for path in flat)
    return max((int(match[1]) + 1 for match in numbers if match), default=0)


def _layers_apart(flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scanned layers one by one: ``encoder/encoder/x`` as ``encoder/layers_0/x``."""
    plain: dict[str, np.ndarray] = {}
    for path, array in flat.items():
        stack, _, rest = path.partition("/")
        inside, _, name = rest.partition("/")
        if stack in _STACKS and inside == stack and array.ndim > 1:
            layers = np.moveaxis(array, _axis_of_layers(flat, stack), 0)
            plain |= {f"{stack}/layers_{i}/{name}": x for i, x in enumerate(layers)}
        else:
            plain[path] = array
    return plain


def _axis_of_layers(flat: Mapping[str, np.ndarray], stack: str) -> int:
    """1 as T5X's ``param_scan_axis`` is by default, or 0, as the norms show."""
    inner = flat.get(f"{stack}/{stack}/pre_mlp_layer_norm/scale")
    outer = flat.get(f"{stack}/{stack}_norm/scale")
    if inner is None or outer is None:
        return 1
    return 0 if inner.shape[0] != outer.shape[0] else 1


def _one_table(flat: dict[str, np.ndarray], where: object) -> dict[str, np.ndarray]:
    """One table of relative positions a stack, where each layer carries its own."""
    for stack in _STACKS:
        pattern = re.compile(rf"{stack}/layers_\d+/{_TABLE}")
        paths = [path for path in flat if pattern.fullmatch(path)]
        if not paths:
            continue
        first, *others = [flat.pop(path) for path in paths]
        if any(not np.array_equal(first, other) for other in others):
            raise InputError(
                where,
                f"relative positions of their own in each layer of the {stack} (umT5)",
                "one table for all layers, as in T5",
            )
        flat[f"{stack}/{_TABLE}"] = first
    return flat
