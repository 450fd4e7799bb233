"""The rate of one large matrix product: what a model's rate is measured against.

A square product in float32, and in bfloat16 on an accelerator, over one device.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from timing import alone, versions

NAME = "matmul"


@functools.lru_cache(maxsize=4)
def matmul_rate(dtype: str) -> float:
    """Operations a second of a large product of all local devices together."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    devices = jax.local_devices()
    keys = jax.random.split(jax.random.key(0), len(devices))
    parts = [
        jax.device_put(jax.random.normal(key, (size, size), dtype), device)
        for key, device in zip(keys, devices, strict=True)
    ]
    product = jax.jit(jnp.matmul)

    def work() -> None:
        jax.block_until_ready([product(part, part) for part in parts])

    return 2.0 * size**3 * len(devices) / alone(work)["ours_s"]


def fraction_of_peak(flops: float, seconds: float, dtype: str) -> dict:
    """``achieved`` operations a second and their share of :func:`matmul_rate`."""
    rate = flops / seconds
    return {"achieved": rate, "fraction_of_peak": rate / matmul_rate(dtype)}


def run(*, quick: bool = False) -> Iterator[dict]:
    """Yields the rate in float32, and in bfloat16 on an accelerator."""
    del quick
    kinds = ["float32"] + ["bfloat16"] * (jax.default_backend() != "cpu")
    for dtype in kinds:
        size = 2048 if jax.default_backend() == "cpu" else 8192
        rate = matmul_rate(dtype)
        seconds = 2.0 * size**3 * jax.local_device_count() / rate
        case = {"name": NAME, "case": f"{dtype} {size}", "peer": None}
        yield {
            **case, "ours_s": seconds, "peer_s": None, "ratio": None, "achieved": rate,
            "versions": versions(),
        }  # fmt: skip
