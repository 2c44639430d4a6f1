"""The step adds up, the loop keeps the device busy, and what it says is what happened."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train import toy
from train.core import fit as fitting
from train.core.fit import fit
from train.core.state import Task, fresh, make_step


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def one_step(task, micro, seed=0, tx=None):
    tx = tx or optax.sgd(1.0)
    state = jax.jit(lambda: fresh(task, tx, 0, False))()
    return make_step(task, tx, seed=seed, micro=micro)(state, (), toy.batch(0, 0))


@pytest.mark.parametrize("micro", [2, 4, 8])
def test_accumulated_is_the_large_batch_with_ragged_weights(micro):
    task = toy.task()
    weights = toy.batch(0, 0)["weights"].sum(1)
    assert weights.max() > 2 * weights.min(), "rows must differ for the test to mean something"
    (whole, one), (cut, many) = one_step(task, 1), one_step(task, micro)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(cut.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
    for name in one:
        np.testing.assert_allclose(one[name], many[name], rtol=1e-6)


def test_several_terms_with_different_totals_add_up():
    def loss(params, frozen, extra, batch, rng, totals):
        x = toy.logits(params, batch["tokens"])
        a = (x[..., 0] * batch["weights"]).sum()
        b = (x[:, 0, 1] ** 2 * batch["pairs"]).sum()
        value = a / totals["a"] + 0.5 * b / totals["b"]
        return value, (extra, {"a": (a, totals["a"] * 0 + batch["weights"].sum())})

    totals = lambda batch: {"a": batch["weights"].sum(), "b": batch["pairs"].sum()}
    task = toy.task(loss=loss, totals=totals)
    tx, batch = optax.sgd(1.0), toy.batch(0, 0)
    batch["pairs"] = np.array([1, 0, 0, 0, 0, 0, 1, 1], np.float32)
    ends = []
    for micro in (1, 4):
        state = jax.jit(lambda: fresh(task, tx, 0, False))()
        ends.append(make_step(task, tx, seed=None, micro=micro)(state, (), batch)[0].params)
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-6)


def test_extra_is_carried_through_micro_batches():
    def loss(params, frozen, extra, batch, rng, totals):
        value = toy.logits(params, batch["tokens"]).sum() / totals["n"]
        return value, ({"seen": extra["seen"] + batch["tokens"].shape[0]}, {})

    task = toy.task(
        init=lambda key: (toy.init(key)[0], {"seen": jnp.zeros((), jnp.int32)}),
        loss=loss,
        totals=lambda batch: {"n": 32.0},
    )
    for micro in (1, 4):
        assert int(one_step(task, micro)[0].extra["seen"]) == 8


def test_frozen_parameters_are_an_argument_and_stay():
    def loss(params, frozen, extra, batch, rng, totals):
        gap = toy.logits(params, batch["tokens"]) - toy.logits(frozen, batch["tokens"])
        return (gap**2).mean(), (extra, {})

    frozen = toy.init(jax.random.key(5))[0]
    before = toy.digest(frozen)
    task = toy.task(loss=loss)
    tx = optax.sgd(0.1)
    state = jax.jit(lambda: fresh(task, tx, 0, False))()
    step = make_step(task, tx, seed=None)
    values = []
    for _ in range(3):
        state, metrics = step(state, frozen, toy.batch(0, 0))
        values.append(float(metrics["loss"]))
    assert values[2] < values[0]
    assert toy.digest(frozen) == before


def test_dropout_without_a_seed_is_refused():
    with pytest.raises(ValueError, match="dropout"):
        make_step(toy.task(dropout=0.5), optax.sgd(1.0), seed=None)


def test_dropout_differs_by_step_and_repeats_by_seed():
    task = toy.task(dropout=0.5)
    a, b, c = (float(one_step(task, 1, seed)[1]["loss"]) for seed in (0, 0, 1))
    assert a == b != c
    tx = optax.set_to_zero()
    state = jax.jit(lambda: fresh(task, tx, 0, False))()
    step = make_step(task, tx, seed=0)
    state, first = step(state, (), toy.batch(0, 0))
    state, second = step(state, (), toy.batch(0, 0))
    assert float(first["loss"]) != float(second["loss"])


def test_ema_follows_the_parameters():
    task, tx = toy.task(), optax.sgd(0.5)
    state = jax.jit(lambda: fresh(task, tx, 0, True))()
    before = jax.device_get(state.params)
    state, _ = make_step(task, tx, seed=0, ema=0.75)(state, (), toy.batch(0, 0))
    for a, p, e in zip(*map(jax.tree.leaves, (before, state.params, state.ema)), strict=True):
        np.testing.assert_allclose(e, 0.75 * a + 0.25 * p, rtol=1e-6, atol=1e-7)
        assert np.abs(np.asarray(p) - a).max() > 0
    assert state.variables()["params"] is state.ema
    assert state.variables(averaged=False)["params"] is state.params


def test_bfloat16_gradients_are_added_in_float32():
    def loss(params, frozen, extra, batch, rng, totals):
        return (params["w"] * batch["x"].astype(jnp.bfloat16)).sum(), (extra, {})

    task = Task(
        init=lambda key: ({"w": jnp.ones((), jnp.bfloat16)}, {}),
        loss=loss,
        totals=lambda batch: {},
        batches=None,
    )
    seen = {}

    def update(grads, state, params=None):
        seen.update(dtype=jax.tree.leaves(grads)[0].dtype)
        return jax.tree.map(jnp.zeros_like, grads), state

    tx = optax.GradientTransformation(lambda p: (), update)
    state = jax.jit(lambda: fresh(task, tx, 0, False))()
    x = np.array([256.0] + [1.0] * 7, np.float32)
    _, metrics = make_step(task, tx, seed=None, micro=8)(state, (), {"x": x})
    assert seen["dtype"] == jnp.float32
    assert float(metrics["gradient_norm"]) == 263.0  # in bfloat16 256 + 1 is 256


def test_the_loop_trains_logs_evaluates_and_saves(tmp_path):
    seen = []

    def evaluator(variables):
        seen.append(toy.digest(variables["params"]))
        return {"score": len(seen)}

    c = toy.config(**{"eval.every": 4, "eval.first": True, "checkpoint.every": 3, "steps": 10})
    task = toy.task(
        c,
        evaluators={"held": evaluator},
        batches=lambda step: toy.batch(0, 0),
        flops=lambda batch: 1e6,
    )
    fitted = fit(c, task, tmp_path)
    logged = rows(tmp_path)
    steps = [row["step"] for row in logged if "loss" in row]
    assert steps == list(range(1, 11))
    assert [row["step"] for row in logged if "held/score" in row] == [0, 4, 8, 10]
    losses = [row["loss"] for row in logged if "loss" in row]
    assert losses[-1] < losses[0] - 0.1
    assert len(set(seen)) == 4
    assert fitted.metrics["held/score"] == 4
    assert fitted.metrics["loss"] == losses[-1]
    assert logged[-2]["tokens_per_second"] > 0
    assert logged[-2]["mfu"] > 0
    assert {"gradient_norm", "learning_rate", "nll"} <= set(logged[1])
    assert not fitted.stopped
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["00000006", "00000009", "00000010"]
    assert (tmp_path / "run.json").exists()


def test_no_host_sync_and_one_step_behind(tmp_path, monkeypatch):
    events = []
    real_fetch, real_make = fitting.fetch, fitting.make_step

    def fetch(tree):
        events.append("fetch")
        return real_fetch(tree)

    def made(*args, **kwargs):
        step = real_make(*args, **kwargs)

        def dispatch(*given):
            events.append("dispatch")
            return step(*given)

        return dispatch

    monkeypatch.setattr(fitting, "fetch", fetch)
    monkeypatch.setattr(fitting, "make_step", made)
    c = toy.config(steps=5)
    fit(c, toy.task(c), tmp_path)
    assert events == ["dispatch", *["dispatch", "fetch"] * 4, "fetch"]
    events.clear()
    c = toy.config(**{"steps": 9, "log.every": 4})
    fit(c, toy.task(c), tmp_path / "b")
    assert events.count("fetch") == 4  # steps 1 (compiled), 4, 8 and 9
    assert [row["step"] for row in rows(tmp_path / "b")] == [1, 4, 8, 9]


def test_phases_change_the_shape_and_are_said(tmp_path, capfd):
    c = toy.config(phases=((2, 2, 16),), steps=4)

    def batches(step):
        return toy.batch(0, step, 16, 2) if step < 2 else toy.batch(0, step, 8, 4)

    fitted = fit(c, toy.task(c, batches=batches), tmp_path)
    assert int(fitted.state.step) == 4
    assert "step 2: the batch has another shape" in capfd.readouterr().err


def test_a_batch_that_does_not_divide_is_an_error(tmp_path):
    for change, words in (
        ({"micro": 3}, "config.micro=3"),
        ({"mesh.data": 8, "batch": 12}, "multiple of 8"),
        ({"mesh.data": 8, "micro": 2}, "multiple of 16"),
        ({"mesh.data": 16}, "16 devices"),
    ):
        c = toy.config(**change)
        with pytest.raises(ValueError, match=words):
            fit(c, toy.task(c), tmp_path)


def test_profile_is_written(tmp_path):
    c = toy.config(**{"log.profile": (2, 4)})
    fit(c, toy.task(c), tmp_path)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_line_s_rate_counts_what_was_done_in_its_time(tmp_path, monkeypatch):
    """Where dispatching runs the step, as small ones on a CPU, the last line has had no time for one."""
    real = fitting.make_step

    def made(*args, **kwargs):
        step = real(*args, **kwargs)

        def at_once(*given):
            time.sleep(0.02)
            return jax.block_until_ready(step(*given))

        return at_once

    monkeypatch.setattr(fitting, "make_step", made)
    c = toy.config(**{"steps": 9, "checkpoint.every": 4})
    fit(c, toy.task(c), tmp_path)
    found = [row for row in rows(tmp_path) if "loss" in row]
    assert [row["step"] for row in found] == list(range(1, 10))
    seconds = [row["step_seconds"] for row in found if "step_seconds" in row]
    assert len(seconds) >= 5 and min(seconds) >= 0.02, seconds


def test_rates_count_the_steps_that_a_save_waits_for(tmp_path):
    def totals(batch):
        mixed = jax.lax.fori_loop(0, 400, lambda i, x: jnp.tanh(x @ x), jnp.eye(128))
        return {"targets": batch["weights"].sum() + 1e-9 * mixed.sum()}

    work = jax.jit(totals)
    batch = toy.batch(0, 0)
    work(batch)
    began = time.perf_counter()
    jax.block_until_ready(work(batch))
    alone = time.perf_counter() - began
    c = toy.config(**{"steps": 12, "log.every": 4, "checkpoint.every": 4})
    fit(c, toy.task(c, totals=totals), tmp_path)
    seconds = [row["step_seconds"] for row in rows(tmp_path) if "step_seconds" in row]
    assert len(seconds) == 3
    assert min(seconds) > alone / 3, (seconds, alone)
