"""Numbers and pairs of options that a policy's config may not have: what would be wrong, or do nothing."""

from train.core.sections import positive, within

PPO = {
    "gamma": (0, 1), "lam": (0, 1), "clip": (0, 1), "clip_high": (0, None), "dual": (0, None),
    "clip_value": (0, None), "value": (0, None),
}  # fmt: skip


def refuse(how: dict):
    """ValueError names what of {"ppo", "kl", "reward", "mix"} is out of range or would do nothing."""
    ppo, kl, reward, mix = (how[name] for name in ("ppo", "kl", "reward", "mix"))
    within("ppo", ppo, PPO)
    within("kl", kl, {"beta": (0, None)})
    within("mix", mix, {"weight": (0, None)})
    positive("kl", kl, ("alarm",))
    if 0 < ppo["dual"] <= 1:
        raise ValueError(f"config.ppo.dual is {ppo['dual']}; expected 0 (none) or more than 1")
    if kl["controller"] == "adaptive":
        positive("kl", kl, ("target", "horizon", "beta"))
    best, grouped = ppo["method"] == "best", ppo["method"] != "ppo"
    idle = {
        "kl.controller='adaptive' moves the KL's weight in the reward; kl.place='loss' has a fixed one": (
            kl["controller"] == "adaptive" and kl["place"] == "loss"
        ),
        "kl.beta: ppo.method='best' takes the answer with the best reward; use kl.beta=0 or kl.place='loss'": (
            best and kl["beta"] > 0 and kl["place"] == "reward"
        ),
        "ppo.surrogate='cispo' weights by ratios; ppo.method='best' has none": (
            best and ppo["surrogate"] == "cispo"
        ),
        "reward.whiten is PPO's; group methods compare a prompt's answers": (
            grouped and reward["whiten"]
        ),
        "reward.normalise and config.reward.demonstrations both set the reward's zero; use one": (
            bool(reward["normalise"] and reward["demonstrations"])
        ),
        "mix.source has no part in the loss while mix.weight is 0": (
            bool(mix["source"]) and not mix["weight"]
        ),
    }  # fmt: skip
    for words, holds in idle.items():
        if holds:
            raise ValueError(f"config.{words}")
