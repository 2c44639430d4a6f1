"""The golden files of losses, advantages and rewards: rows (label, ours, theirs, tolerance)."""

import jax
import jax.numpy as jnp
import numpy as np

from train.core import advantages, kl, policy, preferences, rewards
from train.data import answers

EXACT, SINGLE = 1e-8, 3e-7  # what was computed in float64, and in float32
WHITENED = 1e-7  # TRL's moments are rounded once more


def estimators(g):
    lp, ref = (jnp.asarray(g["inputs"][name]) for name in ("logp", "ref_logp"))
    names = {"k1": "verl_kl", "k2": "verl_mse", "k3": "verl_low_var_kl", "abs": "verl_abs"}
    for kind, name in names.items():
        yield kind, kl.estimate(lp, ref, kind), g["outputs"]["pointwise"][name], EXACT
    p, q = (jnp.asarray(g["inputs"][name]) for name in "pq")
    for kind, mean in g["outputs"]["expectation_under_p"].items():
        found = kl.estimate(jnp.log(p), jnp.log(q), kind)
        yield f"mean {kind}", (p * found).sum(), mean, 1e-7
        var = (p * (found - (p * found).sum()) ** 2).sum()
        yield f"variance {kind}", var, g["outputs"]["variance_under_p"][kind], 1e-6
        yield (
            f"peer {kind}",
            kl.estimate(lp, ref, kind),
            g["outputs"]["pointwise"][f"openrlhf_{kind}"],
            SINGLE,
        )
    far = g["outputs"]["clamp_behaviour"]
    for kind, want in far["openrlhf"].items():
        one = [jnp.asarray(far["input"][name]) for name in ("logp", "ref")]
        yield f"clamped {kind}", kl.estimate(*one, kind, 10.0), want, SINGLE
    for kind, name in (("k1", "kl"), ("k2", "mse"), ("k3", "low_var_kl")):
        slope = jax.grad(lambda x, kind=kind: kl.estimate(x, ref, kind).sum())(lp)
        yield f"slope {kind}", slope, g["outputs"]["grad_wrt_logp_verl"][name], EXACT


def gradients(g):
    theta, ref = jnp.asarray(g["inputs"]["theta"]), jnp.log(jnp.asarray(g["inputs"]["ref_probs"]))
    probs = jax.nn.softmax(theta)
    for kind in ("k1", "k2", "k3"):
        loss = lambda x, kind=kind: (probs * kl.estimate(jax.nn.log_softmax(x), ref, kind)).sum()
        yield kind, jax.grad(loss)(theta), g["outputs"][f"expected_grad_{kind}"], 1e-14


def controller(g):
    given = g["inputs"]
    for peer, want in g["outputs"].items():
        beta, found = given["init"], []
        for now in given["kl_sequence"]:
            beta = kl.adapt(beta, now, given["n_steps"], given["target"], given["horizon"])
            found.append(beta)
        yield peer, found, want, EXACT


def whitening(g):
    x, mask = (jnp.asarray(g["inputs"][name]) for name in ("x", "mask"))
    for name, want in g["outputs"].items():
        if "var" not in name:
            ours = "openai" in name  # biased, and without a mask
            found = advantages.whiten(
                x, jnp.ones_like(x) if ours else mask, "noshift" not in name, not ours
            )
            yield name, found, want, EXACT


def ppo(g):
    eos = jnp.asarray([row.index(2) if 2 in row else 4 for row in g["inputs"]["responses"]])
    slots = jnp.arange(5)
    mask = (slots <= eos[:, None]).astype(float)
    longer = (slots <= eos[:, None] + 1).astype(float)
    given = {name: jnp.asarray(x, float) for name, x in g["inputs"].items() if name != "responses"}
    for case, want in g["outputs"].items():
        kind, whitened = case.split("_whiten")
        penalty = kl.estimate(given["logprobs"], given["ref_logprobs"], kind)
        ended = jnp.asarray(want["contain_eos_token"])
        scores = rewards.missing_eos(given["scores"], ended, "subtract", 1.0)
        yield f"{case} scores", scores, want["scores"], WHITENED
        reward = rewards.place(penalty, scores, mask, 0.05, after=True)
        if int(whitened):
            reward = advantages.whiten(reward, longer, shift=False) * longer
        yield f"{case} rewards", reward, want["rewards"], WHITENED
        values = given["values"] * longer
        found, returns = advantages.gae(reward, values, longer)
        yield f"{case} returns", returns, want["returns"], WHITENED
        found = advantages.whiten(found, mask) * mask
        yield f"{case} advantages", found, want["advantages"], 1e-7
        ratio = policy.ratios(given["new_logprobs"], given["logprobs"], mask)
        yield f"{case} ratio", ratio, want["ratio"], WHITENED
        totals = policy.counts(mask)
        loss = policy.aggregate(policy.clipped(ratio, found), mask, "tokens", totals)
        yield f"{case} policy", loss, want["pg_loss"], 1e-7
        value, cut = policy.value_loss(given["vpred"], values, returns)
        value = policy.aggregate(value, longer, "tokens", policy.counts(longer))
        yield f"{case} value", value, want["vf_loss"], WHITENED
        yield f"{case} loss", loss + 0.1 * value, want["loss"], WHITENED
        yield (
            f"{case} value clipped",
            advantages.masked_mean(cut, longer),
            want["vf_clipfrac"],
            SINGLE,
        )
        share = advantages.masked_mean(policy.clipped_share(ratio, found), mask)
        yield f"{case} clipped", share, want["pg_clipfrac"], SINGLE
        far = policy.moved(given["new_logprobs"], given["logprobs"]) * mask
        yield f"{case} moved", far.sum() / mask.size, want["approxkl"], WHITENED  # pads counted
    yield from _estimation(g["gae_cross_peer"])
    yield from _losses(g["loss_cross_peer"])


def _estimation(g):
    given = {name: jnp.asarray(x) for name, x in g["inputs"].items()}
    rewards_, values, ragged = given["rewards"], given["values"], given["ragged_mask"]
    for peer, want in g["outputs"].items():
        mask = ragged if "ragged" in peer else jnp.ones_like(ragged)
        if "reinforce" in peer:
            found, _ = advantages.gae(rewards_, values * 0, mask, given["gamma"], 1.0)
            yield peer, found, want, EXACT
            continue
        found, returns = advantages.gae(rewards_, values, mask, given["gamma"], given["lam"])
        if peer.endswith("_whitened"):
            found = advantages.whiten(found, mask) * mask
        yield f"{peer} advantages", found, np.asarray(want["advantages"]) * mask, EXACT
        yield f"{peer} returns", returns, np.asarray(want["returns"]) * mask, EXACT


def _losses(g):
    i = {name: jnp.asarray(x) for name, x in g["inputs"].items()}
    mask, out = i["mask"], g["outputs"]
    ratio = policy.ratios(i["logp_new"], i["logp_old"], mask)
    loss, totals = policy.clipped(ratio, i["advantages"]), policy.counts(mask)
    for how, name in (
        ("tokens", "verl_token-mean"),
        ("tokens", "openrlhf_token"),
        ("tokens", "trlx"),
        ("sequences", "verl_seq-mean-token-mean"),
        ("sequences", "openrlhf_seqmean"),
        ("sums", "verl_seq-mean-token-sum"),
    ):
        yield name, policy.aggregate(loss, mask, how, totals), out[name]["policy"], EXACT
    fixed = policy.aggregate(loss, mask, "fixed", totals) * len(mask)
    yield "sum over length", fixed, out["verl_seq-mean-token-sum-norm"]["policy"], EXACT
    dual = policy.clipped(ratio, i["advantages"], 0.2, 0.28, dual=3.0)
    dual = policy.aggregate(dual, mask, "tokens", totals)
    yield "dual clip", dual, out["openrlhf_dualclip3_high0.28"]["policy"], EXACT
    whole = policy.clipped(
        policy.ratios(i["logp_new"], i["logp_old"], mask, "sequence"), i["advantages"]
    )
    found = policy.aggregate(whole, mask, "sequences", totals)
    yield "gspo", found, out["openrlhf_gspo"]["policy"], EXACT
    share = advantages.masked_mean(policy.clipped_share(ratio, i["advantages"]), mask)
    yield "clipped", share, out["trlx"]["clipfrac"], EXACT
    away = advantages.masked_mean(i["logp_old"] - i["logp_new"], mask)
    yield "ppo_kl", away, out["openrlhf_token"]["ppo_kl"], EXACT
    value, cut = policy.value_loss(i["vpred"], i["values_old"], i["returns"])
    value = policy.aggregate(value, mask, "tokens", totals)
    for theirs in (out["trlx"]["value"], out["openrlhf_value"], out["verl_value"]["value"]):
        yield "value", value, theirs, EXACT
    yield "value clipped", advantages.masked_mean(cut, mask), out["verl_value"]["clipfrac"], 1e-8
    total = policy.aggregate(loss, mask, "tokens", totals) + 0.1 * value
    yield "total", total, out["trlx"]["total"], EXACT


def placement(g):
    i = g["inputs"]
    mask = jnp.asarray(i["action_mask"], float)
    found = rewards.place(jnp.asarray(i["kl"]), jnp.asarray(i["score"]), mask, i["kl_coef"])
    yield "reward", found, np.asarray(g["outputs"]["openrlhf_compute_reward"]) * mask, EXACT


def groups(g):
    i, out = g["inputs"], g["outputs"]
    table = jnp.asarray(np.asarray(i["rewards_per_func"], float))
    summed = advantages.combine(table, jnp.asarray(i["reward_weights"]))
    for spread in ("group", "batch", "none"):
        found = advantages.group(summed, i["num_generations"], spread)
        yield spread, found, out[f"trl_sum_then_normalize_{spread}"], 1e-7
    plain = jnp.asarray(i["scalar_rewards_for_verl_and_rloo"])
    yield "grpo", advantages.group(plain, 4, eps=1e-6), out["verl_grpo"], 1e-7
    yield "no std", advantages.group(plain, 4, "none"), out["verl_grpo_no_std"], EXACT
    out_of = advantages.leave_one_out(plain, 4)
    yield "rloo", out_of, out["verl_rloo"], EXACT
    yield "rloo", out_of, out["trl_rloo_normalize_False"], EXACT
    weights = jnp.asarray(i["reward_weights"])
    yield "apart", advantages.apart(table, weights, 4), out["trl_normalize_then_sum_group"], 1e-7
    yield "rloo scaled", advantages.scaled(out_of), out["trl_rloo_normalize_True"], 1e-7


def grpo(g):
    i = {name: jnp.asarray(x) for name, x in g["inputs"].items()}
    mask, lp, old, a = i["completion_mask"], i["logp"], i["old_logp"], i["advantages"][:, None]
    totals, out = policy.counts(mask), g["outputs"]
    ratio = policy.ratios(lp, old, mask)
    mean = lambda x, how: policy.aggregate(x, mask, how, totals)
    plain = policy.clipped(ratio, a)
    k3 = kl.estimate(lp, i["ref_logp"], "k3")
    sequence = policy.ratios(lp, old, mask, "sequence")
    wide = policy.clipped(policy.ratios(lp, old, mask, "product"), a)[:, :1]
    found = {
        "grpo": mean(plain, "sequences"),
        "bnpo": mean(plain, "tokens"),
        "dapo": mean(plain, "tokens"),
        "dr_grpo": mean(plain, "fixed"),
        "sapo": mean(policy.soft(ratio, a), "sequences"),
        "dapo_clip_higher_0.28": mean(policy.clipped(ratio, a, 0.2, 0.28), "tokens"),
        "cispo_eps5": mean(policy.cispo(ratio, lp, a, 5.0), "tokens"),
        "grpo_beta0.04": mean(plain + 0.04 * k3, "sequences"),
        "dapo_delta1.5": mean(policy.clipped(ratio, a, most=1.5), "tokens"),
        "gspo_sequence_grpo": mean(policy.clipped(sequence, a, 3e-4, 4e-4), "sequences"),
        "luspo_sequence": mean(policy.clipped(sequence, a), "sums"),
        "dapo_beta.04_bias_corrected_kl": mean(plain + 0.04 * k3 * ratio, "tokens"),
    }
    for name, ours in found.items():
        yield name, ours, out[name]["loss"], SINGLE
    yield "rloo", wide.mean(), out["rloo_loss"], EXACT
    for name, (ratio, low, high, part) in {
        "grpo": (ratio, 0.2, 0.2, mask), "dapo_clip_higher_0.28": (ratio, 0.2, 0.28, mask),
        "gspo_sequence_grpo": (sequence, 3e-4, 4e-4, mask[:, :1]),
        "luspo_sequence": (sequence, 0.2, 0.2, mask[:, :1]),
    }.items():  # fmt: skip
        ratio = ratio[:, : part.shape[1]]
        cut = policy.clipped_share(ratio, a, low, high) * part
        for side, where in (("low", a < 0), ("high", a > 0), ("region", a != 0)):
            want = out[name][f"clip_ratio/{side}_mean"]
            yield f"{name} {side}", (cut * where).sum() / part.sum(), want, SINGLE
    yield "kl", mean(k3, "tokens"), out["grpo_beta0.04"]["kl"], EXACT


def dpo(g):
    i = {name: jnp.asarray(x) for name, x in g["inputs"].items() if name != "layout"}
    mask = i["completion_mask"][:, 1:].astype(float)
    total = lambda mean, name: preferences.answer_log_probs(i[name], mask, mean)
    sides = {}
    for mean in preferences.MEANS:
        ours = total(mean, "policy_per_token_logps")
        ratio = ours - total(mean, "ref_per_token_logps")
        sides[mean] = ratio[:2], ratio[2:], ours
    chosen, rejected, ours = sides["none"]
    yield from _kin(i, mask, chosen, rejected, g["outputs"])
    for name, (kind, beta, wrong, mean) in {
        "sigmoid": ("dpo", 0.1, 0, "none"), "openrlhf_dpo": ("dpo", 0.1, 0, "none"),
        "hinge": ("hinge", 0.1, 0, "none"), "ipo": ("ipo", 0.1, 0, "tokens"),
        "openrlhf_ipo_SUMMED": ("ipo", 0.1, 0, "none"), "nca_pair": ("nca", 0.1, 0, "none"),
        "sppo_hard": ("sppo", 0.1, 0, "none"), "apo_zero": ("apo_zero", 0.1, 0, "none"),
        "apo_down": ("apo_down", 0.1, 0, "none"), "sigmoid_norm": ("dpo", 0.1, 0, "tokens"),
        "sigmoid_beta.5": ("dpo", 0.5, 0, "none"), "robust_ls.1": ("robust", 0.1, 0.1, "none"),
        "exo_pair_ls.001": ("exo", 0.1, 0.001, "none"), "openrlhf_cdpo_ls0_1": ("cdpo", 0.1, 0.1, "none"),
    }.items():  # fmt: skip
        c, r, _ = sides[mean]
        loss = preferences.pair(c, r, kind, beta, wrong).mean()
        want = g["outputs"][name]
        yield name, loss, want["loss"] if isinstance(want, dict) else want, 1e-7
    sft = -ours[:2].sum() / mask[:2].sum()
    yield "sft", sft, g["outputs"]["sft"]["loss"], EXACT
    both = preferences.pair(chosen, rejected, "dpo").mean() + sft
    yield "with sft", both, g["outputs"]["rpo_sigmoid+sft"]["loss"], EXACT
    want = g["outputs"]["sigmoid"]
    yield "reward", 0.1 * chosen.mean(), want["rewards/chosen"], EXACT
    yield "reward", 0.1 * rejected.mean(), want["rewards/rejected"], EXACT
    yield "margin", 0.1 * (chosen - rejected).mean(), want["rewards/margins"], EXACT
    yield "log p", ours[:2].mean(), want["logps/chosen"], EXACT
    yield "accuracy", (chosen > rejected).mean(), want["rewards/accuracies"], EXACT


def _kin(i, mask, chosen, rejected, out):
    """What else TRL has: other divergences, losses of a whole batch, tokens beyond the shorter answer."""
    loss = lambda c, r, kind="dpo", **how: preferences.pair(c, r, kind, 0.1, **how).mean()
    for name in ("forward_kl", "js", "alpha"):
        theirs = out[f"sigmoid_{name}" + "_divergence" * (name != "forward_kl")]["loss"]
        ours = loss(chosen, rejected, divergence=name)
        yield name, ours, theirs, 1e-7 if name == "alpha" else EXACT  # TRL's alpha is in float32
    yield "discopop", loss(chosen, rejected, "discopop"), out["discopop"]["loss"], EXACT
    both = jnp.stack([mask[:2], mask[2:]], 1)
    weights = preferences.shortened(both, 0.5)
    found = {}
    for name in ("policy", "ref"):
        rows = i[f"{name}_per_token_logps"]
        pair = jnp.stack([rows[:2], rows[2:]], 1)
        found[name] = (pair * both).sum(-1), (pair * weights).sum(-1)
    short = found["policy"][1] - found["ref"][1]
    want = out["ld_alpha.5_sigmoid"]
    yield "excess", loss(short[:, 0], short[:, 1]), want["loss"], EXACT
    yield "excess, log p", found["policy"][1][:, 0].mean(), want["logps/chosen"], EXACT
    # TRL's moving average is 0 in this file.
    yield "bco", preferences.bco(chosen, rejected, 0.0).mean(), out["bco_pair"]["loss"], EXACT
    margins = [found[name][0][:, 0] - found[name][0][:, 1] for name in ("policy", "ref")]
    for name, sides in (("aot", margins), ("aot_unpaired", (chosen, rejected))):
        made = preferences.transported(*sides, jnp.ones(2)).mean()
        yield name, made, out[name]["loss"], EXACT


def kto(g):
    i = {name: jnp.asarray(x) for name, x in g["inputs"].items()}
    point = preferences.kto_reference(i["kl_policy_logps"], i["kl_ref_logps"])
    yield "reference", point, g["outputs"]["kto"]["kl"], EXACT
    ratio = (i["per_token_logps"] - i["ref"]).sum(-1)
    for name, weights in (("kto", (1.0, 1.0)), ("kto_w", (1.33, 1.0))):  # weights: by solving
        loss = preferences.kto(ratio, i["label"] > 0, point, i["beta"], weights).mean()
        yield name, loss, g["outputs"][name]["loss"], EXACT
    good, up = i["label"] > 0, jax.nn.sigmoid(i["beta"] * ratio)
    apo = jnp.where(good, 1 - up, up).mean()
    yield "apo", apo, g["outputs"]["apo_zero_unpaired"]["loss"], EXACT


def reward_model(g):
    i, out = g["inputs"], g["outputs"]
    chosen, rejected = jnp.asarray(i["chosen"]), jnp.asarray(i["rejected"])
    margin = jnp.asarray(
        [0.5, 0.5, 0.0, 1.0]
    )  # the file has none: the only one that gives its loss
    for name, args in (
        ("trl_pairwise", ()),
        ("trl_margin", (margin,)),
        ("trl_center0_01", (0.0, 0.01)),
    ):
        loss = preferences.bradley_terry(chosen, rejected, *args).mean()
        yield name, loss, out[name]["loss"], SINGLE
    yield "accuracy", (chosen > rejected).mean(), out["trl_pairwise"]["accuracy"], EXACT
    table = {"4": {**out["instructgpt_kway_K4"], "rewards_best_to_worst": i["kway_best_to_worst"]}}
    for rows in (table, out["kway_table"]):
        for want in rows.values():
            scores = jnp.asarray(want["rewards_best_to_worst"])[None]
            better = jnp.triu(jnp.ones((1, scores.size, scores.size)), 1)
            loss, pairs, right = preferences.ranked(scores, better)
            yield "k-way", loss[0], want["loss"], SINGLE
            yield "k-way accuracy", right[0] / pairs[0], want["accuracy"], SINGLE
    best = jnp.asarray(i["kway_best_to_worst"])
    better = jnp.triu(jnp.ones((1, 4, 4)), 1)
    slope = jax.grad(lambda x: preferences.ranked(x[None], better)[0][0])(best)
    yield "k-way gradient", slope, out["kway_K4_grad_wrt_rewards"], SINGLE
    yield "plackett-luce", preferences.plackett_luce(best), out["plackett_luce_K4"], EXACT
    yield "best of 4", preferences.best_of(best), out["openai_best_of_4_softmax_ce_best0"], EXACT


def collator(g):
    out = g["outputs"]
    rows = [
        (np.asarray(row["input_ids"]), np.asarray(row["labels"]) != -100) for row in g["inputs"]
    ]
    whole = [(ids, np.ones(len(ids), bool)) for ids, _ in rows]
    labels = lambda made: np.where(made["weights"] > 0, made["tokens"], -100)
    for name, given, multiple in (
        ("completion_only", rows, 1),
        ("full_lm", whole, 1),
        ("pad_to_multiple_of_8", rows, 8),
    ):
        size = max(len(ids) for ids, _ in rows)
        made = answers.pad(given, -(-size // multiple) * multiple, 0, first=True)
        yield f"{name} tokens", made["tokens"], out[name]["input_ids"], 0
        yield f"{name} labels", labels(made), out[name]["labels"], 0
        yield f"{name} mask", made["mask"], out[name]["attention_mask"], 0
    made = answers.pack([rows], 11, 0)
    for name, key in (("tokens", "input_ids"), ("positions", "position_ids")):
        yield f"packed {name}", made[name], out["padding_free"][key], 0
    yield "segments", made["segments"] - 1, out["padding_free"]["seq_idx"], 0
    want = np.asarray(out["padding_free"]["labels"])
    yield "packed labels", labels(made), want, 0
    case = g["loss_case"]
    logits, targets = jnp.asarray(case["logits"])[:, :-1], jnp.asarray(case["labels"])[:, 1:]
    weights = (targets >= 0).astype(float)
    found = jax.nn.log_softmax(logits)
    nats = -jnp.take_along_axis(found, jnp.maximum(targets, 0)[..., None], -1)[..., 0]
    totals = policy.counts(weights)
    ours = policy.aggregate(nats, weights, "tokens", totals)
    yield "mean over tokens", ours, case["mean_over_all_valid_tokens"], EXACT
    ours = policy.aggregate(nats, weights, "sequences", totals)
    yield "mean of means", ours, case["mean_of_per_sequence_means"], EXACT


CHECKS = {
    "kl_estimators": estimators,
    "kl_gradients": gradients,
    "adaptive_kl": controller,
    "whiten": whitening,
    "ppo": ppo,
    "reward_placement": placement,
    "group_advantages": groups,
    "grpo_losses": grpo,
    "dpo_losses": dpo,
    "kto": kto,
    "reward_model": reward_model,
    "sft_collator": collator,
}
