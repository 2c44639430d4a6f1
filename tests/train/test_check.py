"""`--check` counts all that a run will hold, reads every loop's batch, and sees what would end a run."""

import jax
import numpy as np
import pytest

from tests.train import aligned, toy
from tests.train.test_launch import call
from train import preference, reward
from train.core import check, launch
from train.core import config as configs
from train.core.plan import plan

ROWS = [{"prompt": f"what is {i}?", "chosen": "good", "rejected": "bad"} for i in range(12)]


def frozen_task(c, rows=64):
    table = np.zeros((rows, toy.D), np.float32)
    return toy.task(c, frozen={"embed": {"tokens": {"embedding": table}}})


def test_what_nobody_trains_is_counted():
    c = toy.config(**{"mesh.fsdp": 2})
    without, held = plan(c, toy.task(c)).bytes(), plan(c, frozen_task(c)).bytes()
    assert held["frozen"] == 64 * toy.D * 4 // 2 and without["frozen"] == 0
    assert {**held, "frozen": 0} == without


def test_a_frozen_model_that_does_not_fit_is_refused(monkeypatch):
    c = toy.config()
    need = sum(plan(c, toy.task(c)).bytes().values()) + 4096
    monkeypatch.setattr(check, "memory_limit", lambda: need)
    check.weigh(c, plan(c, toy.task(c)), print)
    with pytest.raises(ValueError, match="this run needs"):
        check.weigh(c, plan(c, frozen_task(c, rows=1 << 20)), print)


def test_what_a_host_holds_already_is_not_asked_for_again(monkeypatch):
    monkeypatch.setattr(check, "memory_limit", lambda: 1 << 20)
    table = jax.device_put(np.zeros((64, toy.D), np.float32), jax.devices()[0])
    one = plan(toy.config(), toy.task(frozen=({"embed": {"tokens": {"embedding": table}}},)))
    held = table.nbytes // jax.local_device_count()
    assert check.room(one) == (1 << 20) + held
    assert check.room(plan(toy.config(), frozen_task(toy.config()))) == 1 << 20


@pytest.mark.parametrize("loop", [reward, preference])
def test_a_batch_of_pairs_is_shown(loop, tmp_path):
    name = loop.__name__.rpartition(".")[2]
    made = aligned.config(name, tmp_path, ROWS, "score" if loop is reward else "lm")
    planned, batch = loop.check(made)
    assert batch["tokens"].ndim == 3
    said = []
    check.report(made, planned, batch, tmp_path, said.append)
    assert any("what is" in line for line in said if "first row begins" in line)


def test_the_best_checkpoint_has_its_place_on_the_disk(tmp_path):
    c = configs.complete(toy.config())
    said = []
    for metric in ("", "heldout/loss"):
        c.best.metric = metric
        check._disk(c, plan(c, toy.task(c)), tmp_path, said.append)
    assert ["4 at most" in said[0], "5 at most" in said[1]] == [True, True], said


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--config.init.checkpoint={}/nowhere", "holds no checkpoint"),
        ("--config.init.reference={}/nowhere", "there is no"),
        ("--config.best.metric=heldout/los", 'did you mean "heldout/loss"?'),
    ],
)
def test_what_would_end_a_run_at_once_ends_the_check(given, words, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "prepare", lambda config: None)
    status, _, err = call(
        capsys, "--config=configs/gpt2.py:tiny", "--check", "--config.mesh.data=1",
        "--config.data.tokenizer=byte", given.format(tmp_path),
    )  # fmt: skip
    assert (status, words in err) == (2, True), err
