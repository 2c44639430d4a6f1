"""Q-learning: a table (Watkins 1989), or a small network with replay (Mnih et al. 2015), on gymnasium.

    python -m train --config=configs/qlearning.py:tiny --workdir=runs/q

Q(s,a) += rate (r + gamma max Q(s') - Q(s,a)), where the next state counts nothing if the world ended the
episode, and counts as ever if a time limit cut it off. `config.q.net` "table" keeps a number for each
state and action, its rate falling with their visits n as (1 + n)^-`power`; "mlp" trains a network on
batches drawn from the last `replay` steps, by the error to a copy of itself (`target` steps old), the next
action chosen by itself (`double`, van Hasselt et al. 2016) or the copy. Worlds with a list of their
transitions are measured against their exact optimum (`train.core.tabular`): `return`, what the greedy
policy earns on average within the time limit, and `error`, max |Q - Q*|. Needs the extra `rl`. A run that
was stopped begins anew: it takes a minute.
"""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from train.core import anomaly, plan, preempt, sections, shard, state, tabular, values
from train.core.fit import Fitted
from train.core.log import Logger

DEFAULTS = {
    "net": "table", "gamma": 0.99, "epsilon": 1.0, "epsilon_end": 0.1, "epsilon_steps": 10_000,
    "power": 0.6, "width": 32, "replay": 10_000, "least": 500, "target": 250, "double": True,
    "every": 1,
}  # fmt: skip
WORLD = {"id": "FrozenLake-v1", "slippery": True, "map": "", "limit": 0}
RESULTS = "q.json"


def run(config, workdir) -> Fitted:
    """Learns, and writes what the greedy policy earns beside the optimum, and Q, to q.json."""
    how, env, world = _open(config)
    made = plan.plan(config, make_task(config, how, *world[1].shape))
    learn = _table if how["net"] == "table" else _network
    with Logger(workdir, config.log, config.steps) as logger, preempt.interruptible():
        logger.say(f"{env.spec.id}: {len(world[1])} states, optimum {optimum(how, env, world):.4f}")
        with jax.set_mesh(made.mesh):
            end, q = learn(config, how, env, world, made, logger)
    found = measure(how, env, world, q)
    found["optimum"] = optimum(how, env, world)
    (Path(workdir) / RESULTS).write_text(json.dumps({**found, "q": q.tolist()}) + "\n")
    print("  ".join(f"{name} {value:.4f}" for name, value in found.items()))
    return Fitted(found, end, False, made)


def check(config):
    """The plan and the first batch; nothing is allocated on the devices."""
    how, _, world = _open(config)
    task = make_task(config, how, *world[1].shape)
    return plan.plan(config, task), task.batches(0)


def _open(config):
    """(how, the world, its transitions and rewards); ValueError where they don't fit."""
    how = sections.section(config, "q", DEFAULTS)
    sections.one_of("q.net", how["net"], ("table", "mlp"))
    sections.positive("q", how, ("width", "replay", "target", "every", "epsilon_steps"))
    if not 0 <= how["gamma"] < 1:
        raise ValueError(f"config.q.gamma is {how['gamma']}; expected 0 <= x < 1")
    for name in ("epsilon", "epsilon_end"):
        if not 0 <= how[name] <= 1:
            raise ValueError(f"config.q.{name} is {how[name]}; expected 0 <= x <= 1")
    sections.within("q", how, {"power": (0, 1), "least": (0, None)})
    if how["net"] == "mlp" and how["least"] > config.steps:
        raise ValueError(
            f"config.q.least is {how['least']}, more than config.steps={config.steps}: nothing would be learnt"
        )
    if jax.process_count() > 1:
        raise ValueError("this loop acts in one world; expected one process")
    env = _world(sections.section(config, "world", WORLD))
    return how, env, tabular.model(env)


def _world(given):
    if importlib.util.find_spec("gymnasium") is None:
        raise ValueError("this loop needs gymnasium; install the extra: pip install -e '.[rl]'")
    import gymnasium

    options = {"is_slippery": given["slippery"]} if given["id"].startswith("FrozenLake") else {}
    options |= {"map_name": given["map"]} if given["map"] else {}
    options |= {"max_episode_steps": given["limit"]} if given["limit"] else {}
    try:
        return gymnasium.make(given["id"], **options)
    except (gymnasium.error.Error, TypeError, KeyError) as error:
        raise ValueError(f"config.world: gymnasium has no such world: {error}") from error


def make_task(config, how, states: int, actions: int) -> state.Task:
    """The network's objective as pure functions: half the squared error within +-1, linear beyond.

    A batch has now, action, after int32 [B], reward and going float32 [B], 0 where the world ended.
    """
    table = how["net"] == "table"

    def init(key):
        if table:
            return {"q": {"kernel": jnp.zeros((states, actions), jnp.float32)}}, {}
        first, second = jax.random.split(key)
        shapes = {"hidden": (states, how["width"]), "q": (how["width"], actions)}
        draw = {"hidden": first, "q": second}
        return {
            name: {
                "kernel": jax.random.normal(draw[name], shape) / np.sqrt(min(shape)),
                "bias": jnp.zeros(shape[1]),
            }
            for name, shape in shapes.items()
        }, {}

    def loss(params, frozen, extra, batch, rng, totals):
        now, after, copy = (
            network(params, batch["now"]),
            network(params, batch["after"]),
            network(frozen, batch["after"]),
        )
        discount = how["gamma"] * batch["going"]
        choose = after if how["double"] else copy
        error = jax.vmap(values.double_q_learning)(
            now, batch["action"], batch["reward"], discount, copy, choose
        )
        found = values.huber(error)
        rows = jnp.float32(len(error))
        return found.sum() / totals["rows"], (extra, {"error": (jnp.abs(error).sum(), rows)})

    def batches(step):
        zeros = {name: np.zeros(config.batch, np.int32) for name in ("now", "action", "after")}
        return {**zeros, **{n: np.zeros(config.batch, np.float32) for n in ("reward", "going")}}

    return state.Task(
        init=init,
        loss=loss,
        totals=lambda batch: {"rows": batch["now"].shape[0]},
        batches=batches,
        frozen=jax.eval_shape(lambda: init(jax.random.key(0))[0]),
        rules=((r".*", jax.sharding.PartitionSpec()),),
    )


def network(params, states):
    """Q [B,A] of states [B]: a hidden layer over one-hot states, or a table's rows."""
    if "hidden" not in params:
        return params["q"]["kernel"][states]
    hidden = jax.nn.relu(params["hidden"]["kernel"][states] + params["hidden"]["bias"])
    return hidden @ params["q"]["kernel"] + params["q"]["bias"]


class Walk:
    """Episodes of a world, one step after the other, with random actions for a falling share."""

    def __init__(self, env, how, seed):
        self.env, self.how, self.rng = env, how, np.random.default_rng(seed)
        self.now, self.count = int(env.reset(seed=seed)[0]), 0

    def step(self, q) -> tuple:
        """(now, action, reward, after, ended) with q(state) -> [A]; a time limit is no end."""
        how, now = self.how, self.now
        share = min(1.0, self.count / how["epsilon_steps"])
        epsilon = how["epsilon"] + share * (how["epsilon_end"] - how["epsilon"])
        if self.rng.random() < epsilon:
            action = int(self.rng.integers(self.env.action_space.n))
        else:
            known = q(now)
            action = int(self.rng.choice(np.flatnonzero(known == known.max())))
        after, reward, ended, cut, _ = self.env.step(action)
        self.count += 1
        self.now = int(self.env.reset()[0]) if ended or cut else int(after)
        return now, action, float(reward), int(after), bool(ended)


def _table(config, how, env, world, made, logger):
    """(state, Q) of a table."""
    q, visits = np.zeros(world[1].shape), np.zeros(world[1].shape)
    walk = Walk(env, how, config.seed)
    for step in range(1, config.steps + 1):
        now, action, reward, after, ended = walk.step(lambda s: q[s])
        visits[now, action] += 1
        rate = (1 + visits[now, action]) ** -how["power"]
        tabular.update(q, now, action, reward, after, ended, rate, how["gamma"])
        if step % config.log.every == 0 or step == config.steps:
            logger.metrics(step, measure(how, env, world, q))
    return None, q


def _network(config, how, env, world, made, logger):
    """(state, Q) of a network that learns from replayed steps."""
    held = jax.jit(made.fresh, out_shardings=made.shardings)()
    step_of = state.make_step(
        made.task, made.tx, seed=config.seed, schedule=made.schedule, shardings=made.shardings,
        guard=anomaly.Guard.of(config),
    )  # fmt: skip
    every = jnp.arange(len(world[1]))
    all_q = jax.jit(lambda params: network(params, every))
    kinds = {"now": np.int32, "action": np.int32, "after": np.int32}
    names = ("now", "action", "reward", "after", "going")
    memory = {name: np.zeros(how["replay"], kinds.get(name, np.float32)) for name in names}
    walk, rng = Walk(env, how, config.seed), np.random.default_rng((config.seed, 1))
    q, copy = np.asarray(all_q(held.params)), None
    for step in range(1, config.steps + 1):
        now, action, reward, after, ended = walk.step(lambda s: q[s])
        for name, x in zip(names, (now, action, reward, after, not ended), strict=True):
            memory[name][(step - 1) % how["replay"]] = x
        if copy is None or step % how["target"] == 0:
            copy = jax.tree.map(jnp.copy, held.params)
        if step >= how["least"] and step % how["every"] == 0:
            chosen = rng.integers(min(step, how["replay"]), size=config.batch)
            batch = shard.place({name: x[chosen] for name, x in memory.items()}, made.mesh)
            held, metrics = step_of(held, copy, batch)
            q = np.asarray(all_q(held.params))
            if metrics["guard"]["tripped"]:
                raise anomaly.Anomaly(f"step {step}: the loss or a gradient is not finite")
        if step % config.log.every == 0 or step == config.steps:
            logger.metrics(step, measure(how, env, world, q))
    return held, q


def limit(env) -> int:
    return env.spec.max_episode_steps or 1000


def optimum(how, env, world) -> float:
    """What the greedy policy of Q* earns on average within the time limit."""
    q = tabular.optimum(*world, how["gamma"])
    return tabular.reached(*world, q.argmax(-1), begin(env), limit(env))


def begin(env) -> np.ndarray:
    """The probability [S] of each state at the start of an episode."""
    return np.asarray(env.unwrapped.initial_state_distrib, float)


def measure(how, env, world, q) -> dict:
    """return, and the largest error of Q in the states that its own greedy policy can be in."""
    best = tabular.optimum(*world, how["gamma"])
    start = begin(env)
    greedy = np.asarray(q).argmax(-1)
    seen = tabular.visited(world[0], greedy, start)
    off = np.abs(np.asarray(q)[seen, greedy[seen]] - best[seen, greedy[seen]])
    return {
        "return": tabular.reached(*world, greedy, start, limit(env)),
        "error": float(off.max()),
        "value": float(start @ np.asarray(q).max(-1)),
    }
