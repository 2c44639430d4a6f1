"""The one owner of SIGTERM and Ctrl-C, from a run's first second to its last line.

The first signal asks for a stop: the loop saves and leaves after the step that runs. Inside
`interruptible` (evaluation, sampling, anything that changes no state) it raises Stopped at once.
Between `begin` and `hold` (opening data, compiling the first step: there is nothing to save yet) it
does so, too; a command ends on the spot, with status 0, also where compiled code holds the main
thread for longer than GRACE seconds. The second signal ends the process on the spot, with status
128 + its number.

Python runs a signal's handler between two bytecodes of the main thread and merges signals that wait.
While XLA compiles that is minutes away (jax 0.12), or at once, with an exception that leaves the
compiler running and Python's own end waiting for it and then failing (jax 0.10, a segmentation
fault). So signals are counted by a thread of their own, which the interpreter's wakeup pipe tells at
once, and a run that was stopped ends through `leave`, without Python's own end.

With several processes JAX's own service is asked instead, which makes all of them stop at the same
step: a Python handler installed after `jax.distributed.initialize` would switch it off without a
word, one that was there before is replaced by it. Ctrl-C is passed on to it as SIGTERM.
"""

import contextlib
import os
import signal
import sys
import threading

GRACE = 1.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)
NOTHING = "stopped before the first step; there is nothing to save"
_owners, _stopped = [], []


class Stopped(BaseException):
    """A stop was asked for during work that may be cut short; no `except Exception` swallows it."""


def shared() -> bool:
    """Whether JAX's own service watches for SIGTERM."""
    distributed = getattr(sys.modules.get("jax"), "distributed", None)  # jax may be half imported
    return bool(getattr(distributed, "is_initialized", bool)())


@contextlib.contextmanager
def owner(ends: bool = False):
    """The active Preemption, or where there is none a new one for this block.

    `ends` is for a command: a stop with nothing to save then ends the process where it is.
    """
    if _owners:
        yield _owners[-1]
    else:
        with Preemption(ends) as made:
            yield made


def active() -> "Preemption":
    """The owner inside whose block this is."""
    return _owners[-1]


def leave(status: int):
    """Ends a process that a signal stopped, at once; returns in any other."""
    if _stopped and not shared():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(status or 0))


def interruptible():
    """Work that a stop may cut short; raises Stopped. Without an owner it does nothing."""
    return _owners[-1].interruptible() if _owners else contextlib.nullcontext()


@contextlib.contextmanager
def forwarding(child):
    """SIGTERM and Ctrl-C reach the child once, as SIGTERM, which saves; the second one kills it.

    When it has ended KeyboardInterrupt, or for SIGTERM SystemExit, is raised. The child has a session
    of its own: a terminal would send it Ctrl-C, too, and its second signal would cost the save.
    """
    asked = []

    def forward(number, frame):
        asked.append(number)
        child.send_signal(signal.SIGTERM if len(asked) == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise KeyboardInterrupt if asked[0] == signal.SIGINT else SystemExit(128 + asked[0])


class Preemption:
    """A context manager that holds the handlers; use `owner` to share the active one."""

    def __init__(self, ends: bool = False):
        self.asked, self._ends = False, ends
        self._may_raise = self._may_leave = False
        self._left = threading.Event()  # what `begin` opened is over
        self._before, self._pipe, self._wakeup = {}, (), -1
        self._told = threading.Lock()

    def __enter__(self):
        _owners.append(self)
        if not shared() and threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            threading.Thread(target=self._listen, name="signals", daemon=True).start()
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        self.hold()
        _owners.remove(self)
        if not self._pipe:
            return
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            if not (shared() and number == signal.SIGTERM):
                signal.signal(number, handler)
        os.close(self._pipe[1])
        self._before, self._pipe = {}, ()

    def _handle(self, number, frame):
        if shared():
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self.asked = True
        _stopped.append(number)
        self._tell(number)
        if self._may_leave and self._ends:
            _say(NOTHING)
            _end(0)  # unwinding a compiler whose threads go on may end in a segmentation fault
        if self._may_raise:
            self._may_raise = False
            raise Stopped

    def _tell(self, number):
        """Says once that a signal came, from the thread or the handler, whichever is first."""
        if self._told.acquire(blocking=False):
            _say(f"\n{signal.Signals(number).name}: saving, then leaving; again to leave at once")

    def _listen(self):
        """The thread: counts signals, says that one came, ends what cannot answer."""
        pipe, seen = self._pipe[0], 0
        while received := os.read(pipe, 1):
            number = received[0]
            if number not in SIGNALS:
                continue
            seen += 1
            if seen > 1:
                _end(128 + number)
            self._tell(number)
            if self._may_leave and not shared():
                threading.Thread(target=self._leave, daemon=True).start()
        os.close(pipe)

    def _leave(self):
        if not self._left.wait(GRACE):
            _say(NOTHING)
            _end(0)

    def due(self, turn: int) -> bool:
        """Whether to save and leave now; every process gets the same answer at the same turn.

        Turns count up by one a step, through rollbacks, too.
        """
        if shared():
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(turn)
        return self.asked

    @contextlib.contextmanager
    def interruptible(self):
        """Work that a stop may cut short; raises Stopped."""
        if self.asked:
            raise Stopped
        before, self._may_raise = self._may_raise, True
        try:
            yield
        finally:
            self._may_raise = before and not self.asked

    @property
    def holds(self) -> bool:
        """Whether there is something to save."""
        return not self._may_leave

    def begin(self):
        """From here until `hold` there is nothing to save: a stop raises, or simply ends the process."""
        self._left.clear()
        self._may_raise = self._may_leave = True
        if self.asked:
            raise Stopped

    def hold(self):
        """From here on there is something to save: a stop waits until it is asked for."""
        self._may_raise = self._may_leave = False
        self._left.set()


def _end(status: int):
    """Ends the process, whatever its main thread does; a progress bar may have hidden the cursor."""
    if os.isatty(2):
        _say("\x1b[?25h")
    os._exit(status)


def _say(text: str):
    os.write(2, f"{text}\n".encode())
