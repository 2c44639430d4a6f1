"""ResNet (He et al. 2015, "Deep Residual Learning for Image Recognition").

    python -m train --config=configs/resnet.py:tiny --workdir=runs/resnet
    python -m train --config=configs/resnet.py:50 --workdir=runs/resnet-50 --config.data.source=FOLDER

`:tiny`: two CPU cores, about a minute, the embedded digits; no published number.
The others: 8 accelerators of 16 GB; FOLDER holds ImageNet-1k. Expected top-1 of one central crop
(torchvision's weights of this recipe): 18 69.8, 34 73.3, 50 76.1, 101 77.4, 152 78.3 %; the paper's ten
crops: 34 75.8, 50 77.2, 101 78.3, 152 78.6 %. `:20` is the paper's smallest net for CIFAR-10 (91.25 %):
64,000 steps of 128, rate 0.1 with two falls, a border of 4 pixels, flips.

From the paper (section 3.4): SGD with momentum 0.9, batch 256, rate 0.1 divided by ten twice (there on
plateaus; here after 30 and 60 of 90 epochs), weight decay 1e-4 of everything; the shorter side drawn
from 256 to 480 pixels, a crop of 224, flips, and colours moved along ImageNet's components by 0.1
(Krizhevsky et al. 2012). The stride is on the 3x3 (`model.stride_early=true`: the paper's 1x1).
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "20", "18", "34", "50", "101", "152")


def get_config(variant="tiny"):
    size = "20" if variant == "tiny" else variant
    config = ConfigDict(
        dict(
            loop="vision",
            seed=0,
            steps=450_360,
            batch=256,
            length=1,
            smooth=0.0,
            layer_decay=1.0,
            frozen_stats=False,
            model=families.row("resnet", size, dtype="bfloat16"),
            data=dict(
                source="data/imagenet",
                valid="",
                task="classify",
                labelled=1.0,
                mean=(0.485, 0.456, 0.406),
                deviation=(0.229, 0.224, 0.225),
                crop_share=0.875,
                resample="bilinear",
                bad="error",
                workers=16,
            ),
            augment=dict(
                crop="sides", scale=(256.0, 480.0), flip=0.5, lighting=0.1, resample="bilinear"
            ),
            distill=dict(teacher="", kind="hard", temperature=3.0, weight=0.5),
            optim=dict(
                name="sgd",
                lr=0.1,
                schedule="stairs",
                end=0.01,
                b1=0.9,
                weight_decay=1e-4,
                decay=r".",
            ),
            eval=dict(every=5_000, batches=0, train=False),
            checkpoint=dict(every=5_000, keep=2),
            log=dict(every=100),
        )
    )
    if variant in ("20", "tiny"):
        config.update(steps=64_000, batch=128)
        config.data.update(source="data/cifar10", crop_share=1.0)
        config.augment = dict(crop="shift", pad=4, flip=0.5)
    return _tiny(config) if variant == "tiny" else config


def _tiny(config):
    """Two cores, about a minute, the embedded digits."""
    config.update(steps=400, batch=64)
    config.model = families.row(
        "resnet", "20", image_size=28, channels=1, depths=(1, 1, 1), stem_stride=2
    )
    config.data.update(source="mnist", mean=(0.13,), deviation=(0.31,), workers=0)
    config.augment = dict(crop="shift", pad=2)
    config.optim.update(lr=0.05, warmup=20)
    config.eval.update(every=200)
    config.checkpoint.update(every=200, keep=1)
    config.log.every = 10
    return config
