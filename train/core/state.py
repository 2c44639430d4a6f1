"""What a loop hands to the trainer (Task), what training carries (State), and one step of it.

The core sees pure functions and pytrees only. Design notes that the code relies on:

*   `totals(batch) -> {term: n}` is computed from the data of the whole global batch, before it is cut
    into micro-batches; `loss` divides every term by its total, so gradients and losses of
    micro-batches are only added. Cutting a batch changes nothing but the order of float additions
    (and dropout masks: every micro-batch draws its own).
*   Row `i` of a batch goes to micro-batch `i % micro`: neighbours stay on the device that holds them.
*   The random key of a step is `fold_in(key(seed), step)`, and `fold_in` of that with the number of
    the micro-batch: nothing random is carried, so a resumed run draws what the other would have.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from models.placement import ROWS, place
from models.threefry import straight
from train.core import shard
from train.core.anomaly import Guard, select

AVERAGED = ("batch_stats",)  # collections that fit the parameters they were gathered under
YOUNG, EVERY = 1000, 8  # those of averages move in each of the first steps, then in every eighth


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    """A plain pytree: everything that a step changes, and everything that a resume needs.

    `step` is the int32 number of updates done; `extra` the model's other collections (batch
    statistics); `carry` a loop's own (controllers, replay); `ema` the averaged parameters or {};
    `guard` what tells a bad step (`train.core.anomaly`) or {}; `ema_extra` the collections of `extra`
    that fit averaged parameters (AVERAGED), gathered under them, or {}.
    """

    step: jax.Array
    params: Any
    extra: Any
    opt_state: Any
    carry: Any
    ema: Any
    guard: Any = dataclasses.field(default_factory=dict)
    ema_extra: Any = dataclasses.field(default_factory=dict)

    def variables(self, averaged: bool = True) -> dict:
        """What a model is applied to: the averages where they are kept."""
        if averaged and jax.tree.leaves(self.ema):
            return {"params": self.ema, **self.extra, **self.ema_extra}
        return {"params": self.params, **self.extra}


@dataclasses.dataclass(frozen=True)
class Task:
    """A training objective as pure functions.

    init(key) -> (params, extra): a fresh model; traced, so that it can be laid out on any mesh.
    loss(params, frozen, extra, batch, rng, totals) -> (loss, (extra, {name: (sum, count)})).
    totals(batch) -> {term: n}: the denominators of the whole global batch, from the data alone.
    window(params, frozen, extra, batch) -> {term: sum}: what the loss needs of the whole batch under
    the present parameters, without a gradient; summed over micro-batches before the first of them is
    trained on, and given to the loss among the totals. None for most.
    batches(step) -> dict of numpy arrays: this process's rows, a pure function of (seed, step).
    evaluators: {name: run}, `run(variables) -> {metric: float}`. measures: {name: metrics}, those that
    an evaluator can give, where that is known before it runs.
    frozen: parameters that the loss reads and nobody trains; an undonated argument of the step.
    carry: the loop's own part of the first state. dropout: whether the loss needs a random key.
    fingerprint: nested dict of what the data and tokenizer are; a resume compares it.
    flops(batch) -> model floating point operations of one step, or None.
    assets(folder): writes what a checkpoint needs to describe itself (the tokenizer).
    rules: the sharding table of the parameters. adopt: names of parameters (regex) that may start
    fresh when a run starts from other weights. adapt(given, shapes, before) -> given: brings such
    weights, {path: array}, to the model's {path: shape}; before: the options that they have, or None.
    based: the weights that config.init names are in `frozen` already, and the parameters start
    fresh. given() -> the parameters that a run starts from, where they are not what config.init
    names; None otherwise. unit: what a batch's speed is counted in.
    """

    init: Callable
    loss: Callable
    totals: Callable
    batches: Callable
    evaluators: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
    frozen: Any = ()
    carry: Any = ()
    dropout: bool = False
    fingerprint: Mapping = dataclasses.field(default_factory=dict)
    flops: Callable | None = None
    assets: Callable | None = None
    rules: tuple = shard.RULES
    adopt: str = r"^(score|head)/"
    adapt: Callable | None = None
    unit: str = "tokens"
    window: Callable | None = None
    based: bool = False
    given: Callable | None = None
    measures: Mapping[str, tuple] = dataclasses.field(default_factory=dict)


def fresh(
    task: Task, tx, seed: int, averaged: bool, params=None, guard: Guard | None = None
) -> State:
    """The state before the first step; pure, so that it can be traced for its shapes.

    `params` replace the initial ones; `averaged` keeps their exponential average beside them.
    """
    first, extra = task.init(straight(jax.random.key(seed)))
    params = first if params is None else params
    ema = jax.tree.map(jnp.copy, params) if averaged else {}
    carry = jax.tree.map(jnp.asarray, task.carry)
    held = guard.fresh() if guard else {}
    step, kept = jnp.zeros((), jnp.int32), companions(extra) if averaged else {}
    return State(step, params, extra, tx.init(params), carry, ema, held, kept)


def companions(extra) -> dict:
    """The collections that averaged parameters have of their own, before the first step; copies."""
    return {name: jax.tree.map(jnp.copy, x) for name, x in dict(extra).items() if name in AVERAGED}


def _gathered(task: Task, micro: int):
    """`(state, ok, average, frozen, extra, batch, rng) -> ema_extra`, moved on under the averages.

    Running statistics of the parameters themselves do not fit their average, nor does an average of
    those statistics while the parameters move fast. This is a forward pass (nobody asks for the loss,
    which is not computed) on the batch, or on its first micro-batch, if the step is `ok` and it is due.
    """

    def forward(kept, average, frozen, extra, batch, rng):
        totals = dict(task.totals(batch))
        part = jax.tree.map(lambda x: x[0], split(batch, micro)) if micro > 1 else batch
        given = {**dict(extra), **kept}
        _, (moved, _) = task.loss(average, frozen, given, part, _fold(rng, 0), totals)
        return {name: moved[name] for name in kept}

    def gather(state: State, ok, *given):
        if not jax.tree.leaves(state.ema_extra):
            return state.ema_extra
        due = ok & ((state.step < YOUNG) | (state.step % EVERY == 0))
        return jax.lax.cond(due, forward, lambda kept, *_: kept, state.ema_extra, *given)

    return gather


def split(batch: Mapping, micro: int) -> dict:
    """[B, ...] leaves as [micro, B / micro, ...]: row i goes to micro-batch i % micro."""

    def cut(x):
        if x.shape[0] % micro:
            raise ValueError(f"config.micro={micro} does not divide the batch of {x.shape[0]} rows")
        x = x.reshape(x.shape[0] // micro, micro, *x.shape[1:]).swapaxes(0, 1)
        return place(x, None, ROWS)

    return jax.tree.map(cut, dict(batch))


def _gradients(task: Task, micro: int, mask: Callable | None = None):
    """`(params, frozen, extra, batch, rng) -> (loss, extra, sums, gradients)`, all float32."""

    def one(params, frozen, extra, batch, rng, totals):
        value = jax.value_and_grad(task.loss, has_aux=True)
        (loss, (extra, sums)), grads = value(params, frozen, extra, batch, rng, totals)
        sums = {name: (jnp.float32(s), jnp.float32(n)) for name, (s, n) in sums.items()}
        grads = jax.tree.map(_float32, mask(grads) if mask else grads)
        return jnp.float32(loss), extra, sums, grads

    def ahead(params, frozen, extra, batch, parts):
        found = lambda part: task.window(params, frozen, extra, part)
        if parts is None:
            return found(batch)
        return jax.tree.map(lambda x: x.sum(0), jax.lax.map(found, parts))

    def whole(params, frozen, extra, batch, rng):
        totals, parts = dict(task.totals(batch)), split(batch, micro) if micro > 1 else None
        if task.window is not None:
            totals |= ahead(params, frozen, extra, batch, parts)
        if parts is None:
            return one(params, frozen, extra, batch, _fold(rng, 0), totals)

        def body(held, item):
            extra, added = held
            index, part = item
            loss, extra, sums, grads = one(params, frozen, extra, part, _fold(rng, index), totals)
            return (extra, jax.tree.map(jnp.add, added, (loss, sums, grads))), None

        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(one, params, frozen, extra, first, _fold(rng, 0), totals)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes[0], *shapes[2:]))
        (extra, (loss, sums, grads)), _ = jax.lax.scan(
            body, (extra, zeros), (jnp.arange(micro), parts)
        )
        return loss, extra, sums, grads

    return whole


def make_step(
    task: Task,
    tx: optax.GradientTransformation,
    *,
    seed: int | None,
    micro: int = 1,
    ema: float = 0.0,
    schedule: Callable | None = None,
    shardings: State | None = None,
    guard: Guard | None = None,
    mask: Callable | None = None,
) -> Callable:
    """A compiled `step(state, frozen, batch) -> (state, {name: float32 scalar})`.

    The state is donated. `seed` None means no random key, which a task with dropout refuses. `ema` is
    the decay of the averages (0: none); collections of their own are gathered under them in each of
    the first YOUNG steps and then in every EVERY-th. `shardings` (a State of shardings) pins the layout of the new
    state. `mask(gradients)` zeroes what is not trained (`optim.trained`). Metrics are the loss's own
    means, `loss`, `gradient_norm` (of what is trained, before clipping, which is the optimiser's) and,
    given a schedule, `learning_rate`. With a `guard` the update of a bad batch is not applied, and the
    metrics hold the guard's state, a dict, as `guard`.
    """
    if task.dropout and seed is None:
        raise ValueError("the model has dropout, but the step was given no seed to draw it from")
    gradients, gather = _gradients(task, micro, mask), _gathered(task, micro)

    def update(grads, params, opt_state, average):
        """A branch of its own under a guard: choosing between old and new would copy both, whole."""
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        if ema:
            average = jax.tree.map(lambda a, p: ema * a + (1 - ema) * p, average, params)
        return params, opt_state, average

    def step(state: State, frozen, batch):
        rng = None if seed is None else jax.random.fold_in(jax.random.key(seed), state.step)
        loss, extra, sums, grads = gradients(state.params, frozen, state.extra, batch, rng)
        metrics = {"loss": loss, **{name: s / n for name, (s, n) in sums.items()}}
        metrics["gradient_norm"] = _norm(grads)
        if schedule is not None:
            skipped = state.guard["bad"] if guard and guard.policy == "skip" else 0
            metrics["learning_rate"] = jnp.float32(schedule(state.step - skipped))
        trained, held = (state.params, state.opt_state, state.ema), state.guard
        ok, done = True, 1
        if guard is None:
            trained = update(grads, *trained)
        else:
            ok, held = guard.judge(state.guard, state.step, loss, metrics["gradient_norm"])
            trained = jax.lax.cond(ok, update, lambda _, *same: same, grads, *trained)
            extra, done = select(ok, extra, state.extra), 1 - held["tripped"]
            metrics["guard"] = held
        params, opt_state, average = trained
        kept = gather(state, ok, average, frozen, extra, batch, rng)
        new = State(state.step + done, params, extra, opt_state, state.carry, average, held, kept)
        return new, metrics

    options = {} if shardings is None else {"out_shardings": (shardings, None)}
    return jax.jit(step, donate_argnums=0, compiler_options=_compiler_options(), **options)


def _compiler_options() -> dict | None:
    """Keeps rematerialisation on CPU, where XLA drops the barriers before it merges equal operations."""
    if jax.default_backend() != "cpu":
        return None
    return {"xla_disable_hlo_passes": "cse_barrier_expander"}


def _fold(rng, index):
    return None if rng is None else jax.random.fold_in(rng, index)


def _norm(tree):
    return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))


def _float32(x):
    return x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
