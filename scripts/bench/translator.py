"""The torch worker of `bench translate`: torch.nn.Transformer as a user of torch trains and runs it.

    python -m scripts.bench.translator JOB.json

It needs torch and numpy, and of ours only `scripts.bench.nanogpt`'s loop. The module is stock: scaled
embeddings, one table for both sides and the head, sinusoids, label smoothing by the loss; what it writes is
greedy, each token read again from the start of its target, as the module keeps no keys and values.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from scripts.bench import nanogpt


class Translator(nn.Module):
    """nn.Transformer with the options `o` of ours, embeddings and head."""

    def __init__(self, o: dict):
        super().__init__()
        self.width = o["width"]
        self.table = nn.Embedding(o["vocab"], o["width"])
        nn.init.normal_(self.table.weight, 0.0, o["width"] ** -0.5)
        self.drop = nn.Dropout(o["drop_embed"])
        self.core = nn.Transformer(
            o["width"], o["heads"], o["layers"], o["layers"], o["ff"] or int(o["mlp_ratio"] * o["width"]),
            o["drop_resid"], "relu", batch_first=True,
        )  # fmt: skip
        rates = torch.exp(torch.arange(0, o["width"], 2) * (-math.log(10000.0) / o["width"]))
        angles = torch.arange(o["context"])[:, None] * rates
        waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
        self.register_buffer("waves", waves, persistent=False)

    def embed(self, tokens):
        x = self.table(tokens) * math.sqrt(self.width)
        return self.drop(x + self.waves[: tokens.shape[1]])

    def decode(self, tokens, memory, padding, last=False):
        ahead = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        x = self.core.decoder(
            self.embed(tokens), memory, tgt_mask=ahead, tgt_is_causal=True,
            memory_key_padding_mask=padding,
        )  # fmt: skip
        return F.linear(x[:, -1:] if last else x, self.table.weight)

    def forward(self, batch):
        padding = batch["mask"] == 0
        memory = self.core.encoder(self.embed(batch["tokens"]), src_key_padding_mask=padding)
        return self.decode(batch["decoder_tokens"], memory, padding)

    @torch.no_grad()
    def write(self, batch, start: int, eos: int, extra: int) -> list:
        """The tokens chosen one by one for every row that counts, without the end."""
        padding = batch["mask"] == 0
        memory = self.core.encoder(self.embed(batch["tokens"]), src_key_padding_mask=padding)
        made = torch.full((len(memory), 1), start)
        ended = torch.zeros(len(memory), dtype=torch.bool)
        most = (batch["mask"].sum(1) + extra).clamp(max=len(self.waves) - 1)
        while not ended.all():
            found = self.decode(made, memory, padding, last=True)[:, 0].argmax(-1)
            made = torch.cat([made, torch.where(ended, eos, found)[:, None]], 1)
            ended |= (found == eos) | (made.shape[1] > most)
        rows = [ids[1:].tolist() for ids, real in zip(made, batch["rows"], strict=True) if real]
        return [ids[: ids.index(eos)] if eos in ids else ids for ids in rows]


class Batches:
    """The batches of a file, integers as int64."""

    def __init__(self, path: str):
        with np.load(path) as held:
            self.rows = {}
            for name in held.files:
                number, _, part = name.partition("/")
                kind = torch.float32 if part == "weights" else torch.int64
                self.rows.setdefault(int(number), {})[part] = torch.from_numpy(held[name]).to(kind)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


def nats(model, batch, smoothing: float):
    """(sum of the loss over real targets, their number)."""
    logits = model(batch).float().flatten(0, 1)
    each = F.cross_entropy(
        logits, batch["targets"].flatten(), reduction="none", label_smoothing=smoothing
    )
    return (each * batch["weights"].flatten()).sum(), batch["weights"].sum()


@torch.no_grad()
def heldout(model, batches) -> float:
    """Nats a target token, not smoothed."""
    model.eval()
    sums = [nats(model, batches[n], 0.0) for n in range(len(batches))]
    model.train()
    return sum(float(total) for total, _ in sums) / sum(float(count) for _, count in sums)


def train(job: dict) -> dict:
    """Trains, and writes the test part; seconds are those of training alone."""
    torch.manual_seed(job["seed"])
    model = Translator(job["model"])
    optim = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(job["b1"], job["b2"]), eps=job["eps"],
        weight_decay=job["weight_decay"], fused=job["fused"] or None,
    )  # fmt: skip
    data, held = Batches(job["data"]), Batches(job["heldout"])
    loss = lambda model, batch: nats(model, batch, job["smoothing"])
    result = nanogpt.fit(job, model, optim, data, loss, lambda model: heldout(model, held))
    result["tokens"] = sum(int(data[step]["weights"].sum()) for step in range(job["steps"]))
    written = []
    if job["evaluate"]:
        model.eval()
        test = Batches(job["test"])
        for number in range(len(test)):
            written += model.write(test[number], job["model"]["start"], job["eos"], job["extra"])
    parameters = sum(value.numel() for value in model.parameters())
    return {**result, "parameters": parameters, "version": torch.__version__, "written": written}


if __name__ == "__main__":
    print(json.dumps(train(json.loads(Path(sys.argv[1]).read_text()))))
