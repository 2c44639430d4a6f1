"""kill -9 and resume in the loops beside next-token prediction: not one bit of the state differs."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.chaos import tiny
from train.core import integrity

KEPT, STEPS = 3, 6
CONFIGS = {  # and what would only take time
    "transformer": ("--config.decode.limit=-1", "--config.decode.test=-1"), "t5": (), "sft": (),
    "bert": ("--config.eval.pseudo=0",), "beit": (), "resnet": (),
}  # fmt: skip
pytestmark = pytest.mark.chaos


def start(config, workdir):
    """`python -m train` of the tiny variant, a few steps long, in a process of its own."""
    return subprocess.Popen(
        [
            sys.executable, "-m", "train", f"--config=configs/{config}.py:tiny", f"--workdir={workdir}",
            f"--config.steps={STEPS}", f"--config.checkpoint.every={KEPT}",
            "--config.checkpoint.keep=9", "--config.log.every=1", "--config.optim.warmup=2", *CONFIGS[config],
        ],
        cwd=tiny.ROOT, env={**os.environ, "XLA_FLAGS": "", "PYTHONUNBUFFERED": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def losses(workdir) -> dict:
    """The loss of each step; of a step that was made twice, both must be the same."""
    found = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "loss" in row:
            assert found.setdefault(row["step"], row["loss"]) == row["loss"], row
    return found


@pytest.mark.parametrize("config", CONFIGS)
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, config):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    status, output = tiny.finish(start(config, whole))
    assert status == 0, output
    process = start(config, killed)
    done = killed / "checkpoints" / f"{KEPT:08}" / integrity.NAME
    began = time.monotonic()
    while not done.exists() and process.poll() is None and time.monotonic() - began < 300:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, output = tiny.finish(process)
    assert process.returncode == -signal.SIGKILL and done.exists(), output
    last = f"{STEPS:08}"
    assert last not in tiny.steps(killed), "it was killed too late to show anything"
    status, output = tiny.finish(start(config, killed))
    assert status == 0 and f"step {KEPT}" in output, output
    digests = [tiny.digest(run / "checkpoints" / last) for run in (whole, killed)]
    assert digests[0] == digests[1]
    assert losses(whole) == losses(killed) and len(losses(whole)) == STEPS
