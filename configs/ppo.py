"""Policies that learn from a reward: PPO, GRPO, Dr. GRPO, RLOO, best of n (Ouyang et al. 2022).

    python -m train --config=configs/ppo.py:tiny --workdir=runs/ppo
    python -m train --config=configs/ppo.py:sort --workdir=runs/sort \
        --config.init.checkpoint=runs/sft [--config.ppo.method=rloo]
    python -m train --config=configs/ppo.py:instructgpt --workdir=runs/instructgpt \
        --config.data.train=PROMPTS.jsonl --config.init.checkpoint=SFT_RUN \
        --config.reward.checkpoint=REWARD_RUN --config.mix.source=TEXT
    python -m train --config=configs/ppo.py:grpo --workdir=runs/grpo \
        --config.data.train=PROMPTS.jsonl --config.init.checkpoint=SFT_RUN

`:tiny`: rows of letters, a reward for the share of the asked letters that the answer holds, from a
policy that knows nothing; two CPU cores, about a minute. Expected: `round/reward` rises from 0.02
to above 0.3. `:sort`: GRPO (or another
method) from the run of configs/sft.py:tiny, 1 for letters in the right order; `valid/reward` is pass@1.
`:instructgpt`: the paper's PPO at our sizes: beta 0.02, clip 0.2, GAE without discount,
the pre-training mix at 27.8, an averaged policy (decay 0.992), 256,000 episodes in rounds of 512, each
gone through once in minibatches of 64. Its scores start with mean 0 and deviation 1; the paper's zero is
the mean score of people's answers, which a column beside the prompts may hold:
`--config.reward.normalise=False --config.reward.demonstrations=COLUMN`. `:grpo`, `:dr_grpo`, `:rloo`,
`:best`: the group methods with a reward that can be verified (Shao et al. 2024; Liu et al. 2025;
Ahmadian et al. 2024). No published number at these sizes.

A reward model with other tokens than the policy's reads texts; VADER's, which has no prompts, so:

    --config.reward.kind=model --config.reward.checkpoint=runs/reward-minilm --config.reward.reads=joined
"""

from ml_collections import ConfigDict

from models import families

VARIANTS = ("tiny", "sort", "instructgpt", "grpo", "dr_grpo", "rloo", "best")
QUIET = dict(drop_embed=0.0, drop_attn=0.0, drop_resid=0.0, drop_head=0.0)


def get_config(variant="tiny"):
    config = ConfigDict(
        dict(
            loop="ppo",
            seed=0,
            steps=320,
            batch=64,
            length=24,
            model=families.row(
                "gpt2", vocab=280, context=24, layers=1, width=64, heads=2, **QUIET
            ),
            ppo=dict(
                method="ppo", group=4, epochs=2, minibatches=4, new=8, temperature=1.0, gamma=1.0,
                lam=0.95, clip=0.2, clip_high=0.0, dual=0.0, clip_value=0.2, value=0.1, aggregate="",
                ratio="", surrogate="clip", cap=5.0, old="auto",
            ),
            kl=dict(
                beta=0.001, controller="fixed", target=6.0, horizon=10_000.0, place="reward",
                estimator="k3", alarm=50.0,
            ),
            reward=dict(
                kind="letters", checkpoint="", reads="pair", missing_eos="none", amount=1.0,
                normalise=False, demonstrations="", whiten=False,
            ),
            mix=dict(weight=0.0, source=""),
            data=dict(
                train="toy:sort",
                valid="",
                valid_share=0.02,
                prompt="text",
                target="target",
                template="",
                tokenizer="char",
            ),
            optim=dict(
                name="adamw", lr=3e-3, schedule="linear", warmup=4, end=0.0, b2=0.98, eps=1e-5,
                clip=1.0,
            ),
            eval=dict(every=160, batches=2),
            checkpoint=dict(every=160, keep=1),
            log=dict(every=4),
            init=dict(reference="", checkpoint="", model=False),
            reference=dict(reference="", checkpoint=""),
        )
    )  # fmt: skip
    if variant in ("tiny", "sort"):
        return config if variant == "tiny" else _sorting(config)
    return _scaled(config, variant)


def _sorting(config):
    config.update(steps=240, length=48)
    config.model = families.row("gpt2", vocab=288, context=48, layers=2, width=64, heads=4, **QUIET)
    config.ppo.update(method="grpo", group=8, epochs=1, minibatches=4, new=14)
    config.kl.update(place="loss", beta=0.0)
    config.reward.kind = "exact"
    config.data.update(template="turns", tokenizer="init")
    config.optim.update(lr=3e-4)
    config.eval.update(every=40, batches=4)
    return config


def _scaled(config, variant):
    config.update(steps=4000, batch=64, length=512)
    config.model = families.row("gpt2", "124m", **QUIET)
    config.ppo.update(epochs=1, minibatches=8, new=256)
    config.kl.beta = 0.02
    config.data.update(train="prompts.jsonl", prompt="prompt", tokenizer="init")
    config.optim.update(lr=1e-6, warmup=8)
    config.init.model = True
    config.reward.kind = "exact"
    if variant == "instructgpt":
        config.reward.update(kind="model", missing_eos="replace", normalise=True)
        config.optim.update(lr=9e-6, schedule="constant", end=1.0, ema=0.992)
        config.mix.update(weight=27.8, source="shakespeare")
    else:
        config.ppo.update(method=variant, group=8)
        config.kl.update(place="loss", beta=0.04 if variant == "grpo" else 0.0)
    if variant == "rloo":
        config.kl.update(place="reward", beta=0.05)
    return config
