"""A run that goes on is the run that nobody stopped: evaluations, the stream, frozen parameters."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train import test_anomaly as spoiling
from tests.train import toy
from tests.train.test_best import held
from train.core import anomaly, checkpoint, frozen, log, shard, undone
from train.core.fit import fit


def lines(workdir, part="valid/"):
    rows = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if any(name.startswith(part) for name in row)]


def evaluated(stop=0, also=0, **changes):
    """A run that is evaluated every second step, and gets a signal in its evaluation `stop`."""
    c = toy.config(**{"steps": 8, "eval.every": 2, **changes})
    with c.unlocked():
        c.best = dict(metric="valid/score", mode="max", patience=0)
    calls = []

    def score(variables):
        calls.append(1)
        if len(calls) == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        table = np.asarray(variables["params"]["embed"]["tokens"]["embedding"])
        return {"score": -abs(float(table.sum()) - also)}

    task = toy.task(c)
    object.__setattr__(task, "evaluators", {"valid": score, "other": score})
    return c, task, calls


@pytest.mark.parametrize("stop", [3, 4])  # in the first and in the second part of step 4
def test_an_evaluation_that_a_signal_cut_off_is_made_up_for(tmp_path, stop):
    c, task, _ = evaluated()
    fit(c, task, tmp_path / "whole")
    c, task, _ = evaluated(stop)
    assert fit(c, task, tmp_path / "cut").stopped
    c, task, _ = evaluated()
    fit(c, task, tmp_path / "cut")
    for part in ("valid/", "other/"):
        assert lines(tmp_path / "cut", part) == lines(tmp_path / "whole", part) == [2, 4, 6, 8]
    assert (tmp_path / "cut/best.json").read_text() == (tmp_path / "whole/best.json").read_text()
    assert held(tmp_path / "cut") == held(tmp_path / "whole")


def test_an_evaluation_that_was_made_is_not_made_again(tmp_path):
    c, task, _ = evaluated(steps=4)
    fit(c, task, tmp_path)
    c, task, calls = evaluated(steps=6)
    fit(c, task, tmp_path)
    assert len(calls) == 2 and lines(tmp_path) == [2, 4, 6]


def test_damaged_lines_hide_no_evaluation(tmp_path):
    assert undone.parts(tmp_path, 4) == set()
    rows = ['{"step": 4, "valid/loss": 1', "[]", "3", '{"valid/loss": 1}', '{"step": 2, "a/b": 1}',
            '{"step": 4, "loss": 1}', '{"step": 4, "valid/loss": "nan", "time": 0}']  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n\xff")
    assert undone.parts(tmp_path, 4) == {"valid"}


def test_a_round_replaces_no_evaluation_of_the_step_that_it_follows(tmp_path):
    rows = [{"step": 4, "loss": 1.0}, {"step": 4, "valid/reward": 2.0}, {"step": 4, "round/kl": 3}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + json.dumps({"step": 5, "loss": 1.0}) + "\n")
    assert log.rewind(tmp_path, 4, ("round/kl", "round/reward")) == 2
    assert [[*row][1] for row in log.read(tmp_path)] == ["loss", "valid/reward"]
    assert log.rewind(tmp_path, 4, ("valid/reward",)) == 1 and len(log.read(tmp_path)) == 1


@pytest.mark.parametrize(("first", "then"), [(0.0, 50.0), (50.0, 0.0)])
def test_a_spike_s_factor_that_comes_or_goes_leaves_the_place_in_the_stream(tmp_path, first, then):
    c = spoiling.policy("rollback", first, steps=8)
    fit(c, spoiling.task(c, {5}), tmp_path)
    c, seen = spoiling.policy("rollback", then, steps=10), []
    fitted = fit(c, spoiling.task(c, {5}, seen=seen), tmp_path)
    assert seen == [10, 11]
    assert int(fitted.state.guard["rollbacks"]) == 1 and ("window" in fitted.state.guard) == (
        then > 0
    )


@pytest.mark.parametrize("error", [ValueError("cut short"), OSError(5, "failed"), KeyError("x")])
def test_an_evaluation_that_fails_loses_nothing(tmp_path, error, capfd):
    def run(variables):
        raise error

    c = toy.config(**{"steps": 6, "eval.every": 5})
    task = toy.task(c)
    object.__setattr__(task, "evaluators", {"valid": run})
    with pytest.raises(type(error)):
        fit(c, task, tmp_path)
    assert [p.name for p in checkpoint.folders(tmp_path)] == ["00000005"]
    assert "the evaluation failed; step 5 is saved" in capfd.readouterr().err


def teacher(value=0.5, dtype=jnp.float32):
    made = {"a": {"kernel": jnp.full((8, 4), value, dtype)}, "b": jnp.arange(6, dtype=jnp.int32)}
    return {**made, "on": jnp.ones(3, bool)}


def test_the_bits_of_frozen_parameters_tell_them_apart():
    known = frozen.bits(teacher())
    assert known == frozen.bits(jax.tree.map(np.asarray, teacher())) and known["arrays"] == 3
    others = [teacher(np.nextafter(np.float32(0.5), 1)), teacher(dtype=jnp.bfloat16), {}]
    swapped = teacher()
    swapped["b"] = swapped["b"][::-1]
    for other in (*others, swapped, {"z": teacher()["a"]["kernel"]}):
        assert frozen.bits(other) != known
    where = jax.sharding.NamedSharding(
        shard.mesh({"data": 1, "fsdp": 4, "tensor": 2}),
        jax.sharding.PartitionSpec("fsdp", "tensor"),
    )
    laid = {**teacher(), "a": {"kernel": jax.device_put(teacher()["a"]["kernel"], where)}}
    assert frozen.bits(laid) == known


def test_a_run_does_not_go_on_with_other_frozen_parameters(tmp_path):
    rules = ((r"^(a|b|on)", jax.sharding.PartitionSpec()), *shard.RULES)
    start = lambda c, value: fit(c, toy.task(c, frozen=teacher(value), rules=rules), tmp_path)
    start(toy.config(steps=2), 0.5)
    with pytest.raises(ValueError, match="the frozen parameters .* are not those"):
        start(toy.config(steps=3), 0.25)
    start(toy.config(steps=3), 0.5)
    c = toy.config(steps=4, allow_mismatch=True)
    assert int(start(c, 0.25).state.step) == 4
    for folder in checkpoint.folders(tmp_path):  # as older versions wrote it
        held = json.loads((folder / "run.json").read_text())
        del held["fingerprint"]["frozen"]
        (folder / "run.json").write_text(json.dumps(held))
        (folder / "INTEGRITY.json").unlink()
        from train.core import integrity

        integrity.write(folder)
    assert int(start(toy.config(steps=5), 0.75).state.step) == 5


def test_guards_of_both_kinds_have_the_same_numbers():
    plain, spiked = (anomaly.Guard(spike=x).fresh() for x in (0.0, 2.0))
    assert set(plain) < set(spiked)
