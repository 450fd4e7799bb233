"""The pooled logits and their gradient in blocks equal those of all logits at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxir.errors import InputError
from jaxir.mesh import make_mesh
from jaxir.numerics import where_score
from jaxir.sparse.pool import ACTIVATIONS, largest_logits

BLOCKS = (1, 700, 10**6)  # vocabularies of 101 in blocks of 32, of 34, and whole


def plain(hidden, table, bias, where):
    """The definition, over all logits."""
    logits = jnp.einsum("BTD,VD->BTV", hidden, table) + bias[None, None, :]
    kept = jnp.broadcast_to(where[..., None], logits.shape)
    return jnp.max(where_score(logits, kept), axis=1)


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
    """Both forms of the gradient, wherever the test runs."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)


@pytest.fixture
def case():
    random = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(random.normal(size=shape).astype(np.float32))

    where = np.ones((4, 5), bool)
    where[1, [0, 3, 4]] = False
    where[2] = False
    return draw(4, 5, 8), draw(101, 8), draw(101), jnp.asarray(where)


def slopes(pool, activation, arguments):
    *learned, where = arguments

    def total(hidden, table, bias):
        weights = ACTIVATIONS[activation](pool(hidden, table, bias, where))
        return jnp.sum(jnp.sin(3 * weights))

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(*learned)


@pytest.mark.parametrize("block_size", BLOCKS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_blocks_equal_the_whole(case, backend, block_size, activation):
    def ours(*arguments):
        return largest_logits(*arguments, block_size=block_size)

    np.testing.assert_allclose(ours(*case), plain(*case), atol=1e-5)
    found, wanted = (slopes(pool, activation, case) for pool in (ours, plain))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted
    )
    assert all(np.abs(slope).max() > 0.1 for slope in found[1])


def test_a_text_without_tokens_is_nothing_and_learns_nothing(case, backend):
    hidden, table, bias, where = case
    found = largest_logits(*case)
    assert np.all(np.isneginf(found[2]))
    for activation in ACTIVATIONS.values():
        assert not np.any(activation(found)[2])
    # Even a loss that looks at such a text directly leaves no NaN.
    slope = jax.grad(lambda h: jnp.sum(largest_logits(h, table, bias, where)))(hidden)
    assert np.all(np.isfinite(slope))
    assert not np.any(slope[2])


def test_of_equal_logits_the_first_token_learns(backend):
    hidden, table = jnp.ones((1, 4, 2)), jnp.ones((40, 2))
    where = jnp.asarray([[False, True, True, True]])
    slope = jax.grad(lambda h: jnp.sum(largest_logits(h, table, jnp.zeros(40), where)))
    assert slope(hidden)[0, :, 0].tolist() == [0.0, 40.0, 0.0, 0.0]


def test_half_precision_in_float32_out(case, backend):
    hidden, table, bias, where = case
    low = hidden.astype(jnp.bfloat16), table.astype(jnp.bfloat16)
    found = largest_logits(*low, bias, where)
    assert found.dtype == jnp.float32
    high = [x.astype(jnp.float32) for x in low]
    np.testing.assert_allclose(found, plain(*high, bias, where), atol=1e-4)
    slope = jax.grad(lambda h: jnp.sum(jax.nn.relu(largest_logits(h, *case[1:]))))
    wanted = jax.grad(lambda h: jnp.sum(jax.nn.relu(plain(h, *case[1:]))))
    assert slope(low[0]).dtype == jnp.bfloat16
    np.testing.assert_allclose(slope(low[0]), wanted(high[0]), rtol=0.02, atol=0.05)


def test_over_devices(case, backend):
    mesh = make_mesh(4)
    by_rows = NamedSharding(mesh, PartitionSpec("data"))
    spread = [jax.device_put(case[i], by_rows) for i in (0, 3)]
    arguments = spread[0], case[1], case[2], spread[1]
    found, wanted = (
        slopes(pool, "log1p", at)
        for pool, at in ((largest_logits, arguments), (plain, case))
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted
    )


@pytest.mark.parametrize("training", [False, True])
def test_memory_does_not_grow_with_vocabulary_times_length(backend, training):
    rows, width, block = 2, 4, 2**14

    def needed(vocabulary: int, length: int) -> int:
        arguments = (
            jnp.zeros((rows, length, width)), jnp.zeros((vocabulary, width)),
            jnp.zeros(vocabulary), jnp.ones((rows, length), bool),
        )  # fmt: skip

        def total(*arguments):
            return jnp.sum(jax.nn.relu(largest_logits(*arguments, block_size=block)))

        compute = jax.grad(total, argnums=(0, 1, 2)) if training else total
        compiled = jax.jit(compute).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    for vocabulary, length in ((4096, 256), (16384, 64), (16384, 256)):
        of_blocks = 8 * 4 * block
        of_rows = 16 * 4 * (rows * vocabulary + width * (vocabulary + rows * length))
        limit = of_blocks + of_rows
        assert limit < 4 * rows * vocabulary * length  # or all logits would pass
        assert needed(vocabulary, length) < limit


def test_a_block_of_nothing_is_refused(case):
    with pytest.raises(InputError, match="block_size: 0; expected 1 or more"):
        largest_logits(*case, block_size=0)
