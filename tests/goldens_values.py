"""The golden files of values, best of n and the peers in jax: rows (label, ours, theirs, tolerance)."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from train.core import advantages, bestof, kl, policy, tabular, values

EXACT, SINGLE = 1e-8, 3e-7
ALIGNMENT = Path(__file__).parent / "golden" / "alignment"


def learning(g):
    i, out = g["inputs"], g["outputs"]
    q, action, reward, discount = (
        jnp.asarray(i["q_tm1"]),
        i["a_tm1"],
        i["r_t"],
        i["discount_t"],
    )
    after, other, probs = (jnp.asarray(i[n]) for n in ("q_t", "q_selector_or_target", "policy_t"))
    found = {
        "q_learning": values.q_learning(q, action, reward, discount, after),
        "q_learning_terminal_discount0": values.q_learning(q, action, reward, 0.0, after),
        "persistent_q_learning_0.9": values.persistent_q_learning(
            q, action, reward, discount, after, 0.9
        ),
        "double_q_learning": values.double_q_learning(q, action, reward, discount, after, other),
        "expected_sarsa": values.expected_sarsa(q, action, reward, discount, after, probs),
        "sarsa": values.expected_sarsa(q, action, reward, discount, after, jnp.eye(3)[0]),
    }
    rewards, discounts = jnp.asarray(i["rewards"]), jnp.asarray(i["discounts"])
    held = jnp.asarray(i["values_t0_t4"])
    lam = values.lambda_returns(rewards, discounts, held[1:], 0.8)
    found |= {
        "lambda_returns_0.8": lam,
        "n_step_bootstrapped_returns_2": values.n_step_returns(rewards, discounts, held[1:], 2),
        "discounted_returns": values.lambda_returns(rewards, discounts, held[1:] * 0, 1.0),
        "td_lambda_.8": lam - held[:-1],
        "vtrace": values.vtrace(held[:-1], held[1:], rewards, discounts, i["rho"]),
        "td_learning": reward + discount * 1.5 - 1.0,
        "epsilon_greedy_probs_eps.1": values.epsilon_greedy(jnp.asarray([1.0, 3.0, 3.0, 0.0]), 0.1),
        "huber_loss_d1": values.huber(jnp.asarray([-3.0, -0.5, 0.0, 0.5, 3.0])),
        "softmax_probs_T.5": jax.nn.softmax(jnp.asarray([1.0, 3.0, 3.0, 0.0]) / 0.5),
    }
    for name, ours in found.items():
        yield name, ours, out[name], SINGLE
    table = np.zeros((4, 2))
    for number, row in enumerate(out["tabular_trace_alpha.5_gamma.9"]):
        step = (row["s"], row["a"], row["r"], row["s2"], row["done"])
        error = tabular.update(table, *step, rate=0.5, gamma=0.9)
        yield f"trace {number} error", error, row["td_error"], EXACT
        yield f"trace {number}", table, row["Q"], EXACT


def best(g):
    pairs = np.asarray(g["inputs"]["proxy_gold_pairs"])
    for name in ("estimator", "brute_force_all_subsets"):
        for n, want in g["outputs"][name].items():
            yield f"best of {n}", bestof.expected(pairs[:, 0], pairs[:, 1], int(n)), want, 1e-12
    for n, want in g["outputs"]["kl_log_n_minus"].items():
        yield f"bound {n}", bestof.bound(int(n)), want, 1e-12
    forms = g["gao_forms"]
    alpha, beta, d = forms["example_alpha"], forms["example_beta"], np.asarray(forms["d"])
    yield "of samples", bestof.of_samples(d, alpha, beta), forms["bon_R"], EXACT
    yield "of training", bestof.of_training(d, alpha, beta), forms["rl_R"], EXACT


REWARDS = [
    [-1.32, -0.66, 0.94, 0.05, 2.0],
    [0.19, -0.63, -0.38, -1.09, -1.28],
    [0.63, 0.58, 1.29, -0.75, 1.69],
]
VALUES = [
    [-0.145, 0.785, -0.215, -0.37, 0.125],
    [0.515, 0.08, -0.295, -0.67, -0.7],
    [0.25, 0.495, -0.08, -0.535, 0.435],
]
RAGGED = [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]  # the inputs of ppo.json
WHITEN = [[0.5, -1.0, 2.0, 0.0], [1.5, 0.25, -0.75, 3.0]], [[1, 1, 1, 0], [1, 1, 1, 1]]


def peers(g):
    out = g["outputs"]
    rewards, held = jnp.asarray(REWARDS), jnp.asarray(VALUES)
    for name, mask in (("full", jnp.ones((3, 5))), ("ragged", jnp.asarray(RAGGED, float))):
        found, returns = advantages.gae(rewards, held, mask, 0.99, 0.95)
        want = out[f"tunix_gae_{name}_whitened"]
        whitened = advantages.whiten(found, mask) * mask
        yield f"{name} advantages", whitened, np.asarray(want["advantages"]) * mask, EXACT
        yield f"{name} returns", returns, np.asarray(want["returns"]) * mask, EXACT
        if name == "full":
            yield "rlax", found, out["rlax_truncated_gae"], EXACT
    x, mask = jnp.asarray(WHITEN[0]), jnp.asarray(WHITEN[1], float)
    for name, args in (
        ("vwxyzjn_whiten_biased_shift", (True, False)),
        ("vwxyzjn_whiten_biased_noshift", (False, False)),
        ("tunix_masked_whiten", (True, True)),
    ):
        where = mask if name.startswith("tunix") else jnp.ones_like(x)
        yield name, advantages.whiten(x, where, *args), out[name], EXACT
    lp, ref = jnp.asarray([-0.1, -1.0, -2.0, -0.7]), jnp.asarray([-0.5, -0.6, -2.0, -3.0])
    for kind, name in (("k1", "kl"), ("k2", "mse_kl"), ("k3", "low_var_kl")):
        yield name, kl.estimate(lp, ref, kind), out[f"tunix_kl_{name}"], SINGLE
    beside = json.loads((ALIGNMENT / "ppo.json").read_text())["loss_cross_peer"]["inputs"]
    new, old, a = (jnp.asarray(beside[n]) for n in ("logp_new", "logp_old", "advantages"))
    loss = policy.clipped(policy.ratios(new, old, jnp.ones_like(new)), a).mean()
    yield "rlax clipped", loss, out["rlax_clipped_surrogate_pg_loss_full_mask"], EXACT
    given = json.loads((ALIGNMENT.parent / "adam_eps.json").read_text())["inputs"]
    yield "optax adam", _adam(given), out["optax_adam_eps1e-5"], EXACT


def _adam(given):
    """The weight after each of the gradients, one step after the other."""
    tx, weight = optax.adam(given["lr"], eps=given["eps"]), jnp.asarray(given["w0"])
    state, found = tx.init(weight), []
    for grad in given["grads"]:
        change, state = tx.update(jnp.asarray(grad), state, weight)
        weight = weight + change
        found.append(weight)
    return jnp.stack(found)


def adam(g):
    yield "torch", _adam(g["inputs"]), g["outputs"]["torch_optim_Adam"], EXACT


GYM = {
    "FrozenLake4x4_slippery": ("FrozenLake-v1", {}),
    "FrozenLake4x4_deterministic": ("FrozenLake-v1", {"is_slippery": False}),
    "FrozenLake8x8_slippery": ("FrozenLake-v1", {"map_name": "8x8"}),
    "CliffWalking": ("CliffWalking-v1", {}),
    "Taxi": ("Taxi-v4", {}),
}


def optima(g):
    if importlib.util.find_spec("gymnasium"):
        import gymnasium

        for name, (world, args) in GYM.items():
            env = gymnasium.make(world, **args)
            model = tabular.model(env)
            limit = env.spec.max_episode_steps
            for gamma, want in g["outputs"][name]["gammas"].items():
                q = tabular.optimum(*model, float(gamma))
                if "Q" in want:
                    yield f"{name} {gamma} Q", q, want["Q"], 1e-6
                start = env.unwrapped.initial_state_distrib
                yield f"{name} {gamma} start", start @ q.max(-1), want["start_value"], 1e-6
                if limit:
                    found = tabular.reached(*model, q.argmax(-1), start, limit)
                    key = "undiscounted_return_of_greedy_policy_within_time_limit"
                    yield f"{name} {gamma} within the limit", found, want[key], 1e-6
                    found = tabular.reached(*model, q.argmax(-1), start, 20_000)
                    key = "undiscounted_return_of_greedy_policy_20000_steps"
                    yield f"{name} {gamma} without a limit", found, want[key], 1e-6
    want = g["outputs"]["SuttonBarto_gridworld_5x5_gamma.9"]
    q = tabular.optimum(*tabular.grid(), 0.9)
    yield "grid", q.max(-1).reshape(5, 5), want["V_star"], 1e-5
    yield "random", tabular.evaluate(*tabular.grid(), 0.9).reshape(5, 5), want["V_random"], 1e-5


CHECKS = {
    "rlax_value_learning": learning,
    "best_of_n": best,
    "jax_peers": peers,
    "adam_eps": adam,
    "q_learning_gym": optima,
}
