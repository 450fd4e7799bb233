"""Scores of pairs: equal to one pair at a time, tokenized once, compiled once."""

import itertools
from functools import partial

import jax
import numpy as np
import pytest
from tiny_rerankers import KINDS, TEXTS, tiny_reranker

from jaxir.bucketing import plan_batches
from jaxir.data.collection import open_collection
from jaxir.errors import InputError
from jaxir.mesh import make_mesh
from jaxir.pairs import pair_format
from jaxir.rank import score as scoring
from jaxir.rank.model import score
from jaxir.rank.score import PairScorer
from jaxir.text import load_tokenizer, pad_batch

WORDS = TEXTS.split()


def some_pairs(count, seed=0):
    """Queries of 1 to 6 words, documents of 0 to 60, both repeated."""
    random = np.random.default_rng(seed)
    texts = [
        [" ".join(random.choice(WORDS, random.integers(low, high))) for _ in range(n)]
        for low, high, n in ((1, 7, 5), (0, 61, max(1, count // 2)))
    ]
    return [
        tuple(each[random.integers(len(each))] for each in texts) for _ in range(count)
    ]


def one_by_one(model, pairs, max_length=None):
    """Each pair alone, without padding."""
    config = model.config
    form = pair_format(
        model.tokenizer, template=getattr(config, "template", None),
        eos=getattr(config, "eos", True),
    )  # fmt: skip
    compiled, scores = jax.jit(partial(score, config)), []
    for query, doc in pairs:
        (pair,) = form.encode([query], [doc], max_length or config.max_length)
        bounds = [pair.boundary] if form.typed else None
        tokens = pad_batch(
            [pair.ids], length=len(pair.ids), pad_id=0, type_boundaries=bounds
        )
        scores.append(float(compiled(model.params, tokens)[0]))
    return np.array(scores)


def scorer_of(model, **options):
    options = {"mesh": make_mesh(1), "batch_tokens": 256} | options
    return PairScorer(model.config, model.params, model.tokenizer, **options)


@pytest.mark.parametrize(
    ("kind", "num_devices"), [*((kind, 1) for kind in KINDS), ("bert", 8)]
)
def test_batches_equal_single_pairs(kind, num_devices, tmp_path):
    if jax.device_count() < num_devices:
        pytest.skip("needs simulated devices")
    model = tiny_reranker(kind, tmp_path)
    pairs = some_pairs(8)
    scorer = scorer_of(model, mesh=make_mesh(num_devices))
    found = scorer(pairs)
    assert found.dtype == np.float32
    expected = one_by_one(model, pairs)
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    order = np.random.default_rng(1).permutation(len(pairs))
    shuffled = scorer([pairs[i] for i in order])
    np.testing.assert_allclose(shuffled, found[order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "num_devices"), [("encdec", 1), ("encdec", 8), ("monot5", 1)]
)
def test_batches_take_the_decoders_step_together(kind, num_devices, tmp_path):
    if jax.device_count() < num_devices:
        pytest.skip("needs simulated devices")
    model = tiny_reranker(kind, tmp_path)
    scorer = scorer_of(model, mesh=make_mesh(num_devices), batch_tokens=64)
    sizes, real = [], scorer._decode

    def seen(params, group):
        sizes.append(len(group))
        return real(params, group)

    scorer._decode = seen
    # Eleven batches of one shape, of 1 or 8 rows, and a shorter one
    count = 11 * num_devices
    docs = [" ".join(np.roll(WORDS, i)[: 36 - i % 4]) for i in range(count)]
    pairs = [("river", doc) for doc in [*docs, "clay"]]
    found = scorer(pairs)
    assert sizes == [scoring._GROUP, scoring._GROUP, 1]
    lists = scorer.encode(["river"], [[doc for _, doc in pairs]])
    tokens = pad_batch([pair.ids for pair in lists.pairs], length=40, pad_id=0)
    expected = jax.jit(partial(score, model.config))(model.params, tokens)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    # One pair is neither encoded nor decoded with others that nobody asked for.
    sizes.clear()
    np.testing.assert_allclose(scorer(pairs[:1]), found[:1], atol=1e-5, rtol=1e-5)
    assert sizes == [1]


def test_states_that_wait_for_the_decoder_are_bounded(tmp_path):
    model = tiny_reranker("encdec", tmp_path / "t5")
    for tokens, group in ((1024, 8), (2**13, 8), (2**15, 2), (2**20, 1)):
        assert scorer_of(model, batch_tokens=tokens)._group == group
    for kind in ("enc", "bert"):
        assert scorer_of(tiny_reranker(kind, tmp_path / kind))._group == 1


@pytest.mark.parametrize("many", [True, False])
def test_lists_are_pairs(many, tmp_path):
    scorer = scorer_of(tiny_reranker("encdec", tmp_path), many=many)
    pairs = some_pairs(20)
    queries = [pairs[0][0], pairs[1][0], pairs[0][0]]
    docs = [[doc for _, doc in pairs[a:b]] for a, b in ((0, 7), (7, 7), (7, 20))]
    lists = scorer.score_lists(queries, docs)
    assert [len(scores) for scores in lists] == [7, 0, 13]
    flat = [
        (query, doc)
        for query, group in zip(queries, docs, strict=True)
        for doc in group
    ]
    np.testing.assert_allclose(np.concatenate(lists), scorer(flat), rtol=1e-5)
    assert scorer([]).shape == (0,)
    assert scorer.score_lists([], []) == []


def test_long_documents_are_cut_and_counted(tmp_path):
    model = tiny_reranker("bert", tmp_path)
    scorer = scorer_of(model, max_length=16)
    long, short = " ".join(WORDS[:30]), "clay"
    pairs = [("river sea", long), ("river sea", short), (long, short), (long, long)]
    found = scorer(pairs)
    assert (scorer.cut_docs, scorer.cut_queries) == (3, 2)
    np.testing.assert_allclose(found, one_by_one(model, pairs, 16), rtol=1e-5)
    # 16 tokens: [CLS], the query, [SEP], ten words of the document, [SEP]
    kept = " ".join(WORDS[:11])
    np.testing.assert_allclose(scorer([("river sea", kept)]), found[:1], rtol=1e-5)
    lists = scorer.encode(["river sea", long], [[long, short], [short]])
    assert lists.cut_docs() == [1, 1]
    assert lists.cut_queries() == [0, 1]


def test_texts_are_tokenized_once(tmp_path, monkeypatch):
    model = tiny_reranker("encdec", tmp_path)
    scorer = scorer_of(model)
    seen = []
    real = model.tokenizer.pieces

    def counted(texts):
        seen.extend(texts)
        return real(texts)

    monkeypatch.setattr(model.tokenizer, "pieces", counted)
    first = scorer.score_lists(["river", "bread"], [["clay", "sea"], ["sea", "clay"]])
    words = sorted(text.split()[-1] for text in seen)
    assert words == ["bread", "clay", "river", "sea"]
    seen.clear()
    again = scorer.score_lists(["river"], [["clay", "steel"]])
    assert sorted(text.split()[-1] for text in seen) == ["river", "steel"]
    np.testing.assert_allclose(again[0][0], first[0][0], rtol=1e-5)


def test_memory_of_documents_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "KEPT_TOKENS", 50)
    model = tiny_reranker("encdec", tmp_path)
    scorer = scorer_of(model)
    pairs = some_pairs(16)
    found = scorer(pairs)
    np.testing.assert_allclose(found[:4], one_by_one(model, pairs[:4]), rtol=1e-5)
    assert scorer._kept_tokens == sum(map(len, scorer._kept.values())) <= 50
    np.testing.assert_array_equal(scorer(pairs), found)


@pytest.mark.parametrize("kind", ["bert", "encdec"])
@pytest.mark.parametrize("many", [True, False, None])
def test_no_recompilation_after_warm_up(many, kind, tmp_path):
    scorer = scorer_of(tiny_reranker(kind, tmp_path), many=many)

    def compiled():
        parts = (scorer._first, scorer._decode)
        return np.array([part._cache_size() for part in parts if part is not None])

    before = compiled()
    scorer(some_pairs(200))
    warm = compiled()
    # lengths to 40 by 8 or 16, and smaller last batches; one batch, or a full group
    assert np.all(warm <= before + np.array([8, 16])[: len(warm)])
    for seed in (0, 0, 0):
        scorer(some_pairs(200, seed))
    other = scorer_of(tiny_reranker(kind, tmp_path, seed=3), many=many)
    other(some_pairs(200))
    np.testing.assert_array_equal(compiled(), warm)


def test_many_pairs_have_little_padding(tmp_path, monkeypatch):
    scorer = scorer_of(
        tiny_reranker("enc", tmp_path, max_length=128), batch_tokens=1024
    )
    shapes, real = [], scoring.run_batches

    def seen(compute, *args, **options):
        def noted(tokens):
            shapes.append(tokens.ids.shape)
            return tokens.ids[:, 0] * 0.0

        return real(noted, *args, **options)

    monkeypatch.setattr(scoring, "run_batches", seen)
    random = np.random.default_rng(0)
    pairs = [
        (" ".join(WORDS[:3]), " ".join(random.choice(WORDS, random.integers(5, 140))))
        for _ in range(4096)
    ]
    lists = scorer.encode([q for q, _ in pairs], [[doc] for _, doc in pairs])
    scorer.score(lists)
    tokens = sum(len(pair.ids) for pair in lists.pairs)
    assert sum(itertools.starmap(int.__mul__, shapes)) <= 1.08 * tokens
    assert len(set(shapes)) <= 16


def test_lengths_that_no_model_takes(tmp_path):
    model = tiny_reranker("bert", tmp_path)
    with pytest.raises(InputError, match="max_length: 65 tokens; expected 4 to 64"):
        scorer_of(model, max_length=65)
    with pytest.raises(InputError, match="max_length: 3 tokens; expected 4 to 64"):
        scorer_of(model, max_length=3)
    with pytest.raises(InputError, match="batch_tokens: 0; expected at least 1"):
        scorer_of(model, batch_tokens=0)


@pytest.mark.shared
@pytest.mark.parametrize("tokenizer", ["bert-base-uncased", "t5"])
@pytest.mark.parametrize("name", ["cosqa", "medquad", "vaswani"])
def test_padding_of_real_pairs(name, tokenizer, shared_data):
    collection = open_collection(str(shared_data / name))
    template = "Query: {query} Document: {document}" if tokenizer == "t5" else None
    form = pair_format(
        load_tokenizer(shared_data / "tokenizers" / tokenizer), template=template
    )
    random = np.random.default_rng(0)
    queries = list(collection.queries().values())[:50]
    docs = collection.docs.texts(random.integers(len(collection.docs), size=1500))
    pairs = form.encode([queries[i % len(queries)] for i in range(1500)], docs, 512)
    for max_length in (128, 256, 512):
        lengths = np.array([min(len(pair.ids), max_length) for pair in pairs])
        plan = plan_batches(lengths, max_length, multiple=2, fine=True)
        padded = sum(batch.shape[0] * batch.shape[1] for batch in plan)
        assert padded <= 1.08 * lengths.sum()
