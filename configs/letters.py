"""Copying, reversing and sorting letters: whether cross-attention works (Vaswani et al. 2017).

    python -m train --config=configs/letters.py:tiny --workdir=runs/letters
    python -m train --config=configs/letters.py:sort --workdir=runs/letters-sort

All variants: two CPU cores, under two minutes, rows of 1 to 12 letters made on the spot. Expected:
`exact` 100, every one of 500 held-out rows right to the letter; a decoder that cannot read its source
stays near 0. `:tiny` is `:reverse`. No published number.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "copy", "reverse", "sort")


def get_config(variant="tiny"):
    task = "reverse" if variant == "tiny" else variant
    return ConfigDict(
        dict(
            loop="seq2seq",
            seed=0,
            steps=2000 if task == "sort" else 1500,
            batch=100,
            length=16,
            smoothing=0.0,
            average=0,
            model=families.row(
                "transformer", "base", vocab=280, context=80, layers=2, width=64, heads=4,
                drop_embed=0.0, drop_resid=0.0,
            ),
            data=dict(
                task="pairs",
                train=f"toy:{task}",
                text="text",
                target="target",
                group="part",
                heldout=("heldout",),
                tokenizer="char",
                tokens=1024,
                least=16,
            ),
            optim=dict(name="adamw", lr=2e-3, schedule="cosine", warmup=100, end=0.0, b2=0.98),
            decode=dict(beams=1, alpha=0.6, rule="gnmt", limit=0, test=0),
            checkpoint=dict(keep=1),
            log=dict(every=50),
        )
    )  # fmt: skip
