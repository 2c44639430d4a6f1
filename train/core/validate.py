"""Checks across a config's fields, in milliseconds and before jax is imported.

Every message names the fields and what would do. What needs data or devices is checked where those
are at hand: the mesh by `shard`, the tokenizer and the token files by the loop, the options of a
model among themselves by `models.options`.
"""

import math
import re
from pathlib import Path

from ml_collections import ConfigDict

from models.options import Options
from train.core.config import NOT_NEGATIVE, OPTIMIZERS, POSITIVE, SCHEDULES, leaves
from train.core.errors import nearest

ENDING = ("cosine", "linear", "exponential", "stairs")  # schedules whose decay ends at decay_steps
LOOPS = Path(__file__).resolve().parents[1]


def validate(config: ConfigDict) -> None:
    """Raises ValueError, one to three lines, for a config that could not run."""
    _one_of("loop", config.loop, loops())
    _one_of("optim.name", config.optim.name, OPTIMIZERS)
    _one_of("optim.schedule", config.optim.schedule, SCHEDULES)
    _one_of("optim.state_dtype", config.optim.state_dtype, ("float32", "bfloat16"))
    _one_of("anomaly.policy", config.anomaly.policy, ("stop", "skip", "rollback"))
    for section in ("checkpoint", "data"):
        _one_of(f"{section}.verify", config[section].verify, ("auto", "always", "never"))
    _one_of("best.mode", config.best.mode, ("max", "min"))
    _finite(config)
    if 0 < config.anomaly.spike <= 1:
        raise ValueError(
            f"config.anomaly.spike is {config.anomaly.spike}, a factor over the usual loss; "
            "expected more than 1, or 0 for off"
        )
    for names, least in ((POSITIVE, 1), (NOT_NEGATIVE, 0)):
        for name in names:
            if _get(config, name) < least:
                what = "at least 1" if least else "0 or more"
                raise ValueError(f"config.{name} is {_get(config, name)}; expected {what}")
    for name in ("b1", "b2", "ema"):
        if not 0 <= config.optim[name] < 1:
            raise ValueError(f"config.optim.{name} is {config.optim[name]}; expected 0 <= x < 1")
    for name, value in [
        ("decay", config.optim.decay), ("freeze", config.optim.freeze),
        *(("multipliers", regex) for regex, _ in config.optim.multipliers),
    ]:  # fmt: skip
        _compiles(f"optim.{name}", value)
    _schedule(config.optim, config.steps)
    if config.init.checkpoint and config.init.reference:
        raise ValueError(
            "config.init names a checkpoint and a reference; a run starts from one of them"
        )
    window = config.log.profile
    if window and (len(window) != 2 or not 0 <= window[0] < window[1]):
        raise ValueError(f"config.log.profile is {window}; expected (first step, last step)")
    if window and window[0] >= config.steps:
        raise ValueError(f"config.log.profile is {window}; config.steps={config.steps} ends before")
    _mesh(config.mesh)
    _shapes(config)


def _finite(config) -> None:
    """No number is infinite or NaN, no factor of a rate below 0; seeds and steps fit their types."""
    for name, value in leaves(config):
        if any(isinstance(x, float) and not math.isfinite(x) for x in _flat(value)):
            raise ValueError(f"config.{name} is {value}; expected finite numbers")
    for regex, factor in config.optim.multipliers:
        if factor < 0:
            raise ValueError(
                f'config.optim.multipliers has {factor} for "{regex}"; expected 0 or more'
            )
    for name, limit in (("seed", 1 << 32), ("steps", 1 << 31)):
        if config[name] >= limit:
            raise ValueError(f"config.{name} is {config[name]}; expected less than {limit:,}")


def _flat(value) -> list:
    return [x for part in value for x in _flat(part)] if isinstance(value, tuple) else [value]


def _schedule(optim, steps) -> None:
    """Warm-up and decay have room."""
    warmup, decay = optim.warmup, optim.decay_steps
    if warmup > steps:
        raise ValueError(f"config.optim.warmup={warmup} is longer than config.steps={steps}")
    if optim.schedule == "wsd" and warmup + decay > steps:
        raise ValueError(
            f"config.optim.decay_steps={decay} (the length of the decay) and warmup={warmup} are "
            f"longer than config.steps={steps}"
        )
    if optim.schedule in ENDING and 0 < decay <= warmup:
        raise ValueError(
            f"config.optim.decay_steps={decay} is the step at which the decay ends; expected more "
            f"than config.optim.warmup={warmup}, or 0 for config.steps"
        )


def loops() -> tuple:
    """The loops there are: the modules of `train`."""
    names = (path.stem for path in LOOPS.glob("*.py"))
    return tuple(sorted(name for name in names if not name.startswith("_")))


def shapes(config: ConfigDict) -> list:
    """(first step, length, batch) of each phase, then of the rest of the run."""
    rows, start = [], 0
    for until, length, batch in config.phases:
        rows.append((start, length, batch))
        start = until
    return rows + ([(start, config.length, config.batch)] if start < config.steps else [])


def _mesh(mesh) -> None:
    wrong = {axis: size for axis, size in mesh.items() if size < 1 and size != -1}
    if wrong:
        raise ValueError(
            f"config.mesh has {wrong}; expected sizes of at least 1, or -1 for the rest"
        )
    if sum(size == -1 for size in mesh.values()) > 1:
        raise ValueError("config.mesh has more than one -1; only one axis can take the rest")


def _shapes(config: ConfigDict) -> None:
    """Phases in order, batches in micro-batches, lengths within the model's context."""
    last = 0
    for row in config.phases:
        if row[0] <= last or min(row[1:]) < 1:
            raise ValueError(
                f"config.phases has {row}; expected rows (until_step, length, batch) with rising "
                "steps and sizes of at least 1"
            )
        last = row[0]
    options = Options.of(config.model.to_dict()) if "kind" in config.get("model", ()) else None
    for _, length, batch in [*shapes(config), (0, config.length, config.batch)]:
        if batch % config.micro:
            raise ValueError(f"config.micro={config.micro} does not divide batch={batch}")
        if options is not None and length > options.context:
            raise ValueError(
                f"config.length={length} is longer than config.model.context={options.context}"
            )


def _get(config, name):
    for part in name.split("."):
        config = config[part]
    return config


def _one_of(name, value, known):
    if value not in known:
        near = nearest(value, known)
        rest = "" if near.startswith("known") else f"\nknown: {', '.join(known)}"
        raise ValueError(f'config.{name} is "{value}"; {near}{rest}')


def _compiles(name, regex):
    try:
        re.compile(regex)
    except re.error as error:
        raise ValueError(f'config.{name}: "{regex}" is not a regular expression: {error}') from None
