"""Adapters on a run of ours, trained in two processes on loopback: what is frozen is laid out, too."""

import io
import json
import sys

import pytest

from scripts import launch
from train.core import checkpoint

pytestmark = pytest.mark.chaos


def trained(workdir, *changes, processes=1):
    argv = [
        sys.executable, "-m", "train", "--config=configs/minilm.py:tiny", f"--workdir={workdir}",
        "--config.length=32", "--config.model.layers=1", "--config.optim.warmup=1",
        "--config.eval.every=2", "--config.checkpoint.every=2", "--config.log.every=1",
        "--config.log.tensorboard=False", "--config.log.peak=1e12", "--config.optim.schedule=constant",
        *changes,
    ]  # fmt: skip
    out = io.StringIO()
    made = launch.Group(argv, processes, 1, out)
    assert made.wait() == 0, out.getvalue()
    return out.getvalue()


def numbers(workdir) -> dict:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "valid/pearson")
    return {(row["step"], name): row[name] for row in rows for name in names if name in row}


def test_adapters_train_and_resume_in_two_processes_as_in_one(tmp_path):
    base, one, two = tmp_path / "base", tmp_path / "one", tmp_path / "two"
    trained(base, "--config.steps=2")
    more = ("--config.lora.rank=2", f"--config.init.checkpoint={base}")
    trained(one, *more, "--config.steps=4")
    trained(two, *more, "--config.steps=2", processes=2)
    said = trained(two, *more, "--config.steps=4", processes=2)
    assert "resuming after step 2" in said
    lines = [line for line in said.splitlines() if not line.startswith("[0]")]
    assert not lines, "the first process speaks for all"
    assert int(checkpoint.folders(two)[-1].name) == 4
    expected, found = numbers(one), numbers(two)
    assert (3, "loss") in found and (4, "valid/pearson") in found
    for name in ((1, "loss"), (2, "valid/pearson")):
        assert found[name] == pytest.approx(expected[name], abs=1e-3), name
