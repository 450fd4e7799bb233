"""Memory of a RankT5 training step, from the compiled program alone.

Nothing is allocated: the step is compiled ahead of time for eight devices (simulated,
in processes of their own) and the compiler says what it would need on each.  The
activations must be those of one chunk of pairs, whatever the number of lists:
``bound_bytes`` is a fifth above what a quarter of the lists needs.  The figures are of
the CPU's compiler, which fuses less than a GPU's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from timing import versions

NAME = "rank-memory"
SIZES = {
    "base": {},
    "large": {"emb_dim": 1024, "num_heads": 16, "mlp_dim": 4096, "layers": 24},
    "3b": {
        "emb_dim": 1024, "num_heads": 32, "head_dim": 128, "mlp_dim": 16384,
        "layers": 24,
    },
}  # fmt: skip
DEVICES = 8


def step_memory(
    size: str, *, lists: int, chunk_size: int | None, model_parallel: int
) -> dict[str, int]:
    """Bytes on each device of a step over ``lists`` lists of 36 documents.

    Returns:
      ``state`` (parameters and Adafactor's statistics), ``temporary`` (activations,
      gradients) and ``pairs``.
    """
    import jax
    import jax.numpy as jnp

    from jaxir.mesh import batch_sharding, make_mesh
    from jaxir.nn.partitioning import FULLY_SHARDED, sharding_rule
    from jaxir.nn.t5 import T5Config, logical_axes
    from jaxir.rank.model import RankT5Config
    from jaxir.rank.task import RankLoss, make_task
    from jaxir.train.optimizers import OptimizerConfig, make_optimizer
    from jaxir.train.step import make_train_step, plan_state
    from jaxir.types import RankBatch, TokenBatch

    sizes = dict(SIZES[size])
    layers = sizes.pop("layers", 12)
    backbone = T5Config(
        **sizes, num_encoder_layers=layers, num_decoder_layers=layers,
        dtype="bfloat16", remat=True, scan_layers=True,
    )  # fmt: skip
    config = RankT5Config(backbone, head="encdec")
    mesh = make_mesh(DEVICES, model=model_parallel)
    split = batch_sharding(mesh)

    def leaf(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=split)

    shape = (lists, 36, 128)
    batch = RankBatch(
        None,
        TokenBatch(leaf(shape, jnp.int32), leaf(shape, bool)),
        leaf(shape[:2], jnp.float32),
        leaf(shape[:2], bool),
    )
    task = make_task(config, RankLoss("softmax", chunk_size=chunk_size))
    optimizer = make_optimizer(
        OptimizerConfig(name="adafactor", schedule="constant"), total_steps=1000
    )
    rule = sharding_rule(logical_axes(backbone), FULLY_SHARDED)
    plan = plan_state(task, optimizer, batch, jax.random.key(0), mesh=mesh, rule=rule)
    step = make_train_step(
        task, optimizer, mesh=mesh,
        shardings=jax.tree.map(lambda x: x.sharding, plan.like),
    )  # fmt: skip
    analysis = step.lower(plan.like, batch).compile().memory_analysis()
    return {
        "state": analysis.argument_size_in_bytes,
        "temporary": analysis.temp_size_in_bytes,
        "pairs": lists * 36,
    }


def _in_a_process(size: str, **settings: Any) -> dict[str, int]:
    """:func:`step_memory` with eight devices, whatever this process began with."""
    here = os.path.dirname(os.path.abspath(__file__))
    code = (
        "import json, rank_memory; "
        f"print(json.dumps(rank_memory.step_memory({size!r}, **{settings!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here, text=True, capture_output=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(DEVICES)},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields a case for each size: 32 lists against the bound from 8."""
    for size in ["base"] if quick else list(SIZES):
        parallel = 1 if size == "base" else 8
        chunk = 72  # divides the pairs of both, and by the devices
        settings = {"chunk_size": chunk, "model_parallel": parallel}
        few = _in_a_process(size, lists=8, **settings)
        many = _in_a_process(size, lists=32, **settings)
        yield {
            "name": NAME, "peer": None,
            "case": f"{size}, 32 lists in chunks of {chunk}",
            "peak_bytes": many["state"] + many["temporary"],
            # a fifth for the scores, the batch and what the compiler arranges anew
            "bound_bytes": int(1.2 * (few["state"] + few["temporary"])),
            "state_bytes": many["state"], "temporary_bytes": many["temporary"],
            "devices": DEVICES, "versions": versions(),
        }  # fmt: skip
