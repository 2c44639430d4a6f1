"""A bad batch changes no weight: the run stops, skips it, or goes back and passes over it."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.train import toy
from train.core import anomaly, checkpoint, errors
from train.core import fit as fitting
from train.core.anomaly import Anomaly, Guard
from train.core.config import complete
from train.core.fit import fit
from train.core.saver import Checkpoints
from train.core.validate import validate

STEPS = 12


def config(**changes):
    return toy.config(**{"steps": STEPS, "checkpoint.every": 4, "checkpoint.keep": 9, **changes})


def policy(name, spike=0.0, limit=3, **changes):
    c = config(**changes)
    c.anomaly = {"policy": name, "spike": spike, "limit": limit}
    return c


def spoiled(bad, factor=np.nan, seen=None):
    """Batches of which some are scaled, which the loss then is, too."""

    def batches(index):
        rows = toy.batch(0, index)
        rows["scale"] = np.full(8, factor if index in bad else 1.0, np.float32)
        if seen is not None:
            seen.append(index)
        return rows

    return batches


def task(c, bad, factor=np.nan, seen=None):
    plain = toy.task(c)

    def loss(params, frozen, extra, batch, rng, totals):
        value, out = plain.loss(params, frozen, extra, batch, rng, totals)
        return value * batch["scale"].mean(), out

    return toy.task(c, loss=loss, batches=spoiled(bad, factor, seen))


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def same(kept, batch):
    assert sorted(kept) == sorted(batch)
    return all(np.array_equal(kept[name], batch[name], equal_nan=True) for name in batch)


@pytest.mark.parametrize("every", [1, 5])
def test_stop_keeps_the_batch_and_saves_the_state_before_it(tmp_path, every):
    c = policy("stop", **{"log.every": every, "checkpoint.every": 50})
    with pytest.raises(Anomaly, match="step 6: loss nan") as error:
        fit(c, task(c, {5}), tmp_path)
    assert "step 5 is saved" in str(error.value)
    assert errors.status(error.value) == 65
    folder = tmp_path / "anomalies" / "00000006"
    assert str(folder) in str(error.value)
    assert same(dict(np.load(folder / "batch-0.npz")), spoiled({5})(5))
    told = json.loads((folder / "anomaly.json").read_text())
    assert told == {"step": 6, "batch": 5, "loss": "nan", "norm": "nan"}
    assert [p.name for p in checkpoint.folders(tmp_path)] == ["00000005"]
    clean = config(steps=5)
    clean.optim.decay_steps = STEPS
    want = fit(clean, task(clean, ()), tmp_path / "clean").state
    skip = policy("skip")
    done = fit(skip, task(skip, {5}), tmp_path)
    assert int(done.state.step) == STEPS
    before = checkpoint.load_params(tmp_path / "checkpoints" / "00000005")[0]
    assert toy.digest(before) == toy.digest(checkpoint.load_params(
        checkpoint.folders(tmp_path / "clean")[-1])[0])  # fmt: skip
    assert int(want.step) == 5


def test_skip_goes_on_as_if_the_batch_had_moved_nothing(tmp_path, capfd):
    c = policy("skip")
    fitted = fit(c, task(c, {3, 4, 8}), tmp_path)
    assert int(fitted.state.step) == STEPS
    assert fitted.metrics["skipped"] == 3
    assert anomaly.finite(fitted.state.params)
    logged = {row["step"]: row for row in rows(tmp_path)}
    assert logged[4]["loss"] == "nan"
    assert [logged[i]["skipped"] for i in (3, 4, 5, 6, 9)] == [0, 1, 2, 2, 3]
    assert sorted(p.name for p in (tmp_path / "anomalies").iterdir()) == [
        "00000004", "00000005", "00000009",
    ]  # fmt: skip
    assert "step 4: loss nan, gradient norm nan: skipped, 1 in all" in capfd.readouterr().err
    # The same steps without the bad ones in between: the schedule stands still for those, too.
    good = [i for i in range(STEPS) if i not in (3, 4, 8)]
    plain = policy("skip", steps=len(good))
    plain.optim.decay_steps = STEPS
    c.optim.decay_steps = STEPS
    moved = toy.task(plain, loss=task(plain, ()).loss, batches=lambda i: spoiled(())(good[i]))
    want = fit(plain, moved, tmp_path / "plain").state
    assert toy.digest(want.params) == toy.digest(fitted.state.params)
    assert logged[10]["learning_rate"] == rows(tmp_path / "plain")[6]["learning_rate"]


def test_skip_has_an_end(tmp_path):
    c = policy("skip", limit=2)
    with pytest.raises(Anomaly, match=r"step 6: .*2 times is the limit"):
        fit(c, task(c, {3, 4, 5}), tmp_path)
    assert checkpoint.folders(tmp_path)[-1].name == "00000005"
    c = policy("skip", limit=2)
    fit(c, task(c, {0, 1, 3, 4, 6, 7}), tmp_path / "apart")


def test_rollback_passes_over_the_batches_and_a_resume_does_it_again(tmp_path, capfd):
    c, seen = policy("rollback"), []
    fitted = fit(c, task(c, {6}, seen=seen), tmp_path / "a")
    said = capfd.readouterr().err
    assert "rolling back (1 of 3)" in said
    assert "going on after step 4 with the batches from 7 on" in said
    assert seen[seen.index(7) + 1 :] == [6, *range(7, 15)], "kept, then past it"
    assert [row["step"] for row in rows(tmp_path / "a")] == list(range(1, STEPS + 1))
    want = toy.digest(fitted.state)
    # Killed before and after the rollback, and after a checkpoint behind it.
    for stop in (8, 10, 13):

        class Kill(BaseException):
            pass

        def dies(index, stop=stop, plain=spoiled({6})):
            if index == stop:
                raise Kill
            return plain(index)

        workdir = tmp_path / f"killed-{stop}"
        broken = toy.task(c, loss=task(c, ()).loss, batches=dies)
        with pytest.raises(Kill):
            fit(c, broken, workdir)
        assert toy.digest(fit(c, task(c, {6}), workdir).state) == want


def test_rollback_without_a_checkpoint_begins_anew(tmp_path):
    c = policy("rollback", **{"checkpoint.every": 0})
    fitted = fit(c, task(c, {2}), tmp_path)
    assert int(fitted.state.step) == STEPS
    assert int(fitted.state.guard["offset"]) == 3


def test_rollback_has_an_end(tmp_path):
    c = policy("rollback", limit=2)
    with pytest.raises(Anomaly, match="2 times is the limit"):
        fit(c, task(c, set(range(5, 40))), tmp_path)
    assert checkpoint.folders(tmp_path)[-1].name == "00000004"


@pytest.mark.parametrize("factor", [50.0, 1.0])
def test_a_spike_is_a_multiple_of_the_usual(tmp_path, factor):
    c = policy("skip", spike=10.0, steps=24)
    fitted = fit(c, task(c, {2, 20}, factor), tmp_path)
    caught = 0 if factor == 1.0 else 1  # at step 3 there is no usual yet
    assert fitted.metrics["skipped"] == caught
    assert int(fitted.state.guard["bad"]) == caught


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    c = policy("stop", **{"checkpoint.every": 1, "steps": 3})
    state = {}

    def poisoned(path, x):
        return x.at[0].set(np.inf) if x.ndim == 2 else x

    class Loop(fitting.Loop):
        def after(self, s, done):
            if done == 2:
                s.params = jax.tree_util.tree_map_with_path(poisoned, s.params)
            super().after(s, done)
            state["done"] = done

    original, fitting.Loop = fitting.Loop, Loop
    try:
        with pytest.raises(Anomaly, match="parameters are not finite after step 2"):
            fit(c, task(c, ()), tmp_path)
    finally:
        fitting.Loop = original
    assert [p.name for p in checkpoint.folders(tmp_path)] == ["00000001"]


def test_the_guard_waits_for_nothing(tmp_path, monkeypatch):
    """Nothing but `fetch` and the look before a save reads from the device."""
    reads, real = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: reads.append(1) or real(tree))
    c = policy("skip", **{"log.every": 6, "checkpoint.every": 0})
    fit(c, task(c, {3}), tmp_path)
    # One for the resume's place, frozen and evaluation none; steps 1, 6 and 12; the last save.
    assert len(reads) == 5


def test_a_checkpoint_without_a_guard_gets_a_fresh_one(tmp_path):
    c = policy("stop", steps=4)
    fit(c, task(c, ()), tmp_path)
    c = policy("skip", spike=10.0)
    fitted = fit(c, task(c, {6}), tmp_path)
    assert int(fitted.state.step) == STEPS
    assert int(fitted.state.guard["good"]) == STEPS - 5
    c = policy("stop", steps=STEPS + 1)
    assert int(fit(c, task(c, ()), tmp_path).state.step) == STEPS + 1


def test_every_process_sees_the_same_verdict_on_a_mesh(tmp_path):
    c = policy("rollback", **{"mesh.fsdp": 4, "mesh.data": 2})
    one = policy("rollback")
    a = fit(c, task(c, {6}), tmp_path / "a").state
    b = fit(one, task(one, {6}), tmp_path / "b").state
    assert int(a.guard["offset"]) == int(b.guard["offset"]) == 3


def test_judged_by_median_not_by_mean():
    guard = Guard("skip", spike=4.0)
    held = guard.fresh()
    judge = jax.jit(guard.judge)
    for step in range(20):
        ok, held = judge(held, step, 1.0 + 0.01 * step, 3.9 if step == 17 else 1.0)
        assert ok
    for loss, norm, good in ((3.0, 1.0, True), (5.0, 1.0, False), (1.0, 5.0, False)):
        assert bool(judge(held, 20, loss, norm)[0]) == good
    assert not judge(held, 20, 1.0, np.inf)[0]


def test_a_failing_save_before_the_stop_is_not_a_lie(tmp_path, monkeypatch):
    c = policy("stop", **{"checkpoint.every": 0})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "_prepare", full)
    with pytest.raises(Anomaly) as error:
        fit(c, task(c, {5}), tmp_path)
    assert "is saved" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"anomaly": {"polcy": "skip"}}, "no field 'polcy'; did you mean \"policy\""),
        ({"anomaly": {"policy": "skipp"}}, 'anomaly.policy is "skipp"; did you mean "skip"'),
        ({"anomaly": {"spike": 0.5}}, "anomaly.spike is 0.5, a factor"),
        ({"anomaly": {"limit": -1}}, "anomaly.limit is -1; expected 0 or more"),
        ({"checkpoint": {"verify": "often"}}, 'checkpoint.verify is "often"'),
        ({"checkpoint": {"evry": 3}}, "no field 'evry'; did you mean \"every\""),
        ({"watchdog": -1.0}, "watchdog is -1.0; expected 0 or more"),
        ({"watchdog": "long"}, "watchdog is 'long' \\(str\\); expected float"),
    ],
)
def test_the_config_says_what_it_takes(section, words):
    with pytest.raises(ValueError, match=words):
        validate(complete(ConfigDict(section)))
