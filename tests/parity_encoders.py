"""Our encoders under the reference library's names and layouts, for `tests.parity`.

What differs: the reference's positions count slots (RoBERTa's the ids), pooled heads read slot 0,
padding's row of the token table (RoBERTa's of the position table as well) gets no gradient.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from models import interop
from models.build import build
from models.interop import describe, hf
from models.interop.names import TABLES
from tests import parity_banded
from tests.parity_decoders import classification, cross_entropy, language

TYPES = ("bert", "roberta", "albert", "longformer", "distilbert")
INPUTS = {  # their names, ours
    "input_ids": "tokens", "attention_mask": "mask", "token_type_ids": "token_types",
    "encoder_hidden_states": "encoded", "encoder_attention_mask": "encoded_mask",
    "global_attention_mask": "global_mask",
}  # fmt: skip
LABELS = (
    "labels", "next_sentence_label", "sentence_order_label", "start_positions", "end_positions",
)  # fmt: skip


class Peer:
    """A case's model: `outputs(inputs)` and `gradients(inputs, of)` speak the reference's names."""

    def __init__(self, path: Path):
        self.loaded = interop.load(path)
        self.o, self.config = self.loaded.options, self.loaded.config
        self.model, self.variables = build(self.o), self.loaded.variables
        self._run = jax.jit(self._forward)

    def batch(self, inputs: dict) -> dict:
        """Our batch with the labels under their own names."""
        unknown = sorted(set(inputs) - {*INPUTS, *LABELS, "position_ids"})
        if unknown:
            raise ValueError(f"the input {unknown[0]!r} is not supported")
        batch = {
            ours: np.asarray(inputs[theirs]) for theirs, ours in INPUTS.items() if theirs in inputs
        }
        batch = {k: v.astype(np.float32 if k == "encoded" else np.int32) for k, v in batch.items()}
        if "token_types" in batch and not self.o.token_types:
            del batch["token_types"]
        tokens = batch["tokens"]
        if "position_ids" in inputs:
            places = np.asarray(inputs["position_ids"]) - self.o.position_offset
        else:
            places = None if self.o.position_pad >= 0 else np.arange(tokens.shape[-1])
        if places is not None:
            batch["positions"] = np.broadcast_to(places, tokens.shape).astype(np.int32)
        if self.o.windows and "global_mask" not in batch:
            marks = parity_banded.marks(tokens, self.o.head, self.config.get("sep_token_id", 2))
            batch.update({} if marks is None else {"global_mask": marks})
        batch["read"] = np.zeros(tokens.reshape(-1, tokens.shape[-1]).shape[0], np.int32)
        return batch | {name: np.asarray(inputs[name]) for name in LABELS if name in inputs}

    def outputs(self, inputs: dict, wanted=()) -> dict:
        """Everything that the reference returns for these inputs, as numpy arrays by its names."""
        batch = self.batch(inputs)
        found = jax.tree.map(np.asarray, self._run(self.variables["params"], batch))
        o, out = self.o, {}
        if "loss" in found:
            out["loss"] = found["loss"]
        out["last_hidden_state"] = found["x"]
        for i, state in enumerate(found["hidden"]):
            out[f"hidden_states.{i}"] = state
        for i, weights in enumerate(found["maps"]["attn"]):
            if o.windows:
                out.update(parity_banded.maps(o, i, weights, batch))
            else:
                out[f"attentions.{i}"] = weights
        for i, weights in enumerate(found["maps"].get("cross", ())):
            out[f"cross_attentions.{i}"] = weights
        if "pooled" in found:
            out["pooler_output"] = found["pooled"]
        if "logits" in found:
            out["prediction_logits" if o.head == "pretrain" else "logits"] = found["logits"]
        if o.head == "pretrain":
            name = "sop_logits" if o.share_groups else "seq_relationship_logits"
            out[name] = found["scores"]
        elif o.head == "spans":
            out["start_logits"], out["end_logits"] = np.moveaxis(found["scores"], -1, 0)
        elif "scores" in found:
            out["logits"] = found["scores"]
        return out

    def _forward(self, params, batch):
        given = {k: v for k, v in batch.items() if k not in LABELS}
        out, made = self.model.apply({"params": params}, given, mutable=["maps", "hidden"])
        x = made["hidden"]["blocks"][-1]
        out.update(x=x, hidden=made["hidden"]["blocks"], maps=made["maps"])
        loss = self._loss(params, batch)
        return out if loss is None else {**out, "loss": loss}

    def _loss(self, params, batch, model=None):
        """The reference's loss, or None without the labels that it takes."""
        model, variables, o = model or self.model, {"params": params}, self.o
        given = {k: v for k, v in batch.items() if k not in LABELS}
        labels = batch.get("labels")
        x, _ = model.apply(variables, given, method="features")
        if o.head == "spans" and "start_positions" in batch:
            return span_loss(model.apply(variables, x, given, method="scores"), batch)
        if labels is None or o.head in ("none", "embed"):
            return None
        if o.head in ("masked", "pretrain"):
            head = lambda x: model.apply(variables, x, method="logits")  # noqa: E731
            if o.causal:
                return language(head, x, labels)
            loss = cross_entropy(head(x).reshape(-1, o.vocab), labels.reshape(-1))
            pair = batch.get("next_sentence_label", batch.get("sentence_order_label"))
            if o.head == "masked":
                return loss
            if pair is None:
                return None
            scores = model.apply(variables, x, given, method="scores")
            return loss + cross_entropy(scores, pair.reshape(-1))
        scores = model.apply(variables, x, given, method="scores")
        if o.head == "classify":
            return classification(scores, labels, self.config.get("problem_type"))
        if o.head == "tokens":
            scores = scores.reshape(-1, scores.shape[-1])
        return cross_entropy(scores, labels.reshape(-1))

    def gradients(self, inputs: dict, of: str) -> dict:
        """d(loss)/d(parameter) under the reference's names."""
        if of != "loss":
            raise ValueError(f"gradients are taken of 'loss', not of {of!r}")
        batch, o, params = self.batch(inputs), self.o, self.variables["params"]
        pad = self.config.get("pad_token_id", 1 if o.position_pad >= 0 else 0)
        table = params["embed"]["tokens"]["embedding"]
        apart = pad is not None and o.tied and o.head in ("masked", "pretrain")
        if apart:
            o = o.replace(tied=False)
            params = {**params, "head": {**params["head"], "kernel": table.T}}
        model = build(o)
        grads = jax.jit(jax.grad(lambda params: self._loss(params, batch, model)))(params)
        grads = jax.tree.map(np.array, grads)
        if pad is not None:
            grads["embed"]["tokens"]["embedding"][pad] = 0.0
        if o.position_pad >= 0:
            grads["embed"]["positions"]["embedding"][o.position_pad] = 0.0
        if apart:
            grads["embed"]["tokens"]["embedding"] += grads["head"].pop("kernel").T
        return hf.rename(self.o, grads)

    def export(self, names) -> dict:
        """The tensors that an export of this model holds, by the names that the case has for them."""
        describe.write(self.o, self.loaded.special)
        prefix, made = (
            TABLES[self.config["model_type"]].prefix,
            hf.rename(self.o, self.variables["params"]),
        )
        if self.o.head == "none" and any(name.startswith(prefix) for name in names):
            made = {prefix + name: array for name, array in made.items()}
        return made


def span_loss(scores, batch):
    """The mean of the cross-entropies of both ends; those beyond the row do not count."""
    time = scores.shape[1]
    ends = [jnp.clip(batch[f"{end}_positions"].reshape(-1), 0, time) for end in ("start", "end")]
    ends = [jnp.where(end == time, -100, end) for end in ends]
    return sum(cross_entropy(scores[..., i], end) for i, end in enumerate(ends)) / 2
