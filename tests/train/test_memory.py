"""What a run needs of memory is said before it is taken, and too much is refused."""

import resource

import jax
import pytest

from tests.train import toy
from tests.train.test_launch import call
from train.core import check, config, launch
from train.core.fit import fit
from train.core.plan import plan
from train.lm import check as build


def test_a_model_that_no_machine_holds_is_refused_before_it_is_allocated(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(launch, "prepare", lambda config: None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, out, err = call(
        capsys, "--config=configs/gpt2.py:tiny", f"--workdir={tmp_path}", "--config.mesh.data=1",
        "--config.data.tokenizer=byte", "--config.model.width=400000", "--config.model.heads=8",
        "--config.steps=20",
    )  # fmt: skip
    lines = err.splitlines()
    assert status == 2 and len(out.splitlines()) == 1, err
    assert [line for line in lines if line.startswith("memory: ") and "available" in line]
    refusal = lines[[n for n, line in enumerate(lines) if line.startswith("error: ")][0] :]
    assert "error: this run needs" in refusal[0] and "TiB of memory" in refusal[0]
    assert "--config.allow_memory=true" in refusal[1] and len(refusal) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


def test_the_same_run_goes_on_when_it_is_told_to(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(check, "memory_limit", lambda: 1000)
    c = toy.config(steps=1)
    with pytest.raises(ValueError, match="this run needs .* KiB of memory before"):
        fit(c, toy.task(c), tmp_path)
    c.allow_memory = True
    assert int(fit(c, toy.task(c), tmp_path).state.step) == 1
    assert "may not be enough" in capfd.readouterr().err


def test_an_unknown_size_refuses_nothing(monkeypatch):
    monkeypatch.setattr(check, "memory_limit", lambda: 0)
    said, c = [], toy.config(**{"mesh.fsdp": 2})
    check.weigh(c, plan(c, toy.task(c)), said.append)
    assert len(said) == 1 and "per device" in said[0] and "does not say" in said[0]


def test_processes_on_one_machine_share_it(monkeypatch):
    monkeypatch.setattr(check, "host_memory", lambda: 64 << 30)
    alone = check.memory_limit()
    monkeypatch.setenv(launch.DIST["local"], "2")
    assert alone == (64 << 30) // jax.local_device_count() and check.memory_limit() == alone // 2


@pytest.mark.parametrize("remat", ["none", "full", "auto"])
def test_the_estimate_of_activations_is_of_the_compiled_step_s_order(remat):
    c = config.load("configs/gpt2.py:tiny")
    c.update(batch=16, length=64)
    c.model.update(width=64, vocab=260, layers=4, remat=remat)
    c.data.tokenizer, c.mesh.data = "byte", 1
    planned, rows = build(c)
    about, exact = check.activations(c, planned), check.temporaries(c, planned, rows)
    assert 0.1 * exact < about < 2 * exact
