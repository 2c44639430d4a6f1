"""Win rates at equal lengths against scikit-learn's fit, and intervals over prompts."""

import numpy as np
import pytest

from eval import wins


def made(seed=0, size=4000, better=0.5, longer=1.5):
    """(wins, lengths, others) where quality and length both count."""
    rng = np.random.default_rng(seed)
    lengths, others = rng.poisson(18, size), rng.poisson(12, size)
    d = lengths - others
    p = 1 / (1 + np.exp(-(better + longer * np.tanh(d / d.std()))))
    return (rng.random(size) < p).astype(float), lengths, others


def test_ties_are_half():
    assert wins.outcomes([1, 2, 3], [2, 2, 2]).tolist() == [0, 0.5, 1]


def test_the_fit_is_scikit_learns():
    linear = pytest.importorskip("sklearn.linear_model")
    won, lengths, others = made(size=500)
    d = lengths - others
    x = np.tanh(d / d.std())[:, None]
    model = linear.LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, won)
    expected = 1 / (1 + np.exp(-model.intercept_[0]))
    assert wins.controlled(won, lengths, others) == pytest.approx(expected, abs=1e-4)


def test_what_length_alone_wins_is_taken_out():
    won, lengths, others = made(better=0.0)
    assert won.mean() > 0.65 and wins.controlled(won, lengths, others) == pytest.approx(
        0.5, abs=0.05
    )
    won, lengths, others = made(better=0.5)
    rate = 1 / (1 + np.exp(-0.5))
    assert wins.controlled(won, lengths, others) == pytest.approx(rate, abs=0.05)


def test_equal_lengths_and_separable_ones():
    same = np.full(8, 5)
    assert wins.controlled([1, 1, 1, 0, 0.5, 1, 1, 1], same, same) == pytest.approx(
        0.8125, abs=1e-3
    )
    assert 0 <= wins.controlled([1, 1, 0, 0], [9, 9, 1, 1], [5] * 4) <= 1
    assert wins.controlled(np.ones(9), np.arange(9), np.arange(9)[::-1]) > 0.9


def test_intervals_resample_prompts():
    groups = np.repeat(np.arange(40), 16)
    won = np.repeat(np.arange(40) % 2, 16).astype(float)  # a prompt's answers are all alike
    low, high = wins.interval(np.mean, groups, won)
    assert low < 0.5 < high and 0.25 < high - low < 0.4
    rows = wins.interval(np.mean, np.arange(640), won)
    assert rows[1] - rows[0] < 0.1, "as if answers were independent"
