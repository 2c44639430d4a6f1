"""ALBERT (Lan et al. 2020, "ALBERT: A Lite BERT for Self-supervised Learning").

    python -m train --config=configs/albert.py:tiny --workdir=runs/albert
    python -m train --config=configs/albert.py:embedded --workdir=runs/albert-embedded
    python -m train --config=configs/albert.py:base --workdir=runs/albert-base

`:tiny`: two CPU cores, about a minute, embedded Shakespeare with a unigram vocabulary trained on it;
no published number.
`:embedded`: four layers of 256 with one set of weights on Shakespeare and the World English Bible, tokens
and compute as in configs/bert.py, about an hour on a core. Seed 0 on works held out, after 3,000 steps: masked
accuracy .180, sentence order .773, pseudo-perplexity 774. No published number.
`:base` to `:xxlarge`: the paper used 64 to 512 TPU v3. Put a token store of English Wikipedia and
books, written with ALBERT's own tokenizer, at data/wikibooks-albert first. Expected after
fine-tuning, for xxlarge after 1.5 M steps: MNLI 90.8, SQuAD 2.0 F1 90.2 (dev; tables 9 and 10).

From the paper (sections 3.1 and 4.1): one set of layer parameters, embeddings of 128, sentence-order
prediction, n-grams of up to three words masked with p(n) ~ 1/n, one pair in ten short, LAMB with a
rate of 1.76e-3, batches of 4,096 x 512, 125,000 steps. From the authors' code: 3,125 steps of
warm-up, linear decay, decay 0.01, clipping at 1, at most 20 predictions a row, tanh GELU and no
dropout (version 2).
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "embedded", "base", "large", "xlarge", "xxlarge")


def get_config(variant="tiny"):
    size = "base" if variant in ("tiny", "embedded") else variant
    config = ConfigDict(
        dict(
            loop="mlm",
            seed=0,
            steps=125_000,
            batch=4096,
            length=512,
            micro=8,
            model=families.row("albert", size, head="pretrain", dtype="bfloat16"),
            data=dict(
                source="data/wikibooks-albert",
                tokenizer="store",
                packing="pairs",
                pair="order",
                short=0.1,
                masking=dict(
                    rate=0.15, mask=0.8, random=0.1, unit="ngram", longest=3, most=20, static=0
                ),
            ),
            optim=dict(
                name="lamb",
                lr=1.76e-3,
                schedule="linear",
                warmup=3125,
                end=0.0,
                b2=0.999,
                eps=1e-6,
                weight_decay=0.01,
                clip=1.0,
            ),
            eval=dict(every=5000, batches=16, pseudo=0),
            checkpoint=dict(every=5000, keep=3),
            log=dict(every=100),
        )
    )
    if variant == "tiny":
        config.update(steps=400, batch=16, length=128, micro=1)
        config.model = families.row(
            "albert", "base", vocab=2048, context=128, layers=3, width=128, heads=2,
            embed_width=64, head="pretrain", drop_head=0.0,
        )  # fmt: skip
        config.data.update(source="shakespeare", tokenizer="unigram:2048")
        config.optim.update(lr=1e-2, warmup=40)
        config.eval.update(every=200, batches=16, pseudo=2)
        config.checkpoint.update(every=200, keep=1)
        config.log.every = 10
    if variant == "embedded":
        _embedded(config)
    return config


def _embedded(config):
    config.update(steps=3000, batch=32, length=128, micro=1)
    config.model = families.row(
        "albert", "base", vocab=8192, context=128, layers=4, width=256, heads=4, embed_width=128,
        head="pretrain", drop_head=0.0, dtype="bfloat16", stream="float32",
    )  # fmt: skip
    config.data.update(
        source="", mixture=(("shakespeare", 0.6), ("web", 0.4)), tokenizer="wordpiece:8192"
    )
    config.optim.update(lr=5e-3, warmup=300)
    config.eval.update(every=300, batches=16, pseudo=4)
    config.checkpoint.update(every=500, keep=1)
    config.log.every = 10
