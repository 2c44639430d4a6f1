"""Q-learning on worlds whose optimum is known (Watkins 1989; Mnih et al. 2015).

    python -m train --config=configs/qlearning.py:tiny --workdir=runs/q
    python -m train --config=configs/qlearning.py:cliff --workdir=runs/cliff
    python -m train --config=configs/qlearning.py:network --workdir=runs/dqn

Needs the extra `rl` (gymnasium). Hardware: one CPU core; each variant under a minute. Expected, against
the exact optimum of the listed transitions: `:tiny`, a table on the slippery lake of 4x4, `return` near
0.7402, what the optimal greedy policy earns within 100 steps (so that "solved at 80 %" cannot be
expected); `:cliff` -13; `:network`, a small network with replay on the lake without slipping, 1.0.
"""

from ml_collections import ConfigDict

VARIANTS = ("tiny", "cliff", "network")


def get_config(variant="tiny"):
    config = ConfigDict(
        dict(
            loop="qlearning",
            seed=0,
            steps=400_000,
            batch=32,
            length=1,
            world=dict(id="FrozenLake-v1", slippery=True, map="", limit=0),
            q=dict(
                net="table", gamma=0.99, epsilon=1.0, epsilon_end=0.3, epsilon_steps=100_000,
                power=0.65, width=32, replay=10_000, least=500, target=250, double=True, every=1,
            ),
            optim=dict(name="adamw", lr=1e-3, schedule="constant", warmup=0, end=1.0),
            log=dict(every=20_000),
        )
    )  # fmt: skip
    if variant == "cliff":
        config.steps = 100_000
        config.world.update(id="CliffWalking-v1", limit=200)
        config.q.update(epsilon_steps=50_000, epsilon_end=0.1)
    if variant == "network":
        config.steps = 8000
        config.world.slippery = False
        config.q.update(net="mlp", epsilon_steps=6000, epsilon_end=0.1, gamma=0.95)
        config.optim.lr = 3e-3
        config.log.every = 1000
    return config
