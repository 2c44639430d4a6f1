"""Dropout: its rate, the independence of its bits, and that no layout changes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from models import dropout

TRIALS = 1_000_000


def kept(rate, seed=0, shape=(1000, 1000)):
    """Which entries of ones survive, as 0 and 1."""
    return np.asarray(dropout.drop(jnp.ones(shape), rate, jax.random.key(seed))) > 0


def test_without_a_key_or_a_rate_it_is_the_identity():
    x = jnp.ones((20, 20))
    assert (dropout.drop(x, 0.5, None) == x).all()
    assert (dropout.drop(x, 0.0, jax.random.key(0)) == x).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_survivors_are_scaled_up_and_so_is_their_gradient(dtype):
    x = jnp.ones((200, 200), dtype)
    y, back = jax.vjp(lambda x: dropout.drop(x, 0.25, jax.random.key(0)), x)
    scale = np.asarray(jnp.ones((), dtype) / 0.75, np.float32)
    assert y.dtype == x.dtype
    assert np.array_equal(np.unique(np.asarray(y, np.float32)), [0, scale])
    assert np.array_equal(back(x)[0], y)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_the_rate_is_binomial(rate):
    counts = [kept(rate, seed, (1000, 100)).sum() for seed in range(50)]
    assert abs(sum(counts) - 5e6 * (1 - rate)) < 4.5 * np.sqrt(5e6 * rate * (1 - rate))
    spread = np.var(counts) / (1e5 * rate * (1 - rate))  # about chi-square, 50 degrees of freedom
    assert stats.chi2.ppf(1e-5, 50) / 50 < spread < stats.chi2.ppf(1 - 1e-5, 50) / 50


def test_the_words_are_uniform_in_every_byte():
    words = np.asarray(dropout.bits(jax.random.key(3), (1000, 1000)))
    for byte in range(4):
        counts = np.bincount((words >> (8 * byte) & 255).ravel(), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-5, byte


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("apart", [(0, 1), (1, 0), (0, 2), (0, 256), (1, 1), (64, 0), (512, 512)])
def test_neighbours_are_independent(rate, apart):
    mask = kept(rate)
    down, right = apart
    a, b = mask[: 1000 - down, : 1000 - right], mask[down:, right:]
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4.5 / np.sqrt(a.size)


def test_runs_of_eight_occur_as_often_as_they_should():
    mask = kept(0.5).reshape(-1, 8)
    counts = np.bincount(mask @ (1 << np.arange(8)), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-5


@pytest.mark.parametrize(
    "other",
    [
        lambda key: jax.random.key(1),
        lambda key: dropout.site(key, 0),
        lambda key: jax.random.fold_in(key, 2**31),
    ],
)
def test_keys_are_independent(other):
    key = jax.random.key(0)
    a, b = (np.asarray(dropout.drop(jnp.ones(TRIALS), 0.5, k)) > 0 for k in (key, other(key)))
    assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / np.sqrt(TRIALS)


def test_leading_axes_beyond_the_counter_are_told_apart(monkeypatch):
    monkeypatch.setattr(dropout, "COUNT", 1000)
    words = np.asarray(dropout.bits(jax.random.key(0), (30, 20, 10, 100)))
    flat = words.reshape(600, 1000)
    assert len(np.unique(flat[:, 0])) > 590
    mask = flat < 2**31
    pairs = np.corrcoef(mask) - np.eye(600)
    assert np.abs(pairs).max() < 6 / np.sqrt(1000)
    assert stats.chisquare(np.bincount(words.ravel() >> 24, minlength=256)).pvalue > 1e-5


@pytest.mark.parametrize("shape", [(1, 2**16, 2**16), (3, 1, 2**16, 2**16), (2**17, 2**17), ()])
def test_no_shape_is_too_large(shape):
    made = jax.eval_shape(lambda: dropout.bits(jax.random.key(0), shape))
    assert made.shape == shape and made.dtype == jnp.uint32


def test_no_layout_changes_a_bit():
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    split = jax.sharding.NamedSharding(mesh, jax.P("data", None, "tensor"))
    x, key = jnp.ones((8, 5, 6)), jax.random.key(0)
    plain = dropout.drop(x, 0.3, key)
    assert np.array_equal(dropout.drop(jax.device_put(x, split), 0.3, key), plain)
    apart = jax.jit(lambda x: dropout.drop(x, 0.3, key), out_shardings=split)(x)
    assert np.array_equal(apart, plain)
    keys = jax.random.split(key, 3)
    each = jax.vmap(lambda key: dropout.drop(x, 0.3, key))(keys)
    assert np.array_equal(each[1], dropout.drop(x, 0.3, keys[1]))


def test_raw_keys_are_keys():
    raw = jax.random.PRNGKey(5)
    assert np.array_equal(dropout.bits(raw, (7,)), dropout.bits(jax.random.key(5), (7,)))
