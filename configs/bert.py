"""BERT (Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers").

    python -m train --config=configs/bert.py:tiny --workdir=runs/bert
    python -m train --config=configs/bert.py:embedded --workdir=runs/bert-embedded
    python -m train --config=configs/bert.py:base --workdir=runs/bert-base

`:tiny`: two CPU cores, about a minute, embedded Shakespeare with a WordPiece vocabulary trained on
it; no published number. Seed 0 on works held out: masked accuracy .120, next sentence .492, which is chance.
`:embedded`: Turc et al.'s mini on Shakespeare and the World English Bible, about an hour on a core. Seed 0 on
works held out: masked accuracy .168, .178, .220 after 900, 1,800, 3,000 steps, next sentence .520, .684, .791,
pseudo-perplexity 1,081, 733, 437: the context is read from step 2,000 on. No published number.
`:base`, `:large` and others: 8 accelerators of 40 GB or more. Put a token store of English Wikipedia
and books, written with BERT's own tokenizer, at data/wikibooks first. Expected for base after
fine-tuning: GLUE 79.6, for large 82.1 (paper, table 1; the test server's average without WNLI).

From the paper (section 3.1, appendix A.2): pairs of segments with next-sentence prediction, 15 % of
the WordPieces masked 80/10/10, ten static masks a text, one pair in ten short; Adam 1e-4, b2 0.999,
decay 0.01, 10,000 steps of warm-up, linear decay; batches of 256, 900,000 steps at length 128 and
100,000 at 512. eps 1e-6 is the authors' code's. The sizes below base are Turc et al. 2019's, whose
recipe this is, too; `minilm-l6` and `distilbert-base` were distilled, and are here for their shape.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = (
    "tiny", "embedded", "mini", "small", "medium", "minilm-l6", "distilbert-base", "base",
    "base-cased", "large",
)  # fmt: skip


def get_config(variant="tiny"):
    size = {"tiny": "base", "embedded": "mini"}.get(variant, variant)
    config = ConfigDict(
        dict(
            loop="mlm",
            seed=0,
            steps=1_000_000,
            batch=256,
            length=512,
            phases=((900_000, 128, 256),),
            model=families.row("bert", size, head="pretrain", dtype="bfloat16"),
            data=dict(
                source="data/wikibooks",
                tokenizer="store",
                packing="pairs",
                pair="next",
                short=0.1,
                masking=dict(rate=0.15, mask=0.8, random=0.1, unit="token", most=0, static=10),
            ),
            optim=dict(
                name="adamw",
                lr=1e-4,
                schedule="linear",
                warmup=10_000,
                end=0.0,
                b2=0.999,
                eps=1e-6,
                weight_decay=0.01,
                clip=1.0,
            ),
            eval=dict(every=10_000, batches=64, pseudo=0),
            checkpoint=dict(every=10_000, keep=3),
            log=dict(every=100),
        )
    )
    if variant == "distilbert-base":  # no segments and no pooler
        config.model.head = "masked"
        config.data.update(packing="full_sentences", pair="none")
    if variant == "tiny":
        config.update(steps=400, batch=16, length=128, phases=())
        config.model = families.row(
            "bert", "base", vocab=2048, context=128, layers=2, width=128, heads=2,
            head="pretrain", drop_embed=0.0, drop_attn=0.0, drop_resid=0.0,
        )  # fmt: skip
        config.data.update(source="shakespeare", tokenizer="wordpiece:2048")
        config.optim.update(lr=2e-3, warmup=40)
        config.eval.update(every=200, batches=16, pseudo=2)
        config.checkpoint.update(every=200, keep=1)
        config.log.every = 10
    if variant == "embedded":
        _embedded(config)
    return config


def _embedded(config):
    config.update(steps=3000, batch=32, length=128, phases=())
    config.model.update(
        vocab=8192, context=128, stream="float32", drop_embed=0.0, drop_attn=0.0, drop_resid=0.0
    )
    config.data.update(
        source="", mixture=(("shakespeare", 0.6), ("web", 0.4)), tokenizer="wordpiece:8192"
    )
    config.optim.update(lr=1e-3, warmup=300)
    config.eval.update(every=300, batches=16, pseudo=4)
    config.checkpoint.update(every=500, keep=1)
    config.log.every = 10
