"""Reinforcement learning of a policy from a reward: PPO, GRPO, Dr. GRPO, RLOO, and best of n.

    python -m train --config=configs/ppo.py:tiny --workdir=runs/ppo

`config.ppo.method`:

    ppo      a value net, generalised advantages, clipped losses (Schulman et al. 2017; Ouyang et al. 2022)
    grpo     (r - mean) / std of a prompt's `group` answers; mean over rows (Shao et al. 2024)
    dr_grpo  without std, divided by a fixed length (Liu et al. 2025)
    rloo     minus the mean of the others, ratios of whole answers (Ahmadian et al. 2024)
    best     likelihood of the best of `group` answers: rejection-sampling fine-tuning

`ppo.ratio` "sequence" with clip 3e-4 and clip_high 4e-4 is GSPO's ratio, `ppo.surrogate` "cispo" the loss
of CISPO with ratios up to `ppo.cap`, clip_high 0.28 and the aggregation "tokens" DAPO's. `ppo.old` says
where the log-probabilities of what was sampled come from (`train.core.rollout.OLD`). The aggregation
and the ratio (`ppo.aggregate`, `ppo.ratio`, "" the method's own), the temperature, what becomes of an answer that
does not end (`reward.missing_eos`), and where the KL to the frozen reference goes are named in the
config: `kl.place` "reward" is k1 in the reward (beta fixed, or adaptive towards `kl.target`), "loss" an
estimator in the loss (k3 is GRPO's, whose gradient is that of the forward KL). `reward.kind` is "model",
a reward model of ours at `reward.checkpoint`, or a plain function (`train.core.rewards.PLAIN`). A reward
model with other tokens than the policy's, an encoder among them, reads the answers' texts
(`train.core.judges`). `reward.normalise` gives the scores of the reference's answers mean 0 and deviation
1, `reward.demonstrations`, a column, gives people's answers mean 0. The value net starts as a reward model
with the policy's tokens, else as the policy with a head of zeros. `mix.weight` adds that much of the
likelihood of `mix.source`, the pre-training mix (ptx).
`config.steps` counts minibatches: a round has epochs * minibatches of them.
"""

import functools

import jax
import jax.numpy as jnp

from models.build import build, example
from models.likelihood import of_tokens
from train.core import (
    bounds,
    checkpoint,
    demonstrations,
    judges,
    kl,
    loop,
    losses,
    origin,
    policy,
    rewards,
    rollout,
    rounds,
    shard,
    start,
)
from train.core.fit import Fitted
from train.core.plan import Plan, plan
from train.core.sections import one_of, positive, section
from train.core.state import Task
from train.data import answers, instructions, prompts, text
from train.data import task as tasks

SECTIONS = {
    "ppo": {
        "method": "ppo", "group": 4, "epochs": 4, "minibatches": 1, "new": 16, "temperature": 1.0,
        "gamma": 1.0, "lam": 0.95, "clip": 0.2, "clip_high": 0.0, "dual": 0.0, "clip_value": 0.2,
        "value": 0.1, "aggregate": "", "ratio": "", "surrogate": "clip", "cap": 5.0, "old": "auto",
    },
    "kl": {
        "beta": 0.05, "controller": "fixed", "target": 6.0, "horizon": 10_000.0, "place": "reward",
        "estimator": "k3", "alarm": 50.0,
    },
    "reward": {
        "kind": "model", "checkpoint": "", "reads": "pair", "missing_eos": "replace",
        "amount": 1.0, "normalise": False, "demonstrations": "", "whiten": False,
    },
    "mix": {"weight": 0.0, "source": ""},
}  # fmt: skip
ROUND = ("method", "epochs", "minibatches", "new")  # of another, and the run is another one
AGGREGATE = {
    "ppo": "tokens", "grpo": "sequences", "dr_grpo": "fixed", "rloo": "sequences", "best": "tokens",
}  # fmt: skip


def run(config, workdir, plain=None) -> Fitted:
    """Trains, evaluates on held-out prompts, saves. plain: a reward function instead of the config's."""
    opened = _open(config, plain)
    config, o, value, tokenizer, setting, held = opened
    own = setting.scorer.reader is None
    if plain is not None:
        setting.scorer = rollout.Scorer(setting.writer, plain)
    first, frozen, setting.same = _parameters(config, o, value, setting.how, own)
    frozen = origin.placed(frozen, config)
    task = make_task(config, o, value, tokenizer, setting, frozen, lambda: first)
    if held:
        task.evaluators["valid"] = rounds.evaluator(config, setting, held, frozen)
    return loop.train(config, task, workdir, functools.partial(rounds.Rounds, setting))


def check(config) -> tuple[Plan, dict]:
    """The plan and the first batch; nothing is allocated on the devices."""
    config, o, value, tokenizer, setting, _ = _open(config)
    frozen = {"reference": origin.zeros(o)}
    return plan(config, make_task(config, o, value, tokenizer, setting, frozen)), (
        setting.minibatch(0)
    )


def settings(config) -> dict:
    """Every section with its defaults; ValueError names what is wrong."""
    how = {name: section(config, name, fields) for name, fields in SECTIONS.items()}
    ppo, reward = how["ppo"], how["reward"]
    one_of("ppo.method", ppo["method"], rollout.METHODS)
    ppo["aggregate"] = ppo["aggregate"] or AGGREGATE[ppo["method"]]
    one_of("ppo.aggregate", ppo["aggregate"], policy.AGGREGATIONS)
    ppo["ratio"] = ppo["ratio"] or ("product" if ppo["method"] == "rloo" else "token")
    one_of("ppo.ratio", ppo["ratio"], policy.LEVELS)
    one_of("ppo.surrogate", ppo["surrogate"], policy.SURROGATES)
    one_of("ppo.old", ppo["old"], rollout.OLD)
    one_of("kl.controller", how["kl"]["controller"], kl.CONTROLLERS)
    one_of("kl.place", how["kl"]["place"], ("reward", "loss"))
    one_of("kl.estimator", how["kl"]["estimator"], ("k2", "k3"))
    one_of("reward.missing_eos", reward["missing_eos"], rewards.ENDINGS)
    one_of("reward.kind", reward["kind"], ("model", *rewards.PLAIN))
    one_of("reward.reads", reward["reads"], judges.READS)
    names = ("group", "epochs", "minibatches", "new", "temperature", "clip", "cap")
    positive("ppo", ppo, names)
    if ppo["method"] == "best" and "beta" not in config.get("kl", {}):
        how["kl"]["beta"] = 0.0  # the best by the reward alone
    bounds.refuse(how)
    size = config.batch * ppo["minibatches"]
    if ppo["method"] in rollout.GROUPED and (ppo["group"] < 2 or size % ppo["group"]):
        raise ValueError(
            f"config.ppo.group={ppo['group']}: {size} answers a round (batch x minibatches) are no "
            "groups of that size; expected at least 2, a divisor"
        )
    if ppo["new"] >= config.length:
        raise ValueError(
            f"config.ppo.new={ppo['new']} leaves no room for a prompt in config.length={config.length}"
        )
    if config.steps % (ppo["epochs"] * ppo["minibatches"]):
        raise ValueError(
            f"config.steps={config.steps} is no whole number of rounds of "
            f"{ppo['epochs']} x {ppo['minibatches']} steps (ppo.epochs x ppo.minibatches)"
        )
    if config.anomaly.policy == "rollback":
        raise ValueError("config.anomaly.policy='rollback' would repeat a round; use stop or skip")
    return how


def _open(config, plain=None):
    """(config, policy's options, value net's or None, tokenizer, setting, held-out prompts)."""
    config = config.copy_and_resolve_references().unlock()
    o = origin.quiet(origin.options(config))
    config.model = o.plain()
    origin.check_policy(o)
    how = settings(config)
    parts = prompts.open_parts(config)
    if plain is None and how["reward"]["kind"] in rewards.PLAIN:
        prompts.refuse_missing(parts)
    texts = lambda: sorted({x for p in parts["train"] for x in (p.words, p.target) if x})
    tokenizer = tasks.open_tokenizer(config, checkpoint.find, texts, encoder=False)
    tasks.refuse_other_tokens(config, tokenizer, checkpoint.find)
    loop.fits(o, tokenizer)
    tokenizer.chat_template = origin.template(config, tokenizer)
    tasks.same_tokens(config.get("reference", {}), tokenizer, checkpoint.find, "config.reference")
    dialogue = instructions.Dialogue(tokenizer, tokenizer.chat_template)
    rows = {
        part: prompts.encode(found, dialogue, config.length - how["ppo"]["new"])
        for part, found in parts.items()
    }
    room = max(len(row) for row in rows["train"])
    judge = judges.opened(how["reward"], tokenizer)
    value = None
    if how["ppo"]["method"] == "ppo":
        same = judge is not None and judge.reader is None
        value = judge.o if same else o.replace(head="classify", labels=1, score_bias=True)
    writer = rollout.Writer(build(o), tokenizer, how["ppo"], shard.mesh(config.mesh))
    scorer = rollout.Scorer(
        writer, rewards.PLAIN.get(how["reward"]["kind"]),
        *((build(judge.o), judge.reader) if judge else ()),
    )  # fmt: skip
    group = how["ppo"]["group"] if how["ppo"]["method"] in rollout.GROUPED else 1
    sizes = config.copy_and_resolve_references()
    sizes.batch = config.batch * how["ppo"]["minibatches"] // group
    about = {"tokenizer": tokenizer.hash, "prompts": answers.digest(rows["train"])}
    about[start.HOW] = {f"ppo.{name}": how["ppo"][name] for name in ROUND} | {"ppo.group": group}
    stream = answers.Stream(None, len(rows["train"]), sizes, fingerprint=about)
    setting = rounds.Setting(
        config, how, writer, scorer, rows["train"], parts["train"], stream, room,
        value and build(value), _mix(config, how, tokenizer), loop.slices(config),
    )  # fmt: skip
    if how["reward"]["demonstrations"]:
        ends, new = writer.settings.eos, how["ppo"]["new"]
        found = parts["train"], rows["train"]
        setting.demonstrations = demonstrations.encode(*found, dialogue, ends, new)
    held = (parts["valid"], rows["valid"]) if "valid" in parts else None
    return config.lock(), o, value, tokenizer, setting, held


def _mix(config, how, tokenizer):
    """The stream of the pre-training mix, or None."""
    if not how["mix"]["weight"]:
        return None
    data = {"source": how["mix"]["source"], "packing": "contiguous", "heldout": ("none",)}
    made = {"seed": config.seed, "length": config.length, "batch": config.batch, "data": data}
    return text.open_stream(made, tokenizer)


def _parameters(config, o, value, how, own: bool = True):
    """(the first parameters, the frozen ones, whether the reference is the first policy).

    own: a reward model, if there is one, has the policy's tokens.
    """
    first = {"policy": origin.params(config.init, o, config.seed)}
    given = config.get("reference", {})
    other = bool(given) and bool(given.get("checkpoint", "") or given.get("reference", ""))
    frozen = {"reference": jax.tree.map(jnp.copy, first["policy"])}
    if other:
        origin.refuse_other_model(given, o, "config.reference")
        frozen["reference"] = origin.params(given, o, config.seed)
    if how["reward"]["kind"] == "model":
        judge = origin.quiet(origin.named(how["reward"]))
        frozen["reward"] = origin.params(how["reward"], judge, config.seed)
    if value is not None:
        if "reward" in frozen and own:
            first["value"] = jax.tree.map(jnp.copy, frozen["reward"])
        else:
            made = dict(origin.params({}, value, config.seed))
            score = jax.tree.map(jnp.zeros_like, made["score"])
            body = {name: x for name, x in first["policy"].items() if name in made}
            first["value"] = {**made, **jax.tree.map(jnp.copy, body), "score": score}
    return first, frozen, not other


def make_task(config, o, value, tokenizer, setting, frozen, given=None) -> Task:
    """The objective as pure functions, on minibatches of `train.core.rounds`."""
    model, critic = build(o), value and build(value)
    how = setting.how
    ppo, penalty, weight = how["ppo"], how["kl"], how["mix"]["weight"]

    def totals(batch):
        found = policy.counts(batch["answer"])
        if weight:
            found["mix"] = jnp.maximum(batch["mix_weights"].sum(), 1)
        return found

    def loss(params, frozen, extra, batch, rng, totals):
        mask, both = batch["answer"], {name: batch[name] for name in ("tokens", "mask")}
        own = {"params": params["policy"]}
        found, _ = of_tokens(model, own, both, ppo["temperature"], tokenizer.vocab, ppo["new"])
        found = jnp.where(mask > 0, found, batch["old"])
        ratio = policy.ratios(found, batch["old"], mask, ppo["ratio"])
        each = policy.loss_of(ratio, found, batch, ppo)
        if penalty["place"] == "loss" and penalty["beta"]:
            far = kl.estimate(found, batch["reference"], penalty["estimator"])
            each = each + penalty["beta"] * far * (mask > 0)
        value = policy.aggregate(each, mask, ppo["aggregate"], totals, ppo["new"])
        sums = policy.watch(ratio, found, batch, ppo)
        if critic is not None:
            said = rounds.values(critic, params["value"], both, ppo["new"])
            square, cut = policy.value_loss(
                said, batch["values"], batch["returns"], ppo["clip_value"]
            )
            value = value + ppo["value"] * policy.aggregate(square, mask, "tokens", totals)
            sums["value_loss"] = (square * mask).sum(), mask.sum()
            sums["value_clipped"] = (cut * mask).sum(), mask.sum()
        if weight:
            other, sums["mix"] = _likelihood(model, own, batch, totals["mix"])
            value = value + weight * other
        return value, (extra, sums)

    def init(key):
        made = {"policy": _fresh(o)(key)}
        return ({**made, "value": _fresh(value)(key)} if value is not None else made), {}

    stream = setting.stream
    stream.batch = setting.minibatch
    return loop.task(
        model,
        tokenizer,
        stream,
        init=init,
        loss=loss,
        totals=totals,
        frozen=frozen,
        carry=setting.carry(),
        dropout=False,
        evaluators={},
        given=given,
    )


def _likelihood(model, variables, batch, total):
    """(mean negative log-likelihood, (sum, count)) of the pre-training mix in a minibatch."""
    x, _ = model.apply(variables, {"tokens": batch["mix_tokens"]}, method="features")
    head = lambda x: model.apply(variables, x, method="logits")
    found, sums = losses.cross_entropy(head, x, batch["mix_targets"], batch["mix_weights"], total)
    return found, sums["nll"]


def _fresh(o):
    return lambda key: build(o).init(key, example(o))["params"]
