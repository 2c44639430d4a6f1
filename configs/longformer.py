"""Longformer (Beltagy et al. 2020, "Longformer: The Long-Document Transformer").

    python -m train --config=configs/longformer.py:tiny --workdir=runs/longformer
    python -m train --config=configs/longformer.py:base --workdir=runs/longformer-base

`:tiny`: two CPU cores, about a minute, embedded Shakespeare from scratch, rows of 256 with windows
of 32; no published number.
`:base`, `:large`: 8 accelerators of 40 GB or more. Put a token store of long documents, written with
RoBERTa's tokenizer, at data/longformer, and start from RoBERTa with its positions copied eight times:
`--config.init.reference=FOLDER` takes a folder of that. Expected for base (paper, table 5): bits per
character of the masked text 1.705 after 65,000 steps, from 1.957 at the start.

From the paper (section 5): windows of 512, sequences of 4,096, batches of 2^18 tokens, 65,000 steps,
rate 3e-5 with 500 steps of warm-up, otherwise RoBERTa's recipe. The paper's decay is a polynomial of
power 3; ours is linear.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "base", "large")


def get_config(variant="tiny"):
    size = "base" if variant == "tiny" else variant
    config = ConfigDict(
        dict(
            loop="mlm",
            seed=0,
            steps=65_000,
            batch=64,
            length=4096,
            micro=4,
            model=families.row("longformer", size, head="masked", dtype="bfloat16", remat="full"),
            data=dict(
                source="data/longformer",
                tokenizer="store",
                packing="doc_sentences",
                pair="none",
                masking=dict(rate=0.15, mask=0.8, random=0.1, unit="token", most=0, static=0),
            ),
            optim=dict(
                name="adamw",
                lr=3e-5,
                schedule="linear",
                warmup=500,
                end=0.0,
                b2=0.98,
                eps=1e-6,
                weight_decay=0.01,
                clip=0.0,
            ),
            eval=dict(every=1000, batches=64, pseudo=0),
            checkpoint=dict(every=1000, keep=3),
            log=dict(every=50),
        )
    )
    if variant == "tiny":
        config.update(steps=200, batch=8, length=256, micro=1)
        config.model = families.row(
            "longformer", "base", vocab=2048, context=256, layers=2, width=128, heads=2,
            windows=(32,), position_pad=2045, head="masked",
            drop_embed=0.0, drop_attn=0.0, drop_resid=0.0,
        )  # fmt: skip
        config.data.update(source="shakespeare", tokenizer="bpe:2048")
        config.optim.update(lr=2e-3, warmup=20, clip=1.0)
        config.eval.update(every=100, batches=16, pseudo=1)
        config.checkpoint.update(every=100, keep=1)
        config.log.every = 10
    return config
