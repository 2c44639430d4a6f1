"""The best checkpoint by a named metric, and early stopping.

    config.best = dict(metric="valid/accuracy", mode="max", patience=3)

After each evaluation the metric is compared with the best so far; a better one is saved under
`workdir/best/`, which is a run's folder like any other (`checkpoint.find(workdir / "best")`). After
`patience` evaluations without a better one (0: never) the run ends. What was seen is kept in
`best.json` and read again on resume, as far as the run had come. A metric that no evaluator gives is
refused before the first step, as far as names are known then (`expect`).
"""

import json
import math
from pathlib import Path

import jax

from train.core.errors import nearest
from train.core.saver import Checkpoints

NAME, FOLDER = "best.json", "best"
DEFAULTS = {"metric": "", "mode": "max", "patience": 0}


ROUND = "round"  # what a loop that writes between updates says of a round


def expect(config, task):
    """ValueError for a config.best.metric that no evaluator of the task gives, where that is known."""
    metric = dict(config.get("best", {})).get("metric", "")
    part, slash, name = metric.partition("/")
    if not slash or part == ROUND:
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


def ended(workdir, config) -> int:
    """The step at which a run in a folder ended for want of anything better; 0 if it did not."""
    watched = Best(config, workdir, None, print, saves=False)
    watched.begin(config.steps)
    return watched.history[-1][0] if watched.over else 0


class Best:
    """Watches one metric of a run. `describe` writes what stands beside a checkpoint's arrays."""

    def __init__(self, config, workdir, describe, say, saves=True):
        settings = {**DEFAULTS, **dict(config.get("best", {}))}
        self.metric, self.mode = settings["metric"], settings["mode"]
        self.patience, self.say = settings["patience"], say
        if self.mode not in ("max", "min"):
            raise ValueError(f"config.best.mode is {self.mode!r}; expected max or min")
        self.file, self.history, self.saver = Path(workdir) / NAME, [], None
        if self.metric and saves:
            self.saver = Checkpoints(Path(workdir) / FOLDER, 1, describe, say)

    def begin(self, done: int):
        """Takes up what was seen up to step `done`."""
        if self.metric and self.file.is_file():
            rows = json.loads(self.file.read_text())["history"]
            self.history = [(step, value) for step, value in rows if step <= done]

    def better(self, value: float, than: float) -> bool:
        return value > than if self.mode == "max" else value < than

    @property
    def best(self) -> tuple:
        """(step, value) of the first best evaluation; None without any."""
        chosen = None
        for step, value in self.history:
            if chosen is None or self.better(value, chosen[1]):
                chosen = step, value
        return chosen

    @property
    def over(self) -> bool:
        """Whether the last `patience` evaluations brought nothing better."""
        if not self.patience or self.best is None:
            return False
        return sum(step > self.best[0] for step, _ in self.history) >= self.patience

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
            before = self.best
            self.history.append((step, value))
            if before is None or self.better(value, before[1]):
                self.saver.saved = -1
                self.saver.save(state, step, wait=True)
        if jax.process_index() == 0:
            self.file.write_text(json.dumps({"metric": self.metric, "history": self.history}))
        if self.over:
            self.say(
                f"step {step}: {self.metric} is no better than {self.best[1]:.4f} of step "
                f"{self.best[0]} after {self.patience} evaluations; the run ends"
            )

    def close(self):
        if self.saver:
            self.saver.close()
