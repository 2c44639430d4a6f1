"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

    python -m train --config=configs/gpt2.py:tiny --workdir=runs/gpt2
    python -m train --config=configs/gpt2.py:124m --workdir=runs/gpt2-124m

`:tiny`: two CPU cores, about a minute, embedded Shakespeare; no published number.
`:124m`, `:355m`, `:774m`, `:1558m`: 8 accelerators of 40 GB or more. Put a token store of web text
with GPT-2's BPE (OpenWebText; WebText was never released) at data/openwebtext first. Expected for
124m on OpenWebText: held-out loss about 2.85 nats per token, nanoGPT's figure for this recipe.

From the paper: batches of 512 x 1024, context 1024, GPT-2's BPE, the initialisation (residual
projections scaled by 1/sqrt(2 layers)), dropout 0.1 in the released model. Not published:
optimizer, learning rates ("manually tuned") and length. Ours: GPT-3's for the same sizes (Brown et
al. 2020, table 2.1 and appendix B), and nanoGPT's 600,000 updates.
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "124m", "355m", "774m", "1558m")
RATES = {"124m": 6e-4, "355m": 3e-4, "774m": 2.5e-4, "1558m": 2e-4}


def get_config(variant="tiny"):
    size = "124m" if variant == "tiny" else variant
    config = ConfigDict(
        dict(
            loop="lm",
            seed=0,
            steps=600_000,
            batch=512,
            length=1024,
            micro=4,
            model=families.row("gpt2", size, dtype="bfloat16"),
            data=dict(source="data/openwebtext", tokenizer="gpt2", packing="contiguous"),
            optim=dict(
                name="adamw",
                lr=RATES[size],
                schedule="cosine",
                warmup=2000,
                end=0.1,
                b2=0.95,
                eps=1e-8,
                weight_decay=0.1,
                clip=1.0,
            ),
            mesh=dict(data=-1, fsdp=1, tensor=1),
            eval=dict(every=2000, batches=64),
            checkpoint=dict(every=2000, keep=3),
            log=dict(every=50),
        )
    )
    if size in ("774m", "1558m"):  # optimiser state and parameters cut over the devices
        config.mesh.update(data=1, fsdp=-1)
        config.model.update(scan=True, remat="full")
    if variant == "tiny":
        config.update(steps=250, batch=16, length=128, micro=1)
        config.model = families.row(
            "gpt2", vocab=1024, context=128, layers=2, width=128, heads=4,
            drop_embed=0.0, drop_attn=0.0, drop_resid=0.0,
        )  # fmt: skip
        config.data.update(source="shakespeare", tokenizer="bpe:1024")
        config.optim.update(lr=3e-3, warmup=12)
        config.eval.update(every=125, batches=0)
        config.checkpoint.update(every=125, keep=1)
        config.log.every = 10
    return config
