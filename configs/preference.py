"""Policies straight from comparisons: DPO, IPO, cDPO, KTO (Rafailov et al. 2023; Azar et al. 2024).

    python -m train --config=configs/preference.py:tiny --workdir=runs/dpo
    python -m train --config=configs/preference.py:dpo --workdir=runs/dpo \
        --config.data.train=PAIRS.jsonl --config.init.checkpoint=RUN
    python -m train --config=configs/preference.py:kto --workdir=runs/kto \
        --config.data.train=JUDGED.jsonl --config.init.checkpoint=RUN

`:tiny`: the pairs of film reviews of configs/reward.py with an empty request, from nothing: whether
the loss falls from ln 2 and the margin grows. `:dpo`, `:ipo`, `:cdpo`, `:kto`: the papers' settings on
a file of comparisons, from a fine-tuned run; `:kto` takes answers judged one by one as well (`prompt`,
`completion`, `label`). Hardware: two CPU cores; `:tiny` about a minute.
Expected: `valid/accuracy` above 0.55 for `:tiny`. No published number at this size.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "dpo", "ipo", "cdpo", "kto")


def get_config(variant="tiny"):
    config = ConfigDict(
        dict(
            loop="preference",
            seed=0,
            steps=200,
            batch=16,
            length=64,
            model=families.row(
                "gpt2", vocab=2048, context=64, layers=1, width=64, heads=2,
                drop_embed=0.0, drop_attn=0.0, drop_resid=0.0,
            ),
            preference=dict(
                loss="dpo", beta=0.1, wrong=0.0, sft=0.0, mean="none", good=1.0, bad=1.0,
                divergence="reverse_kl", excess=1.0,
            ),
            data=dict(
                train="vader-movies",
                valid="",
                valid_share=0.1,
                rounds=1,
                seed=0,
                template="",
                tokenizer="bpe:2048",
                truncate=True,
            ),
            optim=dict(name="adamw", lr=1e-3, schedule="linear", warmup=20, end=0.0, b2=0.98),
            eval=dict(every=100),
            checkpoint=dict(every=100, keep=1),
            log=dict(every=20),
            init=dict(reference="", checkpoint="", model=False),
            reference=dict(reference="", checkpoint=""),
            lora=dict(rank=0, alpha=16.0, targets=r"attn/(q|v)/kernel$", whole=""),
        )
    )  # fmt: skip
    if variant != "tiny":
        config.update(steps=1000, batch=64, length=512)
        config.model = families.row("gpt2", "124m", drop_embed=0.0, drop_attn=0.0, drop_resid=0.0)
        config.data.update(train="pairs.jsonl", tokenizer="init")
        config.optim.update(lr=1e-6, warmup=150, schedule="constant", end=1.0)
        config.init.model = True
        config.preference.loss = variant
    if variant == "ipo":
        config.preference.mean = "tokens"
    if variant == "cdpo":
        config.preference.wrong = 0.1
    if variant == "kto":
        config.optim.lr = 5e-7
    return config
