"""The training loop that every objective shares.

The host is always one step ahead: step t is dispatched before the metrics of step t-1 are read, and the
loop waits for the device in one place only, `fetch`.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
from pathlib import Path

import jax
import numpy as np

from train.core import anomaly, check, frozen, pages, provenance, shard, start, undone
from train.core.best import Best, expect
from train.core.log import Logger
from train.core.meter import Meter, peak
from train.core.plan import Plan, plan
from train.core.preempt import Stopped, owner
from train.core.saver import Checkpoints, SaveFailed
from train.core.state import State, Task, make_step
from train.core.watchdog import Watchdog


@dataclasses.dataclass
class Fitted:
    """How a run ended: the last metrics, the state, and whether a signal stopped it early."""

    metrics: dict
    state: State
    stopped: bool
    plan: Plan

    def variables(self, averaged: bool = True) -> dict:
        """What the model is applied to."""
        return self.state.variables(averaged)


def fetch(tree):
    """Device values on the host; the only place where the loop waits for the device."""
    return jax.device_get(tree)


def fit(config, task: Task, workdir, kind=None) -> Fitted:
    """Trains a task to `config.steps`, from wherever `start.begin` finds it; `kind`: a Loop.

    Writes metrics, checkpoints and run.json under `workdir`. SIGTERM and Ctrl-C save and return with
    `stopped`; before the first step there is nothing to save, and they raise Stopped. Raises
    ValueError for what the user can mend, Anomaly for what a batch did, SaveFailed (an OSError) if
    the last save failed.
    """
    with contextlib.ExitStack() as stack:
        stopping = stack.enter_context(owner())
        stopping.begin()
        expect(config, task)
        planned = plan(config, task)
        stack.enter_context(jax.set_mesh(planned.mesh))
        logger = stack.enter_context(Logger(workdir, config.log, config.steps))
        task = frozen.marked(task)
        record = provenance.record(config, planned.mesh, dict(task.fingerprint))
        describe = _describer(config, task, record)
        verify = config.checkpoint.get("verify", "auto")
        saver = Checkpoints(workdir, config.checkpoint.keep, describe, logger.say, verify)
        stack.callback(saver.close)
        for line in shard.left_out(planned.abstract.params, planned.mesh, task.rules):
            logger.say(line)
        check.weigh(config, planned, logger.say)
        best = Best(config, workdir, describe, logger.say)
        stack.callback(best.close)
        state, done = start.begin(config, task, planned, saver, logger.say)
        provenance.write(workdir, record)
        dog = Watchdog(config.get("watchdog", 0.0), workdir, jax.process_index())
        stack.enter_context(dog)
        make = kind or Loop
        loop = make(config, task, planned, logger, saver, stopping, dog, Path(workdir), best)
        fitted = loop.run(state, done)
    if saver.failed or best.failed:
        raise SaveFailed(saver.failed or best.failed)
    return fitted


def _describer(config, task, record):
    """Writes what stands beside a checkpoint's arrays."""

    def describe(folder: Path):
        (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1))
        kept = {**record, "fingerprint": task.fingerprint}
        (folder / "run.json").write_text(json.dumps(kept, indent=1, default=str))
        if task.assets:
            task.assets(folder)

    return describe


class Loop:
    """One run's loop: a step, a look at the step before, and now and then an evaluation or a save."""

    def __init__(self, config, task, planned, logger, saver, stopping, dog, workdir, best):
        self.config, self.task, self.plan = config, task, planned
        self.logger, self.saver, self.stopping, self.dog = logger, saver, stopping, dog
        self.step = make_step(
            task,
            planned.tx,
            seed=config.seed,
            micro=config.get("micro", 1),
            ema=config.optim.get("ema", 0.0),
            schedule=planned.schedule,
            shardings=planned.shardings,
            guard=planned.guard,
            mask=planned.mask,
        )
        self.pending = self.state = None
        self.running = collections.deque()  # (loss, tokens, operations) of steps not yet metered
        self.shapes = []
        self.latest, self.turns = {}, itertools.count()
        self.evaluated, self.tracing = -1, False
        self.workdir, self.best = workdir, best
        self.meter = Meter(peak(planned.mesh, config.log.get("peak", 0.0)), unit=task.unit)
        self.incidents = anomaly.Incidents(planned.guard, task, workdir, logger.say)

    def run(self, state: State, done: int) -> Fitted:
        """From a state after `done` steps to the last save, over as many rollbacks as it takes."""
        while True:
            try:
                return self.onward(state, done)
            except anomaly.Void as void:
                with self.dog.off():
                    state, done = self.back(void)

    def back(self, void) -> tuple[State, int]:
        """Where the run goes on behind a bad batch; Anomaly where it does not."""
        self.saver.poll(wait=True)
        held = self.incidents.settle(void, self.state, self.saver)
        self.evaluated, self.state = -1, None
        self.running.clear()
        self.logger.reopen()
        state, done = start.begin(self.config, self.task, self.plan, self.saver, self.logger.say)
        return self.incidents.past(state, held, done), done

    def onward(self, state: State, done: int) -> Fitted:
        """From a state to the last save; Void where a bad step ends that."""
        config = self.config
        if done:
            self.saver.saved = done
        self.state = state
        self.best.begin(done)
        self.incidents.begin(jax.device_get(state.guard))
        fixed = shard.laid(self.task.frozen, self.plan.mesh, self.task.rules)
        stopped = False
        pages.trim()
        try:
            if (config.eval.get("first", False) and done == 0) or undone.evaluation(
                config, self.workdir, self.task.evaluators, self.best, done
            ):
                self.evaluate(state, done)
            while not self.ended(done) and not self.stopping.due(next(self.turns)):
                state, done = self.advance(state, fixed, done), done + 1
                self.after(state, done)
            stopped = not self.ended(done)
            self.report()
            if not stopped and self.evaluated != done:
                self.evaluate(state, done)
        except Stopped:
            if not self.stopping.holds:
                raise
            stopped = True
            self.report()
        finally:
            self.trace(-1)
        with self.dog.off():
            self.save(state, done, wait=True)
        if stopped:
            self.logger.say(f"stopped after step {done}; start again to go on")
        return Fitted(dict(self.latest), state, stopped, self.plan)

    def ended(self, done: int) -> bool:
        """Whether the run has all its steps, or more of them would bring nothing better."""
        return done >= self.config.steps or self.best.over

    def advance(self, state, frozen, done: int) -> State:
        """Dispatches step `done`, then reads what the one before it said."""
        self.trace(done)
        rows = self.rows(state, done)
        shapes = {name: x.shape for name, x in rows.items()}
        compiles = shapes not in self.shapes
        if compiles and self.shapes:
            self.logger.say(f"step {done}: the batch has another shape, the step is compiled anew")
        self.shapes += [shapes] * compiles
        batch = shard.place(rows, self.plan.mesh)
        with self.dog.off() if compiles else contextlib.nullcontext():
            state, metrics = self.step(state, frozen, batch)
        if compiles:
            pages.trim()
        self.state = state
        flops = self.task.flops(batch) if self.task.flops else 0.0
        self.running.append((metrics["loss"], _tokens(batch), flops))
        self.stopping.hold()
        self.report()
        self.saver.poll()
        self.pending = done + 1, metrics, compiles
        self.dog.beat()
        return state

    def rows(self, state, done: int) -> dict:
        """The batch of a step."""
        with self.keeping(state, done, "the data", (ValueError, OSError)):
            return self.task.batches(self.incidents.place(done))

    @contextlib.contextmanager
    def keeping(self, state, done: int, what: str, errors=Exception):
        """Where the work in here fails, what was learned is saved first."""
        try:
            yield
        except errors:
            if done and jax.process_count() == 1:
                self.report()
                with self.dog.off():
                    self.save(state, done, wait=True)
                self.logger.say(f"{what} failed; step {done} is saved")
            raise

    def report(self):
        """Reads and logs the last dispatched step, if nobody has and it is due.

        Void if a step was bad and the policy is not to go on: `self.state` is the one before it.
        """
        if self.pending is None:
            return
        (step, metrics, compiled), self.pending = self.pending, None
        jax.block_until_ready(metrics)  # the host is one step ahead, not many
        while self.running and self.running[0][0].is_ready():  # the next one, too, if it is done
            self.meter.add(*self.running.popleft()[1:])
        if step % self.config.log.get("every", 1) and step != self.config.steps and not compiled:
            return
        values = fetch(metrics)
        self.dog.beat(read=True)
        rates = self.meter.read()
        values.update(self.incidents.read(values.pop("guard")))
        values = {name: float(x) for name, x in values.items()}
        values.update({} if compiled else rates)
        self.logger.metrics(step, values)
        self.latest.update(values)

    def after(self, state, done: int):
        """Evaluation and saving, when they are due."""
        evaluate, save = self.config.eval.get("every", 0), self.config.checkpoint.get("every", 0)
        if save and done % save == 0:
            self.report()
        if evaluate and done % evaluate == 0:
            self.report()
            self.evaluate(state, done)
        if save and done % save == 0:
            with self.meter.paused(), self.dog.off():
                self.save(state, done)

    def save(self, state, done: int, wait: bool = False):
        """Saves a state that is good."""
        if self.saver.saved != done:
            self.incidents.check(state, done)
        self.saver.save(state, done, wait=wait)

    def evaluate(self, state, done: int):
        """Runs every evaluator on the averaged parameters, where they are kept."""
        variables = state.variables()
        with (
            self.meter.paused(), self.dog.off(), self.stopping.interruptible(),
            self.keeping(state, done, "the evaluation"),
        ):  # fmt: skip
            for name, run in self.task.evaluators.items():
                values = {f"{name}/{key}": float(x) for key, x in run(variables).items()}
                self.latest.update(values)
                self.logger.metrics(done, values)
        if done:
            with self.meter.paused(), self.dog.off():
                if not self.best.gives(self.latest):
                    self.save(state, done, wait=True)
                self.best.see(state, done, self.latest)
        self.evaluated = done

    def trace(self, done: int):
        """Opens and closes the profiler around the steps that config.log.profile names."""
        window = self.config.log.get("profile", ())
        inside = bool(window) and window[0] <= done < window[1]
        if inside and not self.tracing:
            jax.profiler.start_trace(str(self.workdir / "profile"))
        elif self.tracing and not inside:
            if self.pending is not None:
                jax.block_until_ready(self.pending[1])
            jax.profiler.stop_trace()
        self.tracing = inside


def _tokens(batch) -> int:
    """Tokens in a global batch, padding included; rows where there are no tokens."""
    x = batch.get("tokens", next(iter(batch.values())))
    return int(np.prod(x.shape)) if x.dtype.kind in "iu" else x.shape[0]
