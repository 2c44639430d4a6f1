"""A model of bigrams, to ask what a loop's loss does with log-probabilities that can be written down."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np

from tests.train import aligned
from train import ppo

VOCAB, TIME, NEW = 7, 6, 4


class Bigrams:
    """Logits of the next token are `w[token]`, a value is `u[token]`, a score that of the last token."""

    o = types.SimpleNamespace(vocab=VOCAB, dropout=False, token_types=0, kind="decoder")

    def apply(self, variables, x, method=None, **_):
        params = variables["params"]
        if method == "features":
            table = params["w"] if "w" in params else params["u"]
            return table[x["tokens"]], {}
        if method in ("logits", "values"):
            return x
        last = jnp.max(jnp.where(x["mask"] > 0, jnp.arange(x["mask"].shape[1]), 0), 1)
        tokens = jnp.take_along_axis(x["tokens"], last[:, None], 1)
        return {"scores": params["u"][tokens[:, 0]]}


def policy_task(folder, **changes):
    """(task of `train.ppo`, parameters, batch of 8 ragged answers, how) of a policy of bigrams."""
    rows = [{"prompt": "a", "target": "b"}]
    given = {"ppo.new": NEW, "reward.kind": "letters", "ppo.minibatches": 1, "ppo.epochs": 1}
    made = aligned.config("ppo", folder, rows, **{**given, **changes})
    how = ppo.settings(made)
    stream = types.SimpleNamespace(batch=None, fingerprint={})
    setting = types.SimpleNamespace(how=how, stream=stream, minibatch=None, carry=dict)
    tokenizer = types.SimpleNamespace(vocab=VOCAB)
    o = types.SimpleNamespace(dropout=False)
    value = o if how["ppo"]["method"] == "ppo" else None
    task = ppo.make_task(made, o, value, tokenizer, setting, {})
    rng = np.random.default_rng(3)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    params = {"policy": {"w": draw(VOCAB, VOCAB)}}
    if value is not None:
        params["value"] = {"u": draw(VOCAB, 1)}
    lengths = np.asarray([1, 2, 3, 4, 4, 2, 3, 1])
    answer = (np.arange(NEW) < lengths[:, None]).astype(np.float32)
    batch = {
        "tokens": rng.integers(VOCAB, size=(8, TIME)).astype(np.int32),
        "answer": answer,
        "mask": np.concatenate([np.ones((8, TIME - NEW)), answer], 1).astype(np.int32),
        "advantages": draw(8, NEW), "returns": draw(8, NEW), "values": draw(8, NEW),
    }  # fmt: skip
    now = log_probs(params, batch, how["ppo"]["temperature"])
    batch["old"] = (now + 0.3 * draw(8, NEW)).astype(np.float32)
    batch["reference"] = (now + 0.3 * draw(8, NEW)).astype(np.float32)
    if how["mix"]["weight"]:
        batch["mix_tokens"] = rng.integers(VOCAB, size=(8, 5)).astype(np.int32)
        batch["mix_targets"] = rng.integers(VOCAB, size=(8, 5)).astype(np.int32)
        batch["mix_weights"] = (rng.random((8, 5)) < 0.6).astype(np.float32)
    return task, params, batch, how


def log_probs(params, batch, temperature: float = 1.0) -> np.ndarray:
    """log p of the answers' tokens [n,R] at a temperature, by hand."""
    logits = np.asarray(params["policy"]["w"], np.float64)[batch["tokens"][:, :-1]] / temperature
    found = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.take_along_axis(found, batch["tokens"][:, 1:, None], -1)[:, -NEW:, 0]


def invariant(task, params, batch, padded, frozen=(), tolerance=1e-6) -> float:
    """The loss of a batch; AssertionError unless row by row and `padded` give its value and gradient."""

    @jax.jit
    def both(params, batch):
        totals = dict(task.totals(batch))
        if task.window is not None:
            rows = jax.tree.map(lambda x: x[:, None], batch)
            seen = jax.lax.map(lambda row: task.window(params, frozen, {}, row), rows)
            totals |= jax.tree.map(lambda x: x.sum(0), seen)
        value = jax.value_and_grad(
            lambda p, part: task.loss(p, frozen, {}, part, None, totals), has_aux=True
        )
        (whole, (_, sums)), slope = value(params, batch)
        one = lambda row: value(params, jax.tree.map(lambda x: x[None], row))
        (parts, (_, apart)), slopes = jax.lax.map(one, batch)
        added = jax.tree.map(lambda x: x.sum(0), (parts, slopes, apart))
        return (whole, slope, sums), added

    whole, added = both(params, batch)
    other, _ = both(params, padded)
    for found, what in ((added, "row by row"), (other, "padded")):
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(found), strict=True):
            np.testing.assert_allclose(a, b, atol=tolerance, rtol=1e-4, err_msg=what)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(whole[1])) > 1e-4
    return float(whole[0])


def replaced(task, params):
    """The task with those first parameters."""
    return dataclasses.replace(task, init=lambda key: (params, {}))
