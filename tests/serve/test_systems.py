"""Opening indexes, rerankers and encoders by name."""

import shutil

import pytest
from tiny_service import write_documents

from jaxir.errors import InputError
from jaxir.serve.fields import Limits
from jaxir.serve.requests import Capabilities
from jaxir.serve.systems import (
    Plan,
    Ranker,
    Systems,
    named,
    open_embedder,
    open_ranker,
    open_system,
    read_stamp,
)
from jaxir.serve.works import Query


@pytest.mark.parametrize(
    ("specs", "found"),
    [
        (["a/b", "c=d/e"], {"b": "a/b", "c": "d/e"}),
        (["a/b/"], {"b": "a/b/"}),
        (["./x=y/z"], {"z": "./x=y/z"}),  # a path, not a name
        (["hf:org/model-1.5"], {"model-1.5": "hf:org/model-1.5"}),
        (["package:name/model"], {"model": "package:name/model"}),
        (["m=hf:org/model"], {"m": "hf:org/model"}),
        (["a=b=c"], {"a": "b=c"}),
    ],
)
def test_names(specs, found):
    assert named(specs, "--index") == found


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        (["a/x", "b/x"], "the name 'x' twice; expected another for each"),
        (["a b"], "the name 'a b'; expected letters, digits"),
        (["a<b>=x"], "the name 'a<b>'; expected letters"),
        (["=x"], "the name ''; expected letters"),
    ],
)
def test_names_that_cannot_be(specs, said):
    with pytest.raises(InputError, match=f"--index: {said}"):
        named(specs, "--index")


def test_a_collection_of_other_documents(place, tmp_path):
    other = write_documents(tmp_path / "other", first=100)
    plan = Plan("bm25", str(place / "indexes" / "bm25"), str(other))
    with pytest.raises(InputError, match="no document 'river0', which bm25 has"):
        open_system(plan, Limits())


def test_a_document_that_the_collection_lost(place, tmp_path):
    part = write_documents(tmp_path / "part")
    lines = (part / "corpus.jsonl").read_text().splitlines(keepends=True)
    (part / "corpus.jsonl").write_text("".join(lines[:4]))
    plan = Plan("bm25", str(place / "indexes" / "bm25"), str(part))
    work = open_system(plan, Limits()).work(20)
    ((first, *_),) = work.run([Query("rivers", 4)])
    assert first["title"] == "river"
    ((hit, *_),) = work.run([Query("bread", 4)])
    assert set(hit) == {"rank", "doc_id", "score"}


def test_what_embeds(place):
    limits = Limits()
    with pytest.raises(InputError, match="of kind 'rank_bert' to embed with"):
        open_embedder("x", str(place / "reranker"), limits)
    embedder = open_embedder("x", str(place / "indexes" / "dense" / "model"), limits)
    assert (embedder.name, embedder.width) == ("x", 16)
    assert set(embedder.works) == {"query", "doc"}


def test_what_reranks(place):
    with pytest.raises(InputError, match="no such directory"):
        open_ranker("x", str(place / "nothing"))
    # a retriever scores, too
    ranker = open_ranker("d", str(place / "indexes" / "dense" / "model"))
    pairs = [("bread", "bread in hot ovens"), ("water", "rivers"), ("bread", "a")]
    assert len(ranker.work.run(pairs)) == 3


@pytest.mark.slow
def test_a_retriever_that_reranks_is_warmed(place):
    spec = str(place / "indexes" / "dense" / "model")
    ticks = []
    open_ranker("d", spec, tick=lambda: ticks.append(1))
    assert len(ticks) > 2


def test_model_given_for_an_index_without_one(place):
    plan = Plan(
        "dense", str(place / "indexes" / "dense"), None, str(place / "reranker")
    )
    with pytest.raises(InputError, match="a model with fingerprint"):
        open_system(plan, Limits())


def test_stamps_tell_states_apart(place, tmp_path):
    assert read_stamp(tmp_path) is None
    shutil.copytree(place / "indexes" / "bm25", tmp_path / "i")
    stamp = read_stamp(tmp_path / "i")
    assert stamp == read_stamp(tmp_path / "i")
    (tmp_path / "i" / "manifest.json").touch()
    assert read_stamp(tmp_path / "i") != stamp


def test_capabilities(place):
    docs = str(place / "docs")
    systems = Systems()
    for kind, texts in (("bm25", docs), ("sparse", None)):
        plan = Plan(kind, str(place / "indexes" / kind), texts)
        systems.open[kind] = open_system(plan, Limits())
    assert systems.capabilities() == {
        "bm25": Capabilities(explain=False, rerank=False),
        "sparse": Capabilities(explain=True, rerank=False),
    }
    systems.ranker = Ranker("r", systems.open["bm25"].work(1))
    assert systems.capabilities()["bm25"].rerank
    assert not systems.capabilities()["sparse"].rerank
    assert [info["reranker"] for info in systems.infos()] == ["r", None]


def test_depths_are_few(place):
    system = open_system(Plan("b", str(place / "indexes" / "bm25")), Limits(k=500))
    works = {id(system.work(k)) for k in (1, 10)}
    assert len(works) == 1
    assert len({id(system.work(k)) for k in (11, 12, 100, 101, 500)}) == 1  # 12 docs
    assert system.work(1) is not system.work(11)
