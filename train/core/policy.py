"""The losses of policy and value net: clipped ratios, and over what a loss is averaged.

Log-probabilities, advantages, values and masks are [B,T]; an advantage of a whole answer is repeated
over its tokens. What a mean divides by comes in `totals` ({"tokens", "rows"}, counted on the whole
batch), so that micro-batches are only added.
"""

import jax
import jax.numpy as jnp

from train.core.errors import nearest

AGGREGATIONS = ("tokens", "sequences", "sums", "fixed")
LEVELS = ("token", "sequence", "product")
SURROGATES = ("clip", "cispo")


def counts(mask) -> dict:
    """The totals of a batch that `aggregate` divides by."""
    return {
        "tokens": jnp.maximum(jnp.sum(mask), 1),
        "rows": jnp.maximum(jnp.sum(jnp.max(mask, -1) > 0), 1),
    }


def aggregate(x, mask, how: str, totals: dict, length: int = 0):
    """One number from a loss of every token; the choice changes the gradient, even its sign.

    "tokens": mean over all tokens (PPO, DAPO); "sequences": mean over rows of each row's mean
    (GRPO, Shao et al. 2024); "sums": mean over rows of each row's sum; "fixed": sum over rows times
    `length` (Dr. GRPO, Liu et al. 2025), by default T.
    """
    if how not in AGGREGATIONS:
        raise ValueError(f"no aggregation {how!r}; {nearest(how, AGGREGATIONS)}")
    summed = jnp.sum(x * mask, -1)
    if how == "tokens":
        return jnp.sum(summed) / totals["tokens"]
    if how == "sequences":
        return jnp.sum(summed / jnp.maximum(jnp.sum(mask, -1), 1)) / totals["rows"]
    return jnp.sum(summed) / (totals["rows"] * ((length or x.shape[-1]) if how == "fixed" else 1))


def ratios(log_probs, old, mask, level: str = "token"):
    """pi / pi_old, 1 where the mask is 0.

    level "token": of each token; "sequence": exp of the mean log-ratio of a row (GSPO, Zheng et al.
    2025), whose gradient reaches each token; "product": exp of its sum (RLOO).
    """
    difference = jnp.where(mask > 0, log_probs - old, 0)
    if level == "token":
        return jnp.exp(difference)
    whole = jnp.sum(difference, -1, keepdims=True)
    if level == "sequence":
        whole = whole / jnp.maximum(jnp.sum(mask, -1, keepdims=True), 1)
        return jnp.exp(
            jax.lax.stop_gradient(whole) + difference - jax.lax.stop_gradient(difference)
        )
    if level != "product":
        raise ValueError(f"ratios have no level {level!r}; expected {', '.join(LEVELS)}")
    return jnp.broadcast_to(jnp.exp(whole), difference.shape)


def clipped(ratio, advantages, low: float = 0.2, high: float = 0.0, dual: float = 0.0, most=0.0):
    """max(-A r, -A clip(r, 1 - low, 1 + high)) for every token (Schulman et al. 2017, equation 7).

    high: 0 is as low; more is DAPO's clip-higher. dual c: for A < 0 at most -c A (Ye et al. 2020).
    most: a bound on the ratio itself, on either side of it.
    """
    other = jnp.clip(ratio, 1 - low, 1 + (high or low))
    if most:
        ratio = jnp.minimum(ratio, most)
    loss = jnp.maximum(-advantages * ratio, -advantages * other)
    if dual:
        loss = jnp.where(advantages < 0, jnp.minimum(loss, -dual * advantages), loss)
    return loss


def cispo(ratio, log_probs, advantages, most: float = 5.0):
    """-min(r, most) A log pi, the ratio without a gradient (MiniMax 2025): clips weights, not tokens."""
    return -jax.lax.stop_gradient(jnp.minimum(ratio, most)) * advantages * log_probs


def clipped_share(ratio, advantages, low: float = 0.2, high: float = 0.0):
    """1 for every token whose clipped loss is the larger one."""
    other = jnp.clip(ratio, 1 - low, 1 + (high or low))
    return (-advantages * other > -advantages * ratio).astype(ratio.dtype)


def value_loss(values, old, returns, clip: float = 0.2):
    """(loss, clipped) of every token: max((v - R)^2, (clip(v, v_old +- clip) - R)^2) / 2; 0: unclipped."""
    plain = jnp.square(values - returns)
    if not clip:
        return plain / 2, jnp.zeros_like(plain)
    other = jnp.square(jnp.clip(values, old - clip, old + clip) - returns)
    return jnp.maximum(plain, other) / 2, (other > plain).astype(plain.dtype)


def moved(log_probs, old):
    """(log pi - log pi_old)^2 / 2 of every token: how far the policy went from what sampled."""
    return jnp.square(log_probs - old) / 2


def explained(values, returns, mask):
    """1 - var(R - V) / var(R) over real tokens: 1 is a perfect value net, 0 one that knows nothing."""
    count = jnp.maximum(jnp.sum(mask), 1)

    def variance(x):
        mean = jnp.sum(x * mask) / count
        return jnp.sum(jnp.square(x - mean) * mask) / count

    return 1 - variance(returns - values) / jnp.maximum(variance(returns), 1e-8)


def soft(ratio, advantages, up: float = 1.0, down: float = 1.05):
    """-A 4 sigmoid(t (r - 1)) / t, a gate instead of a cut (Gao et al. 2025); t by the sign of A."""
    t = jnp.where(advantages > 0, up, down)
    return -advantages * 4 * jax.nn.sigmoid(t * (ratio - 1)) / t


def loss_of(ratio, log_probs, batch, how: dict):
    """The policy's loss of every token [n,R] by `how`: method, surrogate, clip, clip_high, dual, cap."""
    if how["method"] == "best":
        return -batch["advantages"] * log_probs
    if how["surrogate"] == "cispo":
        return cispo(ratio, log_probs, batch["advantages"], how["cap"])
    bounds = (how["clip"], how["clip_high"], how["dual"])
    return clipped(ratio, batch["advantages"], *bounds)


def watch(ratio, log_probs, batch, how: dict) -> dict:
    """(sum, count) of what to watch of a minibatch, over the answers' tokens.

    ratio and clipped are of the loss's own ratios; apart: |pi / pi_old - 1| of each token.
    """
    mask = batch["answer"]
    cut = clipped_share(ratio, batch["advantages"], how["clip"], how["clip_high"])
    if how["surrogate"] == "cispo":
        cut = (ratio > how["cap"]).astype(ratio.dtype)
    rows = {
        "ratio": ratio,
        "clipped": cut,
        "apart": jnp.abs(jnp.exp(log_probs - batch["old"]) - 1),
        "moved": moved(log_probs, batch["old"]),
        "entropy": -log_probs,
    }
    return {name: (jnp.sum(x * mask), jnp.sum(mask)) for name, x in rows.items()}
