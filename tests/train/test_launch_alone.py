"""Two runs in one folder, a child that is to save before it ends, and disks that are at fault."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from train.core import errors, launch, preempt

CHILD = """
import signal, sys, time
def save(number, frame):
    time.sleep({saves})
    print("saved", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, lambda *_: sys.exit(9))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_folder_is_one_run_s(tmp_path):
    code = (
        "import sys; from train.core import launch; w = launch.alone(sys.argv[1]); w.__enter__(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="(?s)another process trains in .*another --workdir"):
        with launch.alone(tmp_path):
            pass
    other.kill()
    other.wait()
    for _ in range(2):
        with launch.alone(tmp_path):
            assert list(tmp_path.iterdir()) == []


def test_where_there_are_no_locks_nothing_is_held(tmp_path, monkeypatch):
    def no_locks(held, how):
        raise OSError(errno.ENOLCK, "No locks available")

    ran = []
    monkeypatch.setattr(launch.fcntl, "flock", no_locks)
    with launch.alone(tmp_path):
        ran.append("a file system without locks")
    monkeypatch.setattr(launch, "fcntl", None)
    with launch.alone(tmp_path):
        ran.append("a system without locks")
    assert len(ran) == 2


@pytest.mark.parametrize(
    ("number", "again", "raises", "said"),
    [
        (signal.SIGINT, False, KeyboardInterrupt, "saved\n"),
        (signal.SIGTERM, False, SystemExit, "saved\n"),
        (signal.SIGINT, True, KeyboardInterrupt, ""),
    ],
)
def test_a_child_gets_one_signal_and_time_to_save(number, again, raises, said):
    code = CHILD.format(saves=60 if again else 0.3)
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert child.stdout.readline() == "ready\n"

    def send():
        for _ in range(1 + again):
            time.sleep(0.3)
            os.kill(os.getpid(), number)

    before = [signal.getsignal(n) for n in preempt.SIGNALS]
    threading.Thread(target=send).start()
    with pytest.raises(raises), preempt.forwarding(child):
        child.wait(timeout=30)
    assert child.stdout.read() == said
    assert child.returncode == (-signal.SIGKILL if again else 0)
    assert [signal.getsignal(n) for n in preempt.SIGNALS] == before


def test_a_child_that_ends_by_itself_raises_nothing():
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with preempt.forwarding(child):
        assert child.wait() == 3


@pytest.mark.parametrize(
    ("number", "file", "words"),
    [
        (errno.ENOSPC, None, "error: no space left on device"),
        (errno.EROFS, "/x/run", "error: '/x/run': read-only file system"),
        (errno.ENAMETOOLONG, "/x", "error: '/x': file name too long"),
        (errno.EIO, "/x", "error: '/x': input/output error"),
    ],
)
def test_a_disk_at_fault_is_a_sentence(capsys, number, file, words):
    def main():
        raise OSError(number, os.strerror(number), *[file] * bool(file))

    with pytest.raises(SystemExit) as left:
        errors.cleanly(main)()
    assert left.value.code == 2 and capsys.readouterr().err == words + "\n"
