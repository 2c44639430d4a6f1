"""A full disk costs checkpoints, not the run; a stalled run ends with a status to start it again."""

import json
import os
import shutil
import subprocess
import time

import pytest

from tests.chaos import tiny

pytestmark = pytest.mark.chaos
ENDLESS = ("--config.steps=100000", "--config.log.every=20", "--config.log.tensorboard=true")


@pytest.fixture
def disk(tmp_path):
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Leaves a few kilobytes; returns the file that takes the rest."""
    path = folder / "ballast"
    with open(path, "wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                break
    os.truncate(path, max(0, path.stat().st_size - 8192))
    return path


def lines_until(process, words, seconds=180):
    """The child's lines up to one with these words."""
    seen, end = [], time.monotonic() + seconds
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return seen
        assert time.monotonic() < end, "".join(seen)
    raise AssertionError("".join(seen))


def saving(disk, tmp_path):
    """(workdir, process) of a run on the small disk that has saved once."""
    workdir = disk / "run"
    tiny.works(tmp_path / "run")
    shutil.copy(tmp_path / "works.jsonl", disk / "works.jsonl")
    process = tiny.start(workdir, *ENDLESS, "--config.checkpoint.every=40")
    lines_until(process, "step 1/")
    while not tiny.steps(workdir):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    return workdir, process


def test_a_full_disk_is_said_and_training_goes_on_until_there_is_room(disk, tmp_path):
    workdir, process = saving(disk, tmp_path)
    ballast = fill(disk)
    head = lines_until(process, "the disk is full")
    assert "older checkpoints are kept and training goes on" in head[-1]
    kept = tiny.steps(workdir)
    assert kept
    head += lines_until(process, "the disk is full")
    assert tiny.steps(workdir) == kept
    ballast.unlink()
    head += lines_until(process, "the disk takes checkpoints again")
    time.sleep(0.5)
    process.terminate()
    status, tail = tiny.finish(process)
    text = "".join(head) + tail
    assert status == 0, text
    assert text.count("Traceback") == 0, text
    assert len(text.splitlines()) < 80, text
    last = tiny.steps(workdir)[-1]
    assert last > kept[-1]
    assert f"stopped after step {int(last)};" in text
    names = sorted(p.name for p in (workdir / "checkpoints").iterdir())
    assert names == tiny.steps(workdir), "nothing is left over"
    rows = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))


def test_the_exit_status_tells_that_the_last_save_failed(disk, tmp_path):
    workdir, process = saving(disk, tmp_path)
    fill(disk)
    lines_until(process, "the disk is full")
    kept = tiny.steps(workdir)
    process.terminate()
    status, text = tiny.finish(process)
    assert status == 74, text
    assert "error: saving step" in text.splitlines()[-1]
    assert "the disk is full" in text.splitlines()[-1]
    assert tiny.steps(workdir) == kept


def test_a_stall_ends_with_all_stacks_and_a_status_to_start_again(tmp_path):
    workdir = tmp_path / "run"
    process = tiny.start(
        workdir, "--config.watchdog=2", "--config.steps=12", module=("tests.chaos.child", "stall")
    )
    lines_until(process, "PHASE")
    began = time.monotonic()  # it would hang there for a minute
    status, text = tiny.finish(process)
    seconds = time.monotonic() - began
    assert status == 75, text
    assert "no step for" in text
    stacks = (workdir / "stalled-0.txt").read_text()
    for found in (text, stacks):
        assert "in linger" in found, "the place where it hangs"
        assert found.count("most recent call first") > 1, "all threads"
    assert tiny.steps(workdir) == ["00000004"]
    assert seconds < 45
    status, text = tiny.finish(tiny.start(workdir, "--config.steps=12"))
    assert status == 0, text
    assert "resuming after step 4" in text
