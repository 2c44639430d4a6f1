"""How well a model predicts answers that people wrote: nats a token over the held-out answers."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from models.likelihood import of_tokens

NAMES = ("loss", "perplexity", "right", "tokens")


def every(make, count: int, size: int, process: int = 0, processes: int = 1) -> list:
    """All items in order, `size` to a batch over all processes.

    make(numbers): the batch of some items. Each batch has `rows` float32 [n], 0 for what only fills
    the last one.
    """
    share, made = size // processes, []
    for start in range(0, count, size):
        numbers = np.arange(start, start + size)[process * share : (process + 1) * share]
        batch = make(np.where(numbers < count, numbers, 0).tolist())
        made.append({**batch, "rows": (numbers < count).astype(np.float32)})
    return made


def build(model, batches, place=None):
    """`run(variables) -> {loss, perplexity, right, tokens}`.

    batches: tokens, mask, weights [B,T] and `rows` [B]. loss is in nats per weighted token; `right`
    is the share of answers that the model would write to the letter, token by token after the
    person's own.
    """

    @jax.jit
    def score(variables, batch):
        given = {name: x for name, x in batch.items() if name not in ("weights", "rows")}
        found, _ = of_tokens(model, variables, given)
        x, _ = model.apply(variables, given, method="features")
        best = jnp.argmax(model.apply(variables, x, method="logits"), -1)[:, :-1]
        weights = batch["weights"] * batch["rows"][:, None]
        wrong = jnp.sum((best != given["tokens"][:, 1:]) * weights[:, 1:], -1)
        right = jnp.sum((wrong == 0) * batch["rows"])
        return -jnp.sum(found * weights), jnp.sum(weights), right, jnp.sum(batch["rows"])

    def run(variables) -> dict:
        sums = [score(variables, place(b) if place else b) for b in batches]
        nats, tokens, right, rows = (
            math.fsum(map(float, each)) for each in zip(*sums, strict=True)
        )
        loss = nats / tokens
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "right": right / rows,
            "tokens": tokens,
        }

    return run
