"""Norms and experts against formulas written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from models import layers
from tests.models import tiny


def test_norms_are_their_formulas():
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 3, 32))) * 3 + 1
    for name, norm in (("gpt2", "layer"), ("llama", "rms")):
        o = tiny.options(name, norm_eps=0.1)
        module = layers.Norm(o)
        params = jax.tree.map(lambda w: w + 0.5, module.init(jax.random.key(0), x)["params"])
        out = module.apply({"params": params}, x)
        if norm == "layer":
            expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.1)
            expected = expected * 1.5 + 0.5
        else:
            expected = 1.5 * x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.1)
        assert tiny.close(out, expected)


def test_experts_drop_no_token_and_mix_the_top_k():
    """Against every expert applied to every token, in numpy."""
    o = tiny.options("moe", experts=5, experts_per_token=2)
    x = jax.random.normal(jax.random.key(3), (2, 6, 32))
    real = jnp.ones((2, 6)).at[1, 4:].set(0)
    module = layers.Experts(o)
    params = module.init(jax.random.key(0), x, real)["params"]
    params = jax.tree.map(lambda w: w * 20, params)
    y, sums = module.apply({"params": params}, x, real)
    w = {name: np.asarray(params[name]["kernel"], np.float64) for name in params}
    rows = np.asarray(x, np.float64).reshape(-1, 32)
    logits = rows @ w["router"]
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    expected, counts = np.zeros_like(rows), np.zeros(5)
    for n, row in enumerate(rows):
        best = np.argsort(-p[n])[:2]
        for e in best:
            gate = row @ w["gate"][e]
            h = gate / (1 + np.exp(-gate)) * (row @ w["up"][e])
            expected[n] += p[n, e] / p[n, best].sum() * (h @ w["down"][e])
            counts[e] += real.reshape(-1)[n]
    assert tiny.close(y, expected.reshape(2, 6, 32), 1e-4)
    assert np.array_equal(sums["counts"], counts) and sums["tokens"] == 10
    kept = np.asarray(real).reshape(-1) == 1
    assert np.allclose(sums["probs"], p[kept].sum(0), atol=1e-4)


def test_experts_have_gradients_for_weights_and_router():
    o = tiny.options("moe")
    x, real = jax.random.normal(jax.random.key(3), (1, 8, 32)), jnp.ones((1, 8))
    module = layers.Experts(o)
    params = jax.tree.map(lambda w: w * 10, module.init(jax.random.key(0), x, real)["params"])
    loss = lambda p: (module.apply({"params": p}, x, real)[0] ** 2).sum()
    grads = jax.grad(loss)(params)
    step = jax.tree.map(lambda g: g / (jnp.linalg.norm(g) + 1e-9), grads)
    for name in params:
        direction = {k: jax.tree.map(lambda g: g * (k == name), step[k]) for k in step}
        move = lambda s: loss(jax.tree.map(lambda p, d: p + s * d, params, direction))
        slope = (move(1e-2) - move(-1e-2)) / 2e-2
        expected = sum(jnp.vdot(grads[k]["kernel"], direction[k]["kernel"]) for k in grads)
        assert abs(slope - expected) < 2e-2 * abs(expected) + 1e-4, name
