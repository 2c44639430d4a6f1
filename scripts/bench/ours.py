"""Our worker of the benchmarks: the trainer's own step on one batch, and the machine's matmul peak.

    python -m scripts.bench.ours JOB.json

The step is that of `python -m train`: a config, `train.lm.make_task`, the plan's optimiser, guard and
layout, `make_step`, compiled ahead so that tracing and compiling are timed apart.
"""

import dataclasses
import re
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from models import generate as generation
from models import interop
from models.build import build as build_model
from models.build import count, example
from models.options import Options
from models.settings import Settings
from models.step import turned
from scripts.bench import pictures, plain, rounds, texts
from scripts.bench.serve import matmul_rate, serve, timed
from train import lm
from train.core import config as configs
from train.core import pages, shard
from train.core.meter import matmul_parameters
from train.core.plan import plan
from train.core.state import make_step

LOOPS = {
    **dict.fromkeys(pictures.KINDS, "vision"), "encoder": "mlm", "encdec": "seq2seq",
}  # fmt: skip


def rows(vocab: int, batch: int, length: int, step: int) -> dict:
    """A batch of random tokens [B,T] and the tokens after them, the same on every side."""
    rng = np.random.default_rng(step)
    text = rng.integers(0, vocab, (batch, length + 1), dtype=np.int32)
    ones = np.ones((batch, length), np.float32)
    return {"tokens": text[:, :-1], "targets": text[:, 1:], "weights": ones}


def recipe(job: dict):
    """The config of a benchmark's run: the model's options and AdamW as the job has them."""
    names = ("b1", "b2", "eps", "weight_decay", "clip", "lr")
    config = ConfigDict(
        dict(
            loop=LOOPS.get(job["model"]["kind"], "lm"),
            seed=0,
            steps=1000,
            batch=job["batch"],
            length=job["length"],
            model=Options.of(job["model"]).plain(),
            optim=dict(name="adamw", schedule="constant", **{n: job[n] for n in names}),
            log=dict(every=1, tensorboard=False),
        )  # fmt: skip
    )
    return configs.complete(config).lock()


def task(config, job: dict):
    """The model's own task on random tokens or images; there is nothing held out."""
    o = Options.of(config.model.to_dict())
    for other in (pictures, texts):
        if o.kind in other.KINDS:
            return other.task(config, o, job)
    batch = lambda step: rows(o.vocab, job["batch"], job["length"], step)
    stream = types.SimpleNamespace(batch=batch, fingerprint={})
    made = lm.make_task(config, o, None, stream, None)
    return dataclasses.replace(made, loss=plain.loss(o)) if job.get("plain") else made


class Train:
    """The state, the compiled step and where the batches come from."""

    def __init__(self, job: dict):
        self.job, self.config = job, recipe(job)
        self.task = task(self.config, job)
        self.plan = plan(self.config, self.task)
        jax.set_mesh(self.plan.mesh)
        began = time.perf_counter()
        self.state = jax.jit(self.plan.fresh, out_shardings=self.plan.shardings)()
        jax.block_until_ready(self.state)
        self.init_seconds = time.perf_counter() - began
        step = make_step(
            self.task, self.plan.tx, seed=self.config.seed, micro=self.config.micro,
            ema=self.config.optim.ema, schedule=self.plan.schedule,
            shardings=self.plan.shardings, guard=self.plan.guard,
        )  # fmt: skip
        self.done, began = 0, time.perf_counter()
        lowered = step.lower(self.state, self.task.frozen, self.batch())
        self.trace_seconds, began = time.perf_counter() - began, time.perf_counter()
        self.step = lowered.compile()
        self.compile_seconds = time.perf_counter() - began
        pages.trim()

    def batch(self):
        return shard.place(self.task.batches(self.done), self.plan.mesh)

    def advance(self) -> dict:
        """One step; the metrics are not waited for."""
        self.state, metrics = self.step(self.state, self.task.frozen, self.batch())
        self.done += 1
        return metrics

    def steps(self, steps: int) -> dict:
        """Steps as the trainer makes them, the host one ahead; the mean seconds of one."""
        row, before = {}, None
        with timed(row):
            for _ in range(steps):
                metrics = self.advance()
                jax.block_until_ready(before)
                before = metrics
            jax.block_until_ready((self.state, metrics))
        row.update(cpu=row["cpu"] / steps, wall=row["wall"] / steps)
        return {**row, "loss": float(metrics["loss"])}

    def info(self) -> dict:
        began = time.perf_counter()
        loss = float(self.advance()["loss"])
        memory = self.step.memory_analysis()
        return {
            "version": f"jax {jax.__version__}",
            "parameters": count(Options.of(self.job["model"])),
            "flops": float(self.task.flops(self.batch())),
            "init_seconds": self.init_seconds,
            "trace_seconds": self.trace_seconds,
            "compile_seconds": self.compile_seconds,
            "first_step_seconds": time.perf_counter() - began,
            "first_loss": loss,
            "operations": len(re.findall(r"^  (?:ROOT )?%", self.step.as_text(), re.M)),
            "counted_flops": (self.step.cost_analysis() or {}).get("flops", 0.0),
            "temporaries": memory.temp_size_in_bytes,
            "arguments": memory.argument_size_in_bytes,
        }


def fresh(o: Options) -> tuple:
    """(model, variables) with its layers apart."""
    model = build_model(o)
    return generation.apart(model, jax.jit(model.init)(jax.random.key(0), example(o)))


def export(job: dict):
    """Fresh weights as the reference's folder `job["weights"]`."""
    model, variables = fresh(Options.of(job["model"]))
    interop.export(job["weights"], model.o, jax.device_get(variables["params"]))


class Decode:
    """The public way to generate, with kernels turned in place of their own form: from the weights that the
    peers read, or from fresh ones."""

    def __init__(self, job: dict):
        o = Options.of(job["model"])
        if "weights" in job:
            variables = jax.device_put(interop.load(job["weights"]).variables)
            self.model = build_model(o.replace(scan=False))
        else:
            self.model, variables = fresh(o)
        self.variables = turned(self.model, variables, instead=True)
        read = matmul_parameters(o) * 4
        self.info, self.mode = {"version": f"jax {jax.__version__}", "weight_bytes": read}, None
        del variables
        pages.trim()

    def generate(self, rows: int, beams: int, prompt: int, new: int) -> dict:
        """One call; its new tokens beside its times. What was compiled for another mode is dropped first."""
        if self.mode not in (None, (rows, beams)):
            jax.clear_caches()
            pages.trim()
        self.mode, tokens = (rows, beams), prompts(self.model.o.vocab, rows, prompt)
        settings = Settings(max_new_tokens=new, num_beams=beams)
        row = {}
        with timed(row):
            out = generation.generate(self.model, self.variables, tokens, None, settings)
            made = np.asarray(out.sequences)
        return {**row, "tokens": made[:, -new:].tolist()}


def prompts(vocab: int, count: int, length: int):
    """Random prompts [count, length], the same on every side."""
    return np.random.default_rng(7).integers(0, vocab, (count, length), dtype=np.int32)


def bandwidth(size: int = 2**27, times: int = 8) -> dict:
    """Bytes a second of summing `size` floats and of scaling them in place (read and written)."""
    x = jnp.ones((size,), jnp.float32)
    read = jax.jit(jnp.sum)
    scale = jax.jit(lambda x: x * 1.0001, donate_argnums=0)
    best = {"read": 0.0, "scale": 0.0}
    for _ in range(times):
        start = time.perf_counter()
        read(x).block_until_ready()
        best["read"] = max(best["read"], 4 * size / (time.perf_counter() - start))
        start = time.perf_counter()
        x = scale(x).block_until_ready()
        best["scale"] = max(best["scale"], 8 * size / (time.perf_counter() - start))
    return best


def matmul(dtype: str) -> dict:
    """The rate of XLA's matrix product in FLOP/s."""

    def multiply(size):
        x = jnp.ones((size, size), dtype)
        product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
        return lambda: product(x, x).block_until_ready()

    row = {}
    with timed(row):
        rate = matmul_rate(multiply)
    return {**row, "rate": rate}


def build(job: dict):
    """(info, handlers) of a job; see `scripts.bench.serve`."""
    if job["kind"] == "matmul":
        return {"version": f"jax {jax.__version__}"}, {"matmul": matmul}
    if job["kind"] == "export":
        export(job)
        return {}, {}
    if job["kind"] == "decode":
        decode = Decode(job)
        return decode.info, {"generate": decode.generate, "bandwidth": bandwidth}
    if job["kind"] == "rollout":
        side = rounds.Ours(job)
        return side.info, {"round": side.round, "given": side.given}
    train = Train(job)
    return train.info(), {"steps": train.steps}


if __name__ == "__main__":
    serve(sys.argv[1], build)
