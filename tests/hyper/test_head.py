"""The hyperhead against PyTorch's, recorded and live, and the promises around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from hyper_goldens import CASES, load, params_of_state

from jaxir.errors import InputError
from jaxir.hyper.head import HyperHead
from jaxir.hyper.qnet import QNetSpec, apply_all


def inputs(batch=3, length=5, width=8, seed=0):
    rng = np.random.default_rng(seed)
    states = jnp.asarray(rng.normal(size=(batch, length, width)), jnp.float32)
    lengths = 1 + np.arange(batch) * 2 % length
    return states, jnp.asarray(np.arange(length)[None] < lengths[:, None])


SPEC = QNetSpec(input_width=8, hidden=(8, 8))
WARM = QNetSpec(input_width=8, hidden=(8, 8), gated=True, residual_on_last=True)


def init(head, *args):
    return jax.jit(head.init)(jax.random.key(0, impl="rbg"), *args)


def call(head, variables, *args):
    return jax.jit(head.apply)(variables, *args)


def near(found, expected):
    """Equal to 1e-4 of the largest number."""
    largest = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, atol=1e-4 * largest, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_recorded_tensors_scores_and_gradients(case):
    spec, scale, arrays = load(case)
    head = HyperHead(spec, scale)
    params = params_of_state(arrays["weights"], spec.depth)
    mask = jnp.asarray(arrays["mask"])

    def total(params, states, docs):
        weights = head.apply({"params": params}, states, mask)
        scores = apply_all(spec, weights, docs)
        return jnp.sum(scores * arrays["cotangent"]), (weights, scores)

    given = params, jnp.asarray(arrays["states"]), jnp.asarray(arrays["docs"])
    gradient = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))
    gradients, (weights, scores) = gradient(*given)
    for i in range(spec.depth):
        np.testing.assert_allclose(weights.kernels[i], arrays[f"kernel_{i}"], atol=1e-5)
        np.testing.assert_allclose(weights.biases[i], arrays[f"bias_{i}"], atol=1e-5)
    output = arrays[f"kernel_{spec.depth}"][:, :, 0]
    np.testing.assert_allclose(weights.output, output, atol=1e-5)
    np.testing.assert_allclose(scores, arrays["scores"], rtol=1e-4, atol=1e-4)
    expected = params_of_state(arrays["gradients"], spec.depth)
    jax.tree.map(near, gradients[0], expected)
    for found, name in zip(gradients[1:], ("states", "docs"), strict=True):
        near(found, arrays["gradients"][name])


@pytest.mark.parametrize(
    ("depth", "width", "scale"),
    [
        (2, 24, "paper"),
        (4, 16, "released"),
        (6, 24, "released"),
        (8, 16, "released"),
        (2, 384, "released"),
    ],
)
def test_pytorch_of_other_depths_and_widths(depth, width, scale):
    torch = pytest.importorskip("torch")
    from hyper_torch import Head, randomize, scores, to_numpy

    spec = QNetSpec(input_width=width, hidden=(width,) * depth)
    reference = Head(width, spec.widths, scale)
    randomize(reference, seed=depth)
    states, mask = inputs(width=width)
    docs = np.random.default_rng(1).normal(size=(6, width)).astype(np.float32)
    with torch.no_grad():
        tensors = reference(*(torch.from_numpy(np.array(x)) for x in (states, mask)))
        expected = scores(*tensors, torch.from_numpy(docs)).numpy()
    params = params_of_state(to_numpy(reference.state_dict()), depth)
    weights = call(HyperHead(spec, scale), {"params": params}, states, mask)
    found = apply_all(spec, weights, jnp.asarray(docs))
    for i, kernel in enumerate(weights.kernels):
        np.testing.assert_allclose(kernel, tensors[0][i].numpy(), atol=1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", [SPEC, WARM])
def test_padding_changes_nothing(spec):
    warm = spec.gated
    head = HyperHead(spec, warm_start=warm)
    states, mask = inputs()
    vectors = states[:, 0] if warm else None
    variables = init(head, states, mask, vectors)
    short = call(head, variables, states, mask, vectors)
    states = jnp.pad(states, ((0, 0), (0, 4), (0, 0)), constant_values=7.0)
    mask = jnp.pad(mask, ((0, 0), (0, 4)))
    long = call(head, variables, states, mask, vectors)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), short, long)


def test_a_query_without_tokens_is_finite_with_finite_gradients():
    head = HyperHead(SPEC)
    states, mask = inputs()
    mask = mask.at[1].set(False)
    variables = init(head, states, mask)
    docs = jnp.ones((4, 8))

    def total(variables, states):
        return apply_all(SPEC, head.apply(variables, states, mask), docs).sum()

    both = jax.jit(jax.value_and_grad(total, (0, 1)))
    value, gradients = both(variables, states)
    assert np.isfinite(value)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))
    assert not gradients[1][1].any()


def test_initial_values_are_those_of_the_released_code():
    width, state_width = 48, 36
    spec = QNetSpec(input_width=width, hidden=(width, width))
    states, mask = inputs(width=state_width)
    params = init(HyperHead(spec), states, mask)["params"]
    bound = 1 / np.sqrt(state_width)

    def uniform(x, bound):
        assert np.abs(x).max() <= bound
        assert np.std(x) == pytest.approx(bound / np.sqrt(3), rel=0.25)

    for name in ("kernel_0", "kernel_1", "output", "bias_0", "bias_1"):
        part, is_bias = params[name], name.startswith("bias")
        rows = width if name.startswith("kernel") else 1
        assert part["base"].shape == part["query"].shape == (rows, width)
        tolerance = 0.05 if rows > 1 else 0.35
        assert np.std(part["query"]) == pytest.approx(10, rel=tolerance)
        if is_bias:
            assert not part["base"].any()
            uniform(part["projection"]["kernel"], 1 / np.sqrt(width))
            uniform(part["projection"]["bias"], 1 / np.sqrt(width))
        else:
            deviation = np.sqrt(2 / width)
            assert np.std(part["base"]) == pytest.approx(deviation, rel=tolerance)
            kernel = part["projection"]["kernel"]
            assert np.std(kernel) == pytest.approx(1 / width**2, rel=0.05)
            assert not part["projection"]["bias"].any()
        for side in ("key", "value"):
            uniform(part[side]["kernel"], bound)
            if is_bias:
                uniform(part[side]["bias"], bound)
            else:
                assert not part[side]["bias"].any()


@pytest.mark.parametrize(
    ("depth", "count"),
    [(2, 11_222_784), (4, 20_672_256), (6, 30_121_728), (8, 39_571_200)],
)
def test_parameters_are_as_many_as_the_released_models_have(depth, count):
    head = HyperHead(QNetSpec(hidden=(768,) * depth))
    states, mask = jnp.zeros((1, 1, 768)), jnp.ones((1, 1), bool)
    shapes = jax.tree.leaves(shapes_of(head, states, mask))
    assert sum(x.size for x in shapes) == count


def shapes_of(head, *args):
    return jax.eval_shape(lambda: head.init(jax.random.key(0), *args))["params"]


def test_parameter_tree():
    states, mask = inputs()
    params = shapes_of(HyperHead(WARM, warm_start=True), states, mask, states[:, 0])
    flat = traverse_util.flatten_dict(params)
    names = {"/".join(path): x.shape for path, x in flat.items()}
    assert len(names) == 5 * 8 + 2
    assert names["kernel_1/key/kernel"] == names["bias_0/projection/kernel"] == (8, 8)
    assert names["output/base"] == names["bias_1/query"] == (1, 8)
    assert (names["gates"], names["output_gate"]) == ((2,), ())
    plain = shapes_of(HyperHead(WARM), states, mask)
    assert plain["gates"].shape == (2,)
    assert "output_gate" not in plain
    assert "gates" not in shapes_of(HyperHead(SPEC), states, mask)


def test_gates_open_are_no_gates():
    states, mask = inputs()
    spec = QNetSpec(input_width=8, hidden=(8, 8), residual_on_last=True)
    gated = init(HyperHead(WARM), states, mask)["params"]
    assert gated["gates"].tolist() == [1, 1]
    plain = {name: part for name, part in gated.items() if name != "gates"}
    docs = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8)), jnp.float32)
    found = call(HyperHead(WARM), {"params": gated}, states, mask)
    expected = call(HyperHead(spec), {"params": plain}, states, mask)
    np.testing.assert_allclose(
        apply_all(WARM, found, docs), apply_all(spec, expected, docs), atol=1e-6
    )


def test_warm_start_is_the_inner_product_and_training_opens_its_gates():
    head = HyperHead(WARM, warm_start=True)
    states, mask = inputs()
    rng = np.random.default_rng(0)
    # whole numbers, whose sums have no rounding: equal means equal
    vectors = jnp.asarray(rng.integers(-8, 9, size=(3, 8)), jnp.float32)
    docs = jnp.asarray(rng.integers(-8, 9, size=(5, 8)), jnp.float32)
    variables = init(head, states, mask, vectors)

    def total(variables):
        weights = head.apply(variables, states, mask, vectors)
        scores = apply_all(WARM, weights, docs)
        return jnp.sum(jnp.square(scores)), (weights, scores)

    gradient, (weights, scores) = jax.jit(jax.grad(total, has_aux=True))(variables)
    np.testing.assert_array_equal(weights.output, vectors)
    assert not weights.gates.any()
    np.testing.assert_array_equal(scores, vectors @ docs.T)
    gradient = gradient["params"]
    assert (np.abs(gradient["gates"]) > 1e-3).all()
    assert np.abs(gradient["output_gate"]) > 1e-3
    assert not gradient["kernel_0"]["base"].any()


@pytest.mark.parametrize("warm", [False, True])
def test_float32_is_not_cut_short_on_accelerators(warm):
    spec = QNetSpec(8, (8, 8), gated=warm, residual_on_last=warm)
    head = HyperHead(spec, warm_start=warm)
    arguments = (*inputs(), jnp.ones((3, 8)))
    variables = jax.eval_shape(lambda: init(head, *arguments))
    program = str(jax.make_jaxpr(head.apply)(variables, *arguments))
    products = program.count("dot_general[")
    assert 0 < 2 * products == program.count("Precision.HIGHEST")


def test_bfloat16_products_stay_near():
    states, mask = inputs()
    variables = init(HyperHead(SPEC), states, mask)
    wide = call(HyperHead(SPEC), variables, states, mask)
    half = HyperHead(SPEC, dtype=jnp.bfloat16)
    narrow = call(half, variables, states.astype(jnp.bfloat16), mask)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(narrow))
    np.testing.assert_allclose(narrow.kernels[0], wide.kernels[0], atol=0.02)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (HyperHead(SPEC, "root"), "scale: 'root'; expected one of released, paper"),
        (HyperHead(SPEC, warm_start=True), "warm_start: a q-net without gates"),
        (
            HyperHead(
                QNetSpec(
                    8,
                    (8,),
                    gated=True,
                    residual_on_last=True,
                    norm_before_residual=False,
                ),
                warm_start=True,
            ),
            "warm_start: a q-net that normalises after the residual",
        ),
        (HyperHead(WARM, warm_start=True), "vectors: None; expected the queries'"),
    ],
)
def test_what_cannot_be_a_head_says_so(head, message):
    with pytest.raises(InputError, match=message):
        init(head, *inputs())
