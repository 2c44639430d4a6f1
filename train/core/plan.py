"""What a run will be, before anything is allocated: mesh, optimiser, shapes and layout of the state."""

import dataclasses
from collections.abc import Callable

import jax

from train.core import optim, shard
from train.core.anomaly import Guard
from train.core.state import State, Task, fresh


@dataclasses.dataclass(frozen=True)
class Plan:
    """`fresh(params=None)` makes the first state (pure); `abstract` is its shapes."""

    mesh: jax.sharding.Mesh
    tx: object
    schedule: Callable
    fresh: Callable
    abstract: State
    shardings: State
    rules: tuple
    task: Task
    guard: Guard
    mask: Callable | None

    def lines(self) -> list[str]:
        """What `--check` prints of the layout: every parameter, then what a device holds."""
        a, where = self.abstract, self.shardings
        lines = shard.describe(a.params, where.params) + shard.left_out(
            a.params, self.mesh, self.rules
        )
        return lines + [f"{name}: {size} bytes/device" for name, size in self.bytes().items()]

    def bytes(self) -> dict[str, int]:
        """Bytes on each device by part of the state, and of what the loss reads and nobody trains.

        Gradients are as large as the parameters.
        """
        names = ("params", "ema", "extra", "opt_state", "carry")
        a, where = self.abstract, self.shardings
        sizes = {n: shard.bytes_per_device(getattr(a, n), getattr(where, n)) for n in names}
        sizes["ema"] += shard.bytes_per_device(a.ema_extra, where.ema_extra)
        frozen = self.task.frozen
        placed = shard.params(frozen, self.mesh, self.rules)
        sizes["frozen"] = shard.bytes_per_device(frozen, placed)
        return {**sizes, "gradients": sizes["params"]}


def plan(config, task: Task) -> Plan:
    """The plan of a config and a task on the devices at hand.

    Raises ValueError where mesh, batch, parameters or optimiser don't fit each other.
    """
    mesh = shard.mesh(config.mesh)
    for batch in {config.batch, *(row[2] for row in config.get("phases", ()))}:
        shard.check_batch(batch, config.get("micro", 1), mesh)
    params, _ = jax.eval_shape(task.init, jax.random.key(config.seed))
    tx, schedule = optim.build(config.optim, config.steps, params)
    averaged = config.optim.get("ema", 0.0) > 0
    guard = Guard.of(config)

    def first(params=None) -> State:
        return fresh(task, tx, config.seed, averaged, params, guard)

    abstract = jax.eval_shape(first)
    where = shard.state(abstract, mesh, task.rules)
    mask = optim.trained(config.optim, params)
    return Plan(mesh, tx, schedule, first, abstract, where, task.rules, task, guard, mask)
