"""BEiT (Bao et al. 2021, "BERT Pre-Training of Image Transformers").

    python -m train --config=configs/beit.py:tokenizer --workdir=runs/tokenizer
    python -m train --config=configs/beit.py:tiny --workdir=runs/beit \
        --config.model.head=masked --config.tokenizer=runs/tokenizer
    python -m train --config=configs/beit.py:b --workdir=runs/beit-b --config.data.source=FOLDER \
        --config.init.checkpoint=runs/beit-b-mim

`:tokenizer` trains the visual tokens of the embedded digits and `:tiny` predicts them: two CPU cores,
about a minute each; no published number. As it stands `:tiny` predicts pixels (Xie et al. 2021).
The others: 16 accelerators of 32 GB; FOLDER holds ImageNet-1k. `:b-mim` pre-trains, with a tokenizer
trained here (`:tokenizer` with model.image_size=224, model.channels=3, model.patch=16 and
model.vocab=8192 on the same pictures): the paper's is DALL-E's, so its numbers are not promised. `:b`, `:b-384`
and `:l` fine-tune. The paper's, from ImageNet-1k alone (table 1): b 83.2, b-384 84.6, l 85.2 %.

From the paper (section 3.1, appendix) and the authors' code: pre-training AdamW 0.9/0.999, rate 1.5e-3,
batch 2048 for 800 epochs, 10 of warm-up, decay 0.05, clipped at 3, stochastic depth 0.1, colour jitter
0.4, blocks of at least 16 patches until 75 of 196 are masked. Fine-tuning b: 100 epochs, rate 4e-3 at
batch 1024 with 0.65 a layer, 20 epochs of warm-up, decay 0.05, DeiT's augmentation; l: 50 epochs, 0.75.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "tokenizer", "b-mim", "b", "b-384", "l")
DATA = dict(
    source="data/imagenet",
    valid="",
    task="classify",
    labelled=1.0,
    mean=(0.5, 0.5, 0.5),
    deviation=(0.5, 0.5, 0.5),
    crop_share=0.875,
    bad="error",
    workers=16,
)
DIGITS = {
    **DATA, "source": "mnist", "mean": (0.13,), "deviation": (0.31,), "crop_share": 1.0, "workers": 0,
}  # fmt: skip


def get_config(variant="tiny"):
    if variant in ("tiny", "tokenizer"):
        return _tiny() if variant == "tiny" else _tokenizer()
    return _pretraining() if variant == "b-mim" else _finetuning(variant)


def _pretraining():
    return ConfigDict(
        dict(
            loop="mim",
            seed=0,
            steps=500_400,
            batch=2048,
            length=197,
            tokenizer="",
            model=families.row("beit", "b-mim", dtype="bfloat16"),
            data=DATA,
            augment=dict(crop="area", scale=(0.08, 1.0), flip=0.5, jitter=0.4),
            mask=dict(kind="blocks", share=0.383, least=16),
            optim=dict(
                name="adamw", lr=1.5e-3, schedule="cosine", warmup=6_255, end=0.0067, b2=0.999,
                weight_decay=0.05, clip=3.0,
            ),
            eval=dict(every=20_000, neighbours=50_000),
            checkpoint=dict(every=5_000, keep=2),
            log=dict(every=100),
        )
    )  # fmt: skip


def _finetuning(variant):
    steps, batch, decay = {"l": (62_550, 1024, 0.75), "b-384": (75_060, 512, 0.75)}.get(
        variant, (125_100, 1024, 0.65)
    )
    return ConfigDict(
        dict(
            loop="vision",
            seed=0,
            steps=steps,
            batch=batch,
            length=578 if variant == "b-384" else 197,
            smooth=0.1,
            layer_decay=decay,
            frozen_stats=False,
            model=families.row("beit", variant, dtype="bfloat16"),
            data=DATA,
            augment=dict(
                crop="area", scale=(0.08, 1.0), flip=0.5, layers=2, magnitude=9.0, spread=0.5,
                erase=0.25, mixup=0.8, cutmix=1.0, switch=0.5,
            ),
            distill=dict(teacher="", kind="hard", temperature=3.0, weight=0.5),
            optim=dict(
                name="adamw", lr=4e-3 if variant == "b" else 1e-3 if variant == "l" else 2e-5,
                schedule="cosine", warmup=steps // 5, end=0.001, b2=0.999, weight_decay=0.05,
            ),
            eval=dict(every=5_000, batches=0, train=False),
            checkpoint=dict(every=5_000, keep=2),
            log=dict(every=100),
            init=dict(checkpoint="", reference=""),
        )
    )  # fmt: skip


def _tiny():
    return ConfigDict(
        dict(
            loop="mim",
            seed=0,
            steps=600,
            batch=64,
            length=50,
            tokenizer="",
            model=families.row(
                "beit", "b-mim", image_size=28, channels=1, patch=7, layers=4, width=64, heads=4,
                vocab=64, head="pixels", drop_path=0.0,
            ),
            data=DIGITS,
            augment=dict(crop="shift", pad=2),
            mask=dict(kind="blocks", share=0.4, least=2),
            optim=dict(
                name="adamw", lr=2e-3, schedule="cosine", warmup=60, end=0.01, b2=0.98,
                weight_decay=0.05, clip=3.0,
            ),
            eval=dict(every=300, neighbours=4_000),
            checkpoint=dict(every=300, keep=1),
            log=dict(every=10),
        )
    )  # fmt: skip


def _tokenizer():
    model = dict(
        kind="dvae", family="dvae", image_size=28, channels=1, patch=7, layers=2, width=64, vocab=64,
        heads=1, norm="layer", act="relu", init="he", head="none",
    )  # fmt: skip
    return ConfigDict(
        dict(
            loop="dvae",
            seed=0,
            steps=600,
            batch=64,
            length=1,
            temperature=(1.0, 0.0625),
            divergence=0.0,
            model=model,
            data=DIGITS,
            augment=dict(crop="shift", pad=2),
            optim=dict(name="adamw", lr=1e-3, schedule="cosine", warmup=20, end=0.01, b2=0.999),
            eval=dict(every=300, batches=0),
            checkpoint=dict(every=300, keep=1),
            log=dict(every=10),
        )
    )
