"""Models of images in `bench train`: the batches, our task, and the classifier of transformers.

Both sides read the same random images and labels, [batch, side, side, channels] of unit normals; the
length of a "sequence" is 1, so that rates are images a second.
"""

import dataclasses
import types

import numpy as np

KINDS = ("vit", "swin", "resnet", "efficientnet")  # of models that read images


def rows(model: dict, batch: int, step: int) -> dict:
    """Images [B,H,W,C] float32, classes `targets` [B] int32 and `weights` [B] of a model's options."""
    rng = np.random.default_rng(step)
    side, wide = model["image_size"], model["image_width"] or model["image_size"]
    images = rng.standard_normal((batch, side, wide, model["channels"]), np.float32)
    targets = rng.integers(0, model["labels"], batch, dtype=np.int32)
    return {"images": images, "targets": targets, "weights": np.ones(batch, np.float32)}


def task(config, o, job: dict):
    """The trainer's task of classification on those batches; there is nothing held out."""
    from train import vision

    batch = lambda step: rows(job["model"], job["batch"], step)
    stream = types.SimpleNamespace(batch=batch, fingerprint={})
    part = types.SimpleNamespace(labels=[str(i) for i in range(o.labels)], targets=np.zeros(1))
    made = vision.make_task(config, o, {"train": part}, stream)
    return dataclasses.replace(made, evaluators={})


def reference(job: dict):
    """The transformers classifier of a config.json, and its name."""
    import torch
    import transformers

    options = dict(job["reference"])
    options.pop("dtype", None)
    config = transformers.AutoConfig.for_model(**options)
    model = transformers.AutoModelForImageClassification.from_config(config)
    if job["setting"] == "channels-last":
        model = model.to(memory_format=torch.channels_last)
    return model, f"transformers {transformers.__version__}"


def loss(model, job: dict, step: int):
    """The classifier's own loss on the batch of a step."""
    import torch

    batch = rows(job["model"], job["batch"], step)
    pixels = torch.from_numpy(
        np.moveaxis(batch["images"], -1, 1)
    )  # already channels-last in memory
    if job["setting"] != "channels-last":
        pixels = pixels.contiguous()
    return model(pixel_values=pixels, labels=torch.from_numpy(batch["targets"]).long()).loss
