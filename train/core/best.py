"""The best checkpoint by a named metric, and early stopping.

    config.best = dict(metric="valid/accuracy", mode="max", patience=3)

After each evaluation the metric is compared with the best so far; a better one is saved under
`workdir/best/`, which is a run's folder like any other (`checkpoint.find(workdir / "best")`). After
`patience` evaluations without a better one (0: never) the run ends. What was seen is kept in
`best.json` and read again on resume, as far as the run had come; what stands in `best/` stays the one
to beat, also where the run went back behind it. A metric that no evaluator gives is refused before the
first step, as far as names are known then (`expect`).
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import jax

from models.interop.untrusted import read_json
from train.core.checkpoint import folders
from train.core.errors import nearest
from train.core.log import ROUND
from train.core.saver import Checkpoints

NAME, FOLDER = "best.json", "best"
DEFAULTS = {"metric": "", "mode": "max", "patience": 0}


def expect(config, task):
    """ValueError for a config.best.metric that no evaluator of the task gives, where that is known."""
    metric = dict(config.get("best", {})).get("metric", "")
    part, slash, name = metric.partition("/")
    if not slash or part + slash == ROUND:
        return
    if part not in task.evaluators:
        parts = ", ".join(task.evaluators) or "none: no part is held out"
        raise ValueError(
            f'config.best.metric is "{metric}"; this run evaluates {parts}\n'
            'hold a part out, or use --config.best.metric="" to keep the last checkpoint'
        )
    known = task.measures.get(part, ())
    if known and name not in known:
        hint = nearest(metric, [f"{part}/{one}" for one in known])
        raise ValueError(f'config.best.metric is "{metric}"; {hint}')


def first_best(history, mode: str) -> tuple | None:
    """(step, value) of the first best of evaluations (step, value); None without any."""
    sign = 1 if mode == "max" else -1
    return max(history, key=lambda row: (sign * row[1], -row[0]), default=None)


def exhausted(history, settings: Mapping) -> bool:
    """Whether the last `patience` evaluations brought nothing better."""
    chosen, patience = first_best(history, settings["mode"]), settings["patience"]
    return bool(patience and chosen) and sum(row[0] > chosen[0] for row in history) >= patience


def ended(workdir, config) -> int:
    """The step after which early stopping ended a run, by its best.json; 0 where it did not."""
    settings = {**DEFAULTS, **dict(config.get("best", {}))}
    try:
        held = read_json(Path(workdir) / NAME)
        history = [(int(step), float(value)) for step, value in held["history"]]
    except (OSError, ValueError, LookupError, TypeError):
        return 0
    over = held.get("metric", settings["metric"]) == settings["metric"] and exhausted(
        history, settings
    )
    return history[-1][0] if over else 0


class Best:
    """Watches one metric of a run. `describe` writes what stands beside a checkpoint's arrays."""

    def __init__(self, config, workdir, describe, say):
        settings = {**DEFAULTS, **dict(config.get("best", {}))}
        self.metric, self.mode = settings["metric"], settings["mode"]
        self.patience, self.say = settings["patience"], say
        if self.mode not in ("max", "min"):
            raise ValueError(f"config.best.mode is {self.mode!r}; expected max or min")
        self.file, self.history, self.saver = Path(workdir) / NAME, [], None
        self.kept = None  # (step, value) of what stands in `best/`
        if self.metric:
            self.saver = Checkpoints(Path(workdir) / FOLDER, 0, describe, say)

    def begin(self, done: int):
        """Takes up what was seen up to step `done`, and what is kept."""
        if not self.metric or not self.file.is_file():
            return
        seen, kept = self._read()
        self.history = [row for row in seen if row[0] <= done]
        there = [int(folder.name) for folder in folders(self.file.parent / FOLDER)]
        known = [row for row in [*seen, *kept] if row[0] in there]
        self.kept = known[-1] if known else None

    def _read(self) -> tuple:
        """(what was seen, what is kept in a list) by best.json; nothing, and why, where it is no use."""
        try:
            held = read_json(self.file)
            metric = held.get("metric", self.metric)
            if metric != self.metric:
                raise ValueError(f"it is of {metric}, and now {self.metric} is watched")
            rows = [*held["history"], *([held["kept"]] if held.get("kept") else [])]
            rows = [(int(step), float(value)) for step, value in rows]
        except (OSError, ValueError, LookupError, TypeError) as error:
            self.say(f"what {self.file} says is forgotten: {error!s:.200}")
            return [], []
        count = len(held["history"])
        return rows[:count], rows[count:]

    def better(self, value: float, than: float) -> bool:
        return value > than if self.mode == "max" else value < than

    @property
    def best(self) -> tuple:
        """(step, value) of the first best evaluation; None without any."""
        return first_best(self.history, self.mode)

    @property
    def over(self) -> bool:
        """Whether the last `patience` evaluations brought nothing better."""
        return exhausted(self.history, {"mode": self.mode, "patience": self.patience})

    def lacks(self, step: int) -> bool:
        """Whether a metric is watched, and none of a step was seen."""
        return bool(self.metric) and all(seen != step for seen, _ in self.history)

    def gives(self, values: dict) -> bool:
        """Whether an evaluation has the metric, if one is asked for; `see` raises where it has not."""
        return not self.metric or self.metric in values

    def see(self, state, step: int, values: dict):
        """Compares and saves; ValueError for a metric that no evaluator gives."""
        if not self.metric:
            return
        if not self.gives(values):
            known = [name for name in values if "/" in name]
            raise ValueError(
                f'config.best.metric is "{self.metric}"; {nearest(self.metric, known)}'
            )
        value = values[self.metric]
        self.history = [row for row in self.history if row[0] < step]
        if math.isfinite(value):
            self.history.append((step, value))
            if self.kept is None or self.better(value, self.kept[1]):
                self.saver.saved = -1
                self.saver.save(state, step, wait=True)
                self.kept = self.kept if self.saver.failed else (step, value)
        if jax.process_index() == 0:
            self._write()
        if self.over:
            self.say(
                f"step {step}: {self.metric} is no better than {self.best[1]:.4f} of step "
                f"{self.best[0]} after {self.patience} evaluations; the run ends"
            )

    def _write(self):
        """Writes best.json whole or not at all; a full disk costs no more than what was seen."""
        part = self.file.with_name(NAME + ".part")
        try:
            held = {"metric": self.metric, "history": self.history, "kept": self.kept}
            part.write_text(json.dumps(held))
            os.replace(part, self.file)
        except OSError as error:
            self.say(f"{self.file} cannot be written: {error.strerror}; training goes on")

    @property
    def failed(self) -> str:
        """What became of the last better one, if it could not be saved."""
        return (
            f"the best checkpoint: {self.saver.failed}" if self.saver and self.saver.failed else ""
        )

    def close(self):
        if self.saver:
            self.saver.close()
