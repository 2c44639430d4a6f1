"""Chunked log-probabilities against log_softmax, values and gradients."""

import jax
import jax.numpy as jnp
import pytest

from models.build import build, example
from models.likelihood import of_tokens, pick, token_log_probs
from tests.models import tiny


def reference(table, x, targets):
    logits = jnp.einsum("btd,vd->btv", x, table)
    return jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]


@pytest.mark.parametrize("chunk", [0, 1, 3, 5, 100])
def test_chunks_change_nothing(chunk):
    table = jax.random.normal(jax.random.key(0), (61, 8))
    x, targets = jax.random.normal(jax.random.key(1), (2, 12, 8)), tiny.tokens(2)
    weights = jax.random.normal(jax.random.key(2), (2, 12))
    ours = lambda table, x: token_log_probs(
        lambda h: jnp.einsum("btd,vd->btv", h, table), x, targets, chunk
    )
    assert tiny.close(ours(table, x), reference(table, x, targets))
    grads = jax.grad(lambda *a: (ours(*a) * weights).sum(), (0, 1))(table, x)
    expected = jax.grad(lambda *a: (reference(*a, targets) * weights).sum(), (0, 1))(table, x)
    assert all(tiny.close(a, b) for a, b in zip(grads, expected))


def test_closed_form_gradient_in_float64():
    with jax.enable_x64(True):
        logits = jax.random.normal(jax.random.key(0), (3, 7), jnp.float64) * 5
        targets = jnp.asarray([0, 6, 3])
        plain = lambda z: (
            jax.nn.log_softmax(z)[jnp.arange(3), targets] * jnp.asarray([1.0, -2, 3])
        ).sum()
        closed = lambda z: (pick(z, targets) * jnp.asarray([1.0, -2, 3])).sum()
        assert float(jnp.abs(jax.grad(plain)(logits) - jax.grad(closed)(logits)).max()) < 1e-14


def test_the_whole_vocabulary_is_never_built():
    table = jnp.zeros((1000, 8))
    x, targets = jnp.zeros((4, 64, 8)), jnp.zeros((4, 64), int)
    run = lambda t, x: token_log_probs(
        lambda h: jnp.einsum("btd,vd->btv", h, t), x, targets, 8
    ).sum()
    text = jax.jit(jax.grad(run, (0, 1))).lower(table, x).as_text()
    assert "4x8x1000" in text and "4x64x1000" not in text


def test_smoothed_labels_are_spread_over_the_vocabulary():
    with jax.enable_x64(True):
        logits = jax.random.normal(jax.random.key(0), (3, 7), jnp.float64) * 5
        targets, weights = jnp.asarray([0, 6, 3]), jnp.asarray([1.0, -2, 3])
        labels = 0.8 * jax.nn.one_hot(targets, 7) + 0.2 / 7
        plain = lambda z: ((labels * jax.nn.log_softmax(z)).sum(-1) * weights).sum()
        closed = lambda z: (pick(z, targets, 0.2) * weights).sum()
        assert float(jnp.abs(plain(logits) - closed(logits))) < 1e-13
        assert float(jnp.abs(jax.grad(plain)(logits) - jax.grad(closed)(logits)).max()) < 1e-14


def test_the_last_tokens_alone_are_as_they_are_among_all():
    o = tiny.options("gpt2")
    model = build(o)
    params = model.init(jax.random.key(0), example(o))["params"]
    tokens = tiny.tokens(2)[:, :9]
    mask = jnp.ones_like(tokens).at[0, :3].set(0)
    batch, heads = {"tokens": tokens, "mask": mask}, []

    def log_probs(params, last):
        found, _ = of_tokens(model, {"params": params}, batch, 0.7, o.vocab - 3, last)
        heads.append(found.shape)
        return found[:, -4:]

    whole, part = log_probs(params, 0), log_probs(params, 4)
    assert heads == [(2, 9), (2, 4)] and tiny.close(whole, part)
    grads = [jax.grad(lambda p, n=n: log_probs(p, n).sum())(params) for n in (0, 4)]
    assert all(tiny.close(a, b) for a, b in zip(*map(jax.tree.leaves, grads), strict=True))
