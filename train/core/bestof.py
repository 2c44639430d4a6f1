"""Best of n: what choosing the best of n samples by a proxy costs in KL, and what it brings.

The bound is that of Stiennon et al. 2020 (appendix G.3), exact without ties (Beirami et al. 2024);
the forms of over-optimisation are Gao et al. 2022, equations 1 and 2, with d = sqrt(KL).
"""

import math

import numpy as np


def bound(n: int) -> float:
    """ln n - (n - 1) / n nats: KL of the best of n from the policy, at most."""
    return math.log(n) - (n - 1) / n


def expected(proxy, gold, n: int) -> float:
    """The mean gold of the best of n by proxy, over all subsets of n of the N >= n samples.

    The sample of rank i (1 is the worst) is the best of C(i - 1, n - 1) subsets of C(N, n).
    """
    proxy, gold = np.asarray(proxy, float), np.asarray(gold, float)
    count = len(proxy)
    if not 1 <= n <= count:
        raise ValueError(f"the best of {n} needs at least as many samples; there are {count}")
    if np.isnan(proxy).any():
        raise ValueError("a sample has no score to be chosen by")
    _, level, size = np.unique(proxy, return_inverse=True, return_counts=True)
    ranked = (np.bincount(level, gold) / size)[np.sort(level)]  # of equals any may be the best
    share, total = 1.0, 0.0  # of the best sample: C(N - 1, n - 1) / C(N, n) = n / N
    for rank in range(count, n - 1, -1):
        share = n / count if rank == count else share * (rank + 1 - n) / rank
        total += share * ranked[rank - 1]
    return float(total)


def best(scores, size: int) -> np.ndarray:
    """The row of the best answer to each prompt, int64 [N / size]; of equals the first."""
    rows = np.asarray(scores, float).reshape(-1, size)
    if np.isnan(rows).all(-1).any():
        raise ValueError("a prompt has no answer with a score")
    return np.nanargmax(rows, -1) + size * np.arange(len(rows))


def of_samples(d, alpha: float, beta: float):
    """Gold after best-of-n at distance d: d (alpha - beta d)."""
    return d * (alpha - beta * d)


def of_training(d, alpha: float, beta: float):
    """Gold after reinforcement learning at distance d: d (alpha - beta ln d)."""
    return d * (alpha - beta * np.log(d))
