"""Our encoder-decoders under the reference library's names and layouts, for `tests.parity`.

What differs: the reference's positions count slots, it moves labels or the source to the right where
the decoder is given nothing, and BART's and Marian's embedding of padding gets no gradient.
"""

from pathlib import Path

import jax
import numpy as np

from models import families, interop
from models.build import build
from models.interop import describe, hf, tensors
from models.interop.names import TABLES
from models.interop.rename import lines, nest
from models.options import Options
from tests.parity_cases import Case
from tests.parity_decoders import classification, cross_entropy
from tests.parity_encoders import span_loss

TYPES = ("t5", "bart", "marian")
INPUTS = {  # their names, ours
    "input_ids": "tokens", "attention_mask": "mask", "decoder_input_ids": "decoder_tokens",
    "decoder_attention_mask": "decoder_mask",
}  # fmt: skip
LABELS = ("labels", "start_positions", "end_positions")


class Peer:
    """A case's model: `outputs(inputs)` and `gradients(inputs, of)` speak the reference's names."""

    def __init__(self, path: Path):
        loaded = interop.load(path)
        self.special = loaded.special
        self._hold(loaded.options, loaded.config, loaded.variables)

    def _hold(self, o, config, variables):
        self.o, self.config, self.variables, self.model = o, config, variables, build(o)
        self._run = jax.jit(self._forward)

    def batch(self, inputs: dict) -> dict:
        """Our batch with the labels under their own names."""
        unknown = sorted(set(inputs) - {*INPUTS, *LABELS})
        if unknown:
            raise ValueError(f"the input {unknown[0]!r} is not supported")
        batch = {
            ours: np.asarray(inputs[theirs]).astype(np.int32)
            for theirs, ours in INPUTS.items()
            if theirs in inputs
        }
        batch["positions"] = _slots(batch["tokens"])
        if self.o.kind == "encdec":
            if "decoder_tokens" not in batch:
                labels = inputs.get("labels") if self.o.head == "lm" else None
                source = np.asarray(inputs["input_ids"] if labels is None else labels)
                batch["decoder_tokens"] = self._shift(source)
            batch["decoder_positions"] = _slots(batch["decoder_tokens"])
        if self.o.head == "classify":
            ends = batch["tokens"] == self.config.get("eos_token_id", 2)
            slots = np.arange(ends.shape[1])
            batch["read"] = np.where(ends, slots, 0).max(1).astype(np.int32)
        return batch | {name: np.asarray(inputs[name]) for name in LABELS if name in inputs}

    def _shift(self, ids):
        """The ids moved by one behind the start token; -100 becomes padding."""
        pad = self.config.get("pad_token_id", 0)
        moved = np.concatenate([np.full((len(ids), 1), self.o.start), ids[:, :-1]], 1)
        return np.where(moved == -100, pad, moved).astype(np.int32)

    def outputs(self, inputs: dict, wanted=()) -> dict:
        """Everything that the reference returns for these inputs, as numpy arrays by its names."""
        batch, o, out = self.batch(inputs), self.o, {}
        found = jax.tree.map(np.asarray, self._run(self.variables["params"], batch))
        sides = [("", "x")] if o.kind == "encoder" else [("encoder_", "encoded"), ("decoder_", "x")]
        for side, last in sides:
            made = found["made"][side]
            for i, state in enumerate([*made["hidden"]["blocks"][:-1], found[last]]):
                out[f"{side}hidden_states.{i}"] = state
            for i, weights in enumerate(made["maps"]["attn"]):
                out[f"{side}attentions.{i}"] = weights
            for i, weights in enumerate(made["maps"].get("cross", ())):
                out[f"cross_attentions.{i}"] = weights
        out["last_hidden_state"] = found["x"]
        if o.kind == "encdec":
            out["encoder_last_hidden_state"] = found["encoded"]
        if o.head == "spans":
            out["start_logits"], out["end_logits"] = np.moveaxis(found["scores"], -1, 0)
        for name in ("logits", "scores"):
            if name in found and o.head != "spans":
                out["logits"] = found[name]
        return {**out, "loss": found["loss"]} if "loss" in found else out

    def _forward(self, params, batch):
        variables, o = {"params": params}, self.o
        asked = ["maps", "hidden"]
        given, found = {k: v for k, v in batch.items() if k not in LABELS}, {}
        if o.kind == "encoder":
            (x, _), made = self.model.apply(variables, given, method="features", mutable=asked)
            found.update(x=x, made={"": made})
        else:
            encoded, first = self.model.apply(variables, given, method="encode", mutable=asked)
            (x, _), second = self.model.apply(
                variables, {**given, "encoded": encoded}, method="features", mutable=asked
            )
            take = lambda made, side: {name: made[name][side] for name in asked}  # noqa: E731
            sides = {"encoder_": take(first, "encoder"), "decoder_": take(second, "decoder")}
            found.update(x=x, encoded=encoded, made=sides)
        if o.head == "lm":
            found["logits"] = self.model.apply(variables, x, method="logits")
        elif o.head != "none":
            found["scores"] = self.model.apply(variables, x, given, method="scores")
        loss = self._loss(params, batch)
        return found if loss is None else {**found, "loss": loss}

    def _loss(self, params, batch, model=None):
        """The reference's loss, or None without the labels that it takes."""
        model, variables, o = model or self.model, {"params": params}, self.o
        given = {k: v for k, v in batch.items() if k not in LABELS}
        labels = batch.get("labels")
        if (labels is None and "start_positions" not in batch) or o.head == "none":
            return None
        x, _ = model.apply(variables, given, method="features")
        if o.head == "lm":
            logits = model.apply(variables, x, method="logits")
            return cross_entropy(logits.reshape(-1, o.vocab), labels.reshape(-1))
        scores = model.apply(variables, x, given, method="scores")
        if o.head == "spans":
            return span_loss(scores, batch)
        if o.head == "tokens":
            return cross_entropy(scores.reshape(-1, scores.shape[-1]), labels.reshape(-1))
        return classification(scores, labels, self.config.get("problem_type"))

    def gradients(self, inputs: dict, of: str) -> dict:
        """d(loss)/d(parameter) under the reference's names."""
        if of != "loss":
            raise ValueError(f"gradients are taken of 'loss', not of {of!r}")
        batch, o, params = self.batch(inputs), self.o, self.variables["params"]
        pad = self.config.get("pad_token_id")
        cut = pad is not None and self.config.get("model_type") in ("bart", "marian")
        apart = cut and o.tied and o.head == "lm"
        if apart:
            o, table = o.replace(tied=False), params["embed"]["tokens"]["embedding"]
            params = {**params, "head": {**params.get("head", {}), "kernel": table.T}}
        model = build(o)
        grads = jax.jit(jax.grad(lambda params: self._loss(params, batch, model)))(params)
        grads = jax.tree.map(np.array, grads)
        if cut:
            grads["embed"]["tokens"]["embedding"][pad] = 0.0
            if o.encoder_vocab:
                grads["encoder"]["embed"]["tokens"]["embedding"][pad] = 0.0
        if apart:
            grads["embed"]["tokens"]["embedding"] += grads["head"].pop("kernel").T
        return hf.rename(self.o, grads)

    def export(self, names) -> dict:
        """The tensors that an export of this model holds."""
        describe.write(self.o, self.special)
        return hf.rename(self.o, self.variables["params"])


class Vaswani(Peer):
    """The 2017 model made of torch's layers; its config.json holds the constructor's arguments."""

    def __init__(self, path: Path):
        case = Case(path)
        c, files = case.config, tensors.open_folder(path)
        row = families.row(
            "transformer", "base", vocab=c["vocab"], width=c["d"], heads=c["heads"], ff=c["ff"],
            layers=c["nd"], encoder_layers=c["ne"], norm_eps=c["eps"],
        )  # fmt: skip
        o, flat = Options.of(row), {}
        for line in lines(TABLES["transformer"], o, ""):
            flat.update(zip(line.ours, line.load([files[n] for n in line.theirs]), strict=True))
        self._hold(o, {}, {"params": nest(flat)})

    def export(self, names) -> dict:
        return hf.rename(self.o, self.variables["params"])


OTHERS = {"torch/Vaswani": Vaswani}


def _slots(tokens):
    return np.broadcast_to(np.arange(tokens.shape[-1]), tokens.shape).astype(np.int32)
