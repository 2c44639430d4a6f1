"""Temporal-difference errors and returns of value-based learning, for one step or one sequence.

Functions give the error target - estimate, whose half square is the loss; nothing here stops a
gradient but where a target is made. `discount` is gamma, or 0 where the episode has ended: a time
limit that cuts an episode off is no end, and keeps gamma.
"""

import jax
import jax.numpy as jnp


def q_learning(q, action, reward, discount, next_q):
    """r + discount max_a' Q'(a') - Q(a) (Watkins 1989): q, next_q [A], the rest scalars."""
    target = reward + discount * jnp.max(next_q)
    return jax.lax.stop_gradient(target) - q[action]


def persistent_q_learning(q, action, reward, discount, next_q, gap: float):
    """As if the same action were taken next with a share `gap` (Bellemare et al. 2016, equation 9): it
    widens the gap between actions."""
    after = (1 - gap) * jnp.max(next_q) + gap * next_q[action]
    return jax.lax.stop_gradient(reward + discount * after) - q[action]


def double_q_learning(q, action, reward, discount, next_value, next_selector):
    """One net selects the next action, the other evaluates it (van Hasselt et al. 2016)."""
    target = reward + discount * next_value[jnp.argmax(next_selector)]
    return jax.lax.stop_gradient(target) - q[action]


def expected_sarsa(q, action, reward, discount, next_q, probs):
    """r + discount sum_a' pi(a') Q'(a') - Q(a); with a one-hot pi it is SARSA."""
    target = reward + discount * jnp.sum(next_q * probs)
    return jax.lax.stop_gradient(target) - q[action]


def lambda_returns(rewards, discounts, next_values, lam: float = 1.0):
    """G_t = r + discount ((1 - lam) V' + lam G'), all [T]; the last G' is the last V'."""

    def back(held, now):
        reward, discount, value = now
        held = reward + discount * ((1 - lam) * value + lam * held)
        return held, held

    rows = (jnp.asarray(rewards), jnp.asarray(discounts), jnp.asarray(next_values))
    _, found = jax.lax.scan(back, rows[2][-1], rows, reverse=True)
    return found


def n_step_returns(rewards, discounts, next_values, n: int):
    """The return of n rewards and then the value, fewer where the sequence ends: all [T]."""
    rewards, discounts, values = map(jnp.asarray, (rewards, discounts, next_values))
    time = len(rewards)
    found = jnp.concatenate([values[n - 1 :], jnp.full(n - 1, values[-1])])
    for step in reversed(range(n)):
        ahead = jnp.arange(time) + step
        inside, at = ahead < time, jnp.minimum(ahead, time - 1)
        found = jnp.where(inside, rewards[at] + discounts[at] * found, found)
    return found


def vtrace(values, next_values, rewards, discounts, rho, lam: float = 1.0, most: float = 1.0):
    """Errors vs - V of V-trace (Espeholt et al. 2018, equation 1): all [T]; c and rho cut at `most`."""
    rho = jnp.asarray(rho)
    cut, trace = jnp.minimum(rho, most), lam * jnp.minimum(rho, 1.0)
    rewards, discounts = jnp.asarray(rewards), jnp.asarray(discounts)
    values, next_values = jnp.asarray(values), jnp.asarray(next_values)
    delta = cut * (rewards + discounts * next_values - values)

    def back(held, now):
        error, discount, c = now
        held = error + discount * c * held
        return held, held

    _, found = jax.lax.scan(
        back, jnp.zeros((), delta.dtype), (delta, discounts, trace), reverse=True
    )
    return found


def epsilon_greedy(q, epsilon: float):
    """Probabilities [A]: 1 - epsilon shared by the best actions, epsilon by all."""
    q = jnp.asarray(q)
    best = (q == jnp.max(q)).astype(q.dtype)
    return (1 - epsilon) * best / jnp.sum(best) + epsilon / q.shape[0]


def huber(error, delta: float = 1.0):
    """error^2 / 2 within +-delta, linear beyond (Mnih et al. 2015 clip the error, which is its slope)."""
    size = jnp.abs(error)
    inside = jnp.minimum(size, delta)
    return jnp.square(inside) / 2 + delta * (size - inside)
