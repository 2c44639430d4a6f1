"""PPO in two processes on loopback: the rounds, the updates and the checkpoints of one process."""

import io
import json
import os
import signal
import sys

import pytest

from scripts import launch
from tests.chaos import test_processes as processes
from train.core import checkpoint, integrity

STEPS, EVERY = 16, 6  # two rounds of eight steps; the second save lies within the second round
pytestmark = pytest.mark.chaos


def arguments(workdir, *changes) -> list:
    return [
        sys.executable, "-m", "train", "--config=configs/ppo.py:tiny", f"--workdir={workdir}",
        f"--config.steps={STEPS}", f"--config.checkpoint.every={EVERY}", "--config.checkpoint.keep=9",
        "--config.eval.every=8", "--config.log.every=1", "--config.log.peak=1e12",
        "--config.log.tensorboard=False", *changes,
    ]  # fmt: skip


def group(workdir, *changes, count=2):
    out = io.StringIO()
    return launch.Group(arguments(workdir, *changes), count, 1, out), out


def trained(workdir, *changes, count=2):
    made, out = group(workdir, *changes, count=count)
    assert made.wait() == 0, out.getvalue()
    return out.getvalue()


def numbers(workdir) -> dict:
    """{(step, name): value} of what does not depend on time."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "ratio", "value_loss", "entropy", "gradient_norm", "valid/reward")
    wanted = lambda name: name in names or name.startswith("round/")
    return {(row["step"], name): x for row in rows for name, x in row.items() if wanted(name)}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run of two processes that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("two")
    return workdir, trained(workdir)


@pytest.mark.parametrize(
    "count, changes", [(1, ()), (2, ("--config.mesh.data=1", "--config.mesh.tensor=2"))]
)
def test_processes_and_axes_change_nothing_but_rounding(two, tmp_path, count, changes):
    trained(tmp_path, *changes, count=count)
    one, other = numbers(tmp_path), numbers(two[0])
    assert one.keys() == other.keys() and (8, "round/reward") in one and (16, "loss") in one
    for name, value in one.items():
        assert other[name] == pytest.approx(value, abs=1e-4, rel=1e-4), name
    samples = [path / "samples.jsonl" for path in (tmp_path, two[0])]
    assert samples[0].read_text() == samples[1].read_text()


def test_a_killed_run_of_two_resumes_within_a_round_to_the_last_bit(two, tmp_path):
    made, out = group(tmp_path)
    processes.until(lambda: len(checkpoint.folders(tmp_path)) > 1)
    os.kill(made.members[1].pid, signal.SIGKILL)
    made.wait()
    for folder in checkpoint.folders(tmp_path)[2:]:
        integrity.remove(folder)
    said = trained(tmp_path)
    assert f"resuming after step {2 * EVERY}" in said, (out.getvalue(), said)
    last = f"{STEPS:08d}"
    assert [path.name for path in checkpoint.folders(tmp_path)][-1] == last
    assert processes.digests(tmp_path)[STEPS] == processes.digests(two[0])[STEPS]


def test_a_reward_function_is_called_by_the_first_process_alone(tmp_path):
    code = (
        "import random, jax\nfrom train.__main__ import command\nfrom train.core import rewards\n"
        "def drawn(prompt, answer, target):\n"
        "    assert jax.process_index() == 0\n    return random.random()\n"
        "rewards.PLAIN['drawn'] = drawn\ncommand()\n"
    )
    argv = arguments(tmp_path, "--config.steps=8", "--config.reward.kind=drawn")
    out = io.StringIO()
    made = launch.Group([sys.executable, "-c", code, *argv[3:]], 2, 1, out)
    assert made.wait() == 0, out.getvalue()
    assert numbers(tmp_path)[0, "round/reward"] == pytest.approx(0.5, abs=0.1)
