"""The terms of losses against plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np

from train.core import losses


def test_cross_entropy_is_the_weighted_mean_and_its_parts_add():
    r = np.random.default_rng(0)
    x, table = (
        r.normal(size=(4, 6, 8)).astype(np.float32),
        r.normal(size=(8, 11)).astype(np.float32),
    )
    targets = r.integers(0, 11, (4, 6))
    weights = (r.random((4, 6)) < 0.5).astype(np.float32)
    scores = x.astype(np.float64) @ table
    log_probs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
    wanted = -(chosen * weights).sum() / weights.sum()
    head = lambda x: x @ table
    for chunk in (0, 2, 5):
        loss, sums = losses.cross_entropy(head, x, targets, weights, weights.sum(), chunk)
        np.testing.assert_allclose(loss, wanted, rtol=1e-5)
        np.testing.assert_allclose(sums["nll"][0] / sums["nll"][1], wanted, rtol=1e-5)
    cut = sum(
        losses.cross_entropy(head, x[i::2], targets[i::2], weights[i::2], weights.sum())[0]
        for i in range(2)
    )
    np.testing.assert_allclose(cut, wanted, rtol=1e-5)


def reference_balance(logits, mask, k):
    """Fedus et al. eq. 4 over the tokens of all layers together, written out: [L,N,E] and [N]."""
    layers, _, experts = logits.shape
    rows = np.concatenate([logits[i][mask > 0] for i in range(layers)])
    probs = np.exp(rows) / np.exp(rows).sum(-1, keepdims=True)
    top = np.argsort(-rows, -1)[:, :k]
    share = np.array([(top == e).sum() / len(rows) for e in range(experts)])
    return experts * (share * probs.mean(0)).sum()


def test_balance_is_pooled_over_layers_before_it_is_multiplied():
    r = np.random.default_rng(1)
    logits, mask, k = 2 * r.normal(size=(3, 20, 4)), np.ones(20), 2
    mask[[0, 5, 6]] = 0
    real = logits[:, mask > 0]
    probs = np.asarray(jax.nn.softmax(jnp.asarray(real, jnp.float32), -1)).sum(1)
    top = np.argsort(-real, -1)[..., :k]
    counts = np.stack([(top == e).sum((1, 2)) for e in range(4)], -1)
    router = {"probs": jnp.asarray(probs), "counts": jnp.asarray(counts), "tokens": jnp.full(3, 17)}
    wanted = reference_balance(logits, mask, k)
    np.testing.assert_allclose(losses.balance(router, 4), wanted, rtol=1e-5)
    apart = np.mean(
        [losses.balance(jax.tree.map(lambda x, i=i: x[i : i + 1], router), 4) for i in range(3)]
    )
    assert abs(apart - wanted) > 1e-3, "the mean of the layers' losses is another number"


def test_even_routing_costs_k():
    router = {
        "probs": jnp.full((2, 4), 2.5),
        "counts": jnp.full((2, 4), 5),
        "tokens": jnp.full(2, 10),
    }
    np.testing.assert_allclose(losses.balance(router, 4), 2.0, rtol=1e-6)
