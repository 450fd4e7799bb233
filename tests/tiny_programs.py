"""A tiny model or index of every kind that can be exported, made when asked for."""

from collections.abc import Callable
from pathlib import Path

import jax
from tiny_hypencoders import tiny_hypencoder
from tiny_jpq import tiny_jpq_index
from tiny_pq import many_documents
from tiny_rerankers import bert_tokenizer, tiny_reranker
from tiny_sparse import tiny_sparse

from jaxir.checkpoints.model_dir import Model, load_model, model_from_parts
from jaxir.dense.model import DenseConfig, init_params
from jaxir.export.index_programs import index_programs
from jaxir.export.programs import Exportable, model_programs
from jaxir.index import BuildOptions, build_index
from jaxir.nn.bert import BertConfig

__all__ = ["EXPORTABLES", "tiny_dense"]

DOCS = 150  # two blocks of 64s and a part of one


def tiny_dense(folder: Path, seed: int = 0, **changes) -> Model:
    """A bi-encoder of one layer of width 16 over the tiny words."""
    tokenizer = bert_tokenizer(folder)
    backbone = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2,
        intermediate_size=32, max_positions=64,
    )  # fmt: skip
    config = DenseConfig(backbone, **({"query_length": 16, "doc_length": 32} | changes))
    params = jax.tree.map(lambda x: x * 3, init_params(config, jax.random.key(seed)))
    return model_from_parts("dense", config, params, tokenizer)


def _index(model: Model, folder: Path, **options) -> Exportable:
    collection = many_documents(folder / "collection", DOCS)
    build_index(model, collection, folder / "index", options=BuildOptions(**options))
    return index_programs(folder / "index", k=20)


def _pq_model(folder: Path) -> Path:
    collection = many_documents(folder / "collection", DOCS)
    return tiny_jpq_index(tiny_dense(folder), collection, folder / "index")


def _reranker(kind: str) -> Callable[[Path], Exportable]:
    return lambda folder: model_programs(tiny_reranker(kind, folder))


EXPORTABLES: dict[str, Callable[[Path], Exportable]] = {
    "dense": lambda folder: model_programs(tiny_dense(folder)),
    "dense-towers": lambda folder: model_programs(
        tiny_dense(folder, towers="separate", projection_size=8, pooling="cls")
    ),
    "hypencoder": lambda folder: model_programs(
        tiny_hypencoder(folder, warm_start=True)
    ),
    "hypencoder-vectors": lambda folder: model_programs(
        tiny_hypencoder(folder, vectors=3)
    ),
    "jpq": lambda folder: model_programs(load_model(_pq_model(folder) / "model")),
    "sparse": lambda folder: model_programs(tiny_sparse(folder, lexical_prior=True)),
    "sparse-encoder": lambda folder: model_programs(
        tiny_sparse(folder, query="encoder", activation="log1p_log1p")
    ),
    "rank-bert": _reranker("bert"),
    "rank-encdec": _reranker("encdec"),
    "rank-enc": _reranker("enc"),
    "rank-monot5": _reranker("monot5"),
    "index-dense": lambda folder: _index(tiny_dense(folder), folder, dtype="float16"),
    "index-hypencoder": lambda folder: _index(tiny_hypencoder(folder), folder),
    "index-pq": lambda folder: index_programs(_pq_model(folder), k=DOCS + 5),
}
"""What makes each of them in a folder of its own."""
