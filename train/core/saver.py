"""How a run writes its checkpoints, and finds the newest good one when it starts again.

A save runs in the background. SAVING marks its folder from the first moment until INTEGRITY.json
stands in it, so that a save that was killed (cleared away) can be told from a checkpoint that lost
its manifest (damaged, named, kept).
"""

import errno
import logging
import math
import os
import re
import shutil
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from train.core import forms, integrity, shard
from train.core.errors import SAVE_FAILED
from train.core.state import State

SAVING = "SAVING"
ROOM = 1.2  # free space that a save needs, as a multiple of the state's bytes


# A thousand lines that Orbax's threads log about one failed save, which `_failure` says in one.
_NOISE = ("_SignalingThread.run() raised", "exception was never retrieved", "Event loop is closed")


class SaveFailed(OSError):
    """The last save of a run failed: what it learned since the one before is lost."""

    status = SAVE_FAILED


def written(workdir) -> list[Path]:
    """Checkpoints of a run that were finished, damaged ones included, oldest first."""
    found = Path(workdir, "checkpoints").glob("*")
    return sorted((p for p in found if _ours(p) and not _unfinished(p)), key=lambda p: int(p.name))


def _ours(folder: Path) -> bool:
    """Whether a folder is named as a checkpoint is: a step in eight digits or more."""
    return bool(re.fullmatch(r"\d{8,}", folder.name, re.ASCII)) and folder.is_dir()


def _unfinished(folder: Path) -> bool:
    if (folder / integrity.NAME).exists():
        return False
    held = any(p.is_file() for p in (folder / "state").rglob("*"))
    return (folder / SAVING).exists() or not held


def _telling(record) -> bool:
    """Whether a log record of a library says something that we don't."""
    text = f"{record.getMessage()} {record.exc_info}"
    return not any(words in text for words in _NOISE)


def _quieten():
    """Keeps what Orbax's and TensorStore's threads say about one failed save off the terminal.

    A part goes through logging, a part to `sys.unraisablehook`, and what ends a thread of theirs to
    `threading.excepthook`: the save's future has it, too.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_telling)
    for module, name, noise in (
        (sys, "unraisablehook", lambda event: str(event.exc_value) == "Event loop is closed"),
        (threading, "excepthook", _theirs),
    ):
        if not getattr(getattr(module, name), "quiet", False):
            setattr(module, name, _passing(getattr(module, name), noise))


def _passing(before, noise):
    """A hook that passes on to the one before what is not noise."""

    def hook(event):
        if not noise(event):
            before(event)

    hook.quiet = True
    return hook


def _theirs(event) -> bool:
    """Whether an exception that ended a thread is Orbax's: its code stands in the traceback."""
    frames = traceback.walk_tb(event.exc_traceback)
    return any(f.f_globals.get("__name__", "").startswith("orbax.") for f, _ in frames)


def bytes_of(state) -> int:
    """Bytes that a state takes on disk."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))


class Checkpoints:
    """The checkpoints that one run writes: asynchronous, the newest `keep` kept.

    `describe(folder)` writes what stands beside the arrays. `say(text)` tells the user. A save that
    fails is told at the next `poll` and remembered in `failed` until one succeeds; older ones stay.
    Later ones than the one just saved are damaged (the run would have gone on from them): they stay,
    and do not count. `keep` 0 keeps what was saved last and nothing else, whatever its step. `verify`
    is config.checkpoint.verify, see `train.core.integrity`.
    """

    def __init__(self, workdir, keep: int = 3, describe=None, say=print, verify: str = "auto"):
        self.workdir = Path(workdir).absolute()
        self.root = self.workdir / "checkpoints"
        self.keep, self.describe, self.say, self.verify = keep, describe, say, verify
        self.failed, self.saved, self._transient = "", -1, False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running = None
        _quieten()
        self.root.mkdir(parents=True, exist_ok=True)
        self._clear(say)

    def _clear(self, say):
        """Removes what a killed or failed save left; a failed one's threads may write on for a while."""
        if jax.process_index() != 0:
            return
        for left in self.root.iterdir():
            if left.name.endswith(integrity.REMOVED):
                shutil.rmtree(left, ignore_errors=True)
            elif _ours(left) and _unfinished(left):
                say(f"checkpoint {left.name} was never finished and is cleared away")
                shutil.rmtree(left, ignore_errors=True)

    def save(self, state: State, step: int, wait: bool = False):
        """Starts to save; returns once the arrays are copied off, or, if `wait`, written.

        The state may be donated as soon as this returns. A step that this run has saved is skipped. One
        that is waited for, and fails for another reason than a full disk, is tried once more (by
        several processes not: they would have to agree).
        """
        self.poll(wait=True)
        if self.saved != step:
            self._begin(state, step)
        if not wait:
            return
        self.poll(wait=True)
        if self.saved != step and self._transient and jax.process_count() == 1:
            self.say(f"trying once more to save step {step}")
            self._begin(state, step)
            self.poll(wait=True)

    def _begin(self, state, step):
        folder = self.root / f"{step:08d}"
        try:
            self._prepare(state, folder)
            running = ocp.save_checkpointables_async(folder / "state", forms.stored(state))
            self._running = step, self._pool.submit(self._finish, folder, running)
        except OSError as error:
            self._failure(step, error)

    def _prepare(self, state, folder):
        """Process 0 makes the folder of a save; OSError, on every process alike, where it cannot.

        The others keep their hands off: process 0 may still be clearing up after the save before. One
        that failed alone would leave the rest to wait for it inside Orbax.
        """
        failure = None
        if jax.process_index() == 0:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                self._room(state)
                if folder.exists() or folder.is_symlink():
                    integrity.remove(folder)
                folder.mkdir(parents=True)
                (folder / SAVING).touch()
            except OSError as error:
                failure = error
        number = int(shard.said(np.int32((failure.errno or errno.EIO) if failure else 0)))
        if number and not failure:
            failure = OSError(number, f"process 0: {os.strerror(number)}")
        if failure:
            raise failure

    def _room(self, state):
        """OSError where the disk has not the space for one more."""
        needed, free = int(ROOM * bytes_of(state)), shutil.disk_usage(self.root).free
        if free < needed:
            words = f"No space left: it needs {needed:,} bytes, {free:,} are free"
            raise OSError(errno.ENOSPC, words)

    def _finish(self, folder, running):
        running.result()
        if jax.process_index() == 0:
            if self.describe:
                self.describe(folder)
            integrity.write(folder, leave=(SAVING,))
            (folder / SAVING).unlink()
            self._clear(lambda text: None)
            for old in self._superseded(folder):
                integrity.remove(old)

    def _superseded(self, newest: Path) -> list[Path]:
        """What goes, now that a checkpoint is there whole."""
        others = [p for p in written(self.workdir) if p != newest]
        before = [p for p in others if int(p.name) < int(newest.name)]
        good = [p for p in before if (p / integrity.NAME).exists()]
        return others if not self.keep else good[: max(0, len(good) - self.keep + 1)]

    def poll(self, wait: bool = False):
        """Learns how the save in the background went, once it has ended."""
        if self._running is None or not (wait or self._running[1].done()):
            return
        (step, future), self._running = self._running, None
        error = future.exception()
        if error is None:
            if self.failed:
                self.say(f"step {step} is saved: the disk takes checkpoints again")
            self.saved, self.failed = step, ""
        else:
            self._failure(step, error)

    def _failure(self, step, error):
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        self._transient = not full
        why = f"{type(error).__name__}: {str(error)[:200]}"
        if full:
            needs = str(error.strerror or "") if isinstance(error, OSError) else ""
            why = "the disk is full" + (f" ({needs})" if "needs" in needs else "")
        self.failed = f"saving step {step} failed: {why}"
        self.say(f"{self.failed}; older checkpoints are kept and training goes on")
        if jax.process_index() == 0:
            shutil.rmtree(self.root / f"{step:08d}", ignore_errors=True)

    def close(self):
        """Waits for the save in the background; does not raise."""
        self.poll(wait=True)
        self._pool.shutdown()

    def newest(self) -> Path | None:
        """The newest good checkpoint; None when the run has none.

        A damaged one is named and the one before it taken. ValueError if all are damaged. Process 0
        looks, and the others take its word.
        """
        found = written(self.workdir)
        good, problem = None, ""
        for folder in reversed(found) if jax.process_index() == 0 else ():
            problems = integrity.problems(folder, self.verify)
            if not problems:
                good = folder
                break
            problem = problem or problems[0]
            self.say(f"checkpoint {folder.name} is damaged and not used: {problems[0]}")
        step = int(good.name) if good else -1 if not found else -2
        step = int(shard.said(np.int32(step)))
        if step == -2:
            raise ValueError(
                f"every checkpoint of {self.workdir.name} is damaged: {problem}\n"
                f"bring a good one back, or move {self.root} away to begin anew"
            )
        return None if step == -1 else self.root / f"{step:08d}"
