"""A round of answers in `bench rollout`: what both sides read, our side, and torch's.

Four models work in a round: the policy writes answers, then policy and frozen reference give the
log-probability of every token of an answer, a reward model one score to it, a value net a value before
each of its tokens. Each side imports its own library when it is built.
"""

import numpy as np

from scripts.bench.serve import timed

PARTS = ("writing", "policy", "reference", "reward", "value")


def prompts(job: dict) -> tuple:
    """(tokens, mask) int32 [rows, prompt]: random prompts of half the length and more, padded left."""
    rng = np.random.default_rng(7)
    shape = (job["rows"], job["prompt"])
    lengths = rng.integers((job["prompt"] + 1) // 2, job["prompt"] + 1, job["rows"])
    mask = (np.arange(job["prompt"]) >= job["prompt"] - lengths[:, None]).astype(np.int32)
    return rng.integers(1, job["model"]["vocab"], shape, np.int32) * mask, mask


def answered(job: dict) -> tuple:
    """(tokens, mask) int32 [rows, prompt + new]: the prompts with random answers."""
    tokens, mask = prompts(job)
    shape = (job["rows"], job["new"])
    made = np.random.default_rng(8).integers(1, job["model"]["vocab"], shape, np.int32)
    return np.concatenate([tokens, made], 1), np.concatenate([mask, np.ones(shape, np.int32)], 1)


class Side:
    """What a worker is asked; a side has `write`, `log_probs`, `score` and `values`.

    A side that is `noted` needs no pass for the policy's log-probabilities: its writing has them.
    """

    noted = False

    def round(self, number: int) -> dict:
        """Seconds and memory of a round, and of each of its `parts`."""
        row = {"parts": {}}
        tokens, mask = prompts(self.job)
        with timed(row):
            with timed(row["parts"].setdefault("writing", {})):
                both = self.write(tokens, mask, number)
            self.said(*both, row["parts"], self.noted)
        return row

    def said(self, tokens, mask, parts: dict, noted: bool = False) -> dict:
        """Arrays of what the models say of rows, without the policy if `noted`; seconds into `parts`."""
        found = {}
        with timed(parts.setdefault("policy", {})):
            if not noted:
                found["policy"] = self.log_probs("policy", tokens, mask)
        with timed(parts.setdefault("reference", {})):
            found["reference"] = self.log_probs("reference", tokens, mask)
        with timed(parts.setdefault("reward", {})):
            found["reward"] = self.score(tokens, mask)
        with timed(parts.setdefault("value", {})):
            found["value"] = self.values(tokens, mask)
        return found

    def given(self) -> dict:
        """What is said of rows that every side knows, as lists."""
        return {name: x.tolist() for name, x in self.said(*answered(self.job), {}).items()}


class Ours(Side):
    """The functions that `train.ppo` calls, compiled once for a shape; no token ends an answer."""

    def __init__(self, job: dict):
        import types

        import jax
        import jax.numpy as jnp

        from models import interop
        from models.build import build, count, example
        from models.options import Options
        from train.core import origin, rollout, rounds

        o = Options.of(job["model"])
        judge = o.replace(head="classify", labels=1, score_bias=False)
        model, net = build(o), build(judge)
        fresh = jax.jit(model.init)(jax.random.key(0), example(o))["params"]
        scored = jax.jit(origin.scores(judge))
        self.job, self.params = job, {
            "policy": fresh, "reference": jax.tree.map(jnp.copy, fresh),
            "reward": scored(jax.random.key(1)), "value": scored(jax.random.key(2)),
        }  # fmt: skip
        if "export" in job:
            for name, options in (("policy", o), ("reward", judge), ("value", judge)):
                params = jax.device_get(self.params[name])
                interop.export(f"{job['export']}/{name}", options, params)
        words = types.SimpleNamespace(vocab=o.vocab, eos=-1, pad=0)
        self.writer = rollout.Writer(model, words, job)
        self.noted = self.writer.noted()
        self.scorer = rollout.Scorer(self.writer, None, net)
        self._values = jax.jit(lambda p, batch: rounds.values(net, p, batch, job["new"]))
        self._seeds = lambda number: rollout.seeds(0, number, job["rows"])
        self.info = {
            "version": f"jax {jax.__version__}", "parameters": count(o), "noted": self.noted,
        }  # fmt: skip

    def write(self, tokens, mask, number):
        made = self.writer(self.params["policy"], tokens, mask, self._seeds(number))
        return made["tokens"], made["mask"]

    def log_probs(self, name, tokens, mask):
        return np.asarray(self.writer.log_probs(self.params[name], tokens, mask))

    def score(self, tokens, mask):
        return self.scorer({"tokens": tokens, "mask": mask}, None, self.params["reward"])

    def values(self, tokens, mask):
        return np.asarray(self._values(self.params["value"], {"tokens": tokens, "mask": mask}))


class Torch(Side):
    """transformers' `generate`, and the forward passes by which TRL's PPO scores what it gave.

    The reward model and the value net are classifiers of one label: all hidden states go through the
    score, the last one's is the reward, those before the answer's tokens are the values.
    """

    def __init__(self, job: dict):
        import torch
        import transformers

        self.job, self.torch = job, torch

        def load(kind, name):
            folder = f"{job['weights']}/{name}"
            found = kind.from_pretrained(folder, attn_implementation="sdpa", dtype=torch.float32)
            return found.eval()

        causal = transformers.AutoModelForCausalLM
        judge = transformers.AutoModelForSequenceClassification
        self.models = {
            "policy": load(causal, "policy"), "reference": load(causal, "policy"),
            "reward": load(judge, "reward"), "value": load(judge, "value"),
        }  # fmt: skip
        self.models["policy"].generation_config.eos_token_id = None
        version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        parameters = sum(p.numel() for p in self.models["policy"].parameters())
        self.info = {"version": version, "parameters": parameters}

    def _inside(self):
        """Without gradients, under bfloat16 autocast if the job wants it."""
        import contextlib

        held = contextlib.ExitStack()
        held.enter_context(self.torch.inference_mode())
        if self.job["autocast"]:
            held.enter_context(self.torch.autocast("cpu", self.torch.bfloat16))
        return held

    def _batch(self, tokens, mask):
        found = [self.torch.from_numpy(np.asarray(x, np.int64)) for x in (tokens, mask)]
        return dict(zip(("input_ids", "attention_mask"), found, strict=True))

    def write(self, tokens, mask, number):
        self.torch.manual_seed(number)
        with self._inside():
            out = self.models["policy"].generate(
                **self._batch(tokens, mask), max_new_tokens=self.job["new"], do_sample=True,
                temperature=self.job["temperature"], top_k=0, top_p=1.0, pad_token_id=0,
            )  # fmt: skip
        return out.numpy(), np.pad(mask, ((0, 0), (0, self.job["new"])), constant_values=1)

    def _placed(self, tokens, mask):
        batch = self._batch(tokens, mask)
        places = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return {**batch, "position_ids": places, "use_cache": False}

    def log_probs(self, name, tokens, mask):
        new, batch = self.job["new"], self._placed(tokens, mask)
        with self._inside():
            logits = self.models[name](**batch).logits[:, -new - 1 : -1].float()
            logits = logits / self.job["temperature"]
            chosen = batch["input_ids"][:, -new:, None]
            return logits.log_softmax(-1).gather(-1, chosen)[..., 0].numpy()

    def _scores(self, name, tokens, mask):
        model = self.models[name]
        with self._inside():
            x = model.base_model(**self._placed(tokens, mask)).last_hidden_state
            return model.score(x)[..., 0].float().numpy()

    def score(self, tokens, mask):
        return self._scores("reward", tokens, mask)[:, -1]

    def values(self, tokens, mask):
        return self._scores("value", tokens, mask)[:, -self.job["new"] - 1 : -1]
