"""Rounds of answers that a signal, a kill, a failing reward or a bad batch cut off."""

import json
import os
import shutil
import signal

import numpy as np
import pytest

from tests.train import toy
from tests.train.test_ppo import config
from train import ppo
from train.core import log, rounds

SAVED = {"steps": 8, "eval.every": 4, "checkpoint.every": 4, "checkpoint.keep": 9}


def train(folder, name, plain=None, **changes):
    """A run in `folder / name` with rounds of four steps; plain: its reward, a function."""
    made, given = config(folder).unlock(), {**SAVED, **changes}
    for field, value in given.items():
        section, _, leaf = field.rpartition(".")
        (made[section] if section else made)[leaf] = value
    return ppo.run(made.lock(), folder / name, plain)


def letters(prompt, answer, target):
    return float(len(answer) % 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rounds")
    return folder, train(folder, "whole", letters)


def steps(workdir, part):
    return [int(row["step"]) for row in log.read(workdir) if any(n.startswith(part) for n in row)]


def samples(workdir):
    return [json.loads(line) for line in (workdir / rounds.SAMPLES).read_text().splitlines()]


def test_a_killed_run_has_every_line_and_answer_once(whole, tmp_path):
    folder, fitted = whole
    shutil.copytree(folder / "whole", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "00000008")
    again = train(tmp_path, "run", letters)
    assert toy.digest(again.state.params) == toy.digest(fitted.state.params)
    for part, want in (("valid/", [4, 8]), ("round/", [0, 4]), ("loss", [*range(1, 9)])):
        assert steps(tmp_path / "run", part) == steps(folder / "whole", part) == want
    assert samples(tmp_path / "run") == samples(folder / "whole")
    assert {row["step"] for row in samples(tmp_path / "run")} == {4, 8}


def failing(at, action):
    """A reward that does something at its call number `at`."""
    calls = []

    def reward(prompt, answer, target):
        calls.append(1)
        if len(calls) == at:
            action()
        return letters(prompt, answer, target)

    return reward


def fails():
    raise ValueError("no reward can be had")


def test_a_reward_that_fails_loses_nothing(whole, tmp_path, capfd):
    own = {"checkpoint.every": 0, "eval.every": 0}
    with pytest.raises(ValueError, match="no reward can be had"):
        train(tmp_path, "run", failing(20, fails), **own)
    assert "the round failed; step 4 is saved" in capfd.readouterr().err
    again = train(tmp_path, "run", letters, **own)
    assert toy.digest(again.state.params) == toy.digest(whole[1].state.params)


def test_a_signal_cuts_a_round_short(whole, tmp_path):
    own, calls = {"checkpoint.every": 0, "eval.every": 0, "kl.controller": "adaptive"}, []

    def stop():
        os.kill(os.getpid(), signal.SIGTERM)

    reward = failing(20, stop)
    counted = lambda *given: (calls.append(1), reward(*given))[1]
    assert train(tmp_path, "run", counted, **own).stopped and len(calls) == 20
    cut = train(tmp_path, "run", letters, **own)
    plain = train(tmp_path, "plain", letters, **own)
    assert toy.digest(cut.state.params) == toy.digest(plain.state.params)
    assert toy.digest(cut.state.carry) == toy.digest(plain.state.carry)
    assert steps(tmp_path / "run", "round/") == [0, 4]


def test_what_is_void_begins_no_round(tmp_path, monkeypatch):
    """With metrics read rarely, the rows of the next round would be saved with the step before it."""
    own = {"log.every": 100, "eval.every": 0, "checkpoint.every": 0}
    real = rounds.Setting.minibatch

    def bad(self, step):
        batch = real(self, step)
        return (
            {**batch, "advantages": batch["advantages"] * np.float32("nan")} if step == 2 else batch
        )

    monkeypatch.setattr(rounds.Setting, "minibatch", bad)
    with pytest.raises(RuntimeError, match="step 3: loss nan"):
        train(tmp_path, "run", letters, **own)
    monkeypatch.setattr(rounds.Setting, "minibatch", real)
    again = train(tmp_path, "run", letters, **own)
    plain = train(tmp_path, "plain", letters, **own)
    assert toy.digest(again.state.params) == toy.digest(plain.state.params)
