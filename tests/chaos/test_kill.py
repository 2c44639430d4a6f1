"""kill -9 at any moment, also inside a save, costs time and not one bit."""

import json
import signal
import time

import numpy as np
import pytest

from tests.chaos import tiny
from train.core import integrity
from train.core.saver import SAVING

KILLS, SEED = 20, 2026
FLAGS = ("--config.steps=168",)
pytestmark = pytest.mark.chaos


def reached(workdir) -> int:
    """The last step in metrics.jsonl; 0 if there is none or the last line is torn."""
    try:
        return json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    except (OSError, ValueError, IndexError):
        return 0


def saving(workdir) -> list[str]:
    """Checkpoints that are being written."""
    found = (workdir / "checkpoints").glob(f"*/{SAVING}")
    return [p.parent.name for p in found if not (p.parent / integrity.NAME).exists()]


def kill(workdir, how, draw, period) -> str:
    """Starts the run again and kills it; says when that was. `period` is a save's time in seconds."""
    process = tiny.start(workdir, *FLAGS)
    before, began, wait = reached(workdir), time.monotonic(), 0.0
    stale = set(saving(workdir))
    target = before + int(draw.integers(1, 9))
    if how == "start":
        wait = float(draw.uniform(0.5, 6.0))
    while time.monotonic() - began < 120 and process.poll() is None:
        now = saving(workdir)
        stale &= set(now)
        if how == "start" and time.monotonic() - began > wait:
            break
        if how == "step" and reached(workdir) >= target and reached(workdir) != before:
            break
        if how == "save" and set(now) - stale:
            time.sleep(float(draw.uniform(0.0, period)))
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, output = tiny.finish(process)
    assert process.returncode == -signal.SIGKILL, output
    inside = " inside a save" if saving(workdir) else ""
    return f"{how}: killed after step {reached(workdir)}{inside}"


def test_twenty_kills_change_no_bit(tmp_path):
    began = time.monotonic()
    status, output = tiny.finish(tiny.start(tmp_path / "whole", *FLAGS))
    assert status == 0, output
    want = tiny.digest(tmp_path / "whole" / "checkpoints" / "00000168")
    lines = [json.loads(x) for x in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    period = (lines[160]["time"] - lines[8]["time"]) / 38
    draw, workdir = np.random.default_rng(SEED), tmp_path / "killed"
    told = []
    for number in range(KILLS):
        how = ("save", "step", "save", "step", "save", "start")[number % 6]
        told.append(kill(workdir, how, draw, period))
        print(f"{number + 1:2} {told[-1]}")
    status, output = tiny.finish(tiny.start(workdir, *FLAGS))
    assert status == 0, output
    assert tiny.steps(workdir)[-1] == "00000168"
    print(f"seed {SEED}, {KILLS} kills, {time.monotonic() - began:.0f} s; {want}")
    assert tiny.digest(workdir / "checkpoints" / "00000168") == want
    assert sum("inside a save" in row for row in told) >= 3, told
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines if "loss" in row] == list(range(1, 169))
