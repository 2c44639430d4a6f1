"""ViT (Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words").

    python -m train --config=configs/vit.py:tiny --workdir=runs/vit
    python -m train --config=configs/vit.py:b16 --workdir=runs/vit-b16 --config.data.source=FOLDER
    python -m train --config=configs/vit.py:b16 --workdir=runs/vit-b16-384 \
        --config.data.source=FOLDER --config.model.image_size=384 \
        --config.init.checkpoint=runs/vit-b16 --config.optim.name=sgd --config.optim.lr=0.03 ...

`:tiny`: two CPU cores, about a minute, the embedded digits; no published number.
The others: 8 accelerators of 40 GB or more; FOLDER holds ImageNet-1k as folders by class in train/ and
val/, Parquet or ArrayRecord files. Expected for b16, trained on ImageNet-1k alone and evaluated at 384
pixels: 77.9 % (paper, table 5); trained on JFT-300M h14 reaches 88.55 %. `ti16` and `s16` are the later
papers' sizes (Touvron et al. 2020).

From the paper (table 3, ImageNet): Adam 0.9/0.999, batch 4096, rate 3e-3 with 10,000 steps of warm-up
and cosine decay, weight decay 0.3, dropout 0.1, gradients clipped at 1, 300 epochs; crops of 5 to 100 %
of the area and flips, pixels in [-1, 1]. Fine-tuning: SGD with momentum 0.9, batch 512, no decay, at
384 pixels; the table of positions is resized. `:textbook` is the textbook's small listing (attention
only, no residuals, norms or feed-forward; its 15,685,864 parameters at 224 pixels), on this recipe.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "ti16", "s16", "b16", "b32", "l16", "l32", "h14", "textbook")


def get_config(variant="tiny"):
    size = "b16" if variant == "tiny" else variant
    dropped = {} if variant == "textbook" else dict(drop_embed=0.1, drop_resid=0.1, drop_act=0.1)
    config = ConfigDict(
        dict(
            loop="vision",
            seed=0,
            steps=93_835,
            batch=4096,
            length=197,  # tokens of an image
            smooth=0.0,
            layer_decay=1.0,
            frozen_stats=False,
            model=families.row("vit", size, dtype="bfloat16", **dropped),
            data=dict(
                source="data/imagenet",
                valid="",
                task="classify",
                labelled=1.0,
                mean=(0.5, 0.5, 0.5),
                deviation=(0.5, 0.5, 0.5),
                crop_share=0.875,
                bad="error",
                workers=16,
            ),
            augment=dict(crop="area", scale=(0.05, 1.0), flip=0.5),
            distill=dict(teacher="", kind="hard", temperature=3.0, weight=0.5),
            optim=dict(
                name="adamw",
                lr=3e-3,
                schedule="cosine",
                warmup=10_000,
                end=0.0,
                b2=0.999,
                weight_decay=0.3,
                clip=1.0,
            ),
            eval=dict(every=5_000, batches=0, train=False),
            checkpoint=dict(every=5_000, keep=2),
            log=dict(every=100),
        )
    )
    return _tiny(config) if variant == "tiny" else config


def _tiny(config):
    """Two cores, about a minute, the embedded digits."""
    config.update(steps=700, batch=64, length=17)
    config.model = families.row(
        "vit", "ti16", image_size=28, channels=1, patch=7, layers=4, width=64, heads=4,
        labels=10,
    )  # fmt: skip
    config.data.update(source="mnist", mean=(0.13,), deviation=(0.31,), crop_share=1.0, workers=0)
    config.augment = dict(crop="shift", pad=2)
    config.optim.update(lr=2e-3, warmup=70, weight_decay=0.05)
    config.eval.update(every=350)
    config.checkpoint.update(every=350, keep=1)
    config.log.every = 10
    return config
