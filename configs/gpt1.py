"""GPT-1 (Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training").

    python -m train --config=configs/gpt1.py:tiny --workdir=runs/gpt1
    python -m train --config=configs/gpt1.py:117m --workdir=runs/gpt1-117m

`:tiny`: two CPU cores, about a minute, embedded Shakespeare; no published number.
`:117m`: one accelerator of 16 GB or more, months of one, as in the paper (a month on 8 GPUs). Put a
token store of BooksCorpus with the model's own tokenizer at data/bookscorpus first; the corpus is
no longer distributed by its authors. Expected: token-level perplexity 18.4 (paper, section 4.1).

From the paper: Adam, lr 2.5e-4 after 2000 updates of linear warm-up, cosine to 0, batches of 64 x
512, 100 epochs, decay 0.01 on all weights that are not biases or gains, dropout 0.1, N(0, 0.02).
Ours: 30,000 updates an epoch (about 10^9 tokens) and clipping at 1, the authors' fine-tuning value.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "117m")


def get_config(variant="tiny"):
    config = ConfigDict(
        dict(
            loop="lm",
            seed=0,
            steps=3_000_000,
            batch=64,
            length=512,
            model=families.row("gpt1", "117m"),
            data=dict(
                source="data/bookscorpus",
                tokenizer="data/bookscorpus/tokenizer",
                packing="contiguous",
            ),
            optim=dict(
                name="adamw",
                lr=2.5e-4,
                schedule="cosine",
                warmup=2000,
                end=0.0,
                b2=0.999,
                eps=1e-8,
                weight_decay=0.01,
                decay=r"(kernel|embedding)$",
                clip=1.0,
            ),
            eval=dict(every=5000, batches=64),
            checkpoint=dict(every=5000, keep=3),
            log=dict(every=50),
        )
    )
    if variant == "tiny":
        config.update(steps=250, batch=16, length=128)
        config.model = families.row(
            "gpt1", vocab=1024, context=128, layers=2, width=128, heads=4,
            drop_embed=0.0, drop_attn=0.0, drop_resid=0.0,
        )  # fmt: skip
        config.data.update(source="shakespeare", tokenizer="bpe:1024")
        config.optim.update(lr=2e-3, warmup=25)
        config.eval.update(every=125, batches=0)
        config.checkpoint.update(every=125, keep=1)
        config.log.every = 10
    return config
