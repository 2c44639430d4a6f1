"""A run's config: the file is loaded, completed, and every field has its type.

A config file is Python with `get_config(variant) -> ml_collections.ConfigDict` and, so that an
error can name them, `VARIANTS`. The command line is read in `arguments`, checks across fields are
in `validate`. Nothing in these three imports jax.
"""

import importlib.util
from pathlib import Path

from ml_collections import ConfigDict

from models.options import Options
from train.core import fields
from train.core.errors import nearest

OPTIMIZERS = ("adamw", "adafactor", "lion", "lamb", "muon", "sgd", "rmsprop")
SCHEDULES = (
    "cosine", "linear", "inverse_root", "wsd", "constant", "exponential", "stairs",
)  # fmt: skip
DECAY = r"(kernel|embedding)$"

# What every loop reads, with the type of each field. A config may leave fields out; a loop has fields
# and sections of its own (`fields`), which are taken with the types that the config file gives them.
DEFAULTS = {
    "loop": "lm",
    "seed": 0,
    "steps": 1000,
    "batch": 8,  # sequences in a step, on all devices together
    "length": 128,
    "allow_cast": False,  # take parameters and moments that were saved in another precision
    "allow_memory": False,  # start although the machine seems to have too little memory
    "allow_mismatch": False,  # resume although seed, data, batch or model are others
    "micro": 1,  # micro-batches that a batch is cut into
    "phases": (),  # rows (until_step, length, batch); after the last row, length and batch
    "data": {
        "source": "shakespeare",
        "mixture": (),  # rows (source, weight); replaces source
        "tokenizer": "char",
        "packing": "contiguous",
        "heldout": (),
        "verify": "auto",  # checks token files: auto (once), always or never
    },
    "optim": {
        "name": "adamw",
        "lr": 1e-3,
        "schedule": "cosine",
        "warmup": 0,
        "decay_steps": 0,  # see train.core.optim.schedule
        "end": 0.1,  # the last learning rate, as a share of lr
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decay": DECAY,
        "freeze": "",
        "multipliers": (),  # rows (regex, factor)
        "clip": 0.0,  # global norm; 0 is off
        "ema": 0.0,
        "state_dtype": "float32",  # of the first moment
    },
    "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
    "eval": {"every": 0, "batches": 0, "first": False},
    "checkpoint": {"every": 0, "keep": 3, "verify": "auto"},
    "best": {"metric": "", "mode": "max", "patience": 0},  # see train.core.best
    "log": {"every": 10, "tensorboard": True, "wandb": False, "profile": (), "peak": 0.0},
    "init": {"checkpoint": "", "reference": ""},
    # A loss or gradient that is not finite, or `spike` times its median: see train.core.anomaly.
    "anomaly": {"policy": "stop", "spike": 0.0, "limit": 3},
    "watchdog": 300.0,  # seconds without a step until the process ends with status 75; 0 is off
    # Only without a known launcher, but for heartbeat: seconds until a silent process is given up.
    "dist": {"coordinator": "", "processes": 0, "process": -1, "heartbeat": 60},
}  # fmt: skip
# Sections whose fields are all known here; beside the ones above, those that some loop reads.
CLOSED = {
    "optim": (), "mesh": (), "checkpoint": (), "best": (), "anomaly": (), "log": (), "dist": (),
    "init": ("model",), "eval": ("pseudo", "neighbours", "train"),
}  # fmt: skip
# Loops of pictures, whose `data` and `augment` have more fields (see `pictures`).
PICTURES = ("vision", "mim", "dvae")
# What a tuple holds: one type for any number of elements, or [..] for rows of these types.
TUPLES = {
    "phases": [int, int, int],
    "data.mixture": [str, float],
    "data.heldout": str,
    "augment.scale": float,
    "optim.multipliers": [str, float],
    "log.profile": int,
    "model.pattern": str,
}
POSITIVE = (
    "steps", "batch", "length", "micro", "checkpoint.keep", "log.every", "dist.heartbeat",
)  # fmt: skip
NOT_NEGATIVE = (
    "seed", "optim.lr", "optim.warmup", "optim.decay_steps", "optim.end", "optim.eps",
    "optim.weight_decay", "optim.clip", "eval.every", "eval.batches", "checkpoint.every",
    "log.peak", "anomaly.spike", "anomaly.limit", "watchdog", "best.patience",
)  # fmt: skip


def load(spec: str) -> ConfigDict:
    """The config that `path.py` or `path.py:variant` names, completed and unlocked.

    ValueError or FileNotFoundError, in one to three lines, for a missing file or variant, an
    unknown option of the model, a wrong type.
    """
    path, _, variant = spec.partition(":")
    module = _module(find(path))
    variants = tuple(getattr(module, "VARIANTS", ()))
    if variant and variants and variant not in variants:
        hint = nearest(variant, variants)
        raise ValueError(f'{path} has no variant "{variant}"; {hint}\nvariants: {listed(variants)}')
    config = module.get_config(variant) if variant else module.get_config()
    if not isinstance(config, ConfigDict):
        raise ValueError(f"{path}: get_config returned {type(config).__name__}, not a ConfigDict")
    return complete(config)


def find(path: str) -> Path:
    """The config file at `path`, taken from the working directory, else from the checkout."""
    root = Path(__file__).resolve().parents[2]
    for place in (Path(path), root / path):
        if place.is_file():
            return place
    folder = next(
        (p for p in (Path(path).parent, root / "configs") if p.is_dir()), root / "configs"
    )
    names = sorted(p.name for p in folder.glob("*.py") if p.name != "__init__.py")
    near = nearest(Path(path).name, names)
    raise FileNotFoundError(f'no config file "{path}"; {near}\nin {folder.name}/: {listed(names)}')


def _module(path: Path):
    found = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if found is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from error
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path} has no function get_config(variant)")
    return module


def complete(config: ConfigDict) -> ConfigDict:
    """A resolved, unlocked copy: shared fields that were left out get their defaults, all typed.

    ValueError names a field of another type than the default's, a None, or a list.
    """
    given = config.copy_and_resolve_references().to_dict()
    defaults = _defaults(given.get("loop"))
    _known("config", given, (*fields.TOP, "model", *defaults))
    for name, value in defaults.items():
        if not isinstance(value, dict):
            given[name] = _like(name, given.get(name, value), value)
            continue
        section = given.setdefault(name, {})
        if not isinstance(section, dict):
            raise ValueError(f"config.{name} is {section!r}; expected a section")
        more = fields.DATA if name == "data" else CLOSED.get(name, section)
        _known(f"config.{name}", section, (*more, *value))
        for key, default in value.items():
            section[key] = _like(f"{name}.{key}", section.get(key, default), default)
    if not isinstance(given.get("model", {}), dict):
        raise ValueError("config.model is not a section; use ConfigDict(families.row(...))")
    if "kind" in given.get("model", {}):
        given["model"] = Options.of(given["model"]).plain()
    config = ConfigDict(given)
    for key, value in leaves(config):
        _like(key, value, value)
    return config


def _known(where: str, given, known):
    """ValueError names a field that there is not."""
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f"{where} has no field {unknown[0]!r}; {nearest(unknown[0], known)}")


def _defaults(loop) -> dict:
    """The fields of a loop's config that may be left out: {name: value, or a section's}."""
    if loop not in PICTURES:
        return DEFAULTS
    from train.data import prepare  # takes Pillow, which other loops do without

    data, augment = prepare.defaults()
    return {**DEFAULTS, "data": {**DEFAULTS["data"], **data}, "augment": augment}


def leaves(config: ConfigDict, prefix="") -> list:
    """(dotted name, value) of every field, in the config's order."""
    rows = []
    for key, value in config.items():
        inside = isinstance(value, ConfigDict)
        rows += leaves(value, f"{prefix}{key}.") if inside else [(prefix + key, value)]
    return rows


def _like(key: str, value, default):
    """The value with the default's type; ints pass for floats. Checks what tuples hold."""
    if value is None or isinstance(value, list):
        instead = "a tuple" if isinstance(value, list) else "an empty value of its type"
        raise ValueError(f"config.{key} is {value!r}, which cannot be overridden; use {instead}")
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default) or not isinstance(value, (bool, int, float, str, tuple)):
        raise _wrong(key, value, type(default).__name__)
    return elements(key, value) if isinstance(value, tuple) else value


def _wrong(key, value, expected):
    return ValueError(f"config.{key} is {value!r} ({type(value).__name__}); expected {expected}")


def elements(key: str, value: tuple) -> tuple:
    """The tuple with its elements typed as TUPLES says; fields not listed there hold one type."""
    kinds = TUPLES.get(key)
    if kinds is None:
        if len({type(element) for element in value}) > 1:
            names = listed(sorted({type(element).__name__ for element in value}))
            raise ValueError(f"config.{key} is {value!r}, which mixes {names}; expected one type")
        return value
    if not isinstance(kinds, list):
        return tuple(_element(key, element, kinds, value) for element in value)
    shape = "(" + ", ".join(kind.__name__ for kind in kinds) + ")"
    if value and not any(isinstance(row, tuple) for row in value) and len(value) == len(kinds):
        value = (value,)  # one row, without the second pair of parentheses
    for row in value:
        if not isinstance(row, tuple) or len(row) != len(kinds):
            raise ValueError(f"config.{key} holds {row!r}; expected rows {shape}")
    return tuple(
        tuple(_element(key, element, kind, row) for element, kind in zip(row, kinds))
        for row in value
    )


def _element(key, element, kind, whole):
    if kind is float and type(element) is int:
        return float(element)
    if type(element) is not kind:
        found = f"{element!r} ({type(element).__name__})"
        raise ValueError(f"config.{key}={whole!r} holds {found}; expected {kind.__name__}")
    return element


def listed(names, most=16) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
