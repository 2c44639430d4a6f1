"""Losses of pairs that need their batch, other divergences, tokens beyond the shorter answer; mistakes."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.train import aligned, bigrams
from tests.train.test_policy_losses import pairs
from tests.train.test_preference import ROWS
from train import preference
from train.core import log, preferences


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(preference, "build", lambda o: bigrams.Bigrams())


def test_distributions_are_compared_in_order_and_fillers_cost_nothing():
    """Wherever the rows that only fill a batch stand, and whatever they hold."""
    rng = np.random.default_rng(0)
    high, low = rng.normal(size=(2, 5))
    want = np.log1p(np.exp(-0.3 * (np.sort(high) - np.sort(low))))
    full = preferences.transported(jnp.asarray(high), jnp.asarray(low), jnp.ones(5), 0.3)
    np.testing.assert_allclose(np.sort(full), np.sort(want), rtol=1e-6)
    real = np.asarray([0, 1, 1, 0, 1, 1, 0, 1.0])
    wide = [np.where(real > 0, 0.0, 1e9) for _ in range(2)]
    for side, x in zip(wide, (high, low), strict=True):
        side[real > 0] = x
    found = preferences.transported(*map(jnp.asarray, wide), jnp.asarray(real), 0.3)
    assert not np.any(found[real == 0]) and float(found.sum()) == pytest.approx(want.sum())
    assert not np.allclose(np.sort(want), np.sort(np.log1p(np.exp(-0.3 * (high - low)))))


@pytest.mark.parametrize("loss", ["bco", "aot", "aot_unpaired"])
def test_padding_changes_nothing(tmp_path, model, loss):
    """Nor do micro-batches, where the loss has them: BCO's point is of the whole batch."""
    task, params, batch, frozen = pairs(loss, folder=tmp_path)
    padded = {n: np.pad(x, ((0, 0), (0, 0), (0, 3))) if x.ndim == 3 else x
              for n, x in batch.items()}  # fmt: skip
    if loss == "bco":
        assert np.isfinite(bigrams.invariant(task, params, batch, padded, frozen, tolerance=5e-5))
        task = bigrams.replaced(task, params)
        whole = aligned.gradients(task, batch)
        assert aligned.same(whole, aligned.gradients(task, batch, 4))
        return
    value = lambda batch: task.loss(params, frozen, {}, batch, None, task.totals(batch))[0]
    filled = {name: np.concatenate([x, x[:3]]) for name, x in padded.items()}
    filled["rows"] = np.asarray([1.0] * 8 + [0.0] * 3, np.float32)
    assert float(value(filled)) == pytest.approx(float(value(batch)), rel=1e-5)


def log_ratios(params, frozen, batch, weights=None):
    """log pi / pi_ref [n,2] of the bigrams, in double precision."""
    each, weights = [], batch["weights"] if weights is None else weights
    for w in (params["w"], frozen["w"]):
        logits = np.asarray(w, np.float64)[batch["tokens"][..., :-1]]
        logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        picked = np.take_along_axis(logits, batch["tokens"][..., 1:, None], -1)[..., 0]
        each.append((picked * weights[..., 1:]).sum(-1))
    return each[0] - each[1]


def test_bco_s_point_is_the_mean_of_both_answers(tmp_path, model):
    task, params, batch, frozen = pairs("bco", folder=tmp_path, beta=2.0)
    totals = {**task.totals(batch), **task.window(params, frozen, {}, batch)}
    found = task.loss(params, frozen, {}, batch, None, totals)[0]
    ratio = log_ratios(params, frozen, batch)
    up, down = (2.0 * (ratio - ratio.mean())).T
    want = np.log1p(np.exp(-up)) + np.log1p(np.exp(down))
    assert abs(ratio.mean()) > 0.01 and float(found) == pytest.approx(want.mean(), rel=1e-5)


def test_the_excess_is_discounted_in_the_loss(tmp_path, model):
    task, params, batch, frozen = pairs("dpo", folder=tmp_path, excess=0.25)
    found = task.loss(params, frozen, {}, batch, None, task.totals(batch))[0]
    weights = np.array(batch["weights"])
    for row in weights:
        least = int(row.sum(-1).min())
        for side in row:
            side[np.flatnonzero(side)[least:]] = 0.25
    ratio = log_ratios(params, frozen, batch, weights)
    want = np.log1p(np.exp(-0.1 * (ratio[:, 0] - ratio[:, 1])))
    assert not np.array_equal(weights, batch["weights"])
    assert float(found) == pytest.approx(want.mean(), rel=1e-5)


@pytest.mark.parametrize("loss", ["dpo", "cdpo"])
@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
def test_a_policy_is_held_by_its_divergence(tmp_path, model, loss, divergence):
    """f'(pi / ref) of each side in the place of the log-ratio (Wang et al. 2024, equation 11)."""
    wrong = 0.1 if loss == "cdpo" else 0.0
    task, params, batch, frozen = pairs(
        loss, folder=tmp_path, divergence=divergence, wrong=wrong, beta=0.5
    )
    found, (_, sums) = task.loss(params, frozen, {}, batch, None, task.totals(batch))
    u = np.exp(log_ratios(params, frozen, batch))
    slope = {"forward_kl": -1 / u, "js": np.log(2 * u / (1 + u)), "alpha": -2 * u**-0.5}[divergence]
    margin = 0.5 * (slope[:, 0] - slope[:, 1])
    want = (1 - wrong) * np.log1p(np.exp(-margin)) + wrong * np.log1p(np.exp(margin))
    assert float(found) == pytest.approx(want.mean(), rel=1e-4)
    assert float(sums["margin"][0]) == pytest.approx(
        0.5 * np.log(u[:, 0] / u[:, 1]).sum(), rel=1e-3
    )


@pytest.mark.parametrize("mean", ["none", "tokens"])
def test_ipo_s_mean_is_of_tokens_where_it_is_asked_for(tmp_path, model, mean):
    task, params, batch, frozen = pairs("ipo", folder=tmp_path, mean=mean)
    found, (_, sums) = task.loss(params, frozen, {}, batch, None, task.totals(batch))
    ratio = log_ratios(params, frozen, batch)
    each = ratio / batch["weights"].sum(-1)
    assert np.abs(each - ratio).max() > 0.1
    ratio = each if mean == "tokens" else ratio
    want = np.mean((ratio[:, 0] - ratio[:, 1] - 1 / (2 * 0.1)) ** 2)
    assert float(found) == pytest.approx(want, rel=1e-5)
    for side, name in enumerate(("reward_chosen", "reward_rejected")):  # beta times the log-ratio
        assert float(sums[name][0]) == pytest.approx(0.1 * ratio[:, side].sum(), rel=1e-4)


def test_tokens_beyond_the_shorter_answer_weigh_less():
    weights = np.zeros((1, 2, 8), np.float32)
    weights[0, 0, 2:7], weights[0, 1, 3:5] = 1, 1
    found = preferences.shortened(jnp.asarray(weights), 0.25)
    assert found[0, 0].tolist() == [0, 0, 1, 1, 0.25, 0.25, 0.25, 0]
    np.testing.assert_array_equal(found[0, 1], weights[0, 1])
    assert preferences.shortened(weights, 1.0) is weights


@pytest.mark.parametrize(
    ("loss", "start"), [("bco", 2 * np.log(2)), ("aot", np.log(2)), ("aot_unpaired", np.log(2))]
)
def test_each_starts_where_it_should_and_learns(tmp_path, loss, start):
    parts = {"batch": 16, "micro": 2} if loss == "bco" else {}
    made = aligned.config(
        "preference", tmp_path, ROWS, steps=30, **parts, **{"preference.loss": loss}
    )
    fitted = preference.run(made, tmp_path / "run")
    losses = [row["loss"] for row in log.read(tmp_path / "run") if "loss" in row]
    assert losses[0] == pytest.approx(start, rel=1e-4)
    assert np.mean(losses[-3:]) < 0.95 * start
    assert fitted.metrics["valid/margin"] > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "ipo", "divergence": "js"}, "divergence='js' has no part in the loss ipo"),
        ({"divergence": "jss"}, "preference.divergence is 'jss'; did you mean .js"),
        ({"excess": 1.5}, "excess is 1.5; expected at least 0, at most 1"),
        ({"excess": 0.5, "mean": "tokens"}, "excess weighs an answer's sum; expected mean='none'"),
        ({"loss": "bco", "excess": 0.5}, "excess=0.5 has no part in the loss bco"),
        ({"loss": "kto", "excess": 0.5}, "excess=0.5 has no part in the loss kto"),
        ({"loss": "aot", "wrong": 0.1}, "wrong=0.1 has no part in the loss aot"),
    ],
)
def test_what_would_do_nothing_is_refused(tmp_path, changes, words):
    changes = {f"preference.{name}": value for name, value in changes.items()}
    with pytest.raises(ValueError, match=words):
        preference.settings(aligned.config("preference", tmp_path, ROWS, **changes))


def test_a_loss_that_sorts_a_batch_has_no_micro_batches(tmp_path):
    made = aligned.config("preference", tmp_path, ROWS, micro=2, **{"preference.loss": "aot"})
    with pytest.raises(ValueError, match="aot sorts a whole batch; expected config.micro=1, not 2"):
        preference.run(made, tmp_path / "run")
