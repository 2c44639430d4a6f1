"""A small language model of plain functions, for tests of the trainer: no module system in sight."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from train.core import forms, shard
from train.core.state import Task, fresh, make_step

V, D, F, L = 16, 8, 16, 2


def config(**changes) -> ConfigDict:
    c = ConfigDict(
        {
            "loop": "lm",
            "seed": 0,
            "steps": 6,
            "batch": 8,
            "length": 4,
            "micro": 1,
            "phases": (),
            "model": {"width": D, "scan": False, "remat": "none"},
            "optim": {
                "name": "adamw", "lr": 1e-2, "schedule": "cosine", "warmup": 1, "decay_steps": 0,
                "end": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-8, "weight_decay": 0.1,
                "decay": r"(kernel|embedding)$", "freeze": "", "multipliers": (), "clip": 1.0,
                "ema": 0.0, "state_dtype": "float32",
            },
            "mesh": {"data": 1, "fsdp": 1, "tensor": 1},
            "eval": {"every": 0, "batches": 0, "first": False},
            "checkpoint": {"every": 0, "keep": 3},
            "log": {"every": 1, "tensorboard": False, "wandb": False, "profile": (), "peak": 1e12},
            "init": {"checkpoint": "", "reference": ""},
        }
    )  # fmt: skip
    with c.unlocked():
        c.update_from_flattened_dict(changes)
    return c


def init(key, scan=False, scale=0.5):
    keys = jax.random.split(key, 3)
    up = scale * jax.random.normal(keys[1], (L, D, F))
    down = scale * jax.random.normal(keys[2], (L, F, D))
    blocks = {"mlp": {"up": {"kernel": up}, "down": {"kernel": down}}}
    if not scan:
        blocks = {str(i): jax.tree.map(lambda x, i=i: x[i], blocks) for i in range(L)}
    table = scale * jax.random.normal(keys[0], (V, D))
    return {"embed": {"tokens": {"embedding": table}}, "blocks": blocks}, {}


def logits(params, tokens, rng=None, rate=0.0):
    x = params["embed"]["tokens"]["embedding"][tokens]
    blocks = params["blocks"]
    if "0" not in blocks:
        blocks = {str(i): jax.tree.map(lambda x, i=i: x[i], blocks) for i in range(L)}
    for i in range(L):
        mlp = blocks[str(i)]["mlp"]
        x = x + jnp.tanh(x @ mlp["up"]["kernel"]) @ mlp["down"]["kernel"]
    if rate:
        keep = jax.random.bernoulli(rng, 1 - rate, x.shape)
        x = jnp.where(keep, x / (1 - rate), 0)
    return x @ params["embed"]["tokens"]["embedding"].T


def batch(seed, step, rows=8, length=4):
    r = np.random.default_rng((seed, step))
    draw = lambda: r.integers(0, V, (rows, length)).astype(np.int32)
    weights = (r.random((rows, length)) < np.linspace(0.1, 1.0, rows)[:, None]).astype(np.float32)
    weights[-1] = 1
    return {"tokens": draw(), "targets": draw(), "weights": weights}


def task(c=None, dropout=0.0, scan=False, **changes) -> Task:
    c = c or config()

    def loss(params, frozen, extra, batch, rng, totals):
        scores = jax.nn.log_softmax(logits(params, batch["tokens"], rng, dropout))
        nll = -jnp.take_along_axis(scores, batch["targets"][..., None], -1)[..., 0]
        summed = (nll * batch["weights"]).sum()
        return summed / totals["targets"], (extra, {"nll": (summed, batch["weights"].sum())})

    made = {
        "init": lambda key: init(key, scan),
        "loss": loss,
        "totals": lambda batch: {"targets": batch["weights"].sum()},
        "batches": lambda step: batch(c.seed, step, c.batch, c.length),
        "dropout": dropout > 0,
        "fingerprint": {"tokens": 1000, "tokenizer": "abc"},
    }
    return Task(**{**made, **changes})


def digest(tree) -> str:
    """SHA-256 over the bytes of every leaf, in order."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(jax.device_get(tree)):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def gradients(made, micro=1, sizes=(1, 1, 1)):
    """(metrics, gradients by path, the parameters before) of a task's first step on a mesh."""
    tx = optax.sgd(1.0)
    where = shard.mesh(dict(zip(shard.AXES, sizes, strict=True)))
    with jax.set_mesh(where):
        make = lambda: fresh(made, tx, 0, False)
        kept = shard.state(jax.eval_shape(make), where)
        state = jax.jit(make, out_shardings=kept)()
        before = jax.device_get(forms.apart(state.params))
        step = make_step(made, tx, seed=0, micro=micro, shardings=kept)
        state, metrics = step(state, (), shard.place(made.batches(0), where))
        after = jax.device_get(forms.apart(state.params))
    metrics = {name: float(x) for name, x in metrics.items()}
    return metrics, forms.flat(jax.tree.map(np.subtract, before, after)), before
