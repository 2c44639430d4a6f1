"""Every way of computing attention agrees with the explicit one; grouped heads, masks, rotation."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import attention, masks, positions, tiles
from tests.models import tiny


def heads(time=300, groups=2, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    q = jax.random.normal(keys[0], (2, time, 4, 8))
    k, v = (jax.random.normal(key, (2, time, groups, 8)) for key in keys[1:])
    return q, k, v


CASES = {
    "causal": masks.Mask(),
    "window": masks.Mask(window=37),
    "both ways": masks.Mask(causal=False),
    "padding": masks.Mask(valid=jnp.ones((2, 300), bool).at[0, :40].set(False)),
    "segments": masks.Mask(
        q_segments=jnp.repeat(jnp.asarray([[1, 2, 3, 0]]), 75, 1).repeat(2, 0),
        k_segments=jnp.repeat(jnp.asarray([[1, 2, 3, 0]]), 75, 1).repeat(2, 0),
    ),
}


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize(
    ("form", "bytes_"), [("blocks", 0), ("kernel", 0), ("tiled", 1 << 22), ("tiled", 1 << 18)]
)
def test_forms_agree_with_the_explicit_one(name, form, bytes_, monkeypatch):
    """A tile of 4 MiB holds both rows, one of 256 KiB less than one."""
    monkeypatch.setattr(tiles, "TILE", bytes_)
    form = getattr(attention, form)
    q, k, v = heads()
    mask = CASES[name]
    rows = jnp.ones((2, 300), bool)
    if name == "padding":
        rows = mask.valid
    if name == "segments":
        rows = mask.q_segments != 0

    def loss(form, q, k, v):
        out, _ = form(q, k, v, mask, 0.3)
        return jnp.where(rows[..., None, None], out, 0).sum() * 0.1 + (
            jnp.where(rows[..., None, None], out**2, 0).sum()
        )

    value, grads = jax.value_and_grad(lambda *a: loss(attention.explicit, *a), (0, 1, 2))(q, k, v)
    other, grads2 = jax.value_and_grad(lambda *a: loss(form, *a), (0, 1, 2))(q, k, v)
    assert abs(value - other) < 1e-3 * abs(value)
    assert all(tiny.close(a, b) for a, b in zip(grads2, grads))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("bytes_", [1 << 22, 1 << 16])
def test_forms_agree_with_a_bias_and_dropout(causal, rows, bytes_, monkeypatch):
    """Every form drops the same weights, also in tiles of a row or less; gradients in float64."""
    monkeypatch.setattr(tiles, "TILE", bytes_)
    with jax.enable_x64(True):
        q, k, v = (jnp.concatenate([x, x + 1]).astype(jnp.float64) for x in heads(150))
        bias = jax.random.normal(jax.random.key(5), (rows, 4, 150, 150), jnp.float64)
        valid = jnp.arange(150)[None] >= jnp.asarray([[0], [9], [0], [30]])
        mask, key = masks.Mask(causal=causal, valid=valid), jax.random.key(3)

        def loss(form, q, k, v, bias):
            out, _ = form(q, k, v, mask, 0.3, bias, 0.2, key, "float64")
            return jnp.where(valid[..., None, None], out**2, 0).sum()

        results = [
            jax.jit(jax.value_and_grad(functools.partial(loss, form), (0, 1, 2, 3)))(q, k, v, bias)
            for form in (attention.explicit, attention.blocks, attention.tiled)
        ]
        for other in results[1:]:
            for a, b in zip(jax.tree.leaves(results[0]), jax.tree.leaves(other), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_tiles_keep_no_scores(monkeypatch):
    """The step's temporaries stay far below the scores of a batch, which the explicit form writes out."""
    monkeypatch.setattr(tiles, "TILE", 1 << 20)
    q, k, v = (jnp.concatenate([x] * 8) for x in heads(256))

    def temporaries(form):
        total = lambda q, k, v: form(q, k, v, masks.Mask(causal=False), 0.3)[0].sum()
        made = jax.jit(jax.grad(total, (0, 1, 2))).lower(q, k, v).compile()
        return made.memory_analysis().temp_size_in_bytes

    scores = 16 * 4 * 256 * 256 * 4
    assert temporaries(attention.explicit) > 2 * scores > 3 * temporaries(attention.tiled)


def test_explicit_is_the_papers_formula():
    """Against loops in numpy: head h reads group h // R; softmax(q k / sqrt(K)) v."""
    q, k, v = (np.asarray(a, np.float64) for a in heads(7))
    out, weights = attention.explicit(*heads(7), masks.Mask(window=3), 1 / math.sqrt(8))
    for b in range(2):
        for h in range(4):
            for t in range(7):
                allowed = [s for s in range(7) if t - 3 < s <= t]
                scores = np.array([q[b, t, h] @ k[b, s, h // 2] for s in allowed]) / math.sqrt(8)
                p = np.exp(scores) / np.exp(scores).sum()
                expected = sum(w * v[b, s, h // 2] for w, s in zip(p, allowed))
                assert np.allclose(out[b, t, h], expected, atol=1e-5)
                assert np.allclose(weights[b, h, t, allowed], p, atol=1e-6)


def test_a_row_without_keys_stays_finite():
    q, k, v = heads(6)
    mask = masks.Mask(valid=jnp.zeros((2, 6), bool))
    out, _ = attention.explicit(q, k, v, mask, 1.0)
    assert bool(jnp.isfinite(out).all())


def test_rotation_depends_on_distance_alone():
    o = tiny.options("llama")
    q, k = (jax.random.normal(jax.random.key(i), (1, 1, 4, 8)) for i in (1, 2))
    rates = positions.frequencies(o)

    def score(i, j):
        turn = lambda x, p: positions.rotate(
            x, (jnp.cos(p * rates)[None, None], jnp.sin(p * rates)[None, None])
        )
        return (turn(q, i) * turn(k, j)).sum(-1)

    assert tiny.close(score(3.0, 1.0), score(13.0, 11.0))
    assert not tiny.close(score(3.0, 1.0), score(3.0, 2.0))


def test_llama3_scaling_has_three_bands():
    plain = positions.frequencies(tiny.options("llama", rope_scaling="none", head_size=64))
    scaled = positions.frequencies(
        tiny.options("llama", head_size=64, rope_factor=8.0, rope_original=256)
    )
    length = 2 * np.pi / plain
    ratio = plain / scaled
    assert np.allclose(ratio[length < 64], 1) and np.allclose(ratio[length > 256], 8)
    middle = ratio[(length > 64) & (length < 256)]
    assert middle.size and (middle > 1).all() and (middle < 8).all()


def test_sinusoids_are_the_papers():
    table = positions.sinusoid(jnp.arange(50)[None], 16)[0]
    for p, i in [(0, 0), (7, 2), (49, 14)]:
        angle = p / 10000 ** (i / 16)
        assert abs(table[p, i] - math.sin(angle)) < 1e-5
        assert abs(table[p, i + 1] - math.cos(angle)) < 1e-5


def test_default_positions_count_real_tokens():
    mask = jnp.asarray([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert positions.default(mask, jnp.asarray([0, 4])).tolist() == [
        [0, 0, 0, 1, 2],
        [4, 5, 6, 6, 6],
    ]
