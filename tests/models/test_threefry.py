"""Random numbers without the loop are JAX's own to the bit, whatever is drawn and however."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import threefry

KEY = jax.random.key(7)
DRAWS = {
    "bits": lambda key: jax.random.bits(key, (3, 5, 7)),
    "bytes": lambda key: jax.random.bits(key, (33,), jnp.uint8),
    "one": lambda key: jax.random.bits(key, ()),
    "none": lambda key: jax.random.bits(key, (4, 0)),
    "uniform": lambda key: jax.random.uniform(key, (257,), minval=-2.0),
    "normal": lambda key: jax.random.normal(key, (31, 8)),
    "truncated": lambda key: jax.random.truncated_normal(key, -2.0, 2.0, (65,)),
    "integers": lambda key: jax.random.randint(key, (65,), 0, 1000),
    "permutation": lambda key: jax.random.permutation(key, 100),
    "split": lambda key: jax.random.bits(jax.random.split(key, (2, 3))[1, 2], (9,)),
    "folded": lambda key: jax.random.bits(jax.random.fold_in(key, 12), (9,)),
    "rows": lambda key: jax.vmap(lambda k: jax.random.bits(k, (9,)))(jax.random.split(key, 4)),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("compiled", [False, True])
def test_draws_are_jax_s(name, compiled):
    draw = jax.jit(DRAWS[name]) if compiled else DRAWS[name]
    ours, own = draw(threefry.straight(KEY)), draw(KEY)
    assert ours.dtype == own.dtype and ours.shape == own.shape
    np.testing.assert_array_equal(ours, own)


def test_known_answers_of_the_authors():
    """The vectors of Salmon et al.'s Random123 1.14 (`kat_vectors`, threefry2x32 with 20 rounds)."""
    full, pi = 0xFFFFFFFF, (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    for counter, key, expected in (
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((full, full), (full, full), (0x1CB996FC, 0xBB002BE7)),
        (pi[:2], pi[2:], (0xC4923A9C, 0x483DF7A0)),
    ):
        words = threefry.hashed(jnp.array(key, jnp.uint32), jnp.array(counter, jnp.uint32))
        assert tuple(int(word) for word in words) == expected


def test_other_generators_and_the_old_layout_are_left_alone():
    other = jax.random.key(7, impl="rbg")
    assert threefry.straight(other) is other
    with jax.threefry_partitionable(False):
        ours = jax.random.bits(threefry.straight(KEY), (5,))
        np.testing.assert_array_equal(ours, jax.random.bits(KEY, (5,)))


def test_elsewhere_than_on_a_cpu_the_key_stays(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert threefry.straight(KEY) is KEY


def test_no_loop_is_left():
    draw = lambda key: threefry.gumbel(key, (1000,))
    text = jax.jit(draw).lower(KEY).as_text()
    assert "while" not in text
    assert "while" in jax.jit(lambda key: jax.random.gumbel(key, (1000,))).lower(KEY).as_text()


def test_gumbel_is_finite_and_jax_s():
    noise = jax.jit(lambda key: threefry.gumbel(key, (100_000,)))(KEY)
    own = jax.jit(lambda key: jax.random.gumbel(key, (100_000,)))(KEY)
    np.testing.assert_allclose(noise, own, rtol=1e-5, atol=1e-6)  # logarithms may round apart
    assert jnp.isfinite(noise).all() and abs(float(noise.mean()) - 0.5772) < 0.02
