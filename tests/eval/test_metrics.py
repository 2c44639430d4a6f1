"""Our metrics against scikit-learn's and scipy's."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as theirs

from eval import metrics


def labels(seed, count=4, n=200):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, count, n)
    return np.where(rng.random(n) < 0.6, gold, rng.integers(0, count, n)), gold


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 4])
def test_labels(seed, count):
    ours, gold = labels(seed, count)
    agree = lambda a, b: a == pytest.approx(b, abs=1e-12)
    assert agree(metrics.accuracy(ours, gold), theirs.accuracy_score(gold, ours))
    assert agree(metrics.matthews(ours, gold, count), theirs.matthews_corrcoef(gold, ours))
    np.testing.assert_array_equal(
        metrics.confusion(ours, gold, count), theirs.confusion_matrix(gold, ours)
    )
    for average in ("micro", "macro") + (("binary",) if count == 2 else ()):
        assert agree(
            metrics.f1(ours, gold, count, average), theirs.f1_score(gold, ours, average=average)
        )


def test_labels_that_do_not_occur():
    ours, gold = np.array([0, 0, 2]), np.array([0, 0, 0])
    want = theirs.f1_score(gold, ours, average="macro", zero_division=0)
    assert metrics.f1(ours, gold, 4, "macro") == pytest.approx(want)
    assert metrics.f1(np.zeros(3, int), np.zeros(3, int), 2) == 0.0
    assert metrics.matthews(np.zeros(3, int), gold, 2) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_correlations_with_ties(seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 8, 100).astype(float)
    b = a + rng.integers(-4, 5, 100)
    assert metrics.pearson(a, b) == pytest.approx(stats.pearsonr(a, b)[0], abs=1e-12)
    assert metrics.spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)
    np.testing.assert_allclose(metrics.ranks(a), stats.rankdata(a))
    assert metrics.pearson(a, np.ones(100)) == 0.0


def test_a_constant_correlates_with_nothing_and_nan_with_nan():
    tenths = np.full(3, 0.1)
    assert tenths.mean() != 0.1 and metrics.pearson(tenths, tenths) == 0.0
    assert metrics.spearman(tenths, tenths) == 0.0
    broken = np.array([1.0, np.nan, 3.0])
    for measure in (metrics.pearson, metrics.spearman):
        assert np.isnan(measure(broken, np.arange(3.0))) and np.isnan(
            measure(tenths * np.nan, tenths)
        )


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int64])
def test_labels_in_small_types_are_counted_in_a_wide_one(kind):
    """40 * 41 + 40 lies beyond what a byte holds."""
    ours, gold = np.array([10, 40, 3], kind), np.array([10, 3, 40], kind)
    want = theirs.f1_score(gold, ours, average="macro", zero_division=0)
    assert metrics.f1(ours, gold, 41, "macro") == pytest.approx(want) == pytest.approx(1 / 3)


@pytest.mark.parametrize("size", [1e200, 1e308, 1e-200])
def test_correlations_of_very_large_and_small_numbers(size):
    a, b = np.array([0.1, 0.5, 0.2, 0.9]), np.array([1.0, 2.0, 4.0, 3.0])
    want = stats.pearsonr(a, b)[0]
    assert metrics.pearson(size * a, b) == pytest.approx(want, abs=1e-9)
    assert metrics.pearson(size * a, size * a) == pytest.approx(1)
    assert np.isnan(metrics.pearson(a, [1.0, np.inf, 2.0, 3.0]))


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="gold labels are float64; expected whole numbers"):
        metrics.f1(np.array([1]), np.array([1.0]), 2)
    with pytest.raises(ValueError, match="two equal vectors"):
        metrics.accuracy([1, 2], [1])
    with pytest.raises(ValueError, match=r"expected 0\.\.1"):
        metrics.f1(np.array([2]), np.array([0]), 2)
    with pytest.raises(ValueError, match="binary, micro or macro"):
        metrics.f1(np.array([0]), np.array([0]), 2, "weighted")
