"""What ``goldens/make_hypencoder.py`` recorded, and weights by checkpoint names."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxir.hyper.qnet import QNetSpec

CASES = ("released", "paper", "uneven")

_SPECS = {
    "released": (QNetSpec(12, (12, 12)), "released"),
    "paper": (
        QNetSpec(12, (12, 12), activation="gelu", residual_on_last=True),
        "paper",
    ),
    "uneven": (
        QNetSpec(
            8, (8, 12, 12, 10), activation="leaky_relu", norm_before_residual=False
        ),
        "released",
    ),
}


def load(case):
    """``(spec, scale, arrays)``; what is recorded under a name is a dict of arrays."""
    path = Path(__file__).parent / "goldens" / "hypencoder.npz"
    arrays = {"weights": {}, "gradients": {}}
    with np.load(path) as stored:
        for name in stored.files:
            owner, _, rest = name.partition("/")
            if owner != case:
                continue
            group, _, inner = rest.partition("/")
            if inner:
                arrays[group][inner] = stored[name]
            else:
                arrays[rest] = stored[name]
    return *_SPECS[case], arrays


def params_of_state(state, depth):
    """The head's parameters from arrays by their names in a released checkpoint."""

    def linear(name):
        kernel = jnp.asarray(state[f"{name}.weight"].T)
        return {"kernel": kernel, "bias": jnp.asarray(state[f"{name}.bias"])}

    def part(j, base, query, projection):
        rows = state[base].reshape(-1, state[base].shape[-1])
        return {
            "base": jnp.asarray(rows),
            "query": jnp.asarray(state[query].reshape(rows.shape)),
            "key": linear(f"key_projections.{j}"),
            "value": linear(f"value_projections.{j}"),
            "projection": linear(projection),
        }

    params = {}
    for i in range(depth + 1):
        params[f"kernel_{i}" if i < depth else "output"] = part(
            i,
            f"hyper_base_matrices.{i}",
            f"weight_query_embeddings.{i}",
            f"weight_hyper_projection.{i}",
        )
    for i in range(depth):
        params[f"bias_{i}"] = part(
            depth + 1 + i,
            f"hyper_base_vectors.{i}",
            f"bias_query_embeddings.{i}",
            f"bias_hyper_projection.{i}",
        )
    return params
