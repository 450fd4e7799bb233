"""Records what T5X's own network is and says: ``python make_t5x.py T5X_CHECKOUT``.

``T5X_CHECKOUT`` is a checkout of google-research/t5x (recorded from commit cc342d41);
only ``t5x/examples/t5/{layers,network}.py`` are run, which need nothing but Flax.
Writes beside this file

- ``t5x_tree.json``: by version, the shape and the logical axis names of every
  parameter;
- ``t5x_network.npz``: by version, random parameters (``params/...``), inputs, the
  encoder's states and the logits, of separate texts and of texts packed in rows.
"""

import json
import sys
import types
from pathlib import Path

import flax
import jax
import numpy as np

HERE = Path(__file__).parent
SIZES = {
    "vocab_size": 40, "emb_dim": 16, "num_heads": 2, "head_dim": 4, "mlp_dim": 24,
    "num_encoder_layers": 2, "num_decoder_layers": 2,
}  # fmt: skip
VERSIONS = {
    "1.0": {"mlp_activations": ("relu",), "logits_via_embedding": True},
    "1.1": {"mlp_activations": ("gelu", "linear"), "logits_via_embedding": False},
}


def t5x_network(checkout: Path):
    """``t5x.examples.t5.network`` without importing the rest of t5x."""
    for name in ("t5x", "t5x.examples", "t5x.examples.t5"):
        package = types.ModuleType(name)
        package.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = package
    from t5x.examples.t5 import network

    return network


def inputs() -> dict[str, np.ndarray]:
    """Two padded texts with targets, and the same two packed in one row."""
    rng = np.random.default_rng(0)
    lengths, target_lengths = (30, 18), (7, 4)
    ids = [rng.integers(1, 40, n).astype(np.int32) for n in lengths]
    targets = [rng.integers(1, 40, n).astype(np.int32) for n in target_lengths]
    starts = [np.concatenate([[0], target[:-1]]).astype(np.int32) for target in targets]

    def padded(rows: list[np.ndarray], width: int) -> np.ndarray:
        return np.stack([np.pad(row, (0, width - len(row))) for row in rows])

    def packed(rows: list[np.ndarray], width: int) -> np.ndarray:
        return padded([np.concatenate(rows)], width)

    numbers = [np.full(n, i + 1, np.int32) for i, n in enumerate(lengths)]
    target_numbers = [np.full(n, i + 1, np.int32) for i, n in enumerate(target_lengths)]
    return {
        "ids": padded(ids, 32), "targets": padded(targets, 8),
        "starts": padded(starts, 8),
        "packed_ids": packed(ids, 50), "packed_targets": packed(targets, 12),
        "packed_starts": packed(starts, 12), "segments": packed(numbers, 50),
        "target_segments": packed(target_numbers, 12),
    }  # fmt: skip


def record(network, version: str) -> tuple[dict, dict[str, np.ndarray]]:
    """The tree and the arrays of one version."""
    config = network.T5Config(**SIZES, **VERSIONS[version], dropout_rate=0.0)
    model = network.Transformer(config)
    x = inputs()
    texts = (x["ids"], x["starts"], x["targets"])
    variables = model.init(jax.random.key(0), *texts, enable_dropout=False)
    flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    axes = flax.traverse_util.flatten_dict(variables["params_axes"], sep="/")
    tree = {
        name: {"shape": list(leaf.shape), "axes": list(axes[f"{name}_axes"].names)}
        for name, leaf in sorted(flat.items())
    }
    rng = np.random.default_rng(1)  # norms start at 1: move every parameter
    flat = {
        name: np.asarray(leaf) + rng.normal(size=leaf.shape).astype(np.float32) * 0.2
        for name, leaf in flat.items()
    }
    variables = {"params": flax.traverse_util.unflatten_dict(flat, sep="/")}
    arrays = {f"params/{name}": leaf for name, leaf in flat.items()} | x
    arrays["states"] = model.apply(
        variables, x["ids"], enable_dropout=False, method=model.encode
    )
    arrays["logits"] = model.apply(variables, *texts, enable_dropout=False)
    arrays["packed_logits"] = model.apply(
        variables,
        x["packed_ids"],
        x["packed_starts"],
        x["packed_targets"],
        encoder_segment_ids=x["segments"],
        decoder_segment_ids=x["target_segments"],
        enable_dropout=False,
    )
    return tree, {f"{version}/{name}": np.asarray(a) for name, a in arrays.items()}


if __name__ == "__main__":
    network = t5x_network(Path(sys.argv[1]))
    recorded = {version: record(network, version) for version in VERSIONS}
    lines = []
    for version, (tree, _) in recorded.items():
        rows = ",\n".join(
            f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in tree.items()
        )
        lines.append(f"  {json.dumps(version)}: {{\n{rows}\n  }}")
    (HERE / "t5x_tree.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    arrays = {k: a for _, part in recorded.values() for k, a in part.items()}
    np.savez_compressed(HERE / "t5x_network.npz", **arrays)
