"""The labels of a table: which there are, in which order, and which number each row's has."""

import re

from train.core.errors import nearest
from train.data.opening import get

NUMBER = re.compile(r"-?\d{1,18}")


def given(config) -> tuple:
    """`config.data.labels`; ValueError for one that is there twice."""
    labels = tuple(get(config, "data.labels", ()))
    names = [str(label) for label in labels]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"config.data.labels={labels} has {twice!r} twice; expected each label once"
        )
    return labels


def ordered(labels) -> tuple:
    """Each label once: numbers by value, also where a file holds them as text, then by their spelling."""
    kinds = set(labels)
    if all(NUMBER.fullmatch(str(label)) for label in kinds):
        return tuple(sorted(kinds, key=lambda x: (int(x), str(x))))
    return tuple(sorted(kinds, key=str))


def check(where: str, column: str, label, what: str = "is"):
    """ValueError for a label that is empty, or has white space around it that would make another one."""
    if isinstance(label, str) and (not label or label != label.strip()):
        raise ValueError(
            f"{where}: column {column!r} {what} {label!r}; expected a label, no white space around it"
        )


def classes(table, found, column: str, labels=()) -> tuple:
    """The labels of a column's values, `labels` or all that occur; ValueError names a row that is wrong.

    1 and "1" are the same label, which a table may spell in one way only.
    """
    spelt = {}
    for number, label in enumerate(found):
        check(table.where(number), column, label)
        first = spelt.setdefault(str(label), label)
        if type(first) is not type(label):
            raise ValueError(
                f"{table.where(number)}: column {column!r} is {label!r}, {first!r} in a row before; "
                "expected one type"
            )
    return tuple(labels) or ordered(found)


def indices(table, found, labels, column: str) -> list:
    """The number of each row's label; ValueError names the first row with another one."""
    known = {str(label): number for number, label in enumerate(labels)}
    return [_number(known, table, row, column, label) for row, label in enumerate(found)]


def _number(known: dict, table, row: int, column: str, label, what: str = "is") -> int:
    if str(label) not in known:
        where, hint = table.where(row), nearest(str(label), known)
        raise ValueError(f"{where}: column {column!r} {what} {label!r}; {hint}")
    return known[str(label)]


def tags(table, rows, labels, column: str) -> tuple[tuple, list]:
    """(labels, the numbers of each row's tags) of lists of str; ValueError names the row that is wrong."""
    for number, row in enumerate(rows):
        for tag in row:
            check(table.where(number), column, tag, "has the tag")
    labels = tuple(map(str, labels)) or ordered(tag for row in rows for tag in row)
    known = {label: number for number, label in enumerate(labels)}
    number = lambda row, tag: _number(known, table, row, column, tag, "has the tag")
    return labels, [[number(row, tag) for tag in tags] for row, tags in enumerate(rows)]
