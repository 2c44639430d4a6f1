"""DPO and its kin: where it starts, what padding and micro-batches change, references, mistakes."""

import jax
import numpy as np
import pytest

from tests.train import aligned
from train import preference

ROWS = [
    {"prompt": f"{word} {n}", "chosen": f"good {n}", "rejected": "bad"}
    for n in range(4)
    for word in aligned.WORDS
]


def opened(folder, **changes):
    made = aligned.config("preference", folder, ROWS, **changes)
    config, o, tokenizer, stream, held = preference._open(made)
    frozen = preference.reference(config, o)
    return preference.make_task(config, o, tokenizer, stream, held, frozen), stream


@pytest.fixture(scope="module")
def dpo(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("dpo"))


def test_it_starts_at_ln_2_with_the_reference_s_own_policy(dpo):
    task, stream = dpo
    metrics, found = aligned.gradients(task, stream.batch(0))
    assert metrics["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert metrics["margin"] == 0 and max(np.abs(x).max() for x in found.values()) > 1e-4


def test_accumulating_and_padding_change_nothing(dpo):
    task, stream = dpo
    batch = stream.batch(0)
    whole = aligned.gradients(task, batch, scale=3.0)
    assert abs(whole[0]["margin"]) > 1e-4
    assert aligned.same(whole, aligned.gradients(task, batch, micro=2, scale=3.0))
    wide = {name: np.pad(x, ((0, 0), (0, 0), (0, 3))) for name, x in batch.items()}
    assert aligned.same(whole, aligned.gradients(task, wide, scale=3.0))


def test_the_reference_has_no_gradient_and_prompts_do_not_count(dpo):
    task, stream = dpo
    batch = stream.batch(0)
    params, _ = task.init(jax.random.key(1))
    slope = jax.grad(
        lambda frozen: task.loss(params, frozen, {}, batch, None, task.totals(batch))[0]
    )
    assert not any(np.any(x) for x in jax.tree.leaves(slope(task.frozen)))
    first = batch["weights"].argmax(-1)
    assert (first > 1).all() and not batch["weights"][..., 0].any()


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"preference.loss": "ipo", "preference.mean": "tokens"}, 25.0),
        ({"preference.loss": "cdpo", "preference.wrong": 0.1}, np.log(2)),
        ({"preference.loss": "kto", "batch": 16, "micro": 2}, 0.5),
    ],
)
def test_each_starts_where_it_should_and_learns(tmp_path, changes, start):
    made = aligned.config("preference", tmp_path, ROWS, steps=30, **changes)
    fitted = preference.run(made, tmp_path / "run")
    from train.core import log

    losses = [row["loss"] for row in log.read(tmp_path / "run") if "loss" in row]
    assert losses[0] == pytest.approx(start, rel=1e-4)
    assert np.mean(losses[-3:]) < 0.95 * start
    assert fitted.metrics["valid/reward_chosen"] > fitted.metrics["valid/reward_rejected"]


def test_with_adapters_the_reference_is_the_frozen_model(tmp_path):
    from train import sft

    first = aligned.config("sft", tmp_path, [
        {"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS
    ])  # fmt: skip
    sft.run(first, tmp_path / "base")
    made = aligned.config(
        "preference", tmp_path, ROWS, steps=3, **{"lora.rank": 2, "lora.whole": ""}
    )
    made.unlock()
    made.init.checkpoint, made.data.tokenizer = str(tmp_path / "base"), "init"
    fitted = preference.run(made, tmp_path / "run")
    assert set(fitted.state.params) == {"lora"}
    assert fitted.metrics["loss"] < np.log(2)
    other = aligned.config("preference", tmp_path, ROWS, **{"model.vocab": 300})
    other.unlock()
    other.reference = {"checkpoint": str(tmp_path / "base")}
    with pytest.raises(ValueError, match="a vocabulary of 300.*288"):
        preference.run(other, tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preference.loss": "dop"}, "did you mean .dpo"),
        ({"preference.beat": 0.1}, "did you mean .beta"),
        ({"preference.beta": 0.0}, "beta above 0"),
        ({"preference.loss": "cdpo", "preference.wrong": 0.6}, "expected 0 <= x < 0.5"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changes, words):
    made = aligned.config("preference", tmp_path, ROWS, **changes)
    with pytest.raises(ValueError, match=words):
        preference.run(made, tmp_path / "run")
