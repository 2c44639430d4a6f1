"""DeiT (Touvron et al. 2020, "Training data-efficient image transformers & distillation").

    python -m train --config=configs/deit.py:tiny --workdir=runs/deit
    python -m train --config=configs/deit.py:s --workdir=runs/deit-s --config.data.source=FOLDER
    python -m train --config=configs/deit.py:s-distilled --workdir=runs/deit-s-distilled \
        --config.data.source=FOLDER --config.distill.teacher=runs/resnet

`:tiny`: two CPU cores, about a minute, the embedded digits; no published number. It is not distilled:
a distilled one needs a run to learn from.
The others: 8 accelerators of 32 GB; FOLDER holds ImageNet-1k. Expected (paper, table 5): ti 72.2, s
79.8, b 81.8 %; distilled from a RegNetY-16GF (which is not here) 74.5, 81.2, 83.4, at 384 pixels 84.5 %.

The authors' code: AdamW, rate 5e-4 * batch / 512 with 5 epochs of warm-up and cosine decay to 1e-5,
weight decay 0.05, 300 epochs, no clipping; stochastic depth 0.1, label smoothing 0.1, RandAugment 9/0.5,
mixup 0.8, cutmix 1.0, random erasing 0.25, each picture three times in a batch, average of weights
0.99996 (the paper says that it does not help). Its colour jitter 0.4 is switched off by RandAugment.
At batch 1024, pictures are repeated, so an epoch sees a third of them. Hard distillation halves the loss.
`:b-384-distilled` is fine-tuned from `:b-distilled` (30 epochs, rate 5e-6): give config.init.checkpoint.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = (
    "tiny", "ti", "s", "b", "ti-distilled", "s-distilled", "b-distilled", "b-384-distilled",
)  # fmt: skip


def get_config(variant="tiny"):
    size = "ti" if variant == "tiny" else variant
    config = ConfigDict(
        dict(
            loop="vision",
            seed=0,
            steps=375_300,
            batch=1024,
            length=197,
            smooth=0.1,
            layer_decay=1.0,
            frozen_stats=False,
            model=families.row("deit", size, dtype="bfloat16"),
            data=dict(
                source="data/imagenet",
                valid="",
                task="classify",
                labelled=1.0,
                mean=(0.485, 0.456, 0.406),
                deviation=(0.229, 0.224, 0.225),
                crop_share=0.875,
                bad="error",
                workers=16,
            ),
            augment=dict(
                crop="area",
                scale=(0.08, 1.0),
                flip=0.5,
                layers=2,
                magnitude=9.0,
                spread=0.5,
                erase=0.25,
                mixup=0.8,
                cutmix=1.0,
                switch=0.5,
                repeats=3,
            ),
            distill=dict(teacher="", kind="hard", temperature=3.0, weight=0.5),
            optim=dict(
                name="adamw",
                lr=1e-3,
                schedule="cosine",
                warmup=6_255,
                end=0.01,
                b2=0.999,
                weight_decay=0.05,
                clip=0.0,
                ema=0.99996,
            ),
            eval=dict(every=5_000, batches=0, train=False),
            checkpoint=dict(every=5_000, keep=2),
            log=dict(every=100),
            init=dict(checkpoint="", reference=""),
        )
    )
    if variant == "b-384-distilled":
        config.update(steps=75_060, batch=512, length=578)
        config.optim.update(lr=5e-6, warmup=0, end=1.0, weight_decay=1e-8)
    return _tiny(config) if variant == "tiny" else config


def _tiny(config):
    """Two cores, about a minute, the embedded digits."""
    config.update(steps=700, batch=64, length=17, smooth=0.1)
    config.model = families.row(
        "deit", "ti", image_size=28, channels=1, patch=7, layers=4, width=64, heads=4,
        labels=10, drop_path=0.05,
    )  # fmt: skip
    config.data.update(source="mnist", mean=(0.13,), deviation=(0.31,), crop_share=1.0, workers=0)
    config.augment = dict(
        crop="area", scale=(0.5, 1.0), erase=0.25, mixup=0.8, cutmix=1.0, repeats=1
    )
    config.optim.update(lr=2e-3, warmup=70, ema=0.99)
    config.eval.update(every=350)
    config.checkpoint.update(every=350, keep=1)
    config.log.every = 10
    return config
