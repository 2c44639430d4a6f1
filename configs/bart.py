"""BART (Lewis et al. 2019, "BART: Denoising Sequence-to-Sequence Pre-training"): pre-training by
infilling, and summaries by it.

    python -m train --config=configs/bart.py:tiny --workdir=runs/bart
    python -m train --config=configs/bart.py:large --workdir=runs/bart-large

    python -m train --config=configs/bart.py:packages --workdir=runs/bart-packages
    python -m train --config=configs/bart.py:synopses --workdir=runs/bart-synopses \
        --config.init.checkpoint=runs/bart-packages --config.data.tokenizer=init

`:tiny`: two CPU cores, about a minute, embedded Shakespeare with a byte-pair vocabulary trained on
it; no published number.
`:shakespeare`, `:packages`, `:synopses`: two layers of 128, for two cores: the same text and tables as
in configs/t5.py (which says how these are made), infilled, not permuted. No published number.
`:base`, `:large`: 8 accelerators or more. Put a token store of RoBERTa's text (160 GB), written with
its byte-pair vocabulary, at data/roberta first. Expected for large after fine-tuning: SQuAD 1.1 88.8
exact and 94.6 F1, MNLI 89.9 (table 2), CNN/DailyMail ROUGE 44.16 / 21.28 / 40.90 (table 3).

From the paper (section 5.1): sentences permuted and 30 % of the tokens infilled, spans of Poisson(3)
tokens each replaced by one mask, batches of 8,000 for 500,000 steps, dropout 0.1, off for the last
tenth (here throughout). Not published: optimiser, rate and row length; RoBERTa's for large.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "shakespeare", "packages", "synopses", "base", "large")
LITTLE = ("shakespeare", "packages", "synopses")


def get_config(variant="tiny"):
    size = "base" if variant == "tiny" or variant in LITTLE else variant
    config = ConfigDict(
        dict(
            loop="seq2seq",
            seed=0,
            steps=500_000,
            batch=8000,
            length=512,
            micro=25,
            smoothing=0.0,
            model=families.row("bart", size, dtype="bfloat16"),
            data=dict(
                task="denoise",
                source="data/roberta",
                tokenizer="store",
                packing="noise",
                noise=dict(kind="permute+infill", rate=0.3, span=3.0),
            ),
            optim=dict(
                name="adamw",
                lr=4e-4,
                schedule="linear",
                warmup=30_000,
                end=0.0,
                b2=0.98,
                eps=1e-6,
                weight_decay=0.01,
            ),
            eval=dict(every=5000, batches=64),
            checkpoint=dict(every=5000, keep=3),
            log=dict(every=100),
        )
    )
    if variant in LITTLE:
        _little(config, variant)
    if variant == "tiny":
        config.update(steps=200, batch=16, length=96, micro=1)
        config.model = families.row(
            "bart", "base", vocab=1025, context=96, layers=2, width=128, heads=4, start=0,
            drop_embed=0.0, drop_resid=0.0,
        )  # fmt: skip
        config.data.update(source="shakespeare", tokenizer="bpe:1024")
        config.optim.update(lr=1e-3, warmup=40)
        config.eval.update(every=100, batches=8)
        config.checkpoint.update(every=100, keep=1)
        config.log.every = 10
    return config


def _little(config, variant):
    config.update(steps=500, batch=32, length=128, micro=1)
    config.model = families.row(
        "bart", "base", vocab=4097, context=256, layers=2, width=128, heads=4, ff=512, start=0,
        dtype="bfloat16", stream="float32", drop_embed=0.0, drop_resid=0.0,
    )  # fmt: skip
    config.data.update(source="shakespeare", tokenizer="bpe:4096")
    config.data.noise.kind = "infill"
    if variant == "packages":
        config.steps = 1500
        config.data.source = "data/synopses.jsonl.gz"
        config.data.heldout = ("heldout/*", "test/*")
    if variant == "synopses":
        config.steps = 1500
        config.model.update(drop_resid=0.1, drop_embed=0.1)
        config.smoothing = 0.1
        config.data = dict(
            task="pairs", train="data/synopses.jsonl.gz", text="text", target="target", group="part",
            heldout=("heldout",), test=("test",), prefix="", tokenizer="bpe:4096",
            tokens=4096, least=32, target_length=32, truncate=True,
        )  # fmt: skip
        config.decode = dict(beams=4, alpha=0.6, rule="gnmt", limit=200, test=0)
        config.init = dict(checkpoint="")
    config.optim = dict(
        name="adamw", lr=2e-3, schedule="cosine", warmup=100, end=0.0, b2=0.98, weight_decay=0.01
    )
    config.eval.update(every=250, batches=0 if variant == "synopses" else 16)
    config.checkpoint.update(every=250, keep=1)
    config.log.every = 10
