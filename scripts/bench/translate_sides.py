"""The two sides of `bench translate`: the project's own trainer, and torch's nn.Transformer on its batches."""

import copy
import json
from pathlib import Path

import numpy as np

from eval import translate
from scripts.bench import sides
from train import seq2seq


class Shared(sides.Shared):
    """What both sides have in common: the config, the pairs and the tokenizer that is trained on them."""

    def __init__(self, path: str, overrides, out: Path, points: int):
        self.path, self.overrides, self.out, self.points = path, list(overrides), out, points
        self.config = sides.load(path, self.overrides)
        out.mkdir(parents=True, exist_ok=True)
        self.options, self.tokenizer, self.batches, held = seq2seq.open_parts(self.config)
        for part in ("heldout", "test"):
            if "references" not in held.get(part, {}):
                raise ValueError(f"{path} holds out no pairs as config.data.{part}")
            write(out / f"{part}.npz", held[part]["batches"])
        self.test = held["test"]

    def drawn(self, seed: int, steps: int):
        """The first batches of a seed, in order: nothing else of the stream depends on it."""
        stream = copy.copy(self.batches)
        stream.seed = seed
        return (stream.batch(step) for step in range(steps))

    def stream(self, config, seed: int, steps: int) -> Path:
        """The file with the first `steps` batches of a seed."""
        path = self.out / f"stream-{seed}-{steps}.npz"
        if not path.exists():
            write(path, self.drawn(seed, steps))
        return path


def write(path: Path, batches):
    """Batches of pairs, each of a shape of its own, as one compressed file."""
    arrays = {}
    for number, batch in enumerate(batches):
        for name, values in batch.items():
            small = np.uint8 if name in ("mask", "weights", "rows") else np.int32
            arrays[f"{number}/{name}"] = np.asarray(values).astype(small)
    np.savez_compressed(path, **arrays)


class Ours(sides.Ours):
    """`python -m train`, which scores the test part when it ends."""

    score = "bleu"

    def command(self, workdir, lr, seed, steps, calibrate):
        found = super().command(workdir, lr, seed, steps, calibrate)
        limit = -1 if calibrate else 0
        more = ["--config.decode.beams=1", f"--config.decode.limit={limit}", "--config.average=1"]
        return [*found, *more]

    def read(self, workdir) -> dict:
        path = workdir / seq2seq.RESULTS
        found = json.loads(path.read_text()) if path.exists() else {}
        scores = {name: found.get(f"test/{name}") for name in ("bleu", "chrf")}
        return {**sides.read_run(workdir, 0, "heldout/loss"), **scores}

    def run(self, lr: float, seed: int, steps: int, calibrate: bool = False) -> dict:
        row = super().run(lr, seed, steps, calibrate)
        row["tokens"] = sum(int(b["weights"].sum()) for b in self.shared.drawn(seed, row["steps"]))
        return row


class Torch(sides.Torch):
    """torch's nn.Transformer in one setting."""

    worker, score = "scripts.bench.translator", "bleu"

    def job(self, config) -> dict:
        shared = self.shared
        return {
            "heldout": str(shared.out / "heldout.npz"), "test": str(shared.out / "test.npz"),
            "smoothing": config.smoothing, "eos": shared.tokenizer.eos, "extra": translate.EXTRA,
        }  # fmt: skip

    def run(self, lr: float, seed: int, steps: int, calibrate: bool = False) -> dict:
        row = super().run(lr, seed, steps, calibrate)
        texts = [self.shared.tokenizer.decode(ids) for ids in row.pop("written")]
        if texts:
            found = translate.scores(texts, self.shared.test["references"])
            row.update({name: found[name] for name in ("bleu", "chrf")})
        return row
