"""A worker's half of the interleaved benchmarks: it does one timed piece of work per request.

A worker is a process that keeps its model. It reads a JSON object a line on stdin, `{"do": name,
...}`, calls the handler of that name with the rest, and writes the handler's dict as one line on
stdout; so the parent lets its workers work in turns. Only the standard library is imported here (and a
module that needs no more): the peers' workers run in an environment of their own.
"""

import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path

from train.core import pages


def serve(job: str, build) -> None:
    """Builds the handlers from the job file, says what building gave, answers until stdin ends.

    `build(job) -> (info, {name: handler})`. Whatever libraries print goes to stderr.
    """
    began = time.perf_counter()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(row):
        answers.write(json.dumps(row) + "\n")
        answers.flush()

    info, handlers = build(json.loads(Path(job).read_text()))
    answer({**info, "ready_seconds": time.perf_counter() - began, "peak": peak()})
    forget_peak()
    handlers = {**handlers, "settle": settle}
    for line in sys.stdin:
        request = json.loads(line)
        answer(handlers[request.pop("do")](**request))


def settle() -> dict:
    """Gives back what the first round left and forgets its peak, which it says: a compiler's, perhaps."""
    most = peak()
    pages.trim()
    forget_peak()
    return {"peak": most}


@contextlib.contextmanager
def timed(row: dict):
    """Puts `cpu` (seconds of all threads of this process), `wall` and `peak` into the row."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    row["wall"] = time.perf_counter() - wall
    row["cpu"] = time.process_time() - cpu
    row["peak"] = peak()


def forget_peak():
    """What was held for a moment while building (fresh weights on their way to a file, a compiler's
    memory) is no part of the peak of the work; Linux alone can forget it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes of memory that this process has held since it was ready (resident set)."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        if lines:
            return int(lines[0].split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def matmul_rate(multiply, budget: float = 0.25, largest: int = 2048) -> float:
    """The best FLOP/s of three products [n,n] x [n,n], with n as large as the budget allows.

    `multiply(n) -> a function that multiplies once and waits`. Starts small, because a processor
    without the instructions for a type may be a hundred times slower at it.
    """
    size, rate = 256, 0.0
    while True:
        once = multiply(size)
        once()
        for _ in range(3):
            start = time.perf_counter()
            once()
            rate = max(rate, 2 * size**3 / (time.perf_counter() - start))
        if size >= largest or 2 * (2 * size) ** 3 / rate > budget:
            return rate
        size *= 2
