"""How a rename table is read: from left to right to export, from right to left to import.

A row is (our path, their name, pattern, condition). `{i}` counts layers, `{g}` and `{j}` the groups of
shared layers and the blocks inside, `{s}`, `{m}` and `{t}` stages (`names_vision`). A pattern
describes their axes and ours, as in "(H K) D -> D H K": theirs is split into its letters, then
transposed; 1 is an axis that only theirs has. Several of our paths in one row are the axis `n` of
theirs (GPT-2 stores q, k and v in one matrix); `{e}` in their name is the axis `E` of ours (Mixtral
stores its experts apart). Both directions, and the shapes that a file must have,
follow from the row, so that import and export cannot disagree.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping

import numpy as np

from models import pictures, sides
from models.options import Options


def _always(o: Options) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class Row:
    ours: str  # one path, or several separated by spaces: the axis n
    theirs: str
    pattern: str
    when: Callable[[Options], bool] = _always


def norms(ours: str, theirs: str, bias: bool = True, letter: str = "D", when=_always) -> tuple:
    """The rows of a norm's scale and, unless it is of the RMS form, bias."""
    axes = f"{letter} -> {letter}"
    scale = Row(f"{ours}/scale", f"{theirs}.weight", axes, when)
    return (scale, Row(f"{ours}/bias", f"{theirs}.bias", axes, when)) if bias else (scale,)


@dataclasses.dataclass(frozen=True)
class Table:
    """`prefix` is the name of their body module; bare checkpoints lack it."""

    rows: tuple
    prefix: str
    ignore: str  # a regex: buffers that old files carry and that hold nothing learned
    embedding: str  # their token table, which the language head may be tied to
    head: str = "lm_head.weight"  # their language head where it is not tied
    bias: str = ""  # the bias of that head, where files may hold it twice,
    twin: str = ""  # and its other name
    copies: tuple = ()  # other names under which a file may hold the token table once more
    bare: tuple = ("none", "embed")  # heads whose files have no prefix
    walk: Callable | None = (
        None  # (options, prefix) -> lines, where rows cannot say which there are
    )

    def before(self, o: Options) -> str:
        """The prefix in the files of a model with these options."""
        return "" if o.head in self.bare else self.prefix


def letters(o: Options) -> dict:
    """The size of every letter that a pattern may use, but n."""
    found = dict(
        D=o.width, H=o.heads, G=o.groups, K=o.size, F=o.hidden, V=o.vocab, E=o.experts,
        P=o.context + o.position_offset, C=o.outputs, U=o.thin, S=o.token_types, M=o.pool_width or o.width,
        R=o.buckets, Z=o.frames, T=3,
    )  # fmt: skip
    return found | pictures.letters(o)


def _axes(pattern: str):
    """Their axes as a list of lists of letters, and ours as a list of letters."""
    left, right = pattern.split(" -> ")
    theirs = [token.strip("()").split() for token in re.findall(r"\([^)]*\)|\w+", left)]
    return theirs, right.split()


@dataclasses.dataclass(frozen=True)
class Line:
    """A row for one layer: the names spelled out, the pattern with its sizes.

    A counter is an integer, int64 in a file and 0 where an older one lacks it.
    """

    ours: tuple
    theirs: tuple
    pattern: str
    sizes: tuple
    apart: bool = False  # their names are the first axis of the pattern
    collection: str = "params"  # of the model's variables
    counter: bool = False

    @property
    def shape(self) -> tuple:
        """The shape of each of their tensors."""
        sizes = dict(self.sizes)
        axes = [math.prod(sizes[letter] for letter in axis) for axis in _axes(self.pattern)[0]]
        return tuple(axes[1:] if self.apart else axes)

    @property
    def matrix(self) -> tuple:
        """(in, out) of a kernel that is one matrix of theirs, whichever way round they keep it."""
        theirs, ours = _axes(self.pattern)
        turned = ours[-len(theirs[-1]) :] != theirs[-1]
        return self.shape[::-1] if turned else self.shape

    def load(self, arrays: list) -> list:
        """Their tensors, in the order of `theirs`, to ours, float32, in the order of `ours`."""
        if self.counter:
            return [np.asarray(array, np.int32) for array in arrays]
        theirs, ours = _axes(self.pattern)
        flat = [letter for axis in theirs for letter in axis if letter != "1"]
        arrays = [np.asarray(array, np.float32) for array in arrays]
        whole = np.stack(arrays) if self.apart else arrays[0]
        whole = whole.reshape([dict(self.sizes)[letter] for letter in flat])
        whole = whole.transpose([flat.index(letter) for letter in ours])
        parts = list(whole) if ours[0] == "n" else [whole]
        return [np.ascontiguousarray(part) for part in parts]

    def save(self, arrays: list) -> list:
        """Our tensors to theirs: `load` backwards."""
        if self.counter:
            return [np.asarray(array, np.int64) for array in arrays]
        theirs, ours = _axes(self.pattern)
        flat = [letter for axis in theirs for letter in axis if letter != "1"]
        arrays = [np.asarray(array, np.float32) for array in arrays]
        whole = np.stack(arrays) if ours[0] == "n" else arrays[0]
        whole = whole.transpose([ours.index(letter) for letter in flat])
        if self.apart:
            return [np.ascontiguousarray(part.reshape(self.shape)) for part in whole]
        return [np.ascontiguousarray(whole.reshape(self.shape))]


def lines(table: Table, o: Options, prefix: str | None = None) -> list:
    """Every line of the table that a model with these options has; `@` becomes the prefix."""
    prefix, whole, found = table.prefix if prefix is None else prefix, o, []
    if table.walk is not None:
        return table.walk(o, prefix)
    for row in table.rows:
        row, o = _side(row, whole)
        if row is None or not row.when(whole):
            continue
        for part, numbers in _places(row, o):
            name = _filled(row.theirs.replace("@", prefix), numbers)
            apart = "{e}" in name
            theirs = tuple(name.replace("{e}", str(e)) for e in range(o.experts if apart else 1))
            ours = tuple(_filled(row.ours, numbers).split())
            sizes = tuple({**letters(part), "n": len(ours), "1": 1}.items())
            found.append(Line(ours, theirs, row.pattern, sizes, apart))
    return found


def _places(row: Row, o: Options):
    """(options, {letter in braces: number}) for every place of a row: its stages and layers."""
    stages = [(o, {})]
    if "{s}" in row.ours:
        stages = [(pictures.stage(o, s), {"s": s}) for s in range(len(o.depths))]
    elif "{m}" in row.ours:
        stages = [(pictures.stage(o, m), {"m": m, "t": m + 1}) for m in range(len(o.depths) - 1)]
    for part, numbers in stages:
        for i in range(len(set(part.order()))) if "{i}" in row.ours else (0,):
            group, inner = divmod(i, part.share_inner)
            yield part, {**numbers, "i": i, "g": group, "j": inner}


def _filled(text: str, numbers: Mapping) -> str:
    for letter, number in numbers.items():
        text = text.replace("{" + letter + "}", str(number))
    return text


def _side(row: Row, o: Options) -> tuple:
    """(row, options) where a table is for two stacks: rows of the encoder have the encoder's sizes.

    An encoder alone has those rows without `encoder/` and none of the decoder's: (None, o).
    """
    if row.ours.startswith("encoder/") and o.kind == "encdec":
        return row, sides.encoder(o)
    if row.ours.startswith("encoder/"):
        return dataclasses.replace(row, ours=row.ours.replace("encoder/", "")), o
    return (None if row.ours.startswith("decoder/") and o.kind != "encdec" else row), o


def nest(flat: Mapping) -> dict:
    """{'a/b': x} to {'a': {'b': x}}."""
    tree = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def flatten(tree: Mapping, above: str = "") -> dict:
    """{'a': {'b': x}} to {'a/b': x}."""
    flat = {}
    for name, value in tree.items():
        path = f"{above}/{name}" if above else str(name)
        flat.update(flatten(value, path) if isinstance(value, Mapping) else {path: value})
    return flat
