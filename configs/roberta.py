"""RoBERTa (Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach").

    python -m train --config=configs/roberta.py:tiny --workdir=runs/roberta
    python -m train --config=configs/roberta.py:base --workdir=runs/roberta-base

`:tiny`: two CPU cores, about a minute, embedded Shakespeare with a byte-level BPE trained on it; no
published number.
`:base`, `:large`: the paper used 1,024 V100. Put a token store of the text (160 GB in the paper),
written with RoBERTa's own tokenizer, at data/roberta first. Expected after fine-tuning: MNLI 87.6
(base) and 90.2 (large), SQuAD 1.1 F1 94.6 (large; paper, tables 4 and 5).

From the paper (sections 3 to 5, table 9): full sentences across documents, no next-sentence loss,
masks drawn anew each time, batches of 8,192 x 512, 500,000 steps, Adam with b2 0.98, eps 1e-6, decay
0.01, linear decay from 6e-4 (base, 24,000 steps of warm-up) or 4e-4 (large, 30,000), no clipping.
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
            steps=500_000,
            batch=8192,
            length=512,
            micro=8,
            model=families.row("roberta", size, head="masked", dtype="bfloat16"),
            data=dict(
                source="data/roberta",
                tokenizer="store",
                packing="full_sentences",
                pair="none",
                masking=dict(rate=0.15, mask=0.8, random=0.1, unit="token", most=0, static=0),
            ),
            optim=dict(
                name="adamw",
                lr=4e-4 if size == "large" else 6e-4,
                schedule="linear",
                warmup=30_000 if size == "large" else 24_000,
                end=0.0,
                b2=0.98,
                eps=1e-6,
                weight_decay=0.01,
                clip=0.0,
            ),
            eval=dict(every=5000, batches=16, pseudo=0),
            checkpoint=dict(every=5000, keep=3),
            log=dict(every=100),
        )
    )
    if variant == "tiny":
        config.update(steps=400, batch=16, length=128, micro=1)
        config.model = families.row(
            "roberta", "base", vocab=2048, context=128, layers=2, width=128, heads=2,
            position_pad=2045, head="masked", drop_embed=0.0, drop_attn=0.0, drop_resid=0.0,
        )  # fmt: skip
        config.data.update(source="shakespeare", tokenizer="bpe:2048")
        config.optim.update(lr=2e-3, warmup=40, clip=1.0)
        config.eval.update(every=200, batches=16, pseudo=2)
        config.checkpoint.update(every=200, keep=1)
        config.log.every = 10
    return config
