"""T5X's network answers as ours does, and the bridge keeps T5X's contract.

The first half compares with recorded answers of T5X's own network
(``goldens/make_t5x_answers.py``); the second runs the bridge over small stand-ins of
the few names it uses; ``test_t5x_real.py`` runs T5X itself where it is installed.
"""

import dataclasses
import functools
import json
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from goldens.make_t5x_answers import CONFIGS, LAST, cases, draw

from jaxir.errors import InputError
from jaxir.nn.t5 import T5, T5Config, init_params
from jaxir.rank import t5x
from jaxir.rank.losses import RankLoss, rank_loss
from jaxir.rank.model import init_params as rank_params
from jaxir.rank.model import score
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


def answers(version):
    stored = np.load(GOLDENS / "t5x_answers.npz")
    own = [name for name in stored if name.startswith(version)]
    return {name.removeprefix(f"{version}/"): stored[name] for name in own}


@pytest.mark.parametrize("version", VERSIONS)
def test_network_answers_as_t5x(version):
    config = backbone(version)
    network = T5(config)

    @jax.jit
    def answer(params):
        found = {}
        for name, inputs in cases().items():
            ids = jnp.asarray(inputs["encoder"])
            tokens = TokenBatch(ids, ids > 0)
            encoded = network.apply({"params": params}, tokens, method=T5.encode)
            decoder_ids = jnp.asarray(inputs["decoder"])
            logits = network.apply({"params": params}, tokens, decoder_ids)
            found[name] = encoded.states[:, -12:], logits[:, -LAST:]

        def step(network, encoded):
            return network.logits_of(network.decode_start(encoded), (9, 3))

        return found, network.apply({"params": params}, encoded, method=step)

    golden = answers(version)
    found, last = answer(drawn(config))
    for name, (states, logits) in found.items():
        real = cases()[name]["encoder"][:, -12:] > 0
        expected = golden[f"{name}/states"][real]
        np.testing.assert_allclose(np.asarray(states)[real], expected, atol=1e-4)
        real = cases()[name]["target"][:, -LAST:] > 0
        expected = golden[f"{name}/logits"][real]
        np.testing.assert_allclose(np.asarray(logits)[real], expected, atol=1e-4)
    assert name == "start"  # whose one decoder step has a shortcut
    expected = golden["start/logits"][:, 0, [9, 3]]
    np.testing.assert_allclose(last, expected, atol=1e-4)


# -- the bridge over stand-ins -----------------------------------------------------


class BaseTransformerModel:
    """What T5X's class of this name keeps and derives."""

    def __init__(
        self, module, input_vocabulary, output_vocabulary, optimizer_def,
        decode_fn=None, label_smoothing=0.0, z_loss=0.0, loss_normalizing_factor=None,
    ):  # fmt: skip
        self.module, self.optimizer_def = module, optimizer_def
        self._input_vocabulary = input_vocabulary
        self._output_vocabulary = output_vocabulary
        self._loss_normalizing_factor = loss_normalizing_factor

    def eval_fn(self, params, batch):
        return self.loss_fn(params=params, batch=batch, dropout_rng=None)

    def predict_batch(self, params, batch, rng=None):
        return self.predict_batch_with_aux(params=params, batch=batch, rng=rng)[0]


class FeatureConverter:
    """What SeqIO's class of this name keeps."""

    FeatureSpec = namedtuple("FeatureSpec", "dtype rank sequence_dim", defaults=(1, 0))

    def __init__(self, pack, use_custom_packing_ops, apply_length_check, bos_id):
        self.pack = pack


def metric(name, *fields):
    """A flax dataclass as clu and T5X make their metrics."""
    annotations = dict.fromkeys(fields, object)
    body = dict.fromkeys(fields) | {"__annotations__": annotations}
    made = flax.struct.dataclass(type(name, (), body))
    made.from_model_output = classmethod(lambda cls, **values: cls(**values))
    return made


@pytest.fixture
def bridge(monkeypatch):
    """``jaxir.rank.t5x`` over stand-ins of T5X, SeqIO, clu and TensorFlow."""
    made = {
        "clu": SimpleNamespace(),
        "clu.metrics": SimpleNamespace(Average=metric("Average", "total", "count")),
        "seqio": SimpleNamespace(FeatureConverter=FeatureConverter, utils=None),
        "tensorflow": SimpleNamespace(int32="int32", float32="float32", bool="bool"),
        "t5x": SimpleNamespace(),
        "t5x.metrics": SimpleNamespace(
            AveragePerStep=metric("AveragePerStep", "total"),
            StepsPerTime=metric("StepsPerTime", "steps"),
            Time=metric("Time", "duration"),
        ),
        "t5x.models": SimpleNamespace(BaseTransformerModel=BaseTransformerModel),
    }
    for name, module in made.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
        monkeypatch.setitem(sys.modules, name, module)
    classes = (t5x.model_class, t5x.feature_converter_class)
    for cached in classes:
        cached.cache_clear()
    yield t5x
    for cached in classes:
        cached.cache_clear()


class Vocabulary:
    unk_id = 2

    def encode(self, text):
        return {"<extra_id_10>": [9], "true": [3], "two words": [5, 6]}.get(text, [2])


def make_model(bridge, version="1.0", **options):
    sizes = CONFIGS[version] | {"num_encoder_layers": 1, "num_decoder_layers": 1}
    network = SimpleNamespace(dtype="float32", dropout_rate=0.0, **sizes)
    module = SimpleNamespace(config=network)
    return bridge.RankT5Model(
        module, Vocabulary(), Vocabulary(), "adafactor", **options
    )


@pytest.fixture
def batch():
    """Three lists of up to four documents: full, cut short, without a positive."""
    rng = np.random.RandomState(0)
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]], bool)
    ids = rng.randint(3, 40, (3, 4, 6)).astype(np.int32) * mask[..., None]
    ids[0, 1, 3:] = 0
    label = np.array([[0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    return {
        "encoder_input_tokens": jnp.asarray(ids),
        "decoder_input_tokens": jnp.zeros((3, 4, 1), jnp.int32),
        "decoder_target_tokens": jnp.asarray(9 * mask[..., None].astype(np.int32)),
        "label": jnp.asarray(label),
        "mask": jnp.asarray(mask),
    }


@functools.cache
def parameters(config):
    return jax.jit(functools.partial(rank_params, config))(jax.random.key(0))


def initial(model):
    """Parameters of the model's shape; dropout draws none."""
    backbone = dataclasses.replace(model.config.backbone, dropout_rate=0.0)
    return parameters(dataclasses.replace(model.config, backbone=backbone))


@pytest.mark.parametrize("version", VERSIONS)
def test_initial_variables_are_t5x(bridge, version):
    module = SimpleNamespace(
        config=SimpleNamespace(dtype="bfloat16", dropout_rate=0.1, **CONFIGS[version])
    )
    model = bridge.RankT5Model(module, None, None, None, target_token=9)
    assert model.config.backbone.dtype == "bfloat16"
    make = functools.partial(model.get_initial_variables, input_shapes={})
    variables = jax.eval_shape(make, jax.random.PRNGKey(0))
    recorded = json.loads((GOLDENS / "t5x_tree.json").read_text())[version]
    axes = flatten_dict(variables["params_axes"], sep="/")
    found = {
        name: {"shape": [*leaf.shape], "axes": [*axes[f"{name}_axes"].names]}
        for name, leaf in flatten_dict(variables["params"], sep="/").items()
    }
    assert found == recorded


def test_the_head_of_enc_has_axes_that_t5x_knows(bridge):
    model = make_model(bridge, head="enc", target_token="not looked up")
    variables = jax.eval_shape(
        functools.partial(model.get_initial_variables, input_shapes={}),
        jax.random.PRNGKey(0),
    )
    head = variables["params_axes"]["score_head"]["dense"]
    assert head["kernel_axes"].names == ("embed", "kv")
    assert head["bias_axes"].names == ("kv",)
    assert "decoder" not in variables["params"]


@pytest.mark.parametrize("head", ["encdec", "enc"])
def test_scores_are_the_models(bridge, batch, head):
    model = make_model(bridge, head=head)
    params = initial(model)
    found = jax.jit(model.predict_batch)(params, batch)
    flat = batch["encoder_input_tokens"].reshape(12, 6)
    expected = jax.jit(functools.partial(score, model.config))(
        params, TokenBatch(flat, flat > 0)
    )
    np.testing.assert_allclose(found, expected.reshape(3, 4), atol=1e-6)


def with_scores(model, scores):
    """The model with a network that answers ``scores``."""
    model._compute = lambda read, params, batch, rng: params + scores[: len(params)]
    return model


SCORES = jnp.asarray(np.random.RandomState(3).standard_normal((3, 4)), jnp.float32)


@pytest.mark.parametrize("kind", ["softmax", "poly1", "pair", "pointce"])
def test_loss_is_the_ranking_loss(bridge, batch, kind):
    model = with_scores(make_model(bridge, loss=RankLoss(kind)), SCORES)
    zeros = jnp.zeros((3, 4))
    (loss, metrics), grads = jax.value_and_grad(model.loss_fn, has_aux=True)(
        zeros, batch, jax.random.PRNGKey(1)
    )
    expected = rank_loss(RankLoss(kind), SCORES, batch["label"], where=batch["mask"])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert jnp.isfinite(grads).all()
    assert not grads[~batch["mask"]].any()
    assert set(metrics) == {
        "loss", "metrics/ndcg", "metrics/ndcg_at_10", "metrics/mrr",
        "metrics/mrr_at_10", "timing/steps_per_second", "timing/seconds",
    }  # fmt: skip
    assert metrics["metrics/mrr"].count == 2  # the third list has no positive
    np.testing.assert_allclose(model.eval_fn(zeros, batch)[0], loss, rtol=1e-6)
    assert model.score_batch(zeros, batch, return_intermediates=True)[1] == {}
    np.testing.assert_array_equal(model.score_batch(zeros, batch), SCORES)


def test_equal_scores_are_no_perfect_ranking(bridge):
    labels = jnp.zeros((2, 10)).at[:, 0].set(1.0)
    where = jnp.ones((2, 10), bool)
    sums, count = t5x.ranking_metrics(jnp.zeros((2, 10)), labels, where)
    assert count == 2
    np.testing.assert_allclose([sums["mrr"], sums["mrr_at_10"]], 2 * 0.1, rtol=1e-6)
    np.testing.assert_allclose(sums["ndcg_at_10"], 2 / np.log2(11), rtol=1e-5)


def test_sums_add_up_over_microbatches(bridge, batch):
    model = make_model(bridge, loss_normalizing_factor=10.0)
    whole, metrics = with_scores(model, SCORES).loss_fn(jnp.zeros((3, 4)), batch, None)
    losses, total = [], 0
    for i in range(3):
        part = jax.tree.map(lambda x, i=i: x[i : i + 1], batch)
        one = with_scores(model, SCORES[i : i + 1])
        loss, found = one.loss_fn(jnp.zeros((1, 4)), part, None)
        losses.append(loss)
        total += found["metrics/ndcg"].total
    np.testing.assert_allclose(whole, sum(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics["metrics/ndcg"].total, total, rtol=1e-5)
    mean = rank_loss(RankLoss(), SCORES, batch["label"], where=batch["mask"])
    np.testing.assert_allclose(whole, mean * 2 / 10, rtol=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "poly1", "pair", "pointce"])
def test_what_is_no_mean_over_lists_has_no_sum_of_them(bridge, kind):
    options = {"loss_normalizing_factor": 10.0, "target_token": 9}
    make_model(bridge, loss=RankLoss(kind), **options)
    make_model(bridge, loss=RankLoss(kind, reduction="rax"), target_token=9)
    if kind in ("softmax", "poly1"):
        make_model(bridge, loss=RankLoss(kind, reduction="rax"), **options)
        return
    message = f"loss_normalizing_factor: 10.0 for '{kind}' of reduction 'rax', a mean"
    with pytest.raises(InputError, match=message):
        make_model(bridge, loss=RankLoss(kind, reduction="rax"), **options)


@pytest.mark.slow
def test_chunks_and_remat_change_nothing(bridge, batch):
    plain = make_model(bridge)
    params = initial(plain)
    other = make_model(bridge, loss=RankLoss(chunk_size=4), remat=True)

    def gradient(model):
        return jax.jit(jax.grad(lambda p: model.loss_fn(p, batch, None)[0]))(params)

    for a, b in zip(
        jax.tree.leaves(gradient(other)), jax.tree.leaves(gradient(plain)), strict=True
    ):
        assert jnp.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_dropout_is_drawn_from_the_key(bridge, batch):
    model = make_model(bridge)
    backbone = dataclasses.replace(model.config.backbone, dropout_rate=0.5)
    model.config = dataclasses.replace(model.config, backbone=backbone)
    params = initial(model)

    @jax.jit
    def losses(seeds):
        old = [jax.random.PRNGKey(seeds[i]) for i in range(2)]
        keys = [*old, jax.random.key(seeds[0])]
        return [model.loss_fn(params, batch, key)[0] for key in keys]

    first, second, again = losses(jnp.arange(2))
    assert first != second
    assert first == again  # both forms of a key


def test_another_target_gives_no_number(bridge, batch):
    model = make_model(bridge)
    params = initial(model)
    batch = batch | {"decoder_target_tokens": jnp.full((3, 4, 1), 3, jnp.int32)}
    assert jnp.isnan(jax.jit(model.loss_fn)(params, batch, None)[0])
    # monoT5's score: a log-probability
    model = make_model(bridge, target_token="true", contrast_token=4)
    assert (model.config.target_id, model.config.contrast_id) == (3, 4)
    assert (jax.jit(model.predict_batch)(params, batch) < 0).all()


@pytest.mark.parametrize("token", ["two words", "nothing known"])
def test_an_unknown_token_is_named(bridge, token):
    with pytest.raises(InputError, match=f"target_token: '{token}' is .* one token"):
        make_model(bridge, target_token=token)


def test_a_teacher_is_refused(bridge):
    with pytest.raises(InputError, match=r"RankT5Model.loss: .*'teacher'"):
        make_model(bridge, loss=RankLoss(labels="teacher"))


def test_feature_lengths(bridge):
    converter = bridge.RankingFeatureConverter(pack=False)
    lengths = {"inputs": (4, 8), "targets": (4, 1), "label": (4,), "mask": (4,)}
    found = converter.get_model_feature_lengths(lengths)
    assert set(found) == set(converter.MODEL_FEATURES)
    assert found["encoder_input_tokens"] == (4, 8)
    with pytest.raises(InputError, match=r"DatasetConfig.pack: True; expected False"):
        bridge.RankingFeatureConverter(pack=True)


def test_absent_t5x_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "t5x", None)
    monkeypatch.setitem(sys.modules, "seqio", None)
    t5x.model_class.cache_clear()
    with pytest.raises(InputError, match=r"t5x: cannot be imported .* not on PyPI"):
        _ = t5x.RankT5Model
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = t5x.nothing


def test_gin_file_binds_what_there_is(bridge, monkeypatch):
    from jaxir.cli.config import parse_gin

    made = {
        "t5x.adafactor": SimpleNamespace(
            Adafactor=lambda decay_rate, step_offset, logical_factor_rules: None,
            standard_logical_factor_rules=lambda: None,
        ),
        "t5x.examples": SimpleNamespace(),
        "t5x.examples.t5": SimpleNamespace(),
        "t5x.examples.t5.network": SimpleNamespace(Transformer=lambda config: None),
    }
    for name, module in made.items():
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, module)
        monkeypatch.setitem(sys.modules, name, module)
    for file in ("t5x/rankt5_encdec.gin", "t5x/rankt5_enc.gin"):
        parse_gin([file], ["VOCABULARY = None"])
    with pytest.raises(InputError, match="nothing"):
        parse_gin([file], ["rankt5.RankT5Model.nothing = 1"])
