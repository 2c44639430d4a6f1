"""Labels of pictures as numbers: what a source writes is checked, named and counted.

A class is a whole number from 0 up or a name; the training part says which classes there are, and a
held-out part has no others. All checks raise ValueError naming the source and the picture.
"""

import dataclasses

import numpy as np

MOST = 100_000  # classes; a label above is a number of something else
_MANY = "use --config.data.task=multilabel"


def numbered(source: str, targets, many: bool, labels=()) -> tuple:
    """(int32 [N], or float32 [N,C] where `many`; names of the classes) of an array of labels.

    labels: the classes of the training part, where this is another one.
    """
    targets = np.asarray(targets)
    if targets.dtype.kind not in "buif":
        raise ValueError(f"{source} has labels of type {targets.dtype}; expected whole numbers")
    if many:
        return _rows(source, targets, labels)
    targets = targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets
    if targets.ndim != 1:
        raise ValueError(
            f"{source} has labels {list(targets.shape)}, many to a picture; expected [N], or {_MANY}"
        )
    count = len(labels) or MOST
    good = (targets >= 0) & (targets < count) & (targets == np.floor(targets))
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        of = "as in the training part" if labels else "the classes' numbers"
        raise ValueError(
            f"{source}, picture {first}: the label is {targets[first]}; expected whole numbers "
            f"from 0 to {count - 1:,}, {of}"
        )
    targets = targets.astype(np.int32)
    return targets, labels or tuple(str(i) for i in range(int(targets.max()) + 1))


def _rows(source, targets, labels) -> tuple:
    if targets.ndim != 2:
        raise single(source)
    strange = ~np.isin(targets, (0, 1))
    if strange.any():
        row = np.argwhere(strange)[0]
        raise ValueError(
            f"{source}, picture {row[0]}: the labels hold {targets[tuple(row)]}; expected 0 or 1 "
            "for each class"
        )
    labels = labels or tuple(str(i) for i in range(targets.shape[1]))
    if targets.shape[1] != len(labels):
        raise ValueError(
            f"{source} has labels of {targets.shape[1]} classes; the training part has {len(labels)}"
        )
    return targets.astype(np.float32), labels


def single(source) -> ValueError:
    """What to say where many labels are asked of a source that has one for each picture."""
    return ValueError(
        f"{source} has one label for each picture; config.data.task=multilabel needs [N,C] of 0 and 1, "
        "or a column of lists"
    )


def listed(values, many: bool, place) -> list:
    """[[label, ...], ...] of a column: labels, lists of labels, or nothing; `place(n)` names row n."""
    rows = []
    for number, value in enumerate(values):
        row = list(value) if isinstance(value, (list, tuple)) else [value]
        row = [_one(label, place, number) for label in row if label is not None]
        if len(row) > 1 and not many:
            raise ValueError(f"{place(number)} has a list of {len(row)} labels; {_MANY}")
        if not row and not many:
            raise ValueError(f"{place(number)} has no label; leave it out, or {_MANY}")
        rows.append(row)
    return rows


def _one(label, place, number):
    if isinstance(label, (bool, int, np.integer)):
        return int(label)
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if not isinstance(label, str):
        raise ValueError(
            f"{place(number)} has the label {str(label)[:40]} ({type(label).__name__}); expected a "
            "whole number or a name"
        )
    return label


def classes(rows, place) -> tuple:
    """The classes of a training part: 0 to the largest number, or all names in order."""
    first = {}
    for number, row in enumerate(rows):
        for label in row:
            first.setdefault(label, number)
    numbers = [label for label in first if isinstance(label, int)]
    if not first:
        raise ValueError(f"no picture has a label, up to {place(len(rows) - 1)}")
    if not numbers:
        return tuple(sorted(first))
    if len(numbers) < len(first):
        name = next(label for label in first if not isinstance(label, int))
        raise ValueError(
            f"{place(first[numbers[0]])} has a number as its label, {place(first[name])} the name "
            f"{name[:40]!r}; expected one kind"
        )
    wrong = next((label for label in numbers if not 0 <= label < MOST), None)
    if wrong is not None:
        raise ValueError(
            f"{place(first[wrong])} has the label {wrong}; expected a class's number from 0 to "
            f"{MOST - 1:,}"
        )
    return tuple(range(max(numbers) + 1))


def indexed(rows, labels, numbers: bool, many: bool, place) -> np.ndarray:
    """int32 [N], or float32 [N,C] where `many`; `numbers`: a class's number is also its name."""
    index = {name: n for n, name in enumerate(labels)}
    index |= {n: n for n in range(len(labels))} if numbers else {}
    for number, row in enumerate(rows):
        strange = next((label for label in row if label not in index), None)
        if strange is not None:
            raise ValueError(f"{place(number)} has the label {strange!r}, which is not in training")
    if not many:
        return np.asarray([index[row[0]] for row in rows], np.int32)
    targets = np.zeros((len(rows), len(labels)), np.float32)
    for number, row in enumerate(rows):
        targets[number, [index[label] for label in row]] = 1
    return targets


def aligned(images, labels: tuple):
    """The pictures with the classes of another part, whose names hold all of theirs."""
    if images.labels == labels:
        return images
    index = {name: n for n, name in enumerate(labels)}
    strange = [name for name in images.labels if name not in index]
    if strange:
        raise ValueError(
            f"{images.source} has other classes than the training part: {strange[0]!r}"
        )
    places = np.asarray([index[name] for name in images.labels])
    if images.targets.ndim == 1:
        targets = places[images.targets].astype(np.int32)
    else:
        targets = np.zeros((len(images), len(labels)), np.float32)
        targets[:, places] = images.targets
    return dataclasses.replace(images, targets=targets, labels=labels)
