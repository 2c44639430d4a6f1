"""Where a run starts, written once: resume this run; else start from the checkpoint that the config
names; else from reference weights; else from scratch.

A resume takes everything and refuses another seed, data, noise, masking, tokenizer, batch or model. The
other two take parameters only: step, optimiser and data begin anew.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import jax

from models.interop.untrusted import read_json
from models.options import Options
from train.core import checkpoint, forms, frozen, lora, shard
from train.core.plan import Plan
from train.core.state import State, Task, companions

COMPARED = (
    "loop", "seed", "batch", "length", "phases", "model", "optim.name", "data.noise", "data.tokens",
    "data.least", "data.masking", "data.pair", "data.short",
)  # fmt: skip
HOW = "how"  # in a fingerprint: {a field of the config, or its default: what a loop is made by}
FREE = ("model.remat", "model.scan", "model.attend")  # how it is computed, not what


def begin(config, task: Task, plan: Plan, checkpoints, say) -> tuple[State, int]:
    """(the first state of this run, laid out on the mesh; how many steps it has done)."""
    folder = checkpoints.newest()
    if folder is not None:
        refuse_other_run(folder, config, task.fingerprint)
        cast = config.get("allow_cast", False)
        state = checkpoint.restore(
            folder, plan.abstract, plan.shardings, plan.mesh, task.rules, cast, say
        )
        say(f"resuming after step {int(state.step)}")
        return state, int(state.step)
    if task.given is not None:
        words = "the loop's first parameters"
        return adopt(task.given(), task, plan, say, words, config.get("allow_cast", False)), 0
    kind, source = named(config, task, say)
    before = None
    if kind == "checkpoint":
        given, extra = lora.loaded(source)
        if task.adapt:
            before = Options.of(checkpoint.read_config(source)["model"])
    elif kind == "reference":
        from train.core import reference

        loaded = reference.load(source)
        extra, before = dict(loaded.variables), loaded.options
        given = extra.pop("params")
    else:
        return jax.jit(plan.fresh, out_shardings=plan.shardings)(), 0
    say(f"starting from the parameters of {source}")
    cast = config.get("allow_cast", False)
    return adopt(given, task, plan, say, str(source), cast, extra, before), 0


def named(config, task: Task, say) -> tuple:
    """("checkpoint" or "reference", where it is) of the parameters to start from, else ("", "").

    ValueError or FileNotFoundError where there is none.
    """
    init = {} if task.based or task.given is not None else config.get("init", {})
    if init.get("checkpoint", ""):
        return "checkpoint", checkpoint.find(init["checkpoint"], say)
    if init.get("reference", ""):
        if not Path(init["reference"]).exists():
            raise FileNotFoundError(f'config.init.reference: there is no "{init["reference"]}"')
        return "reference", init["reference"]
    return "", ""


def adopt(
    given: Mapping, task: Task, plan: Plan, say, source, cast=False, extra=None, before=None
) -> State:
    """A state at step 0 with the given parameters (any form) and a new optimiser.

    `extra` (batch statistics) is taken where the model has all of it, in the same shapes. `before`:
    the options of the model that they are of, where they are known.

    Parameters that `task.adopt` matches may be missing and stay fresh, and so do scores of other
    labels (another shape); others that are missing, or have another shape or (unless `cast`) type,
    raise ValueError. What the model has no place for is listed and left.
    """
    given = forms.flat(forms.apart(forms.nest(given)))
    wanted = jax.eval_shape(forms.apart, forms.nest(plan.abstract.params))
    placed = forms.flat(shard.params(wanted, plan.mesh, task.rules))
    if task.adapt:
        named = {name: x.shape for name, x in forms.flat(wanted).items()}
        given = task.adapt(given, named, before)
    new = []
    for name, x in forms.flat(wanted).items():
        other = name in given and name.startswith("score/") and given[name].shape != x.shape
        if (name not in given or other) and re.search(task.adopt, name):
            new.append(name)
            given.pop(name, None)
        elif name not in given:
            raise ValueError(f"{source} has no parameter {name}, which config.model needs")
        elif given[name].shape != x.shape:
            raise ValueError(
                f"{source} has {name} with shape {given[name].shape}; config.model needs {x.shape}"
            )
        elif given[name].dtype != x.dtype and not cast:
            raise ValueError(
                f"{source} has {name} as {given[name].dtype}; this run needs {x.dtype}\n"
                "--config.allow_cast=true casts it"
            )
    unused = sorted(set(given) - set(placed))
    for words, names in (("start fresh", new), ("are not in this model and left out", unused)):
        if names:
            say(f"{len(names)} parameters {words}: {', '.join(names[:4])}")
    types = {name: x.dtype for name, x in forms.flat(wanted).items()}
    taken = {
        name: shard.put(given[name].astype(types[name]), placed[name])
        for name in placed
        if name in given
    }

    kept = _matching(extra or {}, plan)

    def make(taken, kept):
        state = plan.fresh(forms.replaced(plan.fresh().params, taken))
        if not jax.tree.leaves(kept):
            return state
        average = companions(kept) if state.ema_extra else {}
        return dataclasses.replace(state, extra=kept, ema_extra=average)

    return jax.jit(make, out_shardings=plan.shardings)(taken, kept)


def _matching(extra: Mapping, plan: Plan):
    """The given collections as the plan's, laid out on its mesh, or {} where names or shapes differ."""
    given, rows = forms.flat(forms.nest(extra)), forms.flat(plan.abstract.extra)
    if not rows or any(given.get(n) is None or given[n].shape != x.shape for n, x in rows.items()):
        return {}
    return jax.tree_util.tree_map_with_path(
        lambda keys, where: shard.put(given[shard.path(keys)], where), plan.shardings.extra
    )


def refuse_other_run(folder, config, fingerprint: Mapping):
    """Raises ValueError that names the first field in which a checkpoint's run is not this one.

    `config.allow_mismatch` lets it pass.
    """
    if config.get("allow_mismatch", False):
        return
    folder = Path(folder)
    was = checkpoint.read_config(folder)
    known, now = read_json(folder / "run.json").get("fingerprint", {}), dict(fingerprint)
    if not isinstance(known, Mapping):
        raise ValueError(f"{folder / 'run.json'} does not say what the run's data is")
    then, fixed = dict(known), now.pop(frozen.NAME, None)
    before = then.pop(frozen.NAME, None)
    by, made = now.pop(HOW, {}), then.pop(HOW, None)
    _refuse("config.", _compared(was), _compared(config.to_dict()))
    if made is not None:  # an older run does not say
        _refuse("config.", made, by)
    _refuse("the data's ", _rows(then), _rows(now))
    if before is not None and before != fixed:
        raise ValueError(
            "the frozen parameters (reference, reward model, teacher, base of adapters) are not those "
            f"that this run was started with: {_brief(fixed)}, {_brief(before)} then\n"
            "name the checkpoint that they came from (RUN/checkpoints/STEP), or use "
            "--config.allow_mismatch=true to go on regardless"
        )


def _refuse(prefix: str, before: dict, now: dict):
    absent = "absent"
    names = sorted({*before, *now})
    names = [name for name in names if before.get(name, absent) != now.get(name, absent)]
    if names:
        old, new = before.get(names[0], absent), now.get(names[0], absent)
        more = f"; {len(names) - 1} more differ" if len(names) > 1 else ""
        raise ValueError(
            f"{prefix}{names[0]} is {_brief(new)}, but this run was started with {_brief(old)}"
            f"{more}\nuse another --workdir, or --config.allow_mismatch=true to go on regardless"
        )


def _compared(config: Mapping) -> dict:
    """The rows of a config that make it another run."""
    return {
        name: value
        for name, value in _rows(config).items()
        if any(f"{name}.".startswith(f"{top}.") for top in COMPARED) and name not in FREE
    }


def _rows(tree, prefix="") -> dict:
    """{dotted name: JSON value} of nested mappings, those in lists by number; other lists whole."""
    rows = {}
    for name, value in tree.items():
        if isinstance(value, list | tuple) and value and all(isinstance(x, Mapping) for x in value):
            value = {str(number): item for number, item in enumerate(value)}
        if isinstance(value, Mapping):
            rows.update(_rows(value, f"{prefix}{name}."))
        else:
            rows[f"{prefix}{name}"] = json.loads(json.dumps(value, default=str))
    return rows


def _brief(value) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:76]}..."
