"""Encoders and encoder-decoders in `bench train`: the batches, our task, and the models of transformers.

Random tokens without padding, the same on both sides. An encoder predicts 15 % of its [batch, length]
tokens, which it does not see: our head runs on their positions only, as `python -m train` has it; the
peer's on all, with the label -100 elsewhere, as its users write it. An encoder-decoder reads `length`
tokens and writes half as many.
"""

import dataclasses
import types

import numpy as np

KINDS = ("encoder", "encdec")
SHARE, HIDDEN = 0.15, -100


def rows(model: dict, batch: int, length: int, step: int) -> dict:
    """Arrays of a step: tokens [B,T] and weights; an encoder's slots and targets [B,M] (0.15 T), an
    encoder-decoder's mask [B,T], decoder_tokens and targets [B,T/2].
    """
    rng = np.random.default_rng(step)
    draw = lambda *shape: rng.integers(3, model["vocab"] - 1, shape, np.int32)
    tokens = draw(batch, length)
    if model["kind"] == "encoder":
        count = max(1, round(SHARE * length))
        slots = np.sort(rng.permuted(np.tile(np.arange(length), (batch, 1)), axis=1)[:, :count], 1)
        targets = np.take_along_axis(tokens, slots, 1)
        np.put_along_axis(tokens, slots, model["vocab"] - 1, 1)
        made = {"slots": slots.astype(np.int32)}
    else:
        targets = draw(batch, max(1, length // 2))
        begin = np.full((batch, 1), model["start"], np.int32)
        made = {
            "mask": np.ones_like(tokens),
            "decoder_tokens": np.concatenate([begin, targets[:, :-1]], 1),
        }
    weights = np.ones(targets.shape, np.float32)
    return {"tokens": tokens, **made, "targets": targets, "weights": weights}


def task(config, o, job: dict):
    """The trainer's masked or sequence-to-sequence task on those batches; nothing is held out."""
    from train import mlm, seq2seq

    batch = lambda step: rows(job["model"], job["batch"], job["length"], step)
    stream = types.SimpleNamespace(batch=batch, fingerprint={})
    loop = mlm if o.kind == "encoder" else seq2seq
    made = loop.make_task(config, o, None, stream, None)
    return dataclasses.replace(made, evaluators={})


def reference(job: dict):
    """The transformers model of a config.json, and its name; weights from `weights`, if given."""
    import torch
    import transformers

    options = dict(job["reference"])
    options.pop("dtype", None)
    config = transformers.AutoConfig.for_model(**options)
    config.use_cache = bool(job.get("use_cache", False))
    masked = job["model"]["kind"] == "encoder"
    kind = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForSeq2SeqLM
    if job.get("weights"):
        model = kind.from_pretrained(job["weights"], dtype=torch.float32)
    else:
        model = kind.from_config(config)
    return model, f"transformers {transformers.__version__}"


def loss(model, job: dict, step: int):
    """The model's own loss on the batch of a step."""
    import torch

    batch = rows(job["model"], job["batch"], job["length"], step)
    given = {"input_ids": batch["tokens"]}
    if "slots" in batch:
        labels = np.full_like(batch["tokens"], HIDDEN)
        np.put_along_axis(labels, batch["slots"], batch["targets"], 1)
    else:
        labels, given["decoder_input_ids"] = batch["targets"], batch["decoder_tokens"]
    given = {name: torch.from_numpy(x).long() for name, x in {**given, "labels": labels}.items()}
    return model(**given).loss
