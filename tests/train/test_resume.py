"""A run that is stopped and resumed ends with the same bits as one that never stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tests.train import toy
from train.core import checkpoint
from train.core.fit import fit
from train.core.preempt import Preemption, Stopped

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8


def config(**changes):
    same = {"steps": STEPS, "micro": 2, "optim.ema": 0.9, "mesh.fsdp": 2, "checkpoint.every": 3}
    return toy.config(**{**same, **changes})


def task(c, **changes):
    return toy.task(c, dropout=0.1, **changes)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    c = config()
    seen = []

    def batches(step):
        seen.append(step)
        return toy.batch(c.seed, step)

    state = fit(c, task(c, batches=batches), tmp_path_factory.mktemp("whole")).state
    assert seen == list(range(STEPS))
    return toy.digest(state)


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [4, 6])
def test_resumed_is_uninterrupted_by_hash(tmp_path, uninterrupted, at):
    c, seen = config(), []

    def batches(step):
        seen.append(step)
        if len(seen) == at + 1:
            raise Stop
        return toy.batch(c.seed, step)

    with pytest.raises(Stop):
        fit(c, task(c, batches=batches), tmp_path)
    newest = int(checkpoint.folders(tmp_path)[-1].name)
    assert newest == 3 * (at // 3)
    state = fit(c, task(c, batches=batches), tmp_path).state
    assert seen == [*range(at + 1), *range(newest, STEPS)], "the data's position is resumed too"
    assert toy.digest(state) == uninterrupted


def test_the_hash_sees_one_step_of_difference(tmp_path, uninterrupted):
    c = config(seed=1)
    assert toy.digest(fit(c, task(c), tmp_path).state) != uninterrupted


def test_a_finished_run_is_left_as_it_is(tmp_path, uninterrupted):
    c = config()
    fit(c, task(c), tmp_path)
    before = sorted(p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").rglob("*"))
    again = fit(c, task(c, batches=None), tmp_path)
    assert toy.digest(again.state) == uninterrupted
    assert before == sorted(p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").rglob("*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_resumed_run_ends_the_same(tmp_path, uninterrupted, number, capfd):
    c, sent = config(), []

    def batches(step):
        if step == 4 and not sent:
            sent.append(os.kill(os.getpid(), number))
        return toy.batch(c.seed, step)

    before = signal.getsignal(number)
    stopped = fit(c, task(c, batches=batches), tmp_path)
    assert signal.getsignal(number) == before
    assert stopped.stopped
    assert int(stopped.state.step) == 5
    assert checkpoint.folders(tmp_path)[-1].name == "00000005"
    said = capfd.readouterr().err
    assert "saving, then leaving" in said
    assert "stopped after step 5" in said
    final = fit(c, task(c, batches=batches), tmp_path)
    assert not final.stopped
    assert toy.digest(final.state) == uninterrupted


def test_a_signal_cuts_an_evaluation_short(tmp_path):
    c = config(**{"eval.every": 4})
    reached = []

    def slow(variables):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            time.sleep(0.01)
        reached.append(1)
        return {}

    out = fit(c, task(c, evaluators={"held": slow}), tmp_path)
    assert out.stopped
    assert not reached
    assert checkpoint.folders(tmp_path)[-1].name == "00000004"


def test_a_signal_before_interruptible_work_is_not_lost():
    with Preemption() as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.due(0)
        with pytest.raises(Stopped), stopping.interruptible():
            pass


CHILD = """
import sys, time
from tests.train import test_resume, toy
from train.core.fit import fit
c = test_resume.config()
def batches(step):
    print("step", step, flush=True)
    if step == 5:
        time.sleep(1000)
    return toy.batch(c.seed, step)
fit(c, test_resume.task(c, batches=batches), sys.argv[1])
"""


def child(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", "import tests.conftest\n" + CHILD, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_kill_9_and_resume_is_uninterrupted_by_hash(tmp_path, uninterrupted):
    process = child(tmp_path)
    for line in process.stdout:
        if line.strip() == "step 5":
            break
    for _ in range(600):  # the save of step 3 goes on in the background
        if checkpoint.folders(tmp_path):
            break
        time.sleep(0.1)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    assert checkpoint.folders(tmp_path)[-1].name == "00000003"
    c = config()
    assert toy.digest(fit(c, task(c), tmp_path).state) == uninterrupted


def test_the_second_signal_leaves_at_once(tmp_path):
    process = child(tmp_path)
    for line in process.stdout:
        if line.strip() == "step 5":
            break
    process.send_signal(signal.SIGTERM)
    assert any("saving, then leaving" in line for line in process.stdout)
    assert process.poll() is None, "the first one waits for the step"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 3}, "config.seed is 3, but this run was started with 0"),
        ({"batch": 16}, "config.batch is 16"),
        ({"length": 2}, "config.length"),
        ({"model.width": 12}, "config.model.width is 12"),
        ({"phases": ((2, 4, 8),)}, "config.phases"),
        ({"optim.name": "sgd"}, "config.optim.name"),
        ({"tokens": 999}, "data's tokens is 999, but this run was started with 1000"),
        ({"tokenizer": "xyz"}, 'data\'s tokenizer is "xyz"'),
    ],
)
def test_another_run_is_refused_by_the_fields_name(tmp_path_factory, change, words):
    folder = tmp_path_factory.getbasetemp() / "refuse"
    c = config(steps=1)
    if not folder.exists():
        fit(c, task(c), folder)
    data = {"tokens": 1000, "tokenizer": "abc"}
    data.update({name: value for name, value in change.items() if name in data})
    other = config(steps=2, **{n: v for n, v in change.items() if n not in data})
    with pytest.raises(ValueError, match=words) as error:
        fit(other, task(other, fingerprint=data), folder)
    assert len(str(error.value).splitlines()) <= 3


def test_allow_mismatch_and_harmless_changes_go_on(tmp_path):
    c = config(steps=1)
    fit(c, task(c), tmp_path)
    other = config(**{"steps": 2, "model.remat": "full", "checkpoint.keep": 1, "optim.lr": 1e-4})
    assert int(fit(other, task(other), tmp_path).state.step) == 2
    other = config(steps=3, seed=9)
    other.allow_mismatch = True
    assert int(fit(other, task(other), tmp_path).state.step) == 3


def test_a_stacked_run_goes_on_apart(tmp_path):
    def scanned(c, scan):
        return task(c, init=lambda key: toy.init(key, scan))

    c = config(**{"steps": 3, "optim.decay_steps": STEPS})
    fit(c, scanned(c, True), tmp_path)
    c = config(**{"optim.decay_steps": STEPS})
    ended = fit(c, scanned(c, False), tmp_path).state
    assert ended.params["blocks"].keys() == {"0", "1"}
    assert int(ended.step) == STEPS
    whole = fit(c, scanned(c, False), tmp_path / "b").state
    for a, b in zip(jax.tree.leaves(ended.params), jax.tree.leaves(whole.params), strict=True):
        assert float(jnp.abs(a - b).max()) < 1e-5


def test_a_damaged_newest_checkpoint_costs_steps_not_bits(tmp_path, uninterrupted, capfd):
    c = config(steps=6)
    c.optim.decay_steps = STEPS
    full = config()
    full.optim.decay_steps = STEPS
    fit(c, task(c), tmp_path)
    newest = checkpoint.folders(tmp_path)[-1]
    data = max(
        (f for f in (newest / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size
    )
    raw = bytearray(data.read_bytes())
    raw[len(raw) // 2] ^= 16
    data.write_bytes(raw)
    state = fit(full, task(full), tmp_path).state
    assert "00000006 is damaged" in capfd.readouterr().err
    assert toy.digest(state) == uninterrupted
