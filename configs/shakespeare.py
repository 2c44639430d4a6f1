"""A small GPT on the embedded Shakespeare: what `make train` runs.

    python -m train --config=configs/shakespeare.py --workdir=runs/shakespeare

Two CPU cores, under five minutes (`:tiny`: one minute). Architecture: GPT-2 (Radford et al. 2019)
without dropout, since a run reads the plays less than three times. Number: bits per character on
`tempest`, `macbeth` and `rape_of_lucrece`, whole works that neither the model nor the tokenizer
sees in training: 2.462 (seed 0, two cores, 650 steps); the README has torch's beside it. With
Muon (Jordan et al. 2024) a run of 300 steps ended at 2.606, with AdamW at 2.917
(`--config.steps=300 --config.optim.warmup=15 --config.optim.name=adamw`; lr 3e-3, seed 0).
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("small", "tiny")


def get_config(variant="small"):
    tiny = variant == "tiny"
    length = 128 if tiny else 256
    steps = 250 if tiny else 650
    return ConfigDict(
        dict(
            loop="lm",
            seed=0,
            steps=steps,
            batch=8,
            length=length,
            model=families.row(
                "gpt2",
                vocab=1024,
                context=length,
                layers=2 if tiny else 4,
                width=128 if tiny else 192,
                heads=2 if tiny else 3,
                dtype="bfloat16",
                stream="float32",
                drop_embed=0.0,
                drop_attn=0.0,
                drop_resid=0.0,
            ),
            data=dict(source="shakespeare", tokenizer="bpe:1024", packing="contiguous"),
            optim=dict(
                name="muon",
                lr=3e-3,
                schedule="cosine",
                warmup=steps // 20,
                end=0.05,
                b2=0.95,
                weight_decay=0.1,
                clip=1.0,
            ),
            eval=dict(every=steps // 3, batches=0),
            checkpoint=dict(every=steps // 3, keep=1),
            log=dict(every=10),
        )
    )
