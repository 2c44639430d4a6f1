"""Answers that were judged one by one, for KTO: good or bad, without another answer beside them.

`config.data.train` (and `valid`, or `valid_share`) is a table (`train.data.tables`) of

    prompt, completion, label         label: true or 1 for a good answer, false or 0 for a bad one

or of comparisons (`train.data.preferences`), whose answers are good or bad by their pairs.
"""

import dataclasses

from train.data import embedded_sets, instructions, preferences
from train.data.opening import get
from train.data.tables import Table

LABELS = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}


@dataclasses.dataclass
class Judgement:
    """An answer to a prompt, as the one of `answers`, and whether it is good."""

    prompt: str | list
    answers: list
    good: bool
    ended: tuple = ()


def open_parts(config) -> dict:
    """{"train", "valid"}: judgements, or comparisons where the table holds those."""
    if get(config, "data.train", "") in embedded_sets.VADER:
        return preferences.open_parts(config)[0]
    return instructions.open_parts(config, read, preferences.keys)


def read(table: Table, config) -> list:
    """The judgements of a table, or its comparisons where it has no labels.

    ValueError names a row with an empty prompt or answer, with another label than good or bad, or with
    an answer to a prompt that was judged before.
    """
    name = lambda field: get(config, f"data.{field}", field)
    if name("label") not in table.columns:
        return preferences.read(table, config)
    columns = [table.column(name("prompt"), (str, list)), table.column(name("completion"))]
    labels, seen, found = table.column(name("label"), (bool, int, str)), {}, []
    for number, (prompt, answer, label) in enumerate(zip(*columns, labels, strict=True)):
        where = table.where(number)
        if instructions.blank(prompt) or not answer.strip():
            what = "prompt" if instructions.blank(prompt) else "answer"
            raise ValueError(f"{where}: the {what} is empty; expected text")
        said = LABELS.get(label.strip().lower() if isinstance(label, str) else label)
        if said is None:
            raise ValueError(f"{where}: the label is {label!r}; expected true or false, 1 or 0")
        key = repr(prompt), answer
        if key in seen:
            word = "repeats" if found[seen[key]].good == said else "contradicts"
            raise ValueError(
                f"{where} {word} {table.where(seen[key])} about the same answer to the same prompt\n"
                "expected each answer once"
            )
        seen[key] = number
        found.append(Judgement(prompt, [answer], said))
    return found


def judged(row, item) -> list:
    """[(row of ids, whether it is good)] of what one item says of its answers' rows.

    Of a comparison, answers that are chosen in most of their pairs are good and those rejected in most
    are bad; one in the middle of a ranking is neither and is left out.
    """
    if isinstance(item, Judgement):
        return [(row[0], item.good)]
    ahead = (item.better.sum(1) - item.better.sum(0)).tolist()
    return [(row[i], net > 0) for i, net in enumerate(ahead) if net]
