"""T5 against T5X's own network (recorded) and PyTorch's T5; shortcuts against plain."""

import dataclasses
import functools
import json
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.errors import InputError
from jaxir.nn.t5 import (
    T5,
    T5Config,
    T5Encoder,
    init_encoder_params,
    init_params,
    logical_axes,
    stack_layers,
    unstack_layers,
    with_layers,
)
from jaxir.types import TokenBatch

GOLDENS = Path(__file__).parent.parent / "goldens"
SIZES = {
    "vocab_size": 40, "emb_dim": 16, "num_heads": 2, "head_dim": 4, "mlp_dim": 24,
    "num_encoder_layers": 2, "num_decoder_layers": 2,
}  # fmt: skip
CONFIGS = {
    "1.0": T5Config(**SIZES),
    "1.1": T5Config(
        **SIZES, mlp_activations=("gelu", "linear"), logits_via_embedding=False
    ),
}
VERSIONS = pytest.mark.parametrize("version", CONFIGS)


def flatten(tree):
    return flax.traverse_util.flatten_dict(tree, sep="/")


def scrambled(params, seed=1):
    """Every parameter moved, norms included."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: x + jnp.float32(rng.normal(size=x.shape) * 0.2), params
    )


def texts(lengths=(12, 7), width=12, seed=0) -> TokenBatch:
    rng = np.random.default_rng(seed)
    mask = np.arange(width)[None] < np.array(lengths)[:, None]
    ids = np.where(mask, rng.integers(1, 40, mask.shape), 0).astype(np.int32)
    return TokenBatch(ids, mask)


@functools.partial(jax.jit, static_argnames=("config", "method", "static"))
def applied(config, method, static, params, args, kwargs):
    given = dict(kwargs) | dict(static)
    return T5(config).apply({"params": params}, *args, method=method, **given)


@functools.cache
def initial(config):
    return jax.jit(lambda: init_params(config, jax.random.key(0)))()


def model(version="1.0", layers=2, **changes):
    """A config, random params and ``run(params, method, *args, **kwargs)``."""
    plain = dataclasses.replace(
        CONFIGS[version], num_encoder_layers=layers, num_decoder_layers=layers
    )
    config = dataclasses.replace(plain, **changes)
    params = scrambled(initial(plain))

    def run(params, method, *args, deterministic=None, ids=None, **kwargs):
        static = {"deterministic": deterministic, "ids": ids}
        static = tuple((k, v) for k, v in static.items() if v is not None)
        return applied(config, method, static, params, args, kwargs)

    return config, params, run


def assert_trees_close(got, expected, tolerance):
    """To ``tolerance`` of the largest entry of each leaf (or of 1)."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True
    ):
        atol = tolerance * max(1.0, np.abs(b).max())
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=name)


def golden(version):
    """Parameters and arrays of ``make_t5x.py``."""
    stored = np.load(GOLDENS / "t5x_network.npz")
    own = {
        k.removeprefix(f"{version}/"): jnp.asarray(stored[k])
        for k in stored
        if version in k
    }
    params = {
        k.removeprefix("params/"): own.pop(k) for k in list(own) if "params/" in k
    }
    return flax.traverse_util.unflatten_dict(params, sep="/"), own


@VERSIONS
def test_golden_parameter_tree(version):
    tree = json.loads((GOLDENS / "t5x_tree.json").read_text())[version]
    config, key = CONFIGS[version], jax.random.key(0)
    flat = flatten(jax.eval_shape(lambda: init_params(config, key)))
    assert {name: list(leaf.shape) for name, leaf in flat.items()} == {
        name: entry["shape"] for name, entry in tree.items()
    }
    assert all(leaf.dtype == jnp.float32 for leaf in flat.values())
    axes = flatten(logical_axes(CONFIGS[version]))
    assert {name: list(names) for name, names in axes.items()} == {
        name: entry["axes"] for name, entry in tree.items()
    }
    encoder = flatten(jax.eval_shape(lambda: init_encoder_params(config, key)))
    assert set(encoder) == {name for name in tree if not name.startswith("decoder")}


@VERSIONS
def test_equals_t5x_network(version):
    _, _, run = model(version)
    params, x = golden(version)
    tokens = TokenBatch(x["ids"], x["ids"] > 0)
    encoded = run(params, T5.encode, tokens)
    real = tokens.mask
    np.testing.assert_allclose(encoded.states[real], x["states"][real], atol=1e-4)
    logits = run(params, T5.__call__, tokens, x["starts"])
    real = x["targets"] > 0
    np.testing.assert_allclose(logits[real], x["logits"][real], atol=1e-4)


@VERSIONS
def test_packed_equals_t5x_network_and_separate_texts(version):
    _, _, run = model(version)
    params, x = golden(version)
    tokens = TokenBatch(x["packed_ids"], x["packed_ids"] > 0)
    logits = run(
        params, T5.__call__, tokens, x["packed_starts"],
        segments=x["segments"], decoder_segments=x["target_segments"],
    )  # fmt: skip
    real = x["packed_targets"] > 0
    np.testing.assert_allclose(logits[real], x["packed_logits"][real], atol=1e-4)
    separate = x["logits"][x["targets"] > 0]  # row by row: the packed order
    np.testing.assert_allclose(logits[real], separate, atol=1e-4)


HF_LAYER = {"query": "q", "key": "k", "value": "v", "out": "o"}


def from_torch(state, config):
    """The parameters of a PyTorch T5, by hand."""
    state = {name: jnp.asarray(tensor.numpy()) for name, tensor in state.items()}
    flat = {"token_embedder/embedding": state["shared.weight"]}
    if "lm_head.weight" in state and not config.logits_via_embedding:
        flat["decoder/logits_dense/kernel"] = state["lm_head.weight"].T
    gated = len(config.mlp_activations) > 1
    mlp = ("wi_0", "wi_1", "wo") if gated else ("wi", "wo")
    blocks = {
        "encoder": [
            ("SelfAttention", "attention", "pre_attention"),
            ("DenseReluDense", "mlp", "pre_mlp"),
        ],
        "decoder": [
            ("SelfAttention", "self_attention", "pre_self_attention"),
            ("EncDecAttention", "encoder_decoder_attention", "pre_cross_attention"),
            ("DenseReluDense", "mlp", "pre_mlp"),
        ],
    }
    for stack, parts in blocks.items():
        if f"{stack}.final_layer_norm.weight" not in state:
            continue
        flat[f"{stack}/{stack}_norm/scale"] = state[f"{stack}.final_layer_norm.weight"]
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        flat[f"{stack}/relpos_bias/rel_embedding"] = state[bias].T
        for i in range(2):
            for j, (theirs, ours, norm) in enumerate(parts):
                source, target = f"{stack}.block.{i}.layer.{j}", f"{stack}/layers_{i}"
                scale = state[f"{source}.layer_norm.weight"]
                flat[f"{target}/{norm}_layer_norm/scale"] = scale
                names = dict.fromkeys(mlp) if ours == "mlp" else HF_LAYER
                for name in names:
                    kernel = state[f"{source}.{theirs}.{names[name] or name}.weight"]
                    flat[f"{target}/{ours}/{name}/kernel"] = kernel.T
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def torch_model(class_name, version):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2,
        feed_forward_proj="relu" if version == "1.0" else "gated-gelu",
        tie_word_embeddings=version == "1.0", decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    peer = getattr(transformers, class_name)(config).eval()
    if version == "1.1" and hasattr(peer, "lm_head"):  # transformers 5 ties it anyway
        peer.lm_head.weight = torch.nn.Parameter(peer.lm_head.weight.detach().clone())
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return torch, peer


@VERSIONS
def test_equals_pytorch(version):
    """Beyond the farthest bucket, a row without padding and one with it."""
    torch, peer = torch_model("T5ForConditionalGeneration", version)
    config, _, run = model(version)
    params = from_torch(peer.state_dict(), config)
    tokens = texts((150, 40), 150)
    starts = jnp.array([[0, 5, 9, 0, 3], [0, 7, 7, 1, 2]], jnp.int32)
    with torch.no_grad():
        expected = peer(
            input_ids=torch.tensor(tokens.ids),
            attention_mask=torch.tensor(tokens.mask.astype(np.int64)),
            decoder_input_ids=torch.tensor(np.array(starts)),
        )
    encoded = run(params, T5.encode, tokens)
    states = expected.encoder_last_hidden_state.numpy()
    np.testing.assert_allclose(
        encoded.states[tokens.mask], states[tokens.mask], atol=1e-4
    )
    logits = run(params, T5.logits, run(params, T5.decode, starts, encoded))
    np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-4)
    first = run(params, T5.decode_start, encoded)
    token = run(params, T5.logits_of, first, ids=(7, 39))
    np.testing.assert_allclose(token, expected.logits.numpy()[:, 0, [7, 39]], atol=1e-4)


@VERSIONS
def test_encoder_alone_equals_pytorch(version):
    torch, peer = torch_model("T5EncoderModel", version)
    params = from_torch(peer.state_dict(), CONFIGS[version])
    tokens = texts()
    with torch.no_grad():
        expected = peer(
            input_ids=torch.tensor(tokens.ids),
            attention_mask=torch.tensor(tokens.mask.astype(np.int64)),
        ).last_hidden_state.numpy()
    encoded = jax.jit(T5Encoder(CONFIGS[version]).apply)({"params": params}, tokens)
    real = tokens.mask
    np.testing.assert_allclose(encoded.states[real], expected[real], atol=1e-4)


@VERSIONS
def test_gradient_equals_pytorch(version):
    """Of every parameter, the tables of relative positions included."""
    torch, peer = torch_model("T5ForConditionalGeneration", version)
    config, _, run = model(version)
    params = from_torch(peer.state_dict(), config)
    tokens = texts((40, 17), 40)
    starts = jnp.array([[0, 5, 9, 0, 3], [0, 7, 7, 1, 2]], jnp.int32)
    weight = np.random.default_rng(3).normal(size=(2, 5, 40)).astype(np.float32)

    def loss(params):
        return jnp.sum(run(params, T5.__call__, tokens, starts) * weight)

    got = flatten(jax.jit(jax.grad(loss))(params))
    logits = peer(
        input_ids=torch.tensor(tokens.ids),
        attention_mask=torch.tensor(tokens.mask.astype(np.int64)),
        decoder_input_ids=torch.tensor(np.array(starts)),
    ).logits
    (logits * torch.tensor(weight)).sum().backward()
    slopes = {name: p.grad for name, p in peer.named_parameters()}
    expected = flatten(from_torch(slopes, config))
    assert_trees_close(got, expected, 2e-5)


SCAN, BOTH = {"scan_layers": True}, {"remat": True, "scan_layers": True}


def in_form(params, config):
    return stack_layers(params) if config.scan_layers else params


@pytest.mark.parametrize(
    ("version", "form"), [("1.0", {}), ("1.1", SCAN), ("1.0", BOTH)]
)
def test_decode_start_equals_the_plain_decoder(version, form):
    """Value and gradient of the reranker's score, from the tokens on."""
    config, params, run = model(version, **form)
    params = in_form(params, config)
    tokens = texts((12, 7, 0), 12)
    start = jnp.zeros((3, 1), jnp.int32)

    def short(params):
        encoded = run(params, T5.encode, tokens)
        states = run(params, T5.decode_start, encoded)
        return run(params, T5.logits_of, states, ids=(9, 3))

    def plain(params):
        return run(params, T5.__call__, tokens, start)[:, 0, np.array([9, 3])]

    def weighed(params, scores_of):
        scores = scores_of(params)
        weight = jnp.array([[1.0, -2.0], [0.5, 3.0], [1.0, 1.0]])
        return jnp.sum(scores * weight), scores

    graded = jax.jit(jax.grad(weighed, has_aux=True), static_argnums=1)
    (slope, scores), expected = graded(params, short), graded(params, plain)
    np.testing.assert_allclose(scores, expected[1], atol=1e-5)
    assert_trees_close(slope, expected[0], 1e-5)


@VERSIONS
def test_logits_of_are_columns_of_logits(version):
    _, params, run = model(version)
    states = jax.random.normal(jax.random.key(2), (4, 16), jnp.bfloat16)
    whole = run(params, T5.logits, states)
    some = run(params, T5.logits_of, states, ids=(39, 0, 7))
    assert (whole.shape, whole.dtype, some.dtype) == ((4, 40), jnp.float32, jnp.float32)
    np.testing.assert_allclose(some, whole[:, np.array([39, 0, 7])], atol=1e-5)


@pytest.mark.parametrize("token", [-1, 40])
def test_logits_of_an_unknown_token(token):
    _, params, run = model()
    with pytest.raises(InputError, match=f"ids: {token}.*0 to 39"):
        run(params, T5.logits_of, jnp.ones((1, 16)), ids=(token,))


@pytest.mark.parametrize(
    ("version", "form"), [("1.0", {"remat": True}), ("1.1", SCAN), ("1.0", BOTH)]
)
def test_remat_and_scan_equal_the_plain_model(version, form):
    _, params, plain = model(version)
    config, _, other = model(version, **form)
    tokens, starts = texts(), jnp.array([[0, 5, 9], [0, 7, 7]], jnp.int32)

    def loss(params, run):
        return jnp.sum(jnp.square(run(params, T5.__call__, tokens, starts)))

    expected = jax.jit(jax.value_and_grad(functools.partial(loss, run=plain)))(params)
    value, slope = jax.jit(jax.value_and_grad(functools.partial(loss, run=other)))(
        in_form(params, config)
    )
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    slope = unstack_layers(slope) if config.scan_layers else slope
    assert_trees_close(slope, expected[1], 1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_stacked_layers_and_back(axis):
    _, params, _ = model()
    stacked = stack_layers(params, axis=axis)
    # T5X's examples/scalable_t5 stacks along axis 1 by default
    kernel = stacked["encoder"]["encoder"]["mlp"]["wi"]["kernel"]
    assert kernel.shape == ((2, 16, 24), (16, 2, 24))[axis]
    assert stacked["encoder"]["encoder"]["pre_mlp_layer_norm"]["scale"].ndim == 2
    assert_trees_close(unstack_layers(stacked, axis=axis), params, 0.0)


def test_layers_in_the_form_asked_for():
    _, params, _ = model()
    params = params | {"score_head": jnp.ones(3)}
    stacked = with_layers(params, scanned=True)
    assert_trees_close(stacked, stack_layers(params), 0.0)
    assert with_layers(stacked, scanned=True) is stacked
    assert with_layers(params, scanned=False) is params
    assert_trees_close(with_layers(stacked, scanned=False), params, 0.0)
    on_host = with_layers(jax.tree.map(np.asarray, params), scanned=True)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(on_host))


def test_a_scanned_model_begins_and_names_its_axes_stacked():
    config = dataclasses.replace(CONFIGS["1.1"], scan_layers=True)
    params, plain = initial(config), initial(CONFIGS["1.1"])
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(
        jnp.shape, stack_layers(plain)
    )
    query = params["encoder"]["encoder"]["attention"]["query"]["kernel"]
    assert np.abs(query[0] - query[1]).max() > 0.01  # layers differ
    axes = logical_axes(config)
    assert axes["decoder"]["decoder"]["mlp"]["wo"]["kernel"] == (
        "layers", "mlp", "embed",
    )  # fmt: skip
    assert axes["decoder"]["relpos_bias"]["rel_embedding"] == (
        "heads", "relpos_buckets",
    )  # fmt: skip
    assert axes["decoder"]["logits_dense"]["kernel"] == ("embed", "vocab")


def test_padding_does_not_matter_and_nothing_but_padding_is_finite():
    _, params, run = model(layers=1)
    short, wide = texts((7, 0), 8), texts((7, 0), 8)
    wide = TokenBatch(
        np.pad(wide.ids, ((0, 0), (0, 5))), np.pad(wide.mask, ((0, 0), (0, 5)))
    )
    wild = wide._replace(ids=np.where(wide.mask, wide.ids, 33).astype(np.int32))
    starts = jnp.zeros((2, 2), jnp.int32)
    expected = run(params, T5.__call__, short, starts)
    assert np.isfinite(expected).all()
    for tokens in (wide, wild):
        got = run(params, T5.__call__, tokens, starts)
        np.testing.assert_allclose(got, expected, atol=1e-5)

    def loss(params):
        encoded = run(params, T5.encode, wild)
        states = run(params, T5.decode_start, encoded)
        logits = run(params, T5.logits, run(params, T5.decode, starts, encoded))
        return jnp.sum(jnp.square(logits)) + jnp.sum(jnp.square(states))

    slopes = jax.jit(jax.grad(loss))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


def test_the_decoder_is_causal():
    _, params, run = model(layers=1)
    ids = jnp.array([[0, 5, 9, 3], [0, 5, 9, 4]], jnp.int32)
    tokens = TokenBatch(*(np.repeat(x[:1], 2, axis=0) for x in texts()[:2]))
    logits = run(params, T5.__call__, tokens, ids)
    np.testing.assert_allclose(logits[0, :3], logits[1, :3], atol=1e-6)
    assert np.abs(logits[0, 3] - logits[1, 3]).max() > 0.01


def test_segments_of_one_side_only():
    _, params, run = model(layers=1)
    tokens = texts()
    encoded = run(params, T5.encode, tokens)
    with pytest.raises(InputError, match="segments: one side's only"):
        run(
            params, T5.decode, jnp.zeros((2, 3), jnp.int32), encoded,
            segments=jnp.ones((2, 3), jnp.int32),
        )  # fmt: skip


def test_gradient_with_segments_is_that_of_the_separate_texts():
    _, _, run = model("1.1")
    params, x = golden("1.1")
    packed = TokenBatch(x["packed_ids"], x["packed_ids"] > 0)
    separate = TokenBatch(x["ids"], x["ids"] > 0)

    def loss(logits, targets):
        log_probs = jax.nn.log_softmax(logits)
        picked = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(targets > 0, picked, 0.0))

    def packed_loss(params):
        logits = run(
            params, T5.__call__, packed, x["packed_starts"],
            segments=x["segments"], decoder_segments=x["target_segments"],
        )  # fmt: skip
        return loss(logits, x["packed_targets"])

    def separate_loss(params):
        logits = run(params, T5.__call__, separate, x["starts"])
        return loss(logits, x["targets"])

    got, expected = (jax.jit(jax.grad(f))(params) for f in (packed_loss, separate_loss))
    assert_trees_close(got, expected, 1e-5)


def test_bfloat16_is_near_and_its_logits_are_float32():
    config, _, exact = model(layers=1)
    params = initial(config)
    _, _, half = model(layers=1, dtype="bfloat16")
    tokens, starts = texts(), jnp.array([[0, 5, 9], [0, 7, 7]], jnp.int32)
    encoded = half(params, T5.encode, tokens)
    assert encoded.states.dtype == jnp.bfloat16
    logits = half(params, T5.__call__, tokens, starts)
    assert logits.dtype == jnp.float32
    expected = exact(params, T5.__call__, tokens, starts)
    assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()
    first = half(params, T5.decode_start, encoded)
    assert first.dtype == jnp.bfloat16
    plain = half(params, T5.decode, jnp.zeros((2, 1), jnp.int32), encoded)[:, 0]
    np.testing.assert_allclose(*(np.float32(a) for a in (first, plain)), atol=0.1)


def test_dropout_is_drawn_follows_its_key_and_can_be_off():
    _, params, run = model(layers=1, dropout_rate=0.3)
    tokens, starts = texts(), jnp.array([[0, 5, 9], [0, 7, 7]], jnp.int32)

    def logits(key, method=T5.__call__, args=(tokens, starts)):
        rngs = {"dropout": jax.random.key(key)}
        return run(params, method, *args, deterministic=False, rngs=rngs)

    np.testing.assert_array_equal(logits(0), logits(0))
    assert np.abs(logits(0) - logits(1)).max() > 0.1
    encoded = run(params, T5.encode, tokens)
    start = [logits(key, T5.decode_start, (encoded,)) for key in (0, 0, 1)]
    np.testing.assert_array_equal(start[0], start[1])
    assert np.abs(start[0] - start[2]).max() > 0.1
    assert start[0].shape == (2, 16)
    _, _, still = model(layers=1, dropout_rate=0.0)
    same = still(
        params, T5.__call__, tokens, starts, deterministic=False,
        rngs={"dropout": jax.random.key(0)},
    )  # fmt: skip
    np.testing.assert_allclose(
        same, run(params, T5.__call__, tokens, starts), atol=1e-6
    )


def test_dropout_of_the_start_token_has_the_plain_decoders_spread():
    """Not the same draws, the same law: mean and deviation over many keys."""
    _, params, run = model(layers=1, dropout_rate=0.2)
    encoded = run(params, T5.encode, texts())
    keys = jax.random.split(jax.random.key(0), 2000)

    def short(key):
        rngs = {"dropout": key}
        return run(params, T5.decode_start, encoded, deterministic=False, rngs=rngs)

    def plain(key):
        ids, rngs = jnp.zeros((2, 1), jnp.int32), {"dropout": key}
        return run(params, T5.decode, ids, encoded, deterministic=False, rngs=rngs)[
            :, 0
        ]

    draws = [np.asarray(jax.jit(jax.vmap(f))(keys)) for f in (short, plain)]
    spread = draws[1].std(0).max()
    np.testing.assert_allclose(draws[0].mean(0), draws[1].mean(0), atol=0.15 * spread)
    np.testing.assert_allclose(draws[0].std(0), draws[1].std(0), atol=0.15 * spread)


def test_initial_values_are_t5xs():
    config = T5Config(500, 64, 4, 16, 256, 1, 1, logits_via_embedding=False)
    flat = flatten(initial(config))
    for name, deviation in {
        "token_embedder/embedding": 1.0,
        "encoder/layers_0/attention/query/kernel": 64**-0.5 / 4,  # and 1 / sqrt C
        "encoder/layers_0/attention/key/kernel": 64**-0.5,
        "decoder/layers_0/self_attention/out/kernel": 64**-0.5,
        "encoder/layers_0/mlp/wi/kernel": 64**-0.5,
        "encoder/layers_0/mlp/wo/kernel": 256**-0.5,
        "decoder/logits_dense/kernel": 64**-0.5,
        "decoder/relpos_bias/rel_embedding": ((4 + 32) / 2) ** -0.5,
    }.items():
        np.testing.assert_allclose(np.std(flat[name]), deviation, rtol=0.15)
    table = flat["encoder/relpos_bias/rel_embedding"]
    assert np.abs(table).max() <= (3 / ((4 + 32) / 2)) ** 0.5  # uniform
    assert (flat["encoder/encoder_norm/scale"] == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 0}, "T5Config.num_heads: 0.*at least 1"),
        ({"num_encoder_layers": 0}, "num_encoder_layers: 0"),
        ({"mlp_activations": ("geglu",)}, "mlp_activations: 'geglu'.*one of gelu"),
        ({"mlp_activations": ()}, "mlp_activations: none"),
        ({"dtype": "float16"}, "T5Config.dtype: 'float16'.*float32, bfloat16"),
        ({"dropout_rate": 1.0}, "T5Config.dropout_rate: 1.0.*a rate from 0"),
        ({"pad_id": 32128}, "T5Config.pad_id: 32128.*0 to 32127"),
        ({"relpos_buckets": 2}, "T5Config.relpos_buckets: 2.*at least 4"),
        ({"relpos_max_distance": 16}, "relpos_max_distance: 16.*above 16"),
    ],
)
def test_bad_configurations_say_so(changes, message):
    with pytest.raises(InputError, match=message):
        T5Config(**changes)


def test_activations_in_a_list_which_has_no_hash():
    config = T5Config()
    object.__setattr__(config, "mlp_activations", ["relu"])  # past the executed types
    with pytest.raises(InputError, match=r"mlp_activations: \['relu'\].*a tuple"):
        config.__post_init__()


def test_no_table_bounds_the_length():
    assert T5Config().max_length > 100_000
