"""Estimators of a Kullback-Leibler divergence from samples, and what keeps it near a target.

With lp = log pi(a) and lr = log pi_ref(a) of a token a drawn from pi (Schulman 2020, "Approximating
KL divergence"):

    k1 = lp - lr                       unbiased
    k2 = (lp - lr)^2 / 2               biased, less varied
    k3 = exp(lr - lp) - 1 - (lr - lp)  unbiased, never negative

As a penalty in the reward k1 is the right one. As a loss, whose gradient is taken with the samples
held fixed, E[grad k1] = 0, E[grad k2] = grad KL(pi || ref) and E[grad k3] = grad KL(ref || pi): k1
in a loss does nothing.
"""

import jax.numpy as jnp

from train.core.errors import nearest

ESTIMATORS = {
    "k1": lambda d: d,
    "k2": lambda d: jnp.square(d) / 2,
    "k3": lambda d: jnp.exp(-d) - 1 + d,
    "abs": jnp.abs,
}
CONTROLLERS = ("fixed", "adaptive")


def estimate(log_probs, reference, kind: str = "k1", clip: float = 0.0):
    """An estimate for every token, of the shape of the log-probabilities; `clip` c: within +-c."""
    if kind not in ESTIMATORS:
        raise ValueError(f"no estimator of KL {kind!r}; {nearest(kind, ESTIMATORS)}")
    found = ESTIMATORS[kind](log_probs - reference)
    return jnp.clip(found, -clip, clip) if clip else found


def of_sequences(log_probs, reference, mask):
    """The mean over rows of the sum over a row's tokens of k1: nats a sequence, padding left out."""
    return jnp.mean(jnp.sum((log_probs - reference) * mask, -1))


def adapt(beta, kl, episodes: int, target: float = 6.0, horizon: float = 10_000.0):
    """The next coefficient of the penalty (Ziegler et al. 2019, section 2.2).

    e = clip(kl / target - 1, -0.2, 0.2); beta (1 + e episodes / horizon), with `kl` in nats a
    sequence over the last `episodes`.
    """
    error = jnp.clip(kl / target - 1, -0.2, 0.2)
    return beta * (1 + error * episodes / horizon)
