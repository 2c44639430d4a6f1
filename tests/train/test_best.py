"""The best checkpoint by a metric, early stopping, and both after a resume."""

import json

import numpy as np
import pytest

from tests.train import toy
from train.core import checkpoint
from train.core.best import Best, expect
from train.core.fit import fit


def watched(values, patience=0, mode="max", steps=6, **changes):
    """A toy run that is evaluated every step and sees the given values."""
    config = toy.config(**{"steps": steps, "eval.every": 1, **changes})
    with config.unlocked():
        config.best = dict(metric="valid/score", mode=mode, patience=patience)
    task = toy.task(config)
    seen = iter(values)
    run = lambda variables: {"score": next(seen)}
    object.__setattr__(task, "evaluators", {"valid": run})
    return config, task


def held(folder):
    return [int(p.name) for p in sorted((folder / "best" / "checkpoints").iterdir())]


def test_the_best_is_kept_with_its_own_parameters(tmp_path):
    config, task = watched([1, 5, 2, 5, 3, 4])
    fitted = fit(config, task, tmp_path)
    assert held(tmp_path) == [2] and not fitted.stopped
    best, _ = checkpoint.load_params(checkpoint.find(tmp_path / "best"))
    short = toy.config(steps=6)
    with short.unlocked():
        short.best = dict(metric="valid/score", mode="max", patience=1)
    early = [1, 5, 2]
    config, task = watched(early, patience=1)
    again = fit(config, task, tmp_path / "again")
    assert int(again.state.step) == 3
    same, _ = checkpoint.load_params(checkpoint.find(tmp_path / "again" / "best"))
    table = lambda tree: np.asarray(tree["embed"]["tokens"]["embedding"])
    np.testing.assert_array_equal(table(best), table(same))
    assert (table(best) != np.asarray(fitted.state.params["embed"]["tokens"]["embedding"])).any()


@pytest.mark.parametrize(
    ("mode", "values", "patience", "ends", "best"),
    [
        ("max", [1, 2, 3, 4, 5, 6], 1, 6, 6),
        ("max", [3, 2, 1, 9, 9, 9], 2, 3, 1),
        ("min", [3, 2, 2, 2, 1, 1], 2, 4, 2),
        ("max", [3, float("nan"), 4, 1, 1, 1], 3, 6, 3),
    ],
)
def test_early_stopping(tmp_path, mode, values, patience, ends, best):
    config, task = watched(values, patience, mode)
    fitted = fit(config, task, tmp_path)
    assert int(fitted.state.step) == ends and held(tmp_path) == [best]


def test_what_was_seen_is_remembered_as_far_as_the_run_had_come(tmp_path):
    config, task = watched([9, 1], patience=3, steps=2, **{"checkpoint.every": 1})
    fit(config, task, tmp_path)
    config, task = watched([1, 1, 1, 1], patience=3)
    fitted = fit(config, task, tmp_path)
    assert int(fitted.state.step) == 4 and held(tmp_path) == [1]
    config, task = watched([1], patience=3)
    assert int(fit(config, task, tmp_path).state.step) == 4  # it had ended


def test_steps_after_the_resumed_one_are_forgotten(tmp_path):
    (tmp_path / "best.json").write_text(json.dumps({"history": [[1, 0.5], [2, 0.9]]}))
    config, _ = watched([])
    best = Best(config, tmp_path, None, print)
    best.begin(1)
    best.close()
    assert best.history == [(1, 0.5)]


def test_an_unknown_metric_is_named_and_nothing_learned_is_lost(tmp_path):
    config, task = watched([1])
    with config.unlocked():
        config.best.metric = "valid/scroe"
    with pytest.raises(ValueError, match='did you mean "valid/score"'):
        fit(config, task, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000001"]


@pytest.mark.parametrize(
    ("metric", "words"),
    [("valid/scroe", 'did you mean "valid/score"'), ("test/score", "this run evaluates valid"),
     ("valid/score", ""), ("round/reward", ""), ("loss", ""), ("", "")],
)  # fmt: skip
def test_a_metric_is_known_before_the_first_step(metric, words):
    config, task = watched([])
    object.__setattr__(task, "measures", {"valid": ("score", "loss")})
    with config.unlocked():
        config.best.metric = metric
    if not words:
        return expect(config, task)
    with pytest.raises(ValueError, match=words):
        expect(config, task)
