"""The mean of a run's last checkpoints (Vaswani et al. 2017, section 6.1), unlike `optim.ema`'s average.

Fewer than were asked for are averaged with a note; every checkpoint of the run has the same model. The
mean is saved under `workdir/averaged/`, which is a run's folder like any other: it is sampled, converted
and evaluated with `--from RUN/averaged`.
"""

import shutil
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from train.core import checkpoint, forms, integrity, shard
from train.core.saver import SAVING, Checkpoints, SaveFailed
from train.core.state import State

FOLDER = "averaged"


def last(workdir, count: int, like: dict, say=print) -> dict:
    """The variables whose parameters are the mean of the last `count` checkpoints' parameters.

    like: the last variables, whose form, layout and other collections are kept. ValueError without a
    good checkpoint, SaveFailed where the mean finds no room.
    """
    found = _sound(workdir, count, say)
    if not found:
        raise ValueError(f"{workdir} holds no checkpoint to average")
    if len(found) < count:
        say(f"{len(found)} checkpoints are averaged, not {count}; see config.checkpoint.keep")
    total = None
    for folder in found:
        params = jax.device_get(checkpoint.load_params(folder, averaged=False)[0])
        total = params if total is None else jax.tree.map(np.add, total, params)
    mean = jax.tree.map(lambda x: x / np.float32(len(found)), total)
    placed = forms.back(mean, forms.nest(like["params"]))
    where = jax.tree.map(lambda x: x.sharding, like["params"])
    made = {**like, "params": jax.tree.map(shard.put, placed, where)}
    _save(workdir, found[-1], made, say)
    return made


def _sound(workdir, count: int, say) -> list[Path]:
    """The last `count` checkpoints without damage, oldest first; what is damaged is named.

    Process 0 looks, and the others take its word.
    """
    found, steps = checkpoint.folders(workdir), []
    for folder in reversed(found) if jax.process_index() == 0 else ():
        problems = integrity.problems(folder) if len(steps) < count else ()
        if problems:
            say(f"checkpoint {folder.name} is damaged and not averaged: {problems[0]}")
        elif len(steps) < count:
            steps.append(int(folder.name))
    steps = shard.said(np.int32([*steps, *[-1] * (count - len(steps))])).tolist()
    return [folder for folder in found if int(folder.name) in steps]


def written(workdir, config) -> Path:
    """The folder of what a run was tested with: its mean where it made one, else the run itself."""
    folder = Path(workdir) / FOLDER
    made = config.get("average", 0) > 1 and (folder / "checkpoints").is_dir()
    return folder if made else Path(workdir)


def _save(workdir, newest: Path, variables: dict, say):
    """Writes the variables as a checkpoint that describes itself as the newest one does."""

    def describe(folder: Path):
        alone = shutil.ignore_patterns("state", integrity.NAME, SAVING)
        shutil.copytree(newest, folder, ignore=alone, dirs_exist_ok=True)

    place = jax.tree.leaves(variables["params"])[0].sharding
    place = NamedSharding(place.mesh, P()) if isinstance(place, NamedSharding) else place
    extra = {name: tree for name, tree in variables.items() if name != "params"}
    step = jax.device_put(np.int32(newest.name), place)
    saver = Checkpoints(Path(workdir) / FOLDER, 0, describe, say)
    saver.save(State(step, variables["params"], extra, {}, {}, {}), int(newest.name), wait=True)
    saver.close()
    if saver.failed:
        raise SaveFailed(f"the mean of the last checkpoints: {saver.failed}")
