"""Our convolutional nets under the names and layouts of transformers and timm, for `tests.parity`.

Theirs are [B,C,H,W]. The kit's timm cases hold a constructor's arguments as config.json.
"""

import json
from pathlib import Path

import jax
import numpy as np

from models.build import build
from models.interop import config, describe, hf, tensors
from tests.parity_decoders import classification

TYPES = ("resnet", "efficientnet")
INPUTS = ("pixel_values", "labels")


class Peer:
    """A case's model: `outputs(inputs)` and `gradients(inputs, of)` speak the reference's names."""

    kind = ""  # of the table of names; "": the config's
    given = {}  # arguments that the kit passes to the constructor and does not write down

    def __init__(self, path: Path):
        self.config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        c = {**self.given, **self.config}
        c |= {"model_type": self.kind} if self.kind else {}
        self.o, self.variables = hf.convert(c, tensors.open_folder(path))
        self.model = build(self.o)
        self._run = jax.jit(self._forward)

    def batch(self, inputs: dict) -> dict:
        """Our batch, with the labels under their own name."""
        unknown = sorted(set(inputs) - set(INPUTS))
        if unknown:
            raise ValueError(f"the input {unknown[0]!r} is not supported")
        batch = {"images": np.moveaxis(np.asarray(inputs["pixel_values"], np.float32), 1, -1)}
        return batch | ({"labels": np.asarray(inputs["labels"])} if "labels" in inputs else {})

    def outputs(self, inputs: dict, wanted=()) -> dict:
        """Everything that the reference returns for these inputs, as numpy arrays by its names."""
        found = self._run(self.variables["params"], self.batch(inputs))
        front = lambda x: np.moveaxis(np.asarray(x), -1, 1)  # noqa: E731
        maps, out = found["maps"], {}
        stages = [f"stage{i + 1}" for i in range(len(self.o.depths))]
        out["features"] = out["last_hidden_state"] = front(found["x"])
        blocks = maps["blocks"] if self.o.kind == "efficientnet" else [maps[s] for s in stages]
        for i, state in enumerate((maps["stem"], *blocks)):
            out[f"hidden_states.{i}"] = front(state)
        chosen = self.config.get("out_features") or stages[-1:]
        for i, name in enumerate(chosen):
            if name in maps:
                out[f"feature_maps.{i}"] = front(maps[name])
        pooled = np.asarray(found["pooled"])
        flat = self.kind or self.o.kind == "efficientnet"
        out["pooler_output"] = pooled if flat else pooled[..., None, None]
        if "scores" in found:
            out["logits"] = np.asarray(found["scores"])
        if "loss" in found:
            out["loss"] = np.asarray(found["loss"])
        return out

    def _forward(self, params, batch):
        variables = {**self.variables, "params": params}
        (x, _), made = self.model.apply(variables, batch, mutable=["hidden"], method="features")
        out = {"x": x, "maps": made["hidden"]}
        out["pooled"] = self.model.apply(variables, x, method="pooled")
        if self.o.head == "classify":
            out["scores"] = self.model.apply(variables, x, method="scores")
            if "labels" in batch:
                out["loss"] = self._loss(params, batch)
        return out

    def _loss(self, params, batch):
        scores = self.model.apply({**self.variables, "params": params}, batch)["scores"]
        return classification(scores, batch["labels"], self.config.get("problem_type"))

    def gradients(self, inputs: dict, of: str) -> dict:
        """d(loss)/d(parameter) under the reference's names, with the running statistics."""
        if of != "loss":
            raise ValueError(f"gradients are taken of 'loss', not of {of!r}")
        grads = jax.jit(jax.grad(self._loss))(self.variables["params"], self.batch(inputs))
        return hf.rename(self.o, jax.tree.map(np.asarray, grads), self.kind)

    def export(self, names) -> dict:
        """The tensors that an export of this model holds, by the names that the case has for them."""
        if not self.kind:
            config.read(describe.write(self.o))
        extra = {"batch_stats": self.variables["batch_stats"]}
        return hf.rename(self.o, self.variables["params"], self.kind, extra)


class ResNet(Peer):
    kind = "timm/ResNet"


class EfficientNet(Peer):
    kind = "timm/EfficientNet"
    given = {"act_layer": "silu"}


OTHERS = {"timm/ResNet": ResNet, "timm/EfficientNet": EfficientNet}
