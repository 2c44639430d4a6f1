"""Prompts for a policy to answer: a table with a prompt in each row, and perhaps what is asked for.

`config.data.train` (and `valid`, or `valid_share`) is a table (`train.data.tables`) with the columns
`prompt` and, for rewards that compare with it, `target`; other names are `data.prompt`, `data.target`.
"""

import dataclasses
import json

import numpy as np

from models.prompts import left_pad
from train.data import instructions, labelled
from train.data.opening import get
from train.data.tables import Table


@dataclasses.dataclass
class Prompt:
    """`text` is what the row holds: text, or a list of messages; `target` "" where there is none."""

    text: str | list
    target: str = ""

    @property
    def words(self) -> str:
        return self.text if isinstance(self.text, str) else json.dumps(self.text, sort_keys=True)


def read(table: Table, config) -> list:
    """The prompts of a table; ValueError names an empty one, or one that stands there twice."""
    name = get(config, "data.prompt", "prompt")
    column = table.column(name, (str, list))
    wanted = get(config, "data.target", "target")
    targets = table.column(wanted) if wanted in table.columns else [""] * len(table)
    found, seen = [], {}
    for number, (text, target) in enumerate(zip(column, targets, strict=True)):
        prompt = Prompt(text, target)
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
    """The ids of each prompt; ValueError where one is longer than `room`."""
    rows = [dialogue.prompt(prompt.text) for prompt in found]
    long = max((len(row) for row in rows), default=0)
    if long > room:
        raise ValueError(
            f"a prompt has {long} tokens; config.length less config.ppo.new leaves room for {room}"
        )
    return rows


def padded(rows, room: int, fill: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, mask) int32 [n,room] of rows padded on the left."""
    return left_pad(rows, fill, room, room)
