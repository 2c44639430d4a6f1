"""Our decoders under the reference library's names and layouts, for `tests.parity`.

What differs: the last hidden state is taken after the final norm, positions count slots where none
are given, classifiers read the last token that is not padding, found from the ids; the reference
cuts the gradient of the padding token's embedding in LLaMA and its kin.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from models import interop
from models.build import build
from models.interop import describe, hf
from models.interop.names import TABLES
from models.likelihood import token_log_probs
from train.core.losses import balance

TYPES = ("openai-gpt", "gpt2", "gpt_neo", "llama", "mistral", "mixtral")
KNOWN = {
    "input_ids", "attention_mask", "position_ids", "labels", "mc_token_ids", "mc_labels",
}  # fmt: skip


class Peer:
    """A case's model: `outputs(inputs)` and `gradients(inputs, of)` speak the reference's names."""

    def __init__(self, path: Path):
        self.loaded = interop.load(path)
        self.o, self.config = self.loaded.options, self.loaded.config
        self.model, self.variables = build(self.o), self.loaded.variables
        self._run = jax.jit(self._forward, static_argnames="aux")

    def batch(self, inputs: dict) -> dict:
        """Our batch; leading axes (the choices of a double head) are folded into rows."""
        unknown = sorted(set(inputs) - KNOWN)
        if unknown:
            raise ValueError(f"the input {unknown[0]!r} is not supported")
        ids = np.asarray(inputs["input_ids"])
        time = ids.shape[-1]
        flat = ids.reshape(-1, time)
        places = inputs.get("position_ids", np.arange(time)[None])
        places = np.broadcast_to(np.asarray(places).reshape(-1, time), flat.shape)
        batch = {"tokens": flat.astype(np.int32), "positions": places.astype(np.int32)}
        if "attention_mask" in inputs:
            batch["mask"] = np.asarray(inputs["attention_mask"]).reshape(-1, time).astype(np.int32)
        elif "position_ids" in inputs and not self._caches():
            jumps = np.diff(places, axis=1, prepend=places[:, :1] - 1) != 1
            if jumps.any():
                batch["segments"] = (np.cumsum(jumps, 1) + 1).astype(np.int32)
        if self.o.head == "classify":
            pad = self.config.get("pad_token_id")
            real = flat != pad if pad is not None else np.ones_like(flat)
            read = (
                (np.arange(time) * real).argmax(-1)
                if pad is not None
                else np.full(len(flat), time - 1)
            )
            batch["read"] = read.astype(np.int32)
        if self.o.head == "double":
            read = inputs.get("mc_token_ids", np.full(ids.shape[:-1], time - 1))
            batch["read"] = np.asarray(read).reshape(-1).astype(np.int32)
        for name in ("labels", "mc_labels"):
            if name in inputs:
                batch[name] = np.asarray(inputs[name])
        return batch

    def _caches(self):
        """Whether the peer fills a cache in forward: without one it takes a jump in positions for
        the start of another packed document."""
        return self.config.get("use_cache", True) or self.config["model_type"] == "openai-gpt"

    def outputs(self, inputs: dict, wanted=()) -> dict:
        """Everything that the reference returns for these inputs, as numpy arrays by its names."""
        lead = np.asarray(inputs["input_ids"]).shape[:-1]
        aux = bool(self.config.get("output_router_logits")) or "aux_loss" in wanted
        found = self._run(self.variables["params"], self.batch(inputs), aux=aux)
        fold = lambda a: np.asarray(a).reshape(*lead, *a.shape[1:])  # noqa: E731
        out = {k: np.asarray(v) for k, v in found["losses"].items()}
        out["last_hidden_state"] = fold(found["x"])
        hidden = list(np.asarray(found["hidden"]))
        for i, state in enumerate([*hidden[:-1], fold(found["x"])]):
            out[f"hidden_states.{i}"] = state
        for i, weights in enumerate(np.asarray(found["maps"])):
            out[f"attentions.{i}"] = weights
        for i, logits in enumerate(np.asarray(found["router"]) if "router" in found else ()):
            out[f"router_logits.{i}"] = logits.reshape(-1, logits.shape[-1])
        if "logits" in found:
            out["logits"] = fold(found["logits"])
        if self.o.head == "classify":
            out["logits"] = np.asarray(found["scores"])
        if self.o.head == "double":
            scores = fold(found["scores"])
            out["mc_logits"] = scores[..., 0] if scores.shape[-1] == 1 else scores
        return out

    def _forward(self, params, batch, aux):
        variables = {"params": params}
        sequence = {k: v for k, v in batch.items() if "labels" not in k and k != "read"}
        (x, out), made = self.model.apply(
            variables, sequence, method="features", mutable=["maps", "hidden", "stats"]
        )
        found = {
            "x": x,
            "hidden": made["hidden"]["blocks"],
            "maps": made["maps"]["attn"],
            "losses": self._losses(params, batch, aux),
        }
        if self.o.experts:
            found["router"] = made["stats"]["router"]
        if self.o.head != "classify":
            found["logits"] = self.model.apply(variables, x, method="logits")
        if self.o.head != "lm":
            found["scores"] = self.model.apply(variables, {**sequence, "read": batch["read"]})[
                "scores"
            ]
        return found

    def _losses(self, params, batch, aux, model=None):
        """The reference's scalars: loss, aux_loss, mc_loss, as far as there are labels."""
        model, variables, losses = model or self.model, {"params": params}, {}
        sequence = {k: v for k, v in batch.items() if "labels" not in k}
        x, out = model.apply(variables, sequence, method="features")
        if self.o.experts and aux:
            losses["aux_loss"] = balance(out["router"], self.o.experts)
        if "labels" in batch and self.o.head == "classify":
            scores = model.apply(variables, sequence)["scores"]
            losses["loss"] = classification(
                scores, batch["labels"], self.config.get("problem_type")
            )
        elif "labels" in batch:
            head = functools.partial(model.apply, variables, method="logits")
            losses["loss"] = language(head, x, batch["labels"].reshape(batch["tokens"].shape))
            if "aux_loss" in losses:
                coefficient = self.config.get("router_aux_loss_coef", 0.001)
                losses["loss"] = losses["loss"] + coefficient * losses["aux_loss"]
        if "mc_labels" in batch:
            scores = model.apply(variables, sequence)["scores"]
            scores = scores.reshape(batch["mc_labels"].size, -1)
            losses["mc_loss"] = cross_entropy(scores, batch["mc_labels"].reshape(-1))
        return losses

    def gradients(self, inputs: dict, of: str) -> dict:
        """d(of)/d(parameter) under the reference's names."""
        batch, o, params = self.batch(inputs), self.o, self.variables["params"]
        aux = bool(self.config.get("output_router_logits")) or of == "aux_loss"
        pad = self.config.get("pad_token_id")
        cut = pad is not None and self.config["model_type"] in ("llama", "mistral", "mixtral")
        table = params["embed"]["tokens"]["embedding"]
        apart = cut and o.tied and o.head != "classify"
        if apart:
            o, params = o.replace(tied=False), {**params, "head": {"kernel": table.T}}
        model = build(o)
        take = jax.jit(jax.grad(lambda params: self._losses(params, batch, aux, model)[of]))
        grads = jax.tree.map(np.array, take(params))
        if cut:
            grads["embed"]["tokens"]["embedding"][pad] = 0.0
        if apart:
            grads["embed"]["tokens"]["embedding"] += grads.pop("head")["kernel"].T
        return hf.rename(self.o, grads)

    def export(self, names) -> dict:
        """The tensors that an export of this model holds, by the names that the case has for them:
        a bare body has no prefix, and a tied table may be saved under the head's name."""
        describe.write(self.o, self.loaded.special)
        table, made = TABLES[self.config["model_type"]], hf.rename(self.o, self.variables["params"])
        if not any(name.startswith(table.prefix) for name in names):
            made = {name.removeprefix(table.prefix): array for name, array in made.items()}
        embedding = table.embedding.replace("@", table.prefix)
        if self.o.tied and "lm_head.weight" in names and embedding not in names:
            made["lm_head.weight"] = made.pop(embedding)
        return made


def language(head, x, labels):
    """Mean cross-entropy of the next token where its label is not -100."""
    targets, counted = labels[:, 1:], labels[:, 1:] != -100
    picked = token_log_probs(head, x[:, :-1], jnp.where(counted, targets, 0).astype(jnp.int32))
    return -jnp.sum(jnp.where(counted, picked, 0.0)) / jnp.sum(counted)


def cross_entropy(scores, labels):
    counted = labels != -100
    picked = jnp.take_along_axis(
        jax.nn.log_softmax(scores, -1), jnp.where(counted, labels, 0)[:, None], 1
    )
    return -jnp.sum(jnp.where(counted, picked[:, 0], 0.0)) / jnp.sum(counted)


def classification(scores, labels, problem):
    """The reference's three losses: squares for one class, cross-entropy, or sigmoids."""
    whole = jnp.issubdtype(labels.dtype, jnp.integer)
    if problem == "regression" or (problem is None and scores.shape[-1] == 1):
        return jnp.mean((scores.reshape(labels.shape) - labels) ** 2)
    if problem == "single_label_classification" or (problem is None and whole):
        return cross_entropy(scores, labels.reshape(-1))
    return jnp.mean(jnp.logaddexp(0.0, scores) - labels * scores)
