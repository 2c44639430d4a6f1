"""Held-out likelihood: loss, perplexity, and bits per character and per byte.

Bits per character divides by the characters of the text, not by tokens, so that models with other
tokenizers can be compared. Every target of the held-out works counts exactly once.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from models.likelihood import token_log_probs

NAMES = ("loss", "perplexity", "bits_per_character", "bits_per_byte", "tokens")


def build(config, model, tokenizer, data: Mapping, place: Callable | None = None) -> Callable:
    """`run(variables) -> {loss, perplexity, bits_per_character, bits_per_byte, tokens}`.

    data: `batches`, a fixed list of dicts with tokens, targets, weights [B,T] (and what else the model
    reads), and the whole set's `tokens`, `characters` and `bytes`. `config.eval.batches` takes only
    the first so many (0: all); characters are then taken in proportion to tokens. place(batch) puts
    a batch on the devices. loss is in nats per token. Raises ValueError for data without targets.
    """
    limit = config.eval.get("batches", 0) or len(data["batches"])
    batches = list(data["batches"])[:limit]
    if not data["tokens"] or not batches:
        raise ValueError("the held-out set has no targets; give longer works or a shorter length")

    @jax.jit
    def score(variables, batch):
        inputs = {k: x for k, x in batch.items() if k not in ("targets", "weights")}
        x, _ = model.apply(variables, inputs, method="features")
        found = token_log_probs(
            lambda x: model.apply(variables, x, method="logits"), x, batch["targets"]
        )
        return -jnp.sum(found * batch["weights"]), jnp.sum(batch["weights"])

    def run(variables) -> dict:
        sums = [score(variables, place(b) if place else b) for b in batches]
        nats = math.fsum(float(nll) for nll, _ in sums)
        tokens = math.fsum(float(count) for _, count in sums)
        share = tokens / data["tokens"]
        loss = nats / tokens
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_character": nats / math.log(2) / (data["characters"] * share),
            "bits_per_byte": nats / math.log(2) / (data["bytes"] * share),
            "tokens": tokens,
        }

    return run
