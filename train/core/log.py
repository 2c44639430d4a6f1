"""What a run says: `metrics.jsonl` is the truth; TensorBoard, wandb and the terminal are views.

One JSON object a line, flushed as it is written: `step` (updates done), `time` (Unix seconds) and
the numbers of that call. Numbers that are not finite are the strings "nan", "inf" and "-inf". A run
that resumes from step s first moves the lines past s (and a torn last line) to
`metrics.replaced.jsonl`, so that the file holds each step once and nothing is lost.
"""

import json
import math
import os
import sys
import time
import zlib
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from train.core.board import Board

METRICS, REPLACED = "metrics.jsonl", "metrics.replaced.jsonl"
ROUND = "round/"  # how the names begin of what a loop that writes between updates says of that
SPEEDS = ("tokens_per_second", "images_per_second")


def read(workdir) -> list:
    """The rows of a run's metrics.jsonl as dicts of floats; a torn last line is left out.

    FileNotFoundError without the file; ValueError, with the line's number, for a damaged line.
    """
    path = Path(workdir) / METRICS
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append({name: float(value) for name, value in json.loads(line).items()})
        except (ValueError, AttributeError, TypeError):
            if number < len(lines):
                raise ValueError(f"{path}, line {number} is not a line of metrics") from None
    return rows


def rewind(workdir, step: int, names=("loss",), file: str = METRICS) -> int:
    """Makes room for a line of `step` with these names: moves what it replaces to *.replaced.jsonl.

    Those are the lines past `step` and its own; but an evaluation leaves the line of the step's
    training loss in place, and a round of answers, which begins after the evaluation of the step,
    all that is no round. Returns how many lines were moved.
    """
    path, training = Path(workdir) / file, "loss" in names
    own = ROUND if names and all(name.startswith(ROUND) for name in names) else ""
    if not path.exists():
        return 0
    kept, moved = [], []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            same = training or ("loss" not in row and any(name.startswith(own) for name in row))
            past = row["step"] > step or (row["step"] == step and same)
        except (ValueError, KeyError, TypeError):
            past = True
        (moved if past else kept).append(line + "\n")
    if moved:
        with open(path.with_suffix(".replaced.jsonl"), "a", encoding="utf-8") as replaced:
            replaced.writelines(moved)
        temporary = path.with_name(file + ".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, path)
    return len(moved)


def append(workdir, file: str, step: int, rows, say) -> None:
    """Writes the rows of a step behind those of earlier steps; a full disk is said."""
    lines = [json.dumps({"step": step, **row}, ensure_ascii=False) + "\n" for row in rows]
    try:
        rewind(workdir, step, file=file)
        with open(Path(workdir) / file, "a", encoding="utf-8") as out:
            out.writelines(lines)
    except OSError as error:
        say(f"{file} cannot be written: {error.strerror}; training goes on")


class Logger:
    """Writes metrics and shows progress, from process 0 only; the others' calls do nothing.

    `log` is a config's `log` section, `steps` the length of the run. The first call of `metrics`
    tells where the run starts: what an earlier run wrote from that step on is moved away then. A
    context manager that closes what is open.
    """

    def __init__(self, workdir, log, steps: int):
        self.workdir, self.options, self.steps = Path(workdir), log, steps
        self.first = jax.process_index() == 0
        self._file = self._board = self._wandb = self._bar = None
        self._begin = None  # (time, step) of the first loss: compiling is behind us
        self._shown = {}
        self._plain, self._full, self._waiting = 0.0, False, bytearray()
        if not self.first:
            return
        self.workdir.mkdir(parents=True, exist_ok=True)
        if sys.stderr.isatty():
            self._bar = _bar(steps)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def metrics(self, step: int, values) -> None:
        """Records `{name: number}` after `step` updates.

        Shown are `loss` and the speed; a call without `loss` is an evaluation, and all of
        its numbers are said.
        """
        if not self.first:
            return
        if self._file is None:
            self._open(step, values)
        row = {name: float(value) for name, value in values.items()}
        line = {"step": int(step), "time": round(time.time(), 3)}
        line |= {name: x if math.isfinite(x) else str(x) for name, x in row.items()}
        if self._write(json.dumps(line) + "\n"):
            self._view(step, row)
        if self._wandb:
            self._wandb.log(row, step=step)
        self._show(step, row)

    def say(self, text: str) -> None:
        """A line for the person who watches, above the bar, on stderr."""
        if not self.first:
            return
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends everything that is open; may be called twice."""
        if self._bar:
            self._bar.stop()
        self._bar = None
        self.reopen()

    def reopen(self) -> None:
        """Closes the files; the next line of metrics opens them where the run then is."""
        if self._wandb:
            self._wandb.finish()
        if self._file and not self._write(""):
            self.say(f"{self._waiting.count(10)} lines of {METRICS} found no room and are lost")
        for file in (self._board, self._file):
            if file:
                file.close()
        self._file = self._board = self._wandb = self._begin = None
        self._waiting.clear()

    def _write(self, line) -> bool:
        """Writes a line of metrics; on a full disk it waits in memory for the next one."""
        self._waiting += line.encode()
        try:
            while self._waiting:
                del self._waiting[: self._file.write(self._waiting)]
        except OSError as error:
            self._tell(METRICS, error)
        else:
            self._full = False
        return not self._full

    def _view(self, step, row):
        """TensorBoard's view of a line; after a full disk in a new file."""
        try:
            if self._board is None and self.options.tensorboard:
                self._board = _tensorboard(self.workdir, step, self.say)
            if self._board:
                self._board.scalars(step, row)
        except OSError as error:
            self._tell("TensorBoard's file", error)

    def _tell(self, name, error):
        """Says once that the disk takes no metrics."""
        if not self._full:
            self.say(f"{name} cannot be written: {error.strerror}; training goes on")
        self._full, self._board = True, None

    def _open(self, step, names):
        """Opens the files, with the lines that an earlier run wrote from here on moved away."""
        rewind(self.workdir, step, tuple(names))
        self._file = open(self.workdir / METRICS, "ab", buffering=0)  # noqa: SIM115
        if self.options.wandb:
            self._wandb = _wandb(self.workdir, self.say)

    def _show(self, step, row):
        if "loss" not in row:  # an evaluation: its numbers are the news
            self.say(f"step {step}  " + "  ".join(f"{name} {row[name]:.4f}" for name in row))
            return
        self._shown |= {name: row[name] for name in ("loss", *SPEEDS) if name in row}
        now = time.monotonic()
        self._begin = self._begin or (now, step)
        done, elapsed = step - self._begin[1], now - self._begin[0]
        left = elapsed / done * (self.steps - step) if done > 0 else math.nan
        loss = f"loss {self._shown['loss']:.4f}" if "loss" in self._shown else ""
        speed = next((name for name in SPEEDS if name in self._shown), "")
        unit = speed.partition("_")[0]
        rate = f"{self._shown[speed]:,.0f} {unit}/s" if speed else ""
        if self._bar:
            self._bar.update(0, completed=step, loss=loss, rate=rate, left=f"{_clock(left)} left")
            return
        if now - self._plain < 2.0 and step < self.steps and self._plain:
            return  # a log file needs no more than a line every two seconds
        self._plain = now
        parts = [f"step {step}/{self.steps}", loss, rate, f"{_clock(left)} left"]
        self.say("  ".join(part for part in parts if part))


def _clock(seconds: float) -> str:
    """1:02:03, 2:03 or 0:03; `?` before anything is known."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _bar(steps):
    bar = Progress(
        TextColumn("step"), MofNCompleteColumn(), BarColumn(),
        TextColumn("{task.fields[loss]}"), TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True), refresh_per_second=4,
    )  # fmt: skip
    bar.add_task("", total=steps, loss="compiling", rate="", left="")
    bar.start()
    return bar


def _tensorboard(workdir, step, say):
    """A board from this step on; False, said once, without the package."""
    try:
        return Board(workdir / "tensorboard", step)
    except ImportError:
        say("tensorboardX is not installed: no TensorBoard files (metrics.jsonl has everything)")
        return False


def _config(workdir) -> dict:
    """The config that run.json holds, for wandb's page."""
    path = workdir / "run.json"
    return json.loads(path.read_text(encoding="utf-8")).get("config", {}) if path.exists() else {}


def _wandb(workdir, say):
    """A wandb run, offline where there is no key or no network; None without the package."""
    try:
        import wandb
    except ImportError:
        say("wandb is not installed (extra `wandb`); training goes on without it")
        return None
    keyed = os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").exists()
    mode = os.environ.get("WANDB_MODE") or ("online" if keyed else "offline")
    place = str(workdir.resolve())
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in workdir.resolve().name)
    options = dict(
        dir=place, name=name, id=f"{name}-{zlib.crc32(place.encode()):08x}", resume="allow",
        config=_config(workdir),
    )  # fmt: skip
    for attempt in dict.fromkeys((mode, "offline")):
        try:
            run = wandb.init(mode=attempt, settings=wandb.Settings(init_timeout=20), **options)
        except Exception as error:  # wandb raises its own kinds, and its network layer's
            say(f"wandb cannot start in mode {attempt}: {str(error).splitlines()[0][:200]}")
            continue
        if attempt == "offline":
            say(f"wandb is offline; upload later with: wandb sync {workdir / 'wandb'}")
        return run
    return None
