"""Records what T5X's own network says: ``python tests/goldens/make_t5x.py``.

Needs t5x (docs/t5x.md); recorded with google-research/t5x at cc342d4, JAX 0.10.2 and
flax 0.12.8.  Writes beside this file, for T5 1.0 and 1.1 of a tiny size in float32,
``t5x_1_0.npz`` and ``t5x_1_1.npz`` (the last encoder states and logits of each case in
:func:`cases`) and ``t5x_tree.json`` (each parameter's shape and logical axes).

Parameters and inputs are not stored: :func:`draw` makes the first from their names.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

SIZES = {
    "vocab_size": 40, "emb_dim": 16, "num_heads": 2, "head_dim": 4, "mlp_dim": 24,
    "num_encoder_layers": 2, "num_decoder_layers": 2,
}  # fmt: skip
CONFIGS = {
    "1_0": {**SIZES, "mlp_activations": ("relu",), "logits_via_embedding": True},
    "1_1": {
        **SIZES,
        "mlp_activations": ("gelu", "linear"),
        "logits_via_embedding": False,
    },
}
LAST = 4  # decoder positions kept of each case


def draw(name: str, shape: Sequence[int]) -> np.ndarray:
    """The parameter of this name: normal numbers seeded by the CRC-32 of the name.

    Norms' scales lie around 1, the rest around 0 with a deviation of 0.3.
    """
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    centre = 1.0 if name.endswith("/scale") else 0.0
    return (centre + 0.3 * values).astype(np.float32)


def cases() -> dict[str, dict[str, np.ndarray]]:
    """Inputs: full and padded rows, packed rows, long rows, and one start token."""
    rng = np.random.RandomState(0)

    def tokens(lengths: Sequence[int], width: int) -> np.ndarray:
        real = np.arange(width)[None] < np.array(lengths)[:, None]
        return np.where(real, rng.randint(1, 40, real.shape), 0).astype(np.int32)

    def case(encoder: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        shifted = np.pad(target, ((0, 0), (1, 0)))[:, :-1]
        return {"encoder": encoder, "decoder": shifted, "target": target}

    one = np.ones((2, 1), np.int32)
    packed = case(tokens([14, 11], 14), tokens([9, 6], 9))
    packed["encoder_segments"] = np.array(
        [[1] * 6 + [2] * 8, [1] * 5 + [2] * 6 + [0] * 3]
    )
    packed["decoder_segments"] = np.array(
        [[1] * 4 + [2] * 5, [1] * 2 + [2] * 4 + [0] * 3]
    )
    packed["decoder"][0, 4] = packed["decoder"][1, 2] = 0  # each text has its own start
    return {
        "full": case(tokens([12, 12], 12), tokens([7, 7], 7)),
        "padded": case(tokens([12, 5, 1], 12), tokens([7, 3, 6], 7)),
        "packed": packed,
        "long": case(tokens([200], 200), tokens([150], 150)),
        "start": case(tokens([12, 4], 12), one * 9),
    }  # fmt: skip


def make(config: Mapping) -> tuple[dict[str, np.ndarray], dict[str, list]]:
    """Outputs of the cases, and the parameters' shapes and axes."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict, unflatten_dict
    from t5x.examples.t5 import network

    module = network.Transformer(network.T5Config(dtype=jnp.float32, **config))
    shape = jnp.ones((1, 2), jnp.int32)
    variables = module.init(jax.random.key(0), shape, shape, shape)
    shapes = {k: v.shape for k, v in flatten_dict(variables["params"], sep="/").items()}
    axes = flatten_dict(variables["params_axes"], sep="/")
    params = unflatten_dict({k: draw(k, v) for k, v in shapes.items()}, sep="/")
    arrays = {}
    for name, inputs in cases().items():
        segments = {
            f"{side}_segment_ids": jnp.asarray(inputs[f"{side}_segments"])
            for side in ("encoder", "decoder")
            if f"{side}_segments" in inputs
        }
        encoder = jnp.asarray(inputs["encoder"])
        states = module.apply(
            {"params": params}, encoder, enable_dropout=False,
            encoder_segment_ids=segments.get("encoder_segment_ids"),
            method=module.encode,
        )  # fmt: skip
        logits = module.apply(
            {"params": params}, encoder, jnp.asarray(inputs["decoder"]),
            jnp.asarray(inputs["target"]), enable_dropout=False, **segments,
        )  # fmt: skip
        arrays[f"{name}/states"] = np.asarray(states)[:, -12:]
        arrays[f"{name}/logits"] = np.asarray(logits)[:, -LAST:]
    tree = {k: [list(v), list(axes[f"{k}_axes"].names)] for k, v in shapes.items()}
    return arrays, tree


if __name__ == "__main__":
    here, trees = Path(__file__).parent, {}
    for version, config in CONFIGS.items():
        arrays, trees[version] = make(config)
        np.savez_compressed(here / f"t5x_{version}.npz", **arrays)
    lines = [
        f'  "{version}": {{\n'
        + ",\n".join(f'    "{k}": {json.dumps(v)}' for k, v in sorted(tree.items()))
        + "\n  }"
        for version, tree in trees.items()
    ]
    (here / "t5x_tree.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
