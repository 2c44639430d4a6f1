"""Ends a run whose steps have stopped coming, with a status that a scheduler starts again.

A process that waits for a peer which lives but does not answer waits for ever, and nothing else in
the stack says so. Here a thread does: no progress within max(10 x the median time between two reads
of metrics, `config.watchdog` seconds) writes the stacks of all threads to stderr and to the workdir
and ends the process with status 75 (EX_TEMPFAIL).

Compiling, evaluating and saving take their own time: they are not watched.
"""

import collections
import contextlib
import faulthandler
import os
import statistics
import threading
import time
from pathlib import Path

from train.core.errors import STALLED

TIMES = 10  # medians that count as a stall
KEPT = 64  # intervals that the median is over


class Watchdog:
    """Watches from the first `beat` on. `seconds` 0 switches it off.

    `leave` ends the process; `period` is how often the thread looks, in seconds.
    """

    def __init__(self, seconds: float, workdir, process: int = 0, leave=os._exit, period=None):
        self.seconds, self.leave = seconds, leave
        self.path = Path(workdir) / f"stalled-{process}.txt"
        self.intervals = collections.deque(maxlen=KEPT)
        self._last = self._read = 0.0
        self._off = 0
        self._over = threading.Event()
        self._period = period or min(5.0, seconds / 4)

    def __enter__(self):
        if self.seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_):
        self._over.set()

    def beat(self, read: bool = False):
        """Something was done. `read`: it was waited for on the device, which is what is timed."""
        now = time.monotonic()
        if read:
            if self._read:
                self.intervals.append(now - self._read)
            self._read = now
        self._last = now

    @contextlib.contextmanager
    def off(self):
        """Nobody watches in here, and the time does not count."""
        self._off += 1
        try:
            yield
        finally:
            self._off -= 1
            self._read = 0.0
            self.beat()

    def limit(self) -> float:
        """Seconds without progress that are a stall."""
        usual = statistics.median(self.intervals) if self.intervals else 0.0
        return max(TIMES * usual, self.seconds)

    def _watch(self):
        while not self._over.wait(self._period):
            waited = time.monotonic() - self._last
            if self._last and not self._off and waited > self.limit():
                self._end(waited)
                return

    def _end(self, waited):
        text = (
            f"no step for {waited:.0f} s (limit {self.limit():.0f} s): leaving with status "
            f"{STALLED}; all stacks are in {self.path}\n"
        )
        with contextlib.suppress(OSError), open(self.path, "w") as file:
            file.write(text)
            file.flush()
            faulthandler.dump_traceback(file.fileno())
        os.write(2, f"\n{text}".encode())
        faulthandler.dump_traceback(2)
        self.leave(STALLED)
