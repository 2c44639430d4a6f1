"""Prompts for a policy to answer: a table with a prompt in each row, and perhaps what is asked for.

`config.data.train` (and `valid`, or `valid_share`) is a table (`train.data.tables`) with the columns
`prompt` and, for rewards that compare with it, `target`; other names are `data.prompt`, `data.target`
("" where there are no targets). A reward that asks for a target that is not there says where it is
missing (`train.core.rewards`); another reward runs without. `config.reward.demonstrations` may name a
column of people's answers, by which a reward is shifted (`train.core.demonstrations`).
"""

import dataclasses
import itertools
import json

import numpy as np

from models.prompts import left_pad
from train.data import instructions, labelled
from train.data.opening import get
from train.data.tables import Table


class Missing(str):
    """A target that there is not, which is "" but knows `why`."""

    def __new__(cls, why: str):
        made = super().__new__(cls, "")
        made.why = why
        return made


@dataclasses.dataclass
class Prompt:
    """`text` is what the row holds: text, or a list of messages; `target` and `demonstration` are
    `Missing` where there is none."""

    text: str | list
    target: str = ""
    demonstration: str = ""
    where: str = dataclasses.field(default="a prompt", compare=False)

    @property
    def words(self) -> str:
        return self.text if isinstance(self.text, str) else json.dumps(self.text, sort_keys=True)


def read(table: Table, config) -> list:
    """The prompts of a table; ValueError names an empty one, one that stands there twice, or a column
    of targets that was named (other than `target`) and is not there."""
    name = get(config, "data.prompt", "prompt")
    column = table.column(name, (str, list))
    targets = _targets(table, get(config, "data.target", "target"))
    shown = _demonstrations(table, get(config, "reward.demonstrations", ""))
    found, seen = [], {}
    for number, (text, *others) in enumerate(zip(column, targets, shown, strict=True)):
        prompt = Prompt(text, *others, table.where(number))
        if instructions.blank(text):
            raise ValueError(f"{table.where(number)}: the prompt is empty; expected text")
        if prompt.words in seen:
            raise ValueError(
                f"{table.where(number)} repeats the prompt of {seen[prompt.words]}: "
                f"{prompt.words[:60]!r}; expected each prompt once"
            )
        seen[prompt.words] = table.where(number)
        found.append(prompt)
    return found


def _targets(table: Table, name: str) -> list:
    """The targets of a table's rows, `Missing` where there is none."""
    if name in table.columns or name not in ("", "target"):
        return _filled(table, name, "the answer that the reward compares with")
    columns = ", ".join(map(str, table.columns))
    why = (
        f"{table.source} has no column {name or 'target'!r}, with which the reward compares\n"
        f"columns: {columns}; name one as config.data.target"
    )
    return [Missing(why)] * len(table)


def _demonstrations(table: Table, name: str) -> list:
    """People's answers to a table's prompts, `Missing` where there is none."""
    if name in table.columns:
        return _filled(table, name, "a person's answer to the prompt")
    why = (
        f"{table.source} has no column {name!r}, which config.reward.demonstrations names\n"
        f"columns: {', '.join(map(str, table.columns))}"
    )
    return [Missing(why)] * len(table)


def _filled(table: Table, name: str, wanted: str) -> list:
    """A column's texts, `Missing` where one is blank."""
    return [
        text
        if text.strip()
        else Missing(f"{table.where(number)}: column {name!r} is empty; expected {wanted}")
        for number, text in enumerate(table.column(name))
    ]


def refuse_missing(parts):
    """ValueError where a reward that compares with a target has none for some prompt."""
    for prompt in itertools.chain(*parts.values()):
        if isinstance(prompt.target, Missing):
            raise ValueError(prompt.target.why)


def open_parts(config) -> dict:
    """{"train", "valid"}: prompts; no prompt stands in both."""
    keys = lambda found: [labelled.plain(prompt.words) or prompt.words for prompt in found]
    parts = instructions.open_parts(config, read, keys)
    both = {p.words for p in parts["train"]} & {p.words for p in parts.get("valid", [])}
    if both:
        raise ValueError(
            f"config.data.valid holds a prompt of the training part: {min(both)[:60]!r}"
        )
    return parts


def encode(found, dialogue, room: int) -> list:
    """The ids of each prompt; ValueError where one is longer than `room`, or names one that the
    dialogue refuses."""
    rows = []
    for prompt in found:
        try:
            rows.append(dialogue.prompt(prompt.text))
        except ValueError as error:
            raise ValueError(f"{prompt.where}: {error}") from None
    long = max((len(row) for row in rows), default=0)
    if long > room:
        raise ValueError(
            f"a prompt has {long} tokens; config.length less config.ppo.new leaves room for {room}"
        )
    return rows


def padded(rows, room: int, fill: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, mask) int32 [n,room] of rows padded on the left."""
    return left_pad(rows, fill, room, room)
