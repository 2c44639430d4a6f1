"""Runs one command as several processes that train together.

    python -m scripts.launch local -n 2 -- python -m train --config=configs/gpt2.py:tiny --workdir=runs/a
    python -m scripts.launch local -n 2 -d 4 -- python -m train ...

`local`: N processes on this machine's processor with D devices each, for trying out what a cluster
does. Their coordinator listens on 127.0.0.1 alone, on a free port. Every line of output carries the
number of its process. When one process dies the others are ended (two seconds are left to them to
say why), what the runtime prints about its own death is left out, and the exit status is the first
one's. One that gives no sign of life ends all after `config.dist.heartbeat` seconds. SIGTERM and
Ctrl-C are passed on as SIGTERM: all stop at the same step, with a checkpoint; the second one kills.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

from train.core.errors import cleanly
from train.core.launch import DIST

GRACE = 2.0  # seconds that the others have after the first one died
# What the runtime prints; after a fatal line of its own only what we say passes.
_RUNTIME = re.compile(
    r"\[Gloo\] Rank|[IWEF]\d{4} \d\d:\d\d:\d\d|Additional GRPC|:UNKNOWN:|\*\*\* |    @ |PC: @"
)
_LISTED = re.compile(r"(\d+|The tasks have crashed.*|)$")  # goes on with such a line
_FATAL = re.compile(r"F\d{4} \d\d:|Fatal Python error")
_SILENT = "stopped sending heartbeats"
_OURS = re.compile(r"error: |start the run again")
_DEVICES = "--xla_force_host_platform_device_count"


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(number: int, count: int, devices: int, port: int, given=os.environ) -> dict:
    """What process `number` of `count` finds in its environment."""
    flags = [f for f in given.get("XLA_FLAGS", "").split() if not f.startswith(_DEVICES)]
    return {
        **given,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join([*flags, f"{_DEVICES}={devices}"]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "",
        DIST["local"]: str(count),
        DIST["coordinator"]: f"127.0.0.1:{port}",
        DIST["processes"]: str(count),
        DIST["process"]: str(number),
    }


class Group:
    """The processes of one command, and what happens to one because of another."""

    def __init__(self, command, count: int, devices: int, out=None):
        self.out = out or sys.stdout
        self.lock = threading.Lock()
        self.asked = self.silent = False
        port = free_port()
        self.members, self.readers = [], []
        for number in range(count):
            process = subprocess.Popen(
                command, env=environment(number, count, devices, port), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace",
            )  # fmt: skip
            self.members.append(process)
            self.readers.append(threading.Thread(target=self._relay, args=(number,), daemon=True))
            self.readers[-1].start()

    def say(self, text: str) -> None:
        """One whole line at a time, whoever writes."""
        with self.lock:
            print(text, file=self.out, flush=True)

    def _relay(self, number):
        aborting = within = False
        for line in self.members[number].stdout:
            aborting = aborting or bool(_FATAL.match(line))
            self.silent = self.silent or (aborting and _SILENT in line)
            runtime = bool(_RUNTIME.match(line))
            within = line.endswith(":\n") if runtime else within and bool(_LISTED.match(line))
            if _OURS.match(line) or not (aborting or runtime or within):
                self.say(f"[{number}] {line.rstrip()}")

    def signal(self, number: int) -> None:
        """Sends a signal to whoever still runs, and to what they started."""
        for process in self.members:
            if process.poll() is None:
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    continue

    def forward(self, *_) -> None:
        """The first SIGTERM or Ctrl-C asks for a stop; the second one kills."""
        self.signal(signal.SIGKILL if self.asked else signal.SIGTERM)
        self.asked = True

    def wait(self) -> int:
        """Waits for all; the exit status of the first that failed, 128 + its signal, or 0."""
        first = None
        while any(process.poll() is None for process in self.members):
            first = self._failed()
            if first is not None:
                break
            time.sleep(0.05)
        first = self._failed() if first is None else first
        left = any(process.poll() is None for process in self.members)
        if first is not None and left:
            end = time.monotonic() + GRACE
            while time.monotonic() < end and any(p.poll() is None for p in self.members):
                time.sleep(0.05)
            self.signal(signal.SIGKILL)
        for process, reader in zip(self.members, self.readers, strict=True):
            process.wait()
            reader.join(5)
        if first is None:
            return 0
        status = self.members[first].returncode
        how = f"exited with status {status}"
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        if status == -signal.SIGABRT and self.silent:
            how = "ended itself: one of them was silent for longer than config.dist.heartbeat"
        self.say(f"launch: process {first} {how}" + ("; the others were ended" if left else ""))
        return status if status > 0 else 128 - status

    def _failed(self):
        """The first process that ended badly; one that lost a peer only if there is no other."""
        bad = [n for n, process in enumerate(self.members) if process.poll() not in (None, 0)]
        cause = [n for n in bad if self.members[n].returncode not in (75, -signal.SIGABRT)]
        return (cause or bad or [None])[0]


def local(arguments) -> int:
    """`launch local`: see the module."""
    if arguments.processes < 1 or arguments.devices < 1:
        raise ValueError("-n and -d must be at least 1")
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise ValueError("no command; write it after --, as in: -n 2 -- python -m train ...")
    group = Group(command, arguments.processes, arguments.devices)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, group.forward)
    try:
        return group.wait()
    finally:
        group.signal(signal.SIGKILL)


def main(argv=None) -> int:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="local")
    here = kinds.add_parser("local", help="several processes on this machine's processor")
    here.add_argument("-n", "--processes", type=int, default=2)
    here.add_argument("-d", "--devices", type=int, default=1, help="devices of each process")
    here.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    return local(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(cleanly(main)())
