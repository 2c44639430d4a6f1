"""What a batch of judged answers costs a policy, and what to watch of it: `train.preference`'s losses.

Answers are rows of log-probabilities of tokens [n,2,T], the chosen first, or [n,1,T] one by one; `weights` are
1 on an answer, `rows` 0 where a row only fills the batch. `totals` are of the whole batch.
"""

import jax.numpy as jnp

from train.core import preferences

AHEAD = ("kto", "bco")  # whose loss needs the whole batch's log-ratios first


def pairs(ours, theirs, batch, how, totals):
    """The loss of pairs [n,2,T], the chosen first, and what to watch."""
    weights = preferences.shortened(batch["weights"], how["excess"])
    real = batch.get("rows", jnp.ones(weights.shape[0]))
    count = real.sum()
    policy = preferences.answer_log_probs(ours, weights, how["mean"])
    reference = preferences.answer_log_probs(theirs, weights, how["mean"])
    ratio = policy - reference
    chosen, rejected = ratio[:, 0], ratio[:, 1]
    if how["loss"] == "aot":
        sides = policy[:, 0] - policy[:, 1], reference[:, 0] - reference[:, 1]
        each = preferences.transported(*sides, real, how["beta"])
    elif how["loss"] == "aot_unpaired":
        each = preferences.transported(chosen, rejected, real, how["beta"])
    elif how["loss"] == "bco":
        each = preferences.bco(chosen, rejected, totals["both"] / totals["rows"] / 2, how["beta"])
    else:
        given = how["loss"], how["beta"], how["wrong"], how["divergence"]
        each = preferences.pair(chosen, rejected, *given)
    value = (each * real).sum() / totals["rows"]
    if how["sft"]:
        written = (ours * batch["weights"])[:, 0].sum(-1) * real
        value = value - how["sft"] * written.sum() / totals["tokens"]
    beta = how["beta"]
    rows = {
        "reward_chosen": beta * chosen,
        "reward_rejected": beta * rejected,
        "margin": beta * (chosen - rejected),
        "accuracy": (chosen > rejected).astype(jnp.float32),
        "chosen": policy[:, 0],
        "rejected": policy[:, 1],
    }
    return value, {name: ((x * real).sum(), count) for name, x in rows.items()}


def side(batch, which: slice) -> dict:
    """The answers [n,1,T] of a batch of KTO's [n,2,T]: the judged ones first, the mismatched second."""
    return {name: x[:, which] if x.ndim == 3 else x for name, x in batch.items()}


def log_ratios(ours, theirs, batch):
    """log pi / pi_ref [n,S] of answers [n,S,T], 0 where a row only fills the batch."""
    found = preferences.answer_log_probs(ours - theirs, batch["weights"])
    return found * batch.get("rows", jnp.ones(len(found)))[:, None]


def single(ours, theirs, batch, how, totals):
    """The loss of answers that were called good or bad [n,1,T].

    totals["mismatched"]: the sum of the whole batch's log-ratios of mismatched answers.
    """
    good, real = batch["good"], batch.get("rows", jnp.ones(batch["good"].shape[0]))
    ratio = log_ratios(ours, theirs, batch)[:, 0]
    point = preferences.kto_reference(totals["mismatched"][None], jnp.zeros(1), totals["rows"])
    each = preferences.kto(ratio, good, point, how["beta"], (how["good"], how["bad"]))
    sums = {"reference_kl": (point * real.sum(), real.sum())}
    for name, which in (("reward_chosen", good), ("reward_rejected", ~good)):
        sums[name] = (how["beta"] * ratio * which * real).sum(), (which * real).sum()
    return (each * real).sum() / totals["rows"], sums
