"""Tables of state-action values: one step of Q-learning, and the exact optimum of a known world.

A world is (P, R): probabilities [S,A,S] of going on to a state, expected rewards [S,A]; what
ends the episode goes nowhere in P, so that its value is 0. A time limit is no part of it.
"""

import numpy as np


def update(table, state, action, reward, after, ended, rate: float, gamma: float) -> float:
    """Q(s,a) += rate (r + gamma (1 - ended) max Q(s') - Q(s,a)), in place (Watkins 1989); the error.

    ended: the world ended the episode. A time limit did not, and the next state's value counts.
    """
    target = reward + gamma * (not ended) * table[after].max()
    error = target - table[state, action]
    table[state, action] += rate * error
    return float(error)


def model(env) -> tuple[np.ndarray, np.ndarray]:
    """(P, R) of a gymnasium world that lists its transitions as `env.unwrapped.P`."""
    listed = getattr(env.unwrapped, "P", None)
    if listed is None:
        raise ValueError(f"{env.spec.id} does not list its transitions, so it has no exact optimum")
    states, actions = len(listed), len(listed[0])
    probs, rewards = np.zeros((states, actions, states)), np.zeros((states, actions))
    for s in range(states):
        for a in range(actions):
            for share, after, reward, ended in listed[s][a]:
                rewards[s, a] += share * reward
                probs[s, a, after] += share * (not ended)
    return probs, rewards


def grid() -> tuple[np.ndarray, np.ndarray]:
    """(P, R) of the 5x5 grid of Sutton and Barto, example 3.5: actions up, down, left, right."""
    probs, rewards = np.zeros((25, 4, 25)), np.zeros((25, 4))
    jumps = {1: (21, 10.0), 3: (13, 5.0)}
    for s in range(25):
        for a, (down, right) in enumerate(((-1, 0), (1, 0), (0, -1), (0, 1))):
            row, column = s // 5 + down, s % 5 + right
            inside = 0 <= row < 5 and 0 <= column < 5
            after, reward = jumps.get(s, (row * 5 + column, 0.0) if inside else (s, -1.0))
            probs[s, a, after], rewards[s, a] = 1, reward
    return probs, rewards


def optimum(probs, rewards, gamma: float, tolerance: float = 1e-12, most: int = 100_000):
    """Q* [S,A] by value iteration; ValueError where it does not settle."""
    q = np.zeros_like(rewards)
    for _ in range(most):
        new = rewards + gamma * probs @ q.max(-1)
        change, q = np.abs(new - q).max(), new
        if change < tolerance:
            return q
    raise ValueError(f"values have not settled after {most} sweeps; give a gamma below {gamma}")


def evaluate(probs, rewards, gamma: float, policy=None) -> np.ndarray:
    """V [S] of a policy [S,A] (default: every action equally likely), solved exactly."""
    states, actions = rewards.shape
    policy = np.full((states, actions), 1 / actions) if policy is None else policy
    moves = np.einsum("sa,sat->st", policy, probs)
    return np.linalg.solve(np.eye(states) - gamma * moves, (policy * rewards).sum(-1))


def reached(probs, rewards, actions, start, limit: int) -> float:
    """The expected undiscounted return of `limit` steps under actions [S].

    start: the probability [S] of beginning in each state.
    """
    states = np.arange(len(actions))
    here, total = np.asarray(start, float), 0.0
    for _ in range(limit):
        total += here @ rewards[states, actions]
        here = here @ probs[states, actions]
    return float(total)


def visited(probs, actions, start) -> np.ndarray:
    """The states that actions [S] lead to from those where `start` [S] is above 0, they among them."""
    moves = probs[np.arange(len(actions)), actions] > 0
    seen = np.asarray(start) > 0
    while True:
        more = seen | moves[seen].any(0)
        if (more == seen).all():
            return np.flatnonzero(seen)
        seen = more
