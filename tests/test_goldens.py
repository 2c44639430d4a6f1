"""Every golden file of the alignment methods, and the identities that the numbers rest on."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import goldens
from train.core import advantages, bestof, kl, policy, preferences, rewards


@pytest.mark.parametrize("name", sorted(goldens.CHECKS))
def test_golden(name):
    (path,) = goldens.HERE.parent.rglob(f"{name}.json")
    golden = json.loads(path.read_text())
    rows = goldens.compare(name, golden)
    assert len(rows) >= 4
    assert not [(label, off) for label, off, tolerance in rows if not off <= tolerance]


def test_every_file_is_held():
    found = {path.stem for path in goldens.HERE.glob("*.json")}
    assert found | {"adam_eps"} == set(goldens.CHECKS)


def test_the_table_fails_where_a_number_is_off(tmp_path, capsys):
    golden = json.loads((goldens.HERE / "adaptive_kl.json").read_text())
    (tmp_path / "adaptive_kl.json").write_text(json.dumps(golden))
    assert goldens.main(tmp_path) == 0
    golden["outputs"]["trlx"][3] += 1e-6
    (tmp_path / "adaptive_kl.json").write_text(json.dumps(golden))
    assert goldens.main(tmp_path) == 1
    assert "trlx" in capsys.readouterr().out


def test_the_order_of_variances_of_kl():
    p, q = jnp.asarray([0.5, 0.3, 0.2]), jnp.asarray([0.2, 0.5, 0.3])
    found = {}
    for kind in ("k1", "k2", "k3"):
        x = kl.estimate(jnp.log(p), jnp.log(q), kind)
        found[kind] = float((p * (x - (p * x).sum()) ** 2).sum())
    assert found["k3"] < found["k2"] < found["k1"]


def test_kl_of_sequences_is_a_sum_that_pads_do_not_enter():
    lp, ref = jnp.asarray([[-1.0, -2.0, 9.0], [-1.0, 9.0, 9.0]]), jnp.full((2, 3), -1.5)
    mask = jnp.asarray([[1, 1, 0], [1, 0, 0.0]])
    assert float(kl.of_sequences(lp, ref, mask)) == pytest.approx((0.5 - 0.5 + 0.5) / 2)


def test_a_constant_changes_a_reward_model_s_loss_only_where_it_is_centred():
    chosen, rejected = jnp.asarray([1.0, -0.5]), jnp.asarray([0.3, 0.2])
    plain = preferences.bradley_terry(chosen, rejected)
    np.testing.assert_allclose(
        preferences.bradley_terry(chosen + 7, rejected + 7), plain, rtol=1e-5
    )
    centred = [preferences.bradley_terry(chosen + c, rejected + c, centre=0.01) for c in (0, 7)]
    assert float(abs(centred[0] - centred[1]).min()) > 0.1


def test_prompts_weigh_the_same_however_many_answers_they_have():
    few = jnp.zeros((4, 4)).at[0, 1].set(1)
    many = jnp.triu(jnp.ones((4, 4)), 1)
    loss, pairs, _ = preferences.ranked(jnp.zeros((3, 4)), jnp.stack([few, many, few * 0]))
    np.testing.assert_allclose(loss, [np.log(2), np.log(2), 0], rtol=1e-6)
    assert pairs.tolist() == [1, 6, 0]


def test_losses_of_pairs_start_where_they_should():
    zero = jnp.zeros(3)
    assert float(preferences.pair(zero, zero, "dpo")[0]) == pytest.approx(np.log(2))
    assert float(preferences.pair(zero, zero, "ipo", 0.1)[0]) == pytest.approx(25)
    c, r = jnp.asarray([0.4]), jnp.asarray([-0.3])
    plain, flipped = preferences.pair(c, r, "dpo"), preferences.pair(r, c, "dpo")
    np.testing.assert_allclose(
        preferences.pair(c, r, "cdpo", wrong=0.2), 0.8 * plain + 0.2 * flipped, rtol=1e-6
    )
    with pytest.raises(ValueError, match="did you mean|known"):
        preferences.pair(c, r, "dop")
    with pytest.raises(ValueError, match="expected 0 <= x < 0.5"):
        preferences.pair(c, r, "cdpo", wrong=0.5)
    with pytest.raises(ValueError, match="0 < wrong"):
        preferences.pair(c, r, "exo")


def test_kto_s_reference_has_no_gradient_and_is_not_negative():
    slope = jax.grad(lambda x: preferences.kto_reference(x, jnp.zeros(2)))(jnp.ones(2))
    assert not np.any(slope)
    assert float(preferences.kto_reference(-jnp.ones(2), jnp.zeros(2))) == 0


def test_aggregations_differ_even_in_sign_and_micro_batches_add_up():
    golden = json.loads((goldens.HERE / "ppo.json").read_text())["loss_cross_peer"]["inputs"]
    given = {name: jnp.asarray(x) for name, x in golden.items()}
    mask = given["mask"]
    loss = policy.clipped(
        policy.ratios(given["logp_new"], given["logp_old"], mask), given["advantages"]
    )
    totals = policy.counts(mask)
    whole = {how: float(policy.aggregate(loss, mask, how, totals)) for how in policy.AGGREGATIONS}
    assert whole["tokens"] > 0 > whole["sequences"]
    for how, want in whole.items():
        rows = [policy.aggregate(loss[i, None], mask[i, None], how, totals) for i in range(3)]
        assert float(sum(rows)) == pytest.approx(want, rel=1e-5)


def test_unscorable_answers_are_in_no_baseline():
    rewards_ = jnp.asarray([1.0, np.nan, 3.0, 2.0])
    found = np.asarray(advantages.group(rewards_, 4, "none"))
    np.testing.assert_allclose(found, [-1, 0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(advantages.leave_one_out(rewards_, 4), [-1.5, 0, 1.5, 0], atol=1e-6)
    assert not np.any(advantages.group(jnp.full(4, 0.1), 4))
    assert not np.any(advantages.group(jnp.full(4, np.nan), 4))
    with pytest.raises(ValueError, match="no groups of 3"):
        advantages.group(rewards_, 3)


def test_interior_masks_are_passed_over():
    rewards_, values = jnp.asarray([[0.0, 5.0, 1.0]]), jnp.asarray([[0.2, 9.0, 0.4]])
    mask = jnp.asarray([[1.0, 0.0, 1.0]])
    found, returns = advantages.gae(rewards_, values, mask, 0.9, 0.8)
    short, _ = advantages.gae(rewards_[:, ::2], values[:, ::2], mask[:, ::2], 0.9, 0.8)
    np.testing.assert_allclose(found[:, ::2], short, rtol=1e-6)
    assert float(found[0, 1]) == float(returns[0, 1]) == 0


def test_a_score_is_added_once_and_stays_a_fraction():
    mask = jnp.asarray([[1, 1, 0, 0], [1, 1, 1, 1]])
    kl_ = jnp.zeros((2, 4), jnp.int32)
    for after, slot in ((False, 1), (True, 2)):
        found = rewards.place(kl_, jnp.asarray([0.25, -0.5]), mask, 0.1, after)
        assert float(found.sum()) == pytest.approx(-0.25)
        assert float(found[0, slot]) == 0.25 and float(found[1, 3]) == -0.5
    whole = [
        advantages.gae(
            rewards.place(kl_, jnp.asarray([0.25, -0.5]), mask, 0.1, after),
            jnp.zeros((2, 4)),
            jnp.maximum(mask, jnp.eye(4)[2] * after),
            1.0,
            1.0,
        )[1]
        for after in (False, True)
    ]
    np.testing.assert_allclose(whole[0][:, :2], whole[1][:, :2])


def test_replacing_is_not_subtracting():
    scores, ended = jnp.asarray([2.0, 2.0]), jnp.asarray([True, False])
    assert rewards.missing_eos(scores, ended, "replace", 1.0).tolist() == [2, -1]
    assert rewards.missing_eos(scores, ended, "subtract", 1.0).tolist() == [2, 1]
    assert rewards.missing_eos(scores, ended, "none").tolist() == [2, 2]
    with pytest.raises(ValueError, match="replace"):
        rewards.missing_eos(scores, ended, "replac")


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_a_reward_that_is_no_number_is_refused(bad):
    with pytest.raises(ValueError, match="1 answers of 2"):
        rewards.finite([0.5, bad])


def test_last_real_slot():
    mask = jnp.asarray([[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    assert rewards.last(mask).tolist() == [1, 2, 0]


def test_rewards_that_can_be_verified():
    assert rewards.exact("", " 12 ", "12") == 1 and rewards.exact("", "1 2", "12") == 0
    assert rewards.last_number("", "so 1,200 it is", "= 1200") == 1
    assert rewards.last_number("", "none", "3") == 0
    assert rewards.short("", "abcd", "ab") == -1 and rewards.short("", "a", "ab") == 0


def test_the_best_of_equals_is_the_first():
    assert bestof.best([1, 3, 3, np.nan, -1, -2], 3).tolist() == [1, 4]
    with pytest.raises(ValueError, match="needs at least as many"):
        bestof.expected([1.0], [1.0], 2)
    with pytest.raises(ValueError, match="no score"):
        bestof.expected([1.0, np.nan], [1.0, 2.0], 1)


def test_dual_clip_bounds_a_bad_token_and_a_good_one_not():
    loss = policy.clipped(jnp.asarray([10.0, 10.0]), jnp.asarray([-1.0, 1.0]), dual=3.0)
    np.testing.assert_allclose(loss, [3.0, -1.2], rtol=1e-6)


def test_gspo_s_ratio_sends_a_gradient_to_each_token():
    old, mask = jnp.zeros((1, 3)), jnp.asarray([[1.0, 1.0, 0.0]])
    slope = jax.grad(lambda x: policy.ratios(x, old, mask, "sequence").sum())(jnp.zeros((1, 3)))
    np.testing.assert_allclose(slope, [[1, 1, 0]])


def test_cispo_s_ratio_sends_no_gradient():
    old, gain = jnp.asarray([-1.0, -2.0, -1.5]), jnp.asarray([0.5, -1.0, 2.0])
    lp = jnp.asarray([-1.2, -1.0, -1.4])  # ratios .82, 2.72 (capped at 2) and 1.11
    loss = lambda x: policy.cispo(jnp.exp(x - old), x, gain, 2.0).sum()
    want = -np.minimum(np.exp(np.asarray(lp - old)), 2.0) * np.asarray(gain)
    np.testing.assert_allclose(jax.grad(loss)(lp), want, rtol=1e-6)
