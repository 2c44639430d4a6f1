"""Labelled examples out of tables: which columns, which labels, which split.

`config.data` names the columns:

    task      columns                              an example
    classify  text [pair] label                    one of the labels (strings or ints)
    regress   text [pair] label                    a number
    tokens    words tags                           a tag for every word (lists, or blanks between)
    choice    text choices label                   the index of the right choice
    spans     question context answers             {"text": [...], "answer_start": [...]}; empty: none
    embed     text pair [negative]                 a query and the passage that answers it

With `data.rank` (classify with two labels, regress) rows with the same value of that column are the
candidates of one query, and the scores rank them (a cross-encoder): relevant are those of the second
label, or of a number above 0.
"""

import dataclasses

import numpy as np
import xxhash

from train.core import sections
from train.core.errors import nearest
from train.data import labels as known
from train.data.opening import get
from train.data.tables import Table, read

TASKS = ("classify", "regress", "tokens", "choice", "spans", "embed")
HEADS = {  # the head that a task trains
    "classify": ("classify",),
    "regress": ("classify",),
    "tokens": ("tokens",),
    "choice": ("choice",),
    "spans": ("spans",),
    "embed": ("embed",),
}
PARTS = ("train", "valid", "test")
FIELDS = {  # of config.data, with their defaults
    "train": "", "valid": "", "test": "", "valid_share": 0.0, "test_share": 0.0, "group": "", "rank": "",
    "task": "classify", "labels": (), "class_weights": (), "balanced": False, "temperature": 0.05,
    "text": "text", "pair": "", "label": "label", "words": "words", "tags": "tags",
    "choices": "choices", "question": "question", "context": "context", "answers": "answers",
    "negative": "", "truncate": False, "cut": "end", "pool": 0, "stride": 128, "longest": 30,
    "threshold": 0.0,
}  # fmt: skip


@dataclasses.dataclass
class Examples:
    """texts: tuples of str (tokens: of words; choice: (text, choices)); targets: by task; where(i)."""

    task: str
    texts: list
    targets: list
    table: Table
    labels: tuple = ()

    def __len__(self):
        return len(self.texts)

    def where(self, number: int) -> str:
        return self.table.where(number)


def open_parts(config) -> tuple[dict, dict]:
    """({part: table}, counts) of `config.data`: `train`, and `valid`, `test` where they are asked for.

    A part without a source of its own is cut off the training table: `data.valid_share` and
    `data.test_share` of its groups. A group are the rows with the same value of `data.group` or
    `data.rank`, or, if both are empty, with the same text but for case and what is neither letter nor digit; so that no
    text stands on both sides. Counts: rows of each part, and `repeated`, rows of the training
    sources that repeat an earlier one's text.
    """
    source = get(config, "data.train", "")
    table = read(source)
    parts, shares = {}, {}
    for part in PARTS[1:]:
        share, named = (
            float(get(config, f"data.{part}_share", 0.0)),
            get(config, f"data.{part}", ""),
        )
        if named and share:
            raise ValueError(f"config.data has both {part} and {part}_share; give one of them")
        if named:
            parts[part] = read(named)
        elif share:
            shares[part] = share
    if not sum(shares.values()) < 1 and min(shares.values()) >= 0:
        raise ValueError(f"config.data: {shares} leave nothing to train on")
    keys = groups(table, config)
    cut = split(keys, shares)
    made = {"train": table.take(cut["train"])}
    for part in PARTS[1:]:
        if part in parts or part in shares:
            made[part] = parts[part] if part in parts else table.take(cut[part])
    counts = {part: len(rows) for part, rows in made.items()}
    return made, {**counts, "repeated": len(keys) - len(set(keys))}


def groups(table: Table, config) -> list:
    """A key for each row; rows with equal keys stay on one side of a split."""
    column = get(config, "data.group", "") or get(config, "data.rank", "")
    if column:
        return [f"{value}" for value in table.column(column, (str, int))]
    task = get(config, "data.task", "classify")
    names = {"tokens": ["words"], "spans": ["context"]}.get(task, ["text"])
    if task in ("classify", "regress", "choice") and get(config, "data.pair", ""):
        names.append("pair")
    columns = [table.column(_name(config, name), (str, list)) for name in names]
    return [" | ".join(plain(value) for value in row) for row in zip(*columns, strict=True)]


def plain(text) -> str:
    """A text's letters and digits in lower case, one blank between words."""
    text = text if isinstance(text, str) else " ".join(map(str, text))
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())


def split(keys, shares: dict) -> dict:
    """{part: row numbers, rising}: whole groups, in the order of a hash of the key, until full."""
    for part, share in shares.items():
        sections.share(f"data.{part}_share", share)
    count = len(keys)
    order = {key: xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass")) for key in keys}
    numbers = sorted(range(count), key=lambda n: (order[keys[n]], keys[n], n))
    cut, at = {}, 0
    for part in PARTS[:0:-1]:
        wanted = round(shares.get(part, 0.0) * count)
        stop = min(at + wanted, count)
        while wanted and at < stop < count and keys[numbers[stop]] == keys[numbers[stop - 1]]:
            stop += 1
        cut[part], at = sorted(numbers[at:stop]), stop
        if shares.get(part) and not cut[part]:
            raise ValueError(f"config.data.{part}_share={shares[part]} of {count} rows is no row")
    cut["train"] = sorted(numbers[at:])
    if not cut["train"]:
        raise ValueError(f"config.data: the shares {shares} of {count} rows leave none to train on")
    return cut


def _name(config, field: str) -> str:
    return get(config, f"data.{field}", FIELDS[field])


def examples(table: Table, config, labels=()) -> Examples:
    """The examples of a table; ValueError names the row and column of what is wrong.

    labels: those of the training examples, or () to take `config.data.labels`, or else all that
    occur, sorted (numbers by value).
    """
    task = get(config, "data.task", "classify")
    if task not in TASKS:
        raise ValueError(f"config.data.task is {task!r}; {nearest(task, TASKS)}")
    labels = tuple(labels) or known.given(config)
    column = lambda field, *kinds: table.column(_name(config, field), kinds or (str,))
    if task == "tokens":
        return _tagged(table, config, labels)
    if task == "spans":
        texts = list(zip(column("question"), column("context"), strict=True))
        return _answered(table, texts, column("answers", dict), _name(config, "answers"))
    texts = [(text,) for text in column("text")]
    if task == "choice":
        choices = column("choices", list)
        texts = [(text, tuple(row)) for (text,), row in zip(texts, choices, strict=True)]
        return _chosen(table, texts, column("label", int), _name(config, "choices"))
    if task == "embed" or _name(config, "pair"):
        if not _name(config, "pair"):
            raise ValueError("config.data.pair names no column; embed needs the passages' one")
        texts = [(*text, pair) for text, pair in zip(texts, column("pair"), strict=True)]
    if task == "embed":
        if _name(config, "negative"):
            texts = [(*t, n) for t, n in zip(texts, column("negative"), strict=True)]
        return Examples(task, texts, [0] * len(texts), table)
    if task == "regress":
        return Examples(task, texts, _numbers(table, _name(config, "label")), table)
    found, where = column("label", str, int, bool), _name(config, "label")
    labels = known.classes(table, found, where, labels)
    return Examples(task, texts, known.indices(table, found, labels, where), table, labels)


def ranking(made: Examples, config) -> dict:
    """{groups, relevant} of `data.rank`: each row's query, and whether it answers that; {} without it."""
    column = get(config, "data.rank", "")
    if not column:
        return {}
    if made.task not in ("classify", "regress") or len(made.labels) not in (0, 2):
        raise ValueError(
            f"config.data.rank={column!r} ranks by two labels (task classify) or a number (regress); "
            f"the task is {made.task} with {len(made.labels)} labels"
        )
    relevant = [target > 0 for target in made.targets]
    if not any(relevant):
        raise ValueError(f"{made.table.where(0)} and on: no row is relevant, so nothing is ranked")
    return {"groups": made.table.column(column, (str, int)), "relevant": relevant}


def _numbers(table, column) -> list:
    values = []
    for number, value in enumerate(table.column(column, (str, int, float))):
        try:
            values.append(float(value))
        except ValueError:
            values.append(np.nan)
        if not np.isfinite(values[-1]):
            where = table.where(number)
            raise ValueError(f"{where}: column {column!r} is {value!r}; expected a number")
    return values


def _tagged(table, config, labels) -> Examples:
    columns, rows = (_name(config, "words"), _name(config, "tags")), []
    for name, kinds in zip(columns, ((str, int, float), (str, int)), strict=True):
        values = table.column(name, (str, list))
        for number, value in enumerate(values):
            wrong = [x for x in value if type(x) not in kinds] if isinstance(value, list) else []
            if wrong:
                expected = " or ".join(kind.__name__ for kind in kinds)
                raise ValueError(
                    f"{table.where(number)}: column {name!r} has {wrong[0]!r:.60} in its list; "
                    f"expected {expected}"
                )
        rows.append([v.split() if isinstance(v, str) else [str(x) for x in v] for v in values])
    for number, (words, tags) in enumerate(zip(*rows, strict=True)):
        if len(words) != len(tags):
            raise ValueError(
                f"{table.where(number)}: {len(words)} words in column {columns[0]!r} and {len(tags)} "
                f"tags in {columns[1]!r}"
            )
    labels, targets = known.tags(table, rows[1], labels, columns[1])
    return Examples("tokens", [tuple(words) for words in rows[0]], targets, table, labels)


def _chosen(table, texts, targets, column) -> Examples:
    for number, ((_, choices), target) in enumerate(zip(texts, targets, strict=True)):
        where = table.where(number)
        if len(choices) != len(texts[0][1]) or not all(isinstance(c, str) for c in choices):
            raise ValueError(
                f"{where}: column {column!r} holds {len(choices)} choices; expected "
                f"{len(texts[0][1])} strings, as in the first row"
            )
        if not 0 <= target < len(choices):
            raise ValueError(f"{where}: the right choice is {target}; there are {len(choices)}")
    return Examples("choice", texts, targets, table)


def _answered(table, texts, answers, column) -> Examples:
    """Targets: lists of (start, end) in characters of the context; () where there is no answer."""
    targets = []
    for number, ((_, context), row) in enumerate(zip(texts, answers, strict=True)):
        where = f"{table.where(number)}: column {column!r}"
        strings, starts = row.get("text"), row.get("answer_start")
        if not isinstance(strings, list) or not isinstance(starts, list):
            raise ValueError(
                f"{where} is {str(row)[:60]}; expected text and answer_start, two lists"
            )
        if len(strings) != len(starts):
            raise ValueError(
                f"{where} has {len(strings)} in text and {len(starts)} in answer_start; expected a "
                "start for each"
            )
        targets.append(tuple(_span(where, context, *answer) for answer in zip(strings, starts)))
    return Examples("spans", texts, targets, table)


def _span(where: str, context: str, string, start) -> tuple[int, int]:
    """(start, end) of an answer in its context; ValueError where it does not stand there."""
    if not isinstance(string, str) or not string:
        raise ValueError(f"{where} has the text {string!r:.60}; expected words of the context")
    if type(start) is not int or start < 0:
        raise ValueError(
            f"{where} has the answer_start {start!r:.60}; expected a whole number of at least 0"
        )
    end = start + len(string)
    if context[start:end] != string:
        raise ValueError(
            f"{where}: {string[:40]!r} does not stand at character {start} of the context, but "
            f"{context[start:end][:40]!r}"
        )
    return start, end
