"""T5 (Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer"): pre-training by span corruption, and summaries by it.

    python -m train --config=configs/t5.py:tiny --workdir=runs/t5
    python -m train --config=configs/t5.py:base --workdir=runs/t5-base

    python -m scripts.prepare fetch debian-translations
    python -m scripts.prepare table synopses --source data/debian-translations
    python -m train --config=configs/t5.py:packages --workdir=runs/t5-packages
    python -m train --config=configs/t5.py:synopses --workdir=runs/t5-synopses \
        --config.init.checkpoint=runs/t5-packages --config.data.tokenizer=init
    python -m train --config=configs/t5.py:synopses --workdir=runs/t5-scratch \
        --config.data.tokenizer=runs/t5-packages/tokenizer

`:tiny`: two CPU cores, about a minute, embedded Shakespeare with a byte-pair vocabulary trained on
it; no published number.
`:shakespeare`, `:packages`, `:synopses`: two layers of 128, for two cores: span corruption of embedded
Shakespeare and of the descriptions of Debian's packages, and the one line that stands for a package
out of its description, from that pre-training or from nothing. Packages are split by their source;
what is tested on is not pre-trained on either. Adafactor at 0.02, not Adam: the table begins at a
deviation of 1, and steps that do not grow with it leave it where it is (150 steps of Shakespeare in
three layers of 256: held-out loss 5.20 against AdamW's 5.79 at 1e-3). No published number.
`:small` to `:11b`, and `:1.1-small` to `:1.1-xxl`: accelerators that hold them. Put a token store of
C4, written with T5's own vocabulary, at data/c4 first. Expected after fine-tuning, base and large:
GLUE 82.7 and 86.4, SQuAD F1 92.08 and 93.79 (table 14).

From the paper: 15 % of the tokens in spans of 3 on average, rows of 512 (568 before they are
corrupted), batches of 128 for 2^19 steps (the baseline of section 3.1; the final models saw 2,048 for
a million steps), Adafactor without momentum at 1 / sqrt(max(step, 10^4)), dropout 0.1. Version 1.1
is trained on C4 alone and without dropout (the authors' code). Fine-tuning: rate 0.001, 2^18 steps.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = (
    "tiny", "shakespeare", "packages", "synopses", "small", "base", "large", "3b", "11b",
    "1.1-small", "1.1-base", "1.1-large", "1.1-xl", "1.1-xxl",
)  # fmt: skip
LITTLE = ("shakespeare", "packages", "synopses")
DRY = dict.fromkeys(("drop_embed", "drop_attn", "drop_resid", "drop_act", "drop_final"), 0.0)


def get_config(variant="tiny"):
    size = "small" if variant == "tiny" or variant in LITTLE else variant
    dropout = DRY if size.startswith("1.1") else {}
    config = ConfigDict(
        dict(
            loop="seq2seq",
            seed=0,
            steps=2**19,
            batch=128,
            length=512,
            smoothing=0.0,
            model=families.row("t5", size, dtype="bfloat16", **dropout),
            data=dict(
                task="denoise",
                source="data/c4",
                tokenizer="store",
                packing="noise",
                noise=dict(kind="spans", rate=0.15, span=3.0),
            ),
            optim=dict(
                name="adafactor",
                lr=0.01,
                schedule="inverse_root",
                warmup=0,
                decay_steps=10_000,
                b1=0.0,
            ),
            eval=dict(every=5000, batches=64),
            checkpoint=dict(every=5000, keep=3),
            log=dict(every=100),
        )
    )
    if variant in LITTLE:
        _little(config, variant)
    if variant == "tiny":
        config.update(steps=200, batch=16, length=96)
        config.model = families.row(
            "t5", "small", vocab=1124, context=96, layers=2, width=128, heads=4, head_size=32, ff=512,
            **DRY,
        )  # fmt: skip
        config.data.update(source="shakespeare", tokenizer="bpe:1024")
        config.eval.update(every=100, batches=8)
        config.checkpoint.update(every=100, keep=1)
        config.log.every = 10
    return config


def _little(config, variant):
    config.update(steps=1000, batch=32, length=128)
    config.model = families.row(
        "t5", "small", vocab=4196, context=256, layers=2, width=128, heads=4, head_size=32, ff=512,
        dtype="bfloat16", stream="float32", **DRY,
    )  # fmt: skip
    config.data.update(source="shakespeare", tokenizer="bpe:4096")
    config.optim.update(lr=0.02, schedule="cosine", warmup=100, decay_steps=0, end=0.0)
    if variant == "packages":
        config.steps = 3000
        config.data.source = "data/synopses.jsonl.gz"
        config.data.heldout = ("heldout/*", "test/*")
    if variant == "synopses":
        config.steps = 1500
        config.model.update(drop_resid=0.1, drop_embed=0.1)
        config.smoothing = 0.1
        config.optim.lr = 0.01
        config.data = dict(
            task="pairs", train="data/synopses.jsonl.gz", text="text", target="target", group="part",
            heldout=("heldout",), test=("test",), prefix="summarize: ", tokenizer="bpe:4096",
            tokens=4096, least=32, target_length=32, truncate=True,
        )  # fmt: skip
        config.decode = dict(beams=4, alpha=0.6, rule="gnmt", limit=200, test=0)
        config.init = dict(checkpoint="")
    config.eval.update(every=250, batches=0 if variant == "synopses" else 16)
    config.checkpoint.update(every=250, keep=1)
    config.log.every = 10
