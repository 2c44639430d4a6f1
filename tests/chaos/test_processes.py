"""Two processes on loopback: they train, save, stop and resume as one, and end when one is lost."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from scripts import launch
from tests.train import toy
from train.core import checkpoint, forms, integrity

ROOT = Path(__file__).resolve().parents[2]
BEAT = 10  # seconds without a sign of life after which a killed process is given up
BOUND = 3.0 * BEAT  # seconds in which a process ends after another was killed
STEPS = 12
pytestmark = pytest.mark.chaos


def command(workdir, *changes):
    """A training run of a few seconds."""
    options = dict(
        steps=STEPS, batch=8, length=32, seed=0, **{
            "data.tokenizer": "byte", "model.vocab": 260, "model.width": 32, "model.heads": 2,
            "model.layers": 1, "optim.warmup": 1, "log.every": 1, "log.tensorboard": False,
            "eval.every": 4, "eval.batches": 2, "checkpoint.every": 4, "checkpoint.keep": 9,
            "model.drop_resid": 0.1, "log.peak": 1e12, "optim.schedule": "constant",
        },
    )  # fmt: skip
    given = [f"--config.{name}={value}" for name, value in options.items()]
    first = [sys.executable, "-m", "train", "--config=configs/gpt2.py:tiny"]
    return [*first, f"--workdir={workdir}", *given, *changes]


def group(workdir, *changes, processes=2, devices=1):
    out = io.StringIO()
    return launch.Group(command(workdir, *changes), processes, devices, out), out


def trained(workdir, *changes, **how):
    """(exit status, output) of a run to its end."""
    made, out = group(workdir, *changes, **how)
    return made.wait(), out.getvalue()


def digests(workdir) -> dict:
    """{step: hash of everything that the checkpoint holds}."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    found = {}
    for folder in checkpoint.folders(workdir):
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
            checkpoint.inside(folder),
        )
        arrays = forms.flat(checkpoint.load_arrays(folder, wanted))
        found[int(folder.name)] = toy.digest([arrays[name] for name in sorted(arrays)])
    return found


def losses(workdir) -> dict:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "heldout/loss", "heldout/tokens")
    return {(row["step"], name): row[name] for row in rows for name in names if name in row}


def listeners(pids) -> set:
    """Addresses (hex, as the kernel writes them) on which these processes listen for connections."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                sockets.add(os.readlink(link))
            except FileNotFoundError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
        found |= {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}
    return found


def until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two processes that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    status, said = trained(workdir)
    assert status == 0, said
    return workdir, said


def test_two_processes_train_evaluate_and_speak_once(whole):
    workdir, said = whole
    assert checkpoint.folders(workdir)[-1].name == f"{STEPS:08d}"
    rows = (workdir / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == STEPS + STEPS // 4, "only process 0 writes metrics"
    assert json.loads((workdir / "run.json").read_text())["device"]["processes"] == 2
    assert said.count("run in ") == 1 and "[0] lm on 2 x" in said
    assert not [line for line in said.splitlines() if line.startswith("[1]")], said


def test_two_processes_are_one_process_within_rounding(whole, tmp_path):
    status, said = trained(tmp_path, processes=1)
    assert status == 0, said
    one, two = losses(tmp_path), losses(whole[0])
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, abs=2e-4), name


def test_an_axis_across_processes_gives_all_of_them_the_same_rows(whole, tmp_path):
    status, said = trained(tmp_path, "--config.mesh.data=1", "--config.mesh.tensor=2")
    assert status == 0, said
    one, two = losses(tmp_path), losses(whole[0])
    for name, value in one.items():
        assert two[name] == pytest.approx(value, abs=2e-4), name


@pytest.mark.parametrize("victim", [1, 0])
def test_a_killed_peer_ends_the_other_and_the_resumed_run_ends_the_same(
    whole, tmp_path, victim, monkeypatch
):
    monkeypatch.setattr(launch, "GRACE", BOUND)  # the other one is left to itself
    made, out = group(tmp_path, "--config.steps=100000", f"--config.dist.heartbeat={BEAT}")
    until(lambda: checkpoint.folders(tmp_path))
    addresses = listeners([process.pid for process in made.members])
    os.kill(made.members[victim].pid, signal.SIGKILL)
    start = time.monotonic()
    status, took = made.wait(), time.monotonic() - start
    said = [line for line in out.getvalue().splitlines() if "step " not in line]
    said = [line for line in said if not line.startswith(("[0] memory: ", "[0] lm on "))]
    assert status == 128 + signal.SIGKILL and took < BOUND
    assert made.members[1 - victim].returncode in (75, -signal.SIGABRT)
    gone = f"launch: process {victim} was killed by SIGKILL"  # the other may end by itself first
    assert gone in said or f"{gone}; the others were ended" in said
    assert len(said) <= 2 + 2 + 1, "\n".join(
        said
    )  # two of the C++ runtime, two ours, the launcher's
    assert addresses and all(
        address.startswith(("0100007F:", "0000000000000000FFFF00000100007F:"))
        for address in addresses
    ), addresses
    for folder in checkpoint.folders(tmp_path)[1:]:
        integrity.remove(folder)  # it may have gone past the end of the other run
    status, said = trained(tmp_path)
    assert status == 0 and "resuming after step 4" in said, said
    ended = digests(tmp_path)
    assert {step: ended[step] for step in (8, STEPS)} == {
        step: digests(whole[0])[step] for step in (8, STEPS)
    }


def test_a_silent_peer_ends_the_other_and_the_launcher_says_so(tmp_path):
    code = (
        "import jax, os, signal, time\nfrom train.core import launch\n"
        "jax.distributed.initialize(**launch.cluster({'heartbeat': 3}, os.environ))\n"
        "if jax.process_index() == 1:\n    os.kill(os.getpid(), signal.SIGSTOP)\n"
        "time.sleep(100)\n"
    )
    out = io.StringIO()
    made = launch.Group([sys.executable, "-c", code], 2, 1, out)
    assert made.wait() == 128 + signal.SIGABRT
    assert out.getvalue() == (
        "launch: process 0 ended itself: one of them was silent for longer than "
        "config.dist.heartbeat; the others were ended\n"
    )


def test_sigterm_to_one_stops_both_at_the_same_step(tmp_path):
    made, out = group(tmp_path, "--config.steps=100000")
    until(lambda: checkpoint.folders(tmp_path))
    os.kill(made.members[1].pid, signal.SIGTERM)
    assert made.wait() == 0, out.getvalue()
    assert [process.returncode for process in made.members] == [0, 0]
    newest = int(checkpoint.folders(tmp_path)[-1].name)
    assert f"[0] stopped after step {newest}; start again to go on" in out.getvalue()


def test_one_process_goes_on_where_two_stopped(whole, tmp_path):
    shutil.copytree(whole[0] / "checkpoints", tmp_path / "checkpoints")
    integrity.remove(checkpoint.folders(tmp_path)[-1])
    status, said = trained(tmp_path, processes=1)
    assert status == 0 and "resuming after step 8" in said, said
    one, two = losses(tmp_path), losses(whole[0])
    assert (9, "loss") in one and (12, "heldout/loss") in one
    for name, value in one.items():
        assert two[name] == pytest.approx(value, abs=2e-4), name


def test_two_processes_start_from_the_parameters_of_another_run(whole, tmp_path):
    status, said = trained(tmp_path, f"--config.init.checkpoint={whole[0]}", "--config.steps=1")
    assert status == 0 and "[0] starting from the parameters of" in said, said
    assert losses(tmp_path)[1, "loss"] < losses(whole[0])[1, "loss"] - 0.1


def test_a_mistake_that_one_process_finds_ends_both_with_its_words(tmp_path):
    code = (
        "import jax, os\nfrom train.core import launch\n"
        "jax.distributed.initialize(**launch.cluster({}, os.environ))\n"
        "with launch.together():\n"
        "    if jax.process_index() == 1:\n        raise ValueError('shard 3 is gone')\n"
        "    from jax.experimental import multihost_utils\n"
        "    multihost_utils.sync_global_devices('x')\n"
    )
    out = io.StringIO()
    start = time.monotonic()
    assert launch.Group([sys.executable, "-c", code], 2, 1, out).wait() == 2
    assert "[1] error: shard 3 is gone" in out.getvalue()
    assert time.monotonic() - start < 4 * BOUND, (
        "importing jax on a busy machine; barriers take 300"
    )
    assert len(out.getvalue().splitlines()) <= 4, out.getvalue()


def test_the_launcher_passes_signals_on_and_prefixes_lines(tmp_path):
    code = "import signal, time\nprint('up')\nsignal.signal(15, lambda *_: exit(0))\ntime.sleep(60)"
    argv = [sys.executable, "-m", "scripts.launch", "local", "-n", "3", "--"]
    process = subprocess.Popen(
        [*argv, sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    lines = sorted(process.stdout.readline() for _ in range(3))
    assert lines == ["[0] up\n", "[1] up\n", "[2] up\n"]
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_one_failing_process_ends_all_with_its_status():
    code = (
        "import os, time\n"
        f"if os.environ['{launch.DIST['process']}'] == '1':\n    exit(7)\ntime.sleep(100)"
    )
    out = io.StringIO()
    start = time.monotonic()
    assert launch.Group([sys.executable, "-c", code], 2, 1, out).wait() == 7
    assert out.getvalue() == "launch: process 1 exited with status 7; the others were ended\n"
    assert time.monotonic() - start < launch.GRACE + 20
