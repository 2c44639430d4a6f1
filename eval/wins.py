"""Win rates of one model's answers against another's on the same prompts, with intervals.

A win counts 1, a tie a half. Answers to one prompt are alike, so intervals resample prompts, not
answers (percentile bootstrap, Efron 1979). Judges like long answers: `controlled` asks what the rate
would be at equal lengths (Dubois et al. 2024, "Length-Controlled AlpacaEval").
"""

from collections.abc import Callable

import numpy as np

STEPS, CLOSE = 50, 1e-10
RIDGE = 1e-6  # keeps the fit finite where lengths separate wins from losses


def outcomes(scores, others) -> np.ndarray:
    """1 where a score is above the other model's, 0 below, a half where they are equal."""
    scores, others = np.asarray(scores), np.asarray(others)
    return np.where(scores == others, 0.5, scores > others)


def controlled(wins, lengths, others) -> float:
    """The win rate at equal lengths: a logistic regression on the difference, read off at 0.

    wins [N] in 0..1; lengths, others [N]: of the answers of the model and of the one it is held
    against. log odds = a + b tanh(d / s), d the difference and s its standard deviation; the rate is
    sigmoid(a). Where lengths never differ it is the plain rate.
    """
    wins = np.asarray(wins, np.float64)
    difference = np.asarray(lengths, np.float64) - np.asarray(others, np.float64)
    scale = difference.std() or 1.0
    x = np.stack([np.ones_like(wins), np.tanh(difference / scale)], -1)
    penalty = RIDGE * len(wins) * np.eye(2)
    weights = np.zeros(2)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-x @ weights))
        slope = x.T @ (wins - p) - penalty @ weights
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty, slope)
        weights = weights + np.clip(step, -5, 5)
        if np.abs(step).max() < CLOSE:
            break
    return float(1 / (1 + np.exp(-weights[0])))


def interval(measure: Callable, groups, *columns, level=0.95, tries=1000, seed=0) -> list:
    """[low, high] of `measure(*columns)` under resampling of groups (prompts).

    groups [N]: the prompt of each row; columns: arrays [N]. The draws are those of `seed`.
    """
    names, rows = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(rows == n) for n in range(len(names))]
    columns = [np.asarray(column) for column in columns]
    rng, found = np.random.default_rng(seed), []
    for draw in rng.integers(len(names), size=(tries, len(names))):
        chosen = np.concatenate([members[n] for n in draw])
        found.append(measure(*(column[chosen] for column in columns)))
    tail = (1 - level) / 2
    return np.quantile(found, [tail, 1 - tail]).tolist()
