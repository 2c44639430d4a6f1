"""What to do about a step whose loss or gradient is not finite, or far above its usual size.

The decision falls on the device, inside the step, and the update of a bad batch is never applied: no
read-back, and no state with a NaN in it. `config.anomaly` says what follows (`policy`):

    stop       everything after the bad step is void; the run saves the state before it and ends
    skip       the run goes on with the next batch; `limit` in a row, then stop
    rollback   back to the newest checkpoint, and past the batches from there to the bad one;
               `limit` times in all, then stop

`spike` > 0 also calls a batch bad whose loss or gradient norm is more than `spike` times the median of
the last WINDOW good ones (Chowdhery et al. 2022, section 5.1, restart 100 steps back and go past 200
to 500 batches; there a person decides). All that the decision needs is part of the state, so a
resumed run decides alike: `offset` is how many batches the stream is ahead of the steps.

The batch is kept as `workdir/anomalies/{step}/batch-{process}.npz` beside `anomaly.json`.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from train.core.errors import ANOMALY

POLICIES = ("stop", "skip", "rollback")
WINDOW, ENOUGH = 32, 16  # good steps that the median is over; how many it needs to mean something
KEPT = 8  # batches that a run which skips writes to disk


class Anomaly(RuntimeError):
    """A run that ends because of what a batch did to it."""

    status = ANOMALY


class Void(Exception):
    """What was dispatched after a bad step is void; `guard` is the guard's state, on the host."""

    def __init__(self, guard: dict, why: str, good: bool = True):
        super().__init__(why)
        self.guard, self.good = guard, good


@dataclasses.dataclass(frozen=True)
class Guard:
    """The policy as the step sees it; pure functions over its part of the state."""

    policy: str = "stop"
    spike: float = 0.0
    limit: int = 3

    @classmethod
    def of(cls, config) -> "Guard":
        """From a run's config; what an older one lacks takes its default."""
        return cls(**dict(config.get("anomaly", {})))

    def fresh(self) -> dict:
        """Before the first step, all zero: what a checkpoint without a guard is taken to have.

        `tripped`: everything is void until somebody acts. `at`: the last bad step, counted from 1.
        """
        zero = jnp.zeros((), jnp.int32)
        held = {"tripped": zero, "at": zero, "bad": zero, "row": zero, "offset": zero}
        held |= {"rollbacks": zero, "loss": jnp.zeros(()), "norm": jnp.zeros(())}
        if self.spike:
            held |= {"good": zero, "window": jnp.zeros((2, WINDOW))}
        return held

    def judge(self, held: dict, step, loss, norm) -> tuple:
        """(whether to apply the update, the guard's next state); scalars on the device."""
        bad = ~(jnp.isfinite(loss) & jnp.isfinite(norm))
        values = jnp.stack([loss, norm])
        if self.spike:
            filled = jnp.where(jnp.arange(WINDOW) < held["good"], held["window"], jnp.nan)
            usual = jnp.nanmedian(filled, axis=1)
            far = (values > self.spike * usual) & (usual > 0)
            bad = bad | ((held["good"] >= ENOUGH) & far.any())
        live = held["tripped"] == 0
        new, ok = bad & live, live & ~bad
        row = jnp.where(ok, 0, held["row"] + new)
        over = row > self.limit if self.policy == "skip" else new
        after = {
            **held,
            "tripped": jnp.where(over & new, 1, held["tripped"]),
            "at": jnp.where(new, step + 1, held["at"]),
            "bad": held["bad"] + new,
            "row": row,
            "loss": jnp.where(new, loss, held["loss"]),
            "norm": jnp.where(new, norm, held["norm"]),
        }
        if self.spike:
            slot = held["window"].at[:, held["good"] % WINDOW].set(values)
            after["window"] = jnp.where(ok, slot, held["window"])
            after["good"] = held["good"] + ok
        return ok, after


def select(ok, new, old):
    """`new` where a scalar says so, else `old`; whole pytrees."""
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)


@jax.jit
def finite(tree) -> jax.Array:
    """Whether every number of a pytree is finite."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).all() for x in floats]).all() if floats else jnp.bool_(True)


def keep(workdir, guard: dict, batch) -> Path:
    """Writes the batch (this process's rows) and what it did; returns the folder."""
    step = int(guard["at"])
    folder = Path(workdir, "anomalies", f"{step:08d}")
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"batch-{jax.process_index()}.npz", **batch)
    if jax.process_index() == 0:
        row = {"step": step, "batch": step - 1 + int(guard["offset"])}
        row |= {name: str(float(guard[name])) for name in ("loss", "norm")}
        (folder / "anomaly.json").write_text(json.dumps(row, indent=1) + "\n")
    return folder


class Incidents:
    """The host's side: reads the guard, keeps the batches, decides where a run goes on."""

    def __init__(self, guard: Guard, task, workdir, say):
        self.guard, self.task, self.workdir, self.say = guard, task, Path(workdir), say
        self.offset = self.seen = self.kept = 0

    def begin(self, held: dict):
        """Learns what a state brings with it (its guard, on the host)."""
        self.offset, self.seen = int(held["offset"]), int(held["bad"])

    def place(self, step: int) -> int:
        """Where in the stream the batch of a step is."""
        return step + self.offset

    def read(self, held: dict) -> dict:
        """What the guard adds to a step's metrics; Void where the run cannot simply go on."""
        at, bad = int(held["at"]), int(held["bad"])
        why = f"step {at}: loss {held['loss']:.4g}, gradient norm {held['norm']:.4g}"
        if held["tripped"]:
            raise Void(held, why)
        if bad > self.seen:
            more = f" ({bad - self.seen} since the last line)" if bad > self.seen + 1 else ""
            kept = f"; its batch is in {self.keep(held)}" if self.kept < KEPT else ""
            self.say(f"{why}: skipped, {bad} in all{more}{kept}")
            self.seen, self.kept = bad, self.kept + 1
        return {"skipped": bad} if self.guard.policy == "skip" else {}

    def check(self, state, done: int):
        """Void where a state must not be saved: voided by a bad step, or not finite itself."""
        held = jax.device_get(state.guard)
        self.read(held)
        if not finite((state.params, state.ema)):
            held = {**held, "at": np.int32(done)}
            raise Void(held, f"the parameters are not finite after step {done}", good=False)

    def settle(self, void: Void, state, saver) -> dict:
        """Keeps the batch; returns the guard to roll back with, or raises Anomaly where that is over.

        The state before the bad step is saved then, so that the run can go on from there.
        """
        held = void.guard
        kept = f"its batch is in {self.keep(held)}"
        again = int(held["rollbacks"]) + 1
        if self.guard.policy == "rollback" and again <= self.guard.limit:
            self.say(f"{void}: not applied; {kept}\nrolling back ({again} of {self.guard.limit})")
            return held
        over = f" ({self.guard.limit} times is the limit)" if self.guard.policy != "stop" else ""
        hint = "--config.anomaly.policy=skip or =rollback passes over such a batch"
        if void.good:
            state.guard = _with(state.guard, tripped=0)
            saver.save(state, int(held["at"]) - 1, wait=True)
            kept += f"; step {int(held['at']) - 1} is saved" if not saver.failed else ""
        raise Anomaly(f"{void}: not applied{over}\n{kept}\n{hint if not over else ''}")

    def past(self, state, held: dict, done: int):
        """A restored state whose stream goes on behind the bad batch."""
        offset = int(held["offset"]) + int(held["at"]) - done
        self.say(f"going on after step {done} with the batches from {done + offset} on")
        state.guard = _with(
            state.guard, offset=offset, rollbacks=int(held["rollbacks"]) + 1, bad=int(held["bad"])
        )
        return state

    def keep(self, held: dict) -> str:
        """The folder with the bad batch, or why there is none."""
        try:
            batch = self.task.batches(int(held["at"]) - 1 + int(held["offset"]))
            return str(keep(self.workdir, held, batch))
        except OSError as error:
            return f"nothing: {error.strerror}"


def _with(guard: dict, **values) -> dict:
    """A guard with other values in some places, laid out as it was."""
    put = lambda name: jax.device_put(np.int32(values[name]), guard[name].sharding)
    return {**guard, **{name: put(name) for name in values}}
