"""What a reward model gets right: accuracy beside its ceiling, by margin, calibration.

A pair counts as right where the preferred answer's score is strictly higher. The ceiling is how often
two labellers agree (of VADER's many raters, how often one agrees with their majority): about what a
model of one labeller's choices can be asked for; one of a majority's may lie above.
"""

import jax
import numpy as np

LABELS = ("better", "agreement", "rows", "margin")
QUARTERS = 4


def scores(model, variables, batch, last: int = 0, **more):
    """One score for each sequence [...]: tokens, mask (and token types) [...,T] of answers.

    A decoder reads it at the last real token, which is known to stand in the `last` slots if that is
    not 0, an encoder at its pooled state.
    """
    lead = batch["tokens"].shape[:-1]
    given = {
        name: batch[name].reshape(-1, batch[name].shape[-1])
        for name in ("tokens", "mask", "token_types")
        if name in batch and (name != "token_types" or model.o.token_types > 1)
    }
    if model.o.kind == "encoder":
        found = model.apply(variables, given, method="judged", **more)
    else:
        found = model.apply(variables, given, last=last, **more)["scores"]
    return found[:, 0].reshape(lead)


def build(model, batches, place=None, ceiling: float = float("nan")):
    """`run(variables) -> {name: float}` over held-out comparisons.

    batches: tokens, mask [n,K,T], better [n,K,K], agreement [n], rows [n]. accuracy and nll over
    pairs; ceiling; accuracy/margin_1..4 by quarter of the score's gap, from the smallest, and
    accuracy/clear_1..4 by quarter of the labellers' agreement where that is known; calibration: the
    mean gap between sigmoid(score difference) and how often that side was preferred, in ten bins;
    mean and deviation of the scores.
    """

    @jax.jit
    def score(variables, batch):
        return scores(model, variables, {k: x for k, x in batch.items() if k not in LABELS})

    def run(variables) -> dict:
        gaps, agreement, seen = [], [], []
        for batch in batches:
            found = score(variables, place(batch) if place else batch)
            if jax.process_count() > 1:
                from jax.experimental import multihost_utils

                gather = lambda x: multihost_utils.process_allgather(x, tiled=True)
                found, batch = gather(found), {k: gather(batch[k]) for k in LABELS[:3]}
            for row, better, share, real in zip(
                np.asarray(found), batch["better"], batch["agreement"], batch["rows"], strict=True
            ):
                if real:
                    at = np.argwhere(np.asarray(better) > 0)
                    gaps += (row[at[:, 0]] - row[at[:, 1]]).tolist()
                    agreement += [float(share)] * len(at)
                    seen += row[np.unique(at)].tolist()
        return summary(np.asarray(gaps), np.asarray(agreement), np.asarray(seen), ceiling)

    return run


def summary(gaps, agreement, seen, ceiling: float) -> dict:
    """The metrics of score gaps (preferred minus other) of pairs."""
    right = gaps > 0
    out = {
        "accuracy": float(right.mean()),
        "ties": float((gaps == 0).mean()),
        "nll": float(np.logaddexp(0, -gaps).mean()),
        "calibration": calibration(gaps),
        "score_mean": float(seen.mean()),
        "score_std": float(seen.std()),
        "pairs": float(len(gaps)),
    }
    if not np.isnan(ceiling):
        out["ceiling"] = float(ceiling)
    for name, by in (("margin", np.abs(gaps)), ("clear", agreement)):
        if len(gaps) >= QUARTERS and not np.isnan(by).any():
            order = np.argsort(by, kind="stable")
            for number, part in enumerate(np.array_split(order, QUARTERS), 1):
                out[f"accuracy/{name}_{number}"] = float(right[part].mean())
    return out


def calibration(gaps, bins: int = 10) -> float:
    """The expected calibration error of sigmoid(gap): both sides of a pair are asked.

    A pair gives its gap with the answer "preferred" and minus its gap with "not preferred", so that
    a model that says 0.7 should be right on 7 of 10 such pairs.
    """
    sure = 1 / (1 + np.exp(-np.abs(np.clip(gaps, -50, 50))))
    right = np.where(gaps == 0, 0.5, gaps > 0)
    place = np.minimum(((sure - 0.5) * 2 * bins).astype(int), bins - 1)
    error = 0.0
    for number in range(bins):
        here = place == number
        if here.any():
            error += here.mean() * abs(sure[here].mean() - right[here].mean())
    return float(error)
