"""The two sides of `bench shakespeare`: the project's own trainer, and a torch process on its batches.

Each side's `run(lr, seed, steps)` trains and scores one model in a process of its own and returns a
dict: parameters, version, steps, tokens, seconds, times (of single steps), curve, and bits_per_character.
Seconds are those of training, compilation included, evaluations and saving not.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax

from models.build import build, example
from models.options import Options
from scripts.bench import material
from train.core import config as configs
from train.core import log, optim, provenance
from train.core.arguments import override
from train.data import text

BITS = "bits_per_character"


def load(path: str, overrides=()):
    """The config at `path` with `--config.x=y` arguments applied."""
    config = configs.load(path)
    override(config, overrides)
    return configs.complete(config).lock()


class Shared:
    """What both sides of one benchmark have in common: the config, the data, the folder."""

    def __init__(self, path: str, overrides, out: Path, points: int):
        self.path, self.overrides, self.out, self.points = path, list(overrides), out, points
        self.config = load(path, self.overrides)
        if self.config.phases:
            raise ValueError(
                "the bench needs a config without phases: steps follow from the minutes"
            )
        self.out.mkdir(parents=True, exist_ok=True)
        self.options = Options.of(self.config.model.to_dict())
        self.tokenizer = text.load_tokenizer(self.config)
        self.heldout = text.heldout(
            self.config, self.tokenizer, self.config.length, self.config.batch
        )
        material.write_batches(self.out / "heldout", self.heldout["batches"])

    def parameters(self) -> int:
        """Of our model, counted without building it."""
        model = build(self.options)
        shapes = jax.eval_shape(model.init, jax.random.key(0), example(self.options))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))

    def stream(self, config, seed: int, steps: int) -> Path:
        """The folder with the first `steps` batches of a seed, written anew if it has fewer."""
        folder = self.out / f"stream-{seed}"
        if material.steps_in(folder) < steps:
            stream = text.open_stream(config, self.tokenizer)
            material.write_batches(folder, (stream.batch(step) for step in range(steps)))
        return folder

    def recipe(self, lr: float, seed: int, steps: int) -> list:
        """The command-line arguments of one run; warm-up keeps its share of the steps."""
        warmup = round(self.config.optim.warmup * steps / self.config.steps)
        return [
            *self.overrides,
            f"--config.seed={seed}",
            f"--config.steps={steps}",
            f"--config.optim.lr={lr!r}",
            f"--config.optim.warmup={warmup}",
            "--config.optim.decay_steps=0",
        ]

    def stops(self, steps: int) -> list:
        """The steps after which the curves have a point; the last one is the end."""
        return [steps * (i + 1) // self.points for i in range(self.points)]


class Ours:
    """`python -m train` with a config, a learning rate, a seed and a number of steps."""

    name, score = "formulary", BITS

    def __init__(self, shared: Shared):
        self.shared = shared

    def command(self, workdir: Path, lr: float, seed: int, steps: int, calibrate: bool) -> list:
        """The command line of a run."""
        shared = self.shared
        every = 0 if calibrate else shared.stops(steps)[0]
        return [
            sys.executable, "-m", "train", f"--config={shared.path}", f"--workdir={workdir}",
            *shared.recipe(lr, seed, steps), f"--config.eval.every={every}",
            f"--config.eval.batches={1 if calibrate else 0}", "--config.eval.first=false",
            f"--config.log.every={1 if calibrate else 10}", "--config.checkpoint.every=0",
            "--config.log.tensorboard=false", "--config.log.wandb=false",
        ]  # fmt: skip

    def read(self, workdir: Path) -> dict:
        """What a finished run gave."""
        return read_run(workdir, self.shared.config.batch * self.shared.config.length)

    def run(self, lr: float, seed: int, steps: int, calibrate: bool = False) -> dict:
        shared = self.shared
        workdir = shared.out / ("calibrate" if calibrate else f"ours-{lr:g}-{seed}-{steps}")
        shutil.rmtree(workdir, ignore_errors=True)
        process(
            self.command(workdir, lr, seed, steps, calibrate), shared.out / f"{workdir.name}.log"
        )
        result = {"parameters": shared.parameters(), "version": f"jax {jax.__version__}"}
        return {**result, **self.read(workdir)}


def read_run(workdir: Path, tokens: int, score: str = BITS) -> dict:
    """A finished run of ours as a dict (see the module's docstring), with `tokens` to a step and the
    curve of what the log calls `score` (its name's end).

    The first logged step counts from the writing of run.json, which comes before the state is built
    and the step compiled, and one that was compiled again from the line before it; every other one is
    the trainer's own `step_seconds`, which leaves evaluations and saving out. ValueError if the run has
    no such score.
    """
    before = (workdir / provenance.NAME).stat().st_mtime
    seconds, done, times, curve = 0.0, 0, [], []
    for row in log.read(workdir):
        found = [value for name, value in row.items() if name.endswith(score)]
        if "loss" in row:
            fresh = int(row["step"]) - done
            each = row.get("step_seconds", (row["time"] - before) / max(fresh, 1))
            seconds, done = seconds + each * fresh, int(row["step"])
            times += [each] * fresh
        elif found:
            curve.append([seconds, found[0]])
        before = row["time"]
    if not curve:
        raise ValueError(f"{workdir} has no held-out {score}; does the config name a part for it?")
    return {
        "steps": done,
        "tokens": done * tokens,
        "seconds": seconds,
        "times": times,
        "curve": curve,
        score: curve[-1][1],
    }


class Torch:
    """The torch peer in one setting: stock, shim, bf16 or compiled."""

    worker, score = "scripts.bench.nanogpt", BITS

    def __init__(self, shared: Shared, setting: str, python: str):
        self.shared, self.setting, self.python = shared, setting, python
        self.name = f"torch {setting}"
        self.library = None if setting == "stock" else material.shim(shared.out)

    def job(self, config) -> dict:
        """What the worker is told beside the recipe."""
        shared = self.shared
        return {"heldout": str(shared.out / "heldout"), "characters": shared.heldout["characters"]}

    def run(self, lr: float, seed: int, steps: int, calibrate: bool = False) -> dict:
        shared = self.shared
        config = load(shared.path, shared.recipe(lr, seed, steps))
        schedule = optim.schedule(config.optim, steps)
        name = f"{self.setting}-calibrate" if calibrate else f"{self.setting}-{lr:g}-{seed}-{steps}"
        job = material.job(
            shared.out / "jobs" / f"{name}.json", shared.options.plain(), config.optim,
            [float(schedule(step)) for step in range(steps)],
            data=str(shared.stream(config, seed, steps)), seed=seed,
            points=[] if calibrate else shared.stops(steps)[:-1],
            evaluate=not calibrate, autocast=self.setting in ("bf16", "compiled"),
            compile=self.setting == "compiled", fused=self.setting != "stock",
            **self.job(config),
        )  # fmt: skip
        preload = {"LD_PRELOAD": str(self.library.resolve())} if self.library else {}
        preload["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
        command = [self.python, "-m", self.worker, str(job)]
        output = process(command, job.with_suffix(".log"), preload)
        return json.loads(output.splitlines()[-1])


def process(command, path: Path, environment=()) -> str:
    """Runs a command, its output in the file `path`, and returns the output.

    ValueError with the file's name and its last lines if the command fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **dict(environment)},
        )  # fmt: skip
    output = path.read_text()
    if done.returncode:
        last = [line[:300] for line in output.splitlines() if line.strip()][-2:]
        raise ValueError("\n".join([f"{path} (exit status {done.returncode}) ends with:", *last]))
    return output
