"""From rewards to advantages: generalised advantage estimation, whitening, and groups of answers.

Arrays are [B,T] with T the slots of an answer, `mask` 1 where a token is real; rewards of whole
answers are [N], the `size` answers to one prompt being neighbours.
"""

import jax
import jax.numpy as jnp

from train.core.errors import nearest

SPREADS = ("group", "batch", "none")


def masked_mean(x, mask):
    """The mean over real tokens of the whole batch; 0 without any."""
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1)


def gae(rewards, values, mask, gamma: float = 1.0, lam: float = 0.95):
    """(advantages, returns) [B,T] by Schulman et al. 2016, equation 16; 0 where nothing is real.

    delta = r + gamma V' - V and A = delta + gamma lam A', with V' = A' = 0 after the last real
    token; a masked token in between is passed over. Returns are A + V, before any whitening.
    """
    rewards, values = jnp.asarray(rewards), jnp.asarray(values)
    mask = jnp.asarray(mask, values.dtype)

    def back(held, now):
        value, advantage = held
        reward, own, real = now
        fresh = reward + gamma * value - own + gamma * lam * advantage
        held = own * real + (1 - real) * value, fresh * real + (1 - real) * advantage
        return held, fresh * real

    zeros = jnp.zeros_like(values[:, 0])
    columns = (rewards.T, values.T, mask.T)
    _, found = jax.lax.scan(back, (zeros, zeros), columns, reverse=True)
    advantages = found.T
    return advantages, (advantages + values) * mask


def whiten(x, mask, shift: bool = True, unbiased: bool = True):
    """(x - mean) / sqrt(var + 1e-8) with the moments of real tokens; without `shift`, mean added back.

    `unbiased` divides the variance by n - 1, as TRL and verl do; Ziegler et al. 2019 by n.
    """
    count = jnp.maximum(jnp.sum(mask), 1)
    mean = jnp.sum(x * mask) / count
    var = jnp.sum(jnp.square(x - mean) * mask) / count
    if unbiased:
        var = var * count / jnp.maximum(count - 1, 1)
    found = (x - mean) * jax.lax.rsqrt(var + 1e-8)
    return found if shift else found + mean


def combine(rewards, weights):
    """Weighted sums [N] of several rewards [N,F]; NaN is "cannot say", and all NaN gives NaN."""
    silent = jnp.isnan(rewards).all(-1)
    return jnp.where(silent, jnp.nan, jnp.nansum(rewards * weights, -1))


def group(rewards, size: int, spread: str = "group", eps: float = 1e-4):
    """A = (r - mean) / (std + eps) within each group (Shao et al. 2024, GRPO): [N] -> [N].

    spread: "group" divides by the group's own deviation (n - 1), "batch" by that of all answers,
    "none" by nothing (Dr. GRPO, Liu et al. 2025). A reward that is NaN has advantage 0 and counts in
    no mean; a group of equal rewards gives exactly 0.
    """
    if spread not in SPREADS:
        raise ValueError(f"advantages have no spread {spread!r}; {nearest(spread, SPREADS)}")
    rows = _groups(rewards, size)
    real = ~jnp.isnan(rows)
    centred = _centred(rows, real)
    if spread == "none":
        return centred.reshape(-1)
    if spread == "batch":
        whole = jnp.where(real, rows - _mean(rows, real, None), 0)
        return (centred / (_deviation(whole, real, None) + eps)).reshape(-1)
    return (centred / (_deviation(centred, real, -1) + eps)).reshape(-1)


def apart(rewards, weights, size: int, eps: float = 1e-4):
    """Advantages [N] of several rewards [N,F], each by its own group's moments, summed, and then to mean 0
    and deviation 1 over the batch (Liu et al. 2026, GDPO): no reward drowns in another's scale.

    NaN as in `combine`: an answer without any reward has advantage 0 and no part in the batch's moments.
    """
    rewards = jnp.asarray(rewards)
    each = jnp.stack([group(column, size, eps=eps) for column in rewards.T], -1)
    real = ~jnp.isnan(rewards).all(-1)
    summed = jnp.where(real, jnp.sum(each * weights, -1), 0)
    centred = jnp.where(real, summed - _mean(summed, real, None), 0)
    return centred / (_deviation(centred, real, None) + eps)[0]


def leave_one_out(rewards, size: int):
    """A_i = r_i - mean of the others' = n / (n - 1) (r_i - mean) (Ahmadian et al. 2024, RLOO).

    NaN rewards are left out of every baseline and get 0, as does an answer without any other, and
    exactly so a group of equal rewards.
    """
    rows = _groups(rewards, size)
    real = ~jnp.isnan(rows)
    count = jnp.sum(real, -1, keepdims=True)
    return (_centred(rows, real) * count / jnp.maximum(count - 1, 1)).reshape(-1)


def scaled(advantages, eps: float = 1e-4):
    """Advantages [N] of a batch to mean 0 and deviation 1 (n - 1)."""
    mean = jnp.mean(advantages)
    return (advantages - mean) / (jnp.std(advantages, ddof=1) + eps)


def _groups(rewards, size):
    rewards = jnp.asarray(rewards)
    if size < 2 or rewards.shape[0] % size:
        raise ValueError(
            f"{rewards.shape[0]} answers are no groups of {size}; expected at least 2 to a prompt"
        )
    return rewards.reshape(-1, size)


def _centred(rows, real):
    """Rewards less their group's mean; 0 without a reward, and where all of a group are equal: the
    mean of seven times 0.1 is not 0.1."""
    highest = jnp.max(jnp.where(real, rows, -jnp.inf), -1, keepdims=True)
    lowest = jnp.min(jnp.where(real, rows, jnp.inf), -1, keepdims=True)
    return jnp.where(real & (highest > lowest), rows - _mean(rows, real, -1), 0)


def _mean(rows, real, axis):
    count = jnp.maximum(jnp.sum(real, axis, keepdims=True), 1)
    return jnp.sum(jnp.where(real, rows, 0), axis, keepdims=True) / count


def _deviation(centred, real, axis):
    count = jnp.maximum(jnp.sum(real, axis, keepdims=True) - 1, 1)
    return jnp.sqrt(jnp.sum(jnp.square(centred), axis, keepdims=True) / count)
