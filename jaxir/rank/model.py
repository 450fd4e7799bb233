"""Cross-encoders: query and document are one text, and the network gives one score.

RankT5 (Zhuang et al. 2022, "RankT5: Fine-Tuning T5 for Text Ranking with Ranking
Losses", arXiv 2210.10634, section 4.1), for the text ``s`` of a pair::

  encdec   z = Dense(Dec(Enc(s)))        eq. 1: one decoder step from the start token
           score = z[<extra_id_10>]      eq. 2: an unnormalised logit, no softmax
  enc      score = Dense(Pool(Enc(s)))   eq. 3: the first token, or the mean

monoT5 (Nogueira et al. 2020, "Document Ranking with a Pretrained Sequence-to-Sequence
Model", section 3) reads two logits of the same network::

  score = log(e^z[true] / (e^z[true] + e^z[false]))

and the BERT or RoBERTa cross-encoder of the paper's baselines (Nogueira et al. 2019,
"Multi-Stage Document Ranking with BERT", section 3.1) is ``Dense(Pool(BERT(s)))``.

Parameters: ``encdec`` is the T5 tree itself; ``enc`` is its ``token_embedder`` and
``encoder`` beside ``score_head/dense``; a cross-encoder has ``backbone``,
``score_head/dense`` and, with ``hidden``, ``hidden``.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxir.errors import InputError
from jaxir.nn import t5
from jaxir.nn.bert import BertEncoder, EncoderOutput
from jaxir.nn.heads import POOLING, ScoreHead
from jaxir.nn.layers import ACTIVATIONS, Dense, dropout
from jaxir.nn.t5 import T5, T5Encoder
from jaxir.rank.config import CrossEncoderConfig, RankT5Config
from jaxir.types import Params, TokenBatch

__all__ = [
    "CrossEncoder",
    "CrossEncoderConfig",
    "RankT5Config",
    "adapt_params",
    "decode",
    "encode",
    "init_params",
    "logical_axes",
    "logit",
    "params_from_backbone",
    "score",
]

Config = RankT5Config | CrossEncoderConfig


class CrossEncoder(nn.Module):
    """Token ids of pairs ``[B, T]`` to scores ``[B]`` in float32.

    Args:
      config: the cross-encoder.
    """

    config: CrossEncoderConfig

    @nn.compact
    def __call__(
        self, tokens: TokenBatch, *, deterministic: bool = True
    ) -> Float[Array, " B"]:
        """Scores pairs; ``deterministic=False`` draws dropout."""
        cfg = self.config

        def dropped(vectors: Array) -> Array:
            rng = None if deterministic else self.make_rng("dropout")
            return dropout(vectors, cfg.dropout, rng)

        encoder = BertEncoder(cfg.backbone, name="backbone")
        # [B, T] -> [B, T, D]
        output = encoder(tokens, deterministic=deterministic)
        # [B, T, D] -> [B, D]
        vectors = output.pooled
        if vectors is None:
            vectors = POOLING[cfg.pooling](output.states, output.mask)
        vectors = dropped(vectors.astype(jnp.float32))
        if cfg.hidden is not None:
            vectors = Dense(cfg.backbone.hidden_size, name="hidden")(vectors)
            vectors = dropped(ACTIVATIONS[cfg.hidden](vectors))
        # [B, D] -> [B]
        return ScoreHead(name="score_head")(vectors)


def init_params(config: Config, rng: jax.Array) -> Params:
    """Fresh parameters, see the module's account of them.

    Args:
      config: the reranker.
      rng: a random key.

    Example::

      >>> from jaxir.nn.bert import BertConfig
      >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2)
      >>> sorted(init_params(CrossEncoderConfig(tiny), jax.random.key(0)))
      ['backbone', 'score_head']
    """
    return _NETWORKS[config.network].init(config, rng)


def params_from_backbone(
    config: Config, backbone_params: Params, rng: jax.Array
) -> Params:
    """A pretrained backbone's parameters as a reranker's, its head fresh.

    Args:
      config: the reranker.
      backbone_params: a T5's tree, or a BERT encoder's.  What the reranker does not
        use is left out (the decoder for ``enc``, an unused pooler); a pooler that the
        configuration wants and the backbone lacks is fresh.
      rng: draws what is fresh.

    Raises:
      InputError: a decoder is wanted and there is none.

    Example::

      >>> from jaxir.nn.bert import BertConfig, init_params as init_encoder
      >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2)
      >>> encoder = init_encoder(tiny, jax.random.key(0))
      >>> config = CrossEncoderConfig(tiny, hidden="tanh")
      >>> sorted(params_from_backbone(config, encoder, jax.random.key(1)))
      ['backbone', 'hidden', 'score_head']
    """
    return _NETWORKS[config.network].from_backbone(config, backbone_params, rng)


def logical_axes(config: RankT5Config) -> Any:
    """The logical axes of each parameter: a tree of tuples of the names that T5X knows.

    ``nn.partitioning.sharding_rule`` and T5X's partitioner look them up in a table.

    Example::

      >>> axes = logical_axes(RankT5Config(head="enc"))
      >>> axes["score_head"]["dense"]["kernel"]
      ('embed', 'kv')
    """
    axes = dict(t5.logical_axes(config.backbone))
    if config.head == "enc":
        axes = {name: axes[name] for name in ("token_embedder", "encoder")}
        # "kv" is never split, as an axis of size 1 must not be
        axes["score_head"] = {"dense": {"kernel": ("embed", "kv"), "bias": ("kv",)}}
    return axes


def score(
    config: Config,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> Float[Array, " B"]:
    """Scores ``[B]`` of pairs ``[B, T]``, higher for more relevant; float32.

    Args:
      config: the reranker.
      params: of :func:`init_params`.
      tokens: each pair as one text.
      rng: draws dropout when given.

    Example::

      >>> from jaxir.nn.bert import BertConfig
      >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2)
      >>> config = CrossEncoderConfig(tiny)
      >>> params = init_params(config, jax.random.key(0))
      >>> tokens = TokenBatch(jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool))
      >>> score(config, params, tokens).shape
      (2,)
    """
    return _score_of(config, logit(config, params, tokens, rng=rng))


def _score_of(config: Config, logits: Array) -> Array:
    if getattr(config, "contrast_id", None) is None:
        return logits
    # log softmax over two logits is log sigmoid of their difference
    return jax.nn.log_sigmoid(logits)


def logit(
    config: Config,
    params: Params,
    tokens: TokenBatch,
    *,
    rng: jax.Array | None = None,
) -> Float[Array, " B"]:
    """What losses are taken of: the score, and monoT5's before its log softmax.

    monoT5's is ``z[target] - z[contrast]``, in the same order as its score.  The
    sigmoid cross entropy of it is the cross entropy over the two words, monoT5's own
    training restricted to them.  Arguments as :func:`score`.
    """
    return _NETWORKS[config.network].logit(config, params, tokens, rng)


def encode(config: RankT5Config, params: Params, tokens: TokenBatch) -> EncoderOutput:
    """The first half of ``encdec``'s :func:`score`: token states ``[B, T, D]``.

    On a CPU the halves want batches of different sizes: the encoder those whose states
    stay in its caches, the decoder those for which its weights are worth reading.
    """
    return _apply(T5(config.backbone), params, None, tokens, method=T5.encode)


def decode(
    config: RankT5Config, params: Params, encoded: EncoderOutput
) -> Float[Array, " B"]:
    """The second half: :func:`score` is ``decode`` of what :func:`encode` gives.

    Example::

      >>> config = RankT5Config(t5.T5Config(9, 8, 2, 4, 16, 1, 1), target_id=5)
      >>> params = init_params(config, jax.random.key(0))
      >>> tokens = TokenBatch(jnp.ones((2, 4), jnp.int32), jnp.ones((2, 4), bool))
      >>> decode(config, params, encode(config, params, tokens)).shape
      (2,)
    """
    return _score_of(config, _encdec_read(config, params, encoded, None))


def adapt_params(config: Config, params: Params, target: Config) -> Params:
    """Parameters of one configuration for another that starts from them.

    ``encdec`` becomes ``enc`` without its decoder; parts that only the target has (its
    head, hidden layer or pooler) are fresh, drawn from seed 0; others are left out.

    Args:
      config: what the parameters belong to.
      params: the parameters.
      target: what they shall be for.

    Raises:
      InputError: the backbones differ in shape, or the target has a decoder that the
        parameters lack.
    """
    if config.network != target.network and target.network != "enc":
        raise InputError(
            "config",
            f"a {config.network!r} network cannot become {target.network!r}",
            "parameters of the same network",
            'or "encdec" to "enc"',
        )
    _check_same_shape(config.backbone, target.backbone)
    rng = jax.random.key(0)
    if isinstance(target, CrossEncoderConfig):
        fresh = params_from_backbone(target, params["backbone"], rng)
        kept = {name: params.get(name, fresh[name]) for name in fresh}
        return kept | {"backbone": fresh["backbone"]}
    if config.network != target.network:
        params = params_from_backbone(target, params, rng)
    return t5.with_layers(params, scanned=target.backbone.scan_layers)


class _Network(NamedTuple):
    """The functions that make one kind of reranker."""

    init: Callable[[Any, jax.Array], Params]
    logit: Callable[[Any, Params, TokenBatch, jax.Array | None], Array]
    from_backbone: Callable[[Any, Params, jax.Array], Params]


def _apply(network: Any, params: Params, rng: jax.Array | None, *args: Any, **kw: Any):
    """linen's ``apply``, deterministic without a key."""
    rngs = {} if rng is None else {"dropout": rng}
    return network.apply(
        {"params": params}, *args, deterministic=rng is None, rngs=rngs, **kw
    )


def _encdec_init(config: RankT5Config, rng: jax.Array) -> Params:
    return t5.init_params(config.backbone, rng)


def _encdec_logit(
    config: RankT5Config, params: Params, tokens: TokenBatch, rng: jax.Array | None
) -> Array:
    encoded = _apply(T5(config.backbone), params, rng, tokens, method=T5.encode)
    return _encdec_read(config, params, encoded, rng)


def _encdec_read(
    config: RankT5Config, params: Params, encoded: EncoderOutput, rng: jax.Array | None
) -> Array:
    ids = [config.target_id]
    if config.contrast_id is not None:
        ids.append(config.contrast_id)

    def read(network: T5, encoded: EncoderOutput, *, deterministic: bool) -> Array:
        # [B, T, D] -> [B, D] -> [B, 1 or 2]
        states = network.decode_start(encoded, deterministic=deterministic)
        return network.logits_of(states, tuple(ids))

    logits = _apply(T5(config.backbone), params, rng, encoded, method=read)
    return logits[:, 0] - logits[:, 1] if len(ids) == 2 else logits[:, 0]


def _encdec_from_backbone(
    config: RankT5Config, backbone_params: Params, rng: jax.Array
) -> Params:
    del config, rng  # every parameter is the backbone's
    if "decoder" not in backbone_params:
        raise InputError(
            "head",
            "'encdec' over parameters without a decoder",
            "those of a whole T5",
            'an encoder alone serves head="enc"',
        )
    return backbone_params


def _enc_init(config: RankT5Config, rng: jax.Array) -> Params:
    backbone_rng, head_rng = jax.random.split(rng)
    backbone_params = t5.init_encoder_params(config.backbone, backbone_rng)
    return _enc_from_backbone(config, backbone_params, head_rng)


def _enc_logit(
    config: RankT5Config, params: Params, tokens: TokenBatch, rng: jax.Array | None
) -> Array:
    backbone_params = {name: params[name] for name in ("token_embedder", "encoder")}
    # [B, T] -> [B, T, D] -> [B, D] -> [B]
    output = _apply(T5Encoder(config.backbone), backbone_params, rng, tokens)
    vectors = POOLING[config.pooling](output.states, output.mask)
    return _score_head(params["score_head"], vectors)


def _score_head(params: Params, vectors: Array) -> Array:
    head: Any = ScoreHead()  # linen's apply promises less than it gives
    return head.apply({"params": params}, vectors)


def _enc_from_backbone(
    config: RankT5Config, backbone_params: Params, rng: jax.Array
) -> Params:
    kept = {name: backbone_params[name] for name in ("token_embedder", "encoder")}
    vectors = jnp.zeros((1, config.backbone.emb_dim))
    return kept | {"score_head": ScoreHead().init(rng, vectors)["params"]}


def _bert_init(config: CrossEncoderConfig, rng: jax.Array) -> Params:
    tokens = TokenBatch(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
    return CrossEncoder(config).init(rng, tokens)["params"]


def _bert_logit(
    config: CrossEncoderConfig,
    params: Params,
    tokens: TokenBatch,
    rng: jax.Array | None,
) -> Array:
    return _apply(CrossEncoder(config), params, rng, tokens)


def _bert_from_backbone(
    config: CrossEncoderConfig, backbone_params: Params, rng: jax.Array
) -> Params:
    fresh = _bert_init(config, rng)
    names = fresh["backbone"]
    kept = {name: backbone_params.get(name, names[name]) for name in names}
    return fresh | {"backbone": kept}


_NETWORKS: Mapping[str, _Network] = MappingProxyType(
    {
        "encdec": _Network(_encdec_init, _encdec_logit, _encdec_from_backbone),
        "enc": _Network(_enc_init, _enc_logit, _enc_from_backbone),
        "bert": _Network(_bert_init, _bert_logit, _bert_from_backbone),
    }
)


# Fields of a backbone that need not agree: they change no parameter, or adapting does.
_FREE_FIELDS = {
    "dtype", "remat", "dropout", "attention_dropout", "dropout_rate", "pooler",
    "scan_layers",
}  # fmt: skip


def _check_same_shape(backbone: Any, target: Any) -> None:
    """Backbones between which parameters can be carried over."""
    for field in dataclasses.fields(backbone):
        values = getattr(backbone, field.name), getattr(target, field.name, None)
        if field.name not in _FREE_FIELDS and values[0] != values[1]:
            raise InputError(
                f"backbone.{field.name}",
                f"{values[1]!r} for parameters of {values[0]!r}",
                "a backbone of the same shape",
            )
