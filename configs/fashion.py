"""Fashion-MNIST (Xiao et al. 2017): nets of about 0.3 million parameters that `scripts.compare` compares.

    python -m scripts.prepare fetch fashion-mnist
    python -m scripts.compare --out runs/compare
    python -m train --config=configs/fashion.py:vit --workdir=runs/fashion-vit
    python -m train --config=configs/fashion.py:tiny --workdir=runs/fashion-tiny

Two CPU cores. 60,000 pictures to train, 10,000 to test, in ten classes; a linear model reaches .82 to .84.
All nets have one recipe: AdamW, cosine decay, batches of 128 for 1,410 steps (three epochs) and flips;
they differ in their rate, and CNNs in their smaller decay. Transformers begin with Glorot's deviations: at
this width 0.02 is a seventh of them, and costs a ViT on a tenth of the labels (seed 100, 300 steps) 3 points;
shifts by up to 2 pixels, which three epochs do not repay, cost it 6. `scripts.compare` sets the
share of labels, steps, seeds and who teaches whom. All labels, seeds 0 to 2, test accuracy: ResNet .909,
EfficientNet .904, Swin .883, DeiT .872, ViT .868, attention alone .867, BEiT .867. No published number at this size.

`:resnet` has ResNet-18's eight blocks (He et al. 2015), `:efficientnet` its inverted bottlenecks with
gates (Tan and Le 2019), `:vit`, `:deit`, `:swin` and `:beit` the papers' blocks on patches of 7 pixels
(Swin: 4 pixels, windows of 4), `:textbook` attention without residuals, norms and feed-forward.
`:deit-plain` is not distilled, `:beit-scratch` not pre-trained; `:tokenizer` and `:beit-mim` come before
`:beit`. `:tiny` is `:vit` on the embedded digits, in about a minute; no published number.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = (
    "tiny", "resnet", "efficientnet", "vit", "deit", "deit-plain", "swin", "tokenizer", "beit-mim",
    "beit", "beit-scratch", "textbook",
)  # fmt: skip
READ = dict(image_size=28, channels=1, labels=10)
GLOROT = dict(init="xavier", init_std=1.0)
VIT = dict(patch=7, layers=4, width=80, heads=4, **GLOROT)
ROWS = {
    "resnet": families.row(
        "resnet", "20", **READ, depths=(2, 2, 2, 2), widths=(16, 32, 48, 72), strides=(1, 2, 2, 1),
        stem=(16,), stem_stride=2,
    ),
    "efficientnet": families.row(
        "efficientnet", "b0", **READ, depths=(1, 2, 2, 2), widths=(16, 24, 40, 96),
        strides=(1, 2, 2, 1), kernels=(3, 3, 5, 3), expands=(1, 6, 6, 6), stem=(32,), stem_stride=2,
        top=384, norm_decay=0.9, drop_path=0.05, drop_head=0.1,
    ),
    "vit": families.row("vit", "ti16", **READ, **VIT),
    "deit": families.row("deit", "ti-distilled", **READ, **VIT, drop_path=0.05),
    "deit-plain": families.row("deit", "ti", **READ, **VIT, drop_path=0.05),
    "swin": families.row(
        "swin", "t", **READ, patch=4, side=4, layers=4, width=48, heads=3, depths=(2, 2),
        stage_heads=(3, 6), drop_path=0.05, **GLOROT,
    ),
    "beit": families.row("beit", "b", **READ, **VIT, drop_path=0.05),
    "beit-mim": families.row("beit", "b-mim", **{**READ, "labels": 0}, **VIT, vocab=128, drop_path=0.0),
    "textbook": families.row("vit", "textbook", **READ, patch=7, layers=6, width=112, heads=8),
    "tokenizer": dict(
        kind="dvae", family="dvae", image_size=28, channels=1, patch=7, layers=2, width=64, vocab=128,
        heads=1, norm="layer", act="relu", init="he", head="none",
    ),
}  # fmt: skip
RATES = {"resnet": 4e-3, "efficientnet": 4e-3, "textbook": 1e-3, "tokenizer": 1e-3}


def get_config(variant="tiny"):
    name = {"tiny": "vit", "beit-scratch": "beit"}.get(variant, variant)
    cnn = name in ("resnet", "efficientnet")
    config = ConfigDict(
        dict(
            loop={"tokenizer": "dvae", "beit-mim": "mim"}.get(name, "vision"),
            seed=0,
            steps=1_410,
            batch=128,
            length=1,
            smooth=0.0,
            layer_decay=1.0,
            frozen_stats=False,
            tokenizer="",
            temperature=(1.0, 0.0625),
            divergence=0.0,
            model=ROWS[name],
            data=dict(
                source="fashion-mnist",
                valid="",
                task="classify",
                labelled=1.0,
                mean=(0.286,),
                deviation=(0.353,),
                crop_share=1.0,
                bad="error",
                workers=0,
            ),
            augment=dict(crop="shift", pad=0, flip=0.5),
            mask=dict(kind="blocks", share=0.4, least=2),
            distill=dict(teacher="", kind="hard", temperature=3.0, weight=0.5),
            optim=dict(
                name="adamw",
                lr=RATES.get(name, 2e-3),
                schedule="cosine",
                warmup=50,
                end=0.01,
                b2=0.99,
                weight_decay=0.005 if cnn else 0.05,
                clip=1.0,
            ),
            eval=dict(every=0, batches=0, train=False, neighbours=0),
            checkpoint=dict(every=0, keep=1),
            log=dict(every=10, tensorboard=False),
            init=dict(checkpoint="", reference=""),
        )
    )
    if variant == "tiny":
        config.update(steps=300)
        config.data.update(source="mnist", mean=(0.13,), deviation=(0.31,))
        config.augment.flip = 0.0
        config.checkpoint.every = 150
    return config
