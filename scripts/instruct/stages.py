"""The demo's stages as configs of the loops, from `configs/instruct_demo.py`, for a seed and some data."""

from configs import instruct_demo
from train.core.config import complete

NEW, ROOM = instruct_demo.NEW, instruct_demo.ROOM
_PPO = instruct_demo.PARTS["ppo"]["ppo"]
ROUND = _PPO["epochs"] * _PPO["minibatches"]  # steps of a round
WHOLE = {
    "tuning": instruct_demo.STEPS["sft"],
    "judging": instruct_demo.STEPS["reward"],
    "rounds": instruct_demo.STEPS["ppo"] // ROUND,
}


def _config(stage, seed, steps, data, base=None):
    config = instruct_demo.get_config(stage)
    config.update(seed=seed, steps=steps)
    config.data.train = str(data)
    config.optim.warmup = max(1, steps // 20)
    config.log.every = max(1, steps // 10)
    if base:
        config.init.checkpoint = str(base)
    return config


def tuned(data, seed: int, steps: int):
    """Fine-tuning on reviews that follow their requests more or less."""
    return complete(_config("sft", seed, steps, data))


def reward(data, base, seed: int, steps: int):
    """A reward model from rankings, on the fine-tuned weights."""
    config = _config("reward", seed, steps, data, base)
    config.eval.every = max(1, steps // 6)
    return complete(config)


def ppo(data, base, judge, seed: int, rounds: int, beta: float):
    """PPO from the fine-tuned policy against the reward model's best checkpoint, or a function."""
    config = _config("ppo", seed, ROUND * rounds, data, base)
    config.kl.beta = beta
    config.reward.update(kind="model" if judge else "exact", checkpoint=str(judge or ""))
    return complete(config)
