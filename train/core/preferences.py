"""Losses of preferences: reward models (pairs, rankings), and policies trained on pairs directly.

A reward model gives scores; a policy has log-probabilities of whole answers (sums over the answer's
tokens, its end included, the prompt left out) and those of a frozen reference. Every function gives
a loss for each pair or prompt; what a mean divides by is the loop's.
"""

import jax
import jax.numpy as jnp

from train.core.errors import nearest

log_sigmoid = jax.nn.log_sigmoid


def bradley_terry(chosen, rejected, margin=0.0, centre: float = 0.0):
    """-log sigmoid(r_w - r_l - margin) + centre (r_w + r_l)^2 of every pair.

    Without `centre` a constant added to all scores changes nothing (Stiennon et al. 2020; the margin
    is that of Touvron et al. 2023, the centring that of Eisenstein et al. 2023 with centre 0.01).
    """
    return -log_sigmoid(chosen - rejected - margin) + centre * jnp.square(chosen + rejected)


def ranked(scores, better, margin: float = 0.0, centre: float = 0.0):
    """(loss, pairs, right) of each prompt, from K answers scored once (Ouyang et al. 2022, eq. 1).

    scores [B,K]; better [B,K,K]: 1 where answer i is preferred to answer j. The loss is the mean over
    a prompt's pairs, so that one with 9 answers weighs as much as one with 4; ties make no pair, and
    a prompt without a pair has loss 0. right counts pairs with a strictly higher score.
    """
    loss = bradley_terry(scores[:, :, None], scores[:, None, :], margin, centre)
    pairs = jnp.sum(better, (1, 2))
    right = jnp.sum(better * (scores[:, :, None] > scores[:, None, :]), (1, 2))
    return jnp.sum(loss * better, (1, 2)) / jnp.maximum(pairs, 1), pairs, right


def plackett_luce(scores):
    """-log of the probability of a ranking, scores [...,K] from best to worst (Plackett 1975)."""
    rest = jax.lax.cumlogsumexp(scores, axis=scores.ndim - 1, reverse=True)
    return jnp.sum(rest - scores, -1)


def best_of(scores, best=0):
    """-log softmax of the best of K scores [...,K] (Ziegler et al. 2019, equation 1)."""
    return jax.nn.logsumexp(scores, -1) - scores[..., best]


def _exo(c, r, beta, e):
    """KL of (1 - e, e) from the policy's two, the other way round (Ji et al. 2024)."""
    up, down = log_sigmoid(beta * (c - r)), log_sigmoid(beta * (r - c))
    return jnp.exp(up) * (up - jnp.log1p(-e)) + jnp.exp(down) * (down - jnp.log(e))


def _dpo(c, r, beta):
    return -log_sigmoid(beta * (c - r))


def _discopop(c, r, beta):
    """Logistic and exponential loss, blended by the margin (Lu et al. 2024, at a temperature of 0.05)."""
    margin = beta * (c - r)
    share = jax.nn.sigmoid(margin / 0.05)
    return -log_sigmoid(margin) * (1 - share) + jnp.exp(-margin) * share


# c and r: log pi / pi_ref of the chosen and the rejected answer; e: the share of labels that are wrong.
LOSSES = {
    "dpo": lambda c, r, beta, e: _dpo(c, r, beta),
    "cdpo": lambda c, r, beta, e: (1 - e) * _dpo(c, r, beta) + e * _dpo(r, c, beta),
    "robust": lambda c, r, beta, e: (
        ((1 - e) * _dpo(c, r, beta) - e * _dpo(r, c, beta)) / (1 - 2 * e)
    ),
    "hinge": lambda c, r, beta, e: jax.nn.relu(1 - beta * (c - r)),
    "ipo": lambda c, r, beta, e: jnp.square(c - r - 1 / (2 * beta)),
    "nca": lambda c, r, beta, e: (
        -log_sigmoid(beta * c) - log_sigmoid(-beta * c) / 2 - log_sigmoid(-beta * r) / 2
    ),
    "sppo": lambda c, r, beta, e: jnp.square(c - 0.5 / beta) + jnp.square(r + 0.5 / beta),
    "apo_zero": lambda c, r, beta, e: 1 - jax.nn.sigmoid(beta * c) + jax.nn.sigmoid(beta * r),
    "apo_down": lambda c, r, beta, e: jax.nn.sigmoid(beta * c) + 1 - jax.nn.sigmoid(beta * (c - r)),
    "exo": _exo,
    "discopop": lambda c, r, beta, e: _discopop(c, r, beta),
}
WHOLE = ("bco", "aot", "aot_unpaired")  # losses that a pair has only within its batch
SMOOTHED = ("cdpo", "robust", "exo")  # whose labels may be wrong by a share
MEANS = ("none", "tokens")
# f' of the divergence that stands for KL's, of a log-ratio and up to a constant (Wang et al. 2024, table 1;
# alpha is 1/2).
DIVERGENCES = {
    "reverse_kl": lambda x: x,
    "forward_kl": lambda x: -jnp.exp(-x),
    "js": log_sigmoid,
    "alpha": lambda x: -2 * jnp.exp(-x / 2),
}
DIVERGENT = ("dpo", "cdpo", "robust")  # losses that are derived from a divergence


def pair(chosen, rejected, kind: str, beta=0.1, wrong=0.0, divergence: str = "reverse_kl"):
    """The loss of every pair, from log-ratios log pi / pi_ref [B] of its two answers.

    kind: "dpo" (Rafailov et al. 2023, eq. 7), "cdpo" (Mitchell 2023) and "robust" (Chowdhury et al.
    2024) with a share `wrong` of wrong labels, "ipo" (Azar et al. 2024, eq. 17; on sums as it is
    published, or on means over tokens as TRL has it: the caller's log-ratios decide), "hinge",
    "nca", "sppo", "apo_zero", "apo_down", "exo", "discopop". Where policy and reference agree dpo is
    ln 2. divergence: what dpo, cdpo and robust hold the policy to its reference by.
    """
    if kind not in LOSSES:
        raise ValueError(f"no preference loss {kind!r}; {nearest(kind, LOSSES)}")
    if not 0 <= wrong < 0.5:
        raise ValueError(f"a share of wrong labels of {wrong}; expected 0 <= x < 0.5")
    if kind == "exo" and not wrong:
        raise ValueError("the loss exo takes the logarithm of `wrong`; expected 0 < wrong < 0.5")
    if divergence not in DIVERGENCES:
        raise ValueError(f"no divergence {divergence!r}; {nearest(divergence, DIVERGENCES)}")
    if divergence != "reverse_kl" and kind not in DIVERGENT:
        raise ValueError(
            f"the divergence {divergence} has no part in the loss {kind}; expected reverse_kl, or a loss "
            f"of {', '.join(DIVERGENT)}"
        )
    sides = map(DIVERGENCES[divergence], (chosen, rejected))
    return LOSSES[kind](*sides, beta, wrong)


def bco(chosen, rejected, point, beta: float = 0.1):
    """Each answer against the mean log-ratio `point` of a batch's answers, without gradient (Jung et al.
    2024, equation 6, whose moving average this batch alone makes)."""
    point = jax.lax.stop_gradient(point)
    return -log_sigmoid(beta * (chosen - point)) - log_sigmoid(-beta * (rejected - point))


def transported(higher, lower, real, beta: float = 0.1):
    """The loss of two samples [n] of which the first shall be higher in distribution: sorted, then in pairs
    (Melnyk et al. 2024: AOT). The pairs that only fill a batch (`real` 0) cost nothing, wherever they stand.
    """
    kept = lambda x: jnp.sort(jnp.where(real > 0, x, jnp.inf))
    there = jnp.sort(1 - real) < 1
    gap = jnp.where(there, kept(higher), 0) - jnp.where(there, kept(lower), 0)
    # The sums are of `real` rows: a cost for each of those, in whatever order.
    cost = jnp.where(there, -log_sigmoid(beta * gap), 0)
    return jnp.zeros_like(cost).at[jnp.argsort(1 - real, stable=True)].set(cost)


def shortened(weights, excess: float = 1.0):
    """Weights [n,2,T] of two answers' tokens, `excess` behind the length of the shorter one (Liu et al.
    2024: LD-DPO, whose alpha it is)."""
    if excess == 1:
        return weights
    shorter = jnp.min(jnp.sum(weights, -1), -1)[:, None, None]
    return weights * jnp.where(jnp.cumsum(weights, -1) <= shorter, 1, excess)


def kto_reference(log_probs, reference, total=None):
    """The KL that KTO refers to: mean log-ratio of mismatched pairs, at least 0, without gradient."""
    total = log_probs.shape[0] if total is None else total
    return jax.lax.stop_gradient(jnp.maximum(jnp.sum(log_probs - reference) / total, 0))


def kto(ratio, good, point, beta: float = 0.1, weights=(1.0, 1.0)):
    """Loss of each answer by its log-ratio [B] and whether it is `good` (Ethayarajh et al. 2024, eq. 8).

    point: `kto_reference`. weights: of the good and of the bad ones.
    """
    up = weights[0] * (1 - jax.nn.sigmoid(beta * (ratio - point)))
    down = weights[1] * (1 - jax.nn.sigmoid(beta * (point - ratio)))
    return jnp.where(good, up, down)


def answer_log_probs(found, weights, mean: str = "none"):
    """Log-probabilities of answers [B] from those of tokens [B,T] and weights, 1 on the answer.

    mean "tokens" divides by the number of the answer's tokens.
    """
    if mean not in MEANS:
        raise ValueError(f"a log-probability's mean is {mean!r}; expected {' or '.join(MEANS)}")
    summed = jnp.sum(found * weights, -1)
    return summed / jnp.maximum(jnp.sum(weights, -1), 1) if mean == "tokens" else summed
