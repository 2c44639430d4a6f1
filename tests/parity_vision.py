"""Our models of images under the names and layouts of the reference library, timm and the textbook.

What differs: their images and maps of features are [B,C,H,W]; the reference's Swin gives the weights
of each stage's last block alone, and states of a stage after merging. Its layers remember: once a
window has filled a stage's grid, that stage's windows no longer move, whatever image comes next.
"""

import json
from pathlib import Path

import jax
import numpy as np

from models import families
from models.build import build
from models.interop import describe, hf, tensors
from models.interop.names import TABLES
from models.interop.rename import lines, nest
from models.options import Options
from models.pixels import pixel_sums
from models.swin import grids
from tests.parity_decoders import classification, cross_entropy

TYPES = ("vit", "deit", "beit", "swin")
TIMM = (
    "timm/VisionTransformer", "timm/VisionTransformerDistilled", "timm/Beit",
    "timm/SwinTransformer",
)  # fmt: skip
INPUTS = ("pixel_values", "labels", "bool_masked_pos", "attention_mask")


class Peer:
    """A case's model: `outputs(inputs)` and `gradients(inputs, of)` speak the reference's names."""

    def __init__(self, path: Path):
        self.config, files = self.read(path), tensors.open_folder(path)
        self.table = self.config["model_type"]
        self.o, variables = self.convert(files)
        self.model, self.params = build(self.o), variables["params"]
        self._run = jax.jit(self._forward)

    def read(self, path: Path) -> dict:
        return tensors.read_json(path / "config.json")

    def convert(self, files):
        return hf.convert(self.config, files)

    def batch(self, inputs: dict) -> dict:
        """Our batch, with labels under their own name."""
        unknown = sorted(set(inputs) - set(INPUTS))
        if unknown:
            raise ValueError(f"the input {unknown[0]!r} is not supported")
        batch = {"images": np.asarray(inputs["pixel_values"]).transpose(0, 2, 3, 1)}
        for theirs, ours in (("bool_masked_pos", "masked"), ("attention_mask", "mask")):
            if theirs in inputs:
                batch[ours] = np.asarray(inputs[theirs]).astype(np.int32)
        return batch | ({"labels": np.asarray(inputs["labels"])} if "labels" in inputs else {})

    def outputs(self, inputs: dict, wanted=()) -> dict:
        """Everything that the reference returns for these inputs, as numpy arrays by its names."""
        batch = self.batch(inputs)
        if self.o.head == "masked" and "labels" in batch:
            batch["places"] = _places(batch)
        if self.table == "swin":
            self._remember(batch["images"].shape[1:3])
        found = jax.tree.map(np.asarray, self._run(self.params, batch))
        out = {k: v for k, v in found.items() if k not in ("maps", "hidden")}
        if self.o.kind == "swin":
            return out | self._stages(found, batch)
        for i, state in enumerate(found["hidden"]["blocks"]):
            out[f"hidden_states.{i}"] = state
        for i, weights in enumerate(found["maps"]["attn"]):
            out[f"attentions.{i}"] = weights
        return out

    def _remember(self, images: tuple):
        """Stops the windows of stages that an image filled, as the reference's layers do."""
        filled = [i for i, grid in enumerate(grids(self.o, images)) if min(grid) <= self.o.side]
        still = tuple(sorted({*self.o.still, *filled}))
        if still != self.o.still:
            self.o = self.o.replace(still=still)
            self.model, self._run = build(self.o), jax.jit(self._forward)

    def _stages(self, found, batch):
        out, sizes = {}, grids(self.o, batch["images"].shape[1:3])
        sizes = [*sizes[:1], *sizes[1:], sizes[-1]]
        for i, (state, grid) in enumerate(zip(found["hidden"]["stages"], sizes, strict=True)):
            out[f"hidden_states.{i}"] = state
            whole = state.reshape(len(state), *grid, -1)
            out[f"reshaped_hidden_states.{i}"] = whole.transpose(0, 3, 1, 2)
        blocks = [weights for maps in found["maps"]["attn"] for weights in maps]
        for i, weights in enumerate(blocks):
            out[f"block_attentions.{i}"] = weights
        for i, maps in enumerate(found["maps"]["attn"]):
            out[f"attentions.{i}"] = maps[-1]
        return out

    def _forward(self, params, batch):
        variables, o, out = {"params": params}, self.o, {}
        ask = lambda x, *more, method: self.model.apply(variables, x, *more, method=method)
        given = {k: v for k, v in batch.items() if k not in ("labels", "places")}
        (x, _), made = self.model.apply(
            variables, given, method="features", mutable=["maps", "hidden"]
        )
        out.update(last_hidden_state=x, maps=made["maps"], hidden=made["hidden"])
        out["features"] = x
        if o.kind == "swin":
            grid = grids(o, batch["images"].shape[1:3])[-1]
            out["features"] = x.reshape(len(x), *grid, -1)
        if o.head == "none":
            out["pooler_output"] = ask(x, given, method="pooled")
        if o.head in ("classify", "distilled"):
            out["logits"] = ask(x, given, method="scores")
        if o.head == "distilled":
            out["cls_logits"], out["distillation_logits"] = ask(x, method="both")
        if o.head == "masked":
            out["logits"] = ask(x, method="logits")
        if o.head == "pixels":
            out["reconstruction"] = ask(x, given, method="pixels").transpose(0, 3, 1, 2)
        loss = self._loss(out, batch)
        return out if loss is None else {**out, "loss": loss}

    def _loss(self, out, batch):
        """The reference's loss, or None without what it takes."""
        o, labels = self.o, batch.get("labels")
        if o.head == "pixels" and "masked" in batch:
            made = out["reconstruction"].transpose(0, 2, 3, 1)
            total, count = pixel_sums(batch["images"], made, batch["masked"], o.patch_sides)
            return total / (count + 1e-5) / o.channels
        if labels is None or o.head not in ("classify", "masked"):
            return None
        if o.head == "masked":
            logits = out["logits"].reshape(-1, o.vocab)[batch["places"]]
            return cross_entropy(logits, labels)
        return classification(out["logits"], labels, self.config.get("problem_type"))

    def gradients(self, inputs: dict, of: str) -> dict:
        """d(loss)/d(parameter) under the reference's names."""
        if of != "loss":
            raise ValueError(f"gradients are taken of 'loss', not of {of!r}")
        batch = self.batch(inputs)
        if self.o.head == "masked":
            batch["places"] = _places(batch)
        take = jax.jit(jax.grad(lambda params: self._forward(params, batch)["loss"]))
        grads = jax.tree.map(np.asarray, take(self.params))
        return hf.rename(self.o, grads, self.table)

    def export(self, names) -> dict:
        """The tensors that an export of this model holds, by the names that the case has for them."""
        if self.table in TYPES:
            describe.write(self.o.replace(still=()))
        elif self.table in TIMM:
            describe.spelled(self.o)
        made, prefix = hf.rename(self.o, self.params, self.table), TABLES[self.table].prefix
        if self.o.head == "none" and prefix and any(name.startswith(prefix) for name in names):
            made = {prefix + name: array for name, array in made.items()}
        return made


def _places(batch) -> np.ndarray:
    """The places of masked patches, counted through the whole batch."""
    return np.flatnonzero(batch["masked"].reshape(-1))


class Timm(Peer):
    """A model of timm's: its config.json holds the constructor's arguments, case.json the class."""

    def read(self, path: Path) -> dict:
        meta = json.loads((path / "case.json").read_text(encoding="utf-8"))
        return {
            **tensors.read_json(path / "config.json"),
            "model_type": f"timm/{meta['model_class']}",
        }


class Textbook(Peer):
    """The textbook's listing, made with batch_first=True.

    Computed in float64: without residuals and norms each layer makes rounding errors ten times
    larger, and torch's own float32 misses such a case by five tolerances on another machine.
    """

    def outputs(self, inputs: dict, wanted=()) -> dict:
        with jax.enable_x64(True):
            return super().outputs(inputs, wanted)

    def read(self, path: Path) -> dict:
        return {**tensors.read_json(path / "config.json"), "model_type": "textbook"}

    def convert(self, files):
        c = self.config
        o = Options.of(
            families.row(
                "vit", "textbook", image_size=c["image"], patch=c["patch"], width=c["dim"],
                channels=c.get("channels", 3), heads=c["heads"], layers=c["layers"],
                labels=c["classes"], dtype="float64",
            )
        )  # fmt: skip
        flat = {}
        for line in lines(TABLES["textbook"], o, ""):
            flat.update(
                zip(line.ours, line.load([files[name] for name in line.theirs]), strict=True)
            )
        return o, {"params": nest(flat)}


OTHERS = {**dict.fromkeys(TIMM, Timm), "torch/TextbookViT": Textbook}
