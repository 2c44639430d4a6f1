"""What a model of images gets right: accuracy, the right class among the five best, the loss.

classify: accuracy, top5, loss (nats). multilabel: mean_average_precision over the classes that occur,
loss (the mean binary cross-entropy).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from eval import classify, metrics
from models.likelihood import pick

NAMES = {
    "classify": ("accuracy", "top5", "loss", "skipped"),
    "multilabel": ("mean_average_precision", "loss", "skipped"),
}


def outputs(model, variables, batch):
    """Class scores [B,C], float32, of `images`; with two heads their mean. Nothing is dropped."""
    given = {"images": batch["images"]}
    x, _ = states(model, variables, given)
    return model.apply(variables, x, given, method="scores")


def states(model, variables, given, **more):
    """What the model's `features` gives, of the states alone that its scores are read from."""
    spared = {"first": model.read} if model.o.kind == "vit" else {}
    return model.apply(variables, given, method="features", **spared, **more)


def build(model, task: str, held, place: Callable | None = None) -> Callable:
    """`run(variables) -> {name: float}` over `held`, an iterable of batches that knows its `count`.

    Batches have `images`, `targets` and `rows`, which is 0 for a row that does not count. Pictures
    that were skipped are reported as `skipped`, where there are any.
    """

    @jax.jit
    def score(variables, batch):
        return outputs(model, variables, batch)

    def run(variables) -> dict:
        gold = []
        found = classify.collect(score, variables, noted(held, gold), place)
        made = SCORES[task](found, np.concatenate(gold))
        skipped = getattr(held, "count", 0)
        return {**made, "skipped": float(skipped)} if skipped else made

    return run


def noted(held, gold):
    """The batches without their targets, which are put into `gold`, of all processes."""
    for batch in held:
        targets, rows = batch["targets"], batch["rows"]
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            targets = multihost_utils.process_allgather(targets, tiled=True)
            rows = multihost_utils.process_allgather(rows, tiled=True)
        gold.append(np.asarray(targets)[np.asarray(rows) > 0])
        yield {"images": batch["images"], "rows": batch["rows"]}


def _classify(found, gold) -> dict:
    gold = gold.astype(np.int32)
    best = min(5, found.shape[1])
    top = np.argpartition(-found, best - 1, axis=1)[:, :best]
    return {
        "accuracy": metrics.accuracy(found.argmax(1), gold),
        "top5": float(np.mean((top == gold[:, None]).any(1))),
        "loss": float(-np.mean(pick(jnp.asarray(found), jnp.asarray(gold)))),
    }


def _multilabel(found, gold) -> dict:
    scores, gold = jnp.asarray(found), jnp.asarray(gold)
    return {
        "mean_average_precision": average_precision(found, np.asarray(gold)),
        "loss": float(jnp.mean(binary(scores, gold))),
    }


def binary(scores, targets):
    """Binary cross-entropy of logits in nats, [...] -> [...], stable for large ones."""
    return jnp.maximum(scores, 0) - scores * targets + jnp.log1p(jnp.exp(-jnp.abs(scores)))


def average_precision(scores, gold) -> float:
    """The mean over classes of the precision at each right answer, best scores first: [N,C].

    Rows of equal scores are answers at once, in whatever order they stand, as in scikit-learn.
    """
    found = []
    for column in range(gold.shape[1]):
        order = np.argsort(-scores[:, column], kind="stable")
        value, right = scores[order, column], gold[order, column] > 0
        if right.any():
            last = np.append(np.flatnonzero(value[1:] != value[:-1]), len(value) - 1)
            last = last[np.searchsorted(last, np.arange(len(value)))]  # of each row's equals
            precision = np.cumsum(right)[last] / (last + 1)
            found.append(precision[right].mean())
    return float(np.mean(found)) if found else float("nan")


SCORES = {"classify": _classify, "multilabel": _multilabel}
