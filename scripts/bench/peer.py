"""The torch worker of the benchmarks: transformers' models or the plain GPT, trained on one batch.

    python -m scripts.bench.peer JOB.json

It needs torch (and transformers for its models) and nothing of ours but `scripts.bench.nanogpt`,
`scripts.bench.serve` and the modules of pictures and of rounds beside it. The job holds the options
for the plain GPT (`model`) and the reference's config.json (`reference`); training is what a user of
torch writes: the model's own loss, clipping, AdamW with decay on matrices and tables.
"""

import contextlib
import sys
import time

import numpy as np
import torch
from torch import nn

from scripts.bench import nanogpt, pictures, rounds, texts
from scripts.bench.serve import matmul_rate, serve, timed


def batch(vocab: int, rows: int, length: int, step: int):
    """The batch that our worker draws for this step."""
    rng = np.random.default_rng(step)
    text = rng.integers(0, vocab, (rows, length + 1), dtype=np.int32)
    return torch.from_numpy(text[:, :-1].astype(np.int64)), torch.from_numpy(
        text[:, 1:].astype(np.int64)
    )


def reference(job: dict):
    """The transformers model of a config.json, with its fused attention; weights from `weights`."""
    import transformers

    options = dict(job["reference"])
    options.pop("dtype", None)
    config = transformers.AutoConfig.for_model(**options)
    config.use_cache = bool(job.get("use_cache", False))
    if job.get("weights"):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            job["weights"], attn_implementation="sdpa", dtype=torch.float32
        )
    else:
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return model, f"transformers {transformers.__version__}"


def cast(job: dict):
    """bfloat16 autocast, if the job wants it."""
    return torch.autocast("cpu", torch.bfloat16) if job["autocast"] else contextlib.nullcontext()


class Train:
    """A model, its optimiser and a step."""

    def __init__(self, job: dict):
        self.job, self.done = job, 0
        torch.manual_seed(0)
        began = time.perf_counter()
        self.version = f"torch {torch.__version__}"
        kinds = (pictures, texts)
        self.other = next((m for m in kinds if job["model"]["kind"] in m.KINDS), None)
        if job["peer"] == "transformers":
            self.model, name = self.other.reference(job) if self.other else reference(job)
            self.version = f"{name}, {self.version}"
        else:
            self.model = nanogpt.GPT(job["model"])
        self.model.train()
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        rest = [p for p in self.model.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": job["weight_decay"]},
             {"params": rest, "weight_decay": 0.0}],
            lr=job["lr"], betas=(job["b1"], job["b2"]), eps=job["eps"],
            fused=job["fused"] or None,
        )  # fmt: skip
        self.run = torch.compile(self.model) if job["compile"] else self.model
        self.init_seconds = time.perf_counter() - began

    def loss(self, tokens, targets):
        if self.job["peer"] == "transformers":
            return self.run(input_ids=tokens, labels=targets, shift_labels=targets).loss
        weights = torch.ones(targets.shape)
        total, number = nanogpt.losses(self.run, tokens, targets, weights)
        return total / number

    def advance(self):
        job = self.job
        with cast(job):
            if self.other:
                loss = self.other.loss(self.run, job, self.done)
            else:
                loss = self.loss(
                    *batch(job["model"]["vocab"], job["batch"], job["length"], self.done)
                )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if job["clip"]:
            nn.utils.clip_grad_norm_(self.model.parameters(), job["clip"])
        self.optimizer.step()
        self.done += 1
        return loss

    def steps(self, steps: int) -> dict:
        row = {}
        with timed(row):
            for _ in range(steps):
                loss = self.advance()
            value = loss.item()
        row.update(cpu=row["cpu"] / steps, wall=row["wall"] / steps)
        return {**row, "loss": value}

    def info(self) -> dict:
        began = time.perf_counter()
        loss = self.advance().item()
        return {
            "version": self.version,
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "init_seconds": self.init_seconds,
            "first_step_seconds": time.perf_counter() - began,
            "first_loss": loss,
        }


class Decode:
    """transformers' `generate` on the weights that our worker exported."""

    def __init__(self, job: dict):
        self.job = job
        kind = job["model"]["kind"]
        self.model, name = (texts.reference if kind == "encdec" else reference)(job)
        self.model.eval()
        self.model.generation_config.eos_token_id = None  # nothing ends a row
        self.info = {"version": f"{name}, torch {torch.__version__}"}

    def generate(self, rows: int, beams: int, prompt: int, new: int) -> dict:
        """One call; its new tokens beside its times."""
        rng = np.random.default_rng(7)
        ids = rng.integers(0, self.model.config.vocab_size, (rows, prompt), dtype=np.int32)
        tokens = torch.from_numpy(ids.astype(np.int64))
        row = {}
        with timed(row), cast(self.job):
            out = self.model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new,
                do_sample=False, num_beams=beams, pad_token_id=0,
            )  # fmt: skip
        return {**row, "tokens": out[:, -new:].tolist()}


def matmul(dtype: str) -> dict:
    """The rate of torch's matrix product in FLOP/s."""

    def multiply(size):
        x = torch.ones(size, size, dtype=getattr(torch, dtype))
        return lambda: x @ x

    row = {}
    with timed(row):
        rate = matmul_rate(multiply)
    return {**row, "rate": rate}


def build(job: dict):
    """(info, handlers) of a job; see `scripts.bench.serve`."""
    torch.set_num_threads(job["threads"])
    if job["kind"] == "matmul":
        return {"version": f"torch {torch.__version__}"}, {"matmul": matmul}
    if job["kind"] == "decode":
        decode = Decode(job)
        return decode.info, {"generate": decode.generate}
    if job["kind"] == "rollout":
        side = rounds.Torch(job)
        return side.info, {"round": side.round, "given": side.given}
    train = Train(job)
    return train.info(), {"steps": train.steps}


if __name__ == "__main__":
    serve(sys.argv[1], build)
