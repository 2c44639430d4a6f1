"""One signal saves and leaves with status 0, wherever the run is; the second one leaves at once."""

import signal
import time

import pytest

from tests.chaos import tiny

pytestmark = pytest.mark.chaos
FLAGS = ("--config.steps=12", "--config.eval.every=8")
NOTHING = "stopped before the first step; there is nothing to save"


def hit(workdir, phase, number, again=False):
    """(exit status, output, seconds from the signal to the end) of a run that is hit in a phase."""
    process = tiny.start(workdir, *FLAGS, module=("tests.chaos.child", phase))
    head = []
    for line in process.stdout:
        head.append(line)
        if line.strip() == "PHASE":
            break
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(number)
    if again:
        head.append(next(line for line in process.stdout if "again to leave" in line))
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(number)
    status, output = tiny.finish(process)
    return status, "".join(head) + output, time.monotonic() - began


@pytest.mark.parametrize(
    ("phase", "number", "saved", "words"),
    [
        ("tokenizer", signal.SIGTERM, [], NOTHING),
        ("data", signal.SIGINT, [], NOTHING),
        ("initialisation", signal.SIGTERM, [], NOTHING),
        ("compile", signal.SIGTERM, [], NOTHING),
        ("step", signal.SIGTERM, ["00000004", "00000006"], "stopped after step 6; start again"),
        ("step", signal.SIGINT, ["00000004", "00000006"], "stopped after step 6; start again"),
        ("evaluation", signal.SIGTERM, ["00000004", "00000008"], "stopped after step 8"),
        ("sampling", signal.SIGINT, ["00000008", "00000012"], "everything is saved"),
    ],
)
def test_the_first_signal_saves_and_leaves(tmp_path, phase, number, saved, words):
    status, output, seconds = hit(tmp_path / "run", phase, number)
    assert status == 0, output
    assert words in output
    assert f"{signal.Signals(number).name}: saving, then leaving" in output
    assert "Traceback" not in output
    assert tiny.steps(tmp_path / "run") == saved
    assert seconds < 25, "a step, a save and Python's own end on a busy machine"
    print(f"{phase}: left after {seconds:.1f} s")


@pytest.mark.parametrize("phase", ["compile", "step", "evaluation-compiled"])
def test_the_second_signal_leaves_at_once(tmp_path, phase):
    number = signal.SIGINT if phase == "compile" else signal.SIGTERM
    status, output, seconds = hit(tmp_path / "run", phase, number, again=True)
    assert status == 128 + number, output
    assert seconds < 10, "what it does there lasts longer, on a busy machine, too"
