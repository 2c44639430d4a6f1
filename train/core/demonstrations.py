"""People's answers to the prompts, by which a reward is shifted: on average they score 0.

Comparisons say nothing of a reward model's constant. Stiennon et al. 2020 and Ouyang et al. 2022
(section 3.5) fix it so before they train a policy, and keep the scale. `config.reward.demonstrations`
names the column of the prompts' table; a prompt without an answer there has no part in it.
"""

import numpy as np

from train.data import prompts


def encode(found, rows, dialogue, ends, new: int) -> list:
    """[(the prompt's number, the answer's ids with its end)] of demonstrations up to `new` tokens.

    found, rows: the prompts and their ids; ends: the tokens that end an answer. Says how many are
    longer than a policy may write, and so left out. ValueError where none is left.
    """
    made, long = [], 0
    for number, (prompt, row) in enumerate(zip(found, rows, strict=True)):
        if not prompt.demonstration:
            continue
        tokens, _ = dialogue.answered(prompt.text, prompt.demonstration)
        if not np.array_equal(tokens[: len(row)], row):
            raise ValueError(
                f"{prompt.where}: the chat template spells the prompt otherwise before its demonstration"
            )
        ids = tokens[len(row) :]
        ids = ids[: int(np.isin(ids, ends).argmax()) + 1]
        made.append((number, ids))
        long += len(ids) > new
    if not made:
        raise ValueError(getattr(found[0].demonstration, "why", "no prompt has a demonstration"))
    if long == len(made):
        raise ValueError(
            f"each of {long} demonstrations (config.reward.demonstrations) has more than "
            f"config.ppo.new={new} tokens; use a larger config.ppo.new"
        )
    if long:
        print(
            f"{long:,} of {len(made):,} demonstrations have more than config.ppo.new={new} tokens and "
            "are left out",
            flush=True,
        )
    return [one for one in made if len(one[1]) <= new]


def mean(setting, params) -> float:
    """The mean score of the demonstrations, as `setting` scores what a policy writes (`train.core.rounds`)."""
    own, scores = setting, []
    for start in range(0, len(own.demonstrations), own.size):
        part = own.demonstrations[start : start + own.size]
        whole = [*part, *part[:1] * (own.size - len(part))]  # rows of one shape
        made, asked = _rows(own, whole)
        scores.append(own.scorer(made, asked, params)[: len(part)])
    return float(np.nanmean(np.concatenate(scores), dtype=np.float64))


def _rows(setting, part) -> tuple[dict, list]:
    """(demonstrations as a writer's rows, their prompts)."""
    new, fill = setting.writer.new, setting.writer.settings.fill
    numbers = [number for number, _ in part]
    tokens, mask = prompts.padded([setting.prompts[n] for n in numbers], setting.room, fill)
    answers = np.full((len(part), new), fill, np.int32)
    for row, (_, ids) in enumerate(part):
        answers[row, : len(ids)] = ids
    lengths = np.asarray([len(ids) for _, ids in part])
    made = {
        "tokens": np.concatenate([tokens, answers], 1),
        "mask": np.concatenate([mask, np.arange(new) < lengths[:, None]], 1).astype(np.int32),
        "lengths": lengths,
        "ended": np.ones(len(part), bool),
    }
    return made, [setting.asked[n] for n in numbers]
