"""``t5x.train`` runs our models with the files of ``gin/t5x``; needs T5X (docs/t5x.md).

Each training is a process of its own, as a user starts it.
"""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("t5x")

from goldens import make_t5x_answers
from goldens.make_t5x_answers import CONFIGS, make

from jaxir.checkpoints.t5x import load_t5x, write_t5x
from jaxir.data.lists import TrainingList, write_lists
from jaxir.errors import InputError
from jaxir.files import resource_directory
from jaxir.nn.t5 import T5Config, init_params
from jaxir.rank import t5x as bridge
from jaxir.rank.config import RankT5Config
from jaxir.rank.model import score
from jaxir.types import TokenBatch

TASK = """
import seqio
from jaxir.rank.t5x_tasks import list_task

PIECES = seqio.SentencePieceVocabulary({model!r}, extra_ids=100)
list_task(
    "tiny_ranking", {collection!r}, {{"train": {lists!r}, "validation": {lists!r}}},
    tokenizer={tokenizer!r}, vocabulary=PIECES, target_id={target}, max_length=24,
)
"""

SIZES = """
from __gin__ import dynamic_registration
import seqio
import tiny_ranking
from t5x import utils
from t5x.examples.t5 import network

include 't5x/examples/t5/t5_1_0/base.gin'
include 't5x/rankt5_{head}.gin'
include 't5x/finetune.gin'

seqio.SentencePieceVocabulary:
  sentencepiece_model_file = '{pieces}'
  extra_ids = 100
DROPOUT_RATE = 0.1
network.T5Config:
  vocab_size = {vocab_size}
  dtype = 'float32'
  emb_dim = 16
  num_heads = 2
  num_encoder_layers = 1
  num_decoder_layers = 1
  head_dim = 8
  mlp_dim = {mlp_dim}
MIXTURE_OR_TASK_NAME = 'tiny_ranking'
INITIAL_CHECKPOINT_PATH = '{checkpoint}'
MODEL_DIR = '{model_dir}'
TRAIN_STEPS_RELATIVE = 4
BATCH_SIZE = 8
LIST_SIZE = 3
INPUT_LENGTH = 24
EVAL_PERIOD = 2
EVAL_STEPS = 1
SAVE_PERIOD = 2
"""

NATIVE = """
import __main__ as train_script
train_script.train.use_orbax = False
"""


@pytest.fixture
def place(tiny_collection, tmp_path):
    """Pieces, lists, a module that registers the task, and a checkpoint of ours."""
    import sentencepiece

    corpus = tmp_path / "texts.txt"
    lines = (tiny_collection / "corpus.jsonl").read_text().splitlines()
    corpus.write_text("\n".join([*lines, "Query: what Document: this"]) + "\n")
    folder = tmp_path / "pieces"
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spiece"), vocab_size=90,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    size = sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))
    vocab_size = size.get_piece_size() + 100
    rows = vocab_size + vocab_size % 2  # even, so that two devices can split them
    items = [
        TrainingList("q-river-train", ("river0", "bread1", "engine2"), (2.0, 0.0, 0.0)),
        TrainingList("q-bread-train", ("bread0", "river3"), (1.0, 0.0)),
    ] * 8
    write_lists(tmp_path / "lists.jsonl", items)
    task = TASK.format(
        model=str(folder / "spiece.model"), collection=str(tiny_collection),
        lists=str(tmp_path / "lists.jsonl"), tokenizer=str(folder),
        target=vocab_size - 11,
    )  # fmt: skip
    (tmp_path / "tiny_ranking.py").write_text(task)
    config = T5Config(
        vocab_size=rows, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=32,
        num_encoder_layers=1, num_decoder_layers=1,
    )  # fmt: skip
    params = jax.jit(lambda: init_params(config, jax.random.key(0)))()
    write_t5x(tmp_path / "start", params)
    return tmp_path, config, params


def train(place, *, head="encdec", native=False, checkpoint=None, mlp_dim=32):
    folder, config, _ = place
    out = folder / f"out-{head}-{native}"
    text = SIZES.format(
        head=head, vocab_size=config.vocab_size, mlp_dim=mlp_dim, model_dir=out,
        pieces=folder / "pieces" / "spiece.model",
        checkpoint=checkpoint or folder / "start" / "checkpoint_0",
    )  # fmt: skip
    (folder / "run.gin").write_text(text + NATIVE * native)
    paths = os.pathsep.join([str(folder), *filter(None, sys.path)])
    roots = f"{folder},{resource_directory('gin')}"
    words = [f"--gin_search_paths={roots}", "--gin_file=run.gin"]
    done = subprocess.run(
        [sys.executable, "-m", "t5x.train", *words],
        # T5X splits parameters over the devices of a CPU: heads over two.
        env=os.environ | {"PYTHONPATH": paths, "JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True, text=True,
    )  # fmt: skip
    return out, done


@pytest.mark.slow
@pytest.mark.parametrize("native", [True, False], ids=["native", "orbax"])
def test_trains_from_ours_and_is_read_back(place, native):
    from t5x.examples.t5 import network

    out, done = train(place, native=native)
    assert done.returncode == 0, done.stderr[-2000:]
    _, config, before = place
    found, params = load_t5x(out / "checkpoint_4")
    assert found == T5Config(**{**vars(config), "dropout_rate": found.dropout_rate})
    moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), before, params)
    # One decoder token attends to itself alone: its queries and keys have no gradient.
    assert all(jax.tree.leaves(moved["encoder"]))
    ids = np.random.RandomState(0).randint(3, 60, (4, 9)).astype(np.int32)
    ids[1, 5:] = 0
    ids = jnp.asarray(ids)
    params = jax.tree.map(jnp.asarray, params)
    sizes = {
        name: getattr(config, name)
        for name in (
            "vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim",
            "num_encoder_layers", "num_decoder_layers", "logits_via_embedding",
        )
    }  # fmt: skip
    one = jnp.ones((4, 1), jnp.int32)
    with jax.numpy_rank_promotion("allow"):  # T5X's own code
        theirs = network.Transformer(network.T5Config(**sizes)).apply(
            {"params": params}, ids, one * 0, one, enable_dropout=False
        )
    ours = score(RankT5Config(found, target_id=9), params, TokenBatch(ids, ids > 0))
    np.testing.assert_allclose(ours, theirs[:, 0, 9], atol=1e-4)


@pytest.mark.slow
def test_enc_trains_from_a_whole_t5(place):
    out, done = train(place, head="enc", native=True)
    assert done.returncode == 0, done.stderr[-2000:]
    names = {path.name for path in (out / "checkpoint_4").iterdir()}
    assert "target.encoder.encoder_norm.scale" in names
    assert not any(name.startswith("target.decoder") for name in names)


@pytest.mark.slow
def test_another_size_is_told(place):
    _, done = train(place, native=True, mlp_dim=24)
    assert done.returncode != 0
    assert "≠ encoder/layers_0/mlp/wi/kernel (16, 32) for (16, 24)" in done.stderr


def test_t5x_reads_what_we_write(place):
    from t5x import checkpoints

    folder, _, params = place
    theirs = checkpoints.load_t5x_checkpoint(str(folder / "start" / "checkpoint_0"))
    same = jax.tree.map(
        lambda a, b: bool((np.asarray(a) == b).all()), theirs["target"], params
    )
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("version", sorted(CONFIGS))
def test_answers_are_those_recorded(version):
    stored = np.load(Path(make_t5x_answers.__file__).parent / "t5x_answers.npz")
    with jax.numpy_rank_promotion("allow"):  # T5X's own code
        made = make(CONFIGS[version])
    for name, array in made.items():
        np.testing.assert_allclose(array, stored[f"{version}/{name}"], atol=1e-5)


def test_feature_converter_keeps_a_positive():
    import tensorflow as tf

    def lists():
        inputs = tf.ragged.constant([[3, 4], [5], [6, 7, 8, 9], [2]], dtype=tf.int32)
        for label in ([0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]):
            yield {
                "inputs": inputs,
                "targets": np.full((4, 1), 9, np.int32),
                "label": np.array(label, np.float32),
                "mask": np.ones(4, bool),
            }

    signature = {
        "inputs": tf.RaggedTensorSpec([None, None], tf.int32, ragged_rank=1),
        "targets": tf.TensorSpec([None, 1], tf.int32),
        "label": tf.TensorSpec([None], tf.float32),
        "mask": tf.TensorSpec([None], tf.bool),
    }
    data = tf.data.Dataset.from_generator(lists, output_signature=signature)

    def converted(size):
        lengths = {
            "inputs": (size, 3), "targets": (size, 1), "label": (size,), "mask": (size,)
        }  # fmt: skip
        converter = bridge.RankingFeatureConverter(pack=False)
        return list(converter(data, lengths).as_numpy_iterator())

    cut = converted(2)
    assert [item["label"].tolist() for item in cut] == [[0, 1], [0, 1], [0, 0]]
    assert cut[0]["encoder_input_tokens"].tolist() == [[3, 4, 0], [2, 0, 0]]
    assert cut[1]["encoder_input_tokens"].tolist() == [[3, 4, 0], [5, 0, 0]]
    padded = converted(5)[0]
    assert padded["mask"].tolist() == [True] * 4 + [False]
    assert padded["decoder_target_tokens"][:, 0].tolist() == [9, 9, 9, 9, 0]
    assert not padded["decoder_input_tokens"].any()
    assert padded["encoder_input_tokens"][2].tolist() == [6, 7, 8]  # cut at 3
    with pytest.raises(InputError, match=r"DatasetConfig\.pack: True"):
        bridge.RankingFeatureConverter(pack=True)
