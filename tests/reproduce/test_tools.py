"""The small steps between the verbs."""

import json

import pytest

from jaxir.cli.main import main as jaxir
from jaxir.data.formats import read_qrels, read_run, write_run
from jaxir.errors import InputError
from jaxir.reproduce import tools


def test_a_sample_is_the_same_at_every_time(tmp_path, capsys):
    run = {f"q{i}": {"d1": 2.0, "d2": 1.0} for i in range(20)}
    write_run(tmp_path / "all.trec", run)
    words = ["sample", "--run", str(tmp_path / "all.trec"), "--queries", "5"]
    found = []
    for name in ("a.trec", "b.trec"):
        assert tools.main([*words, "--output", str(tmp_path / name)]) == 0
        assert json.loads(capsys.readouterr().out)["queries"] == 5
        found.append(read_run(tmp_path / name))
    assert found[0] == found[1]
    assert len(found[0]) == 5
    assert all(run[query] == scored for query, scored in found[0].items())
    with pytest.raises(
        InputError, match=r"all\.trec: 20 queries; expected at least 21"
    ):
        tools.sample(str(tmp_path / "all.trec"), 21, str(tmp_path / "c.trec"))


def test_judgments_of_a_sample(tiny_collection, tmp_path, capsys):
    write_run(tmp_path / "some.trec", {"q-river-test": {"river0": 1.0}})
    words = ["judgments", "--run", str(tmp_path / "some.trec"), "--output"]
    words += [str(tmp_path / "some.tsv"), "--qrels", f"{tiny_collection}:test"]
    assert tools.main(words) == 0
    assert read_qrels(tmp_path / "some.tsv") == {
        "q-river-test": {"river0": 2, "river1": 1, "river2": 1, "river3": 1}
    }
    write_run(tmp_path / "some.trec", {"other": {"river0": 1.0}})
    assert tools.main(words) == 2
    assert "judgments: " in (told := capsys.readouterr().err)
    assert "query 'other'; expected one that" in told


def test_drawn_lists(tmp_path):
    lines = [f'{{"query_id": "{i}"}}' for i in range(30)]
    (tmp_path / "all.jsonl").write_text("\n".join(lines) + "\n")
    for name in ("a", "b"):
        tools.draw(str(tmp_path / "all.jsonl"), 10, str(tmp_path / name))
    drawn = (tmp_path / "a").read_text().splitlines()
    assert drawn == (tmp_path / "b").read_text().splitlines()
    assert len(set(drawn)) == 10
    assert set(drawn) <= set(lines)
    assert drawn != lines[:10]
    with pytest.raises(InputError, match=r"all\.jsonl: 30 lists; expected at least 31"):
        tools.draw(str(tmp_path / "all.jsonl"), 31, str(tmp_path / "c"))


def test_overlap(tmp_path):
    exact, run = tmp_path / "exact.trec", tmp_path / "run.trec"
    write_run(exact, {"q": {"a": 3.0, "b": 2.0, "c": 1.0}, "r": {"a": 1.0}})
    write_run(run, {"q": {"c": 3.0, "a": 2.0, "b": 1.0}, "r": {"a": 1.0}})
    assert tools.overlap(str(exact), str(run), 2)["overlap"] == 0.75
    write_run(run, {"q": {"a": 1.0}})
    assert tools.overlap(str(exact), str(run), 2)["overlap"] == 0.25
    write_run(run, {"x": {"a": 1.0}})
    with pytest.raises(InputError, match="no query of the exact search; expected the"):
        tools.overlap(str(exact), str(run), 2)


@pytest.mark.slow
def test_fresh_t5(shared_data, tmp_path):
    from jaxir.checkpoints.model_dir import load_model

    tools.fresh_t5(str(shared_data / "tokenizers" / "t5"), str(tmp_path / "t5"))
    model = load_model(tmp_path / "t5")
    assert model.kind == "t5"
    assert (model.config.emb_dim, model.config.num_decoder_layers) == (192, 2)


@pytest.mark.slow
def test_parity(tiny_collection, minilm_path, tmp_path):
    """Documents embedded by sentence-transformers are those of the index."""
    pytest.importorskip("sentence_transformers")
    index = tmp_path / "index"
    words = ["--model", str(minilm_path), "--collection", str(tiny_collection)]
    assert jaxir(["index", *words, "--index", str(index)]) == 0
    run = tmp_path / "torch.trec"
    queries = f"{tiny_collection}:test"
    found = tools.parity(str(minilm_path), str(index), queries, str(run))
    assert 0 < found["largest_difference"] < 1e-5
    ours = tmp_path / "ours.trec"
    words = ["--index", str(index), "--queries", queries, "--output", str(ours)]
    assert jaxir(["search", *words]) == 0
    for query, scored in read_run(ours).items():
        assert read_run(run)[query] == pytest.approx(scored, abs=1e-5)
