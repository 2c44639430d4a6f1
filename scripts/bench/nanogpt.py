"""The peer of the benchmarks: a plain GPT in torch, trained on batches that a folder holds.

    python -m scripts.bench.nanogpt JOB.json

It needs torch and numpy and nothing of ours, so that it runs in an environment of its own. The job
(see `scripts.bench.material`) names the architecture by the options of `models.options`, the
learning rate of every step, the batches, the held-out batches and the settings; the result is one
line of JSON on stdout. The model is the decoder of Radford et al. 2019 as anyone would write it in
torch today: one matrix for queries, keys and values, `scaled_dot_product_attention`, AdamW with the
weight decay, clipping and betas that the job gives. Options that it does not have are an error:
a benchmark of two architectures would say nothing.

Seconds are those between asking for the first batch and the end of the last step, without the
evaluations. Bits per character are the summed negative log-probability of every held-out target,
in bits, over the characters of the held-out works.
"""

import contextlib
import json
import math
import re
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}
# The only value that this model has for an option of ours.
FIXED = {
    "kind": "decoder", "norm_place": "pre", "embed_norm": False, "experts": 0, "causal": True,
    "score_scale": "sqrt", "scale_by_layer": False, "embed_scale": False, "head": "lm",
    "rope_scaling": "none", "drop_table": False,
}  # fmt: skip


def check(o: dict):
    """ValueError for an option that this model does not have."""
    for name, value in FIXED.items():
        if o.get(name, value) != value:
            raise ValueError(f"the torch peer has model.{name}={value!r} only, not {o[name]!r}")
    if o["act"] not in ACTIVATIONS or o["positions"] not in ("learned", "rotary", "none"):
        raise ValueError(f"the torch peer has no act={o['act']} with positions={o['positions']}")
    if not o["q_bias"] == o["k_bias"] == o["v_bias"]:
        raise ValueError("the torch peer has one bias for queries, keys and values, or none")
    if set(o["pattern"]) != {"global"}:
        raise ValueError("the torch peer has global attention only")


def norm(o):
    kind = nn.RMSNorm if o["norm"] == "rms" else nn.LayerNorm
    return kind(o["width"], eps=o["norm_eps"])


class Attention(nn.Module):
    """Causal attention with H heads that share G pairs of keys and values."""

    def __init__(self, o):
        super().__init__()
        self.heads, self.groups = o["heads"], o["kv_heads"] or o["heads"]
        self.size = o["head_size"] or o["width"] // o["heads"]
        self.drop = o["drop_attn"]
        parts = self.heads + 2 * self.groups
        self.qkv = nn.Linear(o["width"], parts * self.size, bias=o["q_bias"])
        self.o = nn.Linear(self.heads * self.size, o["width"], bias=o["o_bias"])

    def forward(self, x, rotary):
        B, T, _ = x.shape
        x = self.qkv(x).view(B, T, -1, self.size).transpose(1, 2)
        q, k, v = x.split([self.heads, self.groups, self.groups], dim=1)
        if rotary is not None:
            q, k = turn(q, *rotary), turn(k, *rotary)
        y = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=self.drop if self.training else 0.0,
            enable_gqa=self.groups != self.heads,
        )  # fmt: skip
        return self.o(y.transpose(1, 2).reshape(B, T, -1))


def turn(x, cos, sin):
    """Rotates the halves of the last axis, as Su et al. 2021 in the layout of LLaMA's checkpoints."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Mlp(nn.Module):
    def __init__(self, o):
        super().__init__()
        hidden = o["ff"] or 4 * o["width"]
        self.act = ACTIVATIONS[o["act"]]
        self.up = nn.Linear(o["width"], hidden, bias=o["mlp_bias"])
        self.gate = nn.Linear(o["width"], hidden, bias=o["mlp_bias"]) if o["gated"] else None
        self.down = nn.Linear(hidden, o["width"], bias=o["mlp_bias"])

    def forward(self, x):
        if self.gate is None:
            return self.down(self.act(self.up(x)))
        return self.down(self.act(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.attn_norm, self.attn = norm(o), Attention(o)
        self.mlp_norm, self.mlp = norm(o), Mlp(o)
        self.drop = nn.Dropout(o["drop_resid"])

    def forward(self, x, rotary):
        x = x + self.drop(self.attn(self.attn_norm(x), rotary))
        return x + self.drop(self.mlp(self.mlp_norm(x)))


class GPT(nn.Module):
    def __init__(self, o):
        super().__init__()
        check(o)
        self.o = o
        self.embed = nn.ModuleDict({"tokens": nn.Embedding(o["vocab"], o["width"])})
        if o["positions"] == "learned":
            self.embed["positions"] = nn.Embedding(o["context"], o["width"])
        self.drop = nn.Dropout(o["drop_embed"])
        self.blocks = nn.ModuleList(Block(o) for _ in range(o["layers"]))
        self.norm = norm(o) if o["final_norm"] else nn.Identity()
        self.head = nn.Linear(o["width"], o["vocab"], bias=o["head_bias"])
        if o["tied"]:
            self.head.weight = self.embed["tokens"].weight
        self.initialise()

    def initialise(self):
        """Normal weights as the options say, zero biases, unit scales."""
        o = self.o
        for name, value in self.named_parameters():
            path = path_of(name)
            if path.endswith("bias"):
                nn.init.zeros_(value)
            elif path.endswith(("kernel", "embedding")):
                std = o["init_positions"] if "positions" in path else o["init_std"]
                if o["init_residual"] and re.search(r"(attn/o|mlp/down)/kernel$", path):
                    std = o["init_std"] / math.sqrt(2 * o["layers"])
                nn.init.normal_(value, std=std)

    def rotary(self, T, device):
        if self.o["positions"] != "rotary":
            return None
        half = (self.o["head_size"] or self.o["width"] // self.o["heads"]) // 2
        rates = self.o["rope_theta"] ** (-torch.arange(half, device=device) / half)
        angles = torch.arange(T, device=device)[:, None] * rates
        return angles.cos(), angles.sin()

    def forward(self, tokens):
        T = tokens.shape[1]
        x = self.embed["tokens"](tokens)
        if "positions" in self.embed:
            x = x + self.embed["positions"].weight[:T]
        x = self.drop(x)
        rotary = self.rotary(T, x.device)
        for block in self.blocks:
            x = block(x, rotary)
        return self.head(self.norm(x))


def path_of(name: str) -> str:
    """The path that our tree has for a parameter, so that one regex serves both sides."""
    *parts, leaf = name.split(".")
    path = "/".join(parts).replace("qkv", "q")
    if leaf == "weight":
        leaf = "embedding" if parts[0] == "embed" else "scale" if "norm" in parts[-1] else "kernel"
    return f"{path}/{leaf}"


class Batches:
    """The batches of a folder by step, [B, T] int64 tokens and targets and float32 weights."""

    def __init__(self, folder: Path):
        self.shapes = np.load(folder / "shapes.npy")
        self.starts = np.concatenate([[0], np.cumsum(self.shapes.prod(1))])
        self.arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r")
            for name in ("tokens", "targets", "weights")
            if (folder / f"{name}.npy").exists()
        }

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, step):
        span = slice(self.starts[step], self.starts[step + 1])
        shape = tuple(self.shapes[step])
        tokens, targets = (
            torch.from_numpy(self.arrays[name][span].astype(np.int64)).view(shape)
            for name in ("tokens", "targets")
        )
        weights = self.arrays.get("weights")
        if weights is None:
            return tokens, targets, torch.ones(shape)
        return tokens, targets, torch.from_numpy(weights[span].astype(np.float32)).view(shape)


def losses(model, tokens, targets, weights):
    """The summed weighted negative log-probability in nats, and the sum of the weights."""
    logits = model(tokens).float().flatten(0, 1)
    each = F.cross_entropy(logits, targets.flatten(), reduction="none")
    return (each * weights.flatten()).sum(), weights.sum()


@torch.no_grad()
def bits(model, heldout, characters: int) -> float:
    """Bits per character over every held-out target, in float32."""
    model.eval()
    nats = math.fsum(losses(model, *heldout[step])[0].item() for step in range(len(heldout)))
    model.train()
    return nats / math.log(2) / characters


def optimizer(model, job):
    """AdamW; what the job's regex names is decayed."""
    decayed, plain = [], []
    for name, value in model.named_parameters():
        (decayed if re.search(job["decay"], path_of(name)) else plain).append(value)
    groups = [
        {"params": decayed, "weight_decay": job["weight_decay"]},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=0.0, betas=(job["b1"], job["b2"]), eps=job["eps"], fused=job["fused"] or None
    )


def fit(job: dict, model, optim, data, losses, score) -> dict:
    """Trains as the job says: seconds, times, steps and the curve of `score(model)`.

    losses(model, batch) -> (the summed loss of a batch of `data`, what it is divided by).
    """
    run = torch.compile(model) if job["compile"] else model
    cast = torch.autocast("cpu", torch.bfloat16) if job["autocast"] else contextlib.nullcontext()
    rates, times, curve = np.load(job["rates"]), [], []
    for step in range(job["steps"]):
        start = time.perf_counter()
        for group in optim.param_groups:
            group["lr"] = float(rates[step])
        with cast:
            total, number = losses(run, data[step])
            loss = total / number
        optim.zero_grad(set_to_none=True)
        loss.backward()
        if job["clip"]:
            nn.utils.clip_grad_norm_(model.parameters(), job["clip"])
        optim.step()
        loss.item()
        times.append(time.perf_counter() - start)
        if step + 1 in job["points"]:
            curve.append([sum(times), score(model)])
    if job["evaluate"]:
        curve.append([sum(times), score(model)])
    return {"seconds": sum(times), "times": times, "steps": job["steps"], "curve": curve}


def train(job: dict) -> dict:
    """Trains as the job says; see the module's docstring for what is counted."""
    torch.manual_seed(job["seed"])
    model = GPT(job["model"])
    result = {
        "parameters": sum(value.numel() for value in model.parameters()),
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    if not job["steps"]:
        return result
    data, heldout = Batches(Path(job["data"])), Batches(Path(job["heldout"]))
    score = lambda model: bits(model, heldout, job["characters"])
    loss = lambda model, batch: losses(model, *batch)
    result |= fit(job, model, optimizer(model, job), data, loss, score)
    result["tokens"] = int(data.shapes[: job["steps"]].prod(1).sum())
    if job["evaluate"]:
        result["bits_per_character"] = result["curve"][-1][1]
    return result


if __name__ == "__main__":
    print(json.dumps(train(json.loads(Path(sys.argv[1]).read_text()))))
