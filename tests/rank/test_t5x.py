"""T5X's network answers as ours does, and the bridge keeps T5X's contract.

The first half compares with recorded answers of T5X's own network
(``goldens/make_t5x.py``); the second runs the bridge over small stand-ins of the few
T5X and SeqIO names it uses; ``test_t5x_real.py`` runs T5X itself where it is installed.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from goldens.make_t5x import CONFIGS, LAST, cases, draw

from jaxir.nn.t5 import T5, T5Config, init_params, logical_axes
from jaxir.types import TokenBatch

GOLDENS = Path(__file__).parent.parent / "goldens"
VERSIONS = sorted(CONFIGS)


def backbone(version, **changes):
    return T5Config(**CONFIGS[version] | {"dropout_rate": 0.0} | changes)


def drawn(config):
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    flat = flatten_dict(shapes, sep="/")
    flat = {name: jnp.asarray(draw(name, leaf.shape)) for name, leaf in flat.items()}
    return unflatten_dict(flat, sep="/")


@pytest.mark.parametrize("version", VERSIONS)
def test_tree_is_t5x(version):
    config = backbone(version)
    recorded = json.loads((GOLDENS / "t5x_tree.json").read_text())[version]
    axes = flatten_dict(logical_axes(config), sep="/")
    ours = {
        name: [list(leaf.shape), list(axes[name])]
        for name, leaf in flatten_dict(drawn(config), sep="/").items()
    }
    assert ours == recorded


@pytest.mark.parametrize("case", sorted(cases()))
@pytest.mark.parametrize("version", VERSIONS)
def test_network_answers_as_t5x(version, case):
    config = backbone(version)
    variables = {"params": drawn(config)}
    inputs = cases()[case]
    golden = np.load(GOLDENS / f"t5x_{version}.npz")
    ids = jnp.asarray(inputs["encoder"])
    tokens = TokenBatch(ids, ids > 0)
    segments = {}
    if "encoder_segments" in inputs:
        segments["segments"] = jnp.asarray(inputs["encoder_segments"], jnp.int32)
        segments["decoder_segments"] = jnp.asarray(
            inputs["decoder_segments"], jnp.int32
        )
    network = T5(config)
    encoded = network.apply(
        variables, tokens, segments=segments.get("segments"), method=T5.encode
    )
    decoder_ids = jnp.asarray(inputs["decoder"])
    logits = network.apply(variables, tokens, decoder_ids, **segments)
    real = inputs["encoder"][:, -12:] > 0
    states = np.asarray(encoded.states)[:, -12:]
    np.testing.assert_allclose(states[real], golden[f"{case}/states"][real], atol=1e-4)
    real = inputs["target"][:, -LAST:] > 0
    found = np.asarray(logits)[:, -LAST:]
    assert real.any()
    np.testing.assert_allclose(found[real], golden[f"{case}/logits"][real], atol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_one_decoder_step_answers_as_t5x(version):
    config = backbone(version)
    variables = {"params": drawn(config)}
    ids = jnp.asarray(cases()["start"]["encoder"])
    network = T5(config)

    def read(network, tokens):
        states = network.decode_start(network.encode(tokens))
        return network.logits_of(states, (9, 3))

    found = network.apply(variables, TokenBatch(ids, ids > 0), method=read)
    golden = np.load(GOLDENS / f"t5x_{version}.npz")["start/logits"][:, 0, [9, 3]]
    np.testing.assert_allclose(found, golden, atol=1e-4)
