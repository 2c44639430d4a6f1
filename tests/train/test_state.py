"""What a step averages beside the parameters (running statistics), and what it leaves out where they are frozen."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train import toy
from train.core import checkpoint, forms, start
from train.core import state as states
from train.core.anomaly import Guard
from train.core.plan import plan
from train.core.saver import Checkpoints
from train.core.state import _gradients, fresh, make_step


def level(params):
    """What a batch adds to the toy's running mean: it tells which parameters gathered it."""
    return params["embed"]["tokens"]["embedding"][0, 0]


def task(c=None):
    """The toy with a running mean that every batch moves by `level`, and what is not averaged."""
    made = toy.task(c)

    def init(key):
        stats = {"mean": jnp.zeros(2), "count": jnp.zeros((), jnp.int32)}
        return toy.init(key)[0], {"batch_stats": {"norm": stats}, "seen": jnp.zeros(1)}

    def loss(params, frozen, extra, batch, rng, totals):
        value, (_, sums) = made.loss(params, frozen, {}, batch, rng, totals)
        extra = jax.tree.map(lambda x: x + 1, extra)
        extra["batch_stats"]["norm"]["mean"] += level(params) - 1
        return value, (extra, sums)

    return dataclasses.replace(made, init=init, loss=loss)


@pytest.mark.parametrize("micro", [1, 2])
def test_running_statistics_of_averages_are_gathered_under_them(micro, monkeypatch):
    monkeypatch.setattr(states, "YOUNG", 2)
    monkeypatch.setattr(states, "EVERY", 3)
    ours, tx = task(), optax.sgd(0.1)
    state = jax.jit(lambda: fresh(ours, tx, 0, True))()
    step, wanted, own = make_step(ours, tx, seed=0, ema=0.75, micro=micro), 0.0, 0.0
    for number in range(5):
        own += micro * float(level(state.params))
        state, _ = step(state, (), toy.batch(0, number))
        wanted += float(level(state.ema)) * (number in (0, 1, 3))
    stats = state.variables()["batch_stats"]["norm"]
    np.testing.assert_allclose(stats["mean"], wanted, rtol=1e-5)
    assert int(stats["count"]) == 3 and float(state.variables()["seen"][0]) == 5 * micro
    given = state.variables(averaged=False)["batch_stats"]["norm"]
    np.testing.assert_allclose(given["mean"], own, rtol=1e-5)
    assert abs(own / (5 * micro) - wanted / 3) > 1e-4


def test_a_bad_batch_moves_no_average():
    ours, tx, guard = task(), optax.sgd(0.1), Guard("skip")
    state = jax.jit(lambda: fresh(ours, tx, 0, True, guard=guard))()
    bad = {**toy.batch(0, 0), "weights": np.full((8, 4), np.nan, np.float32)}
    state, _ = make_step(ours, tx, seed=0, ema=0.75, guard=guard)(state, (), bad)
    np.testing.assert_array_equal(state.ema_extra["batch_stats"]["norm"]["mean"], 0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """{with average or without (as older versions wrote): a workdir}, and the plan and the state."""
    c = toy.config(**{"optim.ema": 0.75})
    p = plan(c, task(c))
    state = jax.jit(p.fresh, out_shardings=p.shardings)()
    state, _ = make_step(p.task, p.tx, seed=0, ema=0.75, guard=p.guard)(state, (), toy.batch(0, 0))
    kept = {}
    for name, held in (("new", state), ("old", dataclasses.replace(state, ema_extra={}))):
        kept[name] = tmp_path_factory.mktemp(name)
        saver = Checkpoints(kept[name], describe=lambda folder: None)
        saver.save(held, 1, wait=True)
        saver.close()
    return kept, p, state


def test_checkpoints_hold_the_averaged_statistics_and_what_loads_them_takes_them(saved):
    kept, p, state = saved
    folder, said = checkpoint.folders(kept["new"])[0], []
    again = checkpoint.restore(folder, p.abstract, p.shardings, p.mesh, p.rules, say=said.append)
    assert toy.digest(again) == toy.digest(state) and not said
    for averaged, held in ((True, state.ema_extra), (False, state.extra)):
        extra = checkpoint.load_params(folder, averaged)[1]
        mean = held["batch_stats"]["norm"]["mean"]
        np.testing.assert_array_equal(extra["batch_stats"]["norm"]["mean"], mean)


def test_a_checkpoint_without_the_average_resumes_with_its_own_statistics(saved):
    kept, p, state = saved
    folder, said = checkpoint.folders(kept["old"])[0], []
    again = checkpoint.restore(folder, p.abstract, p.shardings, p.mesh, p.rules, say=said.append)
    own = np.asarray(state.extra["batch_stats"]["norm"]["mean"])
    np.testing.assert_array_equal(again.ema_extra["batch_stats"]["norm"]["mean"], own)
    assert toy.digest(again.params) == toy.digest(state.params)
    assert said == ["checkpoint 00000001 has no average of batch_stats; it begins with today's"]
    extra = checkpoint.load_params(folder)[1]
    np.testing.assert_array_equal(extra["batch_stats"]["norm"]["mean"], own)
    step = make_step(p.task, p.tx, seed=0, ema=0.75, shardings=p.shardings, guard=p.guard)
    again, _ = step(again, (), toy.batch(0, 1))
    moved = again.ema_extra["batch_stats"]["norm"]["mean"]
    np.testing.assert_allclose(moved, own + level(again.ema), rtol=1e-6)


def test_a_run_that_starts_from_statistics_begins_their_average_there(saved):
    kept, p, saved_state = saved
    params, extra = checkpoint.load_params(checkpoint.folders(kept["new"])[0])
    state = start.adopt(params, p.task, p, print, "it", extra=extra)
    for held in (state.extra, state.ema_extra):
        mean = saved_state.ema_extra["batch_stats"]["norm"]["mean"]
        np.testing.assert_array_equal(held["batch_stats"]["norm"]["mean"], mean)


def test_without_statistics_the_state_is_as_it_was():
    c = toy.config(**{"optim.ema": 0.75})
    assert plan(c, toy.task(c)).abstract.ema_extra == {}
    assert plan(toy.config(), task()).abstract.ema_extra == {}


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("micro", [1, 2])
def test_the_norm_is_of_what_is_trained_and_the_rest_is_not_computed(scan, micro):
    freeze = r"^embed|^blocks/1/"
    c = toy.config(**{"optim.freeze": freeze, "optim.clip": 0.0})
    task = toy.task(c, scan=scan)
    made = plan(c, task)
    batch, state = toy.batch(0, 0), jax.jit(made.fresh)()
    before = jax.device_get(state.params)
    _, _, _, whole = _gradients(task, 1)(state.params, (), {}, batch, None)
    _, _, _, kept = _gradients(task, micro, made.mask)(state.params, (), {}, batch, None)
    whole, kept = (forms.flat(forms.apart(tree)) for tree in (whole, kept))
    for name, x in kept.items():
        want = whole[name] * (not re.search(freeze, name))
        np.testing.assert_allclose(x, want, atol=1e-6, err_msg=name)
    norm = np.sqrt(sum(np.square(x).sum() for x in kept.values()))
    step = make_step(task, made.tx, seed=None, micro=micro, mask=made.mask)
    state, metrics = step(state, (), batch)
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
    after = forms.flat(forms.apart(jax.device_get(state.params)))
    for name, x in forms.flat(forms.apart(before)).items():
        assert np.array_equal(x, after[name]) == bool(re.search(freeze, name)), name


def test_freezing_saves_operations():
    found = []
    for freeze in ("", r"^embed|^blocks/0/"):
        c = toy.config(**{"optim.freeze": freeze})
        task = toy.task(c)
        made = plan(c, task)
        step = make_step(task, made.tx, seed=None, mask=made.mask)
        lowered = step.lower(made.abstract, (), toy.batch(0, 0))
        found.append(lowered.compile().cost_analysis()["flops"])
    assert found[1] < 0.8 * found[0]
