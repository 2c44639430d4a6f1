"""Where the reward of an answer goes, what becomes of answers that do not end, and plain rewards.

A reward function is `f(prompt, answer, target) -> float or None`; None is "cannot say", which the
group methods leave out (`train.core.advantages.group`) and PPO refuses. The plain ones here compare
with a target, and raise a ValueError where there is none, since "" would reward saying nothing.
"""

import re
from collections import Counter
from decimal import Decimal

import jax.numpy as jnp
import numpy as np

from train.core.errors import nearest

ENDINGS = ("none", "replace", "subtract")
# Groups of three digits may be set off by commas; a minus behind a letter or a digit is none, and a point
# behind one begins no number.
_NUMBER = re.compile(
    r"(?:(?<![\w)])[-\u2212])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])\.\d+)"
)
UNSURE = "\na reward that cannot say is for group methods"


def missing_eos(scores, ended, rule: str = "replace", amount: float = 1.0):
    """Scores [B] of answers of which `ended` [B] says whether they reached the end of text.

    "replace": an answer without its end scores -amount, whatever it says (Ziegler et al. 2019);
    "subtract": amount is taken off (TRL); "none" leaves it. NaN, a score that there is not, stays.
    """
    if rule not in ENDINGS:
        raise ValueError(f"config.reward.missing_eos is {rule!r}; {nearest(rule, ENDINGS)}")
    if rule == "none":
        return scores
    cut = jnp.where(jnp.isnan(scores), scores, -amount) if rule == "replace" else scores - amount
    return jnp.where(ended, scores, cut)


def last(mask):
    """The slot of the last real token of each row: mask [B,T] -> [B]; 0 for a row without any."""
    slots = jnp.arange(mask.shape[1])
    return jnp.max(jnp.where(jnp.asarray(mask, bool), slots, 0), 1)


def place(kl, scores, mask, beta, after: bool = False):
    """Rewards [B,T]: -beta kl at every real token, and the score once, at the last of them.

    With `after` the score stands in the slot behind it where there is one (TRL's PPO and
    summarize_from_feedback, whose value mask is longer by that slot). Without discount the two give
    equal returns. Scores may be whole numbers; rewards never are.
    """
    kl = jnp.asarray(kl)
    kl = kl.astype(jnp.promote_types(kl.dtype, jnp.float32))
    at = last(mask)
    if after:
        at = jnp.minimum(at + 1, mask.shape[1] - 1)
    here = jnp.arange(mask.shape[1]) == at[:, None]
    return -beta * kl * mask + here * jnp.asarray(scores, kl.dtype)[:, None]


def finite(scores, where: str = "the reward", hint: str = UNSURE) -> np.ndarray:
    """Scores [B] as float32; ValueError counts those that are None or not finite."""
    found = np.asarray([np.nan if s is None else s for s in np.asarray(scores, object)], np.float32)
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        raise ValueError(
            f"{where} of {len(bad)} answers of {len(found)} is {found[bad[0]]} (the first is answer "
            f"{bad[0]}); expected a finite number{hint}"
        )
    return found


def plain(found) -> np.ndarray:
    """What a reward function said, as float32: None is NaN; ValueError for what is no number.

    A text is none, whatever it spells.
    """
    found = list(found)
    texts = [x for x in found if isinstance(x, (str, bytes))]
    if texts:
        raise ValueError(f"a reward function gave no number: {texts[0]!r:.60}")
    try:
        made = np.asarray([np.nan if x is None else x for x in found], np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a reward function gave no number: {error}") from None
    if made.ndim != 1 or np.isinf(made).any():
        raise ValueError(
            f"a reward function gave {'infinity' if made.ndim == 1 else 'more than one number'}; "
            "expected a finite number, or None where it cannot say"
        )
    return made


def _wanted(target: str) -> str:
    """The target; ValueError where it is empty, by what it knows of that (`train.data.prompts`)."""
    if not target.strip():
        raise ValueError(
            getattr(target, "why", "the target is empty; expected what the reward compares with")
        )
    return target


def exact(prompt: str, answer: str, target: str) -> float:
    """1 where the answer is the target but for blanks around it."""
    return float(answer.strip() == _wanted(target).strip())


def last_number(prompt: str, answer: str, target: str) -> float:
    """1 where the last number in the answer equals the target's: 1,000 is a thousand, the last of
    "1,2" is 2, that of "10-3" is 3 and ".5" a half. Numbers are compared by all of their digits."""
    found = [_NUMBER.findall(text) for text in (answer, _wanted(target))]
    plain = lambda number: Decimal(number.replace(",", "").replace("\u2212", "-"))
    said = [plain(numbers[-1]) for numbers in found if numbers]
    return float(len(said) == 2 and said[0] == said[1])


def short(prompt: str, answer: str, target: str) -> float:
    """Minus the answer's characters beyond the target's, as a share of them: at most 0."""
    return -max(0, len(answer) - len(_wanted(target))) / len(target)


def letters(prompt: str, answer: str, target: str) -> float:
    """F1 of the answer's characters and the target's, counted, in any order: 1 for an anagram."""
    shared = (Counter(answer) & Counter(_wanted(target))).total()
    return 2 * shared / (len(answer) + len(target))


PLAIN = {"exact": exact, "last_number": last_number, "short": short, "letters": letters}


def affine(raw, mean: float = 0.0, std: float = 1.0) -> tuple[float, float]:
    """(gain, bias) that take scores of the fixed reference's answers to a mean and deviation.

    gain = std / old deviation, bias = mean - gain old mean (Ziegler et al. 2019, section 2.1). Scores
    that are all equal, but for float32's rounding, keep their scale.
    """
    raw = np.asarray(raw, np.float64)
    raw = raw[np.isfinite(raw)]
    if not len(raw):
        raise ValueError("no answer of the reference has a score to normalise by")
    gain = std / raw.std() if np.ptp(raw) > 1e-5 * np.abs(raw).max() else 1.0
    return float(gain), float(mean - gain * raw.mean())
