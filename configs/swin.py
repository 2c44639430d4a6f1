"""Swin Transformer (Liu et al. 2021, "Hierarchical Vision Transformer using Shifted Windows").

    python -m train --config=configs/swin.py:tiny --workdir=runs/swin
    python -m train --config=configs/swin.py:t --workdir=runs/swin-t --config.data.source=FOLDER

`:tiny`: two CPU cores, about a minute, the embedded digits; no published number.
The others: 8 accelerators of 32 GB; FOLDER holds ImageNet-1k. Expected (paper, table 1): t 81.3, s 83.0,
b 83.5, b-384 84.5 %; l and l-384 are trained on ImageNet-22k first (l-384: 87.3 %).

The authors' code: AdamW 0.9/0.999, rate 1e-3 at batch 1024 with 20 epochs of warm-up and cosine decay
to 5e-6, weight decay 0.05 but not of tables of positions, norms and biases, clipped at 5, 300 epochs;
stochastic depth 0.2, 0.3, 0.5 (t, s, b), label smoothing 0.1, RandAugment 9/0.5, mixup 0.8, cutmix 1.0,
random erasing 0.25; neither repeated augmentation nor an average of weights. The 384s are fine-tuned
from 224 pixels for 30 epochs with rate 1e-5 and decay 1e-8: give config.init.checkpoint.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "t", "s", "b", "b-384", "l", "l-384")


def get_config(variant="tiny"):
    size = "t" if variant == "tiny" else variant
    config = ConfigDict(
        dict(
            loop="vision",
            seed=0,
            steps=375_300,
            batch=1024,
            length=1,
            smooth=0.1,
            layer_decay=1.0,
            frozen_stats=False,
            model=families.row("swin", size, dtype="bfloat16"),
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
            ),
            distill=dict(teacher="", kind="hard", temperature=3.0, weight=0.5),
            optim=dict(
                name="adamw",
                lr=1e-3,
                schedule="cosine",
                warmup=25_020,
                end=0.005,
                b2=0.999,
                weight_decay=0.05,
                decay=r"kernel$",
                clip=5.0,
            ),
            eval=dict(every=5_000, batches=0, train=False),
            checkpoint=dict(every=5_000, keep=2),
            log=dict(every=100),
            init=dict(checkpoint="", reference=""),
        )
    )
    if variant.endswith("-384"):
        config.update(steps=75_060, batch=512)
        config.optim.update(lr=1e-5, warmup=6_255, weight_decay=1e-8)
    return _tiny(config) if variant == "tiny" else config


def _tiny(config):
    """Two cores, about a minute, the embedded digits."""
    config.update(steps=500, batch=64)
    config.model = families.row(
        "swin", "t", image_size=28, channels=1, patch=4, side=4, layers=4, width=48, heads=3,
        depths=(2, 2), stage_heads=(3, 6), drop_path=0.05, labels=10,
    )  # fmt: skip
    config.data.update(source="mnist", mean=(0.13,), deviation=(0.31,), crop_share=1.0, workers=0)
    config.augment = dict(crop="shift", pad=2, erase=0.25)
    config.optim.update(lr=2e-3, warmup=50)
    config.eval.update(every=250)
    config.checkpoint.update(every=250, keep=1)
    config.log.every = 10
    return config
