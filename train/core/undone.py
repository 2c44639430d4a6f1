"""What a stop cut off, and a run that goes on makes up for: the evaluation of its first step.

A signal during an evaluation saves the step and leaves; without its evaluation the best checkpoint and
early stopping would differ from those of a run that nobody stopped.
"""

import contextlib
import json
from pathlib import Path

import jax
import numpy as np

from train.core import log, shard


def evaluation(config, workdir, evaluators, best, done: int) -> bool:
    """Whether an evaluation was due after `done` steps and metrics.jsonl or best.json lacks it.

    Process 0 looks, and the others take its word.
    """
    every = config.eval.get("every", 0)
    if not evaluators or not done or not every or done % every or done >= config.steps:
        return False
    held = parts(workdir, done) if jax.process_index() == 0 else set()
    lost = not held.issuperset(evaluators) or best.lacks(done)
    return bool(shard.said(np.int32(lost)))


def parts(workdir, step: int) -> set:
    """The parts that were evaluated after `step` by metrics.jsonl; damaged lines are passed over."""
    path, found = Path(workdir) / log.METRICS, set()
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            found |= {name.split("/")[0] for name in row if "/" in name and row["step"] == step}
    return found
