"""Scores of pictures: answers of equal scores, and features that several processes gather."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from eval import images, probe


def test_average_precision_of_equal_scores_is_scikit_learns():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    gold = np.sort(rng.random((30, 4)) < 0.4, axis=0)[::-1].astype(np.float32)  # sorted by class
    for scores in (np.zeros((30, 4)), rng.integers(0, 4, (30, 4)), rng.normal(size=(30, 4))):
        wanted = metrics.average_precision_score(gold, scores, average="macro")
        assert images.average_precision(scores, gold) == pytest.approx(wanted)


def test_features_of_several_processes_have_the_targets_of_all(monkeypatch):
    """Two processes with the same rows, so that what one gathers is its own twice."""

    class Model:
        def apply(self, variables, *given, method):
            return (given[0]["images"], {}) if method == "features" else given[0]

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    twice = lambda x, tiled: np.concatenate([np.asarray(x)] * 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", twice)
    rows = {"images": np.eye(3, dtype=np.float32), "targets": np.arange(3), "rows": np.ones(3)}
    rows["rows"][2] = 0
    found, targets = probe.features(Model(), {}, [rows])
    np.testing.assert_array_equal(targets, [0, 1, 0, 1])
    np.testing.assert_array_equal(found, np.eye(3)[targets])
