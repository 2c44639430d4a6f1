"""Held-out masked-token figures, and pseudo-perplexity.

The held-out rows and their masks are always the same, so that two evaluations can be compared.
Perplexity of masked tokens is exp of the mean nats per predicted token. Pseudo-perplexity (Salazar et
al. 2020, eq. 5) masks one token at a time and gives the model all the others.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from models.likelihood import pick

PAIRS = {"next": "next_sentence", "order": "sentence_order"}
LABELS = ("slots", "targets", "weights", "pair", "rows")
NAMES = ("loss", "perplexity", "accuracy", "targets")
PSEUDO = ("pseudo_perplexity", "tokens")


def inputs(batch: Mapping, o) -> dict:
    """What the model reads of a batch; token types only where it has a table for them."""
    left = LABELS + (() if o.token_types > 1 else ("token_types",))
    return {name: x for name, x in batch.items() if name not in left}


def pair(config) -> str:
    """What the figures of `config.data.pair` are called: next_sentence, sentence_order, or pair."""
    return PAIRS.get(config.get("data", {}).get("pair", ""), "pair")


def names(config, o) -> tuple:
    """What `build`'s run says of a model with these options."""
    more = ("loss", "accuracy") if o.head in ("pretrain", "pair") else ()
    return (*NAMES, *(f"{pair(config)}_{name}" for name in more))


def build(config, model, tokenizer, data: Mapping, place: Callable | None = None) -> Callable:
    """`run(variables) -> {loss, perplexity, accuracy, targets}` of the masked tokens.

    A model with a pair head adds the loss and the accuracy of what `pair` above calls it:
    `next_sentence_accuracy` for BERT, `sentence_order_accuracy` for ALBERT.

    data: `batches` with slots, targets, weights [B,M], `rows` [B] (0: not counted), and `pair` [B] for
    a model with a pair head. `config.eval.batches` takes only the first so many (0: all).
    """
    limit = config.eval.get("batches", 0) or len(data["batches"])
    batches = list(data["batches"])[:limit]
    paired = model.o.head in ("pretrain", "pair")

    @jax.jit
    def score(variables, batch):
        given = inputs(batch, model.o)
        x, scores = model.apply(variables, given, batch["slots"], method="picked")
        logits = model.apply(variables, x, method="logits")
        weights = batch["weights"]
        hit = (jnp.argmax(logits, -1) == batch["targets"]) * weights
        sums = [jnp.sum(weights), -jnp.sum(pick(logits, batch["targets"]) * weights), jnp.sum(hit)]
        if paired:
            real = batch["rows"]
            right = (jnp.argmax(scores, -1) == batch["pair"]) * real
            sums += [real.sum(), -jnp.sum(pick(scores, batch["pair"]) * real), right.sum()]
        return jnp.stack(sums)

    def run(variables) -> dict:
        sums = [np.asarray(score(variables, place(b) if place else b), np.float64) for b in batches]
        count, nats, hits, *pairs = np.sum(sums, 0)
        loss = float(nats / count)
        found = {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "accuracy": float(hits / count),
            "targets": float(count),
        }
        if paired:
            found[f"{pair(config)}_loss"] = pairs[1] / pairs[0]
            found[f"{pair(config)}_accuracy"] = pairs[2] / pairs[0]
        return found

    return run


def pseudo(model, frame, batches, rows: int, size: int = 64) -> Callable:
    """`run(variables) -> {pseudo_perplexity, tokens}` of the first `rows` rows of unmasked text.

    frame: has `mask` and the special ids `cls, sep, pad`, which are not scored. batches: as `build`
    takes them; the predicted tokens are put back first. Costs a forward pass per token, `size` of
    them at once.
    """
    given = _plain(batches, rows)
    special = [frame.cls, frame.sep, frame.pad]
    places = [
        (row, slot)
        for row in range(len(given["tokens"]))
        for slot in np.flatnonzero(
            (given["mask"][row] > 0) & ~np.isin(given["tokens"][row], special)
        )
    ]

    @jax.jit
    def score(variables, batch, slots, targets, weights):
        x, _ = model.apply(variables, inputs(batch, model.o), slots[:, None], method="picked")
        logits = model.apply(variables, x, method="logits")
        return -jnp.sum(pick(logits[:, 0], targets) * weights)

    def run(variables) -> dict:
        nats = []
        for start in range(0, len(places), size):
            group = np.asarray(places[start : start + size])
            weights = np.ones(size, np.float32)
            weights[len(group) :] = 0
            group = np.concatenate([group, np.repeat(group[:1], size - len(group), 0)])
            numbers, slots = group.T
            batch = {name: x[numbers] for name, x in given.items()}
            targets = batch["tokens"][np.arange(size), slots]
            batch["tokens"] = batch["tokens"].copy()
            batch["tokens"][np.arange(size), slots] = frame.mask
            nats.append(float(score(variables, batch, slots, targets, weights)))
        mean = math.fsum(nats) / len(places)
        return {"pseudo_perplexity": math.exp(min(mean, 700.0)), "tokens": float(len(places))}

    return run


def _plain(batches, rows: int) -> dict:
    """The inputs of the first rows, with the predicted tokens back in their slots."""
    made = []
    for batch in batches:
        tokens = np.array(batch["tokens"])
        at, column = np.nonzero(np.asarray(batch["weights"]) > 0)
        tokens[at, batch["slots"][at, column]] = batch["targets"][at, column]
        kept = np.asarray(batch["rows"]) > 0
        names = ("mask", "token_types")
        made.append({"tokens": tokens[kept], **{n: np.asarray(batch[n])[kept] for n in names}})
    return {name: np.concatenate([m[name] for m in made])[:rows] for name in made[0]}
