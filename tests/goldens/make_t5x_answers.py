"""Records what T5X's own network answers: ``python tests/goldens/make_t5x_answers.py``.

Needs t5x (docs/t5x.md); recorded with google-research/t5x at cc342d4, JAX 0.10.2 and
flax 0.12.8.  Writes ``t5x_answers.npz`` beside this file: for tiny T5 1.0 and 1.1 in
float32, the last encoder states and logits of each case in :func:`cases`, among them
texts beyond the 128 positions that relative buckets tell apart, and RankT5's one
decoder step.

Neither parameters nor inputs are stored: :func:`draw` makes the first from their names.
"""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

SIZES = {
    "vocab_size": 40, "emb_dim": 16, "num_heads": 2, "head_dim": 4, "mlp_dim": 24,
    "num_encoder_layers": 2, "num_decoder_layers": 2,
}  # fmt: skip
CONFIGS = {
    "1.0": {**SIZES, "mlp_activations": ("relu",), "logits_via_embedding": True},
    "1.1": {
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
    """Inputs: a full and padded rows, a long row, and one start token."""
    rng = np.random.RandomState(0)

    def tokens(lengths: Sequence[int], width: int) -> np.ndarray:
        real = np.arange(width)[None] < np.array(lengths)[:, None]
        return np.where(real, rng.randint(1, 40, real.shape), 0).astype(np.int32)

    def case(encoder: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        shifted = np.pad(target, ((0, 0), (1, 0)))[:, :-1]
        return {"encoder": encoder, "decoder": shifted, "target": target}

    one = np.ones((2, 1), np.int32)
    return {
        "padded": case(tokens([12, 5, 1], 12), tokens([7, 3, 6], 7)),
        "long": case(tokens([200], 200), tokens([150], 150)),
        "start": case(tokens([12, 4], 12), one * 9),
    }  # fmt: skip


def make(config: Mapping) -> dict[str, np.ndarray]:
    """Outputs of the cases."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict, unflatten_dict
    from t5x.examples.t5 import network

    module = network.Transformer(network.T5Config(dtype=jnp.float32, **config))
    shape = jnp.ones((1, 2), jnp.int32)
    variables = module.init(jax.random.key(0), shape, shape, shape)
    flat = flatten_dict(variables["params"], sep="/")
    params = unflatten_dict({k: draw(k, v.shape) for k, v in flat.items()}, sep="/")
    arrays = {}
    for name, inputs in cases().items():
        encoder, decoder, target = (
            jnp.asarray(inputs[key]) for key in ("encoder", "decoder", "target")
        )
        states = module.apply(
            {"params": params}, encoder, enable_dropout=False, method=module.encode
        )
        logits = module.apply(
            {"params": params}, encoder, decoder, target, enable_dropout=False
        )
        arrays[f"{name}/states"] = np.asarray(states)[:, -12:]
        arrays[f"{name}/logits"] = np.asarray(logits)[:, -LAST:]
    return arrays


if __name__ == "__main__":
    arrays = {
        f"{version}/{name}": array
        for version, config in CONFIGS.items()
        for name, array in make(config).items()
    }
    np.savez_compressed(Path(__file__).parent / "t5x_answers.npz", **arrays)
