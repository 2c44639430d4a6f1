"""Small models and data that the tests of the alignment loops share."""

import json

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from models import families
from train.core import forms
from train.core.config import complete
from train.core.state import fresh, make_step

SIZE = dict(
    vocab=288, context=24, layers=1, width=16, heads=2, ff=32,
    drop_embed=0.0, drop_attn=0.0, drop_resid=0.0, drop_head=0.0,
)  # fmt: skip
OWN = {  # sections that a loop reads
    "sft": dict(lora=dict(rank=0)),
    "reward": dict(lora=dict(rank=0), reward={}),
    "preference": dict(lora=dict(rank=0), preference={}),
    "ppo": dict(ppo={}, kl={}, reward={}, mix={}),
}
WORDS = ("good", "fine", "bad", "poor", "tea", "film")


def config(loop: str, folder, rows, head="lm", **changes) -> ConfigDict:
    """A config of two steps on rows written as a JSONL file."""
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = dict(head="classify", labels=1, score_bias=True) if head == "score" else {}
    made = ConfigDict(
        dict(
            loop=loop, steps=2, batch=8, length=20,
            model=families.row("gpt2", **SIZE, **own),
            data=dict(train=str(path), valid="", valid_share=0.25, tokenizer="byte", packing="none"),
            optim=dict(lr=1e-2, warmup=1), log=dict(every=1, tensorboard=False),
            init=dict(model=False), anomaly=dict(policy="stop"), **OWN[loop],
        )
    )  # fmt: skip
    made.update_from_flattened_dict(changes)
    return complete(made)


def gradients(task, batch, micro=1, scale=1.0):
    """(metrics, gradients by path) of a task's step on a batch from weights `scale` times as large."""
    tx = optax.sgd(1.0)

    def first():
        state = fresh(task, tx, 0, False)
        state.params = jax.tree.map(lambda x: x * scale if x.ndim > 1 else x, state.params)
        return state

    state = jax.jit(first)()
    before = jax.device_get(state.params)
    state, metrics = make_step(task, tx, seed=0, micro=micro)(state, task.frozen, batch)
    after = jax.device_get(state.params)
    found = forms.flat(jax.tree.map(np.subtract, before, after))
    return {name: float(x) for name, x in metrics.items()}, found


def same(a, b, tolerance=2e-6) -> bool:
    """True if two (metrics, gradients) agree and some gradient is not 0; AssertionError names which."""
    assert a[0]["loss"] != 0 or any(np.any(x) for x in a[1].values())
    assert a[0]["loss"] == np.float32(b[0]["loss"]) or abs(a[0]["loss"] - b[0]["loss"]) < tolerance
    for name, x in a[1].items():
        np.testing.assert_allclose(x, b[1][name], atol=tolerance, err_msg=name)
    assert max(np.abs(x).max() for x in a[1].values()) > 1e-4
    return True
