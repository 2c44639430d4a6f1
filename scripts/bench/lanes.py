"""The parent's half of the interleaved benchmarks: workers in turns, medians, ratios.

Only one worker works at a time; the order turns by one place a round, so that no side always follows
the same other one and a slow spell of the machine meets all of them.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from scripts.bench import material
from train.core import pages

ROOT = Path(__file__).resolve().parents[2]
PAUSE = 0.25  # seconds between two turns: threads of OpenMP spin that long after their last work


def say(text: str):
    """Progress, on stderr: stdout is for results."""
    print(time.strftime("%H:%M:%S "), text, file=sys.stderr, flush=True)


class Lane:
    """One side: a worker process that is started, asked and ended. Use as a context manager.

    `module` is run by `python`; `job` is what it builds from. `cores` confines it to so many cores.
    `environment` is added to ours; our own workers have huge pages (`train.core.pages`). `info` is
    what it said when it was ready.
    """

    def __init__(self, name, python, module, job: dict, folder: Path, environment=(), cores=0):
        self.name, self.python, self.module, self.job = name, python, module, job
        safe = "".join(c if c.isalnum() else "-" for c in name)
        self.file, self.log = folder / f"{safe}.json", folder / f"{safe}.log"
        self.environment, self.cores = dict(environment), cores
        self.process, self.info, self.rows = None, {}, []

    def __enter__(self):
        say(f"{self.name}: starting")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.job))
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        own = huge() if self.python == sys.executable else {}
        cores = sorted(os.sched_getaffinity(0))[: self.cores] if self.cores else None
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [self.python, "-m", self.module, str(self.file)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**environment, **own, **self.environment},
                preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
            )  # fmt: skip
        self.info = self._read()
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.process.stdin.close()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()

    def ask(self, do: str, **request) -> dict:
        """The worker's answer to a request; ValueError with its last lines if it died."""
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its end is told below, with its reason
        return self._read()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        status = self.process.wait()
        told = [text[:300] for text in self.log.read_text().splitlines() if text.strip()][-2:]
        head = f"{self.name} ended with status {status}; its last lines:"
        raise ValueError("\n".join([head, *told]))


def interleave(lanes, rounds: int, do: str, **request):
    """Asks every lane once a round and appends its answer to `lane.rows`; the first round warms up."""
    for number in range(rounds + 1):
        turn = number % len(lanes)
        for lane in (*lanes[turn:], *lanes[:turn]):
            time.sleep(PAUSE)
            row = lane.ask(do, **request)
            if number:
                lane.rows.append(row)
        shown = ", ".join(f"{lane.name} {lane.rows[-1]['cpu']:.2f}" for lane in lanes if lane.rows)
        say(f"round {number} of {rounds}" + (f": CPU-s {shown}" if shown else " (warm-up)"))


def median(rows, name: str) -> float:
    return statistics.median(row[name] for row in rows)


def ratios(mine, theirs, name: str) -> dict:
    """Theirs over mine: the ratio of medians, and the least and most of the rounds' own ratios."""
    each = [b[name] / a[name] for a, b in zip(mine, theirs, strict=True)]
    return {
        "ratio": median(theirs, name) / median(mine, name),
        "low": min(each),
        "high": max(each),
    }


def threads(count: int) -> dict:
    """What the environment of a torch worker with so many threads says."""
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}


def preload(folder: Path) -> dict:
    """Torch's best: MKL uses all of an AMD processor, malloc's memory is as ours (`huge`).

    ValueError without a C compiler.
    """
    library = material.shim(folder)
    if library is None:
        raise ValueError("the settings best and bf16 need a C compiler (cc) for MKL's two lines")
    return {"LD_PRELOAD": str(library.resolve()), **huge()}


def huge() -> dict:
    """What lets a process have huge pages and keep them, as `python -m train` does for itself."""
    name = pages.TUNABLES
    return {name: pages.environment(os.environ)[name]}


def find_torch(python: str, need=("torch",)):
    """ValueError unless the interpreter has the modules."""
    code = "import importlib.util, sys; sys.exit(any(not importlib.util.find_spec(n) for n in sys.argv[1:]))"
    try:
        missing = subprocess.run([python, "-c", code, *need], capture_output=True).returncode
    except OSError as error:
        raise ValueError(f"--torch_python {python}: {error.strerror}") from None
    if missing:
        raise ValueError(
            f"{python} has no {' and '.join(need)}; give --torch_python the interpreter of an "
            "environment that has (pip install -e .[parity])"
        )
