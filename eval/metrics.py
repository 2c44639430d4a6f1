"""Metrics of labels and scores: pure functions of numpy arrays, in [0, 1] or [-1, 1].

A ratio whose denominator is 0 counts as 0, as in scikit-learn with `zero_division=0`. Entities and
answers as text have their own modules: `eval.entities`, `eval.spans`; rankings `eval.retrieval`.
"""

import numpy as np


def accuracy(predicted, gold) -> float:
    """The share of equal entries."""
    predicted, gold = _same(predicted, gold)
    return float(np.mean(predicted == gold))


def confusion(predicted, gold, labels: int) -> np.ndarray:
    """int64 [C,C]: how often gold label i was predicted as j. ValueError for a label out of range."""
    predicted, gold = _same(predicted, gold)
    for name, x in (("predicted", predicted), ("gold", gold)):
        if x.dtype.kind not in "iub":
            raise ValueError(f"{name} labels are {x.dtype}; expected whole numbers")
        if x.min() < 0 or x.max() >= labels:
            raise ValueError(f"{name} labels lie in {x.min()}..{x.max()}; expected 0..{labels - 1}")
    predicted, gold = predicted.astype(np.int64), gold.astype(np.int64)
    return np.bincount(gold * labels + predicted, minlength=labels**2).reshape(labels, labels)


def f1(predicted, gold, labels: int, average: str = "binary", positive: int = 1) -> float:
    """F1 of one label ("binary"), of all decisions ("micro"), or the mean over labels ("macro").

    macro: labels that occur neither in `predicted` nor in `gold` are left out, as scikit-learn does.
    """
    table = confusion(predicted, gold, labels)
    hit, predicted, gold = np.diag(table), table.sum(0), table.sum(1)
    if average == "micro":
        return _ratio(2 * hit.sum(), predicted.sum() + gold.sum())
    if average == "binary":
        return _ratio(2 * hit[positive], predicted[positive] + gold[positive])
    if average != "macro":
        raise ValueError(f"average is {average!r}; expected binary, micro or macro")
    there = predicted + gold > 0
    return float(np.mean(2 * hit[there] / (predicted + gold)[there]))


def matthews(predicted, gold, labels: int) -> float:
    """The correlation of two labellings (Matthews 1975; Gorodkin 2004 for more than two labels)."""
    table = confusion(predicted, gold, labels).astype(np.float64)
    count, hit = table.sum(), np.trace(table)
    columns, rows = table.sum(0), table.sum(1)
    both = np.sqrt((count**2 - columns @ columns) * (count**2 - rows @ rows))
    return _ratio(hit * count - columns @ rows, both)


def pearson(a, b) -> float:
    """The linear correlation of two vectors; 0 where one of them is constant, NaN with inf or NaN."""
    a, b = (np.asarray(x, np.float64) for x in _same(a, b))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    a, b = (_centred(x) for x in (a, b))
    return _ratio(a @ b, np.sqrt((a @ a) * (b @ b)))


def _centred(x):
    """x less its mean, in a unit in which no square overflows or vanishes; 0 if x is constant."""
    if (x == x[0]).all():  # the mean of 0.1, 0.1, 0.1 is not 0.1
        return 0 * x
    unit = lambda x: np.ldexp(x, -np.frexp(np.abs(x).max())[1])  # by a power of 2, which is exact
    x = unit(x)
    return unit(x - x.mean())


def ranks(x) -> np.ndarray:
    """Ranks from 1, float64 [n]; equal values share the mean of their ranks. NaN has none: all are NaN."""
    x = np.asarray(x)
    if np.isnan(x).any():
        return np.full(len(x), np.nan)
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[inverse]


def spearman(a, b) -> float:
    """The correlation of the ranks of two vectors."""
    a, b = _same(a, b)
    return pearson(ranks(a), ranks(b))


def _same(a, b):
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"shapes {a.shape} and {b.shape}; expected two equal vectors, not empty")
    return a, b


def _ratio(above, below) -> float:
    return float(above / below) if below else 0.0
