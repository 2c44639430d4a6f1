"""Token files that change or fail while a run reads them, and workers that die while making them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.prepare import shards
from train.core import checkpoint

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "works.jsonl"
    rows = [{"name": f"w{n}", "text": f"work number {n}, line by line. " * 60} for n in range(80)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def store(source, tmp_path):
    shards.prepare(str(source), "byte", tmp_path / "store", characters=80_000)
    return tmp_path / "store"


def start(workdir, store):
    """A run that goes on for hours, in a process of its own."""
    options = {
        "steps": 100_000, "batch": 4, "length": 32, "log.every": 1, "log.tensorboard": False,
        "data.source": store, "data.tokenizer": "store", "model.vocab": 300, "model.width": 16,
        "model.heads": 2, "model.layers": 1, "eval.every": 0, "log.peak": 1e12,
        "checkpoint.every": 100_000, "data.heldout": "('w1',)", "mesh.data": 1,
    }  # fmt: skip
    given = [f"--config.{name}={value}" for name, value in options.items()]
    argv = [sys.executable, "-m", "train", "--config=configs/gpt2.py:tiny", f"--workdir={workdir}"]
    return subprocess.Popen(
        [*argv, *given], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def until(condition, process=None, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and (process is None or process.poll() is None)
        time.sleep(0.05)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


def alter(file):
    with open(file, "r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)[0]
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    ("damage", "words"), [(truncate, "it was truncated or altered"), (alter, "was altered while")]
)
def test_a_shard_that_changes_under_a_run(store, tmp_path, damage, words):
    run = tmp_path / "run"
    process = start(run, store)
    metrics = run / "metrics.jsonl"
    until(lambda: metrics.exists() and metrics.read_text().count("\n") > 3, process)
    damage(store / "shard-00000.bin")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    errors = said[said.rindex("error: ") :].splitlines()
    assert "shard-00000.bin" in errors[0] and words in " ".join(errors) and len(errors) <= 3
    (folder,) = checkpoint.folders(run)
    assert f"the data failed; step {int(folder.name)} is saved" in said
    assert int(folder.name) >= 3


def test_a_touched_shard_stops_nothing(store, tmp_path):
    run = tmp_path / "run"
    process = start(run, store)
    metrics = run / "metrics.jsonl"
    lines = lambda: metrics.read_text().count("\n") if metrics.exists() else 0
    until(lambda: lines() > 3, process)
    os.utime(store / "shard-00000.bin")
    before = lines()
    until(lambda: lines() > before + 20, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def children(pid) -> list:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except (OSError, ValueError):
            continue
    return found


def worker(pid) -> int:
    """The id of a worker of `scripts.prepare`, once there is one; 0 before."""
    for child in children(pid):
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in line:
            return child
    return 0


def test_a_dying_worker_is_said_and_the_same_command_goes_on(source, tmp_path):
    big = tmp_path / "big.jsonl"
    big.write_text(source.read_text())
    with open(big, "a") as file:
        for n in range(3000):
            file.write(json.dumps({"name": f"x{n}", "text": f"more and more {n} " * 150}) + "\n")
    argv = [sys.executable, "-m", "scripts.prepare", "--source", str(big), "--tokenizer", "byte"]
    argv += ["--out", str(tmp_path / "out"), "--workers", "2", "--shard-characters", "100000"]
    process = subprocess.Popen(
        argv, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    until(lambda: list((tmp_path / "out").glob("shard-*.json")), process)
    victim = worker(process.pid)
    assert victim, "it was done before it could be killed"
    os.kill(victim, signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "error: a worker died (out of memory?)" in said and "Traceback" not in said
    assert not (tmp_path / "out" / "store.json").exists()
    done = subprocess.run(argv, cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert " of them kept from an earlier run" in done.stdout
    assert " 0 of them kept" not in done.stdout
    check = [sys.executable, "-m", "scripts.prepare", "check", str(tmp_path / "out")]
    assert subprocess.run(check, cwd=ROOT, capture_output=True, timeout=120).returncode == 0
