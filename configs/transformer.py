"""The Transformer (Vaswani et al. 2017, "Attention Is All You Need").

    python -m train --config=configs/transformer.py:tiny --workdir=runs/transformer
    python -m train --config=configs/transformer.py:kjv --workdir=runs/kjv
    python -m train --config=configs/transformer.py:base --workdir=runs/transformer-base

    python -m scripts.prepare fetch debian-translations
    python -m scripts.prepare table en-de --source data/debian-translations
    python -m train --config=configs/transformer.py:en-de --workdir=runs/en-de

`:tiny`: two CPU cores, about a minute, embedded verse pairs from the King James to the World English
Bible, two books held out; no published number, and copying the source is strong here.
`:kjv`, `:en-de`, `:en-fr`: for two cores: those verses with seven books held out, three layers of 256, and
Debian's descriptions of packages, split by package, two layers of 128 (`scripts.bench translate` trains
torch's module for the same minutes). No published number.
`:base`, `:big`: 8 accelerators. Put WMT 2014 English-German at data/wmt14_ende.tsv first, with the
columns `set` (newstest2013 and newstest2014 are held out), `en` and `de`. Expected, as the paper
tokenises: BLEU 27.3 and 28.4 on newstest2014 (table 2), 25.8 on newstest2013 for base (table 3).
`:marian` is the shape of the OPUS-MT models (Junczys-Dowmunt et al. 2018), with the same recipe.

From the paper: shared byte-pair vocabulary of 37,000, one table for both sides and the head, batches
of about 25,000 tokens a side, Adam 0.9/0.98/1e-9, rate width^-0.5 * min(step^-0.5, step *
4000^-1.5), dropout 0.1 (big: 0.3), labels smoothed by 0.1, 100,000 and 300,000 steps, the last 5 and
20 checkpoints averaged (written every 10 minutes there, every 1,500 steps here), beams of 4 with a
length penalty of 0.6, targets at most 50 tokens longer than sources.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "kjv", "en-de", "en-fr", "base", "big", "marian")
SMALL = ("kjv", "en-de", "en-fr")
VERSES = dict(train="kjv_web", text="kjv", target="web", group="book")


def get_config(variant="tiny"):
    size = "base" if variant == "tiny" or variant in SMALL else variant
    big = variant == "big"
    config = ConfigDict(
        dict(
            loop="seq2seq",
            seed=0,
            steps=300_000 if big else 100_000,
            batch=64,  # of evaluation; training fills batches with data.tokens
            length=256,
            smoothing=0.1,
            average=20 if big else 5,
            model=families.row("transformer", size, dtype="bfloat16"),
            data=dict(
                task="pairs",
                train="data/wmt14_ende.tsv",
                text="en",
                target="de",
                group="set",
                heldout=("newstest2013",),
                test=("newstest2014",),
                prefix="",
                tokenizer="bpe:37000",
                tokens=25_000,
                least=8,
                truncate=True,
            ),
            optim=dict(
                name="adamw",
                lr=((1024 if big else 512) * 4000) ** -0.5,
                schedule="inverse_root",
                warmup=4000,
                b2=0.98,
                eps=1e-9,
            ),
            decode=dict(beams=4, alpha=0.6, rule="gnmt", limit=512, test=0),
            eval=dict(every=5000, batches=0),
            checkpoint=dict(every=1500, keep=20 if big else 5),
            log=dict(every=100),
        )
    )
    if variant in SMALL:
        _small(config, variant)
    if variant == "tiny":
        config.update(steps=160, batch=16, length=96, average=2)
        config.model = families.row(
            "transformer", "base", vocab=2048, context=160, layers=2, width=128, heads=4,
            drop_embed=0.0, drop_resid=0.0,
        )  # fmt: skip
        config.data.update(
            VERSES, heldout=("Ruth",), test=("Jonah",), tokenizer="bpe:2048", tokens=1536, least=48
        )
        config.optim.update(lr=2e-3, warmup=60)
        config.decode.update(limit=16, test=16)
        config.eval.every = 0
        config.checkpoint.update(every=80, keep=2)
        config.log.every = 10
    return config


def _small(config, variant):
    config.update(steps=1500, batch=32, length=128, average=5)
    config.model.update(
        vocab=8192, context=192, layers=3, width=256, ff=1024, heads=4, stream="float32"
    )
    config.data.update(tokenizer="bpe:8192", tokens=3072, least=16)
    if variant == "kjv":
        config.data.update(
            VERSES, heldout=("Ruth", "Philemon"), test=("Jonah", "Amos", "James", "Titus", "Jude")
        )
        config.optim.update(lr=1e-3, warmup=300)
    else:
        config.steps = 2000
        config.model.update(vocab=4096, layers=2, width=128, ff=512)
        config.data.update(
            train=f"data/{variant}.jsonl.gz", text="text", target="target", group="part",
            heldout=("heldout",), test=("test",), tokenizer="bpe:4096", least=32,
        )  # fmt: skip
        config.optim.update(lr=2e-3, warmup=200)
    config.decode.limit = 200
    config.eval.every = 500
    config.checkpoint.update(every=100, keep=5)
    config.log.every = 10
