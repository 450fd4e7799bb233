"""What is exported of each kind."""

import jax
import numpy as np
import pytest
from tiny_exports import sparse_index
from tiny_programs import EXPORTABLES, tiny_dense
from tiny_rerankers import tiny_reranker, tiny_t5

from jaxir.checkpoints.model_dir import save_model
from jaxir.errors import InputError
from jaxir.export.index_programs import index_programs
from jaxir.export.programs import load_programs, model_programs, parameters_of
from jaxir.nn.masked_lm import init_masked_lm
from jaxir.search import open_index

EXPECTED = {
    "dense": (["encode_query", "encode_document"], "encode_query"),
    "dense-towers": (["encode_query", "encode_document"], "encode_query"),
    "hypencoder": (["encode_query", "encode_document", "score"], "encode_query"),
    "hypencoder-vectors": (
        ["encode_query", "encode_document", "score"],
        "encode_query",
    ),
    "jpq": (["encode_query", "encode_document"], "encode_query"),
    "sparse": (["encode_query", "encode_document"], "encode_document"),
    "sparse-encoder": (["encode_query", "encode_document"], "encode_document"),
    "index-dense": (["search"], "search"),
    "index-hypencoder": (["search"], "search"),
    "index-pq": (["search"], "search"),
}


@pytest.mark.parametrize("kind", EXPORTABLES)
def test_names(kind, tmp_path):
    exportable = EXPORTABLES[kind](tmp_path)
    names, default = EXPECTED.get(kind, (["score"], "score"))
    assert [program.name for program in exportable.programs] == names
    assert exportable.default == default
    typed = ["token_type_ids"] * (kind == "rank-bert")
    for program in exportable.programs:
        inputs = [x.name for x in program.inputs if x.name != "embeddings"]
        assert inputs == ["input_ids", "attention_mask", *typed]
        assert program.tokens <= program.max_length


def test_positions_are_those_of_a_search(tmp_path):
    """Tokens of texts into the program, texts into the searcher: one ranking."""
    for kind in ("index-dense", "index-hypencoder", "index-pq"):
        exportable = EXPORTABLES[kind](tmp_path / kind)
        (program,) = exportable.programs
        texts = ["river clay water", "bread"]
        ids = exportable.tokenizer.encode(texts, program.tokens)
        width = max(map(len, ids))
        inputs = {
            "input_ids": np.array([[*x, *[0] * (width - len(x))] for x in ids]),
            "attention_mask": np.array([np.arange(width) < len(x) for x in ids]) * 1,
        }
        params = parameters_of(exportable.params, program)
        found = jax.jit(program.function)(params, inputs)
        searcher = open_index(exportable.source)
        k = found["positions"].shape[1]
        wanted = searcher.search_texts(texts, k)
        assert k == exportable.details["k"] <= searcher.num_docs
        assert np.allclose(found["scores"], wanted.scores, atol=1e-4)
        assert np.asarray(found["positions"]).tolist() == wanted.doc_ids.tolist()
        assert list(exportable.doc_ids) == list(searcher.doc_ids)


def test_a_t5_is_a_reranker(tmp_path):
    save_model(tmp_path / "t5", tiny_t5(tmp_path))
    found = load_programs(tmp_path / "t5")
    assert (found.kind, found.default) == ("rank_t5", "score")


def test_bfloat16_is_coarse(tmp_path):
    assert not model_programs(tiny_reranker("bert", tmp_path)).coarse
    model = tiny_dense(tmp_path)
    backbone = model.config.backbone.__class__(
        **vars(model.config.backbone) | {"dtype": "bfloat16"}
    )
    config = model.config.__class__(**vars(model.config) | {"backbone": backbone})
    assert model_programs(model._replace(config=config)).coarse


def test_refused(tmp_path):
    from jaxir.lm.masked import MaskedLMConfig

    model = tiny_dense(tmp_path)
    config = MaskedLMConfig(model.config.backbone)
    params = init_masked_lm(config, jax.random.key(0))
    language_model = model._replace(kind="masked_lm", config=config, params=params)
    with pytest.raises(
        InputError, match="kind 'masked_lm'; expected one of dense, hyp"
    ):
        model_programs(language_model)
    index = sparse_index(tmp_path / "sparse")
    with pytest.raises(InputError, match=r"kind 'sparse'.*--format opensearch"):
        index_programs(index)


def test_refused_numbers(tmp_path):
    exportable = EXPORTABLES["index-dense"](tmp_path)
    with pytest.raises(InputError, match="k: 0; expected at least 1"):
        index_programs(exportable.source, k=0)
    other = tiny_dense(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="which encoded the documents"):
        index_programs(exportable.source, model=other)
