"""The loop of a policy that learns from its own answers: rounds of writing, judging and updating.

A round writes answers to `batch * minibatches / group` prompts, `group` to each, scores them, and then
goes through them `epochs` times in minibatches, each epoch in a fresh order, by the shared step. What a
round wrote stands in the state's carry with the coefficient of the KL penalty and the scale of the
rewards, so that a run may be saved and resumed at any step, bit for bit.
"""

import dataclasses

import jax
import numpy as np

from train.core import demonstrations, kl, log, policy, rewards, rollout, shard
from train.core.fit import Loop
from train.data import prompts

ROWS = ("answer", "old", "reference", "advantages", "returns", "values")
# Nats by which a policy may differ from itself; in half precision a hundred times that.
CLOSE = 1e-4
SHOWN, SAMPLES = 5, "samples.jsonl"  # held-out prompts whose answers are kept at every evaluation


class Setting:
    """What the rounds of a run need beside the state: how, prompts, writer, scorer.

    how: {"ppo", "kl", "reward"} as dicts; prompts: rows of ids; asked: the prompts; stream: which
    prompts a round takes; room: tokens of the longest prompt; same: whether the reference is the policy
    that the run starts from; demonstrations: people's answers that the reward is to be shifted by;
    slices: which of how many slices of a minibatch this process trains on. Rounds every process has whole.
    """

    def __init__(
        self, config, how, writer, scorer, prompts, asked, stream, room, value=None, mix=None,
        slices=(0, 1),
    ):  # fmt: skip
        self.seed, self.batch, self.how = config.seed, config.batch, how
        self.writer, self.scorer, self.room = writer, scorer, room
        self.prompts, self.asked, self.stream = prompts, asked, stream
        self.mix, self.same, self.local, self.shown = mix, True, None, []
        self.process, self.processes = slices
        self.demonstrations = []
        ppo = how["ppo"]
        self.size = self.batch * ppo["minibatches"]
        self.steps = ppo["epochs"] * ppo["minibatches"]
        self.group = ppo["group"] if ppo["method"] in rollout.GROUPED else 1
        self.values = None
        if value is not None:
            self.values = jax.jit(lambda params, batch: values(value, params, batch, ppo["new"]))

    def carry(self) -> dict:
        """The carry before the first round."""
        time, new = self.room + self.how["ppo"]["new"], self.how["ppo"]["new"]
        rows = {name: np.zeros((self.size, new), np.float32) for name in ROWS}
        rows |= {name: np.zeros((self.size, time), np.int32) for name in ("tokens", "mask")}
        scale = {"beta": self.how["kl"]["beta"], "gain": 1.0, "bias": 0.0}
        return {"rows": rows, **{name: np.float32(x) for name, x in scale.items()}}

    def ask(self, number: int) -> tuple:
        """(tokens, mask [N,P], prompts) of a round; copies of a prompt are neighbours."""
        numbers = [n for n in self.stream.numbers(number) for _ in range(self.group)]
        fill = self.writer.settings.fill
        tokens, mask = prompts.padded([self.prompts[n] for n in numbers], self.room, fill)
        return tokens, mask, [self.asked[n] for n in numbers]

    def minibatch(self, step: int) -> dict:
        """This process's rows of a step of the round that is held, with the pre-training mix's."""
        number, within = divmod(step, self.steps)
        epoch, part = divmod(within, self.how["ppo"]["minibatches"])
        order = np.random.default_rng((self.seed, 13, number, epoch)).permutation(self.size)
        chosen = np.sort(order[part * self.batch : (part + 1) * self.batch])
        held = self.local or self.carry()["rows"]
        made = {name: x[chosen] for name, x in held.items()}
        if self.mix is not None:
            found = self.mix.batch(step)
            made |= {f"mix_{name}": found[name] for name in ("tokens", "targets", "weights")}
        share = self.batch // self.processes
        own = slice(self.process * share, (self.process + 1) * share)
        return {name: x[own] for name, x in made.items()}


def values(model, params, batch, new: int):
    """V [N,R]: what the value net says before each token of an answer."""
    x, _ = model.apply({"params": params}, batch, method="features", last=new + 1)
    return model.apply({"params": params}, x[:, -new - 1 : -1], method="values")[..., 0]


class Rounds(Loop):
    """`train.core.fit.Loop` with a round of answers wherever one is due."""

    def __init__(self, setting: Setting, *args):
        super().__init__(*args)
        self.setting, self.told = setting, set()

    def onward(self, state, done):
        self.setting.local = None
        return super().onward(state, done)

    def rows(self, state, done: int) -> dict:
        if self.setting.local is None:
            self.setting.local = jax.device_get(state.carry["rows"])
        return self.setting.minibatch(done)

    def advance(self, state, frozen, done: int):
        if done % self.setting.steps == 0:
            self.report()
            self.incidents.read(jax.device_get(state.guard))  # what is void begins no round
            with (
                self.dog.off(), self.meter.paused(), self.stopping.interruptible(),
                self.keeping(state, done, "the round"),
            ):  # fmt: skip
                state = self.round(state, frozen, done)
        return super().advance(state, frozen, done)

    def round(self, state, frozen, done: int):
        """Writes, scores and judges; the state with the round's rows in its carry.

        It may be cut short: the given state stays as it is.
        """
        own, number = self.setting, done // self.setting.steps
        carry = {name: float(state.carry[name]) for name in ("beta", "gain", "bias")}
        made, raw = self.write(state.params, frozen, number)
        if number == 0 and own.how["reward"]["normalise"]:
            carry["gain"], carry["bias"] = rewards.affine(self.plain_scores(raw, frozen))
        if number == 0 and own.demonstrations:
            carry["bias"] = -demonstrations.mean(own, frozen.get("reward"))
            said = (
                f"{len(own.demonstrations):,} demonstrations score {-carry['bias']:.4g} on average"
            )
            self.logger.say(f"{said}; that is taken off every score")
        made["score"] = self.scored(raw, made, carry)
        found = self.judged(state.params, made, carry["beta"])
        watched = rollout.watched(made, raw, own.how["ppo"]["method"], own.group)
        if own.values is not None:
            mask = made["answer"]
            watched["explained"] = float(policy.explained(found["values"], found["returns"], mask))
        self.identities(state.params, made, watched, number)
        if number == 0 and own.group > 1:
            self.logger.say(
                "a loss near 0 is how a group method begins: its advantages cancel where ratios are 1, "
                "its gradients do not; round/reward shows whether it learns"
            )
        self.tell(done, {**watched, "beta": carry["beta"]})
        if own.how["kl"]["controller"] == "adaptive":
            target, horizon = own.how["kl"]["target"], own.how["kl"]["horizon"]
            carry["beta"] = kl.adapt(carry["beta"], watched["kl"], own.size, target, horizon)
        rows = {name: np.asarray(x, np.float32) for name, x in found.items()}
        rows |= {
            name: np.asarray(made[name], np.float32) for name in ("answer", "old", "reference")
        }
        rows |= {name: np.asarray(made[name], np.int32) for name in ("tokens", "mask")}
        own.local = rows
        fresh = {"rows": rows, **{name: np.float32(x) for name, x in carry.items()}}
        carry = jax.tree.map(lambda x, old: shard.put(x, old.sharding), fresh, state.carry)
        return dataclasses.replace(state, carry=carry)

    def write(self, params, frozen, number: int) -> tuple:
        """(a round's answers with their log-probabilities, their raw scores)."""
        own = self.setting
        tokens, mask, asked = own.ask(number)
        made = own.writer(params["policy"], tokens, mask, rollout.seeds(own.seed, number, own.size))
        made["old"] = made["sampled"]
        both = made["tokens"], made["mask"]
        made["reference"] = own.writer.log_probs(frozen["reference"], *both)
        if not own.writer.noted():
            made["old"] = own.writer.log_probs(params["policy"], *both)
        elif own.how["kl"]["place"] == "reward":  # the loss compares passes
            made["reference"] = rollout.settled(made["old"], made["reference"])
        raw = own.scorer(made, asked, frozen.get("reward"))
        if own.how["ppo"]["method"] == "ppo":
            raw = rewards.finite(raw)
        return made, raw

    def plain_scores(self, raw, frozen):
        """Scores of the fixed reference's answers to the first round's prompts: the policy's own, if
        it starts as the reference."""
        own = self.setting
        if own.same:
            return raw
        tokens, mask, asked = own.ask(0)
        seeds = rollout.seeds(own.seed, 0, own.size, 19)
        made = own.writer(frozen["reference"], tokens, mask, seeds)
        return own.scorer(made, asked, frozen.get("reward"))

    def scored(self, raw, made, carry):
        """Scores on the scale of the run, the rule for answers without an end applied."""
        how = self.setting.how["reward"]
        score = carry["gain"] * raw + carry["bias"]
        return np.asarray(
            rewards.missing_eos(score, made["ended"], how["missing_eos"], how["amount"])
        ).astype(np.float32)

    def judged(self, params, made, beta: float) -> dict:
        """advantages, returns and values [N,R]."""
        own, ppo = self.setting, self.setting.how["ppo"]
        values = np.zeros_like(made["answer"])
        if own.values is not None:
            both = own.writer.place(made, ("tokens", "mask"))
            values = shard.whole(own.values(params["value"], both)) * made["answer"]
        given = {name: made[name] for name in ("answer", "old", "reference", "score")}
        found, returns = rollout.judge(
            given,
            {"values": values},
            method=ppo["method"],
            size=max(own.group, 2),
            in_reward=own.how["kl"]["place"] == "reward",
            whitened=own.how["reward"]["whiten"],
            gamma=ppo["gamma"],
            lam=ppo["lam"],
            beta=beta,
        )
        return {"advantages": found, "returns": returns, "values": values}

    def identities(self, params, made, watched: dict, number: int):
        """At the first round the policy is the reference, and what wrote is what is trained.

        ValueError where they are not: by float32's rounding, or, if sampling's own log-probabilities are
        asked for where it is coarser, by what `rollout.failing` takes for a mismatch.
        """
        if number:
            return
        writer = self.setting.writer
        new = writer.log_probs(params["policy"], made["tokens"], made["mask"])
        near = rollout.COARSE if writer.noted() and not writer.exact() else CLOSE
        ratio = np.abs(np.exp((new - made["old"]) * made["answer"]) - 1).max()
        off = [f"the ratio differs from 1 by {ratio:.1e}"] * bool(ratio > near)
        if self.setting.same:
            apart = np.abs((made["old"] - made["reference"]) * made["answer"]).max()
            off += [f"KL to the reference is not 0 (a token is {apart:.1e} off)"] * bool(
                apart > near
            )
        if off:
            hint = "; config.ppo.old=scored has no rounding between them" * writer.noted()
            raise ValueError(
                f"before the first update {' and '.join(off)}; nothing can be learned so{hint}"
            )

    def report(self):
        first = self.pending is not None and self.pending[0] == 1
        super().report()
        if first:
            self.begun()

    def begun(self):
        """In the first step the loss must see the policy that wrote: no ratio differs from 1."""
        exact = self.setting.writer.model.o.dtype == "float32"
        far, cut = self.latest["apart"], self.latest["clipped"]
        if far > CLOSE * (1 if exact else 100) or (exact and cut):
            raise ValueError(
                f"in the first step the ratios differ from 1 by {far:.1e} on average, and {cut:.1%} of "
                "them are clipped; what is trained is not what wrote the answers"
            )

    def evaluate(self, state, done: int):
        """As ever, and keeps what the policy wrote to the same few prompts."""
        super().evaluate(state, done)
        if self.setting.shown and jax.process_index() == 0:
            log.append(self.workdir, SAMPLES, done, self.setting.shown, self.logger.say)

    def tell(self, done: int, values: dict):
        """Logs a round, and says once what shows that it is failing."""
        named = {f"{log.ROUND}{name}": float(x) for name, x in values.items()}
        self.logger.metrics(done, named)
        self.latest.update(named)
        for words in rollout.failing(values, self.setting.how["kl"]["alarm"]):
            if words.split("(")[0] not in self.told:
                self.told.add(words.split("(")[0])
                self.logger.say(f"step {done}: {words}")


def evaluator(config, setting, held, frozen):
    """`run(variables)`: what the policy writes to held-out prompts, with the same seeds each time."""
    asked, rows = held
    most = config.eval.batches * config.batch if config.eval.batches else len(rows)
    count = min(len(rows), most)
    numbers = [n % count for n in range(-(-count // config.batch) * config.batch)]
    fill, room = setting.writer.settings.fill, max(len(row) for row in rows)

    def run(variables) -> dict:
        raw, ended, lengths, texts = [], [], [], []
        for start in range(0, len(numbers), config.batch):
            part = numbers[start : start + config.batch]
            tokens, mask = prompts.padded([rows[n] for n in part], room, fill)
            keys = rollout.seeds(config.seed, start, len(part), 17)
            made = setting.writer(variables["params"]["policy"], tokens, mask, keys)
            found = setting.scorer(made, [asked[n] for n in part], frozen.get("reward"))
            real = np.arange(start, start + len(part)) < count
            raw += found[real].tolist()
            ended += made["ended"][real].tolist()
            lengths += made["lengths"][real].tolist()
            texts += setting.writer.texts(made) if start < SHOWN else []
        first = zip(asked[:count], texts, raw, strict=False)
        setting.shown = [
            {"prompt": p.text, "answer": text, "reward": None if np.isnan(x) else x}
            for p, text, x in first
        ][:SHOWN]
        measured = {"reward": np.nanmean(raw), "ended": np.mean(ended), "length": np.mean(lengths)}
        return {name: float(x) for name, x in measured.items()}

    return run
