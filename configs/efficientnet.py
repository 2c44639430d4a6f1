"""EfficientNet (Tan and Le 2019, "Rethinking Model Scaling for Convolutional Neural Networks").

    python -m train --config=configs/efficientnet.py:tiny --workdir=runs/efficientnet
    python -m train --config=configs/efficientnet.py:b0 --workdir=runs/efficientnet-b0 \
        --config.data.source=FOLDER

`:tiny`: two CPU cores, about a minute, the embedded digits; no published number.
The others: 32 accelerators of 16 GB at this batch; FOLDER holds ImageNet-1k. Expected top-1 (paper, table
2): b0 77.1, b1 79.1, b2 80.1, b3 81.6, b4 82.9, b5 83.6, b6 84.0, b7 84.3 %; lite0 75.1 % (the authors'
repository).

From the paper (section 5.2) and the authors' code: RMSProp with decay 0.9, momentum 0.9 and epsilon
1e-3, batch 4096, rate 0.256 falling by 3 % every 2.4 epochs after 5 of warm-up (here smoothly), weight
decay 1e-5, average of weights 0.9999, 350 epochs; drop connect 0.2, dropout 0.2 to 0.5, label smoothing
0.1. Theirs is AutoAugment; here RandAugment, which Cubuk et al. 2019 find as good with two numbers.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "lite0", "b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7")


def get_config(variant="tiny"):
    size = "b0" if variant == "tiny" else variant
    config = ConfigDict(
        dict(
            loop="vision",
            seed=0,
            steps=109_475,
            batch=4096,
            length=1,
            smooth=0.1,
            layer_decay=1.0,
            frozen_stats=False,
            model=families.row("efficientnet", size, dtype="bfloat16"),
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
                crop="area", scale=(0.08, 1.0), flip=0.5, layers=2, magnitude=9.0, spread=0.5
            ),
            distill=dict(teacher="", kind="hard", temperature=3.0, weight=0.5),
            optim=dict(
                name="rmsprop",
                lr=0.256,
                schedule="exponential",
                warmup=1_564,
                end=0.0126,  # 0.97 ** (345 / 2.4)
                b1=0.9,
                b2=0.9,
                eps=1e-3,
                weight_decay=1e-5,
                ema=0.9999,
            ),
            eval=dict(every=2_000, batches=0, train=False),
            checkpoint=dict(every=2_000, keep=2),
            log=dict(every=100),
        )
    )
    return _tiny(config) if variant == "tiny" else config


def _tiny(config):
    """Two cores, about a minute, the embedded digits."""
    config.update(steps=400, batch=64)
    config.model = families.row(
        "efficientnet", "b0", image_size=28, channels=1, labels=10, depths=(1, 1, 2, 1),
        widths=(16, 24, 40, 64), strides=(1, 2, 2, 1), kernels=(3, 3, 5, 3), expands=(1, 4, 4, 4),
        stem=(16,), stem_stride=2, top=128, norm_decay=0.9, drop_path=0.05, drop_head=0.1,
    )  # fmt: skip
    config.data.update(source="mnist", mean=(0.13,), deviation=(0.31,), crop_share=1.0, workers=0)
    config.augment = dict(crop="shift", pad=2)
    config.optim.update(lr=0.005, warmup=40, ema=0.98)
    config.eval.update(every=200)
    config.checkpoint.update(every=200, keep=1)
    config.log.every = 10
    return config
