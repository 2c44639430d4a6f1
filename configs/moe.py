"""Mixtures of experts: Mixtral 8x7B (Jiang et al. 2024) and a small one.

    python -m train --config=configs/moe.py:tiny --workdir=runs/moe
    python -m train --config=configs/moe.py:small --workdir=runs/moe-small
    python -m train --config=configs/moe.py:8x7b --workdir=runs/mixtral

`:tiny`: two CPU cores, about a minute, embedded Shakespeare; no published number. The metric
`balance` is k (2) when the experts share the tokens evenly.
`:small`: 8 experts in each of 12 layers of width 768, 549 million parameters, of which a token
visits a third; one accelerator of 80 GB or eight smaller ones; ours, no published number.
`:8x7b`: hundreds of accelerators of 80 GB. Expected after pre-training: MMLU (5-shot) 70.6.

From the paper: the shape, top-2 routing over a softmax. Its released configuration has 0.02 for the
load-balancing loss. Data and recipe are not published; ours is LLaMA 2's. Put a token store, made
with the model's tokenizer, at data/mixtral (or of GPT-2's BPE at data/openwebtext for `:small`).
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "small", "8x7b")


def get_config(variant="tiny"):
    config = ConfigDict(
        dict(
            loop="lm",
            seed=0,
            steps=500_000,
            batch=1024,
            length=4096,
            model=families.row("moe", "8x7b", dtype="bfloat16", scan=True, remat="full"),
            data=dict(
                source="data/mixtral", tokenizer="data/mixtral/tokenizer", packing="contiguous"
            ),
            optim=dict(
                name="adamw",
                lr=3e-4,
                schedule="cosine",
                warmup=2000,
                end=0.1,
                b2=0.95,
                eps=1e-5,
                weight_decay=0.1,
                clip=1.0,
            ),
            mesh=dict(data=1, fsdp=-1, tensor=1),
            eval=dict(every=1000, batches=64),
            checkpoint=dict(every=500, keep=3),
            log=dict(every=10),
        )
    )
    if variant == "small":
        config.update(steps=100_000, batch=512, length=1024)
        config.model = families.row(
            "moe", vocab=50257, context=1024, layers=12, width=768, heads=12, kv_heads=4, ff=2048,
            dtype="bfloat16", remat="full",
        )  # fmt: skip
        config.data.update(source="data/openwebtext", tokenizer="gpt2")
        config.optim.lr = 6e-4
    if variant == "tiny":
        config.update(steps=250, batch=16, length=128)
        config.model = families.row(
            "moe", vocab=1024, context=128, layers=2, width=128, heads=4, kv_heads=2, ff=192,
            experts=4,
        )  # fmt: skip
        config.data.update(source="shakespeare", tokenizer="bpe:1024")
        config.optim.update(lr=3e-3, warmup=12)
        config.mesh.update(data=-1, fsdp=1)
        config.eval.update(every=125, batches=0)
        config.checkpoint.update(every=125, keep=1)
        config.log.every = 10
    return config
