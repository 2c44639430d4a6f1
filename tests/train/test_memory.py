"""What a run needs of memory is said before it is taken, and too much is refused."""

import resource

import jax
import pytest

from tests.train import toy
from tests.train.test_launch import call
from train import vision
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
    about, exact = check.guess(c, planned), check.temporaries(c, planned, rows)
    assert 0.1 * exact < about < 2 * exact
    exact -= planned.bytes()["gradients"]
    least = 0.1 if remat == "full" else 0.4  # the block that is made again is not kept
    assert least * exact < check.activations(c, planned, rows) < 1.5 * exact


def test_activations_of_windows_and_convolutions_are_traced():
    for name, model in (("swin", {"depths": (1, 1), "layers": 2}), ("resnet", {})):
        c = config.complete(config.load(f"configs/{name}.py:tiny"))
        c.batch, c.mesh.data = 16, 1
        c.model.update(model)  # fewer blocks compile faster
        planned, rows = vision.check(c)
        exact = check.temporaries(c, planned, rows) - planned.bytes()["gradients"]
        assert check.guess(c, planned) == 0
        assert 0.4 * exact < check.activations(c, planned, rows) < 1.5 * exact, name


def test_what_is_kept_is_of_one_micro_batch_and_one_device_and_no_parameter():
    def sizes(**changes):
        c = config.load("configs/gpt2.py:tiny")
        c.update(batch=16, length=32)
        c.model.update(width=32, heads=2, vocab=260, layers=2, dtype="bfloat16", context=32)
        c.data.tokenizer, c.mesh.data = "byte", 1
        for field, value in changes.items():
            c[field] = value
        planned, rows = build(c)
        return check.activations(c, planned, rows)

    whole = sizes()
    near = pytest.approx(whole / 2, rel=1e-3)  # dropout's keys are the same for all
    assert sizes(batch=8) == near and sizes(micro=2) == near
    four = sizes(mesh={"data": 2, "fsdp": 2, "tensor": 1})  # whose program is a little another
    assert four == pytest.approx(whole / 4, rel=0.1)


def test_check_counts_activations_of_models_that_it_does_not_compile(monkeypatch, tmp_path):
    monkeypatch.setattr(check, "COMPILE_BYTES", 0)
    monkeypatch.setattr(check, "temporaries", lambda *_: pytest.fail("it is compiled"))
    c = config.complete(config.load("configs/gpt2.py:tiny"))
    c.update(batch=8, length=64)
    c.data.tokenizer, c.mesh.data = "byte", 1
    planned, rows = build(c)
    said, kept = [], check.activations(c, planned, rows)
    need = sum(planned.bytes().values()) + kept
    monkeypatch.setattr(check, "memory_limit", lambda: need - 1)
    assert not check.report(c, planned, rows, tmp_path, said.append)
    assert f"  activations (traced)    {check.human(kept):>12}" in said
    monkeypatch.setattr(check, "memory_limit", lambda: need)
    assert check.report(c, planned, rows, tmp_path, lambda line: None)
