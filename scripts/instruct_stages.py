"""The demo's stages as configs of the loops: fine-tuning, reward model, PPO. Settings are frozen here."""

from ml_collections import ConfigDict

from models import families
from train.core.config import complete

NEW, ROOM, VOCAB = 20, 12, 352
QUIET = dict(drop_embed=0.0, drop_attn=0.0, drop_resid=0.0, drop_head=0.0)
SIZE = dict(vocab=VOCAB, context=NEW + ROOM, layers=2, width=64, heads=4, **QUIET)


def _config(loop, seed, steps, batch, lr, head=None, **sections) -> ConfigDict:
    model = families.row("gpt2", **SIZE, **(head or {}))
    optim = dict(name="adamw", lr=lr, schedule="linear", warmup=max(1, steps // 20), end=0.0, eps=1e-5,
                 clip=1.0)  # fmt: skip
    log = dict(every=max(1, steps // 10), tensorboard=False)
    made = dict(
        loop=loop, seed=seed, steps=steps, batch=batch, length=NEW + ROOM, model=model, optim=optim,
        log=log, checkpoint=dict(every=0, keep=1), **sections,
    )  # fmt: skip
    return complete(ConfigDict(made))


def tuned(data, seed: int, steps: int):
    """Fine-tuning on reviews that follow their requests more or less."""
    rows = dict(train=str(data), valid="", valid_share=0.02, tokenizer="word:352", packing="none",
                loss="completion", template="")  # fmt: skip
    return _config(
        "sft", seed, steps, 128, 3e-3, data=rows, init=dict(model=False), lora=dict(rank=0)
    )


def reward(data, base, seed: int, steps: int):
    """A reward model from rankings, on the fine-tuned weights."""
    rows = dict(train=str(data), valid="", valid_share=0.15, tokenizer="init", template="",
                truncate=True)  # fmt: skip
    head = dict(head="classify", labels=1, score_bias=True)
    return _config(
        "reward", seed, steps, 32, 3e-3, head, data=rows, lora=dict(rank=0),
        init=dict(checkpoint=str(base), reference="", model=False), reward=dict(margin=0.0),
        eval=dict(every=max(1, steps // 6)), best=dict(metric="valid/nll", mode="min", patience=0),
    )  # fmt: skip


def ppo(data, base, judge, seed: int, rounds: int, beta: float):
    """PPO from the fine-tuned policy against the reward model's best checkpoint."""
    return _config(
        "ppo", seed, 4 * rounds, 64, 3e-4,
        data=dict(train=str(data), valid="", valid_share=0.0, tokenizer="init", template=""),
        init=dict(checkpoint=str(base), reference="", model=False),
        ppo=dict(method="ppo", epochs=2, minibatches=2, new=NEW),
        kl=dict(beta=beta),
        reward=dict(kind="model" if judge else "exact", checkpoint=str(judge or ""), normalise=True),
    )  # fmt: skip
