"""The registry: rows that work, configurations through JSON and back."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxir.data.pipeline import PipelineConfig
from jaxir.dense.model import DenseConfig
from jaxir.dense.task import DenseLoss
from jaxir.errors import InputError
from jaxir.families import (
    FAMILIES,
    check_losses,
    config_from_dict,
    config_to_dict,
    family,
    family_of_config,
)
from jaxir.hyper.model import HypencoderConfig
from jaxir.hyper.qnet import QNetSpec, QNetWeights
from jaxir.hyper.task import HyperLoss
from jaxir.lm.masked import MaskedLMConfig
from jaxir.nn.bert import BertConfig
from jaxir.nn.t5 import T5Config
from jaxir.pq.model import JpqConfig
from jaxir.rank.model import CrossEncoderConfig, RankT5Config
from jaxir.rank.task import RankLoss
from jaxir.sparse.model import SparseConfig
from jaxir.types import TokenBatch

TINY = BertConfig(vocab_size=20, hidden_size=8, num_layers=1, num_heads=2)
TINY_T5 = T5Config(20, 8, 2, 4, 16, 1, 1)
CONFIGS = {
    "dense": DenseConfig(TINY),
    "hypencoder": HypencoderConfig(TINY, QNetSpec(8, (12, 8))),
    "jpq": JpqConfig(TINY, subvectors=2),
    "sparse": SparseConfig(TINY, special_ids=(0, 1)),
    "rank_t5": RankT5Config(TINY_T5, target_id=7),
    "rank_bert": CrossEncoderConfig(TINY),
    "t5": TINY_T5,
    "masked_lm": MaskedLMConfig(TINY),
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_row_is_complete(kind):
    row = family(kind)
    assert row.kind == kind
    config = CONFIGS[kind]
    assert family_of_config(config) is row
    plain = json.loads(json.dumps(config_to_dict(config)))
    assert config_from_dict(kind, plain) == config
    assert (row.encode_query is None) == (row.encode_doc is None)
    assert (row.encode_query is None) == (row.match is None)
    assert row.encode_query is None or row.score is None
    if row.texts is not None:  # learns from lists, so it retrieves or reranks
        assert row.encode_query is not None or row.score is not None
        assert row.texts(config, PipelineConfig()).doc_length >= 1
    params = row.init(config, jax.random.key(0))
    codes = [np.zeros((2, 3), np.uint8)] if kind == "jpq" else []
    task = row.make_task(config, row.losses_class(), *codes)
    again = task.init(jax.random.key(0), None)
    assert jax.tree.structure(params) == jax.tree.structure(again)


@pytest.mark.parametrize("kind", ["dense", "hypencoder", "sparse"])
def test_what_is_encoded_apart_matches(kind):
    row, config = family(kind), CONFIGS[kind]
    params = row.init(config, jax.random.key(0))
    tokens = TokenBatch(jnp.ones((3, 4), jnp.int32), jnp.ones((3, 4), bool))
    queries = row.encode_query(config, params, tokens)
    docs = row.encode_doc(config, params, tokens)
    assert isinstance(queries, QNetWeights) is (kind == "hypencoder")
    assert {x.shape[0] for x in jax.tree.leaves(queries)} == {3}
    assert row.match(config, queries, docs[:2]).shape == (3, 2)


def test_who_learns_without_a_positive():
    dense = family("dense").needs_positive
    assert dense(None)
    assert dense(DenseLoss(contrastive=0.5, kl=1.0))
    assert not dense(DenseLoss(contrastive=0.0, margin_mse=1.0))
    hyper = family("hypencoder").needs_positive
    assert hyper(None)
    assert hyper(HyperLoss())
    assert not hyper(HyperLoss(contrastive=0.0))
    for kind in ("rank_t5", "rank_bert"):
        assert family(kind).needs_positive(None)
        assert family(kind).needs_positive(RankLoss("pair"))
        assert not family(kind).needs_positive(RankLoss(labels="teacher"))


def test_configuration_survives_json():
    config = DenseConfig(TINY, projection_size=4, query_template="q: {text}")
    text = json.dumps(config_to_dict(config))
    assert config_from_dict("dense", json.loads(text)) == config


def test_absent_keys_take_their_defaults_and_whole_numbers_are_numbers():
    found = config_from_dict(
        "dense", {"backbone": {"dropout": 0}, "towers": "separate"}
    )
    expected = DenseConfig(BertConfig(dropout=0.0), towers="separate")
    assert found == expected
    assert isinstance(found.backbone.dropout, float)


def test_tuples_come_back_as_tuples(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Layers:
        sizes: tuple[int, ...] = (1,)

    row = family("dense")._replace(config_class=Layers)
    monkeypatch.setattr("jaxir.families.FAMILIES", {"layers": row})
    plain = config_to_dict(Layers((3, 4)))
    assert plain == {"sizes": [3, 4]}
    assert config_from_dict("layers", plain) == Layers((3, 4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"poling": "cls"}, "m.json: unknown key poling in DenseConfig"),
        ({"backbone": {"width": 3}}, "unknown key width in backbone"),
        ({"backbone": 7}, "backbone = 7; expected an object"),
        ({"pooling": 3}, "pooling = 3; expected str"),
        ({"query_length": True}, "query_length = True; expected int"),
        ({"backbone": {"remat": 1}}, "backbone.remat = 1; expected bool"),
        ({"projection_size": "4"}, "projection_size = '4'; expected int"),
    ],
)
def test_a_wrong_configuration_says_so(data, message):
    with pytest.raises(InputError, match=message):
        config_from_dict("dense", data, where="m.json")


def test_unknown_kinds_say_so():
    with pytest.raises(InputError, match=r"m.json: kind of model 'x'; expected one of"):
        family("x", where="m.json")
    with pytest.raises(InputError, match="config: BertConfig; expected a model's"):
        family_of_config(TINY)


def test_losses_of_another_family_say_so():
    check_losses("rank_t5", None)
    check_losses("rank_bert", RankLoss())
    with pytest.raises(InputError, match="loss: RankLoss for a model of kind 'dense'"):
        check_losses("dense", RankLoss())
    with pytest.raises(InputError, match="DenseLoss for a model of kind 'hypencoder'"):
        check_losses("hypencoder", DenseLoss())
